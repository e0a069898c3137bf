"""Ours, on NumPy's arrays."""

from collections.abc import Callable
from typing import Any

import xent_any

from .._problems import Array, Inputs, ours
from . import GRADIENT, LOSS, Contestant


def arrays(inputs: Inputs) -> tuple[list[Array], list[Array], Array]:
    """The inputs as they are, where NumPy has them."""
    if inputs.problem.device != "cpu":
        raise NotImplementedError(f"NumPy has no {inputs.problem.device}")
    if inputs.problem.dtype == "bfloat16":
        raise NotImplementedError("NumPy has no bfloat16")
    return inputs.logits, inputs.labels, inputs.class_weight


def _ours(function: Callable[..., Any]) -> Callable[[Inputs], Callable[[int], Any]]:
    def prepare(inputs: Inputs) -> Callable[[int], Any]:
        (x, y, weight), n = arrays(inputs), len(inputs)
        options = ours(inputs.problem, weight)
        return lambda i: function(x[i % n], y[i % n], **options)

    return prepare


CONTESTANTS = [
    Contestant("cross_entropy", "xent-any", "numpy", LOSS, _ours(xent_any.cross_entropy)),
    Contestant(
        "cross_entropy_value_and_grad", "xent-any", "numpy", GRADIENT, _ours(xent_any.cross_entropy_value_and_grad)
    ),
]
