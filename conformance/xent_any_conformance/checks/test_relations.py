"""Relations between results, which hold whatever the numbers are: on problems that Hypothesis draws."""

import itertools
import math
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.array_api import make_strategies_namespace

from .. import agreement
from ..agreement import Problem
from ..compare import at_least, equal, is_finite, same, within
from ..plugin import check
from ..subjects import Subject

# Few shapes, because some libraries compile for each one.
ROWS, FEW, MANY = 8, 5, 10
# Logits are multiples of GRID, so that float32 holds them, their distances and their sums with an offset exactly. They
# are close enough for all results to have digits promised in float32: none is below C exp(-2 FAR), about C 2**-87.
GRID = 1 / 256
FAR = 30

xps = make_strategies_namespace(np)


def numbers(shape: Any, low: float, high: float, grid: float = GRID) -> st.SearchStrategy[Any]:
    """Arrays of multiples of `grid` in [low, high]."""
    whole = st.integers(round(low / grid), round(high / grid))
    return xps.arrays(np.int64, shape, elements=whole, fill=st.nothing()).map(lambda drawn: drawn * grid)


def logits(classes: int = FEW) -> st.SearchStrategy[Any]:
    """Rows that are undecided, and rows that are won by far."""
    return st.one_of(numbers((ROWS, classes), -FAR, FAR), numbers((ROWS, classes), -3, 3))


LABELS = xps.arrays(np.int64, ROWS, elements=st.integers(0, FEW - 1), fill=st.nothing())
PROBABILITIES = numbers((ROWS, FEW), 0, 1, 1 / 16)
VECTORS = numbers((ROWS, FEW), -3, 3)
POSITIVE = numbers(FEW, 0.25, 4), numbers(ROWS, 0.25, 4)


class Results:
    """What the functions of a subject return in one dtype, as NumPy arrays; equal problems are computed once."""

    def __init__(self, subject: Subject, dtype: str, *, finite: bool = True) -> None:
        self._subject, self._dtype, self._finite = subject, dtype, finite
        self._known: dict[Any, Any] = {}

    def __call__(
        self, function: str, *arrays: Any, reduction: str = "none", softcap: float | None = None, **weights: Any
    ) -> Any:
        given = [*arrays, *(np.asarray(weight) for weight in weights.values())]
        key = (function, reduction, softcap, *weights, *((a.shape, a.dtype.char, a.tobytes()) for a in given))
        if key not in self._known:
            made = [self._subject(a, self._dtype if a.dtype.kind == "f" else None) for a in given]
            options = dict(zip(weights, made[len(arrays) :], strict=True)) | {"reduction": reduction}
            if softcap is not None:
                options["softcap"] = softcap
            result = getattr(self._subject.functions, function)(*made[: len(arrays)], **options)
            found = tuple(map(self._subject.numpy, result if isinstance(result, tuple) else (result,)))
            for values in found if self._finite else ():  # two results that are NaN would agree
                is_finite(values)
            self._known[key] = found if isinstance(result, tuple) else found[0]
        return self._known[key]

    def __repr__(self) -> str:
        return f"{self._subject.name} in {self._dtype}"


RESULTS: dict[str, Results] = {}


def relation(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test of a function of `Results` and drawn arrays."""

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        def test(subject: Subject, quick: bool) -> None:
            dtypes = subject.precisions
            for dtype in dtypes[-1:] if quick or subject.costly else dtypes:
                results = RESULTS.setdefault(dtype, Results(subject, dtype))
                draw(lambda _, results=results, **drawn: body(results, **drawn), examples(subject, quick), strategies)

        return test

    return decorate


def examples(subject: Subject, quick: bool) -> int:
    """How many problems are drawn."""
    return 2 if quick and subject.costly else 6 if quick or subject.costly else 12


def draw(body: Callable[..., None], count: int, strategies: Mapping[str, Any]) -> None:
    """Call a function with the number of an example and drawn arrays.

    Hypothesis derives its seed from the text of the one function `holds`: relations that draw alike see the same
    problems, which are then computed once.
    """
    problems: list[dict[str, Any]] = []

    @hypothesis.settings(max_examples=count + 1, phases=[hypothesis.Phase.generate])
    @hypothesis.given(**strategies)
    def holds(**drawn: Any) -> None:
        problems.append(drawn)

    holds()
    same(len(problems), count + 1, "problems drawn")
    for example, drawn in enumerate(problems[1:]):  # the first to be drawn is the simplest, and all zeros
        try:
            body(example, **drawn)
        except AssertionError as error:
            error.add_note(f"of the problem {drawn}")
            raise


def promised(x: Any, dtype: Any) -> tuple[Any, Any]:
    """The promised relative errors of each row's loss, and of its gradient's components under an index label."""
    u = float(np.finfo(dtype).eps) / 2
    gap = x.max(-1, keepdims=True) - x
    e = np.exp(-gap)
    rest = np.sort(e)[:, :-1].sum(-1, keepdims=True)
    gap = np.where(e > 0, gap, 0)  # an absent class counts for nothing
    far = np.where(e >= u * rest, gap, 0).max(-1)
    return (8 + far) * u, (8 + far[:, None] + gap) * u


def assert_near(a: Any, b: Any, relative: Any) -> None:
    """Two results may differ by the promised relative error of each."""
    within(a, b, relative * (abs(a) + abs(b)))


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# A covering array: the columns are all triples of six examples with the first of them among them, so that every two
# columns have all four combinations of yes and no.
COLUMNS = ("soft", "class_weight", "sample_weight", "label_smoothing", "z_loss", "softcap", "ignored")
GIVEN = [
    {name for name, others in zip(COLUMNS, itertools.combinations(range(1, 6), 2), strict=False) if row in (0, *others)}
    for row in range(6)
]
"""What is given in every sixth example: each option with each other, each without, and neither."""


def with_options(example: int, dtype: str, x: Any, y: Any, q: Any, v: Any, w: Any, s: Any) -> Problem:
    """The problem of these arrays with the options of an example."""
    given = GIVEN[example % len(GIVEN)]
    labels = q if "soft" in given else np.where(np.arange(len(y)) % 4 == 1, -100, y) if "ignored" in given else y
    values = {"class_weight": w, "sample_weight": s, "label_smoothing": 0.125, "z_loss": 0.0625, "softcap": 20.0}
    options = {name: value for name, value in values.items() if name in given}
    return Problem(f"{dtype}, {sorted(given)}", dtype, x, labels, v, options)


@check(
    "relations.shift",
    "Logits that are shifted by a common offset without rounding have bitwise the same loss and gradient.",
    source="docs/contract.md, Accuracy",
)
@relation(x=logits(), y=LABELS, q=PROBABILITIES, offset=st.integers(-(2**15), 2**15))
def test_shift(results: Results, x: Any, y: Any, q: Any, offset: int) -> None:
    for labels in (y, q):
        loss, grad = results("cross_entropy_value_and_grad", x, labels)
        moved, moved_grad = results("cross_entropy_value_and_grad", x + offset, labels)
        equal(moved, loss)
        equal(moved_grad, grad)


@check(
    "relations.permuted-classes",
    "A permutation of the classes permutes the gradient and leaves the loss.",
    source="docs/contract.md, Accuracy",
)
@relation(x=logits(), y=LABELS, order=st.permutations(range(FEW)))
def test_permuted_classes(results: Results, x: Any, y: Any, order: list[int]) -> None:
    loss, grad = results("cross_entropy_value_and_grad", x, y)
    permuted, permuted_grad = results("cross_entropy_value_and_grad", x[:, order], np.argsort(order)[y])
    near, grad_near = promised(x, loss.dtype)
    assert_near(permuted, loss, near)
    assert_near(permuted_grad, grad[:, order], grad_near[:, order])


@check(
    "relations.permuted-rows",
    "A permutation of the rows permutes losses and gradients, to the bit.",
    source="docs/contract.md, Dtypes, devices, arrays",
)
@relation(x=logits(), y=LABELS, order=st.permutations(range(ROWS)))
def test_permuted_rows(results: Results, x: Any, y: Any, order: list[int]) -> None:
    loss, grad = results("cross_entropy_value_and_grad", x, y)
    permuted, permuted_grad = results("cross_entropy_value_and_grad", x[order], y[order])
    equal(permuted, loss[order])
    equal(permuted_grad, grad[order])


@check(
    "relations.one-hot",
    "An index and its one-hot row have the same loss and gradient.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
@relation(x=logits(), y=LABELS)
def test_one_hot(results: Results, x: Any, y: Any) -> None:
    loss, grad = results("cross_entropy_value_and_grad", x, y)
    hot, hot_grad = results("cross_entropy_value_and_grad", x, np.eye(FEW)[y])
    near, grad_near = promised(x, loss.dtype)
    assert_near(hot, loss, near)
    assert_near(hot_grad, grad, grad_near)


@check(
    "relations.binary",
    "Binary cross-entropy is that of two classes with the logits (0, z), for any common offset.",
    source="docs/contract.md, Functions",
)
@relation(x=logits(), q=numbers(ROWS, 0, 1, 1 / 16))
def test_binary(results: Results, x: Any, q: Any) -> None:
    two = np.where(np.arange(FEW) < 2, x, -np.inf)  # the others are not there
    labels = np.stack([1 - q, q, *[0 * q] * (FEW - 2)], axis=-1)
    loss, grad = results("cross_entropy_value_and_grad", two, labels)
    binary, slope = results("binary_cross_entropy_value_and_grad", x[:, 1] - x[:, 0], q)
    near, grad_near = promised(two, loss.dtype)
    assert_near(binary, loss, near)
    # where the label is soft, each gradient's error is relative to p + q
    size = np.where((q == 0) | (q == 1), abs(slope), softmax(two)[:, 1] + q)
    within(slope, grad[:, 1], 2 * grad_near[:, 1] * size)


WEIGHTS = numbers(ROWS, 0, 4, 1 / 4)


@check(
    "relations.batch-split",
    "The parts of a batch, each divided by the weights of the whole one, add up to its mean and gradient.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
@pytest.mark.full
@relation(x=logits(), y=LABELS, s=numbers(ROWS, 0.25, 4, 1 / 4))
def test_batch_split(results: Results, x: Any, y: Any, s: Any) -> None:
    loss, grad = results("cross_entropy_value_and_grad", x, y, reduction="mean", sample_weight=s)
    near, grad_near = promised(x, loss.dtype)
    options = {"reduction": "mean", "denominator": s.sum(keepdims=True)[0]}
    parts = [
        results("cross_entropy_value_and_grad", x[rows], y[rows], sample_weight=s[rows], **options)
        for rows in (slice(ROWS // 2), slice(ROWS // 2, ROWS))
    ]
    # besides each row's own error: a rounding of its scale, and three in the sum of the rows
    more = 4 * float(np.finfo(loss.dtype).eps) / 2
    assert_near(parts[0][0] + parts[1][0], loss, near.max() + more)
    assert_near(np.concatenate([parts[0][1], parts[1][1]]), grad, grad_near + more)


def block_rows(subject: Subject, classes: int) -> int:
    """Rows of float32 that take three blocks, the last of a single row."""
    size = subject.backend.block_bytes
    return 41 if size is None else 2 * (size // (4 * classes)) + 1


@check(
    "relations.bitwise",
    "A row has the same bits alone, in a small batch and in one that is computed in several blocks.",
    source="docs/contract.md, Dtypes, devices, arrays",
)
@pytest.mark.parametrize(
    "part",
    ["few-rows", pytest.param("blocks", marks=pytest.mark.full), pytest.param("axes", marks=pytest.mark.full), "hvp"],
)
def test_bitwise(subject: Subject, quick: bool, rng: np.random.Generator, part: str) -> None:
    results = Results(subject, "float32", finite=part != "axes")
    function, several = "cross_entropy_value_and_grad", list[Any]()
    vectors, options = list[Any](), dict[str, Any]()
    if part == "axes":  # rows of few classes, along two axes, some tied and some broken
        x = rng.integers(-4, 4, size=(2, 600, 20)).astype(float)
        x[0, 3, 1] = x[1, -1, 4] = np.nan
        x[1, 2] = -np.inf
        several = [rng.integers(0, 20, (2, 600))]
        slices: list[Any] = [(0, slice(0, 7)), (0, slice(7, 14)), (1, slice(0, 7)), (1, slice(593, 600))]
    elif part == "hvp":  # products and sums, which compilers like to fuse
        x, vector = rng.normal(size=(2, 16, 4)) * 3
        function, vectors, options = "cross_entropy_hvp", [vector], {"softcap": 5.0}
        several = [rng.integers(0, 4, 16)]
        single = (0, 15) if quick and subject.costly else range(16)
        slices = [slice(2, 5), *(slice(i, i + 1) for i in single)]
    else:
        rows, classes = (8, 4) if part == "few-rows" else (block_rows(subject, 65), 65)
        x = rng.normal(size=(rows, classes)) * 3
        several = [rng.random(size=(rows, classes)), rng.integers(0, classes, rows)]
        slices = [slice(0, 1), slice(rows // 2, rows // 2 + 7), rows // 2]
        slices += [] if quick else [0, slice(rows - 1, rows)]
    for labels in several:
        arrays = [x, *vectors, labels]
        whole = results(function, *arrays, **options)
        for rows_of in slices:
            found = results(function, *(a[rows_of] for a in arrays), **options)
            pairs = zip(found, whole, strict=True) if isinstance(found, tuple) else [(found, whole)]
            for few, all_rows in pairs:
                equal(few, all_rows[rows_of])


@check(
    "relations.threads",
    "Calls from several threads at once, each with its own problem and options, return the bits of a single one.",
    source="docs/contract.md, Dtypes, devices, arrays",
)
def test_threads(subject: Subject, quick: bool, rng: np.random.Generator) -> None:
    dtype = subject.precisions[-1]
    shapes = [(8, 5), (7, 9), (16, 4), (block_rows(subject, 65) if not quick else 3, 65)]
    shapes = shapes[:2] if quick and subject.costly else shapes
    problems = []
    for example, (rows, classes) in enumerate(shapes):
        x, v = rng.normal(size=(2, rows, classes)) * 3
        labels, (w, s) = rng.integers(0, classes, rows), (rng.random(n) + 0.5 for n in (classes, rows))
        problems.append(with_options(example, dtype, x, labels, rng.dirichlet(np.ones(classes), rows), v, w, s))
    expected = [agreement.solve(subject, problem) for problem in problems]
    for solution in expected:
        for values in solution:
            is_finite(values)
    found: list[list[Any]] = [[] for _ in problems]
    barrier = threading.Barrier(len(problems))

    def call(number: int) -> None:
        try:
            for _ in range(2 if subject.costly else 20):
                barrier.wait()
                found[number].append(agreement.solve(subject, problems[number]))
        except BaseException as error:  # noqa: BLE001  (it is raised below, in the thread of the test)
            barrier.abort()
            found[number].append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(problems))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # that threads meet within a call, however short
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    raised = [result for results in found for result in results if isinstance(result, BaseException)]
    for error in sorted(raised, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    for results, right in zip(found, expected, strict=True):
        for solution in results:
            for a, b in zip(solution, right, strict=True):
                equal(a, b)


@check(
    "relations.duplicated-classes",
    "Two copies of every class add log 2 to the loss, and their gradients add up to that of the one.",
    source="docs/derivation.md, Second derivation: log-sum-exp minus a linear function",
)
@relation(x=logits(), y=LABELS)
def test_duplicated_classes(results: Results, x: Any, y: Any) -> None:
    loss, grad = results("cross_entropy_value_and_grad", x, y)
    double, copies = results("cross_entropy_value_and_grad", np.concatenate([x, x], axis=-1), y)
    near, grad_near = promised(x, loss.dtype)
    assert_near(double - math.log(2), loss, near * (1 + math.log(2) / loss))
    u = float(np.finfo(loss.dtype).eps) / 2
    copies = copies.astype(float).reshape(ROWS, 2, FEW)
    # the label's copy is p/2 - 1, the other one p/2
    bound = (grad_near + u * (near / u - 8)[:, None]) * (abs(copies).sum(1) + abs(grad))
    within(copies.sum(1), grad, bound)


@check(
    "relations.absent-class",
    "Without a class at -inf the loss and the others' gradient are the same; its own is 0.",
    source="docs/contract.md, Ignored rows, infinities, NaN",
)
@relation(x=logits(), y=LABELS, order=st.permutations(range(MANY)))
def test_absent_class(results: Results, x: Any, y: Any, order: list[int]) -> None:
    there, absent = np.sort(order[:FEW]), order[FEW:]
    wide = np.full((ROWS, MANY), -np.inf)
    wide[:, there] = x
    loss, grad = results("cross_entropy_value_and_grad", x, y)
    wide_loss, wide_grad = results("cross_entropy_value_and_grad", wide, there[y])
    near, grad_near = promised(x, loss.dtype)
    assert_near(wide_loss, loss, near)
    assert_near(wide_grad[:, there], grad, grad_near)
    equal(wide_grad[:, absent], 0)


@check(
    "relations.gradient-sum",
    "Each row of the gradient sums to 0, but for rounding.",
    source="docs/derivation.md, First derivation: differentiate the logarithm of the softmax",
)
@relation(x=logits(), y=LABELS)
def test_gradient_sum(results: Results, x: Any, y: Any) -> None:
    loss, grad = results("cross_entropy_value_and_grad", x, y)
    grad = grad.astype(float)
    within(grad.sum(-1), np.zeros(ROWS), (promised(x, loss.dtype)[1] * abs(grad)).sum(-1))


@check(
    "relations.gradient-signs",
    "The gradient is negative at the label and positive elsewhere.",
    source="docs/contract.md, Accuracy",
)
@relation(x=logits(), y=LABELS)
def test_gradient_signs(results: Results, x: Any, y: Any) -> None:
    _, grad = results("cross_entropy_value_and_grad", x, y)
    at_label = np.eye(FEW, dtype=bool)[y]
    equal(np.sign(grad), np.where(at_label, -1, 1))


@check(
    "relations.gradient-at-label",
    "The gradient at an index label is expm1(-loss).",
    source="docs/derivation.md, First derivation: differentiate the logarithm of the softmax",
)
@relation(x=logits(), y=LABELS)
def test_gradient_at_label(results: Results, x: Any, y: Any) -> None:
    loss, grad = results("cross_entropy_value_and_grad", x, y)
    near, grad_near = promised(x, loss.dtype)
    rows = np.arange(ROWS)
    # the derivative of expm1 passes on no more than the loss's own relative error
    assert_near(np.expm1(-loss.astype(float)), grad[rows, y], near + grad_near[rows, y])


@check("relations.negative-loss", "The loss is never negative.", source="docs/contract.md, Accuracy")
@relation(x=logits(), y=LABELS)
def test_negative_loss(results: Results, x: Any, y: Any) -> None:
    for scale in (1, 8):
        loss, _ = results("cross_entropy_value_and_grad", scale * x, y)
        at_least(loss, 0)
    won = np.where(np.eye(FEW, dtype=bool)[y], FAR, x)
    loss, _ = results("cross_entropy_value_and_grad", won, np.eye(FEW)[y])
    at_least(loss, 0)


@check(
    "relations.monotone",
    "A larger logit of the label makes the loss smaller.",
    source="docs/contract.md, Accuracy",
)
@relation(x=logits(), y=LABELS, more=numbers(ROWS, GRID, 2))
def test_monotone(results: Results, x: Any, y: Any, more: Any) -> None:
    # A step of 1/256 changes the loss by more than its rounding, whose relative size is below 80 u.
    loss, _ = results("cross_entropy_value_and_grad", x, y)
    less, _ = results("cross_entropy_value_and_grad", x + np.eye(FEW)[y] * more[:, None], y)
    at_least(loss - less, np.finfo(loss.dtype).smallest_subnormal)


@check(
    "relations.convex",
    "The loss lies above each of its tangent planes.",
    source="docs/derivation.md, The Hessian, and derivatives in a direction",
)
@relation(x=logits(), y=LABELS, other=logits())
def test_convex(results: Results, x: Any, y: Any, other: Any) -> None:
    loss, grad = (a.astype(float) for a in (results("cross_entropy_value_and_grad", x, y)))
    dtype = results("cross_entropy_value_and_grad", x, y)[0].dtype
    there = results("cross_entropy_value_and_grad", other, y)[0].astype(float)
    near, grad_near = promised(x, dtype)
    step = other - x
    error = near * loss + promised(other, dtype)[0] * there + (grad_near * abs(grad * step)).sum(-1)
    at_least(there - loss - (grad * step).sum(-1), -error)


def hessian_error(x: Any, v: Any, dtype: Any) -> Any:
    """The promised error of the components of the Hessian's product with v."""
    p = softmax(x)
    return promised(x, dtype)[1] * p * (p[:, None, :] * abs(v[:, :, None] - v[:, None, :])).sum(-1)


@check(
    "relations.hessian-semidefinite",
    "The Hessian is positive semidefinite: <v, H v> is not negative.",
    source="docs/derivation.md, The Hessian, and derivatives in a direction",
)
@relation(x=logits(), y=LABELS, v=VECTORS)
def test_hessian_semidefinite(results: Results, x: Any, y: Any, v: Any) -> None:
    product = results("cross_entropy_hvp", x, v, y)
    error = (hessian_error(x, v, product.dtype) * abs(v)).sum(-1)
    at_least((v * product).sum(-1), -error)


@check(
    "relations.hessian-symmetric",
    "The Hessian is symmetric: <u, H v> is <v, H u>.",
    source="docs/derivation.md, The Hessian, and derivatives in a direction",
)
@relation(x=logits(), y=LABELS, v=VECTORS, w=VECTORS)
def test_hessian_symmetric(results: Results, x: Any, y: Any, v: Any, w: Any) -> None:
    right, left = results("cross_entropy_hvp", x, v, y), results("cross_entropy_hvp", x, w, y)
    error = hessian_error(x, v, right.dtype) * abs(w) + hessian_error(x, w, right.dtype) * abs(v)
    within((w * right).sum(-1), (v * left).sum(-1), error.sum(-1))


@check(
    "relations.hessian-of-a-shift",
    "The Hessian times a vector that is the same for all classes is exactly 0.",
    source="docs/contract.md, Accuracy",
)
@relation(x=logits(), y=LABELS, shift=numbers((ROWS, 1), -3, 3))
def test_hessian_of_a_shift(results: Results, x: Any, y: Any, shift: Any) -> None:
    # The promised error is relative to differences of the vector's components.
    vector = np.broadcast_to(shift, x.shape)
    equal(results("cross_entropy_hvp", x, vector, y), 0)


@check(
    "relations.gibbs",
    "The cross-entropy of any q under p is at least the entropy of p, and equal to it for q = p.",
    source="docs/derivation.md, Second derivation: log-sum-exp minus a linear function",
)
@relation(x=logits(), p=PROBABILITIES)
def test_gibbs(results: Results, x: Any, p: Any) -> None:
    p = p + np.eye(FEW)[0] / 16  # none of the rows is empty
    mass = p.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        log = np.log(p / mass)
    entropy = -(p * np.where(p == 0, 0, log)).sum(-1)
    loss, _ = results("cross_entropy_value_and_grad", x, p)
    at_least(loss.astype(float), entropy - promised(x, loss.dtype)[0] * loss)
    # Rounding these logits changes the loss to second order only.
    least, _ = results("cross_entropy_value_and_grad", log, p)
    assert_near(least, entropy, promised(log, least.dtype)[0])


@check(
    "relations.homogeneous-weights",
    "Twice the sample weights give bitwise twice the losses and their gradient, and leave the mean.",
    source="docs/contract.md, Weights, smoothing, reductions",
)
@relation(x=logits(), y=LABELS, s=WEIGHTS)
def test_homogeneous_weights(results: Results, x: Any, y: Any, s: Any) -> None:
    s[0] = 1  # the mean is over something
    for reduction, factor in (("none", 2), ("mean", 1)):
        once, twice = (
            results("cross_entropy_value_and_grad", x, y, reduction=reduction, sample_weight=weight)
            for weight in (s, 2 * s)
        )
        for a, b in zip(once, twice, strict=True):
            equal(factor * a, b)


@check(
    "relations.ignored-rows",
    "Rows that are ignored have loss and gradient 0 whatever they hold, and leave the others' bits.",
    source="docs/contract.md, Ignored rows, infinities, NaN",
)
@relation(
    x=logits(),
    y=LABELS,
    ignored=xps.arrays(np.bool_, ROWS),
    junk=xps.arrays(np.float64, (ROWS, FEW), elements=st.sampled_from([math.nan, math.inf, -math.inf, 0.0])),
)
def test_ignored_rows(results: Results, x: Any, y: Any, ignored: Any, junk: Any) -> None:
    loss, grad = results("cross_entropy_value_and_grad", x, y)
    broken = np.where(ignored[:, None], junk, x)
    for found, found_grad in (
        results("cross_entropy_value_and_grad", broken, np.where(ignored, -100, y)),
        results("cross_entropy_value_and_grad", broken, y, sample_weight=np.where(ignored, 0.0, 1.0)),
    ):
        equal(found, np.where(ignored, 0, loss))
        equal(found_grad, np.where(ignored[:, None], 0, grad))
