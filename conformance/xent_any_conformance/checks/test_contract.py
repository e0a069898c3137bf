"""What the contract promises of labels, weights, reductions, ignored rows and infinities."""

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ..compare import equal, is_nan, raises, same
from ..plugin import check
from ..subjects import Subject
from ._contract import (
    ABSENT,
    ARGUMENTS,
    BROKEN,
    INF,
    NAN,
    WEIGHTED,
    WRONG,
    Computed,
    Q,
    S,
    V,
    W,
    X,
    Y,
    agrees,
    binary_formula,
    close,
    few,
    formula,
    near,
    rows,
    value_and_grad,
)

LABELS = "docs/contract.md, Labels"
WEIGHTS = "docs/contract.md, Weights, smoothing, reductions"
INFINITIES = "docs/contract.md, Ignored rows, infinities, NaN"

THIRD = np.arange(8) == 2
SMOOTHED = {"class_weight": W, "label_smoothing": 0.25}
FOUR = ["cross_entropy_value_and_grad", "cross_entropy_jvp", "cross_entropy_hvp", "nll_loss"]


def reads_labels(subject: Subject) -> bool:
    return subject.reads(subject(Y))


# Labels


def refused(subject: Subject, kind: str) -> None:
    """Wrong labels raise with their value and position; where they cannot be read, their rows are NaN."""
    functions = ["cross_entropy", *FOUR]
    if not reads_labels(subject):
        for name in functions:
            for values in rows(subject, name)[kind]:
                is_nan(values)
        return
    for value in WRONG[kind]:
        arrays = {"x": subject(X), "direction": subject(V), "labels": subject(np.where(THIRD, value, Y))}
        message = f"labels: expected class indices in [0, 5) or the ignore_index -100, but labels[2] is {value}"
        for name in functions:
            with raises(IndexError, re.escape(message) + "; "):
                getattr(subject.functions, name)(*(arrays[argument] for argument in ARGUMENTS[name]))


@check("contract.labels.wrapped", "A negative label is no class counted from the end.", source=LABELS)
def test_wrapped(subject: Subject):
    refused(subject, "wrapped")


@check("contract.labels.clamped", "A label outside [0, C) is neither the first class nor the last.", source=LABELS)
def test_clamped(subject: Subject):
    refused(subject, "clamped")


@check("contract.labels.modulo", "A label beyond C is not the class modulo C.", source=LABELS)
def test_modulo(subject: Subject):
    refused(subject, "modulo")


@check(
    "contract.labels.wrong-but-weightless", "A wrong label is wrong in a row of sample weight 0, too.", source=LABELS
)
def test_wrong_but_weightless(subject: Subject):
    if reads_labels(subject):
        with raises(IndexError, re.escape("labels[2] is 5")):
            value_and_grad(subject, X, np.where(THIRD, 5, Y), sample_weight=np.where(THIRD, 0, S))
    else:
        for values in rows(subject)["wrong and weightless"]:
            is_nan(values)


@check(
    "contract.labels.wrong-counted-in-mean",
    "The mean with a wrong label is NaN, and the gradients of the other rows are as if it were not there.",
    source=LABELS,
)
def test_wrong_counted_in_mean(subject: Subject, quick):
    if reads_labels(subject):
        pytest.skip("wrong labels raise here")
    loss, grad = value_and_grad(subject, X, np.where(THIRD, 7, Y), **WEIGHTED)
    is_nan(subject.numpy(loss))
    is_nan(subject.numpy(grad)[THIRD])
    expected = formula(X[~THIRD], Y[~THIRD], class_weight=W, sample_weight=S[~THIRD])[1]
    near(subject.numpy(grad)[~THIRD], subject.dtype(grad), expected)
    for values in value_and_grad(
        subject, X, np.full(8, 7), **WEIGHTED
    ):  # not the mean over nothing, whose gradient is 0
        is_nan(subject.numpy(values))
    if not quick:
        weights = {name: subject(value) for name, value in WEIGHTED.items()}
        _, slope = subject.functions.cross_entropy_jvp(subject(X), subject(V), subject(np.full(8, 7)), **weights)
        is_nan(subject.numpy(slope))


# Of 150 classes, which int8 cannot count: for each dtype an ignore_index, and labels that a careless conversion makes a
# class or the ignored one.
INTEGERS = {
    "int8": (None, [-1, -128, -100]),
    "uint8": (-1, [150, 255]),
    "int16": (7, [150, -1, -106, -100]),
    "uint16": (-100, [150, 2**16 - 1, 2**16 - 100]),
    "int32": (2**31 - 1, [150, 2**16, -1, -(2**31)]),
    "uint32": (-100, [150, 2**31, 2**32 - 1, 2**32 - 100]),
    "int64": (-100, [2**32, 2**32 + 1, 2**32 - 100, 2**63 - 1]),
    "uint64": (-100, [2**32 + 1, 2**63, 2**64 - 1, 2**64 - 100]),
}


EACH_INTEGER = [pytest.param(n, marks=[] if n in ("int8", "uint64") else [pytest.mark.full]) for n in INTEGERS]


@pytest.fixture(scope="session")
def integer_labels(subject: Subject) -> Callable[[str], Any]:
    """Loss and gradient, in NumPy, with labels of one dtype: two right ones, and wrong ones where they don't raise."""

    @functools.cache
    def compute(dtype: str) -> Any:
        ignored, wrong = INTEGERS[dtype]
        labels = [0, 127] if reads_labels(subject) else [0, 127, *wrong]
        x = subject(np.tile(X, 30)[: len(labels)])
        y = subject(np.asarray(labels, dtype), dtype)
        loss, grad = subject.functions.cross_entropy_value_and_grad(x, y, ignore_index=ignored, reduction="none")
        return subject.numpy(loss), subject.numpy(grad), subject.dtype(loss)

    return compute


@check("contract.labels.integer-dtype", "Index labels may have any integer dtype.", source=LABELS)
@pytest.mark.parametrize("dtype", EACH_INTEGER)
def test_integer_dtypes(dtype, integer_labels):
    loss, grad, computed = integer_labels(dtype)
    expected = formula(np.tile(X, 30)[:2], np.asarray([0, 127]), reduction="none")
    near(loss[:2], computed, expected[0])
    near(grad[:2], computed, expected[1])


@check(
    "contract.labels.classes-counted-in-label-dtype",
    "int8 labels are right for 300 classes, more than int8 tells apart: class 256 is not class 0.",
    source=LABELS,
)
@pytest.mark.full
def test_more_classes_than_the_dtype(subject: Subject):
    if not subject.holds("int8"):
        pytest.skip("no int8 here")
    x, labels = np.tile(X, 60)[:3], np.asarray([0, 43, 127])
    loss, grad = subject.functions.cross_entropy_value_and_grad(subject(x), subject(labels, "int8"), reduction="none")
    for got, true in zip((loss, grad), formula(x, labels, reduction="none"), strict=True):
        close(subject, got, true)


@check("contract.labels.ignore-index", "ignore_index is any integer, that a class has too, or None.", source=LABELS)
def test_ignore_index(subject: Subject, quick):
    for given in (0, 2):  # the first class, and one between those that there are
        agrees(subject, X, Y, ignore_index=given, **SMOOTHED)
    for ignored in () if few(subject, quick) else (2**70, None):
        agrees(subject, X, Y, ignore_index=ignored)


@check("contract.labels.beside-ignore-index", "A label beside a large ignore_index is not ignored.", source=LABELS)
def test_beside_ignore_index(subject: Subject):
    for dtype, ignored in (("int64", 2**62), ("int64", -(2**53)), ("int32", 2**30), ("int32", -(2**24))):
        if not subject.holds(dtype):
            continue
        for beside in (ignored - 1, ignored + 1):
            labels = subject(np.asarray([0, ignored, beside], dtype), dtype)
            if subject.reads(labels):
                with raises(IndexError, rf"^labels: .* labels\[2\] is {beside}; "):
                    subject.functions.cross_entropy(subject(X[:3]), labels, ignore_index=ignored)
            else:
                loss = subject.functions.cross_entropy(subject(X[:3]), labels, ignore_index=ignored, reduction="none")
                same(loss.shape, (3,), "shape")
                if subject.has_values:
                    is_nan(subject.numpy(loss), np.arange(3) == 2)


@check("contract.labels.ignored-in-uint64", "ignore_index may be what only uint64 holds.", source=LABELS)
@pytest.mark.full
def test_ignored_in_uint64(subject: Subject, quick):
    for value in [2**64 - 1] if few(subject, quick) else [2**64 - 1, 2**63, 2**64 - 100]:
        labels = subject(np.asarray([0, value, *Y[2:]], np.uint64), "uint64")
        loss = subject.functions.cross_entropy(subject(X), labels, ignore_index=value, reduction="none")
        close(subject, loss, formula(X, np.asarray([0, -100, *Y[2:]]), reduction="none")[0])


@check(
    "contract.labels.truncated",
    "A label is compared in full: 2**32 + 1 is not class 1, and 2**32 - 100 is not -100.",
    source=LABELS,
)
@pytest.mark.parametrize("dtype", EACH_INTEGER)
def test_truncated(subject: Subject, dtype, integer_labels):
    ignored, wrong = INTEGERS[dtype]
    if not reads_labels(subject):
        loss, grad, _ = integer_labels(dtype)
        is_nan(loss[2:])
        is_nan(grad[2:])
        return
    allowed = "[0, 150)" if ignored is None else f"[0, 150) or the ignore_index {ignored}"
    for value in wrong:
        message = f"labels: expected class indices in {allowed}, but labels[1] is {value}"
        labels = subject(np.asarray([0, value, 1], dtype), dtype)
        with raises(IndexError, re.escape(message) + "; "):
            subject.functions.cross_entropy(subject(np.zeros((3, 150))), labels, ignore_index=ignored)


@check("contract.labels.one-hot", "An index and its one-hot row agree in every reduction.", source=LABELS)
def test_one_hot(subject: Subject, quick):
    one_hot = rows(subject, labels="probabilities")
    one_hot.agrees("one-hot")
    one_hot.close("one-hot", *rows(subject)["finite"])
    if not few(subject, quick):
        for got, true in zip(
            value_and_grad(subject, X, np.eye(5)[Y], **WEIGHTED), formula(X, Y, **WEIGHTED), strict=True
        ):
            close(subject, got, true)


@check(
    "contract.labels.wrong-probabilities",
    "A negative, infinite or NaN probability raises ValueError, or its row is NaN.",
    source=LABELS,
)
def test_wrong_probabilities(subject: Subject):
    if not subject.reads(subject(Q)):
        for values in rows(subject, labels="probabilities")["wrong"]:
            is_nan(values)
        return
    for wrong in (-0.5, NAN, INF, -INF):
        labels = np.where(THIRD[:, None] & (np.arange(5) == 4), wrong, Q)
        message = "labels: expected probabilities, finite and not negative, but row (2,) has another value"
        with raises(ValueError, re.escape(message)):
            value_and_grad(subject, X, labels)


# The formula and its options

OPTIONS: dict[str, Any] = {"label_smoothing": 0.25, "z_loss": 0.125, "softcap": 4.0}
EACH = [{name: value} for name, value in OPTIONS.items()]


def option(subject: Subject, quick: bool, name: str) -> dict[str, Any]:
    """One option alone, or together with the others."""
    return OPTIONS if few(subject, quick) else {name: OPTIONS[name]}


@check("contract.loss.formula", "The loss of each row is that of the formula.", source=WEIGHTS)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_loss(subject: Subject, labels):
    rows(subject, labels=labels).agrees("finite", grad=False)


@check("contract.gradient.formula", "The gradient of each row is that of the formula.", source=WEIGHTS)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_gradient(subject: Subject, labels):
    rows(subject, labels=labels).agrees("finite", loss=False)


@check("contract.options.together", "All options together follow the formula, in every reduction.", source=WEIGHTS)
def test_options_together(subject: Subject, quick):
    rows(subject, **OPTIONS).agrees("finite")
    if not few(subject, quick):
        rows(subject, labels="probabilities", **OPTIONS).agrees("finite")
        for reduction in ("mean", "sum"):
            agrees(subject, X, Y, **WEIGHTED, **OPTIONS, reduction=reduction)


@check("contract.options.equal-to-1", "An option of 1 is not taken for one that is not given.", source=WEIGHTS)
@pytest.mark.full
def test_options_of_1(subject: Subject):
    agrees(subject, X, Y, **WEIGHTED, label_smoothing=1.0, z_loss=1.0, softcap=1.0, denominator=1)


@check("contract.options.defaults", "Without options the mean over the rows follows the formula.", source=WEIGHTS)
@pytest.mark.full
def test_no_options(subject: Subject, quick):
    agrees(subject, X, Y)
    if not few(subject, quick):
        agrees(subject, X, Q)


@check(
    "contract.smoothing.spread-over-others",
    "Label smoothing gives each of the C classes e/C, the label's own included, not e/(C-1) to the others.",
    source=WEIGHTS,
)
def test_smoothing(subject: Subject, quick):
    rows(subject, **option(subject, quick, "label_smoothing")).agrees("finite")
    if not few(subject, quick):
        rows(subject, label_smoothing=1.0).agrees("finite")
        rows(subject, labels="probabilities", label_smoothing=0.25).agrees("finite")


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
    close(subject, value_and_grad(subject, X, Y, ignore_index=0, **SMOOTHED)[0], expected)


@check("contract.z-loss.formula", "z-loss adds z lse**2 times the sample weight, not the class weight.", source=WEIGHTS)
def test_z_loss(subject: Subject, quick):
    rows(subject, **option(subject, quick, "z_loss")).agrees("finite")
    if not few(subject, quick):
        rows(subject, labels="probabilities", z_loss=0.125).agrees("finite")


@check(
    "contract.z-loss.uncounted",
    "A row whose class weights are 0 has its z-loss: it costs z lse**2, and NaN where it holds NaN.",
    source=WEIGHTS,
)
def test_z_loss_of_weight_0(subject: Subject):
    computed = rows(subject, z_loss=0.125)
    for values, expected in zip(computed["class of weight 0"], computed.formula("class of weight 0"), strict=True):
        near(values[-1], subject.dtype(computed.results[0]), expected[-1])
        is_nan(values[:2])


@check("contract.softcap.formula", "softcap c computes with c tanh(x / c).", source=WEIGHTS)
def test_softcap(subject: Subject, quick):
    rows(subject, **option(subject, quick, "softcap")).agrees("finite")
    if not few(subject, quick):
        rows(subject, labels="probabilities", softcap=4.0).agrees("finite")


@check("contract.softcap.mask-lost", "A class at -inf is not there under softcap either.", source=WEIGHTS)
def test_mask_under_softcap(subject: Subject, quick):
    computed = rows(subject, **option(subject, quick, "softcap"))
    computed.agrees("absent")
    computed.agrees("on absent")


# Weights and reductions


def hessian(weight: Any) -> Any:
    """The rows' Hessians times V."""
    p = np.exp(X) / np.exp(X).sum(-1, keepdims=True)
    return weight[:, None] * p * (V - (p * V).sum(-1, keepdims=True))


@check(
    "contract.gradient.not-scaled-by-weight",
    "The gradient of a row, its tangent and its Hessian are scaled by sample and class weight.",
    source=WEIGHTS,
)
def test_gradient_scaled_by_weight(subject: Subject):
    rows(subject).agrees("finite", loss=False)
    rows(subject, labels="probabilities").agrees("finite", loss=False)
    grad = formula(X, Y, **WEIGHTED, reduction="none")[1]
    rows(subject, "cross_entropy_jvp").close("finite", None, (grad * V).sum(-1))
    rows(subject, "cross_entropy_hvp").close("finite", hessian(W[Y] * S))


@check(
    "contract.gradient.not-scaled-by-reduction",
    "The gradient of the mean, its tangent and its Hessian are divided as the mean is.",
    source=WEIGHTS,
)
def test_gradient_scaled_by_reduction(subject: Subject, quick):
    loss, grad = formula(X, Y, **WEIGHTED)
    close(subject, value_and_grad(subject, X, Y, **WEIGHTED)[1], grad)
    if not quick:
        options = {name: subject(value) for name, value in WEIGHTED.items()}
        x, v, y, weight = subject(X), subject(V), subject(Y), W[Y] * S
        found, slope = subject.functions.cross_entropy_jvp(x, v, y, **options)
        close(subject, found, loss)
        close(subject, slope, (grad * V).sum())
        close(subject, subject.functions.cross_entropy_hvp(x, v, y, **options), hessian(weight / weight.sum()))


@check(
    "contract.weights.missing-from-divisor",
    "The mean divides by the sum of the weights, sample times class weight, not by the number of rows.",
    source=WEIGHTS,
)
def test_divisor(subject: Subject, quick):
    for labels in [Y] if few(subject, quick) else [Y, Q]:
        loss, _ = value_and_grad(subject, X, labels, **WEIGHTED)
        close(subject, loss, formula(X, labels, **WEIGHTED)[0])


MASKS = {"class_weight": np.asarray([1, 2, 1, 3, 0]), "sample_weight": S < 2}


@check("contract.weights.mask", "Weights may be masks, or integers.", source=WEIGHTS)
@pytest.mark.full
def test_mask(subject: Subject):
    agrees(subject, X, Y, **MASKS, denominator=np.asarray(3.0))


@check("contract.denominator.ignored", "denominator replaces the mean's divisor, in the gradient too.", source=WEIGHTS)
def test_denominator(subject: Subject, quick):
    agrees(subject, X, Y, **MASKS, denominator=np.asarray(3.0))
    if not quick:
        agrees(subject, X, Y, **WEIGHTED, denominator=4)
        agrees(subject, X, np.full(8, -100), **WEIGHTED, denominator=4)  # 0, not the mean over nothing


@check(
    "contract.weights.wrong",
    "A negative, infinite or NaN weight raises ValueError, or is NaN in the results that it enters.",
    source=WEIGHTS,
)
def test_wrong_weights(subject: Subject, quick):
    if subject.reads(subject(S)):
        for name, right in (*WEIGHTED.items(), ("denominator", np.asarray(2.0))):
            for wrong in (-1.0, INF, NAN):
                value = np.where(np.arange(right.size) == 1, wrong, right) if right.ndim else np.asarray(wrong)
                message = f"but {name}{'[1]' if right.ndim else ''} is {wrong}"
                with raises(ValueError, f"^{name}: expected .*{re.escape(message)}; "):
                    value_and_grad(subject, X, Y, **WEIGHTED | {name: value})
        return
    for values in rows(subject)["wrong weight"]:
        is_nan(values)
    for wrong in (-1.0,) if quick else (-1.0, NAN):
        loss, _ = value_and_grad(subject, X, Y, **MASKS, denominator=np.asarray(wrong))
        is_nan(subject.numpy(loss))
        if not few(subject, quick):
            class_weight = np.where(np.arange(5) == 1, wrong, W)
            loss, grad = value_and_grad(subject, X, Y, class_weight=class_weight, reduction="none")
            is_nan(subject.numpy(loss), Y == 1)
            is_nan(subject.numpy(grad), np.tile(Y == 1, (5, 1)).T)


@check(
    "contract.weights.wrong-in-each-dtype",
    "Where values are read, a wrong probability, event or weight raises ValueError in every real floating dtype.",
    source=WEIGHTS,
)
def test_wrong_in_each_dtype(subject: Subject):
    if not subject.reads(subject(S)):
        pytest.skip("wrong values are NaN here")
    softmax, binary = subject.functions.cross_entropy, subject.functions.binary_cross_entropy
    given = [(softmax, Y, {"labels": Q, **WEIGHTED, "denominator": np.asarray(2.0)})]
    given += [(binary, Q, {"labels": Q, "pos_weight": 1 + W, "sample_weight": 4 * Q})]
    for dtype in subject.dtypes:
        for function, labels, arguments in given:
            for name, right in arguments.items():
                for wrong in (-1.0, INF, NAN):
                    value = np.where(np.arange(right.size).reshape(right.shape) == right.size - 1, wrong, right)
                    options = {"labels": subject(labels), name: subject(value, dtype)}
                    with raises(ValueError, f"^{name}: expected"):
                        function(subject(X, dtype), **options)


@check("contract.weights.zero-denominator", "A denominator of 0 raises ValueError, or the mean is NaN.", source=WEIGHTS)
@pytest.mark.full
def test_zero_denominator(subject: Subject):
    denominator = np.asarray(0.0)
    if subject.reads(subject(S)):
        with raises(ValueError, r"denominator: expected a positive finite .*, but denominator is 0\.0; "):
            value_and_grad(subject, X, Y, **MASKS, denominator=denominator)
    else:
        is_nan(subject.numpy(value_and_grad(subject, X, Y, **MASKS, denominator=denominator)[0]))


WIDE: dict[str, dict[str, Any]] = {
    "cross_entropy": {"class_weight": W, "sample_weight": S, "denominator": np.asarray(2.0), "labels": Q},
    "binary_cross_entropy": {"pos_weight": 1 + W, "sample_weight": Q, "denominator": np.asarray(2.0), "labels": Q},
}


@check(
    "contract.weights.vanishing",
    "A float64 weight or probability that float32 does not hold, or only without its sign, is wrong where logits are "
    "float32; it does not become 0 or inf. A positive probability may.",
    source=WEIGHTS,
)
@pytest.mark.parametrize("function", list(WIDE))
def test_vanishing(subject: Subject, quick, function):
    if "float64" not in subject.dtypes:
        pytest.skip("no float64 here")
    x, right = subject(X, "float32"), WIDE[function]
    wrong = [(name, value) for value in (-1e-50, 1e-50, 1e50) for name in reversed(right)]
    wrong.remove(("labels", 1e-50))
    for name, value in wrong[:1] if few(subject, quick) and not subject.reads(subject(S)) else wrong:
        size = right[name].size
        given = {
            **right,
            name: np.where(np.arange(size).reshape(right[name].shape) == min(2, size - 1), value, right[name]),
        }
        arrays = {key: subject(values) for key, values in given.items()}
        called = functools.partial(getattr(subject.functions, function), x, **arrays)
        if subject.reads(subject(S)):
            with np.errstate(over="ignore"), raises(ValueError, f"^{name}: expected"):
                called()
            continue
        loss = subject.numpy(called())
        if value > 0 and not np.isnan(loss):  # right as well, of a library whose float32 has a larger range
            labels = given.pop("labels")
            if function == "cross_entropy":
                expected = formula(X, labels, **given)[0]
            else:
                losses, _ = binary_formula(X, labels, given["pos_weight"], given["sample_weight"])
                expected = losses.sum() / given["denominator"]
            near(loss, "float32", expected)
        else:
            is_nan(loss)


@check(
    "contract.weights.overflow-to-zero",
    "Where the sum of the weights overflows, or one over the denominator, that is a ValueError, or the mean and its "
    "gradient are NaN; not 0.",
    source=WEIGHTS,
)
def test_overflowing_weights(subject: Subject):
    largest = float(np.finfo(subject.dtype(subject(S))).max)
    weights = {"class_weight": W, "sample_weight": np.full(8, 0.9 * largest)}
    if subject.reads(subject(S)):
        with raises(ValueError, r"^sample_weight: expected weights whose sum is a finite .*, got inf; "):
            value_and_grad(subject, X, Y, **weights)
        with raises(
            ValueError, r"^denominator: expected weights and a divisor of the mean whose quotient is a finite "
        ):
            value_and_grad(subject, X, Y, **weights, denominator=np.asarray(0.125))
        return
    with np.errstate(over="ignore", invalid="ignore"):
        results = value_and_grad(subject, X, Y, **weights)
    # Right as well, of a library whose numbers have no largest.
    is_true = not np.isnan(subject.numpy(results[0]))
    for result, right in zip(results, formula(X, Y, class_weight=W), strict=True):
        near(subject.numpy(result), subject.dtype(result), right if is_true else np.full_like(right, NAN))


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
    for labels, options in cases[:1] if quick else cases[:3] if few(subject, quick) else cases:
        loss, grad = value_and_grad(subject, X, labels, **options)
        is_nan(subject.numpy(loss))
        equal(subject.numpy(grad), np.zeros((8, 5)))
    if not few(subject, quick):
        slope = subject.functions.cross_entropy_jvp(subject(X), subject(V), subject(nothing))[1]
        equal(subject.numpy(slope), 0)


@check("contract.sum.over-nothing", "The sum over nothing is 0.", source=WEIGHTS)
@pytest.mark.full
def test_sum_over_nothing(subject: Subject):
    loss = subject.functions.cross_entropy(subject(X), subject(np.full(8, -100)), reduction="sum")
    equal(subject.numpy(loss), 0)


@check("contract.empty.batch", "Of no rows the mean is NaN and the sum 0; the shapes are kept.", source=WEIGHTS)
def test_empty(subject: Subject, quick):
    cases = [((0, 5), "mean"), ((0, 5), "sum"), ((2, 0, 5), "mean"), ((2, 0, 5), "none")]
    for shape, reduction in cases[:1] if few(subject, quick) else cases:
        labels = np.zeros(shape) if len(shape) == 3 else np.zeros(shape[:-1], int)
        loss, grad = value_and_grad(subject, np.zeros(shape), labels, reduction=reduction)
        expected = {"mean": np.asarray(NAN), "sum": np.asarray(0.0), "none": np.zeros(shape[:-1])}[reduction]
        same(grad.shape, shape, "shape")
        same(loss.shape, expected.shape, "shape")
        equal(subject.numpy(loss), expected)


# Ignored rows and infinities


def zero(computed: Computed, group: str) -> None:
    for values in computed[group]:
        equal(values, 0)


def variants(subject: Subject, quick: bool) -> list[dict[str, Any]]:
    return [{}] if quick else [{}, OPTIONS] if few(subject, quick) else [{}, *EACH]


@check("contract.ignored.counted-in-mean", "Ignored rows are outside the mean.", source=INFINITIES)
def test_ignored_in_mean(subject: Subject, quick):
    agrees(subject, X, np.where(Y == 0, -100, Y))
    if not few(subject, quick):
        agrees(subject, X, Y, sample_weight=S * (Y != 0))


@check(
    "contract.ignored.nan-leaks",
    "Loss, gradient, tangent and Hessian of a row with label ignore_index are 0, even if it holds NaN or inf.",
    source=INFINITIES,
)
@pytest.mark.parametrize("function", FOUR)
def test_ignored(subject: Subject, quick, function):
    for options in variants(subject, quick) if function == FOUR[0] else [{}]:
        zero(rows(subject, function, **options), "ignored")


@check(
    "contract.ignored.counted-vector",
    "NaN in the tangent or vector of a counted row is not taken for one that may hold anything.",
    source=INFINITIES,
)
def test_counted_vector(subject: Subject):
    odd, ignored = np.arange(8) % 2 == 1, np.arange(8) == 3
    x, y = subject(X), subject(np.where(ignored, -100, Y))
    v = subject(np.where(odd[:, None], NAN, V))
    _, slope = subject.functions.cross_entropy_jvp(x, v, y, reduction="none")
    product = subject.functions.cross_entropy_hvp(x, v, y, reduction="none")
    for values in (subject.numpy(slope)[:, None], subject.numpy(product)):
        equal(values[ignored], 0)
        is_nan(values, np.broadcast_to((odd & ~ignored)[:, None], values.shape))


@check(
    "contract.ignored.sample-weight-0",
    "Loss, gradient, tangent and Hessian of a row of sample weight 0 are 0, even if it holds NaN or inf.",
    source=INFINITIES,
)
@pytest.mark.parametrize("function", FOUR)
def test_weightless(subject: Subject, quick, function):
    for options in variants(subject, quick) if function == FOUR[0] else [{}]:
        zero(rows(subject, function, **options), "weightless")
    if function == FOUR[0]:
        zero(rows(subject, labels="probabilities"), "weightless")


@check(
    "contract.ignored.class-weight-0",
    "Loss, gradient, tangent and Hessian are 0 where the classes of the target have weight 0, or there is no target.",
    source=INFINITIES,
)
@pytest.mark.parametrize("function", FOUR)
def test_class_of_weight_0(subject: Subject, function):
    zero(rows(subject, function), "class of weight 0")
    if function == FOUR[0]:
        zero(rows(subject, labels="probabilities"), "class of weight 0")
        zero(rows(subject, labels="probabilities"), "no target")


@check(
    "contract.infinities.absent-class-counted", "A class at -inf adds nothing; its gradient is 0.", source=INFINITIES
)
def test_absent(subject: Subject, quick):
    for options in variants(subject, quick):
        computed = rows(subject, **options)
        computed.agrees("absent")
        if "label_smoothing" not in options:
            equal(computed["absent"][1][np.isneginf(ABSENT)], 0)


@check("contract.infinities.zero-times-infinity", "A zero probability on a class at -inf adds 0.", source=INFINITIES)
def test_zero_times_infinity(subject: Subject):
    rows(subject, labels="probabilities").agrees("absent")


@check(
    "contract.infinities.epsilon-in-log",
    "A label on a class at -inf costs inf, with gradient p - q; on one 300 below the maximum it costs 300.",
    source=INFINITIES,
)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_on_absent(subject: Subject, labels):
    computed = rows(subject, labels=labels)
    computed.agrees("on absent")
    equal(computed["on absent"][0], INF)
    computed.agrees("far")


@check(
    "contract.infinities.probabilities-clamped",
    "A class 60 below the maximum has the probability exp(-60) in loss, gradient and softmax: there is no floor.",
    source=INFINITIES,
)
def test_no_floor(subject: Subject):
    tiny = np.exp(-60.0)
    grad = np.asarray([[-4 * tiny, tiny, tiny, tiny, tiny]])
    # The bound is (8 + 60 + 60) u, and some u for the weight 0.5.
    for labels in ("index", "probabilities"):
        rows(subject, labels=labels).close("sure", [0.5 * 4 * tiny], 0.5 * grad, roundings=140, relative=True)
    rows(subject, "softmax").close("sure", [[1, tiny, tiny, tiny, tiny]], roundings=140, relative=True)


def broken_rows_are_nan(computed: Computed, part: slice) -> None:
    """Loss and gradient are NaN in these rows of BROKEN; an absent class may keep its 0."""
    loss, grad = (values[part] for values in computed["broken"])
    is_nan(loss)
    absent = np.isneginf(BROKEN[part])
    may_be_0 = absent & ~absent.all(-1, keepdims=True)
    is_nan(np.where(may_be_0 & (grad == 0), NAN, grad))


@check("contract.infinities.nan-ignored", "A counted row with NaN is NaN in loss and gradient.", source=INFINITIES)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_nan(subject: Subject, quick, labels):
    for options in variants(subject, quick):
        broken_rows_are_nan(rows(subject, labels=labels, **options), slice(0, 2))


@check(
    "contract.infinities.finite-number",
    "A counted row with inf, or with -inf only, is NaN in loss and gradient, never a finite number.",
    source=INFINITIES,
)
@pytest.mark.parametrize("labels", ["index", "probabilities"])
def test_inf(subject: Subject, quick, labels):
    for options in variants(subject, quick):
        broken_rows_are_nan(rows(subject, labels=labels, **options), slice(2, None))


def positive_and_not(subject: Subject) -> tuple[Any, Any, Any]:
    """Log-probabilities of which rows 2 to 5 are probabilities, labels and weights; rows 3 and 5 do not count."""
    p = np.exp(X) / np.exp(X).sum(-1, keepdims=True)
    is_positive = np.isin(np.arange(8), (2, 3, 4, 5))
    p[4] = np.eye(5)[0]  # at the label 1 it is 0
    found = np.where(is_positive[:, None], p, np.log(p))
    labels, weight = np.where(np.arange(8) == 3, -100, Y), np.where(np.arange(8) == 5, 0, S)
    return found, np.where(np.arange(8) == 4, 1, labels), weight


@check(
    "contract.log-probs.positive",
    "A positive log-probability in a row that counts, of any class, raises ValueError, or its row is NaN in loss and "
    "gradient.",
    source=INFINITIES,
)
def test_positive_log_probabilities(subject: Subject, quick):
    log_p, labels, weight = positive_and_not(subject)
    f, s = subject.functions.nll_loss, subject(weight)
    if not subject.reads(s):
        losses = subject.numpy(f(subject(log_p), subject(labels), sample_weight=s, reduction="none"))
        equal(np.isnan(losses), np.isin(np.arange(8), (2, 4)))
        equal(losses[[3, 5]], 0)
    for kept in (2, 4) if subject.reads(s) else ():
        others = np.isin(np.arange(8), (2, 4)) & (np.arange(8) != kept)
        given = np.where(others[:, None], -1.0 - log_p, log_p)
        label = np.argmax(given[kept])
        for axis, place in ((1, f"{kept}, {label}"), (0, f"{label}, {kept}")):
            message = rf"log_probs\[{place}\] is {str(given[kept, label])[:5]}\d*; pass log_softmax\(logits\), or"
            for options in ({"reduction": "none"}, {}, {"label_smoothing": 0.25}):
                with raises(ValueError, f"^log_probs: expected log-probabilities, .*, but {message}"):
                    f(subject(given.T if axis == 0 else given), subject(labels), axis=axis, sample_weight=s, **options)
    if subject.reads(s):
        with raises(ValueError, "^log_probs: expected log-probabilities"):
            f(subject(log_p), subject(Q))
    if "grad" in subject.backend.transforms and not quick:
        y = subject(labels)
        grad = subject.backend.transforms["grad"](lambda x: subject.xp.sum(f(x, y, sample_weight=s, reduction="none")))
        values = subject.numpy(grad(subject(log_p)))
        equal(np.isnan(values).any(-1), np.isin(np.arange(8), (2, 4)))
        equal(values[[3, 5]], 0)


@check(
    "contract.log-probs.rounded",
    "A log-probability that rounding has made positive is right.",
    source=INFINITIES,
)
def test_rounded_log_probabilities(subject: Subject):
    eps = float(np.finfo(subject.dtype(subject(X))).eps)
    log_p = np.asarray([[4 * eps, -INF, -40, -40, -40], [32 * eps, -30, -30, -30, -30], [0, -INF, -INF, -INF, -INF]])
    losses = subject.functions.nll_loss(subject(log_p), subject(np.asarray([2, 0, 0])), reduction="none")
    near(subject.numpy(losses), subject.dtype(losses), [40, -32 * eps, 0])


@check(
    "contract.log-probs.bound",
    "A log-probability may be above 0 by sqrt(eps) times the distance from 0 to its row's lowest, at most 32 of it.",
    source=INFINITIES,
)
def test_bound_of_log_probabilities(subject: Subject):
    f, y = subject.functions.nll_loss, subject(np.asarray([0]))
    root = float(np.sqrt(np.finfo(subject.dtype(subject(X))).eps))
    for low in (-1.0, -8.0, -100.0):
        for times in (0.5, 2.0):
            log_p = subject(np.where(np.arange(5) == 3, times * root * min(-low, 32), low)[None])
            if times > 1 and subject.reads(y):
                with raises(ValueError, r"^log_probs: expected log-probabilities, .*log_probs\[0, 3\] is "):
                    f(log_p, y, reduction="none")
            else:
                losses = f(log_p, y, reduction="none")
                near(subject.numpy(losses), subject.dtype(losses), [-low if times < 1 else NAN])


@check("contract.infinities.nll-loss", "nll_loss treats its log-probabilities alike.", source=INFINITIES)
def test_infinities_of_nll_loss(subject: Subject):
    computed = rows(subject, "nll_loss")
    is_nan(computed["broken"][0])
    computed.close("absent", [2.0, 6.0, 6.0])
    computed.close("on absent", [INF, INF])


@check(
    "contract.infinities.maximum-not-guarded",
    "logsumexp of only -inf is -inf, and inf where one is inf: such a maximum is not subtracted.",
    source=INFINITIES,
)
def test_infinities_of_logsumexp(subject: Subject):
    computed = rows(subject, "logsumexp")
    computed.close("broken", [NAN, NAN, INF, INF, INF, -INF])
    computed.close("absent", np.log(np.exp(ABSENT).sum(-1)))


@check("contract.infinities.parts", "softmax and log_softmax of a class at -inf are 0 and -inf.", source=INFINITIES)
def test_infinities_of_parts(subject: Subject):
    p = np.exp(ABSENT) / np.exp(ABSENT).sum(-1, keepdims=True)
    rows(subject, "softmax").close("absent", p)
    with np.errstate(divide="ignore"):
        rows(subject, "log_softmax").close("absent", np.log(p))
    for name, kept in (("softmax", 0), ("log_softmax", -INF)):
        (values,) = rows(subject, name)["broken"]
        is_nan(np.where(np.isneginf(BROKEN) & (values == kept), NAN, values))
