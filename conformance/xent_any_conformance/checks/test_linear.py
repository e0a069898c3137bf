"""The linear layer and its loss together: the same as of its logits, however the rows are cut into blocks."""

from typing import Any

import numpy as np
import pytest

from .. import oracle
from ..compare import equal, is_nan, same, within
from ..plugin import check
from ..subjects import HALF, Subject
from .test_contract_errors import rejects
from .test_gradient import ALL, Q, Y, truth
from .test_transforms import C, convert, declared, dtype, fast, make  # noqa: F401  (dtype is a fixture)

# In few enough bits for every dtype to hold these, their products and the logits. A third row is ignored.
HIDDEN = np.asarray([[1, -0.5, 2], [0.25, 1.5, -1], [-2, 0.5, 1], [1.5, 1, -0.25]])
WEIGHT = np.asarray([[0.5, 1, -0.25], [1, -1.5, 0.5], [-1, 0.25, 1], [2, 0.5, 1.5], [-0.75, 1, 0]])
BIAS = np.asarray([0.5, -1, 0, 0.25, 1])
LOGITS = HIDDEN @ WEIGHT.T + BIAS
ONE_ROW = 1  # as max_bytes: a block is never less than a row, or a class of one
FUNCTIONS, LABELS, DTYPES = (
    f"docs/contract.md, {part}" for part in ("Linear layer", "Labels", "Dtypes, devices, arrays")
)


def gradients(g: Any, hidden: Any = HIDDEN) -> tuple[Any, Any, Any]:
    """Of the layer's inputs, weight and bias, from that of the logits."""
    return g @ WEIGHT, g.T @ hidden, g.sum(0)


def assert_true(subject: Subject, found: Any, expected: Any, bound: Any) -> None:
    same(found.shape, np.shape(expected), "shape")
    within(subject.numpy(found), expected, bound)


@check(
    "gradient.linear",
    "Loss and gradients of a linear layer are those of the definition, computed together or in blocks.",
    source=FUNCTIONS,
)
def test_gradients(subject: Subject, quick: bool, dtype: str) -> None:  # noqa: F811
    h, w, b = make(subject, dtype, HIDDEN, WEIGHT, BIAS)
    few = 48 * np.dtype(dtype).itemsize  # as max_bytes: two blocks of classes, where these may be cut
    cases: list[tuple[Any, dict[str, Any], str, int | None]] = [(Y, {}, "mean", ONE_ROW), (Q, ALL, "sum", None)]
    if not (quick and subject.costly):
        cases += [(Y, ALL, "sum", few)]
    if not quick:
        cases += [(Y, ALL, "none", ONE_ROW), (Q, ALL, "mean", ONE_ROW), (Y, ALL, "denominator", None)]
    for labels, options, reduction, max_bytes in cases:
        true = truth(LOGITS, labels, options, reduction)
        made = convert(subject, dtype, options) | {"max_bytes": max_bytes}
        made |= {"denominator": 7.0} if reduction == "denominator" else {"reduction": reduction}
        (y,) = make(subject, dtype, labels)
        loss, found = subject.functions.linear_cross_entropy_value_and_grad(h, w, y, bias=b, **made)
        alone = subject.functions.linear_cross_entropy(h, w, y, bias=b, **made)
        # As in the checks of the gradient of the logits, of which a few are then added up.
        error = 64 * float(np.finfo(dtype).eps) / 2 * (true.scale * true.size)[:, None] * np.ones(5)
        expected = true.loss if reduction == "none" else true.loss.sum()
        for value in (loss, alone):
            assert_true(subject, value, expected, error.max() * (1 + abs(true.loss).max()))
        bounds = error @ abs(WEIGHT), error.T @ abs(HIDDEN), error.sum(0)
        for a, exact, bound in zip(found, gradients(true.grad), bounds, strict=True):
            assert_true(subject, a, exact, 4 * bound)


@check(
    "contract.linear.ties",
    "Classes that tie all count, in whatever blocks they are; absent ones do not, be they all of a block.",
    source=FUNCTIONS,
)
def test_ties(subject: Subject, dtype: str) -> None:  # noqa: F811
    f = subject.functions.linear_cross_entropy_value_and_grad
    absent = np.where(np.arange(5) > 1, -np.inf, BIAS)
    for weight, bias in ((WEIGHT[[3, 0, 3, 1, 3]], np.asarray([4.0, 0, 4, 0, 4])), (WEIGHT, absent)):
        y = np.asarray([0, 1, -100, 1])
        loss, true = oracle.linear_cross_entropy_value_and_grad(HIDDEN, weight, y, bias=bias)
        h, w, b = make(subject, dtype, HIDDEN, weight, bias)
        for max_bytes in (None, ONE_ROW):
            found = f(h, w, subject(y), bias=b, max_bytes=max_bytes)
            bound = 1e3 * float(np.finfo(dtype).eps)
            for a, exact in zip((found[0], *found[1]), (loss, *true), strict=True):
                assert_true(subject, a, exact, bound)


@check(
    "contract.linear.shapes",
    "Inputs of any leading axes have losses and gradients of these; without a bias its gradient is None.",
    source=FUNCTIONS,
)
def test_shapes(subject: Subject, dtype: str) -> None:  # noqa: F811
    f = subject.functions.linear_cross_entropy_value_and_grad
    w, deep, one = make(subject, dtype, WEIGHT, HIDDEN.reshape(2, 2, 3), HIDDEN[0])
    for h, y in ((deep, Y.reshape(2, 2)), (one, np.asarray(1))):
        loss, (d_hidden, d_weight, d_bias) = f(h, w, subject(y), reduction="none")
        found = loss, d_hidden, d_weight
        same([a.shape for a in found], [y.shape, h.shape, w.shape], "shapes")
        same(d_bias, None)
        same([subject.dtype(a) for a in found], [dtype] * 3, "dtypes")


@check(
    "contract.linear.ignored",
    "Ignored rows have loss 0 and gradient 0 and no part in the others', whatever they hold.",
    source="docs/contract.md, Ignored rows, infinities, NaN",
)
def test_ignored(subject: Subject, dtype: str) -> None:  # noqa: F811
    f = subject.functions.linear_cross_entropy_value_and_grad
    broken = HIDDEN.copy()
    broken[0], broken[2] = np.nan, [np.inf, 0, -np.inf]
    h, w, b, s = make(subject, dtype, broken, WEIGHT, BIAS, np.asarray([0.0, 1, 1, 1]))
    for max_bytes in (None, ONE_ROW):
        options: dict[str, Any] = {"sample_weight": s, "reduction": "none", "max_bytes": max_bytes}
        loss, found = f(h, w, subject(Y), bias=b, **options)
        true = truth(LOGITS, Y, {"sample_weight": (0.0, 1.0, 1.0, 1.0)})
        bound = 1e3 * float(np.finfo(dtype).eps)
        assert_true(subject, loss, true.loss, bound)
        for a, exact in zip(found, gradients(true.grad), strict=True):
            assert_true(subject, a, exact, bound)
        equal(subject.numpy(found[0])[[0, 2]], 0)


@check(
    "contract.linear.nothing",
    "Where all rows are ignored the mean is NaN, and all gradients are 0.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
def test_nothing(subject: Subject, dtype: str) -> None:  # noqa: F811
    h, w, b = make(subject, dtype, HIDDEN, WEIGHT, BIAS)
    loss, found = subject.functions.linear_cross_entropy_value_and_grad(h, w, subject(np.full(4, -100)), bias=b)
    is_nan(subject.numpy(loss))
    for a, like in zip(found, (HIDDEN, WEIGHT, BIAS), strict=True):
        assert_true(subject, a, np.zeros(like.shape), 0)


@check(
    "contract.linear.wrong-label",
    "A wrong label raises where it can be read; elsewhere its row is NaN, in loss and gradient, and no other row.",
    source=LABELS,
)
def test_wrong_label(subject: Subject, dtype: str) -> None:  # noqa: F811
    f = subject.functions.linear_cross_entropy_value_and_grad
    h, w = make(subject, dtype, HIDDEN, WEIGHT)
    wrong = subject(np.asarray([1, 5, 2, -1]))
    if subject.reads(wrong):
        rejects(IndexError, "labels: expected class indices in [0, 5) or the ignore_index -100, but", f, h, w, wrong)
        return
    loss, (d_hidden, d_weight, _) = f(h, w, wrong, reduction="none", max_bytes=ONE_ROW)
    is_wrong = np.asarray([False, True, False, True])
    is_nan(subject.numpy(loss), is_wrong)
    is_nan(subject.numpy(d_hidden), np.broadcast_to(is_wrong[:, None], HIDDEN.shape))
    is_nan(subject.numpy(d_weight))


@check(
    "contract.linear.half",
    "Half precision is computed in float32, the logits among it; gradients are rounded to its dtype.",
    source=DTYPES,
)
@pytest.mark.parametrize("half", HALF)
def test_half(subject: Subject, half: str) -> None:
    h, w, b = (subject(a, half) for a in (64 * HIDDEN, WEIGHT, BIAS))
    loss, found = subject.functions.linear_cross_entropy_value_and_grad(
        h, w, subject(Y), bias=b, reduction="sum", max_bytes=ONE_ROW
    )
    same([subject.dtype(a) for a in (loss, *found)], ["float32", half, half, half], "dtypes")
    true = truth(64 * HIDDEN @ WEIGHT.T + BIAS, Y, {})
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[half]
    # Rounding the logits, of more than 100, to half precision would move the loss by some 0.5 or 0.05.
    assert_true(subject, loss, true.loss.sum(), 1e-5 * true.loss.sum())
    terms = abs(true.grad) @ abs(WEIGHT), abs(true.grad).T @ abs(64 * HIDDEN), abs(true.grad).sum(0)
    for a, exact, size in zip(found, gradients(true.grad, 64 * HIDDEN), terms, strict=True):
        assert_true(subject, a, exact, 3 * unit * size)


@check(
    "contract.linear.errors",
    "Shapes and dtypes that do not fit together, and wrong options, are errors that name the argument.",
    source=FUNCTIONS,
)
def test_errors(subject: Subject, dtype: str) -> None:  # noqa: F811
    f = subject.functions.linear_cross_entropy
    h, w, b, deep, number = make(subject, dtype, HIDDEN, WEIGHT, BIAS, WEIGHT[None], np.asarray(1.0))
    y = subject(Y)
    rejects(TypeError, "hidden: expected an array of an Array API library, got list", f, [[1.0]], w, y)
    rejects(TypeError, "hidden: expected a real floating dtype, got", f, subject(Y[:, None]), w, y)
    rejects(TypeError, "weight: expected a real floating dtype, got", f, h, subject(np.ones((5, 3), int)), y)
    rejects(TypeError, "bias: expected a real floating dtype, got", f, h, w, y, bias=subject(np.ones(5, int)))
    rejects(ValueError, "hidden: expected shape (..., D), got shape ()", f, number, w, y)
    for wrong in (subject(WEIGHT.T, dtype), deep, b):
        rejects(
            ValueError,
            "weight: expected shape (C, 3), of at least one class and D of hidden (4, 3), got",
            f,
            h,
            wrong,
            y,
        )
    rejects(
        ValueError, "bias: expected shape (5,), one for each class, got (3,)", f, h, w, y, bias=subject(BIAS[:3], dtype)
    )
    rejects(
        ValueError,
        "labels: expected shape (4,), that of hidden (4, 3) without its last axis, got",
        f,
        h,
        w,
        subject(Y[:3]),
    )
    rejects(ValueError, "labels: expected shape (4, 5), that of the logits, for class probabilities, got", f, h, w, h)
    rejects(ValueError, "max_bytes: expected a positive number of bytes, got 0", f, h, w, y, max_bytes=0)
    rejects(TypeError, "recompute: expected True, False or None, got int", f, h, w, y, recompute=1)
    rejects(
        ValueError,
        "recompute: expected True or None with reduction 'none'",
        f,
        h,
        w,
        y,
        recompute=False,
        reduction="none",
    )
    rejects(TypeError, "linear_cross_entropy() got an unexpected keyword argument 'axis'", f, h, w, y, axis=0)


@check(
    "transforms.grad.linear",
    "Differentiating by the layer's inputs, weight and bias gives their gradients, with the logits recomputed or not.",
    source=FUNCTIONS,
)
def test_grad(subject: Subject, quick: bool, dtype: str) -> None:  # noqa: F811
    grad, f = declared(subject, "grad"), subject.functions.linear_cross_entropy
    arrays = make(subject, dtype, HIDDEN, WEIGHT, BIAS)
    c, y, q = make(subject, dtype, C, Y, Q)

    def of(position: int, labels: Any, options: Any) -> Any:
        def loss(a: Any) -> Any:
            h, w, b = (a if i == position else other for i, other in enumerate(arrays))
            return 2.5 * f(h, w, labels, bias=b, max_bytes=ONE_ROW, **options)

        return fast(subject, grad(loss))(arrays[position])

    cases: list[tuple[Any, Any, Any, Any]] = [(y, Y, {}, {}), (y, Y, {}, {"recompute": True})]
    if not quick:
        cases.append((q, Q, ALL, {"recompute": True}))
    for made, labels, options, policy in cases:
        true = truth(LOGITS, labels, options, "mean")
        for position, exact in enumerate(gradients(2.5 * true.grad)):
            bound = 256 * float(np.finfo(dtype).eps) * abs(exact).max()
            assert_true(subject, of(position, made, convert(subject, dtype, options) | policy), exact, bound)
    weighted = grad(
        lambda w: subject.xp.sum(c * f(arrays[0], w, y, bias=arrays[2], reduction="none", max_bytes=ONE_ROW))
    )
    exact = gradients(C[:, None] * truth(LOGITS, Y, {}).grad)[1]
    assert_true(subject, fast(subject, weighted)(arrays[1]), exact, 256 * float(np.finfo(dtype).eps) * abs(exact).max())


@check(
    "transforms.vmap.linear",
    "Mapped over a batch of layers, each has its own loss.",
    source=FUNCTIONS,
)
def test_vmap(subject: Subject, dtype: str) -> None:  # noqa: F811
    vmap, f = declared(subject, "vmap"), subject.functions.linear_cross_entropy
    h, w, b, y = make(
        subject, dtype, np.stack([HIDDEN, -HIDDEN]), np.stack([WEIGHT, 2 * WEIGHT]), BIAS, np.stack([Y, Y])
    )
    found = vmap(lambda h, w, y: f(h, w, y, bias=b))(h, w, y)
    exact = [truth(x, Y, {}, "mean").loss.sum() for x in (LOGITS, -2 * HIDDEN @ WEIGHT.T + BIAS)]
    assert_true(subject, found, np.asarray(exact), 256 * float(np.finfo(dtype).eps) * max(exact))
