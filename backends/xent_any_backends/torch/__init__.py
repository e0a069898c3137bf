"""PyTorch: the adapter, and drop-in replacements for PyTorch's own functions and modules.

The replacements take PyTorch's signatures to the letter and give PyTorch's answers, computed by `xent_any`; each
docstring says where they differ.
"""

try:
    import numpy  # noqa: F401, ICN001  (PyTorch does not need it, what follows does)
except ModuleNotFoundError as error:
    raise ImportError("xent_any computes PyTorch's tensors with NumPy: pip install 'xent-any[torch]'") from error

from ._backend import BACKEND as BACKEND
from ._functional import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from ._functional import cross_entropy as cross_entropy
from ._functional import linear_cross_entropy as linear_cross_entropy
from ._functional import nll_loss as nll_loss
from ._modules import BCEWithLogitsLoss as BCEWithLogitsLoss
from ._modules import CrossEntropyLoss as CrossEntropyLoss
from ._modules import LinearCrossEntropyLoss as LinearCrossEntropyLoss
from ._modules import NLLLoss as NLLLoss
from ._softmax import log_softmax as log_softmax
from ._softmax import softmax as softmax

__all__ = [
    "BACKEND",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "NLLLoss",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "log_softmax",
    "nll_loss",
    "softmax",
]
