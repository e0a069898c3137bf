"""The results in ULP against many digits."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from .. import cases, truth
from ..compare import at_least, at_most, is_finite, same
from ..plugin import check
from ..subjects import HALF, Subject
from ..truth import Expected

DTYPES = ("float32", "float64")
ACCURACY = "docs/contract.md, Accuracy"


def near(
    measure: Any, name: str, quantity: str, values: Any, true: Expected, dtype: str, *, faint: bool = False
) -> bool:
    """Compare results with the truth: all, or only the faint ones, whose errors in ULP say nothing.

    Returns whether there are any.
    """
    ulps, shares = truth.errors(values, true, dtype)
    counted = true.faint if faint else np.full(shares.shape, True)
    if not counted.any():
        return False
    at = np.unravel_index(np.argmax(np.where(counted, shares, -1)), shares.shape)
    measure(quantity, dtype, ulps[~true.faint & counted], float(shares[at]))
    right = np.ldexp(true.high[at], true.exponent[at])
    what = f"{quantity}: {name}{list(map(int, at))} is {np.asarray(values)[at]!r}, should be {right!r}"
    at_most(shares[at], 1, f"{what}; error / promised error")
    return True


def judge(
    measure: Any,
    dtype: str,
    results: dict[str, Any],
    case: cases.Case,
    *,
    faint: bool = False,
    half: str = "",
) -> None:
    """Compare each result with the truth of the same name; record all before the first that is wrong is raised."""
    rows = cases.rows(case)
    found, failures = False, []
    for quantity, values in results.items():
        true = truth.stack([getattr(row, quantity) for row in rows])
        true = truth.rounded_to(true, half) if half else true
        try:
            found |= near(measure, case.name, quantity, values, true, half or dtype, faint=faint)
        except AssertionError as failure:
            failures.append(str(failure))
    if failures:
        raise AssertionError("; ".join(failures))
    same(found, True, f"{case.name}: whether there is any such result")


def rarely(values: Iterable[str], but: Sequence[str]) -> list[Any]:
    """Parameters of which only some are in the quick run."""
    return [pytest.param(value, marks=[] if value in but else [pytest.mark.full]) for value in values]


def require(subject: Subject, dtype: str) -> None:
    if dtype not in subject.dtypes:
        pytest.skip(f"no {dtype} here")


def options_of(subject: Subject, case: cases.Case) -> dict[str, Any]:
    """The options of a case as keyword arguments."""
    weights, scale, smoothing, z_loss, softcap = case.options
    given = {"class_weight": None if weights is None else subject(weights, case.dtype)}
    given |= {"label_smoothing": smoothing or None, "z_loss": z_loss or None, "softcap": softcap}
    if scale != 1:
        given["sample_weight"] = subject(np.full(len(case.x), scale), case.dtype)
    return {name: value for name, value in given.items() if value is not None}


SOLVED: dict[tuple[str, str, int], dict[str, tuple[Any, Any]]] = {}


def solve_table(subject: Subject, dtype: str, kind: str, name: str) -> tuple[Any, Any]:
    """Loss and gradient of the rows of a table; all tables with as many classes are solved in one call."""
    tables = cases.plain(dtype, kind)
    count = tables[name].x.shape[1]
    if (dtype, kind, count) not in SOLVED:
        alike = [case for case in tables.values() if case.x.shape[1] == count]
        x = subject(np.concatenate([case.x for case in alike]), dtype)
        labels = subject(np.concatenate([case.labels for case in alike]), None if kind == "index" else dtype)
        loss, grad = subject.functions.cross_entropy_value_and_grad(x, labels, reduction="none")
        same([subject.dtype(loss), subject.dtype(grad)], [dtype] * 2, "dtypes")
        ends = np.cumsum([len(case.x) for case in alike])[:-1]
        parts = zip(np.split(subject.numpy(loss), ends), np.split(subject.numpy(grad), ends), strict=True)
        SOLVED[dtype, kind, count] = dict(zip([case.name for case in alike], parts, strict=True))
    return SOLVED[dtype, kind, count][name]


def solve(subject: Subject, case: cases.Case) -> tuple[Any, Any]:
    """Loss and gradient of a case's rows."""
    labels = subject(case.labels, None if case.kind == "index" else case.dtype)
    loss, grad = subject.functions.cross_entropy_value_and_grad(
        subject(case.x, case.dtype), labels, reduction="none", **options_of(subject, case)
    )
    same([subject.dtype(loss), subject.dtype(grad)], [case.dtype] * 2, "dtypes")
    return subject.numpy(loss), subject.numpy(grad)


FULL = [pytest.mark.full]

TABLES = [
    pytest.param(
        dtype,
        kind,
        name,
        id=f"{dtype}-{kind}-{name}",
        marks=[]
        if kind != "one-hot" and case.x.shape[1] == 4 and (dtype, kind) != ("float64", "probabilities")
        else FULL,
    )
    for dtype in DTYPES
    for kind in cases.KINDS
    for name, case in cases.plain(dtype, kind).items()
]


@check(
    "truth.table",
    "Loss and gradient of hard rows are within (8 + d) u of the truth, faint ones near it; the loss is not negative.",
    source=ACCURACY,
)
@pytest.mark.parametrize(("dtype", "kind", "name"), TABLES)
def test_table(subject: Subject, measure, dtype, kind, name):
    require(subject, dtype)
    loss, grad = solve_table(subject, dtype, kind, name)
    at_least(loss, 0)
    judge(measure, dtype, {"loss": loss, "grad": grad}, cases.plain(dtype, kind)[name])


SUBNORMAL = {
    "float32": ("confident", "not-the-label", "far-runner-up-0", "far-runner-up-1"),
    "float64": ("confident", "not-the-label"),
}
"""The tables with results of which no digits are promised, because exponentials are subnormal or flushed to 0."""


def subnormal_tables(*quick: str) -> list[Any]:
    return [
        pytest.param(dtype, name, id=f"{dtype}-{name}", marks=[] if name in quick else FULL)
        for dtype, names in SUBNORMAL.items()
        for name in names
    ]


@check(
    "truth.subnormal",
    "Where exponentials are subnormal or 0, results alone are off by C a T 2**-126 (2**-1022) at most, never negative.",
    source=ACCURACY,
)
@pytest.mark.parametrize(("dtype", "name"), subnormal_tables("confident", "not-the-label"))
def test_subnormal(subject: Subject, measure, dtype, name):
    require(subject, dtype)
    for kind in ("index", "one-hot"):
        case = cases.plain(dtype, kind)[name]
        # Without rows that have digits: nothing in the call is computed for them.
        case = case._replace(x=case.x[[bool(row.loss.faint | row.grad.faint.any()) for row in cases.rows(case)]])
        loss, grad = solve(subject, case)
        at_least(loss, 0)
        judge(measure, dtype, {"loss": loss, "grad": grad}, case, faint=True)


@check(
    "truth.subnormal-scaled",
    "Scaled by a weight of 2**27, what exponentials that are subnormal or 0 leave out is scaled, and no more is lost.",
    source=ACCURACY,
)
@pytest.mark.parametrize(("dtype", "name"), subnormal_tables())
def test_subnormal_scaled(subject: Subject, measure, dtype, name):
    require(subject, dtype)
    case = cases.plain(dtype, "index")[name]._replace(options=truth.Options(scale=2.0**27))
    loss, grad = solve(subject, case)
    at_least(loss, 0)
    judge(measure, dtype, {"loss": loss, "grad": grad}, case)
    if case.x.shape[1] <= 64:
        judge_derivatives(subject, measure, case)


@check(
    "truth.subnormal-binary",
    "Loss and gradient of an event whose exponential is subnormal or 0 are as near to the truth.",
    source=ACCURACY,
)
@pytest.mark.parametrize(("dtype", "edge"), [pytest.param(d, z, id=d) for d, z in (("float32", 88), ("float64", 709))])
def test_subnormal_binary(subject: Subject, measure, dtype, edge):
    require(subject, dtype)
    z = np.asarray([edge, -edge, edge + 12, -edge - 12], dtype)
    judge_events(subject, measure, dtype, z, 1.0, 2.5)


@check(
    "truth.overflow",
    "A weight scales the distance of two logits before it overflows: what it makes finite is finite.",
    source=ACCURACY,
)
@pytest.mark.parametrize("dtype", rarely(DTYPES, but=("float32",)))
def test_overflow(subject: Subject, measure, dtype):
    require(subject, dtype)
    for name in ("huge-0", "huge-1", "huge-3"):
        case = cases.plain(dtype, "index")[name]._replace(options=truth.Options(scale=0.25))
        loss, grad = solve(subject, case)
        is_finite(loss)
        judge(measure, dtype, {"loss": loss, "grad": grad}, case)


@check(
    "truth.options",
    "With every option, loss and gradient keep (8 + d) u and the options' own roundings.",
    source=ACCURACY,
)
@pytest.mark.parametrize("name", rarely(cases.with_options("float64", "index"), but=("all",)))
@pytest.mark.parametrize("kind", rarely(cases.KINDS, but=("index", "probabilities")))
@pytest.mark.parametrize("dtype", rarely(DTYPES, but=("float32",)))
def test_options(subject: Subject, measure, dtype, kind, name):
    require(subject, dtype)
    case = cases.with_options(dtype, kind)[name]
    loss, grad = solve(subject, case)
    judge(measure, dtype, {"loss": loss, "grad": grad}, case)


@check(
    "truth.softcap",
    "A softcap far below the logits, or far above them, costs no more digits: nothing cancels or overflows.",
    source=ACCURACY,
)
@pytest.mark.parametrize(
    "softcap", [pytest.param(c, id=name) for name, c in (("saturated", 8.0), ("narrow", 0.02), ("wide", 1e4))]
)
@pytest.mark.parametrize("dtype", rarely(DTYPES, but=()))
def test_softcap(subject: Subject, measure, dtype, softcap):
    require(subject, dtype)
    case = cases.with_options(dtype, "index")["softcap"]._replace(options=truth.Options(softcap=softcap))
    loss, grad = solve(subject, case)
    judge(measure, dtype, {"loss": loss, "grad": grad}, case)


@check(
    "truth.derivatives",
    "The derivative along a tangent and the Hessian times a vector keep their digits, in confident rows as well.",
    source=ACCURACY,
)
@pytest.mark.parametrize(
    "name", rarely(["none", "class-weight", "sample-weight", "smoothing", "z-loss"], but=("none",))
)
@pytest.mark.parametrize("kind", rarely(cases.KINDS, but=("index",)))
@pytest.mark.parametrize("dtype", rarely(DTYPES, but=("float32",)))
def test_derivatives(subject: Subject, measure, dtype, kind, name):
    require(subject, dtype)
    judge_derivatives(subject, measure, cases.with_options(dtype, kind)[name])


@check(
    "truth.derivatives-of-far-rows",
    "The derivatives keep their digits as the other exponentials get small, and stay near where these vanish.",
    source=ACCURACY,
)
@pytest.mark.parametrize("name", ["confident", "not-the-label"])
@pytest.mark.parametrize("dtype", rarely(DTYPES, but=()))
def test_derivatives_of_far_rows(subject: Subject, measure, dtype, name):
    require(subject, dtype)
    case = cases.plain(dtype, "index")[name]
    judge_derivatives(subject, measure, case)
    judge_derivatives(subject, measure, case._replace(options=truth.Options(z_loss=0.01)))


@pytest.mark.full
@check(
    "truth.derivatives-of-an-outlier",
    "The derivatives keep their digits where a vector has an outlier at the maximum, far from all and from its mean.",
    source=ACCURACY,
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_of_an_outlier(subject: Subject, measure, dtype):
    require(subject, dtype)
    judge_derivatives(subject, measure, cases.outlier(dtype))


def judge_derivatives(subject: Subject, measure: Any, case: cases.Case) -> None:
    dtype = case.dtype
    x, v = subject(case.x, dtype), subject(case.direction, dtype)
    labels = subject(case.labels, None if case.kind == "index" else dtype)
    options = options_of(subject, case) | {"reduction": "none"}
    _, slope = subject.functions.cross_entropy_jvp(x, v, labels, **options)
    product = subject.functions.cross_entropy_hvp(x, v, labels, **options)
    judge(measure, dtype, {"slope": subject.numpy(slope), "product": subject.numpy(product)}, case)


@check(
    "truth.autodiff",
    "Differentiated by its framework, the loss gives the gradient, and that the Hessian, with all digits.",
    source=ACCURACY,
)
@pytest.mark.parametrize("name", rarely(["confident", "not-the-label", "smoothing", "z-loss"], but=("confident",)))
@pytest.mark.parametrize("dtype", rarely(DTYPES, but=("float32",)))
def test_autodiff(subject: Subject, measure, dtype, name):
    require(subject, dtype)
    transforms = subject.backend.transforms
    if "grad" not in transforms:
        pytest.skip("declares no grad")
    case = (cases.plain(dtype, "index") | cases.with_options(dtype, "index"))[name]
    x, v, labels = subject(case.x, dtype), subject(case.direction, dtype), subject(case.labels)
    options = options_of(subject, case) | {"reduction": "none"}
    slope = transforms["grad"](lambda a: subject.xp.sum(subject.functions.cross_entropy(a, labels, **options)))
    judge(measure, dtype, {"grad": subject.numpy(slope(x))}, case)
    backward = transforms["grad"](lambda a: subject.xp.sum(slope(a) * v))(x)
    judge(measure, dtype, {"product": subject.numpy(backward)}, case)
    if "jvp" in transforms:
        judge(measure, dtype, {"product": subject.numpy(transforms["jvp"](slope, x, v))}, case)


@check(
    "truth.half-precision",
    "Half precision is computed in float32: the loss is float32's, the gradient float32's rounded once.",
    source="docs/contract.md, Dtypes, devices, arrays",
)
@pytest.mark.parametrize("name", rarely(["confident", "1000-classes-scale-5"], but=("confident",)))
@pytest.mark.parametrize("kind", rarely(["index", "probabilities"], but=("index",)))
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision(subject: Subject, measure, dtype, kind, name):
    require(subject, dtype)
    case = cases.plain("float32", kind)[name]
    x = subject(case.x, dtype)
    rounded = case._replace(x=subject.numpy(x))
    labels = subject(case.labels, None if kind == "index" else "float32")
    loss, grad = subject.functions.cross_entropy_value_and_grad(x, labels, reduction="none")
    if not subject.peer:  # whose losses keep the dtype
        same([subject.dtype(loss), subject.dtype(grad)], ["float32", dtype], "dtypes")
    judge(measure, "float32", {"loss": subject.numpy(loss)}, rounded)
    judge(measure, "float32", {"grad": subject.numpy(grad)}, rounded, half=dtype)


@check("truth.binary", "Loss and gradient of one logit are within (8 + |z|) u of the truth.", source=ACCURACY)
@pytest.mark.parametrize("weight", [1.0, 2.5])
@pytest.mark.parametrize("y", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("dtype", rarely(DTYPES, but=("float32",)))
def test_binary(subject: Subject, measure, dtype, y, weight):
    require(subject, dtype)
    judge_events(subject, measure, dtype, cases.events(dtype), y, weight)


def judge_events(subject: Subject, measure: Any, dtype: str, z: Any, y: float, weight: float) -> None:
    labels = np.full(z.shape, y, dtype)
    options = {} if weight == 1 else {"pos_weight": weight}
    loss, grad = subject.functions.binary_cross_entropy_value_and_grad(
        subject(z, dtype), subject(labels, dtype), reduction="none", **options
    )
    true = [truth.binary(a, b, weight, dtype) for a, b in zip(z, labels, strict=True)]
    at_least(subject.numpy(loss), 0)
    for k, (quantity, values) in enumerate({"loss": loss, "grad": grad}.items()):
        expected = truth.stack([each[k] for each in true])
        near(measure, "binary", quantity, subject.numpy(values), expected, dtype)


@check(
    "truth.parts",
    "logsumexp, log_softmax and softmax are within (8 + d) u of the truth, faint ones near it.",
    source=ACCURACY,
)
@pytest.mark.parametrize("name", rarely(["confident", "far-runner-up-0"], but=("confident",)))
@pytest.mark.parametrize("dtype", rarely(DTYPES, but=("float32",)))
def test_parts(subject: Subject, measure, dtype, name):
    require(subject, dtype)
    rows = cases.plain(dtype, "index")[name].x
    x, f = subject(rows, dtype), subject.functions
    true = [truth.parts(row, dtype) for row in rows]
    for k, (quantity, values) in enumerate(
        {"logsumexp": f.logsumexp(x), "log_softmax": f.log_softmax(x), "softmax": f.softmax(x)}.items()
    ):
        expected = truth.stack([each[k] for each in true])
        same(near(measure, name, quantity, subject.numpy(values), expected, dtype), True, "whether any is normal")
