"""Cross-entropy, written once against the Array API standard, right and fast on every array library.

Of the arrays of any such library, or of several rows of them at a time:

cross_entropy                           loss of class indices or probabilities
cross_entropy_value_and_grad            and its gradient, ``softmax(logits) - labels``
cross_entropy_jvp                       and its derivative in a direction
cross_entropy_hvp                       its Hessian times a vector
linear_cross_entropy                    loss of a linear layer, whose logits are never all held
linear_cross_entropy_value_and_grad     and its gradients
nll_loss                                loss of log-probabilities
log_softmax                             log-probabilities
softmax                                 probabilities
logsumexp                               logarithm of the sum of exponentials
binary_cross_entropy                    loss of independent events, one logit for each
binary_cross_entropy_value_and_grad     and its gradient
backends                                what is installed here
"""

from ._backend import Backend as Backend
from ._backend import RefusedError as RefusedError
from ._formulas import Tuned as Tuned
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
from ._linear import Products as Products
from ._registry import BackendInfo as BackendInfo
from ._registry import backends as backends
from ._task import Block as Block
from ._task import Task as Task
from ._types import Array as Array
from ._types import CrossEntropyOptions as CrossEntropyOptions
from ._types import LinearOptions as LinearOptions
from ._types import Reduction as Reduction

__version__ = "0.1.0"

__all__ = [
    "Array",
    "Backend",
    "BackendInfo",
    "Block",
    "CrossEntropyOptions",
    "LinearOptions",
    "Products",
    "Reduction",
    "RefusedError",
    "Task",
    "Tuned",
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

for _name in __all__:
    if _name != "Reduction":  # a type of typing's
        globals()[_name].__module__ = __name__
