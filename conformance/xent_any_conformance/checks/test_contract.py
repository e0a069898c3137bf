"""What the contract promises of labels, weights, reductions, infinities, dtypes and inputs.

Rows are independent, and on libraries that compile or are lazy a call costs up to half a second. So the rows of many
checks are computed in one call, by the fixture `rows`, and each check looks at those that it is about.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from xent_any import Backend

from ..plugin import check
from ..subjects import HALF, Subject

INF, NAN = np.inf, np.nan
FUNCTIONS, LABELS = "docs/contract.md, Functions", "docs/contract.md, Labels"
WEIGHTS = "docs/contract.md, Weights, smoothing, reductions"
INFINITIES = "docs/contract.md, Ignored rows, infinities, NaN"
DTYPES = "docs/contract.md, Dtypes, devices, arrays"
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# 8 rows of 5 classes; even half precision holds the numbers.
RNG = np.random.default_rng(20240229)
X = np.clip(np.round(RNG.normal(size=(8, 5)) * 16) / 8, -4, 4)
Y = np.asarray([1, 3, 0, 2, 1, 1, 0, 3])
Q = np.where(np.arange(5) == Y[:, None], 9, RNG.integers(0, 4, (8, 5))) / 16  # of sums other than 1
V = np.round(RNG.normal(size=(8, 5)) * 8) / 4
S = np.asarray([1, 0.5, 2.5, 0.25, 1, 4, 0.5, 2])
W = np.asarray([0.5, 2, 1, 3, 0])
WEIGHTED = {"class_weight": W, "sample_weight": S}

BROKEN = np.asarray(
    [[NAN, 0, 1, 2, 3], [0, NAN, -INF, 1, 2], [INF, 0, 1, 2, 3], [0, 1, 2, 3, INF], [INF, -INF, 0, 1, 2], [-INF] * 5]
)
ABSENT = np.asarray([[0.5, -INF, 2, -1, 1], [-INF, 3, -INF, -INF, -INF], [-INF, 0, 1, 2, -INF]])
FAR = np.asarray([[0.0, 300, 270, 299, -50]])
SURE = np.asarray([[60.0, 0, 0, 0, 0]])
WRONG = {"wrapped": [-1, -2, -5], "clamped": [5, -6, 2**31 - 1], "modulo": [6, 13, 5002]}


class Group(NamedTuple):
    """Rows that are alike."""

    x: Any
    labels: Any
    weight: Any = 1.0
    direction: Any = 1.0


def groups(subject: Subject, labels: str) -> dict[str, Group]:
    """The rows computed in one call, with index labels or with probabilities."""
    huge = 0.99 * float(np.finfo(subject.dtype(subject(X))).max)
    unusable = np.stack([np.full(5, NAN), np.full(5, INF), [huge, -huge] * 2 + [1], *V[:4]])
    broken, finite = np.concatenate([BROKEN, X[:1]]), len(BROKEN)
    if labels == "index":
        found = {
            "finite": Group(X, Y, S, V),
            "absent": Group(ABSENT, [2, 1, 3]),
            "on absent": Group(ABSENT[[0, 2]], [1, 0]),
            "far": Group(FAR, [0]),
            "sure": Group(SURE, [0]),
            "broken": Group(BROKEN, [1] * finite),
            "ignored": Group(broken, [-100] * (finite + 1), 1.0, unusable),
            "weightless": Group(broken, [1] * (finite + 1), 0.0, unusable),
            "class of weight 0": Group(broken, [4] * (finite + 1), 1.0, unusable),
        }
        if not subject.reads(subject(Y)):  # where they are, they raise
            found |= {name: Group(np.tile(X[:1], (len(wrong), 1)), wrong) for name, wrong in WRONG.items()}
            found["wrong and weightless"] = Group(X[:2], [-1, 5], 0.0)
    else:
        found = {
            "finite": Group(X, Q, S, V),
            "one-hot": Group(X, np.eye(5)[Y], S, V),
            "absent": Group(ABSENT, [[0.25, 0, 0.75, 0, 0], [0, 1, 0, 0, 0], [0, 0.5, 0, 0.5, 0]]),
            "on absent": Group(ABSENT[[0, 2]], [[0.5, 0.5, 0, 0, 0], [0.25, 0.25, 0.25, 0.25, 0]]),
            "far": Group(FAR, np.eye(5)[[0]]),
            "sure": Group(SURE, np.eye(5)[[0]]),
            "broken": Group(BROKEN, [[0.25, 0.25, 0.25, 0.25, 0]] * finite),
            "weightless": Group(broken, [[0.25, 0.25, 0.25, 0.25, 0]] * (finite + 1), 0.0, unusable),
            "class of weight 0": Group(broken, [[0, 0, 0, 0, 1]] * (finite + 1), 1.0, unusable),
            "no target": Group(broken, [[0] * 5] * (finite + 1), 1.0, unusable),
        }
        if not subject.reads(subject(Q)):
            found["wrong"] = Group(X[:3], [[0.5, -0.5, 1, 0, 0], [NAN, 1, 0, 0, 0], [0, INF, 0, 0, 0]])
    if not subject.reads(subject(S)):
        found["wrong weight"] = Group(X[:3], found["finite"].labels[:3], [-1.0, NAN, INF])
    return {
        name: Group(
            np.asarray(group.x, float),
            np.asarray(group.labels),
            np.broadcast_to(np.asarray(group.weight, float), len(group.x)),
            np.broadcast_to(group.direction, np.shape(group.x)),
        )
        for name, group in found.items()
    }


ARGUMENTS = {
    "cross_entropy": ("x", "labels"),
    "cross_entropy_value_and_grad": ("x", "labels"),
    "cross_entropy_jvp": ("x", "direction", "labels"),
    "cross_entropy_hvp": ("x", "direction", "labels"),
    "nll_loss": ("x", "labels"),
    "softmax": ("x",),
    "log_softmax": ("x",),
    "logsumexp": ("x",),
}


class Computed:
    """What one call returns for all rows of all groups: ``self[name]`` are the results of one group."""

    def __init__(self, subject: Subject, function: str, labels: str, options: dict[str, Any]) -> None:
        self.subject, self.groups, self.options = subject, groups(subject, labels), options
        x, goal, weight, direction = map(np.concatenate, zip(*self.groups.values(), strict=True))
        self.inputs = {"x": x, "labels": goal, "direction": direction, "class_weight": W, "sample_weight": weight}
        self.arrays = {name: subject(values) for name, values in self.inputs.items()}
        names = ARGUMENTS[function]
        if "labels" in names:
            weights = {name: self.arrays[name] for name in WEIGHTED}
            options = {**weights, "reduction": "none", **options}
        found = getattr(subject.functions, function)(*(self.arrays[name] for name in names), **options)
        self.results = found if isinstance(found, tuple) else (found,)

    @functools.cached_property
    def values(self) -> list[Any]:
        """The results in NumPy."""
        return [self.subject.numpy(result) for result in self.results]

    def __getitem__(self, group: str) -> list[Any]:
        """The results of one group, in NumPy."""
        names = list(self.groups)
        start = sum(len(self.groups[name].x) for name in names[: names.index(group)])
        return [values[start : start + len(self.groups[group].x)] for values in self.values]

    def formula(self, group: str) -> tuple[Any, Any]:
        """Loss and gradient of the group's rows, from their definition."""
        x, labels, weight, _ = self.groups[group]
        return formula(x, labels, class_weight=W, sample_weight=weight, reduction="none", **self.options)

    def close(self, group: str, *expected: Any, roundings: float = 64, relative: bool = False) -> None:
        """Compare each result with what is expected of it."""
        for result, got, true in zip(self.results, self[group], expected, strict=True):
            if true is not None:
                near(got, self.subject.dtype(result), true, roundings, relative)

    def agrees(self, group: str, *, loss: bool = True, grad: bool = True) -> None:
        """Compare the loss and the gradient, or one of both, with the formula."""
        expected = self.formula(group)
        self.close(group, expected[0] if loss else None, expected[1] if grad else None)


@pytest.fixture(scope="session")
def rows(subject: Subject) -> Callable[..., Computed]:
    """``rows(function, labels="index", **options)``, computed once."""

    @functools.cache
    def compute(function: str = "cross_entropy_value_and_grad", labels: str = "index", **options: Any) -> Computed:
        return Computed(subject, function, labels, options)

    return compute


def formula(
    x: Any,
    labels: Any,
    *,
    class_weight: Any = 1.0,
    sample_weight: Any = 1.0,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    denominator: float | None = None,
) -> tuple[Any, Any]:
    """Loss and gradient from their definition, in NumPy's float64: of rows that can be computed, or do not count."""
    ignored = labels == ignore_index if labels.ndim == 1 else np.zeros(len(x), bool)
    q = labels if labels.ndim == 2 else np.eye(x.shape[1])[np.where(ignored, 0, labels)]
    s = sample_weight * (1.0 - ignored)
    weight = class_weight * ((1 - label_smoothing) * q + label_smoothing / x.shape[1])
    total = weight.sum(-1)
    uncounted = (s == 0) | ((total == 0) & (z_loss == 0))
    x = np.where(uncounted[:, None], 0.0, x)
    with np.errstate(all="ignore"):  # infinities, and the mean over nothing
        divisor = denominator or (s * (class_weight * q).sum(-1)).sum() if reduction == "mean" else 1.0
        capped = np.where(np.isfinite(x), softcap * np.tanh(x / softcap), x) if softcap else x
        slope = np.where(np.isfinite(x), 1 - (capped / softcap) ** 2, 0.0) if softcap else 1.0
        m = capped.max(-1)
        e = np.exp(capped - m[:, None])
        lse, p = m + np.log(e.sum(-1)), e / e.sum(-1, keepdims=True)
        cost = np.where(weight == 0, 0.0, weight * (lse[:, None] - capped)).sum(-1) + z_loss * lse**2
        grad = (total + 2 * z_loss * lse)[:, None] * p - weight
        loss = np.where(uncounted, 0.0, s * cost / divisor)
        grad = np.where(uncounted, 0.0, s / divisor)[:, None] * grad * slope
    return (loss if reduction == "none" else loss.sum()), grad


def near(got: Any, dtype: str, expected: Any, roundings: float = 64, relative: bool = False) -> None:
    """Compare NumPy arrays of results computed in `dtype` with the truth.

    The promised error is (8 + d) u, where d, the spread of the logits, is at most 16 here, and a few u for weights and
    sums of 8 rows: 64 u leave a factor of 2. Unless `relative`, it is of the largest expected value: where
    probabilities and labels cancel, the promise is one for their sizes.
    """
    got, expected = np.asarray(got, float), np.asarray(expected, float)
    finite = np.isfinite(expected)
    size = np.abs(expected) if relative else np.max(np.abs(expected), where=finite, initial=0.0)
    bound = np.where(finite, roundings * UNIT[dtype] * size, 0.0)
    np.testing.assert_array_equal(np.where(finite, 0.0, got), np.where(finite, 0.0, expected))
    with np.errstate(invalid="ignore"):
        right = ~finite | (np.abs(got - expected) <= bound)
    assert right.all(), f"got {got}, expected {expected}"


def close(subject: Subject, got: Any, expected: Any, roundings: float = 64, *, relative: bool = False) -> None:
    """Compare the subject's array with the truth, and its shape."""
    assert got.shape == np.shape(expected)
    near(subject.numpy(got), subject.dtype(got), expected, roundings, relative)


def value_and_grad(subject: Subject, x: Any, labels: Any, **options: Any) -> Any:
    """Loss and gradient of NumPy arrays, as the subject's arrays."""
    options = {name: subject(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    return subject.functions.cross_entropy_value_and_grad(subject(x), subject(labels), **options)


def agrees(subject: Subject, x: Any, labels: Any, **options: Any) -> None:
    """Compare loss and gradient with the formula."""
    for got, expected in zip(value_and_grad(subject, x, labels, **options), formula(x, labels, **options), strict=True):
        close(subject, got, expected)


# Labels


def refused(subject: Subject, rows: Any, kind: str) -> None:
    """Wrong labels raise with their value and position; where they cannot be read, their rows are NaN."""
    functions = [name for name, arguments in ARGUMENTS.items() if "labels" in arguments]
    if not subject.reads(subject(Y)):
        for name in functions:
            for values in rows(name)[kind]:
                assert np.isnan(values).all()
        return
    arrays = {"x": subject(X), "direction": subject(V)}
    for value in WRONG[kind]:
        labels = np.where(np.arange(8) == 2, value, Y)
        message = f"labels: expected class indices in [0, 5) or the ignore_index -100, but labels[2] is {value}"
        for name in functions:
            with pytest.raises(IndexError, match=re.escape(message) + "$"):
                getattr(subject.functions, name)(
                    *((arrays | {"labels": subject(labels)})[argument] for argument in ARGUMENTS[name])
                )


@check("contract.labels.wrapped", "A negative label is no class counted from the end.", source=LABELS)
def test_wrapped(subject: Subject, rows):
    refused(subject, rows, "wrapped")


@check("contract.labels.clamped", "A label just outside [0, C) is neither the first class nor the last.", source=LABELS)
def test_clamped(subject: Subject, rows):
    refused(subject, rows, "clamped")


@check("contract.labels.modulo", "A label beyond C is not the class modulo C.", source=LABELS)
def test_modulo(subject: Subject, rows):
    refused(subject, rows, "modulo")


@check(
    "contract.labels.wrong-but-ignored", "A wrong label is wrong in a row of sample weight 0 as well.", source=LABELS
)
def test_wrong_but_ignored(subject: Subject, rows):
    if not subject.reads(subject(Y)):
        for values in rows()["wrong and weightless"]:
            assert np.isnan(values).all()
        return
    with pytest.raises(IndexError, match=re.escape("labels[7] is 5")):
        value_and_grad(subject, X, np.where(np.arange(8) == 7, 5, Y), sample_weight=np.where(np.arange(8) == 7, 0, S))


@check(
    "contract.labels.wrong-counted-in-mean",
    "The mean with a wrong label is NaN, and the gradients of the other rows are as if it were not there.",
    source=LABELS,
)
def test_wrong_counted_in_mean(subject: Subject):
    if subject.reads(subject(Y)):
        pytest.skip("wrong labels raise here")
    there = np.arange(8) != 2
    loss, grad = value_and_grad(subject, X, np.where(there, Y, 7), **WEIGHTED)
    assert np.isnan(subject.numpy(loss))
    assert np.isnan(subject.numpy(grad)[2]).all()
    expected = formula(X[there], Y[there], class_weight=W, sample_weight=S[there])[1]
    near(subject.numpy(grad)[there], subject.dtype(grad), expected)


# Of 150 classes, which int8 cannot count: labels of each dtype that a careless conversion makes a class.
INTEGERS = {
    "int8": [-1, -128, -56],
    "uint8": [150, 255, 156],
    "int16": [150, -1, -200, 2**15 - 1],
    "uint16": [150, 2**16 - 1, 2**16 - 100],
    "int32": [150, 2**16, 2**31 - 1, -(2**31)],
    "uint32": [150, 2**31, 2**32 - 1, 2**32 - 100],
    "int64": [2**32, 2**32 + 1, 2**32 - 100, -(2**32), 2**63 - 1],
    "uint64": [2**32 + 1, 2**63, 2**64 - 1, 2**64 - 100],
}


@pytest.fixture(scope="session")
def wide(subject: Subject) -> Callable[[str], Any]:
    """Labels of one dtype, and the loss and gradient of rows of 150 classes: of those that can be computed."""

    @functools.cache
    def compute(dtype: str) -> Any:
        right = [0, 100, 127]
        wrong = right[: len(INTEGERS[dtype])] if subject.reads(subject(Y)) else INTEGERS[dtype]
        labels = np.asarray(right + wrong + [3] * (8 - len(right + wrong)), dtype)
        loss, grad = subject.functions.cross_entropy_value_and_grad(
            subject(np.tile(X, 30)), subject(labels, dtype), reduction="none"
        )
        return labels, loss, grad

    return compute


def integers(subject: Subject, quick: bool) -> list[str]:
    return [name for name in (("int8", "uint64", "uint32") if quick else INTEGERS) if subject.holds(name)]


@check("contract.labels.integer-dtype", "Index labels may have any integer dtype.", source=LABELS)
def test_integer_dtypes(subject: Subject, quick, wide):
    for dtype in integers(subject, quick):
        labels, loss, grad = wide(dtype)
        right = np.asarray([0, 1, 2])
        expected = formula(np.tile(X, 30)[right], labels[right].astype(int), reduction="none")
        for got, true in zip((loss, grad), expected, strict=True):
            near(subject.numpy(got)[right], subject.dtype(got), true)


@check(
    "contract.labels.truncated",
    "A label is compared in full: 2**32 + 1 is not class 1, and 2**32 - 100 is not the ignore_index -100.",
    source=LABELS,
)
def test_truncated(subject: Subject, quick, wide):
    for dtype in integers(subject, quick):
        if subject.reads(subject(Y)):
            for value in INTEGERS[dtype]:
                with pytest.raises(IndexError, match=re.escape(f"labels[1] is {value}") + "$"):
                    subject.functions.cross_entropy(
                        subject(np.zeros((3, 150))), subject(np.asarray([0, value, 1], dtype), dtype)
                    )
        else:
            _, loss, grad = wide(dtype)
            wrong = slice(3, 3 + len(INTEGERS[dtype]))
            assert np.isnan(subject.numpy(loss)[wrong]).all()
            assert np.isnan(subject.numpy(grad)[wrong]).all()


@check("contract.labels.ignore-index", "ignore_index is any integer, that a class has too, or None.", source=LABELS)
def test_ignore_index(subject: Subject, quick):
    for ignored in [1] if quick else [1, 2**70, None]:
        agrees(subject, X, Y, ignore_index=ignored)


@check("contract.labels.ignored-in-uint64", "ignore_index may be what only uint64 holds.", source=LABELS)
def test_ignored_in_uint64(subject: Subject, quick):
    for value in [2**64 - 1] if quick else [2**64 - 1, 2**63, 2**64 - 100]:
        labels = subject(np.asarray([0, value, *Y[2:]], np.uint64), "uint64")
        loss = subject.functions.cross_entropy(subject(X), labels, ignore_index=value, reduction="none")
        expected = formula(X, np.asarray([0, -100, *Y[2:]]), reduction="none")[0]
        close(subject, loss, expected)


@check(
    "contract.labels.not-ignored", "What is not equal to ignore_index, None included, is not ignored.", source=LABELS
)
def test_not_ignored(subject: Subject, quick):
    cases = [(-100, None, "int8"), (-100, 7, "int8"), (255, -1, "uint8")]
    for value, ignored, dtype in cases[:1] if quick else cases:
        labels = subject(np.asarray([0, value, *Y[2:]], dtype), dtype)
        if subject.reads(labels):
            allowed = "[0, 5)" if ignored is None else f"[0, 5) or the ignore_index {ignored}"
            message = f"labels: expected class indices in {allowed}, but labels[1] is {value}"
            with pytest.raises(IndexError, match=re.escape(message) + "$"):
                subject.functions.cross_entropy(subject(X), labels, ignore_index=ignored)
        else:
            loss = subject.functions.cross_entropy(subject(X), labels, ignore_index=ignored, reduction="none")
            np.testing.assert_array_equal(np.isnan(subject.numpy(loss)), np.arange(8) == 1)


@check("contract.labels.one-hot", "An index and its one-hot row agree in every reduction.", source=LABELS)
def test_one_hot(subject: Subject, quick, rows):
    one_hot = rows(labels="probabilities")
    one_hot.agrees("one-hot")
    for got, expected in zip(one_hot["one-hot"], rows()["finite"], strict=True):
        near(got, subject.dtype(one_hot.results[0]), expected)
    if not quick:
        for reduction in ("mean", "sum"):
            expected = formula(X, Y, **WEIGHTED, reduction=reduction)
            for got, true in zip(
                value_and_grad(subject, X, np.eye(5)[Y], **WEIGHTED, reduction=reduction), expected, strict=True
            ):
                close(subject, got, true)


@check(
    "contract.labels.wrong-probabilities",
    "A negative, infinite or NaN probability raises ValueError, or its row is NaN.",
    source=LABELS,
)
def test_wrong_probabilities(subject: Subject, rows):
    if not subject.reads(subject(Q)):
        for values in rows(labels="probabilities")["wrong"]:
            assert np.isnan(values).all()
        return
    for wrong in (-0.5, NAN, INF, -INF):
        labels = np.where((np.arange(8) == 2)[:, None] & (np.arange(5) == 4), wrong, Q)
        message = "labels: expected probabilities, finite and not negative, but row (2,)"
        with pytest.raises(ValueError, match=re.escape(message)):
            value_and_grad(subject, X, labels)


# The formula, and its options


@check("contract.loss.formula", "The loss of each row is that of the formula.", source=WEIGHTS)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_loss(rows, labels):
    rows(labels=labels).agrees("finite", grad=False)


@check("contract.gradient.formula", "The gradient of each row is that of the formula.", source=WEIGHTS)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_gradient(rows, labels):
    rows(labels=labels).agrees("finite", loss=False)


OPTIONS = {"smoothing": {"label_smoothing": 0.25}, "z-loss": {"z_loss": 0.125}, "softcap": {"softcap": 4.0}}
ALL = {**WEIGHTED, "label_smoothing": 0.25, "z_loss": 0.125, "softcap": 4.0}


@check("contract.options.together", "All options together follow the formula, in every reduction.", source=WEIGHTS)
def test_options_together(subject: Subject, quick):
    agrees(subject, X, Y, **ALL)
    if not quick:
        agrees(subject, X, Q, **ALL)
        for reduction in ("none", "sum"):
            agrees(subject, X, Y, **ALL, reduction=reduction)


@check("contract.options.none", "Without options the mean over the rows follows the formula.", source=WEIGHTS)
def test_no_options(subject: Subject, quick):
    agrees(subject, X, Y)
    if not quick:
        agrees(subject, X, Q)


@check(
    "contract.smoothing.spread-over-others",
    "Label smoothing gives each of the C classes e/C, the label's own included, and not e/(C-1) to the others.",
    source=WEIGHTS,
)
def test_smoothing(rows, quick):
    rows(label_smoothing=0.25).agrees("finite")
    if not quick:
        rows(label_smoothing=1.0).agrees("finite")
        rows(labels="probabilities", label_smoothing=0.25).agrees("finite")


@check(
    "contract.smoothing.divisor",
    "With label smoothing the mean divides as without: index labels follow PyTorch's formula.",
    source=WEIGHTS,
)
def test_smoothing_divisor(subject: Subject):
    log_p = X - np.log(np.exp(X).sum(-1, keepdims=True))
    counted = Y != 0
    nll, smooth = -log_p[np.arange(8), Y] * W[Y], -(log_p * W).sum(-1)
    expected = (0.75 * nll + 0.25 / 5 * smooth)[counted].sum() / W[Y][counted].sum()
    loss, _ = value_and_grad(subject, X, np.where(counted, Y, -100), class_weight=W, label_smoothing=0.25)
    close(subject, loss, expected)


@check("contract.z-loss.formula", "z-loss adds z lse**2 times the sample weight, not the class weight.", source=WEIGHTS)
def test_z_loss(rows, quick):
    rows(z_loss=0.125).agrees("finite")
    if not quick:
        rows(labels="probabilities", z_loss=0.125).agrees("finite")


@check("contract.softcap.formula", "softcap c computes with c tanh(x / c).", source=WEIGHTS)
def test_softcap(rows, quick):
    rows(softcap=4.0).agrees("finite")
    if not quick:
        rows(labels="probabilities", softcap=4.0).agrees("finite")


@check("contract.softcap.mask-lost", "A class at -inf is not there under softcap either.", source=WEIGHTS)
def test_mask_under_softcap(rows):
    rows(softcap=4.0).agrees("absent")
    rows(softcap=4.0).agrees("on absent")


# Weights and reductions


@check(
    "contract.gradient.not-scaled-by-weight",
    "The gradient of a row, its tangent and its Hessian are scaled by sample and class weight.",
    source=WEIGHTS,
)
def test_gradient_scaled_by_weight(rows):
    rows().agrees("finite", loss=False)
    rows(labels="probabilities").agrees("finite", loss=False)
    _, grad = formula(X, Y, **WEIGHTED, reduction="none")
    rows("cross_entropy_jvp").close("finite", None, (grad * V).sum(-1))
    rows("cross_entropy_hvp").close("finite", hessian(X, W[Y] * S))


def hessian(x: Any, weight: Any) -> Any:
    """The rows' Hessians times V."""
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    return weight[:, None] * p * (V - (p * V).sum(-1, keepdims=True))


@check(
    "contract.gradient.not-scaled-by-reduction",
    "The gradient of the mean, its tangent and its Hessian are divided as the mean is.",
    source=WEIGHTS,
)
def test_gradient_scaled_by_reduction(subject: Subject, quick):
    loss, grad = value_and_grad(subject, X, Y, **WEIGHTED)
    expected = formula(X, Y, **WEIGHTED)
    close(subject, grad, expected[1])
    if not quick:
        options = {name: subject(value) for name, value in WEIGHTED.items()}
        x, v, y = subject(X), subject(V), subject(Y)
        loss, slope = subject.functions.cross_entropy_jvp(x, v, y, **options)
        close(subject, loss, expected[0])
        close(subject, slope, (expected[1] * V).sum())
        weight = W[Y] * S
        close(subject, subject.functions.cross_entropy_hvp(x, v, y, **options), hessian(X, weight / weight.sum()))


@check(
    "contract.weights.missing-from-divisor",
    "The mean divides by the sum of the weights, sample times class weight, not by the number of rows.",
    source=WEIGHTS,
)
def test_divisor(subject: Subject, quick):
    for labels in [Y] if quick else [Y, Q]:
        loss, _ = value_and_grad(subject, X, labels, **WEIGHTED)
        close(subject, loss, formula(X, labels, **WEIGHTED)[0])


@check("contract.weights.mask", "Weights may be masks, or integers.", source=WEIGHTS)
def test_mask(subject: Subject):
    agrees(subject, X, Y, class_weight=np.asarray([1, 2, 1, 3, 0]), sample_weight=S < 2)


@check(
    "contract.weights.wrong",
    "A negative, infinite or NaN weight raises ValueError, or is NaN in the results that it enters.",
    source=WEIGHTS,
)
def test_wrong_weights(subject: Subject, rows):
    if subject.reads(subject(S)):
        for name, right in (*WEIGHTED.items(), ("denominator", np.asarray(2.0))):
            for wrong in (-1.0, INF, NAN):
                value = np.where(np.arange(right.size) == 1, wrong, right) if right.ndim else np.asarray(wrong)
                with pytest.raises(
                    ValueError, match=rf"^{name}: .*but {name}{'.1.' if right.ndim else ''} is {wrong}$"
                ):
                    value_and_grad(subject, X, Y, **WEIGHTED | {name: value})
        with pytest.raises(ValueError, match=r"but denominator is 0\.0$"):
            value_and_grad(subject, X, Y, denominator=np.asarray(0.0))
    else:
        for values in rows()["wrong weight"]:
            assert np.isnan(values).all()
        for wrong in (-1.0, NAN):
            entered = Y == 1
            loss, grad = value_and_grad(
                subject, X, Y, class_weight=np.where(np.arange(5) == 1, wrong, W), sample_weight=S, reduction="none"
            )
            np.testing.assert_array_equal(np.isnan(subject.numpy(loss)), entered)
            np.testing.assert_array_equal(np.isnan(subject.numpy(grad)), np.broadcast_to(entered[:, None], X.shape))
        assert np.isnan(subject.numpy(value_and_grad(subject, X, Y, denominator=np.asarray(-1.0))[0]))


@check(
    "contract.weights.vanishing",
    "A float64 weight that float32 does not hold is wrong, not 0 or inf, where logits are float32.",
    source=WEIGHTS,
)
def test_vanishing_weights(subject: Subject):
    if "float64" not in subject.dtypes:
        pytest.skip("no float64 here")
    x, y = subject(X, "float32"), subject(Y)
    for value in (1e-50, 1e50):
        weight = subject(np.where(np.arange(8) == 2, value, S), "float64")
        if subject.reads(weight):
            message = (
                f"sample_weight: expected finite float32 numbers that are not negative, but sample_weight[2] is {value}"
            )
            with np.errstate(over="ignore"), pytest.raises(ValueError, match=re.escape(message)):
                subject.functions.cross_entropy(x, y, sample_weight=weight)
        else:
            loss = subject.functions.cross_entropy(x, y, sample_weight=weight, reduction="none")
            np.testing.assert_array_equal(np.isnan(subject.numpy(loss)), np.arange(8) == 2)


@check(
    "contract.weights.overflow-to-zero",
    "Where the sum of the weights overflows, the mean is NaN, not 0, and so is its gradient.",
    source=WEIGHTS,
)
def test_overflowing_weights(subject: Subject):
    largest = float(np.finfo(subject.dtype(subject(S))).max)
    with np.errstate(over="ignore", invalid="ignore"):
        loss, grad = value_and_grad(subject, X, Y, class_weight=W, sample_weight=np.full(8, 0.9 * largest))
    loss, grad = subject.numpy(loss), subject.numpy(grad)
    if np.isnan(loss):
        assert np.isnan(grad).all()
    else:  # a library whose numbers have no largest
        np.testing.assert_allclose(loss, formula(X, Y, class_weight=W)[0])
        np.testing.assert_allclose(grad, formula(X, Y, class_weight=W)[1])


@check("contract.denominator.ignored", "denominator replaces the mean's divisor, in the gradient too.", source=WEIGHTS)
def test_denominator(subject: Subject, quick):
    agrees(subject, X, Y, **WEIGHTED, denominator=4)
    if not quick:
        agrees(subject, X, Y, **WEIGHTED, denominator=np.asarray(3.0))
        agrees(subject, X, np.full(8, -100), denominator=4)  # 0, not the mean over nothing


@check("contract.mean.over-nothing", "The mean over nothing is NaN, and its gradient 0.", source=WEIGHTS)
def test_mean_over_nothing(subject: Subject, quick):
    nothing = np.full(8, -100)
    cases = [
        (nothing, WEIGHTED),
        (Y, {**WEIGHTED, "sample_weight": np.zeros(8)}),
        (np.full(8, 4), WEIGHTED),
        (np.full(8, 4), {"class_weight": W, "label_smoothing": 0.25}),
        (np.zeros((8, 5)), {}),
    ]
    for labels, options in cases[:1] if quick else cases:
        loss, grad = value_and_grad(subject, X, labels, **options)
        assert np.isnan(subject.numpy(loss))
        np.testing.assert_array_equal(subject.numpy(grad), np.zeros((8, 5)))
    if not quick:
        slope = subject.functions.cross_entropy_jvp(subject(X), subject(V), subject(nothing))[1]
        assert subject.numpy(slope) == 0


@check("contract.sum.over-nothing", "The sum over nothing is 0, and so is its gradient.", source=WEIGHTS)
def test_sum_over_nothing(subject: Subject):
    loss, grad = value_and_grad(subject, X, np.full(8, -100), reduction="sum")
    assert subject.numpy(loss) == 0
    np.testing.assert_array_equal(subject.numpy(grad), np.zeros((8, 5)))


@check("contract.empty.batch", "No rows: the mean is NaN, the sum 0, and the shapes are kept.", source=WEIGHTS)
def test_empty(subject: Subject, quick):
    for shape, soft, reduction in (
        ((0, 5), False, "mean"),
        ((0, 5), False, "sum"),
        ((2, 0, 5), True, "mean"),
        ((2, 0, 5), True, "none"),
    )[: 1 if quick else 4]:
        labels = np.zeros(shape) if soft else np.zeros(shape[:-1], np.int64)
        loss, grad = value_and_grad(subject, np.zeros(shape), labels, reduction=reduction)
        assert grad.shape == shape
        assert loss.shape == (shape[:-1] if reduction == "none" else ())
        if reduction != "none":
            np.testing.assert_array_equal(subject.numpy(loss), NAN if reduction == "mean" else 0)
    if not quick:
        x = subject(np.zeros((0, 5)))
        assert subject.functions.softmax(x).shape == subject.functions.log_softmax(x).shape == (0, 5)
        assert subject.functions.logsumexp(x).shape == (0,)
        assert np.isnan(subject.numpy(subject.functions.binary_cross_entropy(x, x)))


# Ignored rows and infinities


@check("contract.ignored.counted-in-mean", "Ignored rows are outside the mean.", source=INFINITIES)
def test_ignored_in_mean(subject: Subject, quick):
    agrees(subject, X, np.where(Y == 0, -100, Y))
    if not quick:
        agrees(subject, X, Y, sample_weight=S * (Y != 0))


def zero(computed: Computed, group: str) -> None:
    for values in computed[group]:
        np.testing.assert_array_equal(values, np.zeros_like(values))


FOUR = ["cross_entropy_value_and_grad", "cross_entropy_jvp", "cross_entropy_hvp", "nll_loss"]


@check(
    "contract.ignored.nan-leaks",
    "Loss, gradient, tangent and Hessian of a row with label ignore_index are 0, even if it holds NaN or inf.",
    source=INFINITIES,
)
@pytest.mark.parametrize("function", FOUR)
def test_ignored(rows, quick, function):
    zero(rows(function), "ignored")
    if not quick and function == FOUR[0]:
        for options in OPTIONS.values():
            zero(rows(**options), "ignored")


@check(
    "contract.ignored.sample-weight-0",
    "Loss, gradient, tangent and Hessian of a row of sample weight 0 are 0, even if it holds NaN or inf.",
    source=INFINITIES,
)
@pytest.mark.parametrize("function", FOUR)
def test_weightless(rows, quick, function):
    zero(rows(function), "weightless")
    if function == FOUR[0]:
        zero(rows(labels="probabilities"), "weightless")
        for options in () if quick else OPTIONS.values():
            zero(rows(**options), "weightless")


@check(
    "contract.ignored.class-weight-0",
    "Loss, gradient, tangent and Hessian are 0 where all classes of the target have weight 0, or none is its target.",
    source=INFINITIES,
)
@pytest.mark.parametrize("function", FOUR)
def test_class_of_weight_0(rows, function):
    zero(rows(function), "class of weight 0")
    if function == FOUR[0]:
        zero(rows(labels="probabilities"), "class of weight 0")
        zero(rows(labels="probabilities"), "no target")


@check(
    "contract.infinities.absent-class-counted", "A class at -inf adds nothing; its gradient is 0.", source=INFINITIES
)
def test_absent(rows, quick):
    for options in [{}] if quick else [{}, *OPTIONS.values()]:
        computed = rows(**options)
        computed.agrees("absent")
        if "label_smoothing" not in options:
            grad = computed["absent"][1]
            np.testing.assert_array_equal(grad[np.isneginf(ABSENT)], 0)


@check(
    "contract.infinities.zero-times-infinity",
    "A zero probability on a class at -inf adds 0, not NaN.",
    source=INFINITIES,
)
def test_zero_times_infinity(rows):
    rows(labels="probabilities").agrees("absent")


@check(
    "contract.infinities.epsilon-in-log",
    "A label on a class at -inf costs inf, with gradient p - q; on one 300 below the maximum it costs 300.",
    source=INFINITIES,
)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_on_absent(rows, labels):
    computed = rows(labels=labels)
    computed.agrees("on absent")
    assert np.isposinf(computed["on absent"][0]).all()
    computed.agrees("far")


@check(
    "contract.infinities.probabilities-clamped",
    "A class 60 below the maximum has the probability exp(-60), in loss, gradient and softmax; there is no floor.",
    source=INFINITIES,
)
def test_no_floor(rows):
    tiny = np.exp(-60.0)
    grad = np.asarray([[-4 * tiny, tiny, tiny, tiny, tiny]])
    # Twice the distance of 60 and some units more; float64 sums 1 + 4 exp(-60) to 1.
    for labels in ("index", "probabilities"):
        rows(labels=labels).close("sure", [0.5 * 4 * tiny], 0.5 * grad, roundings=150, relative=True)
    rows("softmax").close("sure", [[1, tiny, tiny, tiny, tiny]], roundings=150, relative=True)


def broken(computed: Computed, group: Any) -> None:
    """Loss and gradient are NaN in the rows `group` of BROKEN; an absent class may keep its 0."""
    loss, grad = (values[group] for values in computed["broken"])
    assert np.isnan(loss).all()
    may_be_0 = np.isneginf(BROKEN[group]) & ~np.isneginf(BROKEN[group]).all(-1, keepdims=True)
    assert (np.isnan(grad) | (may_be_0 & (grad == 0))).all()


@check("contract.infinities.nan-ignored", "A counted row with NaN is NaN in loss and gradient.", source=INFINITIES)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_nan(rows, quick, labels):
    for options in [{}] if quick else [{}, *OPTIONS.values()]:
        broken(rows(labels=labels, **options), slice(0, 2))


@check(
    "contract.infinities.finite-number",
    "A counted row with inf, or with -inf only, is NaN in loss and gradient, never a finite number.",
    source=INFINITIES,
)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_inf(rows, quick, labels):
    for options in [{}] if quick else [{}, *OPTIONS.values()]:
        broken(rows(labels=labels, **options), slice(2, None))


@check("contract.infinities.nll-loss", "nll_loss treats its log-probabilities alike.", source=INFINITIES)
def test_infinities_of_nll_loss(rows):
    computed = rows("nll_loss")
    assert np.isnan(computed["broken"][0]).all()
    computed.close("absent", [-2.0, -6.0, -6.0])
    computed.close("on absent", [INF, INF])


@check(
    "contract.infinities.maximum-not-guarded",
    "logsumexp of only -inf is -inf, and inf where one is inf; a maximum that is not finite is not subtracted.",
    source=INFINITIES,
)
def test_infinities_of_logsumexp(rows):
    computed = rows("logsumexp")
    computed.close("broken", [NAN, NAN, INF, INF, INF, -INF])
    computed.close("absent", np.log(np.exp(ABSENT).sum(-1)))


@check("contract.infinities.parts", "softmax and log_softmax of a class at -inf are 0 and -inf.", source=INFINITIES)
def test_infinities_of_parts(rows):
    p = np.exp(ABSENT) / np.exp(ABSENT).sum(-1, keepdims=True)
    rows("softmax").close("absent", p)
    with np.errstate(divide="ignore"):
        rows("log_softmax").close("absent", np.log(p))
    for name, kept in (("softmax", 0), ("log_softmax", -INF)):
        (values,) = rows(name)["broken"]
        assert (np.isnan(values) | (np.isneginf(BROKEN) & (values == kept))).all()


# Parts, axes, dtypes, arrays


@check("contract.parts.formula", "softmax, log_softmax and logsumexp follow their definitions.", source=FUNCTIONS)
def test_parts(rows):
    lse = np.log(np.exp(X).sum(-1))
    rows("softmax").close("finite", np.exp(X - lse[:, None]))
    rows("log_softmax").close("finite", X - lse[:, None])
    rows("logsumexp").close("finite", lse)


@check("contract.parts.nll-of-log-softmax", "nll_loss(log_softmax(x), y) equals cross_entropy(x, y).", source=FUNCTIONS)
def test_nll_of_log_softmax(subject: Subject, rows, quick):
    rows("nll_loss").close("finite", -X[np.arange(8), Y] * W[Y] * S)
    if not quick:
        log_p = subject.functions.log_softmax(subject(X))
        options = {**WEIGHTED, "label_smoothing": 0.25}
        arrays = {name: subject(value) for name, value in WEIGHTED.items()}
        for labels in (Y, Q):
            loss = subject.functions.nll_loss(log_p, subject(labels), label_smoothing=0.25, **arrays)
            close(subject, loss, formula(X, labels, **options)[0])


@check(
    "contract.loss.differs-between-functions",
    "All functions return the same loss to the bit.",
    source=DTYPES,
)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_same_loss(subject: Subject, rows, quick, labels):
    expected = rows(labels=labels).values[0]
    np.testing.assert_array_equal(rows("cross_entropy", labels).values[0], expected)
    np.testing.assert_array_equal(rows("cross_entropy_jvp", labels).values[0], expected)
    if not quick:
        options = {k: subject(v) if isinstance(v, np.ndarray) else v for k, v in ALL.items()}
        x, y = subject(X), subject(Y if labels == "index" else Q)
        expected = subject.numpy(subject.functions.cross_entropy(x, y, **options))
        for loss, _ in (
            subject.functions.cross_entropy_value_and_grad(x, y, **options),
            subject.functions.cross_entropy_jvp(x, x, y, **options),
        ):
            np.testing.assert_array_equal(subject.numpy(loss), expected)
