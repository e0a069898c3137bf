"""What memory allows, by PyTorch with all threads; on its devices."""

from collections.abc import Callable
from typing import Any

import torch

from .._problems import Inputs
from . import GRADIENT, LOSS, Contestant
from ._torch import arrays


def _read(inputs: Inputs) -> Callable[[int], Any]:
    (x, _, _), n = arrays(inputs), len(inputs)
    return lambda i: torch.amax(x[i % n])


def _sum(inputs: Inputs) -> Callable[[int], Any]:
    (x, _, _), n = arrays(inputs), len(inputs)
    return lambda i: torch.sum(x[i % n])


def _copy(inputs: Inputs) -> Callable[[int], Any]:
    (x, _, _), n = arrays(inputs), len(inputs)
    out = [torch.zeros_like(x[0]) for _ in range(n)]
    return lambda i: out[i % n].copy_(x[i % n])


def _new_copy(inputs: Inputs) -> Callable[[int], Any]:
    (x, _, _), n = arrays(inputs), len(inputs)
    return lambda i: x[i % n].clone()


CONTESTANTS = [
    Contestant("read (amax)", "torch", "limit", LOSS, _read, limit=True),
    Contestant("read (sum)", "torch", "limit", LOSS, _sum, limit=True),
    Contestant("copy into memory at hand", "torch", "limit", GRADIENT, _copy, limit=True),
    Contestant("copy into new memory", "torch", "limit", GRADIENT, _new_copy, limit=True),
]
