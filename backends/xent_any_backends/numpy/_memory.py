"""Memory that NumPy's kernels and layers write to again, and sums that are fast and accurate in it."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from xent_any import Block

BLOCK_BYTES = 1 << 22
"""Bytes of logits that are computed at a time. The fastest of 512 KiB, 1, 2, 4, 8 and 16 MiB for loss and gradient of
float32 logits of shape (8192, 1000) and (1024, 32000), on one and on two threads of an x86-64 with AVX-512, 1 MiB of
second-level cache for each CPU and 32 MiB of third: in smaller ones, threads wait for the interpreter."""

KEPT = 3 * BLOCK_BYTES
"""Bytes that a thread keeps."""

FEW = 64
MANY = 1 << 12
"""So few classes of so many logits are laid out first."""

STRIP = 1 << 18
"""Bytes that are laid out at a time, class by class: of 32 KiB to 256 KiB and all the fastest for such shapes."""

CHUNK = 128
"""Numbers that einsum adds up; it holds sums of every 16th of them. np.sum takes twice as long."""


class _Scratch(threading.local):
    """A thread's own memory for a block, kept from block to block: new memory comes from the system page by page."""

    kept = np.empty(0, dtype=np.uint8)
    used: int | None = None  # bytes of it that are in use, in a block; None outside of one
    output: Any = None  # of a result like the logits

    def compute(self, block: Block) -> None:
        """Compute a block."""
        self.used = 0
        output = next((out for out in block.outputs if out.ndim > len(block.task.batch)), None)
        self.output = None if output is None or np.may_share_memory(output, block.task.rows[0]) else output
        try:
            block.compute()
        finally:
            self.used = self.output = None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return memory until the end of the block."""
        start, size = self.used, math.prod(shape) * np.dtype(dtype).itemsize
        if start is None or start + size > KEPT:
            return np.empty(shape, dtype)
        self.used = start + size + -size % 64
        if self.kept.size < start + size:
            self.kept = np.empty(start + size, dtype=np.uint8)
        return self.kept[start : start + size].view(dtype).reshape(shape)

    def empty_like(self, x: Any) -> Any:
        """Return memory for an array like `x`; outside of a block None, for memory that NumPy allocates."""
        if self.used is None:
            return None
        if x.flags.c_contiguous:
            return self.empty(x.shape, x.dtype)
        return last_axis_last(self.empty((x.shape[-1], *x.shape[:-1]), x.dtype))

    def output_like(self, x: Any) -> Any:
        """Return the output for the result that is made of an array like `x`, or memory."""
        out = self.output
        if out is not None and out.flags.c_contiguous and x.flags.c_contiguous and out.dtype == x.dtype:
            return out
        return self.empty_like(x)


SCRATCH = _Scratch()


class _Layer(threading.local):
    """Memory for a layer's logits, and then their gradient, the same for all blocks: new memory would be fragments."""

    memory: dict[str, Any] | None = None
    bytes = BLOCK_BYTES  # of its logits, or of its weight in float32, that are computed at a time

    @contextmanager
    def in_blocks(self, most: int) -> Iterator[None]:
        """Compute blocks one after the other in the same memory; nothing of the block before is read."""
        before = self.memory, self.bytes
        self.memory, self.bytes = {}, most
        try:
            yield
        finally:
            self.memory, self.bytes = before

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return the memory of that name, or new memory if there are no blocks."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = {} if self.memory is None else self.memory
        if name not in memory or memory[name].size < size:
            memory[name] = np.empty(size, np.uint8)
        return memory[name][:size].view(dtype).reshape(shape)

    def result_like(self, a: Any, dtype: Any) -> Any:
        """Return memory for a kernel's result: in a layer that of the logits, which nobody else needs."""
        return np.empty_like(a, dtype=dtype) if self.memory is None or a.ndim != 2 else a


LAYER = _Layer()


def load(a: Any, dtype: Any) -> Any:
    """Return a block of rows (*batch, C) in `dtype`, contiguous, few classes first in memory; maybe `a` itself."""
    if a.size >= MANY and a.shape[-1] <= FEW:
        # Over a short last axis NumPy's reductions take fifty times as long as over a long one.
        out = last_axis_last(SCRATCH.empty((a.shape[-1], *a.shape[:-1]), dtype))
        step = max(1, STRIP // (a[0].size * out.itemsize))
        for start in range(0, len(a), step):
            strip = slice(start, start + step)
            np.copyto(out[strip], a[strip], casting="unsafe")
        return out
    if a.dtype == dtype and a.flags.c_contiguous:
        return a
    out = SCRATCH.empty(a.shape, dtype)
    np.copyto(out, a, casting="unsafe")
    return out


def last_axis_last(a: Any) -> Any:
    """Move the first axis to the end."""
    return a.T if a.ndim == 2 else np.moveaxis(a, 0, -1)


def flat(a: Any) -> tuple[Any, int, int]:
    """View an array that `load` laid out as one axis; the steps in it from row to row and from class to class."""
    if a.flags.c_contiguous:
        return a.reshape(-1), a.shape[-1], 1
    first = a.T if a.ndim == 2 else np.moveaxis(a, -1, 0)
    return first.reshape(-1), 1, a.size // a.shape[-1]


def positions(a: Any, k: Any) -> tuple[Any, Any]:
    """View an array that `load` laid out as one axis; the positions in it of the class k (*batch) of each row."""
    view, row, step = flat(a)
    return view, _firsts(k.shape, row) + (k if step == 1 else k * step)


@lru_cache(16)  # blocks are alike
def _firsts(shape: tuple[int, ...], step: int) -> Any:
    return np.arange(0, math.prod(shape) * step, step).reshape(shape)


def row_sum(a: Any) -> Any:
    """Sum over the last axis with the error of few roundings, in the same order for any number of rows."""
    count = a.shape[-1]
    if count == 1:
        return a[..., 0].copy()  # `a` may be written to
    if count <= FEW:
        # Of eight or more, NumPy's order depends on the number of rows.
        odd = None
        if count > 7 and a.ndim > 1 and a.flags.c_contiguous:
            a = a.copy(order="F")
        while count > 7:
            if count % 2:
                odd = a[..., -1] if odd is None else odd + a[..., -1]
            count //= 2
            a = a[..., :count] + a[..., count : 2 * count]
        total = np.add.reduce(a.copy(order="F") if a.ndim > 1 and a.flags.c_contiguous else a, axis=-1)
        return total if odd is None else total + odd
    return _in_chunks(np.ascontiguousarray(a))


def row_dot(a: Any, b: Any) -> Any:
    """`row_sum` of the products of b (*batch, C) and a, which is like b or (C,)."""
    if b.shape[-1] <= FEW or not (a.flags.c_contiguous and b.flags.c_contiguous):
        return row_sum(np.multiply(a, b, out=SCRATCH.empty_like(b)))
    return _in_chunks(a, b)


def _in_chunks(*factors: Any) -> Any:
    """Sum over the last axis of the product of the factors."""
    count = factors[0].shape[-1]
    end = count - count % CHUNK
    chunks = (a[..., :end].reshape(*a.shape[:-1], end // CHUNK, CHUNK) for a in factors)
    terms = ",".join(["...j"] * len(factors)) + "->..."
    return row_sum(np.einsum(terms, *chunks)) + np.einsum(terms, *(a[..., end:] for a in factors))
