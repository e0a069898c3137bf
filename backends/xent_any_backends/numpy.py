"""NumPy: blocks that stay in cache, on as many threads as there are CPUs, few classes laid out first."""

import math
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from xent_any import Backend, Piece, Task
from xent_any._rows import LIFT, cast, halved


class NumPy(Backend):
    name = "numpy"
    version = np.__version__
    # The fastest of 512 KiB, 1, 2, 4, 8 and 16 MiB for loss and gradient of float32 logits of shape (8192, 1000) and
    # (1024, 32000), on one and on two threads of an x86-64 with AVX-512, 1 MiB of second-level cache for each CPU and
    # 32 MiB of third: in smaller ones, threads wait for the interpreter.
    block_bytes = 1 << 22

    def namespace(self) -> Any:
        return np

    def namespace_of(self, array: Any) -> Any:
        return np

    def dtypes(self, device: Any) -> Sequence[str]:
        return [*super().dtypes(device), "float16"]

    def to_numpy(self, array: Any) -> Any:
        return array

    def share(self, xp: Any, like: Any, dtype: Any, shape: tuple[int, ...], parts: float) -> Any:
        return _share(dtype, shape, parts)

    def all_below(self, xp: Any, a: Any, stop: int) -> bool:
        if a.dtype != np.intp or a.size == 0:
            return super().all_below(xp, a, stop)
        a = a.view(np.uintp)  # what is negative is large
        return bool(a.item(a.argmax()) < stop)

    def load(self, xp: Any, a: Any, dtype: Any) -> Any:
        if a.size >= MANY and a.shape[-1] <= FEW:
            # Over a short last axis NumPy's reductions take fifty times as long as over a long one.
            out = _last_axis_last(MEMORY.empty((a.shape[-1], *a.shape[:-1]), dtype))
            step = max(1, STRIP // (a[0].size * out.itemsize))
            for start in range(0, len(a), step):
                strip = slice(start, start + step)
                np.copyto(out[strip], a[strip], casting="unsafe")
            return out
        if a.dtype == dtype and a.flags.c_contiguous:
            return a
        out = MEMORY.empty(a.shape, dtype)
        np.copyto(out, a, casting="unsafe")
        return out

    def store(self, xp: Any, a: Any, dtype: Any) -> Any:
        if dtype == np.float16:
            # For each number that float16 holds with fewer digits, NumPy raises a flag, which takes 67 ns. Those are
            # multiples of 2**-24 there, as numbers near 0.75 are in float32.
            a = np.where(np.abs(a) < 2.0**-14, (a + 0.75) - 0.75, a)
        return cast(xp, a, dtype)

    def top(self, xp: Any, x: Any) -> tuple[Any, Any]:
        if x.flags.c_contiguous:
            k = x.argmax(axis=-1)
            return k, self.pick(xp, x, k)
        return None, np.max(x, axis=-1)

    def winner(self, xp: Any, x: Any, m: Any) -> Any:
        backwards = np.arange(x.shape[-1], 0, -1, dtype=np.uint8)
        first = np.max(np.equal(x, m[..., None]).view(np.uint8) * backwards, axis=-1)  # 0 where the maximum is NaN
        return (x.shape[-1] - np.maximum(first, 1)).astype(np.intp)

    def pick(self, xp: Any, a: Any, k: Any) -> Any:
        if a.ndim == 1:
            return a[k]
        flat, positions = _places(a, k)
        return flat[positions]

    def put(self, xp: Any, a: Any, k: Any, value: Any, *, owned: bool = False) -> Any:
        a = a if owned else a.copy(order="K")
        flat, positions = _places(a, k)
        flat[positions] = value
        return a

    def lessen(self, xp: Any, a: Any, value: Any, k: Any = None) -> Any:
        if k is None:
            return np.subtract(a, value, out=a)
        flat, positions = _places(a, k)
        flat[positions] -= value
        return a

    def minus(self, xp: Any, x: Any, m: Any) -> Any:
        return np.subtract(x, m[..., None], out=MEMORY.empty_like(x))

    def exp(self, xp: Any, x: Any, m: Any, times: float = 1.0) -> Any:
        e = MEMORY.result_like(x) if times == 1 else MEMORY.empty_like(x)
        if m is None:
            return np.exp(x, out=e)
        e = np.subtract(x, m[..., None], out=e)
        return np.exp(e if times == 1 else np.multiply(e, times, out=e), out=e)

    def others(self, xp: Any, x: Any, k: Any, m: Any, *, keep: bool) -> tuple[Any, Any]:
        step = self.block_bytes // x.itemsize
        if x.shape[-1] > step:
            return self._others_by_blocks(x, k, m, step, keep)
        e = self.exp(xp, x, m)
        if k is None:
            if np.count_nonzero(e == 1) * e.shape[-1] == e.size:  # of each class with the maximum, or that rounds to it
                rest = np.floor(e, out=MEMORY.empty_like(e))
                return e, self.sum(xp, np.subtract(e, rest, out=rest))
            k = self.winner(xp, x, np.zeros(x.shape[:-1], x.dtype) if m is None else m)
        flat, positions = _places(e, k)
        flat[positions] = 0.0
        s = self.sum(xp, e)
        flat[positions] = 1.0
        return e, s

    def roots(self, xp: Any, x: Any, k: Any, m: Any) -> tuple[Any, Any]:
        k, roots = self.winner(xp, x, m) if k is None else k, self.exp(xp, x, m, 0.5)
        lifted = np.multiply(roots, LIFT, out=MEMORY.empty_like(roots))
        lifted = self.put(xp, np.multiply(lifted, lifted, out=lifted), k, 0.0, owned=True)
        return roots, self.sum(xp, lifted)

    def exponentials(self, xp: Any, x: Any, zeros: Any, k: Any, m: Any, *, keep: bool) -> tuple[Any, Any, Any]:
        # Rows that are not finite have no class that is 1, for others that have two.
        k = self.winner(xp, x, m) if k is None else k
        return super().exponentials(xp, x, zeros, k, m, keep=keep)

    def _others_by_blocks(self, x: Any, k: Any, m: Any, step: int, keep: bool) -> tuple[Any, Any]:
        """Of a row that is longer than a block, and alone in it."""
        memory = MEMORY.result_like(x) if keep else MEMORY.empty((*x.shape[:-1], step), x.dtype)
        if memory is None:  # outside of a block
            memory = np.empty_like(x)
        sums = []
        for start in range(0, x.shape[-1], step):
            part = x[..., start : start + step]
            out = memory[..., start : start + step] if keep else memory[..., : part.shape[-1]]
            np.exp(part if m is None else np.subtract(part, m[..., None], out=out), out=out)
            is_here = 0 <= (at := k.item() - start) < part.shape[-1]
            if is_here:
                out[..., at] = 0.0
            sums.append(self.sum(np, out))
            if is_here:
                out[..., at] = 1.0
        return memory if keep else None, super().sum(np, np.stack(sums, axis=-1))

    def scaled(self, xp: Any, a: Any, c: Any) -> Any:
        return np.multiply(a, c[..., None], out=a)

    def multiplied(self, xp: Any, a: Any, b: Any, like: Any) -> Any:
        return np.multiply(a, b, out=MEMORY.empty_like(like))

    def sum(self, xp: Any, a: Any) -> Any:
        count = a.shape[-1]
        if count == 1:
            return a[..., 0].copy()  # `a` may be written to
        if count <= FEW:
            # Of eight or more, NumPy's order depends on the number of rows.
            a, odd = halved(a.copy(order="F") if a.flags.c_contiguous else a, 7)
            total = np.add.reduce(a, axis=-1)
            return total if odd is None else total + odd
        return self._summed(np.ascontiguousarray(a))

    def total(self, xp: Any, a: Any) -> Any:
        with self.quiet():
            return self._total(xp, a)

    def _total(self, xp: Any, a: Any) -> Any:
        if a.dtype == np.float32:
            return np.float32(np.add.reduce(a, axis=None, dtype=np.float64))
        return super().total(xp, a)

    def sum_of_rows(self, xp: Any, a: Any) -> Any:
        end = a.shape[0] - a.shape[0] % 32  # NumPy adds one row after the other
        parts = np.add.reduce(a[:end].reshape(-1, 32, a.shape[1]), axis=1)
        total = np.add.reduce(parts, axis=0, dtype=np.float64) + np.add.reduce(a[end:], axis=0)
        return total.astype(a.dtype, copy=False)

    def dot(self, xp: Any, a: Any, b: Any) -> Any:
        if isinstance(a, float):
            return super().dot(xp, a, b)
        if a.shape[-1] <= FEW or not (a.flags.c_contiguous and b.flags.c_contiguous):
            return self.sum(xp, self.multiplied(xp, a, b, b))
        return self._summed(a, b)

    def _summed(self, *factors: Any) -> Any:
        """The sum over the last axis of the product of the factors."""
        count = factors[0].shape[-1]
        end = count - count % CHUNK
        chunks = (a[..., :end].reshape(*a.shape[:-1], end // CHUNK, CHUNK) for a in factors)
        terms = ",".join(["...j"] * len(factors)) + "->..."
        return self.sum(np, np.einsum(terms, *chunks)) + np.einsum(terms, *(a[..., end:] for a in factors))

    def holds(self, xp: Any, condition: Any) -> bool:
        return condition.size == 0 or bool(condition.item(condition.argmin()))

    def signature(self, arrays: Collection[Any]) -> Any:
        if not PLAIN.issuperset(map(type, arrays)):
            return None
        return tuple([None if a is None else (a.dtype, a.shape) for a in arrays])

    def rejects(self, array: Any) -> str | None:
        if isinstance(array, np.ma.MaskedArray | np.matrix):  # their arithmetic is another
            way_out = "fill it, and weigh with 0 what is masked" if np.ma.isMA(array) else "take numpy.asarray of it"
            return f"expected a plain array, got {type(array).__name__}; {way_out}"
        return None

    def is_readable(self, array: Any) -> bool:
        return True

    def quiet(self) -> Any:
        return np.errstate(all="ignore")

    def may_choose(self, *arrays: Any) -> bool:
        return True

    def run(self, task: Task) -> tuple[Any, ...]:
        task = _plain(task)
        if task.rows[0].nbytes <= SMALL:
            with self.quiet():
                return task.at_once()
        threads, row = self.threads(), task.row_bytes()
        most = FEW_BYTES if row <= FEW * np.dtype(task.options.dtype).itemsize else self.block_bytes
        most = min(most, LAYER.bytes)
        share = -(-math.prod(task.lead) // threads)
        parts = -(-share * row // most)  # as many blocks of equal size for each thread
        size = max(row * -(-share // parts), most // 2)
        return task.in_blocks(size, partial(_in_threads, threads), LAYER.result_like)

    def run_total(self, task: Task) -> tuple[Any, ...]:
        task = _plain(task)
        if task.rows[0].nbytes > SMALL:
            return super().run_total(task)
        with self.quiet():
            first, *others = task.at_once()
            return self._total(task.xp, first), *others

    def threads(self) -> int:
        """So many blocks are computed at a time."""
        return _threads()

    def linear_memory(self, max_bytes: int | None) -> int:
        whole = super().linear_memory(max_bytes)
        return max(whole - self._beside_a_block(), whole // 3)

    def max_bytes(self, memory: int) -> int:
        """The `max_bytes` of which `linear_memory` is so much."""
        return min(memory + self._beside_a_block(), 3 * memory)

    def _beside_a_block(self) -> int:
        """For the threads, a part of the layer's weight, and what the library of products holds."""
        return KEPT * self.threads() + 5 * self.block_bytes // 2

    def linear_arrays(self, row_bytes: int) -> int:
        return 1 if row_bytes <= KEPT else 2  # the exponentials of a longer row are not in a thread's memory

    def may_cut_classes(self, *arrays: Any) -> bool:
        return True

    def linear(self, task: Any) -> Any:
        return super().linear(_plain(task))

    def linear_and_gradients(self, task: Any) -> tuple[Any, ...]:
        return super().linear_and_gradients(_plain(task))

    def scan(self, task: Any, step: Any, totals: Any) -> tuple[Any, ...]:
        used = np.flatnonzero(task.rows[2])
        # What the threads hold is less than the logits, and than what they keep; a cap takes eight arrays more.
        most = min(self.block_bytes, self.linear_memory(task.max_bytes) // (4 * self.threads()))
        with LAYER.in_blocks(most if task.options.softcap is None else most // 3):
            return scan_in_place(task, step, totals, used if used.size < task.lead[0] else None)

    def widened(self, xp: Any, weight: Any, dtype: Any) -> Any:
        return weight

    def affine(self, xp: Any, hidden: Any, weight: Any, bias: Any, dtype: Any) -> Any:
        x = LAYER.array("logits", (hidden.shape[0], weight.shape[0]), dtype)
        for part in parts_of(weight):
            np.matmul(hidden, self.in_dtype(weight[part], dtype).T, out=x[:, part])
        return x if bias is None else np.add(x, bias, out=x)

    def product(self, xp: Any, g: Any, weight: Any) -> Any:
        if weight.dtype == g.dtype:
            return np.matmul(g, weight)
        return sum(np.matmul(g[:, part], self.in_dtype(weight[part], g.dtype)) for part in parts_of(weight))

    def add_product(self, xp: Any, total: Any, g: Any, hidden: Any) -> Any:
        for part in parts_of(total):
            place = total[part]
            place += np.matmul(g[:, part].T, hidden, out=LAYER.array("part", place.shape, place.dtype))
        return total

    def in_dtype(self, a: Any, dtype: Any) -> Any:
        """Some of a layer's weight in `dtype`."""
        if a.dtype == dtype:
            return a
        out = LAYER.array("part", a.shape, dtype)
        np.copyto(out, a)
        return out


def parts_of(weight: Any, rows: int = 0) -> Sequence[slice]:
    """Classes whose part of a layer's weight (C, D) is of `LAYER.bytes`, and that of `rows` of logits of half of it."""
    step = max(1, LAYER.bytes // (4 * max(1, weight.shape[1], 2 * rows)))
    return [slice(start, start + step) for start in range(0, weight.shape[0], step)]


def scan_in_place(task: Any, step: Any, totals: Any, used: Any) -> tuple[Any, ...]:
    """`Backend.scan`, of the rows `used` alone if they are not None."""
    (count,), size = task.lead, task.block[0]
    results: tuple[Any, ...] = ()
    for start in range(0, max(1, count if used is None else len(used)), size):
        block = slice(start, min(start + size, count)) if used is None else used[start : start + size]
        totals, parts = step(totals, tuple(a[block] for a in task.rows))
        if not results:
            xp, device = task.xp, task.options.backend.device(parts[0])
            results = tuple(xp.zeros((count, *p.shape[1:]), dtype=p.dtype, device=device) for p in parts)
        for result, part in zip(results, parts, strict=True):
            result[block] = part
    return totals, results


def _plain(task: Task) -> Task:
    """The same task of arrays that are not of a class of its own."""
    if PLAIN.issuperset(map(type, task.rows)) and PLAIN.issuperset(map(type, task.shared)):
        return task
    return task.filled([np.asarray(a) if isinstance(a, np.ndarray) else a for a in task.arrays])


FEW = 64
MANY = 1 << 12
"""So few classes of so many logits are laid out first."""

FEW_BYTES = 3 << 19
"""So many bytes of few classes are computed at a time, which take more arrays of a block's size. Among the fastest of
1, 1.25, 1.5, 2 and 4 MiB for loss and gradient of (65536, 10), (524288, 10), (262144, 21) and (2, 21, 512, 512), on the
machine that `block_bytes` was measured on; with 4 MiB they take up to a quarter longer."""

STRIP = 1 << 18
"""So many bytes are laid out at a time, class by class: of 32 KiB to 256 KiB and all the fastest for these shapes."""

BUFFER = 512
"""So many numbers may NumPy's operations buffer. If two rows fit, what is one number for each row is copied once for
each class: with 1000 of them a difference then takes 0.17 ns for a logit instead of 0.08, and a product 0.15 instead of
0.07. From some 250 classes on it is not to be copied; with 128, copying is faster."""

CHUNK = 128
"""So many numbers are added up by einsum, which holds sums of every 16th of them; np.sum takes twice as long."""


PLAIN = {np.ndarray, type(None)}
"""What is not an array of a class of its own, whose arithmetic may be another."""

SMALL = 1 << 18
"""So many bytes of logits are computed at once, in new memory."""

KEPT = 3 * NumPy.block_bytes
"""So many bytes a thread keeps."""


class _Memory(threading.local):
    """A thread's own memory for a block, kept from block to block: what is new comes from the system page by page."""

    kept = np.empty(0, dtype=np.uint8)
    used: int | None = None  # so many bytes of it, in a block; None outside of one
    place: Any = None  # of a result like the logits

    def compute(self, piece: Piece) -> None:
        """Compute a block."""
        self.used = 0
        place = next((place for place in piece.places if place.ndim > len(piece.task.lead)), None)
        self.place = None if place is None or np.may_share_memory(place, piece.task.rows[0]) else place
        try:
            piece.compute()
        finally:
            self.used = self.place = None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory until the end of the block."""
        start, size = self.used, math.prod(shape) * np.dtype(dtype).itemsize
        if start is None or start + size > KEPT:
            return np.empty(shape, dtype)
        self.used = start + size + -size % 64
        if self.kept.size < start + size:
            self.kept = np.empty(start + size, dtype=np.uint8)
        return self.kept[start : start + size].view(dtype).reshape(shape)

    def empty_like(self, x: Any) -> Any:
        """Memory for an array like `x`, until the end of the block; outside of one None, for what NumPy allocates."""
        if self.used is None:
            return None
        if x.flags.c_contiguous:
            return self.empty(x.shape, x.dtype)
        return _last_axis_last(self.empty((x.shape[-1], *x.shape[:-1]), x.dtype))

    def result_like(self, x: Any) -> Any:
        """The place of the result that is made of an array like `x`, or memory."""
        place = self.place
        if place is None:
            return self.empty_like(x)
        if place.flags.c_contiguous and x.flags.c_contiguous and place.dtype == x.dtype:
            return place
        return self.empty_like(x)


MEMORY = _Memory()


class _Layer(threading.local):
    """Memory for a layer's logits, and then their gradient, the same for all blocks: new memory would be fragments."""

    memory: dict[str, Any] | None = None
    bytes = NumPy.block_bytes  # so many of its logits, or of its weight in float32, are computed at a time

    @contextmanager
    def in_blocks(self, most: int) -> Iterator[None]:
        """While blocks are computed one after the other; nothing of the block before is read."""
        before = self.memory, self.bytes
        self.memory, self.bytes = {}, most
        try:
            yield
        finally:
            self.memory, self.bytes = before

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """The memory of that name, or new memory if there are no blocks."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = {} if self.memory is None else self.memory
        if name not in memory or memory[name].size < size:
            memory[name] = np.empty(size, np.uint8)
        return memory[name][:size].view(dtype).reshape(shape)

    def result_like(self, a: Any, dtype: Any) -> Any:
        """Memory for a kernel's result: that of the logits `a` for their gradient, of which nobody else needs them."""
        return np.empty_like(a, dtype=dtype) if self.memory is None or a.ndim != 2 else a


LAYER = _Layer()


def _last_axis_first(a: Any) -> Any:
    return a.T if a.ndim == 2 else np.moveaxis(a, -1, 0)


def _last_axis_last(a: Any) -> Any:
    return a.T if a.ndim == 2 else np.moveaxis(a, 0, -1)


def _places(a: Any, k: Any) -> tuple[Any, Any]:
    """The class k of each row of an array that `load` laid out, or that was computed from one: of which view, where.

    Such arrays are contiguous, the classes last or first.
    """
    if a.flags.c_contiguous:
        return a.ravel(), _firsts(k.shape, a.shape[-1]) + k
    return _last_axis_first(a).ravel(), _firsts(k.shape, 1) + k * k.size


@lru_cache(16)  # blocks are alike
def _firsts(shape: tuple[int, ...], step: int) -> Any:
    return np.arange(0, math.prod(shape) * step, step).reshape(shape)


@lru_cache(16)
def _share(dtype: Any, shape: tuple[int, ...], parts: float) -> Any:
    return np.broadcast_to(np.ones((), dtype) / parts, shape)


def _in_threads(count: int, pieces: Sequence[Piece]) -> None:
    """Compute all pieces, on so many threads."""
    left = iter(pieces)  # whose next is atomic

    def work() -> None:
        with np.errstate(all="ignore"):
            np.setbufsize(BUFFER)  # until the end of errstate
            for piece in left:
                MEMORY.compute(piece)

    running = []
    if min(count, len(pieces)) > 1:
        with suppress(RuntimeError):  # while the interpreter shuts down, there are no other threads
            running += [_pool(count).submit(work) for _ in range(min(count, len(pieces)))]
    if not running:
        work()
    for other in running:
        other.result()


@cache
def _threads() -> int:
    given = os.environ.get("XENT_ANY_NUM_THREADS", "")
    if given:
        if not (given.isascii() and given.isdecimal()) or int(given) == 0:
            raise ValueError(f"XENT_ANY_NUM_THREADS: expected a positive integer, got {given!r}")
        return int(given)
    return len(_cpus()) or os.cpu_count() or 1


def _cpus() -> list[int]:
    """The CPUs that this thread may use; none where that cannot be told."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """So many threads, each on a CPU of its own if there are as many.

    Otherwise Linux may wake one on the CPU of another, whenever that gives the interpreter away, and leave both there:
    loss and gradient of 4096 x 1000 on two CPUs then take as long as on one.
    """
    cpus = _cpus()
    if threads != len(cpus):
        return ThreadPoolExecutor(threads, "xent_any")
    left = iter(cpus)

    def settle() -> None:
        with suppress(OSError):  # where that is forbidden
            os.sched_setaffinity(0, [next(left)])

    return ThreadPoolExecutor(threads, "xent_any", initializer=settle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not forked

BACKEND = NumPy()
