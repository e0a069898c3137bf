"""Bad input gets an error that names the argument, what was expected and what was got."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import library

import xent_any

X = np.asarray([[0.5, 1, 2, 3], [1, 1, 1, 1], [3, 2, 1, 0]])
Y = np.asarray([0, 1, 2])


def rejects(error, message, f, *args, **options):
    with pytest.raises(error) as info:
        f(*args, **options)
    assert message in str(info.value)


INDEX = "labels: expected class indices in [0, 4) or the ignore_index {}, but labels[{}] is {}"


@pytest.mark.parametrize(
    ("values", "dtype", "ignore", "message"),
    [
        ([0, -1, 2], "int64", -100, INDEX.format(-100, 1, -1)),
        ([0, 1, 4], "int64", -100, INDEX.format(-100, 2, 4)),
        ([4, 5, 6], "int32", -100, INDEX.format(-100, 0, 4)),
        ([0, 4 + 2**32, 1], "int64", -100, INDEX.format(-100, 1, 4 + 2**32)),
        ([0, 2**32, 1], "int64", -100, INDEX.format(-100, 1, 2**32)),
        ([0, 255, 1], "uint8", -1, INDEX.format(-1, 1, 255)),
        ([0, 156, 1], "uint8", -100, INDEX.format(-100, 1, 156)),
        ([0, 2**32 - 100, 1], "uint32", -100, INDEX.format(-100, 1, 2**32 - 100)),
        ([0, 2**64 - 100, 1], "uint64", -100, INDEX.format(-100, 1, 2**64 - 100)),
        ([0, -100, 1], "int64", 7, INDEX.format(7, 1, -100)),
        ([0, -128, 1], "int8", -100, INDEX.format(-100, 1, -128)),
        ([0, -100, 1], "int64", None, "labels: expected class indices in [0, 4), but labels[1] is -100"),
    ],
)
@pytest.mark.parametrize(
    "f", [xent_any.cross_entropy, xent_any.cross_entropy_value_and_grad, xent_any.nll_loss], ids=lambda f: f.__name__
)
def test_wrong_indices(lib, f, values, dtype, ignore, message):
    x, y = lib(X), lib(np.asarray(values, dtype))
    if lib.backend.is_readable(y):
        rejects(IndexError, message, f, x, y, ignore_index=ignore)
    else:
        loss = lib.numpy(xent_any.cross_entropy(x, y, ignore_index=ignore, reduction="none"))
        assert np.isnan(loss[1])


def test_the_position_of_a_wrong_index_has_all_axes(lib):
    y = np.zeros((2, 3, 5), np.int64)
    y[1, 2, 4] = 9
    if not lib.backend.is_readable(lib(y)):
        pytest.skip(f"{lib.name}: labels cannot be read without waiting")
    rejects(IndexError, "labels[1, 2, 4] is 9", xent_any.cross_entropy, lib(np.zeros((2, 4, 3, 5))), lib(y), axis=1)
    rejects(IndexError, "but labels is 9", xent_any.cross_entropy, lib(np.zeros(4)), lib(y[1, 2, 4]))


@pytest.mark.parametrize(
    ("error", "message", "x", "y"),
    [
        (TypeError, "logits: expected an array of an Array API library, got list", X.tolist(), Y),
        (TypeError, "labels: expected an array of an Array API library, got list", X, Y.tolist()),
        (TypeError, "labels: expected an array of an Array API library, got NoneType", X, None),
        (TypeError, "logits: expected a real floating dtype, got int64", X.astype(np.int64), Y),
        (TypeError, "logits: expected a real floating dtype, got complex128", X.astype(np.complex128), Y),
        (TypeError, "logits: expected a real floating dtype, got bool", X.astype(bool), Y),
        (TypeError, "a real floating one (class probabilities), got bool", X, Y.astype(bool)),
        (TypeError, "a real floating one (class probabilities), got complex128", X, X.astype(np.complex128)),
        (ValueError, "labels: expected shape (3,), that of logits (3, 4) without axis 1, got (2,)", X, Y[:2]),
        (ValueError, "labels: expected shape (3,), that of logits (3, 4) without axis 1, got (3, 1)", X, Y[:, None]),
        (ValueError, "labels: expected shape (3, 4), that of logits, for class probabilities, got (3,)", X, Y / 2),
        (ValueError, "got (3, 3)", X, X[:, :3]),
        (ValueError, "labels: expected probabilities, finite and not negative, but row (2,)", X, X - 0.5 * (X == 0)),
        (ValueError, "labels: expected probabilities, finite and not negative, but row (0,)", X, X * np.nan),
        (ValueError, "logits: expected at least one class along axis -1, got shape (3, 0)", X[:, :0], Y),
        (ValueError, "axis: expected an axis of logits, whose shape is (), got -1", X[0, 0], Y),
    ],
)
def test_logits_and_labels(lib, error, message, x, y):
    if isinstance(x, np.ndarray | np.generic):
        x = lib(x)
    if isinstance(y, np.ndarray):
        y = lib(y)
        if "probabilities, finite" in message and not lib.backend.is_readable(y):
            assert np.isnan(float(xent_any.cross_entropy(x, y)))
            return
    rejects(error, message, xent_any.cross_entropy, x, y)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "class_weight: expected shape (4,), one for each class, got (3,)", {"class_weight": [1.0, 1, 1]}),
        (ValueError, "but class_weight[2] is -1.0", {"class_weight": [1.0, 1, -1, 1]}),
        (ValueError, "but class_weight[3] is inf", {"class_weight": [1.0, 1, 1, np.inf]}),
        (TypeError, "class_weight: expected a real dtype, got complex128", {"class_weight": [1j, 1, 1, 1]}),
        (ValueError, "sample_weight: expected shape (3,), that of the unreduced loss, got ()", {"sample_weight": 1.0}),
        (ValueError, "got (3, 1)", {"sample_weight": [[1.0], [1], [1]]}),
        (ValueError, "but sample_weight[0] is nan", {"sample_weight": [np.nan, 1, 1]}),
        (ValueError, "but denominator is 0.0", {"denominator": 0.0}),
        (ValueError, "denominator: expected a positive finite number or an array of", {"denominator": [1.0, 2.0]}),
    ],
)
def test_weights(lib, error, message, options):
    options = {key: lib(np.asarray(value)) for key, value in options.items()}
    if " is " in message and not lib.backend.is_readable(lib(Y)):
        assert np.isnan(float(xent_any.cross_entropy(lib(X), lib(Y), **options)))
        return
    rejects(error, message, xent_any.cross_entropy, lib(X), lib(Y), **options)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "label_smoothing: expected a number in [0, 1], got 1.5", {"label_smoothing": 1.5}),
        (ValueError, "label_smoothing: expected a number in [0, 1], got -0.1", {"label_smoothing": -0.1}),
        (ValueError, "label_smoothing: expected a number in [0, 1], got nan", {"label_smoothing": float("nan")}),
        (TypeError, "label_smoothing: expected a number in [0, 1], got str", {"label_smoothing": "0.1"}),
        (TypeError, "label_smoothing: expected a number in [0, 1], got bool", {"label_smoothing": True}),
        (ValueError, "z_loss: expected a finite number that is not negative, got -1", {"z_loss": -1}),
        (ValueError, "softcap: expected a positive finite number, got 0", {"softcap": 0}),
        (ValueError, "softcap: expected a positive finite number, got inf", {"softcap": float("inf")}),
        (ValueError, "axis: expected an axis of logits, whose shape is (3, 4), got 2", {"axis": 2}),
        (ValueError, "axis: expected an axis of logits, whose shape is (3, 4), got -3", {"axis": -3}),
        (TypeError, "axis: expected an integer, got float", {"axis": 1.0}),
        (ValueError, "reduction: expected 'none', 'mean' or 'sum', got 'average'", {"reduction": "average"}),
        (ValueError, "reduction: expected 'none', 'mean' or 'sum', got None", {"reduction": None}),
        (ValueError, "denominator: expected a positive finite number or an array of", {"denominator": 0}),
        (ValueError, "no dimensions, got -2.0", {"denominator": -2.0}),
        (ValueError, "no dimensions, got nan", {"denominator": float("nan")}),
        (TypeError, "no dimensions, got str", {"denominator": "3"}),
        (ValueError, "denominator: expected None with reduction 'sum', got 3", {"denominator": 3, "reduction": "sum"}),
        (ValueError, "denominator: expected None with reduction 'none'", {"denominator": 3.0, "reduction": "none"}),
        (TypeError, "ignore_index: expected an integer or None, got float", {"ignore_index": 1.0}),
        (TypeError, "() got an unexpected keyword argument 'weight'", {"weight": 1}),
        (TypeError, "() got an unexpected keyword argument 'vectors'", {"vectors": {}}),
        (ValueError, "denominator: expected a positive finite number or", {"denominator": 10**400}),
    ],
)
def test_numbers(lib, error, message, options):
    for f in (xent_any.cross_entropy, xent_any.cross_entropy_value_and_grad):
        rejects(error, message, f, lib(X), lib(Y), **options)
    for f in (xent_any.cross_entropy_jvp, xent_any.cross_entropy_hvp):
        rejects(error, message, f, lib(X), lib(X), lib(Y), **options)


def test_directions(lib):
    f, h = xent_any.cross_entropy_jvp, xent_any.cross_entropy_hvp
    rejects(ValueError, "tangent: expected shape (3, 4), that of logits, got (4,)", f, lib(X), lib(X[0]), lib(Y))
    rejects(ValueError, "vector: expected shape (3, 4), that of logits, got (2, 4)", h, lib(X), lib(X[:2]), lib(Y))
    rejects(TypeError, "expected float64, the dtype of logits, got float32", h, lib(X), lib(X, np.float32), lib(Y))


def test_transforms(lib):
    for f in (xent_any.softmax, xent_any.log_softmax, xent_any.logsumexp):
        rejects(TypeError, "x: expected an array of an Array API library, got list", f, [1.0])
        rejects(TypeError, "x: expected a real floating dtype, got int64", f, lib(Y))
        rejects(ValueError, "axis: expected an axis of x, whose shape is (3, 4), got 5", f, lib(X), axis=5)
        rejects(ValueError, "x: expected at least one class along axis 0, got shape (0, 4)", f, lib(X[:0]), axis=0)


def test_binary(lib):
    f = xent_any.binary_cross_entropy
    y = X / 4
    rejects(ValueError, "labels: expected shape (3, 4), that of logits, got (4,)", f, lib(X), lib(y[0]))
    rejects(TypeError, "labels: expected a real floating or an integer dtype, got bool", f, lib(X), lib(y > 0))
    rejects(ValueError, "pos_weight: expected a finite number that is not", f, lib(X), lib(y), pos_weight=-1)
    rejects(ValueError, "broadcasts to that of logits, (3, 4), got (3,)", f, lib(X), lib(y), pos_weight=lib(X[:, 0]))
    rejects(ValueError, "sample_weight: expected shape (3, 4)", f, lib(X), lib(y), sample_weight=lib(X[0]))
    rejects(ValueError, "reduction: expected", f, lib(X), lib(y), reduction="x")
    for wrong in (y - 1, 2 * y, y * np.nan, Y[:, None] * np.ones((3, 4), np.int64)):
        if lib.backend.is_readable(lib(wrong)):
            rejects(ValueError, "labels: expected probabilities in [0, 1], but labels[", f, lib(X), lib(wrong))
        else:
            assert np.isnan(float(f(lib(X), lib(wrong))))


def test_two_libraries():
    strict, numpy = library("array_api_strict"), library("numpy")
    message = "labels: expected an array of the library of logits, array_api_strict, got one of numpy"
    rejects(TypeError, message, xent_any.cross_entropy, strict(X), numpy(Y))
    message = "class_weight: expected an array of the library of logits, numpy, got one of array_api_strict"
    rejects(TypeError, message, xent_any.cross_entropy, numpy(X), numpy(Y), class_weight=strict(X[0]))
    message = "denominator: expected an array of the library of logits, numpy, got one of array_api_strict"
    rejects(TypeError, message, xent_any.cross_entropy, numpy(X), numpy(Y), denominator=strict(np.asarray(1.0)))


def test_two_devices():
    lib = library("array_api_strict")
    other = lib.xp.Device("device1")
    y = lib.xp.asarray(Y, device=other)
    message = f"labels: expected an array on the device of logits, {lib.device}, got one on {other}"
    rejects(ValueError, message, xent_any.cross_entropy, lib(X), y)
    torch = pytest.importorskip("torch")
    message = "labels: expected an array on the device of logits, cpu, got one on meta"
    rejects(ValueError, message, xent_any.cross_entropy, torch.tensor(X), torch.tensor(Y, device="meta"))


def test_errors_survive_optimisation():
    """`python -O` removes assert statements: no check may be one."""
    code = (
        "import numpy as np, xent_any\n"
        "try: xent_any.cross_entropy(np.zeros((1, 2)), np.asarray([2]))\n"
        "except IndexError: print('raised')"
    )
    output = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "raised"


def test_numbers_that_float32_does_not_hold(lib):
    x, y = lib(X, np.float32), lib(Y)
    for name, value in (("softcap", 1e39), ("softcap", 1e-39), ("denominator", 1e-50), ("z_loss", 1e200)):
        message = f"{name}: expected a number in the range of float32, got {value}"
        rejects(ValueError, message, xent_any.cross_entropy, x, y, **{name: value})
    for value in (1e-50, 1e50):
        weight = lib(np.asarray([1, 1, value]))
        if lib.backend.is_readable(weight):
            message = (
                f"sample_weight: expected finite float32 numbers that are not negative, but sample_weight[2] is {value}"
            )
            with np.errstate(over="ignore"):
                rejects(ValueError, message, xent_any.cross_entropy, x, y, sample_weight=weight)


def test_numpy_arrays_of_another_arithmetic():
    masked = np.ma.masked_array(X, mask=X > 1)
    message = "logits: expected a plain array, got MaskedArray"
    rejects(TypeError, message, xent_any.cross_entropy, masked, Y)
    rejects(TypeError, "labels: expected a plain array, got MaskedArray", xent_any.cross_entropy, X, np.ma.array(Y))
