"""What the contract promises of errors: they name the argument, what was expected and what was got."""

import re
from typing import Any

import numpy as np
import pytest

from ..compare import equal, is_nan, raises
from ..plugin import check
from ..subjects import Subject

FUNCTIONS, LABELS = "docs/contract.md, Functions", "docs/contract.md, Labels"
WEIGHTS = "docs/contract.md, Weights, smoothing, reductions"
DTYPES = "docs/contract.md, Dtypes, devices, arrays"

X = np.asarray([[0.5, 1, 2, 3], [1, 1, 1, 1], [3, 2, 1, 0]])
Y = np.asarray([0, 1, 2])
Q = X / 4


def rejects(error: type[Exception], message: str, function: Any, *arguments: Any, **options: Any) -> None:
    """Arrays are the subject's already; dtypes are named in the library's own spelling."""
    with raises(error, f"(?i){re.escape(message)}"):
        function(*arguments, **options)


def rejects_as(pattern: str, function: Any, *arguments: Any, **options: Any) -> None:
    with raises(TypeError, pattern):
        function(*arguments, **options)


@check("contract.errors.not-an-array", "What is no array is a TypeError that names it.", source=DTYPES)
def test_not_an_array(subject: Subject):
    f, x, y, expected = subject.functions, subject(X), subject(Y), "expected an array of an Array API library, got"
    rejects(TypeError, f"logits: {expected} list", f.cross_entropy, X.tolist(), y)
    rejects(TypeError, f"labels: {expected} list", f.cross_entropy, x, Y.tolist())
    rejects(TypeError, f"labels: {expected} NoneType", f.cross_entropy, x, None)
    rejects(TypeError, f"logits: {expected} list", f.binary_cross_entropy, [1.0], x)
    for function in (f.softmax, f.log_softmax, f.logsumexp):
        rejects(TypeError, f"x: {expected} list", function, [1.0])


@check("contract.errors.logits-dtype", "Integer, complex or bool logits are a TypeError that names it.", source=DTYPES)
@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
def test_logits_dtype(subject: Subject, dtype):
    f, x, y = subject.functions, subject((X > 1).astype(dtype), None if dtype == "bool" else dtype), subject(Y)
    expected = f"expected a real floating dtype, got {subject.dtype(x)}"
    rejects(TypeError, f"logits: {expected}", f.cross_entropy, x, y)
    rejects(TypeError, f"log_probs: {expected}", f.nll_loss, x, y)
    rejects(TypeError, f"logits: {expected}", f.binary_cross_entropy, x, x)
    for function in (f.softmax, f.log_softmax, f.logsumexp):
        rejects(TypeError, f"x: {expected}", function, x)


@check("contract.errors.labels-dtype", "Complex labels, and bool ones of classes, are a TypeError.", source=LABELS)
@pytest.mark.parametrize("dtype", ["complex64", "bool"])
def test_labels_dtype(subject: Subject, dtype):
    f, x, y = subject.functions, subject(X), subject((X > 1).astype(dtype), None if dtype == "bool" else dtype)
    expected = "labels: expected an integer dtype (class indices) or a real floating one (class probabilities), got"
    rejects(TypeError, f"{expected} {subject.dtype(y)}", f.cross_entropy, x, y)
    if dtype == "bool":
        return
    expected = "labels: expected a real floating, an integer or the bool dtype, got"
    rejects(TypeError, f"{expected} {subject.dtype(y)}", f.binary_cross_entropy, x, y)


@check(
    "contract.labels.broadcast",
    "Labels of another shape are a ValueError that names both; none is broadcast, nor guessed from equal shapes.",
    source=LABELS,
)
def test_labels_shape(subject: Subject):
    f, x, square = subject.functions, subject(X), subject(X[:, :3])
    index = "labels: expected shape (3,), that of logits (3, 4) without axis 1, got"
    for labels in (Y[:2], Y[:1], Y[:, None], Y[0], np.zeros((3, 4), int), np.zeros(4, int)):
        rejects(ValueError, f"{index} {labels.shape}", f.cross_entropy, x, subject(labels))
    soft = "labels: expected shape (3, 4), that of logits, for class probabilities, got"
    for labels in (Y / 2, Q[:, :3], Q[0], Q[:, :1], Q[:1]):
        rejects(ValueError, f"{soft} {labels.shape}", f.cross_entropy, x, subject(labels))
    rejects(ValueError, "got (3, 3)", f.cross_entropy, square, subject(np.zeros((3, 3), int)))
    rejects(ValueError, "for class probabilities, got (3,)", f.cross_entropy, square, subject(Y / 2))
    rejects(ValueError, "of log_probs (3, 4) without axis 1, got (2,)", f.nll_loss, x, subject(Y[:2]))
    rejects(ValueError, "of logits (3, 4) without axis 0, got (3,)", f.cross_entropy, x, subject(Y), axis=0)


@check("contract.errors.position", "The position of a wrong label has all axes.", source=LABELS)
def test_position(subject: Subject):
    y = np.zeros((2, 3, 5), int)
    y[1, 2, 4] = 9
    if not subject.reads(subject(y)):
        pytest.skip("labels cannot be read without waiting")
    f, x = subject.functions, subject(np.zeros((2, 4, 3, 5)))
    rejects(IndexError, "but labels[1, 2, 4] is 9", f.cross_entropy, x, subject(y), axis=1)
    rejects(IndexError, "but labels is 9", f.cross_entropy, subject(np.zeros(4)), subject(y[1, 2, 4]))


@check("contract.errors.classes", "Logits need at least one axis and one class.", source=FUNCTIONS)
def test_classes(subject: Subject):
    f = subject.functions
    expected = "logits: expected at least one class along axis -1, got shape (3, 0)"
    rejects(ValueError, expected, f.cross_entropy, subject(X[:, :0]), subject(Y))
    expected = "axis: expected an axis of logits, whose shape is (), got -1"
    rejects(ValueError, expected, f.cross_entropy, subject(X[0, 0]), subject(Y))
    for function in (f.softmax, f.log_softmax, f.logsumexp):
        expected = "x: expected at least one class along axis 0, got shape (0, 4)"
        rejects(ValueError, expected, function, subject(X[:0]), axis=0)
        rejects(ValueError, "axis: expected an axis of x, whose shape is (3, 4), got 5", function, subject(X), axis=5)


@check("contract.errors.weights-shape", "Weights of another shape are a ValueError that names both.", source=WEIGHTS)
@pytest.mark.parametrize(
    ("message", "name", "value"),
    [
        ("class_weight: expected shape (4,), one for each class, got (3,)", "class_weight", [1.0, 1, 1]),
        ("class_weight: expected shape (4,), one for each class, got ()", "class_weight", 1.0),
        ("sample_weight: expected shape (3,), that of the unreduced loss, got ()", "sample_weight", 1.0),
        ("sample_weight: expected shape (3,), that of the unreduced loss, got (1,)", "sample_weight", [1.0]),
        ("sample_weight: expected shape (3,), that of the unreduced loss, got (3, 1)", "sample_weight", [[1.0]] * 3),
        ("denominator: expected a positive finite number or an array of no dimensions", "denominator", [1.0, 2.0]),
    ],
    ids=["class-3", "class-number", "sample-number", "sample-1", "sample-column", "denominator"],
)
def test_weights_shape(subject: Subject, message, name, value):
    rejects(ValueError, message, subject.functions.cross_entropy, subject(X), subject(Y), **{name: subject(value)})


@check("contract.errors.weights-dtype", "Complex weights are a TypeError.", source=WEIGHTS)
def test_weights_dtype(subject: Subject):
    f, x, y = subject.functions, subject(X), subject(Y)
    for name, value in (("class_weight", np.ones(4)), ("sample_weight", np.ones(3)), ("denominator", np.ones(()))):
        weight = subject(value, "complex64")
        rejects(TypeError, f"{name}: expected a real dtype, got complex64", f.cross_entropy, x, y, **{name: weight})
    weight = subject(np.ones(4), "complex64")
    rejects(TypeError, "pos_weight: expected a real dtype", f.binary_cross_entropy, x, subject(Q), pos_weight=weight)


SMOOTHING = "label_smoothing: expected a number in [0, 1], got"
DENOMINATOR = "denominator: expected a positive finite number or an array of no dimensions, got"


WRONG_OPTIONS: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, f"{SMOOTHING} 1.5", {"label_smoothing": 1.5}),
    (ValueError, f"{SMOOTHING} -0.1", {"label_smoothing": -0.1}),
    (ValueError, f"{SMOOTHING} nan", {"label_smoothing": float("nan")}),
    (TypeError, f"{SMOOTHING} str", {"label_smoothing": "0.1"}),
    (TypeError, f"{SMOOTHING} bool", {"label_smoothing": True}),
    (ValueError, "z_loss: expected a finite number that is not negative, got -1", {"z_loss": -1}),
    (ValueError, "z_loss: expected a finite number that is not negative, got inf", {"z_loss": float("inf")}),
    (ValueError, "softcap: expected a positive finite number, got 0", {"softcap": 0}),
    (ValueError, "softcap: expected a positive finite number, got inf", {"softcap": float("inf")}),
    (ValueError, "axis: expected an axis of logits, whose shape is (3, 4), got 2", {"axis": 2}),
    (ValueError, "axis: expected an axis of logits, whose shape is (3, 4), got -3", {"axis": -3}),
    (TypeError, "axis: expected an integer, got float", {"axis": 1.0}),
    (ValueError, "reduction: expected 'none', 'mean' or 'sum', got 'average'", {"reduction": "average"}),
    (ValueError, "reduction: expected 'none', 'mean' or 'sum', got None", {"reduction": None}),
    (ValueError, f"{DENOMINATOR} 0", {"denominator": 0}),
    (ValueError, f"{DENOMINATOR} -2.0", {"denominator": -2.0}),
    (ValueError, f"{DENOMINATOR} nan", {"denominator": float("nan")}),
    (TypeError, f"{DENOMINATOR} str", {"denominator": "3"}),
    (ValueError, f"{DENOMINATOR} 1000", {"denominator": 10**400}),
    (ValueError, "denominator: expected None with reduction 'sum', got 3", {"denominator": 3, "reduction": "sum"}),
    (ValueError, "denominator: expected None with reduction 'none'", {"denominator": 3.0, "reduction": "none"}),
    (TypeError, "ignore_index: expected an integer or None, got float 1.5", {"ignore_index": 1.5}),
    (TypeError, "ignore_index: expected an integer or None, got bool False", {"ignore_index": False}),
    (TypeError, "() got an unexpected keyword argument 'weight'", {"weight": 1}),
    (TypeError, "() got an unexpected keyword argument 'vectors'", {"vectors": None}),
]


@check(
    "contract.errors.options",
    "A wrong option is an error that names it, what is expected and what is got.",
    source=FUNCTIONS,
)
@pytest.mark.parametrize(
    ("error", "message", "options"),
    WRONG_OPTIONS,
    ids=["-".join(f"{name}={str(value)[:8]}" for name, value in options.items()) for _, _, options in WRONG_OPTIONS],
)
def test_options(subject: Subject, quick, error, message, options):
    f, x, y = subject.functions, subject(X), subject(Y)
    rejects(error, message, f.cross_entropy, x, y, **options)
    if not quick:
        rejects(error, message, f.cross_entropy_value_and_grad, x, y, **options)
        rejects(error, message, f.cross_entropy_jvp, x, x, y, **options)
        rejects(error, message, f.cross_entropy_hvp, x, x, y, **options)


@check(
    "contract.errors.range", "A number that float32 does not hold is a ValueError with float32 logits.", source=WEIGHTS
)
def test_range(subject: Subject):
    x, y = subject(X, "float32"), subject(Y)
    for name, value in (("softcap", 1e39), ("softcap", 1e-39), ("denominator", 1e-50), ("z_loss", 1e200)):
        message = f"{name}: expected a number in the range of float32, got {value}"
        rejects(ValueError, message, subject.functions.cross_entropy, x, y, **{name: value})


@check("contract.errors.numbers", "Text and bool are no numbers: a TypeError, for each one.", source=FUNCTIONS)
@pytest.mark.parametrize("value", ["1", True], ids=["text", "bool"])
def test_numbers(subject: Subject, value: Any):
    f, x, y = subject.functions, subject(X), subject(Y)
    layer = subject(X), subject(np.ones((5, 4)))
    for name in ("label_smoothing", "z_loss", "softcap", "denominator", "ignore_index"):
        with raises(TypeError, f"^{name}: expected "):
            f.cross_entropy(x, y, **{name: value})
        with raises(TypeError, f"^{name}: expected "):
            f.linear_cross_entropy(*layer, y, **{name: value})
    calls: list[tuple[Any, tuple[Any, ...], str]] = [
        (f.nll_loss, (subject(-X), y), "ignore_index"),
        (f.nll_loss, (subject(-X), y), "denominator"),
        (f.binary_cross_entropy, (x, subject(Q)), "denominator"),
        (f.binary_cross_entropy, (x, subject(Q)), "pos_weight"),
        (f.linear_cross_entropy, (*layer, y), "max_bytes"),
        (f.softmax, (x,), "axis"),
    ]
    for function, arrays, name in calls:
        with raises(TypeError, f"^{name}: expected "):
            function(*arrays, **{name: value})


@check(
    "contract.errors.values",
    "Values that no argument may have are an error, or NaN, where a weight of 0 hides them as well.",
    source=WEIGHTS,
)
def test_values(subject: Subject):
    f, x, y = subject.functions, subject(X), subject(Y)
    layer = subject(X), subject(np.ones((5, 4)))
    for function, arrays in ((f.cross_entropy, (x, y)), (f.nll_loss, (subject(-X), y))):
        rejects(
            ValueError,
            "reduction: expected 'none', 'mean' or 'sum', got 'batchmean'",
            function,
            *arrays,
            reduction="batchmean",
        )
    rejects(
        ValueError,
        "max_bytes: expected a positive number of bytes, got -1",
        f.linear_cross_entropy,
        *layer,
        y,
        max_bytes=-1,
    )
    weights = subject(np.asarray([1, -1, 1, 1]))
    hidden = subject(np.where(np.arange(4) == 1, -Q, Q))
    calls = [
        ("class_weight", lambda: f.cross_entropy(x, y, class_weight=weights), weights),
        ("labels", lambda: f.cross_entropy(x, hidden, class_weight=subject([1.0, 0, 1, 1])), hidden),
        ("labels", lambda: f.binary_cross_entropy(x, hidden, pos_weight=0.0), hidden),
    ]
    for name, call, wrong in calls:
        if subject.reads(wrong):
            with raises(ValueError, f"^{name}: expected "):
                call()
        elif subject.has_values:
            is_nan(subject.numpy(call()))


@check("contract.errors.directions", "Tangent and vector have the shape and dtype of the logits.", source=FUNCTIONS)
def test_directions(subject: Subject):
    x, y = subject(X), subject(Y)
    other = "float32" if subject.dtype(x) == "float64" else "float64"
    for name, function in (
        ("tangent", subject.functions.cross_entropy_jvp),
        ("vector", subject.functions.cross_entropy_hvp),
    ):
        expected = f"{name}: expected shape (3, 4), that of logits, got"
        rejects(ValueError, f"{expected} (4,)", function, x, subject(X[0]), y)
        rejects(ValueError, f"{expected} (2, 4)", function, x, subject(X[:2]), y)
        if other in subject.dtypes:
            message = f"{name}: expected {subject.dtype(x)}, the dtype of logits, got {other}"
            rejects(TypeError, message, function, x, subject(X, other), y)


@check("contract.errors.binary", "Binary cross-entropy names wrong arguments.", source=FUNCTIONS)
def test_binary(subject: Subject):
    f, x, y = subject.functions.binary_cross_entropy, subject(X), subject(Q)
    rejects(ValueError, "labels: expected shape (3, 4), that of logits, got (4,)", f, x, subject(Q[0]))
    rejects(ValueError, "labels: expected shape (3, 4), that of logits, got (3, 1)", f, x, subject(Q[:, :1]))
    message = "pos_weight: expected a finite number that is not negative, or an array, got"
    rejects(ValueError, f"{message} -1", f, x, y, pos_weight=-1)
    rejects(TypeError, f"{message} str", f, x, y, pos_weight="1")
    message = "pos_weight: expected a shape that broadcasts to that of logits, (3, 4), got"
    rejects(ValueError, f"{message} (3,)", f, x, y, pos_weight=subject(X[:, 0]))
    rejects(ValueError, f"{message} (1, 3, 4)", f, x, y, pos_weight=subject(X[None]))
    rejects(ValueError, "sample_weight: expected shape (3, 4)", f, x, y, sample_weight=subject(X[0]))
    rejects(ValueError, "reduction: expected 'none', 'mean' or 'sum', got 'x'", f, x, y, reduction="x")
    rejects(ValueError, f"{DENOMINATOR} 0", f, x, y, denominator=0)
    rejects(ValueError, "denominator: expected None with reduction 'sum'", f, x, y, denominator=2, reduction="sum")


@check(
    "contract.errors.two-libraries",
    "Arrays of two libraries are a TypeError that names both, unless one takes the other's.",
    source=DTYPES,
)
def test_two_libraries(subject: Subject):
    f, x, y = subject.functions, subject(X), subject(Y)
    if isinstance(x, np.ndarray):
        pytest.skip("no second library is at hand where arrays are NumPy's")
    other = r"^labels: expected an array of the library of logits, numpy, got one of (?!numpy)"
    rejects_as(other, f.cross_entropy, X, y)
    if subject.backend.takes(Y):
        equal(subject.numpy(f.cross_entropy(x, Y)), subject.numpy(f.cross_entropy(x, y)))
        return
    message = r": expected an array of the library of (logits|log_probs), \S+, got one of numpy; convert it "
    rejects_as(f"^labels{message}", f.cross_entropy, x, Y)
    rejects_as(f"^labels{message}", f.cross_entropy_jvp, x, x, Y)
    rejects_as(f"^labels{message}", f.cross_entropy_hvp, x, x, Y)
    rejects_as(f"^labels{message}", f.nll_loss, x, Y)
    for name, value in (("class_weight", X[0]), ("sample_weight", X[:, 0]), ("denominator", np.asarray(2.0))):
        if not subject.compiled:  # an option that is not traced is a constant to the compiler, which NumPy's cannot be
            rejects_as(f"^{name}{message}", f.cross_entropy, x, y, **{name: value})


@check("contract.errors.two-devices", "Arrays of two devices are a ValueError that names both.", source=DTYPES)
def test_two_devices(subject: Subject):
    x = subject(X)
    here = subject.backend.device(x)
    for device in subject.backend.devices():
        y = subject.backend.asarray(Y, "int32", device)
        there = subject.backend.device(y)
        if here is not None and there is not None and there != here:
            break
    else:
        pytest.skip("one device only, or arrays that do not tell theirs")
    message = f"labels: expected an array on the device of logits, {here}, got one on {there}"
    rejects(ValueError, message, subject.functions.cross_entropy, x, y)
    weight = subject.backend.asarray(X[0], "float32", there)
    message = f"class_weight: expected an array on the device of logits, {here}, got one on {there}"
    rejects(ValueError, message, subject.functions.cross_entropy, x, subject(Y), class_weight=weight)
