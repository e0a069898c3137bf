"""Liger's Triton kernel, for GPUs; it writes the gradient into the logits."""

from collections.abc import Callable

from liger_kernel.transformers.functional import liger_cross_entropy

from .._problems import SMOOTHING, Array, Inputs
from . import BACKWARD, Contestant
from ._torch import then_backward


def _liger(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Array]:
    if inputs.problem.device == "cpu" or len(inputs.problem.shape) > 2 or inputs.problem.option == "probability":
        raise NotImplementedError("Liger takes index labels and logits of shape (N, C) on a GPU")
    smoothing = SMOOTHING if inputs.problem.option == "smoothing" else 0.0
    return lambda x, y: liger_cross_entropy(x, y, weight=weight, label_smoothing=smoothing)


CONTESTANTS = [
    Contestant("liger_cross_entropy", "liger-kernel", "torch", BACKWARD, then_backward(_liger, own_logits=True))
]
