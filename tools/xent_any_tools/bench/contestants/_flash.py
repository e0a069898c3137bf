"""flash-attention's Triton kernel, for GPUs."""

from collections.abc import Callable

from flash_attn.ops.triton.cross_entropy import cross_entropy_loss

from .._problems import IGNORE_INDEX, SMOOTHING, Array, Inputs
from . import Contestant
from ._torch import peers


def _flash(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Array]:
    problem = inputs.problem
    if problem.device == "cpu" or len(problem.shape) > 2 or problem.option in ("probability", "weights"):
        raise NotImplementedError("flash-attention takes index labels and logits of shape (N, C) on a GPU")
    smoothing = SMOOTHING if problem.option == "smoothing" else 0.0

    def loss(x: Array, y: Array) -> Array:
        return cross_entropy_loss(x, y, label_smoothing=smoothing)[0].sum() / (y != IGNORE_INDEX).sum()

    return loss


CONTESTANTS: list[Contestant] = peers("flash-attn", "cross_entropy_loss", _flash)
