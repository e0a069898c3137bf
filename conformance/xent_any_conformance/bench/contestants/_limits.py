"""What memory allows, in NumPy: reading the logits is the limit for the loss, copying them for loss and gradient."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._problems import Inputs
from . import GRADIENT, LOSS, Contestant
from ._numpy import arrays


def _read(inputs: Inputs) -> Callable[[int], Any]:
    (x, _, _), n = arrays(inputs), len(inputs)
    return lambda i: np.max(x[i % n])


def _copy(inputs: Inputs) -> Callable[[int], Any]:
    (x, _, _), n = arrays(inputs), len(inputs)
    out = [np.zeros_like(x[0]) for _ in range(n)]
    return lambda i: np.copyto(out[i % n], x[i % n])


def _new_copy(inputs: Inputs) -> Callable[[int], Any]:
    (x, _, _), n = arrays(inputs), len(inputs)
    return lambda i: np.array(x[i % n])


CONTESTANTS = [
    Contestant("read (max)", "numpy", "limit", LOSS, _read, limit=True),
    Contestant("copy into memory at hand", "numpy", "limit", GRADIENT, _copy, limit=True),
    Contestant("copy into new memory", "numpy", "limit", GRADIENT, _new_copy, limit=True),
]
