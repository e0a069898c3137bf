"""What memory allows, by PyTorch with all threads; on its devices."""

import torch

from . import GRADIENT, LOSS, copy_limit, limit
from ._torch import arrays

CONTESTANTS = [
    limit("read (amax)", "torch", LOSS, arrays, torch.amax),
    limit("read (sum)", "torch", LOSS, arrays, torch.sum),
    copy_limit("torch", arrays, torch.zeros_like, torch.Tensor.copy_),
    limit("copy into new memory", "torch", GRADIENT, arrays, torch.clone),
]
