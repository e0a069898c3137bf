"""Ours, on NumPy's arrays."""

import xent_any

from .._problems import Array, Inputs
from . import GRADIENT, LOSS, Contestant, in_turn, our


def arrays(inputs: Inputs) -> tuple[list[Array], list[Array], Array]:
    """The inputs as they are, where NumPy has them."""
    if inputs.problem.device != "cpu":
        raise NotImplementedError(f"NumPy has no {inputs.problem.device}")
    if inputs.problem.dtype == "bfloat16":
        raise NotImplementedError("NumPy has no bfloat16")
    return inputs.logits, inputs.labels, inputs.class_weight


CONTESTANTS = [
    Contestant("cross_entropy", "xent-any", "numpy", LOSS, in_turn(arrays, our(xent_any.cross_entropy))),
    Contestant(
        "cross_entropy_value_and_grad",
        "xent-any",
        "numpy",
        GRADIENT,
        in_turn(arrays, our(xent_any.cross_entropy_value_and_grad)),
    ),
]
