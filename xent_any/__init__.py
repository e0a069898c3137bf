"""Cross-entropy, written once against the Array API standard, right and fast on every array library."""

from ._backend import Backend as Backend
from ._backend import BackendInfo as BackendInfo
from ._backend import Piece as Piece
from ._backend import Task as Task
from ._backend import backends as backends
from ._functions import binary_cross_entropy as binary_cross_entropy
from ._functions import binary_cross_entropy_value_and_grad as binary_cross_entropy_value_and_grad
from ._functions import cross_entropy as cross_entropy
from ._functions import cross_entropy_hvp as cross_entropy_hvp
from ._functions import cross_entropy_jvp as cross_entropy_jvp
from ._functions import cross_entropy_value_and_grad as cross_entropy_value_and_grad
from ._functions import linear_cross_entropy as linear_cross_entropy
from ._functions import linear_cross_entropy_value_and_grad as linear_cross_entropy_value_and_grad
from ._functions import log_softmax as log_softmax
from ._functions import logsumexp as logsumexp
from ._functions import nll_loss as nll_loss
from ._functions import softmax as softmax

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "BackendInfo",
    "Piece",
    "Task",
    "backends",
    "binary_cross_entropy",
    "binary_cross_entropy_value_and_grad",
    "cross_entropy",
    "cross_entropy_hvp",
    "cross_entropy_jvp",
    "cross_entropy_value_and_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "softmax",
]
