"""MLX: its arrays are lazy, so nothing is read; each kernel carries its analytic derivative."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from xent_any import Backend, Task


class MLX(Backend):
    name = "mlx"
    version = importlib.metadata.version("mlx")
    transforms = {
        "jit": mx.compile,
        "grad": mx.grad,
        "vmap": mx.vmap,
        "jvp": lambda f, x, tangent: mx.jvp(f, [x], [tangent])[1][0],
    }
    deviations = {
        **dict.fromkeys(
            (
                f"truth.table[float32-{kind}-1000-classes-scale-20{row}]"
                for kind in ("index", "one-hot")
                for row in ("", "-largest")
            ),
            "MLX's exp is off by 0.7 u |x|: 64 u at -87",
        ),
        "truth.subnormal-binary": "MLX's exp is 0 where it is below the smallest normal number",
        "contract.labels.ignored-in-uint64": (
            "MLX compares arrays with Python integers of up to 63 bits only",
            RuntimeError,
        ),
    }

    def namespace(self) -> Any:
        return mx

    def devices(self) -> Sequence[Any]:
        return [mx.default_device()]

    def dtypes(self, device: Any) -> Sequence[str]:
        return ["float32", "float16", "bfloat16"]  # the exp of its float64 has 17 correct bits

    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        return mx.array(np.asarray(values), getattr(mx, "bool_" if dtype == "bool" else dtype))

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def run(self, task: Task) -> tuple[Any, ...]:
        if not task.has_derivative:
            return task.at_once()
        return tuple(_with_derivative(task.without_arrays())(*task.arrays))


def _with_derivative(empty: Task) -> Any:
    """A task as a function of its arrays: the analytic derivative in the first, MLX's own in the others."""
    function: Any = mx.custom_function(lambda *arrays: empty.with_arrays(arrays).at_once())

    @function.vjp  # type: ignore[untyped-decorator]
    def vjp(arrays: Any, cotangents: Any, _: Any) -> Any:
        arrays = _several(arrays)
        task, found = empty.with_arrays(arrays), list(arrays)
        found[0] = task.vjp(cotangents)
        others = [i for i, a in enumerate(arrays) if i and a is not None and mx.issubdtype(a.dtype, mx.floating)]
        if others:
            _, more = mx.vjp(task.partial(others), [arrays[i] for i in others], cotangents)
            for i, cotangent in zip(others, more, strict=True):
                found[i] = cotangent
        return tuple(found)

    @function.jvp  # type: ignore[untyped-decorator]
    def jvp(arrays: Any, tangents: Any) -> Any:
        arrays, tangents = _several(arrays), _several(tangents)
        task = empty.with_arrays(arrays)
        terms: list[Any] = [] if tangents[0] is None else [task.jvp(tangents[0])[1]]
        others = [i for i, t in enumerate(tangents) if i and t is not None]
        if others:
            terms.append(mx.jvp(task.partial(others), [arrays[i] for i in others], [tangents[i] for i in others])[1])
        return tuple(map(sum, zip(*terms, strict=True)))

    return function


def _several(arrays: Any) -> Any:
    """A tuple also of one array, which MLX hands over as it is."""
    return (arrays,) if isinstance(arrays, mx.array) else arrays


BACKEND = MLX()
