"""What the checks of values rest on: the oracle, against many digits, and covering arrays."""

import itertools

import mpmath
import numpy as np
import pytest

from xent_any_conformance import oracle
from xent_any_conformance.covering import covering

RNG = np.random.default_rng(3)
X, V, W, S = RNG.normal(size=(3, 4)) * 2, RNG.normal(size=(3, 4)), RNG.random(4) + 0.5, RNG.random(3)
LABELS = {"index": np.asarray([1, -100, 3]), "probabilities": RNG.dirichlet(np.ones(4), 3) * 1.3}
OPTIONS = {"label_smoothing": 0.3, "z_loss": 0.2, "softcap": 2.5}


def definition(x, labels):
    """Losses of the rows with all options, and what a mean divides by, in 60 digits."""
    losses, divisor = [], mpmath.mpf(0)
    for row, label, s in zip(x, labels, map(mpmath.mpf, S), strict=True):
        if np.ndim(label) == 0 and label == -100:
            losses.append(mpmath.mpf(0))
            continue
        q = [mpmath.mpf(float(a)) for a in (label if np.ndim(label) else np.eye(4)[label])]
        capped = [2.5 * mpmath.tanh(a / 2.5) for a in row]
        lse = mpmath.log(mpmath.fsum(map(mpmath.exp, capped)))
        smooth = [(1 - mpmath.mpf(0.3)) * a + mpmath.mpf(0.3) / 4 for a in q]
        weights = [mpmath.mpf(w) for w in W]
        cost = mpmath.fsum(w * a * (lse - c) for w, a, c in zip(weights, smooth, capped, strict=True))
        losses.append(s * (cost + mpmath.mpf(0.2) * lse**2))
        divisor += s * mpmath.fsum(w * a for w, a in zip(weights, q, strict=True))
    return losses, divisor


@pytest.mark.parametrize("kind", LABELS)
def test_all_options(kind):
    labels = LABELS[kind]
    with mpmath.workdps(60):
        x, v = ([[mpmath.mpf(float(a)) for a in row] for row in values] for values in (X, V))
        losses, divisor = definition(x, labels)
        h = mpmath.mpf(10) ** -20

        def mean(i, j, along):
            moved = [[a + along * b for a, b in zip(*rows, strict=True)] for rows in zip(x, v, strict=True)]
            moved[i][j] += h
            up, _ = definition(moved, labels)
            moved[i][j] -= 2 * h
            down, _ = definition(moved, labels)
            return mpmath.fsum(a - b for a, b in zip(up, down, strict=True)) / (2 * h) / divisor

        step = mpmath.mpf(10) ** -8
        grad = [[float(mean(i, j, 0)) for j in range(4)] for i in range(3)]
        product = [[float((mean(i, j, step) - mean(i, j, -step)) / (2 * step)) for j in range(4)] for i in range(3)]
        expected = float(mpmath.fsum(losses) / divisor)
    given = {"class_weight": W, "sample_weight": S, **OPTIONS}
    close = {"rtol": 1e-13, "atol": 1e-14}
    each = oracle.cross_entropy(X, labels, reduction="none", **given)
    np.testing.assert_allclose(each, [float(a) for a in losses], **close)
    loss, found = oracle.cross_entropy_value_and_grad(X, labels, **given)
    np.testing.assert_allclose(loss, expected, **close)
    np.testing.assert_allclose(found, grad, **close)
    np.testing.assert_allclose(oracle.cross_entropy_hvp(X, V, labels, **given), product, **close)
    slope = oracle.cross_entropy_jvp(X, V, labels, **given)[1]
    np.testing.assert_allclose(slope, (np.asarray(grad) * V).sum(), **close)
    pulled = oracle.pullback(lambda x: oracle.cross_entropy(x, labels, **given), X, 1.0)
    np.testing.assert_allclose(pulled, grad, **close)


def test_parts_and_binary():
    with mpmath.workdps(40):
        for row in X:
            lse = mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(a))) for a in row))
            np.testing.assert_allclose(oracle.logsumexp(row), float(lse), rtol=1e-15)
            np.testing.assert_allclose(oracle.log_softmax(row), [float(a - lse) for a in row], rtol=1e-14, atol=1e-15)
            np.testing.assert_allclose(oracle.softmax(row), [float(mpmath.exp(a - lse)) for a in row], rtol=1e-14)
        y = RNG.random(X.shape)
        loss, grad = oracle.binary_cross_entropy_value_and_grad(X, y, pos_weight=1.7, reduction="sum")
        pairs = [(mpmath.mpf(float(z)), mpmath.mpf(float(q))) for z, q in zip(X.ravel(), y.ravel(), strict=True)]
        one = mpmath.mpf(1)
        exact = [
            (one - q) * mpmath.log1p(mpmath.exp(z)) + mpmath.mpf(1.7) * q * mpmath.log1p(mpmath.exp(-z))
            for z, q in pairs
        ]
        slopes = [(one - q) / (1 + mpmath.exp(-z)) - mpmath.mpf(1.7) * q / (1 + mpmath.exp(z)) for z, q in pairs]
    np.testing.assert_allclose(loss, float(mpmath.fsum(exact)), rtol=1e-14)
    np.testing.assert_allclose(grad.ravel(), [float(a) for a in slopes], rtol=1e-13)


def test_the_layer():
    hidden, weight, bias = RNG.normal(size=(3, 2)), RNG.normal(size=(4, 2)), RNG.normal(size=4)
    labels, options = LABELS["index"], {"class_weight": W, "sample_weight": S, **OPTIONS}
    loss, gradients = oracle.linear_cross_entropy_value_and_grad(hidden, weight, labels, bias=bias, **options)
    assert loss == oracle.linear_cross_entropy(hidden, weight, labels, bias=bias, **options)
    given = [hidden, weight, bias]
    for i, gradient in enumerate(gradients):

        def f(a, i=i):
            h, w, b = (a if j == i else other for j, other in enumerate(given))
            return oracle.linear_cross_entropy(h, w, labels, bias=b, **options)

        np.testing.assert_allclose(gradient, oracle.pullback(f, given[i], 1.0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("strength", [2, 3])
def test_covering_arrays(strength):
    columns = {name: range(count) for name, count in zip("abcdefgh", (5, 5, 4, 3, 3, 2, 2, 1), strict=True)}
    rows = list(covering(columns, strength))
    assert rows == list(covering(columns, strength))
    for names in itertools.combinations(columns, strength):
        wanted = set(itertools.product(*(columns[name] for name in names)))
        assert {tuple(row[name] for name in names) for row in rows} == wanted


def test_rows_that_do_not_count():
    x = np.where(np.asarray([False, True, False])[:, None], np.nan, X)
    for options in ({}, {"sample_weight": np.asarray([1.0, 0, 1])}, {"class_weight": np.asarray([1.0, 1, 0, 1])}):
        labels = LABELS["index"] if not options else np.asarray([1, 2, 3])
        loss, grad = oracle.cross_entropy_value_and_grad(x, labels, **options)
        kept, kept_grad = oracle.cross_entropy_value_and_grad(x[[0, 2]], labels[[0, 2]])
        np.testing.assert_allclose(loss, kept, rtol=1e-15)
        np.testing.assert_allclose(grad, np.insert(kept_grad, 1, 0, axis=0), rtol=1e-15)
    loss, grad = oracle.cross_entropy_value_and_grad(X, np.full(3, -100))
    assert np.isnan(loss)
    np.testing.assert_array_equal(grad, 0)
