"""A linear layer in NumPy: products in place, a block's logits in the same memory as those of the block before."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xent_any import Products

from ._memory import BLOCK_BYTES, KEPT, LAYER, load


class NumPyProducts(Products):
    """Products of NumPy arrays, which are written to again.

    Attributes
    ----------
    threads : callable
        Returns the number of threads that blocks of logits are computed on.
    """

    def __init__(self, memory: int, threads: Callable[[], int]) -> None:
        super().__init__(memory)
        self.threads = threads

    def memory(self, max_bytes: int | None) -> int:
        whole = super().memory(max_bytes)
        return max(whole - self._beside_a_block(), whole // 3)

    def max_bytes(self, memory: int) -> int:
        """Return the `max_bytes` of which `memory` is so much."""
        return min(memory + self._beside_a_block(), 3 * memory)

    def _beside_a_block(self) -> int:
        """Bytes for the threads, a part of the layer's weight, and what the library of products holds."""
        return KEPT * self.threads() + 5 * BLOCK_BYTES // 2

    def temporaries(self, row_bytes: int, dense: bool) -> int:
        # The exponentials of a longer row are not in a thread's memory.
        return (1 if row_bytes <= KEPT else 2) + 2 * dense

    def may_cut_classes(self, *arrays: Any) -> bool:
        return True

    def scan(self, task: Any, step: Any, totals: Any) -> tuple[Any, ...]:
        used = np.flatnonzero(task.rows[2])
        # What the threads hold is less than the logits, and than what they keep; the reference holds more arrays.
        is_tuned = task.options.softcap is None and task.block[1] == task.shared[1].shape[0]
        most = min(BLOCK_BYTES, self.memory(task.max_bytes) // (4 * self.threads()))
        with LAYER.in_blocks(most if is_tuned else most // 6):
            return scan_in_place(task, step, totals, used if used.size < task.batch[0] else None)

    def widened(self, xp: Any, weight: Any, dtype: Any) -> Any:
        return weight

    def loaded(self, xp: Any, a: Any, dtype: Any) -> Any:
        return load(a, dtype)

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

    def sum_of_rows(self, xp: Any, g: Any) -> Any:
        end = g.shape[0] - g.shape[0] % 32  # NumPy adds one row after the other
        parts = np.add.reduce(g[:end].reshape(-1, 32, g.shape[1]), axis=1)
        total = np.add.reduce(parts, axis=0, dtype=np.float64) + np.add.reduce(g[end:], axis=0)
        return total.astype(g.dtype, copy=False)

    def in_dtype(self, a: Any, dtype: Any) -> Any:
        """Return some of a layer's weight in `dtype`."""
        if a.dtype == dtype:
            return a
        out = LAYER.array("part", a.shape, dtype)
        np.copyto(out, a)
        return out


def parts_of(weight: Any, rows: int = 0) -> Sequence[slice]:
    """Cut classes so that their part of a layer's weight (C, D) has `LAYER.bytes`, and `rows` of logits half of it."""
    step = max(1, LAYER.bytes // (4 * max(1, weight.shape[1], 2 * rows)))
    return [slice(start, start + step) for start in range(0, weight.shape[0], step)]


def scan_in_place(task: Any, step: Any, totals: Any, used: Any) -> tuple[Any, ...]:
    """`Products.scan`, of the rows `used` alone if they are not None."""
    (count,), size = task.batch, task.block[0]
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
