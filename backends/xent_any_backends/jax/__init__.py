"""JAX: each kernel is compiled, together with the loop over its blocks."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent_any import Backend, Task
from xent_any._formulas import loss, loss_and_grad

from ._autodiff import at_once, varying, with_derivative
from ._kernels import KERNELS
from ._layer import JAXProducts, run_layer
from ._loop import compiled


class JAX(Backend):
    name = "jax"
    version = jax.__version__
    block_bytes = 1 << 22
    products = JAXProducts(1 << 28)
    kernels = KERNELS
    transforms = {
        "jit": jax.jit,
        "grad": jax.grad,
        "vmap": jax.vmap,
        "jvp": lambda f, x, tangent: jax.jvp(f, (x,), (tangent,))[1],
    }
    deviations: dict[str, Any] = {}
    if jax.__version_info__ >= (0, 6):  # seen with 0.10, and not with 0.5
        deviations |= dict.fromkeys(
            ("relations.bitwise[blocks]", "relations.bitwise[hvp]"),
            "XLA fuses products with sums as shapes suggest, on which a row's last bits may depend",
        )

    def namespace(self) -> Any:
        return jnp

    def devices(self) -> Sequence[Any]:
        return jax.devices()

    def dtypes(self, device: Any) -> Sequence[str]:
        return [*super().dtypes(device), "float16", "bfloat16"]

    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        return jax.device_put(np.asarray(values, dtype=dtype), device)

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def takes(self, array: Any) -> bool:
        return isinstance(array, np.ndarray | np.generic)

    def device(self, array: Any) -> Any:
        if isinstance(array, jax.core.Tracer) or not array.committed:  # JAX moves it to where it is used
            return None
        return frozenset(array.devices())

    def readable(self, array: Any) -> Any:
        if self.takes(array):
            return np, array
        if isinstance(array, jax.core.Tracer) or not array.is_fully_addressable:
            return None
        return (np, np.asarray(array)) if all(d.platform == "cpu" for d in array.devices()) else None

    def run(self, task: Task) -> tuple[Any, ...]:
        arrays = [a for a in task.arrays if a is not None]
        if any(isinstance(a, jax.core.Tracer) for a in arrays):  # who compiles, maps or differentiates
            task = _placed(task.with_arrays(varying(task.arrays)))
            if not task.has_derivative:
                return tuple(at_once(task))
            return tuple(with_derivative(task.without_arrays(), task.arrays))
        task = replace(task, options=task.options._replace(axis=-1))
        if any(isinstance(a, jax.Array) and len(a.devices()) > 1 for a in arrays):
            return tuple(at_once(task))  # shards stay where they are
        count = math.prod(task.batch)
        if task.rows[0].dtype != task.options.dtype:  # half precision is never held whole in float32
            count = max(1, min(count, self.block_bytes // task.row_bytes()))
        return tuple(compiled(task.without_arrays(), task.dtypes(), count, task.rows, task.shared))

    def run_layer(self, task: Any) -> tuple[Any, ...]:
        return run_layer(task)

    def max(self, xp: Any, a: Any) -> Any:
        # XLA's maximum on the CPU may lose NaN.
        return jnp.where(jnp.any(jnp.isnan(a), axis=-1), np.nan, jnp.max(a, axis=-1))

    def sum(self, xp: Any, a: Any) -> Any:
        return jnp.sum(a, axis=-1)

    def take(self, xp: Any, a: Any, k: Any) -> Any:
        return a[k] if a.ndim == 1 else jnp.take_along_axis(a, k[..., None], axis=-1)[..., 0]

    def arange(self, xp: Any, like: Any, stop: int) -> Any:
        return xp.arange(stop)


def _placed(task: Task) -> Task:
    """Place the classes where they are in the arrays as given, or last.

    With them last, XLA on the CPU is faster where more is of the size of the logits than they and their gradient; and
    where the logits have been turned already, as nobody compiles this.
    """
    x, options = task.rows[0], task.options
    value = getattr(x, "primal", x)  # of what is differentiated
    is_plain = task.kernel in (loss, loss_and_grad) and task.rows[1].ndim < x.ndim and options.label_smoothing == 0
    is_placed = is_plain and x.dtype == options.dtype and isinstance(value, jax.core.Tracer)
    return task if is_placed else replace(task, options=options._replace(axis=-1))


BACKEND = JAX()
