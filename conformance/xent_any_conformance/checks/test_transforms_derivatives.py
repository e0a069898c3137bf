"""Differentiation of what is a derivative already, and of binary cross-entropy by its labels and weights."""

import numpy as np

from ..plugin import check
from ..subjects import Subject
from .test_gradient import TIED_Y, TIES, V, X
from .test_transforms import C, assert_near, declared, dtype, fast, make  # noqa: F401  (dtype is a fixture)

LOGITS, EVENTS = np.asarray([-3.5, 0, 0, 1.25]), np.asarray([0, 0.25, 1, 1])
P = 1 / (1 + np.exp(-LOGITS))
FUNCTIONS, WEIGHTS = "docs/contract.md, Functions", "docs/contract.md, Weights, smoothing, reductions"


@check(
    "transforms.grad.of-the-gradient",
    "Differentiating the gradient that a function returns gives the Hessian, also where classes tie and at 0.",
    source=FUNCTIONS,
)
def test_grad_of_the_gradient(subject: Subject, dtype: str) -> None:  # noqa: F811
    grad, f = declared(subject, "grad"), subject.functions
    v, y, z, c, events = make(subject, dtype, V, TIED_Y, LOGITS, C, EVENTS)
    product = fast(
        subject,
        grad(lambda x: subject.xp.sum(f.cross_entropy_value_and_grad(x, y, reduction="sum")[1] * v)),
    )
    for logits in (TIES, X):
        (x,) = make(subject, dtype, logits)
        assert_near(subject, product(x), subject.numpy(f.cross_entropy_hvp(x, v, y, reduction="sum")).astype(float))
    binary = grad(lambda z: subject.xp.sum(f.binary_cross_entropy_value_and_grad(z, events, reduction="none")[1] * c))
    assert_near(subject, fast(subject, binary)(z), C * P * (1 - P))


@check(
    "transforms.grad.weight-of-a-derivative",
    "The derivative of a tangent's derivative by a sample weight, also one of 0, is that row's without weight.",
    source=WEIGHTS,
)
def test_grad_of_a_derivative_by_weights(subject: Subject, dtype: str) -> None:  # noqa: F811
    grad = declared(subject, "grad")
    x, v, y, s = make(subject, dtype, X, V, TIED_Y, np.asarray([1.25, 0, 2.5, 0.375]))

    def slope(weight: object) -> object:
        return subject.functions.cross_entropy_jvp(x, v, y, sample_weight=weight, reduction="sum")[1]

    p = np.exp(X) / np.exp(X).sum(-1, keepdims=True)
    assert_near(subject, fast(subject, grad(slope))(s), ((p - np.eye(5)[TIED_Y]) * V).sum(-1))


@check(
    "transforms.grad.binary-labels",
    "The derivatives of binary cross-entropy by labels and weights are those of the formula, also at 0 and 1.",
    source=WEIGHTS,
)
def test_grad_of_binary_by_labels(subject: Subject, dtype: str) -> None:  # noqa: F811
    grad, f = declared(subject, "grad"), subject.functions.binary_cross_entropy
    weights = np.asarray([0.5, 2, 0, 1])
    z, y, s = make(subject, dtype, LOGITS, EVENTS, weights)
    by_labels = grad(lambda b: f(z, b, pos_weight=2.5, sample_weight=s, reduction="sum"))
    by_weights = grad(lambda b: f(z, y, pos_weight=2.5, sample_weight=b, reduction="sum"))
    of_labels, of_weights = fast(subject, lambda a, b: (by_labels(a), by_weights(b)))(y, s)
    absent, present = np.log1p(np.exp(LOGITS)), 2.5 * np.log1p(np.exp(-LOGITS))
    assert_near(subject, of_labels, weights * (present - absent))
    assert_near(subject, of_weights, (1 - EVENTS) * absent + EVENTS * present)
