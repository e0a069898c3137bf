"""What memory allows, by CuPy."""

import cupy

from . import GRADIENT, LOSS, limit
from ._cupy import arrays

CONTESTANTS = [
    limit("read (max)", "cupy", LOSS, arrays, cupy.max),
    limit("copy into new memory", "cupy", GRADIENT, arrays, cupy.array),
]
