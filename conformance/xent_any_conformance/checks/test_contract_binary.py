"""What the contract promises of binary cross-entropy."""

import re

import numpy as np
import pytest

from ..compare import equal, is_nan, raises, same
from ..plugin import check
from ..subjects import HALF, Subject
from ._contract import INF, NAN, Q, S, W, X, binary_formula, close, few, rows

WEIGHTS = "docs/contract.md, Weights, smoothing, reductions"
INFINITIES = "docs/contract.md, Ignored rows, infinities, NaN"
FUNCTION = "binary_cross_entropy_value_and_grad"


@check(
    "contract.binary.formula", "Loss and gradient of an event follow the formula.", source="docs/contract.md, Functions"
)
def test_formula(subject: Subject):
    rows(subject, FUNCTION).agrees("finite")
    rows(subject, "binary_cross_entropy").agrees("finite")


@check("contract.binary.infinite-logit", "An infinite logit costs 0 with the label it is sure of.", source=INFINITIES)
def test_sure(subject: Subject):
    for values in rows(subject, FUNCTION)["sure"]:
        equal(values, np.zeros(2))


@check(
    "contract.binary.epsilon-in-log",
    "Where an infinite logit is wrong it costs inf; there is no floor.",
    source=INFINITIES,
)
def test_surprised(subject: Subject):
    rows(subject, FUNCTION).agrees("surprised")
    loss = np.asarray([600.0, 300, 2 * np.exp(-60), np.exp(-60)])
    grad = np.asarray([-2.0, 1, -2 * np.exp(-60), np.exp(-60)])
    # (8 + 60) u; the numbers here are rounded too
    rows(subject, FUNCTION).close("far", loss, grad, roundings=70, relative=True)


@check("contract.binary.nan-ignored", "A counted event with NaN is NaN in loss and gradient.", source=INFINITIES)
def test_nan(subject: Subject):
    for values in rows(subject, FUNCTION)["broken"]:
        is_nan(values)


@check("contract.binary.nan-leaks", "An event of sample weight 0 has loss 0 and gradient 0.", source=INFINITIES)
def test_weightless(subject: Subject):
    for values in rows(subject, FUNCTION)["weightless"]:
        equal(values, np.zeros(5))


@check(
    "contract.binary.pos-weight", "pos_weight is a number, or broadcasts to the logits, or is a mask.", source=WEIGHTS
)
def test_pos_weight(subject: Subject, quick):
    weights = [S[:, None], 3, np.asarray([True, False, True, True, True])]
    for weight in weights[:2] if few(subject, quick) else weights:
        given = subject(weight) if isinstance(weight, np.ndarray) else weight
        found = subject.functions.binary_cross_entropy_value_and_grad(
            subject(X), subject(Q), pos_weight=given, reduction="sum"
        )
        loss, grad = binary_formula(X, Q, weight)
        close(subject, found[0], loss.sum())
        close(subject, found[1], grad)


@check(
    "contract.binary.divisor",
    "The mean divides by the sum of the sample weights, without them by the number of elements.",
    source=WEIGHTS,
)
def test_divisor(subject: Subject, quick):
    loss, grad = binary_formula(X, Q, 1 + W, 4 * Q)
    options = {"pos_weight": subject(1 + W), "sample_weight": subject(4 * Q)}
    divided = [(options, loss, grad, (4 * Q).sum())]
    if not few(subject, quick):
        divided += [
            ({}, *binary_formula(X, Q), X.size),
            ({**options, "denominator": 3}, loss, grad, 3.0),
            ({"denominator": subject(np.asarray(2.0))}, *binary_formula(X, Q), 2.0),
        ]
    for given, losses, grads, divisor in divided:
        found = subject.functions.binary_cross_entropy_value_and_grad(subject(X), subject(Q), **given)
        close(subject, found[0], losses.sum() / divisor)
        close(subject, found[1], grads / divisor)


@check("contract.binary.integer-labels", "The labels may be integers or bool.", source="docs/contract.md, Functions")
@pytest.mark.full
@pytest.mark.parametrize("dtype", [int, bool], ids=["int", "bool"])
def test_integers(subject: Subject, dtype):
    labels = (Q > 0.1).astype(dtype)
    loss, grad = subject.functions.binary_cross_entropy_value_and_grad(subject(X), subject(labels))
    expected = binary_formula(X, labels.astype(float))
    close(subject, loss, expected[0].mean())
    close(subject, grad, expected[1] / X.size)


@check("contract.binary.wrong-labels", "Labels outside [0, 1] raise ValueError, or their loss is NaN.", source=WEIGHTS)
def test_wrong_labels(subject: Subject, quick):
    if not subject.reads(subject(S)):
        for values in rows(subject, FUNCTION)["wrong"]:
            is_nan(values)
        return
    for wrong in (-0.5, 1.5, NAN, 2, -1):
        labels = np.where(np.arange(8) == 2, wrong, np.ones(8, type(wrong)))
        message = f"labels: expected probabilities in [0, 1], but labels[2] is {wrong}"
        with raises(ValueError, re.escape(message) + "; "):
            subject.functions.binary_cross_entropy(subject(X[:, 0]), subject(labels))


@check("contract.binary.wrong-weights", "A wrong weight raises ValueError, or is NaN in the results.", source=WEIGHTS)
@pytest.mark.full
def test_wrong_weights(subject: Subject):
    f, right = subject.functions.binary_cross_entropy_value_and_grad, {"pos_weight": 1 + W, "sample_weight": 4 * Q}
    for name, value in right.items():
        for wrong in (-1.0, INF, NAN):
            values = np.where(np.arange(5) == 1, wrong, value)
            options = {key: subject(weight) for key, weight in {**right, name: values}.items()}
            if subject.reads(subject(S)):
                expected = (
                    rf"^{name}: expected finite \w+ numbers that are not negative, but {name}\[(0, )?1\] is {wrong}; "
                )
                with raises(ValueError, expected):
                    f(subject(X), subject(Q), **options)
            else:
                is_nan(subject.numpy(f(subject(X), subject(Q), **options)[0]))


@check("contract.binary.mean-over-nothing", "The mean over nothing is NaN, its gradient 0.", source=WEIGHTS)
@pytest.mark.full
def test_over_nothing(subject: Subject):
    options = {"pos_weight": subject(1 + W), "sample_weight": subject(np.zeros((8, 5)))}
    loss, grad = subject.functions.binary_cross_entropy_value_and_grad(subject(X), subject(Q), **options)
    is_nan(subject.numpy(loss))
    equal(subject.numpy(grad), np.zeros((8, 5)))


@check("contract.empty.binary", "Of no events the mean is NaN and the sum 0.", source=WEIGHTS)
@pytest.mark.full
def test_empty(subject: Subject):
    nothing = subject(np.zeros((0, 5)))
    is_nan(subject.numpy(subject.functions.binary_cross_entropy(nothing, nothing)))
    equal(subject.numpy(subject.functions.binary_cross_entropy(nothing, nothing, reduction="sum")), 0)


@check(
    "contract.binary.half", "Half precision: the loss is float32, the gradient has the logits' dtype.", source=WEIGHTS
)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.full
def test_half(subject: Subject, dtype):
    loss, grad = subject.functions.binary_cross_entropy_value_and_grad(subject(X, dtype), subject(Q, dtype))
    same([subject.dtype(loss), subject.dtype(grad)], ["float32", dtype], "dtypes")
    expected = binary_formula(X, Q)
    close(subject, loss, expected[0].mean())
    close(subject, grad, expected[1] / X.size, roundings=1.01)
