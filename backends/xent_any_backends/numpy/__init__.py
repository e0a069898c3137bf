"""NumPy: blocks that stay in cache, on as many threads as there are CPUs, few classes laid out first."""

import math
from collections.abc import Collection, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from xent_any import Backend, RefusedError, Task
from xent_any._formulas import cast

from ._kernels import KERNELS
from ._layer import NumPyProducts
from ._memory import BLOCK_BYTES, FEW, LAYER, load, row_sum
from ._threads import in_threads, thread_count

SMALL = 1 << 18
"""Bytes of logits that are computed at once, in new memory."""

FEW_BYTES = 3 << 19
"""Bytes of few classes that are computed at a time, which take more arrays of a block's size. Among the fastest of
1, 1.25, 1.5, 2 and 4 MiB for loss and gradient of (65536, 10), (524288, 10), (262144, 21) and (2, 21, 512, 512), on the
machine that `BLOCK_BYTES` was measured on; with 4 MiB they take up to a quarter longer."""

PLAIN = {np.ndarray, type(None)}
"""Types that are not arrays of a class of its own, whose arithmetic may be another."""


class NumPy(Backend):
    name = "numpy"
    version = np.__version__
    block_bytes = BLOCK_BYTES
    products = NumPyProducts(1 << 28, thread_count)
    kernels = KERNELS

    def namespace(self) -> Any:
        return np

    def dtypes(self, device: Any) -> Sequence[str]:
        return [*super().dtypes(device), "float16"]

    def to_numpy(self, array: Any) -> Any:
        return array

    def namespace_of(self, array: Any) -> Any:
        if isinstance(array, np.ma.MaskedArray | np.matrix):  # their arithmetic is another
            way_out = "fill it, and weigh with 0 what is masked" if np.ma.isMA(array) else "take numpy.asarray of it"
            raise RefusedError(f"expected a plain array, got {type(array).__name__}; {way_out}")
        return np

    def readable(self, array: Any) -> Any:
        return np, array

    def cache_key(self, arrays: Collection[Any]) -> Any:
        if not PLAIN.issuperset(map(type, arrays)):
            return None
        return tuple([None if a is None else (a.dtype, a.shape) for a in arrays])

    def quiet(self) -> Any:
        return np.errstate(all="ignore")

    def run(self, task: Task) -> tuple[Any, ...]:
        task = plain(task)
        if task.rows[0].nbytes <= SMALL:
            with self.quiet():
                return task.at_once()
        threads, row = self.products.threads(), task.row_bytes()
        most = FEW_BYTES if row <= FEW * np.dtype(task.options.dtype).itemsize else BLOCK_BYTES
        most = min(most, LAYER.bytes)
        share = -(-math.prod(task.batch) // threads)
        parts = -(-share * row // most)  # as many blocks of equal size for each thread
        size = max(row * -(-share // parts), most // 2)
        with self.quiet():
            return task.in_blocks(size, partial(in_threads, threads), LAYER.result_like)

    def run_layer(self, task: Any) -> tuple[Any, ...]:
        return super().run_layer(plain(task))

    def load(self, a: Any, dtype: Any) -> Any:
        """Return a block of rows in the precision computed in, laid out as NumPy computes fastest."""
        return load(a, dtype)

    def rounded(self, a: Any, dtype: Any) -> Any:
        """Round a result to `dtype`."""
        if dtype == np.float16:
            # For each number that float16 holds with fewer digits, NumPy raises a flag, which takes 67 ns. Those are
            # multiples of 2**-24 there, as numbers near 0.75 are in float32.
            a = np.where(np.abs(a) < 2.0**-14, (a + 0.75) - 0.75, a)
        return cast(np, a, dtype)

    def max(self, xp: Any, a: Any) -> Any:
        return np.max(a, axis=-1)

    def sum(self, xp: Any, a: Any) -> Any:
        return row_sum(a)

    def take(self, xp: Any, a: Any, k: Any) -> Any:
        return a[k] if a.ndim == 1 else np.take_along_axis(a, k[..., None], axis=-1)[..., 0]

    def arange(self, xp: Any, like: Any, stop: int) -> Any:
        return np.arange(stop)

    def share(self, xp: Any, like: Any, dtype: Any, shape: tuple[int, ...], parts: float) -> Any:
        return _share(dtype, shape, parts)


@lru_cache(16)
def _share(dtype: Any, shape: tuple[int, ...], parts: float) -> Any:
    return np.broadcast_to(np.asarray(1.0 / parts, dtype=dtype), shape)


def plain(task: Any) -> Any:
    """Return the same task of arrays that are not of a class of its own."""
    if PLAIN.issuperset(map(type, task.rows)) and PLAIN.issuperset(map(type, task.shared)):
        return task
    return task.with_arrays([np.asarray(a) if isinstance(a, np.ndarray) else a for a in task.arrays])


BACKEND = NumPy()
