"""MLX on the CPU."""

import mlx.core

from xent_any_backends.mlx import BACKEND

from . import Subject


def load(name: str) -> Subject:
    mlx.core.set_default_device(mlx.core.cpu)
    return Subject(name, BACKEND, mlx.core.cpu)
