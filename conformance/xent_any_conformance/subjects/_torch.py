"""PyTorch: on the CPU, with another default dtype, without values, without tuned kernels, on a GPU."""

import torch

from xent_any_backends.torch import BACKEND
from xent_any_backends.torch._bridge import IN_NUMPY

from . import Subject, UnusableError


def load(name: str) -> Subject:
    variant = name.partition("-")[2]
    if variant == "reference":
        IN_NUMPY.kernels = {}
    if variant == "default-float64":
        torch.set_default_dtype(torch.float64)
    if variant in ("cuda", "mps"):
        found = [device for device in BACKEND.devices() if device.type == variant]
        if not found:
            raise UnusableError(f"PyTorch {torch.__version__} finds no {variant} device here")
        return Subject(name, BACKEND, found[0])
    return Subject(name, BACKEND, torch.device("meta" if variant == "meta" else "cpu"), has_values=variant != "meta")
