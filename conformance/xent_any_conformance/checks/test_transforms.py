"""The framework's own transformations: differentiation, mapping over rows, compilation, lazy evaluation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ..compare import equal, is_finite, is_nan, same, within
from ..plugin import check
from ..subjects import Subject
from .test_gradient import ALL, TIED_Y, TIES, Q, V, X, Y, truth

C = np.asarray([1.5, -0.75, 2, 0.5])  # cotangents of the rows, of both signs
UNSMOOTHED = {name: value for name, value in ALL.items() if name != "label_smoothing"}
WEIGHTS = {name: np.asarray(ALL[name]) for name in ("class_weight", "sample_weight")}
NUMBERS = {name: ALL[name] for name in ("label_smoothing", "z_loss", "softcap")}
COST = np.log(np.exp(X).sum(-1, keepdims=True)) - X  # -log p


def declared(subject: Subject, name: str) -> Callable[..., Any]:
    """The transformation of that name."""
    if name not in subject.backend.transforms:
        pytest.skip(f"declares no {name}")
    return subject.backend.transforms[name]


def fast(subject: Subject, f: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, compiled where every operation by itself would be compiled otherwise.

    MLX, which compiles nothing else, starts a C++ compiler for each kernel: a second each.
    """
    return f if subject.backend.name == "mlx" else subject.backend.transforms.get("jit", lambda f: f)(f)


@pytest.fixture
def dtype(subject: Subject, quick: bool) -> str:
    """The narrowest dtype for a quick run, otherwise the widest: some libraries compile for each."""
    found = subject.precisions
    return found[0 if quick else -1]


def make(subject: Subject, dtype: str, *values: Any) -> list[Any]:
    return [subject(a, dtype if np.asarray(a).dtype.kind == "f" else None) for a in values]


def convert(subject: Subject, dtype: str, options: Any) -> dict[str, Any]:
    return {name: subject(WEIGHTS[name], dtype) if name in WEIGHTS else options[name] for name in options}


def assert_near(subject: Subject, found: Any, expected: Any) -> None:
    """Equal up to rounding.

    Relative to the largest component, because a library's own autodiff, in the labels and weights, may cancel in
    small ones; and 64 units for the distances from the maximum, as in the checks of the gradient.
    """
    found = subject.numpy(found)
    same(found.shape, np.shape(expected), "shape")
    within(found, expected, 64 * float(np.finfo(found.dtype).eps) / 2 * abs(expected).max())


def weighted(subject: Subject, dtype: str, labels: Any, options: Any) -> Callable[[Any], Any]:
    """A function of the logits: the sum of the losses, each times a cotangent."""
    c, y = make(subject, dtype, C, labels)
    made = convert(subject, dtype, options)
    return lambda x: subject.xp.sum(c * subject.functions.cross_entropy(x, y, reduction="none", **made))


@check(
    "transforms.grad.logits",
    "Differentiating cross-entropy gives its gradient, for any cotangents of its rows, compiled or not.",
    source="docs/contract.md, Functions",
)
def test_grad(subject: Subject, quick: bool, dtype: str) -> None:
    grad = declared(subject, "grad")
    x, y = make(subject, dtype, X, Y)
    for labels, options in [(Y, UNSMOOTHED)] if quick else [(Y, UNSMOOTHED), (Q, ALL)]:
        found = fast(subject, grad(weighted(subject, dtype, labels, options)))(x)
        assert_near(subject, found, C[:, None] * truth(X, labels, options).grad)
    if not quick:  # labels that can be read take other ways through the core
        found = grad(lambda a: subject.functions.cross_entropy(a, y))(x)
        assert_near(subject, found, truth(X, Y, {}, "mean").grad)


@check(
    "transforms.grad.nll-of-log-softmax",
    "Differentiating nll_loss of log_softmax gives the gradient of cross-entropy.",
    source="docs/contract.md, Functions",
)
def test_grad_of_nll(subject: Subject, dtype: str) -> None:
    grad = declared(subject, "grad")
    x, c, y = make(subject, dtype, X, C, Y)
    w = subject(WEIGHTS["class_weight"], dtype)

    def f(a: Any) -> Any:
        each = subject.functions.nll_loss(subject.functions.log_softmax(a), y, class_weight=w, reduction="none")
        return subject.xp.sum(c * each)

    options = {"class_weight": ALL["class_weight"]}
    assert_near(subject, fast(subject, grad(f))(x), C[:, None] * truth(X, Y, options).grad)


@check(
    "transforms.grad.binary",
    "Differentiating binary cross-entropy twice gives the analytic derivatives, also at 0, where max(z, 0) has a kink.",
    source="docs/derivation.md, Options",
)
def test_grad_of_binary(subject: Subject, dtype: str) -> None:
    grad = declared(subject, "grad")
    logits, events = np.asarray([-3.5, 0, 0, 1.25]), np.asarray([0, 0.25, 1, 0.5])
    z, c, y = make(subject, dtype, logits, C, events)

    def f(a: Any) -> Any:
        each = subject.functions.binary_cross_entropy(a, y, pos_weight=2.5, reduction="none")
        return subject.xp.sum(c * each)

    slope = grad(f)
    first, second = fast(subject, lambda a: (slope(a), grad(lambda b: subject.xp.sum(slope(b)))(a)))(z)
    p = 1 / (1 + np.exp(-logits))
    assert_near(subject, first, C * ((1 - events) * p - 2.5 * events * (1 - p)))
    assert_near(subject, second, C * (1 - events + 2.5 * events) * p * (1 - p))


@pytest.mark.parametrize("order", ["jvp-of-grad", pytest.param("grad-of-grad", marks=pytest.mark.full)])
@check(
    "transforms.second-order",
    "Differentiating twice gives the Hessian's product with a vector, also where classes tie or the gradient is 0.",
    source="docs/contract.md, Functions",
)
def test_second_order(subject: Subject, quick: bool, dtype: str, order: str) -> None:
    grad = declared(subject, "grad")
    jvp = declared(subject, "jvp") if order == "jvp-of-grad" else None
    v = subject(V, dtype)
    is_one = np.broadcast_to(np.arange(X.shape[1]) < 2, X.shape)  # of two classes that share the row: the gradient is 0
    even = np.where(is_one, 0.5, 0.0)
    cases: list[tuple[Any, Any]] = [(TIED_Y, {}), (even, {}), (Q, ALL)]
    for labels, options in cases[:2] if quick or jvp is None else cases:
        slope = grad(weighted(subject, dtype, labels, options))

        def product(a: Any, slope: Any = slope) -> Any:
            return grad(lambda b: subject.xp.sum(slope(b) * v))(a) if jvp is None else jvp(slope, a, v)

        f = fast(subject, product)
        for x in (TIES, X, np.where(is_one, 0.0, -1000.0)):
            assert_near(subject, f(subject(x, dtype)), C[:, None] * truth(x, labels, options).hessian)


@check(
    "transforms.grad.probabilities",
    "The derivative by a label's probability is -log p_j, also where that is 0, for any cotangent, and in the mean.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
def test_grad_of_probabilities(subject: Subject, dtype: str) -> None:
    grad = declared(subject, "grad")
    x, q, c = make(subject, dtype, X, Q, C)
    f = subject.functions.cross_entropy
    by_rows = grad(lambda b: subject.xp.sum(c * f(x, b, reduction="none")))
    by_mean = grad(lambda b: f(x, b, reduction="mean"))
    of_rows, of_mean = fast(subject, lambda a: (by_rows(a), by_mean(a)))(q)
    assert_near(subject, of_rows, C[:, None] * COST)
    assert_near(subject, of_mean, (COST - (Q * COST).sum() / Q.sum()) / Q.sum())


@check(
    "transforms.grad.weights",
    "The derivative by sample and class weights is that of the formula, also where they are 0, for any cotangent.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
def test_grad_of_weights(subject: Subject, dtype: str) -> None:
    grad = declared(subject, "grad")
    x, y, q, c, w, s = make(subject, dtype, X, Y, Q, C, *WEIGHTS.values())
    f = subject.functions.cross_entropy
    of_samples = [
        grad(lambda b: subject.xp.sum(c * f(x, y, sample_weight=b, reduction="none"))),
        grad(lambda b: f(x, y, sample_weight=b, reduction="mean")),
    ]
    of_classes = [grad(lambda b, labels=labels: f(x, labels, class_weight=b, reduction="sum")) for labels in (y, q)]
    found = fast(subject, lambda a, b: [slope(a) for slope in of_samples] + [slope(b) for slope in of_classes])(s, w)
    hot = Y[:, None] == np.arange(5)
    each, weight = (COST * hot).sum(-1), WEIGHTS["sample_weight"] * hot.any(-1)
    expected = [
        C * each,
        hot.any(-1) * (each - (weight * each).sum() / weight.sum()) / weight.sum(),
        (COST * hot).sum(0),
        (COST * Q).sum(0),
    ]
    for a, b in zip(found, expected, strict=True):
        assert_near(subject, a, b)


@check(
    "transforms.grad.confident",
    "First and second derivatives of rows that are won by far are finite, and the first is the analytic gradient.",
    source="docs/contract.md, Accuracy",
)
def test_grad_of_confident_rows(subject: Subject, quick: bool) -> None:
    grad = declared(subject, "grad")
    gaps = np.asarray([30.0, 45, 70, 90, 100, 400, 720, 800])
    logits = np.repeat(np.stack([gaps, 0 * gaps, 1 + 0 * gaps], axis=-1), 2, axis=0)
    labels = np.arange(16) % 2
    e = np.exp(logits - logits.max(-1, keepdims=True))
    expected = e / e.sum(-1, keepdims=True) - np.eye(3)[labels]
    for dtype in subject.precisions[: 1 if quick else 2]:
        x, y, v = make(subject, dtype, logits, labels, np.tile([1.0, -2, 3], (16, 1)))

        def both(a: Any, y: Any = y, v: Any = v) -> Any:
            slope = grad(lambda b: subject.functions.cross_entropy(b, y, reduction="sum"))
            return slope(a), grad(lambda b: subject.xp.sum(slope(b) * v))(a)

        first, second = fast(subject, both)(x)
        assert_near(subject, first, expected)
        is_finite(subject.numpy(second))


@check(
    "transforms.grad.broken-rows",
    "Under cotangents of both signs the gradient of a row, or event, with NaN is NaN, and 0 where it is ignored.",
    source="docs/contract.md, Infinities",
)
def test_grad_of_broken_rows(subject: Subject, dtype: str) -> None:
    grad, f = declared(subject, "grad"), subject.functions
    nan = np.asarray([np.nan, np.nan, 0, np.nan])  # in one class
    weights = np.asarray([1.0, 1, 1, 0])
    broken = np.where(np.arange(5) == 2, nan[:, None], 0) + X
    x, z, c, s, y, q = make(subject, dtype, broken, nan, C, weights, TIED_Y, np.full(4, 0.5))
    of_rows = grad(lambda a: subject.xp.sum(c * f.cross_entropy(a, y, sample_weight=s, reduction="none")))
    of_events = grad(lambda a: subject.xp.sum(c * f.binary_cross_entropy(a, q, sample_weight=s, reduction="none")))
    rows, events = fast(subject, lambda a, b: (of_rows(a), of_events(b)))(x, z)
    rows, events = subject.numpy(rows), subject.numpy(events)
    is_nan(rows[:2].sum(-1))  # in any class
    is_nan(events[:2])
    is_finite(rows[2])
    equal(rows[3], 0)
    equal(events[3], 0)


@check(
    "transforms.vmap.rows",
    "Mapped over rows, losses, gradients and Hessian products are those of the batch.",
    source="docs/contract.md, Functions",
)
def test_vmap(subject: Subject, quick: bool, dtype: str) -> None:
    vmap = declared(subject, "vmap")
    f = subject.functions
    w = subject(WEIGHTS["class_weight"], dtype)

    def row(x: Any, v: Any, y: Any, q: Any, s: Any) -> Any:
        """Of one row."""
        results = [
            *f.cross_entropy_value_and_grad(x, y, reduction="sum"),
            f.cross_entropy_hvp(x, v, y, reduction="sum"),
        ]
        if not quick:
            options = {"class_weight": w, "sample_weight": s, "reduction": "sum"} | NUMBERS
            results.append(f.cross_entropy_value_and_grad(x, q, **options)[1])
            if "grad" in subject.backend.transforms:
                slope = subject.backend.transforms["grad"](lambda a: f.cross_entropy(a, y, reduction="sum"))
                results.append(slope(x))
        return tuple(results)

    plain = truth(X, Y, {})
    found = fast(subject, vmap(row))(*make(subject, dtype, X, V, Y, Q, WEIGHTS["sample_weight"]))
    expected = [plain.loss, plain.grad, plain.hessian, truth(X, Q, ALL).grad, plain.grad]
    for a, b in zip(found, expected, strict=False):
        assert_near(subject, a, b)


LABELS_OF_FIVE = {
    "int32": ([3, 2, -3, -100, -1], [1, 0, 1, 0, 1]),
    "int64": ([2**32 + 1, 2, 3 - 2**32, -100, -1], [1, 0, 1, 0, 1]),
    "uint32": ([1, 2**32 - 100, 3, 2, 2**31], [0, 1, 1, 0, 1]),
}
"""Labels of five rows of three classes, and which of them are wrong; -100 is ignored."""
of_each_dtype = pytest.mark.parametrize(
    "labels_dtype", [pytest.param("int32"), pytest.param("int64"), pytest.param("uint32", marks=pytest.mark.full)]
)


def assert_wrong_rows_are_nan(subject: Subject, labels_dtype: str, transformed: Callable[..., Any]) -> None:
    labels, wrong = LABELS_OF_FIVE[labels_dtype]
    loss, grad = transformed(subject(np.asarray(labels, labels_dtype), labels_dtype))
    is_nan(subject.numpy(loss), np.asarray(wrong, bool))
    is_nan(subject.numpy(grad), np.repeat(np.asarray(wrong, bool)[:, None], 3, axis=1))


@check(
    "transforms.jit.wrong-label",
    "Compiled, a wrong label's loss and gradient are NaN, and no other's.",
    source="docs/contract.md, Labels",
)
@of_each_dtype
def test_wrong_labels_under_jit(subject: Subject, labels_dtype: str) -> None:
    jit = declared(subject, "jit")
    x = subject(np.zeros((5, 3)), "float32")

    def f(y: Any) -> Any:
        return subject.functions.cross_entropy_value_and_grad(x, y, reduction="none")

    assert_wrong_rows_are_nan(subject, labels_dtype, jit(f))


@check(
    "transforms.vmap.wrong-label",
    "Mapped over rows, a wrong label's loss and gradient are NaN, and no other's.",
    source="docs/contract.md, Labels",
)
@of_each_dtype
def test_wrong_labels_under_vmap(subject: Subject, labels_dtype: str) -> None:
    vmap = declared(subject, "vmap")
    x = subject(np.zeros((5, 3)), "float32")

    def row(a: Any, b: Any) -> Any:
        return subject.functions.cross_entropy_value_and_grad(a, b, reduction="sum")

    assert_wrong_rows_are_nan(subject, labels_dtype, fast(subject, lambda labels: vmap(row)(x, labels)))


@pytest.mark.full
@check(
    "transforms.jit.differs",
    "Compiled, the functions return the same, but for rounding.",
    source="docs/contract.md, Dtypes, devices, arrays",
)
def test_jit(subject: Subject, dtype: str) -> None:
    jit = declared(subject, "jit")
    f = subject.functions

    def some(x: Any, v: Any, y: Any, q: Any, w: Any, s: Any) -> list[Any]:
        options = {"class_weight": w, "sample_weight": s, "reduction": "sum"} | NUMBERS
        return [
            *f.cross_entropy_value_and_grad(x, q, **options),
            f.cross_entropy_hvp(x, v, y, reduction="none"),
            f.cross_entropy_jvp(x, v, y, reduction="none")[1],
            f.nll_loss(f.log_softmax(x), q, reduction="none"),
            f.binary_cross_entropy(x, q, pos_weight=w, reduction="none"),
        ]

    found = jit(some)(*make(subject, dtype, X, V, Y, Q, *WEIGHTS.values()))
    true, plain = truth(X, Q, ALL), truth(X, Y, {})
    binary = (1 - Q) * np.logaddexp(0, X) + WEIGHTS["class_weight"] * Q * np.logaddexp(0, -X)
    expected = [true.loss.sum(), true.grad, plain.hessian, (plain.grad * V).sum(-1), (Q * COST).sum(-1), binary]
    for a, b in zip(found, expected, strict=True):
        assert_near(subject, a, b)


@check(
    "transforms.jit.retraced",
    "A second call with the same shapes compiles nothing, and computes with its own numbers.",
    source="docs/contract.md, Dtypes, devices, arrays",
)
def test_no_second_trace(subject: Subject, dtype: str) -> None:
    jit = declared(subject, "jit")
    traces = 0

    def f(x: Any, y: Any) -> Any:
        nonlocal traces
        traces += 1
        return subject.functions.cross_entropy_value_and_grad(x, y, reduction="none")

    compiled = jit(f)
    for x, y in ((X, Y), (TIES, TIED_Y)):
        loss, grad = compiled(*make(subject, dtype, x, y))
        assert_near(subject, loss, truth(x, y, {}).loss)
        assert_near(subject, grad, truth(x, y, {}).grad)
    same(traces, 1, "traces")


@check(
    "transforms.lazy.computed-early",
    "No function computes a lazy array, or waits for a device; the shapes of its results are known.",
    source="docs/contract.md, Labels",
)
def test_nothing_is_computed_early(subject: Subject) -> None:
    if not hasattr(subject.backend, "no_waiting"):
        pytest.skip("nothing here would notice waiting or computing")
    f = subject.functions
    x, v, y, q, w, s = make(subject, "float32", X, V, Y, Q, *WEIGHTS.values())
    options = {"class_weight": w, "sample_weight": s} | NUMBERS
    each: dict[str, Any] = {"reduction": "none"}
    rows = X.shape[:1]
    with subject.backend.no_waiting():
        for labels in (y, q):
            assert_shapes([f.cross_entropy(x, labels, axis=-1, class_weight=w)], ())
            assert_shapes(f.cross_entropy_value_and_grad(x, labels, **options), (), X.shape)
            assert_shapes(f.cross_entropy_value_and_grad(x, labels, denominator=s[0], ignore_index=None), (), X.shape)
            assert_shapes(f.cross_entropy_jvp(x, v, labels, **options, reduction="sum"), (), ())
            assert_shapes([f.cross_entropy_hvp(x, v, labels, **options, **each)], X.shape)
            part = {name: options[name] for name in ("class_weight", "sample_weight", "label_smoothing")}
            assert_shapes([f.nll_loss(-abs(x), labels, **part, **each)], rows)
        parts = f.log_softmax(x), f.softmax(x, axis=0), f.logsumexp(x, keepdims=True)
        assert_shapes(parts, X.shape, X.shape, (*rows, 1))
        assert_shapes([f.binary_cross_entropy(x, q, pos_weight=w)], ())
        binary = f.binary_cross_entropy_value_and_grad(x, q, pos_weight=2.5, sample_weight=q, **each)
        assert_shapes(binary, X.shape, X.shape)


def assert_shapes(results: Any, *expected: tuple[int, ...]) -> None:
    same([result.shape for result in results], list(expected), "shapes")
