"""Cross-entropy as one writes it with `scipy.special.log_softmax`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import log_softmax

from .._problems import AXIS, Inputs
from . import GRADIENT, LOSS, Contestant
from ._numpy import arrays


def _loss(log_p: Any, y: Any) -> Any:
    return -np.mean(np.take_along_axis(log_p, np.expand_dims(y, AXIS), axis=AXIS))


def _prepare_loss(inputs: Inputs) -> Callable[[int], Any]:
    (x, y, _), n = _given(inputs), len(inputs)
    if inputs.problem.option == "probability":
        rows = x[0].size // x[0].shape[AXIS]
        return lambda i: -np.sum(y[i % n] * log_softmax(x[i % n], axis=AXIS)) / rows
    return lambda i: _loss(log_softmax(x[i % n], axis=AXIS), y[i % n])


def _prepare_gradient(inputs: Inputs) -> Callable[[int], Any]:
    (x, y, _), n = _given(inputs), len(inputs)
    rows = x[0].size // x[0].shape[AXIS]

    def index(i: int) -> Any:
        log_p, label = log_softmax(x[i % n], axis=AXIS), np.expand_dims(y[i % n], AXIS)
        gradient = np.exp(log_p)
        np.put_along_axis(gradient, label, np.take_along_axis(gradient, label, axis=AXIS) - 1, axis=AXIS)
        return _loss(log_p, y[i % n]), gradient / rows

    def probability(i: int) -> Any:
        log_p = log_softmax(x[i % n], axis=AXIS)
        return -np.sum(y[i % n] * log_p) / rows, (np.exp(log_p) - y[i % n]) / rows

    return probability if inputs.problem.option == "probability" else index


def _given(inputs: Inputs) -> Any:
    if inputs.problem.option not in ("index", "probability"):
        raise NotImplementedError(f"not written here for {inputs.problem.option}")
    return arrays(inputs)


CONTESTANTS = [
    Contestant("log_softmax, indexing", "scipy", "numpy", LOSS, _prepare_loss),
    Contestant("log_softmax, exp - 1", "scipy", "numpy", GRADIENT, _prepare_gradient),
]
