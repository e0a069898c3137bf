"""JAX: each kernel is compiled."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from xent_any import Backend, Task


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(kernel: Any, xp: Any, options: Any, rows: Any, shared: Any) -> Any:
    return kernel(xp, options, rows, shared)


class JAX(Backend):
    name = "jax"
    version = jax.__version__
    deviations = {
        "subnormal": "XLA on the CPU flushes results below the smallest normal number to 0.",
    }

    def namespace(self) -> Any:
        return jax.numpy

    def devices(self) -> Sequence[Any]:
        return jax.devices()

    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        return jnp.asarray(np.asarray(values, dtype=dtype), device=device)

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def device(self, array: Any) -> Any:
        return None if isinstance(array, jax.core.Tracer) else array.sharding

    def arange(self, xp: Any, like: Any, stop: int) -> Any:
        return xp.arange(stop)  # JAX moves it to where it is used

    def is_readable(self, array: Any) -> bool:
        return not isinstance(array, jax.core.Tracer) and all(d.platform == "cpu" for d in array.devices())

    def run(self, task: Task) -> tuple[Any, ...]:
        results: tuple[Any, ...] = _compiled(*task[:5])
        return results


BACKEND = JAX()
