"""scikit-learn's loss of multinomial logistic regression and gradient boosting; it is private there."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn._loss.loss import HalfMultinomialLoss

from .._problems import IGNORE_INDEX, Inputs
from . import GRADIENT, LOSS, Contestant
from ._numpy import arrays


def _prepare(part: Callable[[Any, Any], Any]) -> Callable[[Inputs], Callable[[int], Any]]:
    """A mean is a sum under sample weights of 1 / N: nothing is computed after the one pass."""

    def prepare(inputs: Inputs) -> Callable[[int], Any]:
        (x, y, weight), n, problem = arrays(inputs), len(inputs), inputs.problem
        if problem.option in ("probability", "smoothing"):
            raise NotImplementedError(f"scikit-learn has no {problem.option}")
        if len(problem.shape) > 2 or problem.dtype == "float16":
            raise NotImplementedError("scikit-learn takes float32 and float64 of shape (N, C)")
        counted = [(label != IGNORE_INDEX).astype(x[0].dtype) for label in y]
        labels = [np.where(label == IGNORE_INDEX, 0, label).astype(x[0].dtype) for label in y]
        if weight is not None:
            counted = [weight[label] for label in y]
        share = [c / c.sum() for c in counted]
        loss = HalfMultinomialLoss(n_classes=problem.shape[1])
        options = [{"sample_weight": s, "n_threads": inputs.threads} for s in share]
        return lambda i: part(loss, (labels[i % n], x[i % n], options[i % n]))

    return prepare


def _loss(loss: Any, given: Any) -> Any:
    return loss.loss(given[0], given[1], **given[2]).sum()


def _gradient(loss: Any, given: Any) -> Any:
    value, gradient = loss.loss_gradient(given[0], given[1], **given[2])
    return value.sum(), gradient


CONTESTANTS = [
    Contestant("HalfMultinomialLoss.loss", "scikit-learn", "numpy", LOSS, _prepare(_loss)),
    Contestant("HalfMultinomialLoss.loss_gradient", "scikit-learn", "numpy", GRADIENT, _prepare(_gradient)),
]
