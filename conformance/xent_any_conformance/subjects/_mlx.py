"""MLX on the CPU."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import mlx.core
import numpy as np

from xent_any import Backend

from . import Subject


class MLX(Backend):
    name = "mlx"
    version = importlib.metadata.version("mlx")
    transforms = {
        "jit": mlx.core.compile,
        "grad": mlx.core.grad,
        "vmap": mlx.core.vmap,
        "jvp": lambda f, x, tangent: mlx.core.jvp(f, [x], [tangent])[1][0],
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
        "truth.subnormal": "MLX's exp is 0 where it is below the smallest normal number",
        "contract.labels.ignored-in-uint64": "MLX compares arrays with Python integers of up to 63 bits only",
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
