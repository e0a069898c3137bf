"""What memory allows, in NumPy: reading the logits is the limit for the loss, copying them for loss and gradient."""

import numpy as np

from . import GRADIENT, LOSS, copy_limit, limit
from ._numpy import arrays

CONTESTANTS = [
    limit("read (max)", "numpy", LOSS, arrays, np.max),
    copy_limit("numpy", arrays, np.zeros_like, np.copyto),
    limit("copy into new memory", "numpy", GRADIENT, arrays, np.array),
]
