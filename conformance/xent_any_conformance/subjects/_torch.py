"""PyTorch: on the CPU, with another default dtype, without values, without tuned kernels, on a GPU."""

from typing import Any
from unittest.mock import patch

import torch

from xent_any_backends.torch import BACKEND
from xent_any_backends.torch._bridge import IN_NUMPY

from . import Subject, UnusableError


def load(name: str) -> Subject:
    variant = name.partition("-")[2]
    if variant == "reference":
        IN_NUMPY.kernels = BACKEND.kernels = {}
    if variant == "default-float64":
        torch.set_default_dtype(torch.float64)
    if variant in ("cuda", "mps"):
        found = [device for device in BACKEND.devices() if device.type == variant]
        if not found:
            raise UnusableError(f"PyTorch {torch.__version__} finds no {variant} device here")
        return Subject(name, BACKEND, found[0])
    if variant == "meta":
        return Subject(name, BACKEND, torch.device("meta"), has_values=False)
    return Subject(name, BACKEND, torch.device("cpu"), compiling=compiling)


def compiling() -> Any:
    """Have kernels run on values that PyTorch's compiler alone is given."""
    return patch.object(torch.compiler, "is_compiling", lambda: True)
