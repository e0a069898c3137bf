"""Where the promise ends: what the comparison with the truth takes, on either side of the bound."""

import numpy as np
import pytest

from xent_any_conformance import cases, compare, truth

NORMAL = {"float32": 2.0**-126, "float64": 2.0**-1022}
AHEAD = {"float32": 95.0, "float64": 740.0}
"""How far a maximum is ahead whose row has exponentials below the smallest normal number."""
BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])
V = np.asarray([0.5, -1.0, 0.75, 2.0])


def takes(values, true, dtype):
    """Whether the comparison takes all of these values."""
    try:
        compare.at_most(truth.errors(np.asarray(values), true, dtype)[1], 1)
    except AssertionError:
        return False
    return True


def row(ahead, dtype, label=0, direction=V, **options):
    x = np.asarray([ahead, 0, 0, 0], dtype)
    return truth.row(x, np.eye(4)[label], direction, dtype, truth.Options(**options), soft=False)


def results(true):
    """The true values as they are nearest in float64."""
    return np.ldexp(true.high, true.exponent)


OF_A_ROW = {  # what the smallest normal number is multiplied by, for C = 4 and T = 1
    "loss": 4.0,
    "grad": 4.0,
    "slope": 4.0 * np.sum(np.abs(V)),
    "product": 4.0 * (np.max(V) - np.min(V)),
}


@BOTH
@pytest.mark.parametrize("scale", [1.0, 2.0**27])
@pytest.mark.parametrize("quantity", OF_A_ROW)
def test_faint_results_have_an_absolute_error(quantity, scale, dtype):
    true = getattr(row(AHEAD[dtype], dtype, scale=scale), quantity)
    assert np.all(true.faint)
    exact, bound = results(true), OF_A_ROW[quantity] * scale * NORMAL[dtype]
    assert takes(np.zeros(true.high.shape), true, dtype)  # flushed
    for sign in (1, -1):
        assert takes(exact + 0.999 * sign * bound, true, dtype)
        for wrong in (exact + 1.001 * sign * bound, exact + np.nan, exact + sign * np.inf, exact + sign):
            assert not takes(wrong, true, dtype)


@BOTH
def test_faint_terms_that_cancel(dtype):
    v = np.asarray([0.5, -1.25, 0.75, 2])  # the mean of the others is that at the label
    true = row(AHEAD[dtype], dtype, direction=v).slope
    assert results(true) == 0
    assert takes(0.999 * 4 * 4.5 * NORMAL[dtype], true, dtype)
    assert not takes(1.001 * 4 * 4.5 * NORMAL[dtype], true, dtype)


@BOTH
@pytest.mark.parametrize("quantity", ["grad", "product"])
def test_one_wrong_component_is_enough(quantity, dtype):
    true = getattr(row(AHEAD[dtype], dtype), quantity)
    for position in range(4):
        for wrong in (np.nan, 1.0, 2 * OF_A_ROW[quantity] * NORMAL[dtype]):
            values = np.where(np.arange(4) == position, wrong, results(true))
            assert not takes(values, true, dtype)


@pytest.mark.parametrize(
    ("dtype", "last", "first"),  # C 2**-100 = exp(-67.9), and C 2**-1000 = exp(-691.8)
    [("float32", 67.0, 69.5), ("float64", 690.0, 693.5)],
)
@pytest.mark.parametrize("label", [0, 1])
def test_where_digits_end(dtype, last, first, label):
    """Just above the threshold the bound is (8 + d) u, and nothing else; just below it, that of faint results."""
    u = 2.0 ** -truth.DIGITS[dtype]
    assert last in cases.MARGINS
    above, below = (row(ahead, dtype, label) for ahead in (last, first))
    if label == 0:
        assert below.loss.faint
    pairs = [(above.loss, last), (above.grad, 2 * last)] if label == 0 else [(above.grad, 2 * last)]
    for true, distance in pairs:
        assert not np.any(true.faint)
        exact = results(true)
        assert takes(exact * (1 + 0.99 * 8 * u), true, dtype)
        assert not takes(exact * (1 + 1.01 * (8 + distance) * u), true, dtype)
        assert not takes(exact * 0, true, dtype)
    assert np.all(below.grad.faint[2:])


@BOTH
def test_the_bound_grows_with_what_multiplies_probabilities(dtype):
    """Class weights, smoothing and the z-loss are in the scale."""
    weights = np.asarray([3.0, 1, 1, 1])
    true = row(AHEAD[dtype], dtype, weights=weights).loss
    assert takes(results(true) + 0.999 * 12 * NORMAL[dtype], true, dtype)
    assert not takes(results(true) + 1.001 * 12 * NORMAL[dtype], true, dtype)
    lse = AHEAD[dtype] + 1  # to which the square's derivative is in proportion
    true = row(AHEAD[dtype], dtype, 1, z_loss=0.25).grad
    bound = 4 * (1 + 0.5 * lse) * NORMAL[dtype]
    assert true.faint.tolist() == [False, False, True, True]
    assert takes(results(true) + bound * np.asarray([0, 0, 0.999, 0.999]), true, dtype)
    assert not takes(results(true) + bound * np.asarray([0, 0, 0, 1.001]), true, dtype)


@BOTH
def test_classes_that_are_not_there(dtype):
    """Their zeros are exact, as is the loss of a single class: no exponential is in them."""
    x = np.asarray([3, 0, -np.inf], dtype)
    true = truth.row(x, np.eye(3)[0], np.zeros(3), dtype, truth.Options(), soft=False).grad
    exact = results(true)
    assert takes(exact, true, dtype)
    assert not takes(exact + np.asarray([0, 0, NORMAL[dtype] / 4]), true, dtype)
    alone = truth.row(x[:1], np.ones(1), np.zeros(1), dtype, truth.Options(), soft=False)
    assert takes(0.0, alone.loss, dtype)
    assert not takes(NORMAL[dtype] / 4, alone.loss, dtype)


def test_results_below_the_smallest_normal_number():
    """A small scale makes them of probabilities that are not small; flushed, they are 0, and no further off."""
    true = row(65.0, "float32", scale=2.0**-40).grad
    assert takes(np.zeros(4), true, "float32")
    assert takes(results(true) + 0.999 * NORMAL["float32"], true, "float32")
    assert not takes(results(true) + 1.001 * NORMAL["float32"], true, "float32")


@BOTH
@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_events(weight, dtype):
    for z, y in ((AHEAD[dtype], 1.0), (-AHEAD[dtype], 0.0)):
        for true in truth.binary(z, y, weight, dtype):
            bound = 2 * (weight if y else 1) * NORMAL[dtype]
            assert true.faint
            assert takes(0.0, true, dtype)
            assert takes(results(true) + 0.999 * bound, true, dtype)
            assert not takes(results(true) + 1.001 * bound, true, dtype)
            assert not takes(np.nan, true, dtype)
    for true in truth.binary(cases.LAST[dtype], 1.0, weight, dtype):
        assert not true.faint
        assert not takes(0.0, true, dtype)


@BOTH
def test_the_parts(dtype):
    for true, shares in zip(truth.parts([AHEAD[dtype], 0, 0, 0], dtype), (None, 4, 1), strict=True):
        if shares is None:
            assert not true.faint  # lse is 95, to which nothing is small
            continue
        small = true.faint
        assert small.tolist() == ([True, False, False, False] if shares == 4 else [False, True, True, True])
        exact, bound = results(true), shares * NORMAL[dtype]
        assert takes(np.where(small, 0, exact), true, dtype)
        assert takes(np.where(small, exact + 0.999 * bound, exact), true, dtype)
        assert not takes(np.where(small, exact + 1.001 * bound, exact), true, dtype)
        assert not takes(np.where(small, np.nan, exact), true, dtype)
    lse = truth.parts([0, -AHEAD[dtype], -AHEAD[dtype], -AHEAD[dtype]], dtype)[0]
    assert takes(0.0, lse, dtype)
    assert not takes(results(lse) + 1.001 * 4 * NORMAL[dtype], lse, dtype)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_rounded_to_half_precision(half):
    """However small a gradient is, its bound is finite: half of a spacing more."""
    for ahead in (30.0, 95.0, 700.0):
        true = truth.rounded_to(row(ahead, "float32").grad, half)
        spacing = 2.0 ** truth.LOWEST[half]
        assert np.all(np.isfinite(true.bound))
        assert takes(np.zeros(4), true, half) == (ahead > 67 or half == "float16")
        assert not takes(results(true) + 2 * spacing + 8 * NORMAL["float32"], true, half) or ahead == 30
        assert not takes(np.full(4, np.nan), true, half)
