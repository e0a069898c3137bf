"""Cross-entropy as one writes it with `scipy.special.log_softmax`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import log_softmax

from .._problems import AXIS, Array, Inputs
from . import GRADIENT, LOSS, Contestant, in_turn
from ._numpy import arrays


def _loss(log_p: Any, y: Any) -> Any:
    return -np.mean(np.take_along_axis(log_p, np.expand_dims(y, AXIS), axis=AXIS))


def _bound_loss(inputs: Inputs, _: Array) -> Callable[[Array, Array], Any]:
    if _is_index(inputs):
        return lambda x, y: _loss(log_softmax(x, axis=AXIS), y)
    return lambda x, y: -np.sum(y * log_softmax(x, axis=AXIS)) / (x.size // x.shape[AXIS])


def _bound_gradient(inputs: Inputs, _: Array) -> Callable[[Array, Array], Any]:
    def index(x: Array, y: Array) -> Any:
        log_p, label = log_softmax(x, axis=AXIS), np.expand_dims(y, AXIS)
        gradient = np.exp(log_p)
        np.put_along_axis(gradient, label, np.take_along_axis(gradient, label, axis=AXIS) - 1, axis=AXIS)
        return _loss(log_p, y), gradient / y.size

    def probability(x: Array, y: Array) -> Any:
        log_p, rows = log_softmax(x, axis=AXIS), x.size // x.shape[AXIS]
        return -np.sum(y * log_p) / rows, (np.exp(log_p) - y) / rows

    return index if _is_index(inputs) else probability


def _is_index(inputs: Inputs) -> bool:
    """Whether the labels are indices; the other options are not written here."""
    if inputs.problem.option not in ("index", "probability"):
        raise NotImplementedError(f"not written here for {inputs.problem.option}")
    return inputs.problem.option == "index"


CONTESTANTS = [
    Contestant("log_softmax, indexing", "scipy", "numpy", LOSS, in_turn(arrays, _bound_loss)),
    Contestant("log_softmax, exp - 1", "scipy", "numpy", GRADIENT, in_turn(arrays, _bound_gradient)),
]
