"""Gradient, derivative along a tangent and Hessian against differences of the definition at 50 digits."""

import functools
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple

import mpmath
import numpy as np

from ..compare import within
from ..plugin import check
from ..subjects import Subject

MP = mpmath.MPContext()
MP.dps = 50
STEP = MP.mpf(10) ** -10

# Four rows of five classes, in few enough bits to be the same numbers in every dtype. The third row's label is ignored,
# the last row has two maxima.
X = np.asarray([[3.5, -1.25, 0.5, 2, -4], [0.25, 1.5, -2, 6, 1], [1, 1.5, -3, 0, 2], [-1, 4, 4, 0.5, 3.25]])
V = np.asarray([[1, -0.5, 2, 0.25, 3], [-2, 1.5, 0.75, -1, 0.5], [1, 2, -1, 0, 1.5], [0.5, -3, 2, 1, -1.25]])
TIES = np.asarray([[2, 2, 2, 2, 2], [3, 3, 0, 1, -1], [3, 0, 0.5, 3, -2], [-1, 1, 1, 1, 0.5]])
Y = np.asarray([1, 2, -100, 4])
TIED_Y = np.asarray([0, 1, 2, 3])
Q = np.asarray([[2, 4, 6, 3, 1], [0, 16, 0, 0, 0], [4, 4, 0, 4, 4], [1, 0, 8, 5, 4]]) / 16

CLASS_WEIGHT = {"class_weight": (0.5, 2.0, 0.0, 1.0, 3.0)}
SAMPLE_WEIGHT = {"sample_weight": (1.25, 0.0, 2.5, 0.375)}
SMOOTHING = {"label_smoothing": 0.25}
Z_LOSS = {"z_loss": 1.0}  # 1 must not be taken for none
SOFTCAP = {"softcap": 3.0}
ALL = CLASS_WEIGHT | SAMPLE_WEIGHT | SMOOTHING | Z_LOSS | SOFTCAP

GRAD, HVP, JVP = "gradient", "Hessian product", "derivative along a tangent"
INDEX, SOFT = ("index",), ("probabilities",)


def difference(f: Any) -> Any:
    """The derivative of f at 0, of fourth order: its error is about 1e-40, and one of it in another's f 1e-30."""
    return (8 * (f(STEP) - f(-STEP)) - (f(2 * STEP) - f(-2 * STEP))) / (12 * STEP)


def definition(x: Any, target: Any, class_weight: Any, smoothing: float, z: float, softcap: float | None) -> Any:
    """The loss of one row in many digits, but for its sample weight."""
    if softcap is not None:
        x = [softcap * MP.tanh(c / softcap) for c in x]
    lse = MP.log(MP.fsum(map(MP.exp, x)))
    smooth = [(1 - MP.mpf(smoothing)) * q + MP.mpf(smoothing) / len(x) for q in target]
    return MP.fsum(w * q * (lse - c) for w, q, c in zip(class_weight, smooth, x, strict=True)) + z * lse**2


@functools.cache
def row_truth(
    x: tuple[float, ...],
    v: tuple[float, ...],
    target: tuple[float, ...],
    class_weight: tuple[float, ...],
    smoothing: float,
    z: float,
    softcap: float | None,
) -> tuple[float, Any, Any]:
    """The loss of one row, its gradient, and its Hessian times v."""

    def loss(j: int, along: Any, step: Any) -> Any:
        moved = [MP.mpf(a) + along * b + (step if k == j else 0) for k, (a, b) in enumerate(zip(x, v, strict=True))]
        return definition(moved, target, class_weight, smoothing, z, softcap)

    def slope(j: int, along: Any) -> Any:
        return difference(functools.partial(loss, j, along))

    classes = range(len(x))
    grad = [float(slope(j, 0)) for j in classes]
    hessian = [float(difference(functools.partial(slope, j))) for j in classes]
    return float(loss(0, 0, 0)), np.asarray(grad), np.asarray(hessian)


def compare(
    subject: Subject,
    quick: bool,
    options: Mapping[str, Any],
    cases: Iterable[tuple[str, str]],
    *,
    reduction: str = "mean",
    x: Any = X,
    index: Any = Y,
    every_dtype: bool = False,
) -> None:
    """Compare with the truth in the cases of kind of label and derivative, where some libraries compile for each.

    `reduction` is one of those that the functions have, or "denominator".
    """
    dtypes = subject.precisions
    dtypes = dtypes[:1] if quick else dtypes if every_dtype else dtypes[-1:]
    reduced = {"denominator": 7.0} if reduction == "denominator" else {"reduction": reduction}
    for dtype, (kind, derivative) in product(dtypes, cases):
        values = Q if kind == "probabilities" else index
        true = truth(x, values, options, reduction)
        # The promised error is (8 + d) u with d up to 10, and the component's own distance, relative to the sizes of
        # the terms; softcap rounds the logits themselves, and the weights, their product and divisor are rounded.
        error = 64 * float(np.finfo(dtype).eps) / 2 * true.scale * true.size
        largest = abs(V).max(-1)
        made = {k: subject(np.asarray(v), dtype) if isinstance(v, tuple) else v for k, v in options.items()} | reduced
        labels = subject(values, dtype if kind == "probabilities" else None)
        logits, vector = subject(x, dtype), subject(V, dtype)
        if derivative == GRAD:
            _, found = subject.functions.cross_entropy_value_and_grad(logits, labels, **made)
            expected, bound = true.grad, error[:, None]
        elif derivative == HVP:
            found = subject.functions.cross_entropy_hvp(logits, vector, labels, **made)
            expected, bound = true.hessian, (error * largest)[:, None]
        else:
            _, found = subject.functions.cross_entropy_jvp(logits, vector, labels, **made)
            expected, bound = (true.grad * V).sum(-1), 5 * error * largest
            if reduction != "none":
                expected, bound = expected.sum(), bound.sum()
        what = f"{derivative} in {dtype} under {kind} labels, {options or 'no options'}, {reduced}"
        within(subject.numpy(found), expected, bound, what)


class Truth(NamedTuple):
    """What is true of each row."""

    scale: Any  # sample weight over divisor
    size: Any  # of the gradient's terms, but for the scale
    loss: Any
    grad: Any
    hessian: Any  # times V


def truth(x: Any, labels: Any, options: Mapping[str, Any], reduction: str = "sum") -> Truth:
    """Loss, gradient and Hessian product of every row, scaled as the reduction says."""
    target = labels if labels.ndim == 2 else np.where(labels[:, None] == np.arange(5), 1.0, 0.0)
    w = np.asarray(options.get("class_weight", (1.0,) * 5))
    s = np.asarray(options.get("sample_weight", (1.0,) * 4))
    smoothing, z = options.get("label_smoothing", 0.0), options.get("z_loss", 0.0)
    divisor = {"mean": (s * (w * target).sum(-1)).sum(), "denominator": 7.0}.get(reduction, 1.0)
    scale = np.where(target.sum(-1) == 0, 0, s) / divisor  # rows without a target are ignored
    rest = tuple(w), smoothing, z, options.get("softcap")
    rows = [row_truth(tuple(a), tuple(b), tuple(c), *rest) for a, b, c in zip(x, V, target, strict=True)]
    size = (w * ((1 - smoothing) * target + smoothing / 5)).sum(-1) + 2 * z * (1 + abs(x).max(-1) + np.log(5))
    loss, grad, hessian = (np.stack(part) for part in zip(*rows, strict=True))
    return Truth(scale, size, scale * loss, scale[:, None] * grad, scale[:, None] * hessian)


@check(
    "gradient.formula",
    "Without options gradient and Hessian are those of the definition.",
    source="docs/derivation.md, The same formulas without cancellation",
)
def test_formula(subject: Subject, quick: bool) -> None:
    compare(subject, quick, {}, [("index", GRAD)], every_dtype=True)
    compare(subject, quick, {}, [("index", HVP)])
    if not quick:
        compare(subject, quick, {}, product(SOFT, (GRAD, HVP)))


@check(
    "gradient.ties",
    "Where classes tie for the maximum, gradient and Hessian are those of the definition.",
    source="docs/derivation.md, The same formulas without cancellation",
)
def test_ties(subject: Subject, quick: bool) -> None:
    compare(subject, quick, {}, product(INDEX if quick else INDEX + SOFT, (GRAD, HVP)), x=TIES, index=TIED_Y)


@check(
    "gradient.not-scaled-by-reduction",
    "The gradient is that of the reduced loss: of the sum, the mean, the sum over a given denominator.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
def test_reductions(subject: Subject, quick: bool) -> None:
    for reduction in ("mean", "sum") if quick else ("mean", "sum", "none", "denominator"):
        compare(subject, quick, {}, [("index", GRAD)], reduction=reduction)


@check(
    "gradient.not-scaled-by-sample-weight",
    "The gradient of sum_i c_i loss_i is that of each row times its c_i, which may be 0.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
def test_sample_weight(subject: Subject, quick: bool) -> None:
    compare(subject, quick, SAMPLE_WEIGHT, [("index", GRAD)], reduction="sum")


@check(
    "gradient.not-scaled-by-class-weight",
    "The gradient holds the weight of each class, which may be 0.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
def test_class_weight(subject: Subject, quick: bool) -> None:
    compare(subject, quick, CLASS_WEIGHT, [("index", GRAD)])


@check(
    "gradient.smoothing-missing",
    "The gradient is that of the smoothed labels.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
def test_smoothing(subject: Subject, quick: bool) -> None:
    compare(subject, quick, SMOOTHING, [("index", GRAD)])


@check(
    "gradient.z-loss-missing",
    "The gradient holds that of the squared log-sum-exp.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
def test_z_loss(subject: Subject, quick: bool) -> None:
    compare(subject, quick, Z_LOSS, product(INDEX, (GRAD,) if quick else (GRAD, HVP)))


@check(
    "gradient.softcap-chain-rule-missing",
    "Gradient and Hessian hold the derivatives of the cap.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
def test_softcap(subject: Subject, quick: bool) -> None:
    compare(subject, quick, SOFTCAP, product(INDEX, (GRAD,) if quick else (GRAD, HVP)))


@check(
    "gradient.all-options",
    "With all options at once gradient, derivative along a tangent and Hessian are those of the definition.",
    source="docs/derivation.md, Options",
)
def test_all_options(subject: Subject, quick: bool) -> None:
    compare(subject, quick, ALL, product(SOFT, (GRAD, HVP, JVP)))
    if not quick:  # smoothing turns an index into probabilities
        compare(subject, quick, ALL | {"label_smoothing": 0.0}, product(INDEX, (GRAD, HVP, JVP)))


@check(
    "gradient.jvp-inconsistent",
    "The derivative along a tangent is the gradient's inner product with it.",
    source="docs/contract.md, Functions",
)
def test_jvp_is_consistent(subject: Subject, quick: bool) -> None:
    x, v, q, options = all_options(subject, quick)
    _, slope = subject.functions.cross_entropy_jvp(x, v, q, **options)
    _, grad = subject.functions.cross_entropy_value_and_grad(x, q, **options)
    grad = subject.numpy(grad).astype(float)
    true = truth(X, Q, ALL, "mean")
    # Compilers fuse the two differently: both have the gradient's rounding.
    error = 64 * float(np.finfo(subject.numpy(slope).dtype).eps) / 2 * (true.scale * true.size * abs(V).sum(-1)).sum()
    within(subject.numpy(slope), (grad * V).sum(), error)


@check("gradient.hvp-asymmetric", "The Hessian is symmetric.", source="docs/derivation.md, Options")
def test_hvp_is_symmetric(subject: Subject, quick: bool) -> None:
    x, v, q, options = all_options(subject, quick)
    other = V[::-1, ::-1]
    right = subject.numpy(subject.functions.cross_entropy_hvp(x, v, q, **options)).astype(float)
    left = subject.numpy(subject.functions.cross_entropy_hvp(x, subject(other, subject.dtype(x)), q, **options))
    true = truth(X, Q, ALL, "mean")
    error = (
        64 * float(np.finfo(left.dtype).eps) / 2 * (true.scale * true.size * abs(V).max() * abs(other).sum(-1)).sum()
    )
    within((other * right).sum(), (V * left).sum(), 2 * error)


def all_options(subject: Subject, quick: bool) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The problem of the check of all options, which is compiled already."""
    dtype = "float32" if quick or "float64" not in subject.dtypes else "float64"
    options = {k: subject(np.asarray(v), dtype) if isinstance(v, tuple) else v for k, v in ALL.items()}
    return subject(X, dtype), subject(V, dtype), subject(Q, dtype), options | {"reduction": "mean"}


LOGITS = np.asarray([-3.5, -1, -0.25, 0, 0, 0.75, 2, 4.5])
EVENTS = np.asarray([0, 0.25, 1, 0.5, 0, 0.125, 1, 0.75])
ELEMENT_WEIGHTS = np.asarray([1, 0.5, 0, 2, 1.25, 3, 1, 0.25])


@functools.cache
def binary_truth(z: float, y: float, positive: float) -> float:
    """The derivative of one element's loss."""

    def loss(step: Any) -> Any:
        moved = MP.mpf(z) + step
        return (1 - MP.mpf(y)) * MP.log(1 + MP.exp(moved)) + positive * MP.mpf(y) * MP.log(1 + MP.exp(-moved))

    return float(difference(loss))


def compare_binary(subject: Subject, quick: bool, positive: Any, weights: Any, reduction: str) -> None:
    dtypes = subject.precisions
    for dtype in dtypes[:1] if quick else dtypes[-1:]:
        options: dict[str, Any] = {"reduction": reduction}
        if positive is not None:
            options["pos_weight"] = positive if isinstance(positive, float) else subject(positive, dtype)
        if weights is not None:
            options["sample_weight"] = subject(weights, dtype)
        _, grad = subject.functions.binary_cross_entropy_value_and_grad(
            subject(LOGITS, dtype), subject(EVENTS, dtype), **options
        )
        pi = np.broadcast_to(1.0 if positive is None else positive, LOGITS.shape)
        s = np.ones(LOGITS.shape) if weights is None else weights
        scale = s / (s.sum() if reduction == "mean" else 1)
        expected = scale * [binary_truth(*map(float, element)) for element in zip(LOGITS, EVENTS, pi, strict=True)]
        size = scale * (1 - EVENTS + pi * EVENTS)  # the error is relative to its two terms, as for probability labels
        within(subject.numpy(grad), expected, 32 * float(np.finfo(dtype).eps) / 2 * size)


@check(
    "gradient.binary",
    "The gradient of binary cross-entropy is that of the definition, scaled by weights and reduction.",
    source="docs/derivation.md, Options",
)
def test_binary(subject: Subject, quick: bool) -> None:
    compare_binary(subject, quick, None, ELEMENT_WEIGHTS, "mean")
    if not quick:
        compare_binary(subject, quick, None, ELEMENT_WEIGHTS, "sum")


@check(
    "gradient.binary-pos-weight-missing",
    "The gradient of binary cross-entropy holds the weight of the positive term, a number or an array.",
    source="docs/derivation.md, Options",
)
def test_pos_weight(subject: Subject, quick: bool) -> None:
    compare_binary(subject, quick, np.linspace(0, 3.5, 8), ELEMENT_WEIGHTS, "mean")
    if not quick:
        compare_binary(subject, quick, 2.5, None, "mean")
