"""The compiled loop over blocks of rows."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xent_any._formulas import compute, with_numbers

from ._autodiff import promoting


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
@promoting
def compiled(task: Any, dtypes: Any, count: int, rows: Any, shared: Any) -> Any:
    """Run a task's kernel on `count` rows at a time; the last block starts early enough to be whole."""
    batch, (options, shared) = task.batch, with_numbers(task.options, shared)
    total = math.prod(batch)
    if count >= total:
        return task.reduced(compute(task.kernel, jnp, options, rows, shared))
    flat = [None if a is None else a.reshape(total, *a.shape[len(batch) :]) for a in rows]

    def block(start: Any) -> Any:
        cut = (None if a is None else lax.dynamic_slice_in_dim(_packed(a), start, count).view(a.dtype) for a in flat)
        return [_packed(part) for part in compute(task.kernel, jnp, options, tuple(cut), shared)]

    def step(i: Any, results: Any) -> Any:
        start = jnp.minimum(i * count, total - count)
        return [
            lax.dynamic_update_slice_in_dim(result, part, start, 0)
            for result, part in zip(results, block(start), strict=True)
        ]

    empty = [jnp.empty((total, *part.shape[1:]), part.dtype) for part in jax.eval_shape(block, 0)]
    results = lax.fori_loop(0, -(-total // count), step, empty)
    whole = [r.view(np.dtype(dtype)).reshape(*batch, *r.shape[1:]) for r, dtype in zip(results, dtypes, strict=True)]
    return task.reduced(tuple(whole))


def _packed(array: Any) -> Any:
    """Return the bits of bfloat16, which XLA on the CPU would otherwise hold in float32 for the whole loop."""
    return array.view(jnp.uint16) if array.dtype == jnp.bfloat16 else array
