"""Every function against the oracle: at every size, in every layout, with every option beside every other.

All numbers have all their bits, so that one that is rounded on the way shows; dtypes are those promised, and not those
found. Under a library that compiles or plans each call, fewer problems are tried.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from .. import oracle
from ..compare import equal, is_nan, raises, same, within
from ..covering import covering
from ..plugin import check
from ..subjects import HALF, Subject
from ._contract import UNIT
from .test_transforms import declared, fast

FUNCTIONS, WEIGHTS = "docs/contract.md, Functions", "docs/contract.md, Weights, smoothing, reductions"
DTYPES = "docs/contract.md, Dtypes, devices, arrays"


class Case(NamedTuple):
    """A function and its arguments, of NumPy; `reversed` ones are made with their axes reversed, and permuted back."""

    function: str
    arrays: Mapping[str, Any]
    options: Mapping[str, Any]
    dtype: str = "float64"
    reversed: bool = False


def solve(subject: Subject, case: Case, roundings: float = 64) -> None:
    """Compare a function's results with the oracle's: their number, shapes, dtypes and values."""
    dtype = case.dtype if case.dtype in subject.dtypes else subject.dtypes[0]
    if not subject.has_values:
        pytest.skip("arrays without values: only shapes, dtypes and errors can be checked")
    made, exact = {}, {}
    for name, values in {**case.arrays, **case.options}.items():
        made[name] = exact[name] = values
        if isinstance(values, np.ndarray):
            array = converted(subject, values, dtype, case.reversed)
            made[name], exact[name] = array, values
            if values.dtype.kind == "f":
                exact[name] = subject.numpy(array).astype(np.float64, order="C")
    found = getattr(subject.functions, case.function)(**made)
    keywords = {name: value for name, value in exact.items() if name not in ("max_bytes", "recompute")}
    with np.errstate(invalid="ignore"):  # rows that do not count may hold anything
        expected = getattr(oracle, case.function)(**keywords)
    wide = "float32" if dtype in HALF else dtype
    for got, true, promised in zip(flat(found), flat(expected), promises(case.function, dtype, wide), strict=False):
        if true is None:
            same(got, None, "no result")
            continue
        same(tuple(got.shape), np.shape(true), "shape")
        same(subject.dtype(got), promised, "dtype")
        largest = np.max(np.abs(true), where=np.isfinite(true), initial=0.0)
        if case.function == "cross_entropy_jvp":  # a sum of products of both signs
            _, grad = oracle.cross_entropy_value_and_grad(**{k: v for k, v in keywords.items() if k != "tangent"})
            largest = max(largest, np.abs(grad * exact["tangent"]).sum())
        within(subject.numpy(got), true, roundings * UNIT[promised] * largest)
    same(len(flat(found)), len(flat(expected)), "number of results")


def converted(subject: Subject, values: Any, dtype: str, is_reversed: bool) -> Any:
    kind = dtype if values.dtype.kind == "f" else None
    if not is_reversed or values.ndim < 2:
        return subject(values, kind)
    axes = tuple(reversed(range(values.ndim)))
    return subject.xp.permute_dims(subject(values.transpose(axes), kind), axes)


def flat(results: Any) -> list[Any]:
    return [r for result in results for r in flat(result)] if isinstance(results, tuple) else [results]


def promises(function: str, dtype: str, wide: str) -> list[str]:
    """The dtypes of the results: gradients and probabilities have that of the logits."""
    if function in ("cross_entropy_hvp", "softmax"):
        return [dtype]
    return [wide, wide] if function == "cross_entropy_jvp" else [wide, dtype, dtype, dtype]


def each(cases: Iterator[Case] | Sequence[Case], subject: Subject, **options: Any) -> None:
    """Solve all cases; an error says which one it is of."""
    for case in cases:
        try:
            solve(subject, case, **options)
        except Exception as error:
            shapes = {name: np.shape(a) for name, a in case.arrays.items()}
            given = {name: np.shape(a) if isinstance(a, np.ndarray) else a for name, a in case.options.items()}
            error.add_note(f"{case.function} in {case.dtype} of {shapes} with {given}, reversed: {case.reversed}")
            raise


def dtypes_of(subject: Subject) -> list[str]:
    """The dtypes that options are tried in: half precision too, where that is cheap."""
    return subject.precisions if subject.costly else subject.dtypes


def combinations(columns: Mapping[str, Sequence[Any]], subject: Subject, quick: bool) -> Iterator[dict[str, Any]]:
    """Rows in which each two values of two columns meet; in the full run, each three of three, but of linear layers."""
    rows = covering(columns, 2 if quick or subject.costly or "layer" in columns else 3)
    return itertools.islice(rows, None, None, (5 if quick else 2) if subject.costly else 1)


def numbers(rng: np.random.Generator, *shape: int, scale: float = 2.0) -> Any:
    return scale * rng.normal(size=shape)


def positive(rng: np.random.Generator, *shape: int) -> Any:
    return rng.random(shape) + 0.3


# The options of the losses: what is given of each, in words that `options` makes arrays of.
LABELS = ("index", "ignored", "a class ignored", "one-hot", "probabilities")
CLASS_WEIGHT = SAMPLE_WEIGHT = (None, "positive", "one is 0")
REDUCTIONS = ("none", "sum", "mean", "over a number", "over an array")
COLUMNS: Mapping[str, Sequence[Any]] = {
    "labels": LABELS,
    "reduction": REDUCTIONS,
    "function": ("cross_entropy", "cross_entropy_value_and_grad", "cross_entropy_jvp", "cross_entropy_hvp"),
    "class_weight": CLASS_WEIGHT,
    "sample_weight": SAMPLE_WEIGHT,
    "label_smoothing": (0.0, 0.1, 1.0),
    "axis": (-1, 0, 1),
    "z_loss": (0.0, 0.3),
    "softcap": (None, 2.5),
    "masked": (False, True),
}
LEAD, CLASSES = (3, 4), 5


def target(rng: np.random.Generator, kind: str, lead: tuple[int, ...], classes: int, *, last: int = 0) -> Any:
    """Labels of rows, and how they say so; never one of the `last` classes."""
    index = rng.integers(0, classes - last, lead)
    if kind == "one-hot":
        return np.eye(classes)[index]
    if kind == "probabilities":
        return rng.dirichlet(np.ones(classes), lead) * positive(rng, *lead, 1)
    if kind == "ignored":
        index[..., ::3] = -100
    return index


def options_of(
    rng: np.random.Generator, row: Mapping[str, Any], labels: Any, lead: tuple[int, ...], classes: int
) -> dict[str, Any]:
    """The options that a row of a covering array stands for; a class of weight 0 is some row's label."""
    found: dict[str, Any] = {"ignore_index": 2} if row["labels"] == "a class ignored" else {}
    if row["class_weight"]:
        found["class_weight"] = positive(rng, classes)
        if row["class_weight"] == "one is 0":
            found["class_weight"][max(0, np.max(labels, initial=0)) if labels.dtype.kind == "i" else 1] = 0
    if row["sample_weight"]:
        found["sample_weight"] = positive(rng, *lead)
        if row["sample_weight"] == "one is 0":
            found["sample_weight"][..., :1] = 0
    for name in ("label_smoothing", "z_loss", "softcap", "axis"):
        if name in row and not (name == "softcap" and row[name] is None):
            found[name] = row[name]
    return found | reduction_of(row["reduction"])


def reduction_of(word: str) -> dict[str, Any]:
    over = {"over a number": 7.3, "over an array": np.asarray(7.3)}
    return {"denominator": over[word]} if word in over else {"reduction": word}


def unused(labels: Any, options: Mapping[str, Any], lead: tuple[int, ...]) -> Any:
    """Which rows do not count, whatever their logits are."""
    found = np.broadcast_to(options.get("sample_weight", 1.0) == 0, lead)
    if labels.dtype.kind == "f":
        return found
    found = found | (labels == options.get("ignore_index", -100))
    if "class_weight" in options and not (options.get("label_smoothing") or options.get("z_loss")):
        found = found | (options["class_weight"][np.maximum(labels, 0)] == 0)
    return found


def problems(subject: Subject, quick: bool, rng: np.random.Generator, columns: Any) -> Iterator[Case]:
    """The cases of a covering array of the losses of logits."""
    dtypes = dtypes_of(subject)
    columns = columns | {"dtype": dtypes, "reversed": (False, True)}
    for number, row in enumerate(combinations(columns, subject, quick)):
        masked = row["masked"] and row["labels"] != "probabilities" and not row.get("label_smoothing")
        x, labels = numbers(rng, *LEAD, CLASSES), target(rng, row["labels"], LEAD, CLASSES, last=int(masked))
        x[..., -1] = -np.inf if masked else x[..., -1]
        options = options_of(rng, row, labels, LEAD, CLASSES)
        if row["function"] == "nll_loss":
            x = oracle.log_softmax(x)
        if number % 2:
            x[unused(labels, options, LEAD)] = np.nan
        axis = row["axis"]
        arrays = {"log_probs" if row["function"] == "nll_loss" else "logits": np.moveaxis(x, -1, axis)}
        derivative = {"cross_entropy_jvp": "tangent", "cross_entropy_hvp": "vector"}.get(row["function"])
        if derivative:
            arrays[derivative] = np.moveaxis(numbers(rng, *LEAD, CLASSES), -1, axis)
        arrays["labels"] = np.moveaxis(labels, -1, axis) if labels.ndim == x.ndim else labels
        yield Case(row["function"], arrays, options, row["dtype"], row["reversed"])


@check(
    "values.options",
    "Under every pair of options, and in full every three, each function of logits returns what its definition says.",
    source=WEIGHTS,
)
def test_options(subject: Subject, quick: bool, rng: np.random.Generator) -> None:
    each(problems(subject, quick, rng, COLUMNS), subject)


@check(
    "values.nll-loss",
    "Under every pair of options, and in full every three, nll_loss returns what its definition says.",
    source=WEIGHTS,
)
def test_nll_loss(subject: Subject, quick: bool, rng: np.random.Generator) -> None:
    columns = {
        name: COLUMNS[name] for name in ("labels", "reduction", "class_weight", "sample_weight", "axis", "masked")
    }
    each(problems(subject, quick, rng, columns | {"function": ("nll_loss",)}), subject)


@check(
    "values.binary",
    "Under every pair of options binary cross-entropy returns what its definition says, of events of any shape.",
    source=WEIGHTS,
)
def test_binary(subject: Subject, quick: bool, rng: np.random.Generator) -> None:
    columns = {
        "shape": ((), (1,), (7,), (3, 5), (2, 3, 4)),
        "reduction": REDUCTIONS,
        "pos_weight": (None, "number", "array", "one for all", "last axis"),
        "sample_weight": (None, "positive", "one is 0"),
        "labels": ("soft", "hard"),
        "function": ("binary_cross_entropy", "binary_cross_entropy_value_and_grad"),
        "dtype": dtypes_of(subject),
        "reversed": (False, True),
    }

    def cases() -> Iterator[Case]:
        for row in combinations(columns, subject, quick):
            shape = row["shape"]
            z, y = numbers(rng, *shape), rng.random(shape)
            y = np.asarray(np.round(y) if row["labels"] == "hard" else y)
            weights = {
                "number": 1.7,
                "array": np.asarray(positive(rng, *shape)),
                "one for all": np.asarray(1.7),
                "last axis": np.asarray(positive(rng, *shape[-1:])),
            }
            options: dict[str, Any] = {"pos_weight": weights[row["pos_weight"]]} if row["pos_weight"] else {}
            if row["sample_weight"]:
                options["sample_weight"] = np.asarray(positive(rng, *shape))
                if row["sample_weight"] == "one is 0" and shape:
                    options["sample_weight"][..., 0] = 0
            options |= reduction_of(row["reduction"])
            arrays = {"logits": np.asarray(z), "labels": y}
            yield Case(row["function"], arrays, options, row["dtype"], row["reversed"])

    each(cases(), subject)


SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65)


@check("values.every-number-of-classes", "Results are right for any number of classes.", source=FUNCTIONS)
@pytest.mark.parametrize("function", ["cross_entropy_value_and_grad", "cross_entropy_hvp", "logsumexp", "softmax"])
def test_classes(subject: Subject, quick: bool, rng: np.random.Generator, function: str) -> None:
    dtypes = subject.precisions

    def cases() -> Iterator[Case]:
        for classes in sizes(subject, quick):
            x = numbers(rng, 3, classes)
            dtype, is_reversed = dtypes[classes % len(dtypes)], classes % 3 == 0
            if function in ("logsumexp", "softmax"):
                yield Case(function, {"x": x}, {}, dtype, is_reversed)
                continue
            vector = {"vector": numbers(rng, 3, classes)} if function == "cross_entropy_hvp" else {}
            for kind in ("index", "probabilities") if not subject.costly else ("index",):
                arrays = {"logits": x, **vector, "labels": target(rng, kind, (3,), classes)}
                yield Case(function, arrays, {"reduction": "none"}, dtype, is_reversed)

    each(cases(), subject)


@check("values.every-number-of-rows", "Sums and means are right over any number of rows.", source=WEIGHTS)
def test_rows(subject: Subject, quick: bool, rng: np.random.Generator) -> None:
    dtypes = subject.precisions

    def cases() -> Iterator[Case]:
        for rows in sizes(subject, quick):
            arrays = {"logits": numbers(rng, rows, 3), "labels": target(rng, "index", (rows,), 3)}
            options = {"reduction": ("mean", "sum")[rows % 2], "sample_weight": positive(rng, rows)}
            yield Case("cross_entropy_value_and_grad", arrays, options, dtypes[rows % len(dtypes)])
            if not subject.costly:
                yield Case("cross_entropy", arrays, {"reduction": ("sum", "mean")[rows % 2]})

    each(cases(), subject)


def sizes(subject: Subject, quick: bool) -> Sequence[int]:
    if subject.costly:
        return SIZES[1::5] if quick else SIZES[::2]
    return range(1, 71)


SHAPES = ((1,), (5,), (1, 1), (4, 4), (3, 3, 3), (2, 3, 4), (2, 3, 4, 5), (3, 3, 3, 3), (300, 2))


@check(
    "values.layouts",
    "Along each axis of logits of one to four, in C and in Fortran order, results are right.",
    source=FUNCTIONS,
)
@pytest.mark.parametrize(
    "function", ["cross_entropy_value_and_grad", "cross_entropy_hvp", "logsumexp", "log_softmax", "softmax"]
)
def test_layouts(subject: Subject, quick: bool, rng: np.random.Generator, function: str) -> None:
    dtypes = subject.precisions
    places = [(shape, axis) for shape in SHAPES for axis in range(-len(shape), len(shape))]
    if subject.costly:
        places = places[:: 6 if quick else 2]

    def cases() -> Iterator[Case]:
        for number, (shape, axis) in enumerate(places):
            x, dtype = numbers(rng, *shape), dtypes[number % len(dtypes)]
            x = np.round(x) if number % 3 == 0 else x  # some classes tie
            for is_reversed in (False, True) if not subject.costly else (number % 2 == 0,):
                if not function.startswith("cross"):
                    options = {"keepdims": is_reversed} if function == "logsumexp" else {}
                    yield Case(function, {"x": x}, {"axis": axis} | options, dtype, is_reversed)
                    continue
                lead = tuple(np.delete(shape, axis))
                q = target(rng, ("index", "probabilities")[number % 2], lead, shape[axis])
                labels = np.moveaxis(q, -1, axis) if q.ndim == x.ndim and q.dtype.kind == "f" else np.asarray(q)
                arrays = {"logits": x, "labels": labels}
                if function == "cross_entropy_hvp":
                    arrays["vector"] = numbers(rng, *shape)
                yield Case(function, arrays, {"axis": axis, "reduction": "none"}, dtype, is_reversed)

    each(cases(), subject)


@check(
    "values.long-rows",
    "Rows of very many classes are summed to their end, with their maximum at either end.",
    source=FUNCTIONS,
)
@pytest.mark.parametrize("classes", [5000, 200_001, pytest.param((1 << 20) + 7, marks=pytest.mark.full)])
def test_long_rows(subject: Subject, quick: bool, rng: np.random.Generator, classes: int) -> None:
    if (quick and subject.costly and classes == 5000) or (subject.name == "mparray" and classes > 5000):
        pytest.skip("takes long where each call is compiled or planned, or computed number by number")
    dtypes = subject.precisions
    x = 0.01 * rng.normal(size=(2, classes))
    x[0, 0] = x[1, -1] = 0.1

    def cases() -> Iterator[Case]:
        # Nearly equal, so that each class counts as much, and log1p is of almost as many.
        yield Case(
            "cross_entropy_value_and_grad", {"logits": x, "labels": np.asarray([classes - 1, 1])}, {}, dtypes[-1]
        )
        yield Case("logsumexp", {"x": x}, {}, dtypes[0])
        if not subject.costly:
            yield Case("softmax", {"x": x}, {}, dtypes[-1])
            q = rng.dirichlet(np.ones(classes), 2)
            yield Case("cross_entropy_value_and_grad", {"logits": x, "labels": q}, {"label_smoothing": 0.1}, dtypes[-1])

    each(cases(), subject)


@check("values.many-rows", "The mean and the sum of very many rows are right.", source=WEIGHTS)
def test_many_rows(subject: Subject, quick: bool, rng: np.random.Generator) -> None:
    leads = [(1001,)] if subject.slow else [(100_001,)] if subject.costly else [(100_001,), (331, 307)]
    each(
        [
            Case(
                "cross_entropy_value_and_grad",
                {"logits": numbers(rng, *lead, 3), "labels": target(rng, "ignored", lead, 3)},
                {},
                dtype,
            )
            for lead in leads
            for dtype in subject.precisions
        ],
        subject,
    )


@check(
    "values.nan-anywhere",
    "NaN at any class of a row makes its results NaN, and those of no other row; in an ignored one it does nothing.",
    source="docs/contract.md, Ignored rows, infinities, NaN",
)
@pytest.mark.parametrize("function", ["cross_entropy", "logsumexp"])
def test_nan_anywhere(subject: Subject, quick: bool, rng: np.random.Generator, function: str) -> None:
    for classes in (5,) if subject.costly else (2, 5, 17, 70):
        x = numbers(rng, classes + 1, classes)
        x[np.arange(classes), np.arange(classes)] = np.nan
        labels = [subject(np.full(classes + 1, classes // 2))] if function == "cross_entropy" else []
        options = {"reduction": "none"} if labels else {}
        found = getattr(subject.functions, function)(subject(x), *labels, **options)
        is_nan(subject.numpy(found), np.arange(classes + 1) < classes)
        if labels:
            ignored = subject(np.full(classes + 1, -100))
            equal(subject.numpy(subject.functions.cross_entropy(subject(x), ignored, **options)), 0)


@check(
    "values.second-call",
    "What is wrong is an error, or NaN, also after a right call with arrays of the same shapes and dtypes.",
    source=DTYPES,
)
@pytest.mark.parametrize("function", ["cross_entropy", "nll_loss", "binary_cross_entropy", "linear_cross_entropy"])
def test_second_call(subject: Subject, rng: np.random.Generator, function: str) -> None:
    dtype = subject.precisions[-1]
    arrays, options = differentiated(rng, function, plain=False)
    index = {} if function.startswith("binary") else {"labels": rng.integers(0, SHAPE[1], SHAPE[:1])}
    for labels in ({}, index) if index else ({},):
        right = arrays | labels
        signed = ("labels", "class_weight", "sample_weight", "pos_weight")
        wrong = {name: -values for name, values in right.items() if name in signed}
        calls = [right, *({**right, name: values} for name, values in wrong.items()), right]
        for call in calls:
            made = {name: subject(a, dtype if a.dtype.kind == "f" else None) for name, a in call.items()}
            name = next((name for name in wrong if call[name] is not right[name]), None)
            if name is not None and subject.reads(made[name]):
                with raises((ValueError, IndexError), f"^{name}: "):
                    getattr(subject.functions, function)(**made, **options)
                continue
            loss = subject.numpy(getattr(subject.functions, function)(**made, **options))
            is_nan(loss, name is not None)


LAYERS: Mapping[str, tuple[tuple[int, ...], int, int]] = {
    "small": ((7,), 3, 5),
    "no rows": ((0,), 3, 5),
    "one row": ((), 4, 3),
    "two axes": ((2, 3), 4, 6),
    "a block and one": ((33,), 65, 17),
    "many": ((41,), 130, 67),
}
LAYER_COLUMNS: Mapping[str, Sequence[Any]] = {
    "layer": tuple(LAYERS),
    "labels": LABELS,
    "reduction": REDUCTIONS,
    "max_bytes": (None, "one row", "three rows", "some classes"),
    "function": ("linear_cross_entropy", "linear_cross_entropy_value_and_grad"),
    "bias": (None, "given", "masks a class"),
    "class_weight": CLASS_WEIGHT,
    "sample_weight": SAMPLE_WEIGHT,
    "label_smoothing": (0.0, 0.1),
    "z_loss": (0.0, 0.3),
    "softcap": (None, 2.5),
}


def layers(subject: Subject, quick: bool, rng: np.random.Generator) -> Iterator[Case]:
    columns = dict(LAYER_COLUMNS)
    if subject.costly:
        columns["layer"] = "small", "two axes"
    columns |= {"dtype": dtypes_of(subject), "reversed": (False, True)}
    plain = {name: values[0] for name, values in columns.items()} | {"class_weight": "one is 0"}
    weightless = [plain | {"max_bytes": size} for size in (None, "three rows", "some classes")]
    for row in [*combinations(columns, subject, quick), *weightless[: 1 if subject.costly else 3]]:
        lead, inputs, classes = LAYERS[row["layer"]]
        masked = row["bias"] == "masks a class" and row["labels"] != "probabilities" and not row["label_smoothing"]
        hidden, weight = numbers(rng, *lead, inputs, scale=1.0), numbers(rng, classes, inputs, scale=inputs**-0.5)
        labels = target(rng, row["labels"], lead or (1,), classes, last=int(masked and bool(lead)))
        labels = labels if lead else np.asarray(labels[0])
        options = options_of(rng, row | ({} if lead else {"sample_weight": None}), labels, lead, classes)
        if row["bias"]:
            options["bias"] = numbers(rng, classes)
            if masked:
                options["bias"][-1] = -np.inf
        row_bytes = classes * 8 * 8
        sizes = {
            "one row": row_bytes if inputs > 100 else 1,
            "three rows": 3 * row_bytes,
            "some classes": row_bytes // 3,
        }
        if row["max_bytes"]:
            options["max_bytes"] = sizes[row["max_bytes"]]
        if lead:
            hidden[unused(labels, options, lead)] = np.nan
        arrays = {"hidden": hidden, "weight": weight, "labels": labels}
        yield Case(row["function"], arrays, options, row["dtype"], row["reversed"])


@check(
    "values.linear",
    "Under every pair of options the linear loss and its gradients are those of its logits, in blocks of any size.",
    source=FUNCTIONS,
)
def test_linear(subject: Subject, quick: bool, rng: np.random.Generator) -> None:
    each(layers(subject, quick, rng), subject, roundings=512)


# The derivatives of each function by each of its arrays: its arguments, what is an option among them aside.
DIFFERENTIATED: Mapping[str, tuple[str, ...]] = {
    "cross_entropy": ("logits", "labels"),
    "cross_entropy_value_and_grad": ("logits", "labels"),
    "cross_entropy_jvp": ("logits", "tangent", "labels"),
    "nll_loss": ("log_probs", "labels"),
    "binary_cross_entropy": ("logits", "labels"),
    "binary_cross_entropy_value_and_grad": ("logits", "labels"),
    "linear_cross_entropy": ("hidden", "weight", "labels"),
    "softmax": ("x",),
    "log_softmax": ("x",),
    "logsumexp": ("x",),
}
SHAPE = (3, 4)


def differentiated(rng: np.random.Generator, function: str, *, plain: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a function, each of which it can be differentiated by, and its other options."""
    names = DIFFERENTIATED[function]
    arrays: dict[str, Any] = {name: numbers(rng, *SHAPE) for name in names if name != "labels"}
    if len(names) == 1:
        return arrays, {"axis": 0}
    binary, linear = function.startswith("binary"), function.startswith("linear")
    arrays["labels"] = rng.random(SHAPE) if binary else target(rng, "probabilities", SHAPE[:1], SHAPE[1])
    if linear:
        arrays |= {
            "hidden": numbers(rng, SHAPE[0], 2),
            "weight": numbers(rng, SHAPE[1], 2),
            "bias": numbers(rng, SHAPE[1]),
        }
    elif function == "nll_loss":
        arrays["log_probs"] = oracle.log_softmax(arrays["log_probs"])
    if plain:
        return arrays, {"reduction": "none"}
    arrays["sample_weight"] = positive(rng, *(SHAPE if binary else SHAPE[:1]))
    if binary:
        return arrays | {"pos_weight": positive(rng, *SHAPE[1:])}, {}
    arrays["class_weight"] = positive(rng, SHAPE[1])
    if function == "nll_loss":
        return arrays, {}
    return arrays, {"label_smoothing": 0.1, "z_loss": 0.3, "softcap": 2.5}


def scalar(results: Any, total: Callable[[Any], Any], cotangents: Sequence[Any]) -> Any:
    """The sum of all results, each component times a cotangent of its own."""
    sums = [total(c * r) for c, r in zip(cotangents, flat(results), strict=True)]
    return sum(sums[1:], sums[0])


def derivative(
    subject: Subject, kind: str, function: Callable[[Any], Any], x: Any, along: Any, gradient: Any
) -> list[tuple[Any, Any, float]]:
    """What a transformation makes of a scalar function at x: pairs of found and expected, and the size of the terms."""
    transform = declared(subject, kind)
    size = float(np.max(np.abs(gradient)))
    if kind == "grad":
        return [(fast(subject, transform(function))(x), gradient, size)]
    if kind == "jvp":
        products = gradient * subject.numpy(along).astype(np.float64)
        found = fast(subject, lambda a, t: transform(function, a, t))(x, along)
        return [(found, products.sum(), float(np.abs(products).sum()))]
    scales = [3.0, 1.0]
    pulled = transform(function, x, [subject(np.asarray(c), subject.dtype(x)) for c in scales])
    return [(found, c * gradient, c * size) for found, c in zip(pulled, scales, strict=True)]


@check(
    "values.derivative",
    "By each of its arrays, each function has the derivatives of its definition: transformed, and by backward passes.",
    source=FUNCTIONS,
)
@pytest.mark.parametrize("function", list(DIFFERENTIATED))
@pytest.mark.parametrize("kind", ["grad", "jvp", "backward"])
def test_derivative(subject: Subject, quick: bool, rng: np.random.Generator, kind: str, function: str) -> None:
    declared(subject, kind)
    hurried = quick and subject.costly
    for plain in (False,) if hurried else (True, False):
        compare_derivatives(subject, rng, kind, function, plain=plain, most=2 if hurried else None)


def compare_derivatives(
    subject: Subject, rng: np.random.Generator, kind: str, function: str, *, plain: bool, most: int | None
) -> None:
    dtype = subject.precisions[-1]
    arrays, options = differentiated(rng, function, plain=plain)
    made = {name: subject(a, dtype) for name, a in arrays.items()}
    exact = {name: subject.numpy(a).astype(np.float64) for name, a in made.items()}
    shapes = [np.shape(r) for r in flat(getattr(oracle, function)(**exact, **options))]
    cotangents = [subject(numbers(rng, *shape), dtype) for shape in shapes]
    theirs = [subject.numpy(c).astype(np.float64) for c in cotangents]
    for name in list(arrays)[:most]:

        def ours(a: Any, name: str = name) -> Any:
            results = getattr(subject.functions, function)(**{**made, name: a}, **options)
            return scalar(results, subject.xp.sum, cotangents)

        def definition(a: Any, name: str = name) -> Any:
            return scalar(getattr(oracle, function)(**{**exact, name: a}, **options), np.sum, theirs)

        gradient = oracle.pullback(definition, exact[name], 1.0)
        along = subject(numbers(rng, *arrays[name].shape), dtype)
        for found, expected, size in derivative(subject, kind, ours, made[name], along, gradient):
            what = f"{kind} of {function} by {name}, {options}"
            same((tuple(found.shape), subject.dtype(found)), (np.shape(expected), dtype), what)
            within(subject.numpy(found), expected, 256 * UNIT[dtype] * size, what)


@check("values.kept", "A result keeps its values when its function is called again.", source=DTYPES)
@pytest.mark.parametrize("function", [*DIFFERENTIATED, "cross_entropy_hvp", "linear_cross_entropy_value_and_grad"])
def test_kept(subject: Subject, quick: bool, rng: np.random.Generator, function: str) -> None:
    dtype = subject.precisions[-1]
    names = {"cross_entropy_hvp": "cross_entropy_jvp"}.get(function, function.removesuffix("_value_and_grad"))
    results = []
    for plain in (True, True) if quick else (True, True, False, False):
        arrays, options = differentiated(rng, names, plain=plain)
        arrays |= {"vector": arrays.pop("tangent")} if function == "cross_entropy_hvp" else {}
        made = {name: subject(a, dtype) for name, a in arrays.items()}
        found = flat(getattr(subject.functions, function)(**made, **options))
        results.append((found, [subject.numpy(r).copy() for r in found]))
    for found, values in results:
        for result, then in zip(found, values, strict=True):
            equal(subject.numpy(result), then)
    same(any(np.any(a != b) for a, b in zip(results[0][1], results[1][1], strict=True)), True, "results that differ")
