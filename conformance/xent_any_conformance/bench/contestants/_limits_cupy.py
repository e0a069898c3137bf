"""What memory allows, by CuPy."""

from collections.abc import Callable
from typing import Any

import cupy

from .._problems import Inputs
from . import GRADIENT, LOSS, Contestant
from ._cupy import arrays


def _read(inputs: Inputs) -> Callable[[int], Any]:
    (x, _, _), n = arrays(inputs), len(inputs)
    return lambda i: cupy.max(x[i % n])


def _new_copy(inputs: Inputs) -> Callable[[int], Any]:
    (x, _, _), n = arrays(inputs), len(inputs)
    return lambda i: cupy.array(x[i % n])


CONTESTANTS = [
    Contestant("read (max)", "cupy", "limit", LOSS, _read, limit=True),
    Contestant("copy into new memory", "cupy", "limit", GRADIENT, _new_copy, limit=True),
]
