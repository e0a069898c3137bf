"""What the Array API standard cannot say about a framework, and where it is found."""

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from itertools import product
from typing import Any, NamedTuple

import array_api_compat

from ._derivatives import RULES, SYMMETRIC
from ._rows import (
    LIFT,
    RESULTS,
    Array,
    Arrays,
    Guarded,
    Kernel,
    Options,
    are_near,
    cast,
    lowered,
    pairwise_sum,
    with_numbers,
)

GROUP = "xent_any.backends"


@dataclass(frozen=True)
class Task:
    """A kernel of `xent_any._rows` and the arrays to run it on.

    Attributes
    ----------
    kernel : callable
        ``kernel(xp, options, rows, shared)``.
    xp : namespace
        That of the arrays.
    options : Options
        Hashable; the kernel may be compiled for it.
    rows : tuple of array or None
        Arrays of shape ``lead`` or ``(*lead, C)``.
    shared : tuple of array or None
        Arrays of shape ``(C,)``, which every block needs whole; the last holds the numbers ``options.given``, if any.
    lead : tuple of int
        The axes that the rows may be cut along.
    """

    kernel: Kernel
    xp: Any
    options: Options
    rows: Arrays
    shared: Arrays
    lead: tuple[int, ...]

    def at_once(self) -> Arrays:
        """Run the kernel on all rows."""
        options, shared = with_numbers(self.options, self.shared)
        return self.kernel(self.xp, options, self.rows, shared)

    def run(self, kernel: Kernel, rows: Arrays) -> Arrays:
        """Have the backend run another kernel, with the same options, on other rows."""
        return self.options.backend.run(Task(kernel, self.xp, self.options, rows, self.shared, self.lead))

    @property
    def arrays(self) -> Arrays:
        """All arrays, and None for those that the problem does not have."""
        return (*self.rows, *self.shared)

    def filled(self, arrays: Sequence[Array | None]) -> "Task":
        """The same task with other `arrays`."""
        rows, shared = tuple(arrays[: len(self.rows)]), tuple(arrays[len(self.rows) :])
        return Task(self.kernel, self.xp, self.options, rows, shared, self.lead)

    def emptied(self) -> "Task":
        """The same task without its arrays, to be `filled` again; hashable."""
        return self.filled((None,) * len(self.arrays))

    def partial(self, positions: Sequence[int]) -> Callable[..., Arrays]:
        """The kernel as a function of those of `arrays` at `positions`, which it takes in that order.

        It is linear in each but the first of `arrays`, and smooth in the numbers that the options are given: there the
        framework's own derivative of it is right.
        """

        def function(*values: Array) -> Arrays:
            arrays = list(self.arrays)
            for i, value in zip(positions, values, strict=True):
                arrays[i] = value
            return self.filled(arrays).at_once()

        return function

    @property
    def has_derivative(self) -> bool:
        """Whether `jvp` and `vjp` know the kernel's derivative; where not, autodiff through the kernel is right."""
        return self.kernel in RULES

    @property
    def is_symmetric(self) -> bool:
        """Whether the kernel multiplies the last of `rows` by a symmetric matrix, and is its own transpose there.

        A framework that transposes operation by operation should be told: the formula does not cancel, its transpose
        does.
        """
        return self.kernel in SYMMETRIC

    def jvp(self, tangent: Array) -> tuple[Arrays, Arrays]:
        """The results, and their derivatives along `tangent`, which is like the first of the rows.

        Linear in the tangent for a framework that transposes it.
        """
        return RULES[self.kernel].jvp(self, tangent)

    def vjp(self, cotangents: Arrays, kept: Arrays = ()) -> Array:
        """The cotangent of the first of the rows, like it, for one of each result, in the order of the results.

        None stands for 0; not all may be None. `kept` is what `run_and_keep` has kept.
        """
        return RULES[self.kernel].vjp(self, cotangents, kept)

    def run_and_keep(self) -> tuple[Arrays, Arrays]:
        """The results, and what `vjp` then need not compute again: a few numbers for each row, or nothing.

        Those are constants: with them, `vjp` is not differentiated.
        """
        kernel = RULES[self.kernel].keeping if self.has_derivative else None
        results, count = self.run(kernel or self.kernel, self.rows), len(RESULTS[self.kernel])
        return results[:count], results[count:]

    def dtypes(self) -> tuple[Any, ...]:
        """The dtype of each result."""
        rounded, computed = self.rows[0].dtype, self.options.dtype
        results = RESULTS[self.kernel]
        return tuple(self.xp.int64 if r.integer else rounded if r.rounded else computed for r in results)

    def row_bytes(self) -> int:
        """Bytes of one row of classes, in the precision computed in."""
        sizes: list[int] = [math.prod(a.shape[len(self.lead) :]) for a in self.rows if a is not None]
        sizes += [a.shape[0] for a in self.shared if a is not None]
        bits = int(self.xp.finfo(self.options.dtype).bits)
        return max(sizes) * bits // 8

    def in_blocks(
        self,
        block_bytes: int,
        compute: Callable[[list["Piece"]], None] | None = None,
        empty_like: Callable[..., Array] | None = None,
    ) -> Arrays:
        """Run the kernel block by block, each of which is a task of its own.

        `block_bytes` counts a block's elements in the precision computed in, one array of them. `compute` is to
        `Piece.compute` all pieces, in any order or at the same time; without it, that is done one after the other.
        `empty_like` makes the results, if not the namespace's.
        """
        first = self.rows[0]
        row = first if first.ndim == len(self.lead) else first[..., 0]
        empty_like = empty_like or self.xp.empty_like
        results = tuple(
            empty_like(first if result.whole else row, dtype=dtype)
            for result, dtype in zip(RESULTS[self.kernel], self.dtypes(), strict=True)
        )
        pieces = []
        for block in _blocks(self.lead, max(1, block_bytes // self.row_bytes())):
            rows = tuple(None if a is None else a[(*block, ...)] for a in self.rows)
            pieces.append(Piece(replace(self, rows=rows), tuple(result[(*block, ...)] for result in results)))
        if compute is not None:
            compute(pieces)
        else:
            for piece in pieces:
                piece.compute()
        return results


class Piece(NamedTuple):
    """A block of a task's rows, and the places of its results in the whole ones."""

    task: Task
    places: Arrays

    def compute(self) -> None:
        """Run the kernel, and write the results to their places; one that is its place has been written there."""
        for place, result in zip(self.places, self.task.at_once(), strict=True):
            if result is not place:
                place[...] = result


class Backend:
    """How one framework runs the kernels; the defaults suit any array with ``__array_namespace__``.

    A framework needs an adapter only to gain something: errors instead of NaN for wrong labels (`is_readable`,
    `all_below`, `are_known`), checks that calls alike share (`signature`, `share`), silence about results that are not
    finite (`quiet`), blocks (`block_bytes`), single
    classes found, read and written by index instead of by comparing (`top`, `winner`, `pick`, `put`, `lessen`), another
    order in memory (`load`), memory that is written to again (`exp`, `minus`, `scaled`, `multiplied`), sums that need
    no array of their terms (`dot`, `others`), what few rows need computed for them alone (`may_choose`, `where`),
    compilation (`run`), a line in `xent_any.backends()`. An adapter is an instance of a subclass, published under the
    entry-point group ``xent_any.backends`` by the name of the top-level module that the framework's array type is
    defined in.

    Attributes
    ----------
    name : str
        The framework's name.
    version : str
        The framework's version.
    block_bytes : int or None
        Bytes of logits, in the precision they are computed in, that are computed at a time; None computes all at once.
    linear_bytes : int
        Bytes of memory for a layer's logits and what is computed of them, unless the caller says how many.
    transforms : mapping of str to callable
        The framework's program transformations: ``jit(f)``, ``vmap(f)``, which maps over the first axis of every
        argument, ``grad(f)``, with respect to the first argument, ``jvp(f, x, tangent)``, which returns the
        derivative alone, and ``backward(f, x, cotangents)``, which runs f once and the backward pass once for each
        cotangent, by the framework's own means of training, where ``grad`` is another way.
    deviations : mapping of str to str or (str, type of exception)
        The conformance checks that do not hold, by id, and why; with the error that is raised, where one is.

    Notes
    -----
    `run` is where a framework that differentiates attaches the analytic derivative: it is handed the kernel (say
    ``loss``) and its arrays before anything of the logits' size is computed, and `Task.jvp` and `Task.vjp` are the
    derivatives with respect to the first of them, the logits. They run other kernels on the same backend, so that
    they can be differentiated in turn. In each of the other arrays a kernel is linear: there the framework's own
    autodiff, through `Task.partial`, makes no error but rounding. ``examples/toygrad`` is a whole adapter of this kind.
    """

    name: str = "generic"
    version: str = "unknown"
    block_bytes: int | None = None
    linear_bytes: int = 1 << 28
    transforms: Mapping[str, Callable[..., Any]] = {}
    deviations: Mapping[str, str | tuple[str, type[Exception]]] = {}

    def namespace(self) -> Any:
        """The namespace that its arrays are made with."""
        raise NotImplementedError(f"the adapter {self.name!r} does not make arrays")

    def namespace_of(self, array: Array) -> Any:
        """The namespace that `array` is computed with; TypeError where it is not an array."""
        return array_api_compat.array_namespace(array)

    def devices(self) -> Sequence[Any]:
        """The devices that arrays can be made on now; raises what the framework raises where there are none."""
        return ["cpu"]

    def dtypes(self, device: Any) -> Sequence[str]:
        """The names of the real floating dtypes that arrays on `device` can have; here those of the standard."""
        found = self.namespace().__array_namespace_info__().dtypes(device=device, kind=None)
        return [name for name in ("float32", "float64") if name in found]

    def asarray(self, values: Any, dtype: str, device: Any) -> Array:
        """An array of a NumPy array or nested list, of the dtype so named in the standard, on one of `devices`."""
        xp = self.namespace()
        return xp.asarray(values, dtype=getattr(xp, dtype), device=device)

    def to_numpy(self, array: Array) -> Any:
        """A NumPy array of the same values."""
        raise NotImplementedError(f"the adapter {self.name!r} does not convert to NumPy")

    def device(self, array: Array) -> Any:
        """Where `array` lies; None where it cannot be told."""
        return getattr(array, "device", None)

    def arange(self, xp: Any, like: Array, stop: int) -> Array:
        """``0, ..., stop - 1`` in the default integer dtype, where `like` lies."""
        device = self.device(like)
        return xp.arange(stop) if device is None else xp.arange(stop, device=device)

    def share(self, xp: Any, like: Array, dtype: Any, shape: tuple[int, ...], parts: float) -> Array:
        """``1 / parts``, where `like` lies: held once for all elements of `shape`."""
        one = cast(xp, xp.reshape(self.arange(xp, like, 1) + 1, ()), dtype)
        return xp.broadcast_to(one if parts == 1 else one / parts, shape)

    def all_below(self, xp: Any, a: Array, stop: int) -> bool:
        """Whether it can be read that some integers are all in [0, stop)."""
        return self.is_readable(a) and self.holds(xp, (a >= 0) & (a < stop))

    def load(self, xp: Any, a: Array, dtype: Any) -> Array:
        """A block of rows (*lead, C) in `dtype`, laid out in memory as this library computes fastest."""
        return cast(xp, a, dtype)

    def store(self, xp: Any, a: Array, dtype: Any) -> Array:
        """What was computed, rounded to `dtype`."""
        return cast(xp, a, dtype)

    def top(self, xp: Any, x: Array) -> tuple[Array | None, Array]:
        """One class of each row (*lead, C) with the row's maximum, and that maximum; inf and NaN are maxima as well.

        None for the class, if it takes time to find: whoever needs it asks for the `winner`.
        """
        m = xp.max(x, axis=-1)
        k = self.winner(xp, x, m)
        return k, xp.where(xp.isnan(m), m, self.pick(xp, x, k))

    def winner(self, xp: Any, x: Array, m: Array) -> Array:
        """One class of each row of x (*lead, C) with the row's maximum m, which `top` has found; any if m is NaN."""
        count = x.shape[-1]
        return xp.min(xp.where(x == m[..., None], self.arange(xp, x, count), count - 1), axis=-1)

    def with_nan(self, xp: Any, x: Array, m: Array, rows: Array | None) -> Array:
        """The maximum m of each row of x (*lead, C), from `top`, with the NaN that `top` has lost in those `rows`.

        Those are a condition (*lead), or None for no row: in others the sum shows it.
        """
        return m

    def as_zeros(self, broken: Array, masked: Array | None) -> Array | None:
        """Which broken rows `exponentials` takes for zeros: those that are `masked`, or more of them.

        What it returns of the others is made NaN; derivatives through the kernel are, unless the row was zeros.
        """
        return masked

    def pick(self, xp: Any, a: Array, k: Array) -> Array:
        """The element of each row of `a`, (*lead, C) or (C,), at the class `k` (*lead)."""
        return xp.sum(xp.where(self.arange(xp, a, a.shape[-1]) == k[..., None], a, 0.0), axis=-1)

    def put(self, xp: Any, a: Array, k: Array, value: Array | float, *, owned: bool = False) -> Array:
        """`a` (*lead, C) with `value`, a number or (*lead), at the class `k` (*lead); `owned` may be written to."""
        value = value if isinstance(value, float) else value[..., None]
        return xp.where(self.arange(xp, a, a.shape[-1]) == k[..., None], value, a)

    def zeroed(self, xp: Any, a: Array, rows: Array) -> Array:
        """`a` (*lead, C) with zeros in those `rows`, a condition (*lead)."""
        return xp.where(rows[..., None], 0.0, a)

    def lessen(self, xp: Any, a: Array, value: Any, k: Array | None = None) -> Array:
        """`a` (*lead, C), which may be written to, less `value`: (*lead) at the class `k` (*lead), or all that is."""
        if k is None:
            return a - value
        return a - xp.where(self.arange(xp, a, a.shape[-1]) == k[..., None], value[..., None], 0.0)

    def minus(self, xp: Any, x: Array, m: Array) -> Array:
        """``x - m`` for x (*lead, C) and m (*lead)."""
        return x - m[..., None]

    def exp(self, xp: Any, x: Array, m: Array | None, times: float = 1.0) -> Array:
        """``exp(times (x - m))`` for x (*lead, C) and m (*lead), or None for 0."""
        d = x if m is None else self.minus(xp, x, m)
        return xp.exp(d if times == 1 else times * d)

    def others(self, xp: Any, x: Array, k: Array | None, m: Array | None, *, keep: bool) -> tuple[Array, Array]:
        """``exp(x - m)`` for x (*lead, C), and its sum over the classes but k, which `top` has found with m (*lead).

        The former may be None, if it is not to be kept. None for m says that it has been subtracted.
        """
        e = self.exp(xp, x, m)
        if k is not None:
            return e, self.sum(xp, self.put(xp, e, k, 0.0))
        highest = x == (0 if m is None else m[..., None])
        return e, self.sum(xp, xp.where(highest, 0.0, e)) + (self.sum(xp, xp.astype(highest, e.dtype)) - 1)

    def roots(self, xp: Any, x: Array, k: Array | None, m: Array) -> tuple[Array, Array]:
        """Likewise ``exp((x - m) / 2)``, and the sum of its squares times that of `LIFT`."""
        roots = self.exp(xp, x, m, 0.5)
        if k is not None:
            return roots, self.sum(xp, xp.square(LIFT * self.put(xp, roots, k, 0.0)))
        highest = x == m[..., None]
        count = self.sum(xp, xp.astype(highest, roots.dtype))
        return roots, self.sum(xp, xp.where(highest, 0.0, xp.square(LIFT * roots))) + LIFT * LIFT * (count - 1)

    def exponentials(
        self, xp: Any, x: Array, zeros: Array | None, k: Array | None, m: Array, *, keep: bool
    ) -> tuple[Array, Array, Array | None]:
        """`others` of rows that may be won by far: its results over the square of `root`, and that (*lead).

        None for `root`, if it is 1 everywhere. Of rows `zeros` (*lead), whose m is 0, the logits are taken for zeros.
        """
        x = x if zeros is None else self.zeroed(xp, x, zeros)
        roots, lifted = self.roots(xp, x, k, m)
        if not self.is_readable(x):
            s, root = lowered(xp, lifted, x.shape[-1])
            roots = roots / root[..., None]
            return roots * roots, s, root
        e, s = self.others(xp, x, k, m, keep=keep)
        is_near = are_near(s, x.shape[-1])  # a row that is has the bits that it has among others that are
        if keep:
            e = xp.where(is_near[..., None], e, LIFT * LIFT * roots * roots)
        return e, xp.where(is_near, s, lifted), xp.where(is_near, xp.ones_like(s), 1 / LIFT)

    def scaled(self, xp: Any, a: Array, c: Array) -> Array:
        """``c a`` for c (*lead) and a (*lead, C), which may be written to."""
        return a * c[..., None]

    def multiplied(self, xp: Any, a: Array, b: Array | float, like: Array) -> Array:
        """``a b``, an array like `like` (*lead, C)."""
        return a * b

    def sum(self, xp: Any, a: Array) -> Array:
        """Sum over the last axis with the error of few roundings, however many elements there are."""
        return pairwise_sum(xp, a)

    def total(self, xp: Any, a: Array) -> Array:
        """Sum of all elements, likewise."""
        return self.sum(xp, xp.reshape(a, (-1,)))

    def sum_of_rows(self, xp: Any, a: Array) -> Array:
        """Sum over the first axis of a (N, C)."""
        return xp.sum(a, axis=0)

    def dot(self, xp: Any, a: Array | float, b: Array) -> Array:
        """`sum` of the products of b (*lead, C) and a, which is like b, (C,), or one number."""
        return a * self.sum(xp, b) if isinstance(a, float) else self.sum(xp, a * b)

    def holds(self, xp: Any, condition: Array) -> bool:
        """Whether it can be read that `condition` is true everywhere."""
        if not self.is_readable(condition):
            return False
        found = xp.all(condition)
        return self.is_readable(found) and bool(found)  # an operation on a readable array may be traced

    def are_known(self, xp: Any, a: Array) -> bool:
        """Whether it can be read that there is no NaN in `a`."""
        return self.holds(xp, a == a)  # noqa: PLR0124

    def either(self, xp: Any, like: Array, usual: Callable[[], Guarded], always: Callable[[], Arrays]) -> Arrays:
        """What `always` returns, or the results that `usual` returns, if the condition beside them holds everywhere.

        `always` is right everywhere, but takes longer: where arrays such as `like` cannot be read, it is called alone.
        """
        if self.is_readable(like):
            results, condition = usual()
            if self.holds(xp, condition):
                return results
        return always()

    def may_choose(self, x: Array, spread: Array | float | None, *others: Array | float | None) -> bool:
        """Whether `where` computes the other array only if its condition, which depends on all of these, asks for it.

        That saves a pass over x (*lead, C), unless `spread` is None.
        """
        return all(a is None or isinstance(a, float) or self.is_readable(a) for a in (x, spread, *others))

    def where(self, xp: Any, condition: Array, a: Array, otherwise: Callable[[], Array]) -> Array:
        """`a` where the condition holds, else what `otherwise` returns: each element by itself, all (*lead)."""
        return a if self.holds(xp, condition) else xp.where(condition, a, otherwise())

    def signature(self, arrays: Collection[Array | None]) -> Hashable:
        """Types, dtypes, shapes and devices: arrays of the same are checked once. None where they are not to be kept.

        That is, of arrays that are traced, or of classes that `rejects` may refuse. None of `arrays` may be held in it.
        """
        return None

    def is_positive(self, size: int) -> bool:
        """Whether a size is positive, and known to be so before the program is run."""
        return isinstance(size, int) and size > 0

    def takes(self, array: Array) -> bool:
        """Whether the framework's own functions take `array`, which is another library's."""
        return False

    def rejects(self, array: Array) -> str | None:
        """Why `array` cannot be computed with although its library's others can; None where it can."""
        return None

    def is_readable(self, array: Array) -> bool:
        """Whether a value of `array` can be read now, without waiting for a device or computing something lazy."""
        return False

    def no_waiting(self) -> AbstractContextManager[Any]:
        """A context in which waiting for a device, or computing something lazy, raises; here nothing is noticed."""
        return nullcontext()

    def quiet(self) -> AbstractContextManager[Any]:
        """A context in which results that are not finite neither warn nor raise; here none does."""
        return nullcontext()

    def run(self, task: Task) -> Arrays:
        """Run the task's kernel on its rows, in blocks of them or at once."""
        if self.block_bytes is None or task.row_bytes() * math.prod(task.lead) <= self.block_bytes:
            return task.at_once()
        return task.in_blocks(self.block_bytes)

    def run_total(self, task: Task) -> Arrays:
        """What `run` returns, but of the first result the sum of all elements."""
        first, *others = self.run(task)
        return self.total(task.xp, first), *others

    def linear_memory(self, max_bytes: int | None) -> int:
        """Bytes for the arrays of a block of a layer's rows, of `max_bytes` for all that is held."""
        return self.linear_bytes if max_bytes is None else max_bytes

    def linear_arrays(self, row_bytes: int) -> int:
        """So many arrays like a block of logits there are at a time, whose rows are of so many bytes."""
        return 8

    def may_cut_classes(self, *arrays: Array) -> bool:
        """Whether blocks of a layer with these arrays may have some of the classes: nobody differentiates them.

        `add_product` must write to the total that it is given, then.
        """
        return False

    def linear(self, task: Any) -> Array:
        """The losses of a layer's rows, or their sum, as the `LinearTask` says."""
        return task.at_once()[0]

    def linear_and_gradients(self, task: Any) -> Arrays:
        """The losses of a layer's rows, and the gradients of their sum: `LinearTask.losses_and_gradients`."""
        results: Arrays = task.losses_and_gradients()
        return results

    def scan(self, task: Any, step: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]], totals: Arrays) -> Arrays:
        """Hand `step` the totals and a block of rows of the `LinearTask` after the other; the last totals, the results.

        A backend may leave out rows whose scale is 0; their results are zeros.
        """
        (count,), size, parts = task.lead, task.block[0], []
        for start in range(0, max(count, 1), size):
            block = slice(start, min(start + size, count))
            totals, results = step(totals, tuple(a[block, ...] for a in task.rows))
            parts.append(results)
        if len(parts) == 1:
            return totals, parts[0]
        return totals, tuple(task.xp.concat(several, axis=0) for several in zip(*parts, strict=True))

    def widened(self, xp: Any, weight: Array, dtype: Any) -> Array:
        """A layer's weight (C, D) as `affine` and `product` take it: in `dtype`, or as it is."""
        return cast(xp, weight, dtype)

    def affine(self, xp: Any, hidden: Array, weight: Array, bias: Array | None, dtype: Any) -> Array:
        """``h W^T + b`` in `dtype`, for h (N, D) and b (C,) in that dtype and W (C, D)."""
        x = xp.matmul(hidden, xp.permute_dims(weight, (1, 0)))
        return x if bias is None else x + bias

    def factor(self, xp: Any, g: Array, weight: Array) -> Array:
        """G (N, C) as `product` and `add_product` take it: as it is, or in the dtype of the layer."""
        return g

    def product(self, xp: Any, g: Array, weight: Array) -> Array:
        """``G W`` for G (N, C), from `factor`, and W (C, D), in the precision computed in."""
        return xp.matmul(g, weight)

    def add_product(self, xp: Any, total: Array, g: Array, hidden: Array) -> Array:
        """``T + G^T h`` for T (C, D), which may be written to, G (N, C), from `factor`, and h (N, D), like T."""
        return total + xp.matmul(xp.permute_dims(g, (1, 0)), hidden)


def _blocks(lead: tuple[int, ...], count: int) -> Iterator[tuple[int | slice, ...]]:
    """Indices that cut the axes `lead` into blocks of at most `count` elements, or as near as slices come to it."""
    if math.prod(lead) <= count:
        yield (slice(None),) * len(lead)
        return
    axis = next(i for i in range(len(lead)) if math.prod(lead[i + 1 :]) <= count)
    step = max(1, count // math.prod(lead[axis + 1 :]))
    step = -(-lead[axis] // -(-lead[axis] // step))  # as many blocks, of equal size
    for outer in product(*map(range, lead[:axis])):
        for start in range(0, lead[axis], step):
            yield (*outer, slice(start, min(start + step, lead[axis])))


def _importer(entry: EntryPoint) -> Callable[[], Backend]:
    """What imports an adapter: by an import statement, which compilers that trace Python can follow."""
    scope: dict[str, Any] = {}
    try:
        exec(f"def load():\n    import {entry.module} as module\n    return module.{entry.attr}", scope)
    except (AttributeError, SyntaxError):  # not of the form module:attribute; whoever needs it is told so
        return entry.load
    load: Callable[[], Backend] = scope["load"]
    return load


_ENTRIES = {entry.name: entry for entry in entry_points(group=GROUP)}
_IMPORTERS = {name: _importer(entry) for name, entry in _ENTRIES.items()}


def backend_of(cls: type) -> Backend:
    """The adapter for arrays of type `cls`, found by the top-level module of it and of its base classes."""
    for base in cls.__mro__:
        load = _IMPORTERS.get(base.__module__.partition(".")[0])
        if load is not None:
            return load()
    return GENERIC


GENERIC = Backend()


@dataclass(frozen=True)
class BackendInfo:
    """One framework as `backends` found it.

    Attributes
    ----------
    name : str
        The framework's name.
    version : str or None
        Its version; None where it is not installed.
    devices : tuple of str
        The devices that arrays can be made on.
    reason : str or None
        Why it cannot be used; None where it can.
    backend : Backend or None
        Its adapter; None where it could not be loaded.
    """

    name: str
    version: str | None
    devices: tuple[str, ...]
    reason: str | None
    backend: Backend | None

    @property
    def usable(self) -> bool:
        """Whether arrays can be made and computed with here."""
        return self.reason is None


def backends() -> list[BackendInfo]:
    """Every framework that an adapter is installed for, whether it can be used here, and if not, why.

    Importing a framework may take seconds. Any other array library that follows the standard works as well; it
    needs no adapter and is not listed.

    Returns
    -------
    list of BackendInfo
        Sorted by name, one for each framework.

    Examples
    --------
    >>> import xent_any
    >>> [info.usable for info in xent_any.backends() if info.name == "numpy"]
    [True]
    """
    found: dict[str, BackendInfo] = {}
    for entry in _ENTRIES.values():
        if entry.value not in found:  # two modules may belong to one framework
            found[entry.value] = _probe(entry)
    return sorted(found.values(), key=lambda info: info.name)


def _probe(entry: EntryPoint) -> BackendInfo:
    try:
        backend: Backend = entry.load()
    except ImportError as error:
        reason = "not installed" if isinstance(error, ModuleNotFoundError) else "cannot be imported"
        return BackendInfo(entry.name, None, (), f"{reason} ({error})", None)
    try:
        devices = tuple(str(device) for device in backend.devices())
        # Importing proves little: a GPU library imports where there is no GPU. Only allocating and computing does.
        values = backend.asarray([1.0, 2.0], "float32", backend.devices()[0])
        float(values[0] + values[1])
    except Exception as error:  # noqa: BLE001  (each framework raises its own)
        return BackendInfo(
            backend.name, backend.version, (), f"{type(error).__name__}: {error}".splitlines()[0], backend
        )
    return BackendInfo(backend.name, backend.version, devices, None, backend)
