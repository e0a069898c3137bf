"""MLX on the CPU."""

from collections.abc import Sequence
from typing import Any

import mlx.core
import numpy as np

from xent_any import Backend

from . import Subject


class MLX(Backend):
    name = "mlx"
    version = mlx.core.__version__
    transforms = {
        "jit": mlx.core.compile,
        "grad": mlx.core.grad,
        "vmap": mlx.core.vmap,
        "jvp": lambda f, x, tangent: mlx.core.jvp(f, [x], [tangent])[1][0],
    }

    def namespace(self) -> Any:
        return mlx.core

    def dtypes(self, device: Any) -> Sequence[str]:
        return ["float32", "float16", "bfloat16"]  # the exp of its float64 has 17 correct bits

    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        return mlx.core.array(np.asarray(values), getattr(mlx.core, "bool_" if dtype == "bool" else dtype))

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)


def load(name: str) -> Subject:
    mlx.core.set_default_device(mlx.core.cpu)
    return Subject(name, MLX(), mlx.core.cpu)
