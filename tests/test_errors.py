"""Wrong arguments of every public function: each is an error that begins with the argument's name and says the way out.

`WRONG` is a table of wrong arguments; the tests give each of them to every function that has the argument, with arrays
of several libraries.
"""

import inspect
import re
import warnings

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from conftest import require

import xent_any

N, C = 3, 4
X = np.asarray([[0.5, 1, 2, 3], [1, 1, 1, 1], [3, 2, 1, 0]], dtype=np.float32)
Y = np.asarray([0, 1, 2])
EVENTS = (X > 1).astype(np.float32)
OTHER = np.float64  # another floating dtype
LIBRARIES = ["numpy", "array_api_strict", "torch", "jax", "mlx"]

BINARY = {"binary_cross_entropy", "binary_cross_entropy_value_and_grad"}
FUNCTIONS = {
    name: getattr(xent_any, name)
    for name in xent_any.__all__
    if inspect.isfunction(getattr(xent_any, name)) and name != "backends"
}
ARRAYS = {"labels": Y, "class_weight": np.ones(C, np.float32), "sample_weight": np.ones(N, np.float32)}
ARRAYS |= {
    "denominator": np.asarray(2.0, np.float32),
    "pos_weight": np.ones(C, np.float32),
    "weight": np.vstack([X, X[:1]]),
    "bias": X[0],
}


def parameters(function):
    return inspect.signature(FUNCTIONS[function]).parameters


def right(function, make):
    """Arguments of a function that are right; `make` makes an array of a library of NumPy's."""
    needed = [p.name for p in parameters(function).values() if p.default is p.empty]
    arrays = {name: ARRAYS.get(name, -X if name == "log_probs" else X) for name in needed}
    if function in BINARY:
        arrays["labels"] = EVENTS
    return {name: make(value) for name, value in arrays.items()}


def of(library):
    backend = require(library)
    return lambda a: backend.asarray(a, str(a.dtype), backend.devices()[0])


def refused(function, name, arguments, way_out):
    """The message of the error, which begins with the argument's name and says the way out."""
    with pytest.raises((TypeError, ValueError, IndexError)) as info:
        FUNCTIONS[function](**arguments)
    message = str(info.value)
    assert message.startswith(f"{name}: ")
    assert way_out in message
    return message


def wrong_arguments():
    """Rows of a function, an argument, what makes a wrong one of what is right for it, and the way out."""
    for function in FUNCTIONS:
        taken = parameters(function)
        logits = next(iter(taken))
        for name in ("tangent", "vector"):
            if name in taken:
                yield function, name, lambda make: make(X.astype(OTHER)), f"cast {name} or {logits}"
                yield function, name, lambda make: make(X[:2]), "reshape it"
        yield function, logits, lambda make: make(X.astype(np.int32)), "cast it"
        for name in {logits, *ARRAYS} & {*taken}:
            yield function, name, lambda make: X.tolist(), "asarray("
            yield function, name, lambda make: (1.0, 2.0), "asarray("
            yield function, name, lambda make: object(), "asarray("
        for name in {logits, "labels"} & {*taken}:
            yield function, name, lambda make: None, "it must be given"
        yield from ((function, *row) for row in wrong_options(function, taken))


def wrong_options(function, taken):
    if "labels" in taken and function in BINARY:
        yield "labels", lambda make: make(2 * EVENTS - 1), "map labels of two classes to 0 and 1"
        yield "labels", lambda make: make(EVENTS[0]), "reshape it"
        yield "pos_weight", lambda make: make(X[:2]), "axes of length 1"
    elif "labels" in taken:
        yield "labels", lambda make: make(Y.astype(np.float32)), "cast class indices to an integer dtype"
        yield "labels", lambda make: make(np.eye(C, dtype=np.int32)[Y]), "cast one-hot labels to a floating dtype"
        yield "labels", lambda make: make(Y == 1), "cast class indices to an integer dtype"
        yield "labels", lambda make: make(Y[:2]), "reshape it"
        yield "labels", lambda make: make(EVENTS[:, :2]), "a probability for each class"
        yield "labels", lambda make: make(Y + 2), "subtract 1, if classes are counted from 1"
        yield "labels", lambda make: make(Y - 1), "pass ignore_index=-1"
        yield "labels", lambda make: make(-X), "softmax"
        if "axis" in taken:
            yield "labels", lambda make: make(np.asarray([0, 1, 2, 0])), "pass axis=0"
    if "axis" in taken:
        yield "axis", lambda make: 1.0, "one axis of classes"
        yield "axis", lambda make: 2, "from -2 to 1"
    if "ignore_index" in taken:
        yield "ignore_index", lambda make: 1.5, "got float 1.5; None ignores no label"
    for name, value in (("label_smoothing", "0.1"), ("z_loss", "1"), ("softcap", True)):
        if name in taken:
            yield name, lambda make, value=value: value, "pass an int or a float"
    for name in {"class_weight", "sample_weight"} & {*taken}:
        size = (N, C) if function in BINARY else C if name == "class_weight" else N
        yield name, lambda make: make(np.ones((1, 1), np.float32)), "reshape it"
        yield name, lambda make, size=size: make(np.full(size, -1, np.float32)), "weigh with 0"
    if "reduction" in taken:
        yield "reduction", lambda make: "avg", "'none', 'mean' or 'sum'"
        yield "denominator", lambda make: make(np.ones(2, np.float32)), "take its sum"
        yield "denominator", lambda make: make(np.asarray(0, np.float32)), "take reduction 'sum'"
        yield "denominator", lambda make: 1e39, "cast them to a wider dtype"
    if "weight" in taken:
        yield "weight", lambda make: make(X.T[:3]), "transpose it"
        yield "weight", lambda make: make(X.astype(np.int64)), "cast it"
        yield "max_bytes", lambda make: 0, "a positive number of bytes"
        yield "recompute", lambda make: 1, "True, False or None"


WRONG = [*wrong_arguments()]
NEEDS_VALUES = ("map labels", "subtract 1", "pass ignore_index", "softmax", "weigh with 0", "take reduction 'sum'")


@pytest.mark.parametrize("library", LIBRARIES)
def test_wrong_arguments(library):
    make, reads = of(library), library != "mlx"
    for function, name, wrong, way_out in WRONG:
        if reads or not way_out.startswith(NEEDS_VALUES):
            refused(function, name, {**right(function, make), name: wrong(make)}, way_out)


def test_every_array_and_option_is_in_the_table():
    told = {(function, name) for function, name, *_ in WRONG}
    exempt = {"keepdims"}  # anything is true or false
    for function in FUNCTIONS:
        assert {*parameters(function)} - {name for f, name in told if f == function} <= exempt


OTHER_NAMES = {
    "weight": "did you mean class_weight or sample_weight?",
    "dim": "did you mean axis?",
    "where": "did you mean sample_weight?",
    "mask": "did you mean sample_weight?",
    "from_logits": "leave it out",
    "num_classes": "leave it out",
    "target": "did you mean labels?",
    "y_true": "did you mean labels?",
    "smoothing": "did you mean label_smoothing?",
    "pos_weight": "did you mean class_weight?",
    "ignore_idx": "did you mean ignore_index?",
    "keepdim": "did you mean keepdims?",
    "input": "did you mean",
    "size_average": "did you mean reduction?",
    "dtype": "cast the array",
    "xyz": "it takes",
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_names_of_other_libraries(function):
    taken = parameters(function)
    arguments = right(function, lambda a: a)
    for name, way_out in OTHER_NAMES.items():
        if name in taken:
            continue
        message = refused(function, name, {**arguments, name: 1}, "; ")
        suggested = re.findall(r"\w+", message.partition("did you mean ")[2])
        assert {*suggested} - {"or"} <= {*taken}
        if {*re.findall(r"\w+", way_out.partition("did you mean ")[2])} - {"or"} <= {*taken}:
            assert way_out in message
    assert "did you mean axis?" in refused("softmax", "dim", {"x": X, "dim": 1}, "")
    with pytest.raises(TypeError, match=rf"^{function}\(\) takes \d positional arguments, but 9 were given; "):
        FUNCTIONS[function](*[X] * 9)


def test_other_names_suggest_sample_weight_for_events():
    arguments = {"logits": X, "labels": EVENTS, "weight": X}
    refused("binary_cross_entropy", "weight", arguments, "did you mean sample_weight?")


@pytest.mark.parametrize("function", sorted({f for f in FUNCTIONS if "labels" in parameters(f)} - BINARY))
def test_one_logit_for_each_event(function):
    """The decision values of a binary classifier, as (N,) or (N, 1)."""
    arguments, name = right(function, lambda a: a), next(iter(parameters(function)))
    if "weight" in parameters(function):
        arguments |= {"weight": X[:1]}
    else:
        arguments |= {k: v[:, :1] for k, v in arguments.items() if k != "labels"}
        column = {k: v[:, 0] for k, v in arguments.items() if k != "labels"} | {"labels": Y}
        refused(function, "labels", column, "take binary_cross_entropy")
    assert arguments[name].shape[0] == N
    refused(function, "labels", arguments, "take binary_cross_entropy")
    refused(function, "labels", {**arguments, "labels": Y[:, None]}, "take binary_cross_entropy")


# Arrays that a library has and its functions do not compute with.

NOT_COMPUTED = {
    "bfloat16": lambda a: a.astype(ml_dtypes.bfloat16),
    "float8": lambda a: a.astype(ml_dtypes.float8_e4m3fn),
    "float4": lambda a: a.astype(ml_dtypes.float4_e2m1fn),
    "int4": lambda a: a.astype(ml_dtypes.int4),
    "text": lambda a: a.astype(str),
    "bytes": lambda a: a.astype(bytes),
    "string": lambda a: a.astype(np.dtypes.StringDType()),
    "object": lambda a: a.astype(object),
    "structured": lambda a: a.astype([("a", float)]),
    "datetime": lambda a: a.astype("M8[s]"),
    "complex": lambda a: a.astype(complex),
    "masked": np.ma.masked_array,
    "matrix": lambda a: np.matrix(a) if a.ndim == 2 else np.ma.masked_array(a),
}


def torch_kinds():
    torch = pytest.importorskip("torch")
    nested = lambda layout: lambda a: torch.nested.nested_tensor([a, a], layout=layout)  # noqa: E731
    return {
        "sparse": lambda a: a.to_sparse(),
        "sparse rows": lambda a: a.reshape(-1, a.shape[-1]).to_sparse_csr(),
        "mkldnn": lambda a: a.to(torch.float32).to_mkldnn(),
        "quantized": lambda a: torch.quantize_per_tensor(a.to(torch.float32), 0.1, 0, torch.qint8),
        "nested": nested(torch.strided),
        "jagged": nested(torch.jagged),
        "float8": lambda a: a.to(torch.float8_e4m3fn),
        "float8 of exponents": lambda a: a.to(torch.float32).abs().to(torch.float8_e8m0fnu),
        "bits": lambda a: a.to(torch.uint8).view(torch.bits8),
        "complex": lambda a: a.to(torch.complex64),
    }


def jax_kinds():
    jax = pytest.importorskip("jax")
    sparse = pytest.importorskip("jax.experimental.sparse")
    return {
        "float8": lambda a: a.astype("float8_e4m3fn"),
        "float8 of exponents": lambda a: abs(a).astype("float8_e8m0fnu"),
        "float4": lambda a: a.astype("float4_e2m1fn"),
        "key": lambda a: jax.random.split(jax.random.key(0), a.shape),
        "complex": lambda a: a.astype("complex64"),
        "sparse": sparse.BCOO.fromdense,
    }


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.filterwarnings("ignore")  # of experimental arrays, and of conversions
def test_arrays_that_are_not_computed_with(library):
    """Of each argument, also where arrays of the same shapes and dtypes have been checked before."""
    kinds = {"numpy": lambda: NOT_COMPUTED, "torch": torch_kinds, "jax": jax_kinds}[library]()
    make, made = of(library), {}

    def wrong(value, kind):
        key = kind, value.shape, str(value.dtype)
        if key not in made:
            made[key] = kinds[kind](value)
        return made[key]

    for function, f in FUNCTIONS.items():
        arguments = right(function, make)
        others = {name: make(value) for name, value in ARRAYS.items() if name in parameters(function)}
        if function in BINARY:
            others["sample_weight"] = make(X)
        for name, value in (others | arguments).items():
            if library != "jax":  # which checks anew, and compiles
                f(**arguments | {name: value})
            for kind in kinds:
                if value.ndim == 0 and kind in ("sparse rows", "mkldnn", "nested", "jagged"):
                    continue  # there are none
                with pytest.raises(TypeError, match=f"^{name}: .*; "):
                    f(**arguments | {name: wrong(value, kind)})


def test_frames():
    pandas = pytest.importorskip("pandas")
    refused("cross_entropy", "logits", {"logits": pandas.DataFrame(X), "labels": Y}, "numpy.asarray(logits)")
    refused("cross_entropy", "labels", {"logits": X, "labels": pandas.Series(Y)}, "numpy.asarray(labels)")


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_way_to_an_array_names_the_library_of_the_others(library):
    make = of(library)
    message = refused("cross_entropy", "logits", {"logits": X.tolist(), "labels": make(Y)}, "make it one by ")
    name = message.partition("make it one by ")[2].removesuffix(".asarray(logits)")
    assert name.partition(".")[0] == library
    message = refused("cross_entropy", "labels", {"logits": make(X), "labels": Y.tolist()}, "make it one by ")
    assert name in message


@pytest.mark.parametrize("library", [*LIBRARIES, "dask", "mparray", "ndonnx"])
def test_labels_of_events_may_be_bool(library):
    if library in LIBRARIES:
        make, numbers = of(library), require(library).to_numpy
    else:
        namespace = pytest.importorskip({"dask": "dask.array"}.get(library, library))
        make, numbers = namespace.asarray, lambda a: float(namespace.sum(a))
    for function in sorted(BINARY):
        found = FUNCTIONS[function](make(X), make(EVENTS == 1), reduction="none")
        expected = FUNCTIONS[function](make(X), make(EVENTS), reduction="none")
        for a, b in zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]:
            np.testing.assert_array_equal(numbers(a), numbers(b))


def test_sizes_that_dask_does_not_know():
    """Rows chosen by a mask. One size is never taken for another: blocks of one row would be broadcast."""
    da = pytest.importorskip("dask.array")
    x, y = da.from_array(X, chunks=(2, C)), da.from_array(Y, chunks=2)
    chosen = x[:, 0] > 0.7
    some, labels = x[chosen], y[chosen]
    way_out = "call compute_chunk_sizes()"
    for wrong in ((some, labels), (some, y), (x, labels), (some, abs(some))):
        refused("cross_entropy", "labels", dict(zip(("logits", "labels"), wrong, strict=True)), way_out)
    refused("cross_entropy", "sample_weight", {"logits": x, "labels": y, "sample_weight": labels}, way_out)
    refused("binary_cross_entropy", "labels", {"logits": some, "labels": some > 0}, way_out)
    refused("linear_cross_entropy", "labels", {"hidden": some, "weight": x, "labels": labels}, way_out)
    refused("softmax", "x", {"x": some.T}, way_out)
    rows = X[X[:, 0] > 0.7]
    np.testing.assert_allclose(xent_any.softmax(some).compute(), xent_any.softmax(rows), rtol=1e-6)
    some, labels = some.compute_chunk_sizes(), labels.compute_chunk_sizes()
    loss = xent_any.cross_entropy(some, labels).compute()
    np.testing.assert_allclose(loss, xent_any.cross_entropy(rows, Y[1:]), rtol=1e-6)


# What overflows in the precision computed in

LARGE = {
    "weights": {"sample_weight": np.asarray([0.0, 1e39, 1.0])},
    "denominator": {"denominator": np.asarray(1e39)},
    "sum": {"sample_weight": np.full(N, 3e38, np.float32)},
    "product": {"sample_weight": np.full(N, 1e30), "class_weight": np.full(C, 1e30)},
    "quotient": {"sample_weight": np.full(N, 1e30), "denominator": np.asarray(1e-20)},
    "quotient by a number": {"sample_weight": np.full(N, 1e30), "denominator": 1e-20},
    "quotient by the sum": {"sample_weight": np.full(N, 3e38), "class_weight": np.full(C, 1e-42, np.float32)},
    "probabilities": {"labels": np.full((N, C), 3e38, np.float32)},
}
SMALL = {
    "subnormal weights": {"sample_weight": np.full(N, 1e-40), "reduction": "sum"},
    "small share": {"sample_weight": np.asarray([1e-30, 1.0, 1e30])},
    "small denominator": {"denominator": np.asarray(1e30), "sample_weight": np.full(N, 1e-20)},
}


@pytest.mark.parametrize("filters", ["error", "default"])
@pytest.mark.parametrize("library", ["numpy", "array_api_strict", "torch", "jax"])
@pytest.mark.parametrize("case", [*LARGE, *SMALL])
def test_what_overflows(library, case, filters):
    """Our own error, whatever is made of NumPy's warnings; of what fits, none. No warning, and nothing is left."""
    make = of(library)
    given = {**LARGE, **SMALL}[case]
    if library == "jax" and case in ("subnormal weights", "quotient by the sum"):
        pytest.skip("XLA on the CPU flushes subnormal numbers to 0")
    options = {k: make(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    for function in FUNCTIONS:
        if {*options} <= {*parameters(function)} and function not in BINARY:
            call(make, function, options, case, filters)
    if {*given} <= {"sample_weight", "reduction"}:
        options["sample_weight"] = make(np.stack([given["sample_weight"]] * C, axis=1))
        for function in sorted(BINARY):
            call(make, function, options, case, filters)


def call(make, function, options, case, filters):
    arguments = {**right(function, make), **options}
    with warnings.catch_warnings(record=filters == "default") as caught, np.errstate(all="raise"):
        warnings.simplefilter(filters)
        before = np.geterr(), np.geterrcall(), np.getbufsize(), list(warnings.filters)
        if case in LARGE:
            with pytest.raises(ValueError, match=r"finite float32.*; ") as info:
                FUNCTIONS[function](**arguments)
            assert str(info.value).partition(": ")[0] in options
        else:
            FUNCTIONS[function](**arguments)
        assert (np.geterr(), np.geterrcall(), np.getbufsize(), list(warnings.filters)) == before
    assert not caught


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_results_that_are_not_finite_do_not_warn(dtype):
    """Of any function, on any logits: nothing is raised by NumPy, and nothing is left."""
    with np.errstate(all="ignore"):
        largest, tiny = float(np.finfo(dtype).max), float(np.finfo(dtype).smallest_subnormal)
        rows = [
            [0, largest, -largest, 1],
            [np.inf, 0, 0, -np.inf],
            [np.nan, 1, 2, 3],
            [-np.inf] * 4,
            [tiny, 0, -tiny, 1e-3],
        ]
        x = np.asarray(rows * 3, dtype)
    y = np.arange(len(x)) % C
    for function, f in FUNCTIONS.items():
        if "weight" in parameters(function):
            continue
        arguments = dict.fromkeys(right(function, lambda a: a), x)
        if "log_probs" in arguments:
            arguments["log_probs"] = -np.abs(x)
        if "labels" in arguments:
            arguments["labels"] = (x > 0) if function in BINARY else y
        for reduction in ("none", "sum", "mean") if "reduction" in parameters(function) else (None,):
            options = {} if reduction is None else {"reduction": reduction}
            with warnings.catch_warnings(), np.errstate(all="raise"):
                warnings.simplefilter("error")
                f(**arguments, **options)


# A library of an older standard


def test_a_library_whose_functions_do_not_take_scalars():
    with array_api_strict.ArrayAPIStrictFlags(api_version="2023.12"):
        make = of("array_api_strict")
        for function in FUNCTIONS:
            name = next(iter(parameters(function)))
            refused(function, name, right(function, make), "install a newer version of the library")


def test_a_library_that_says_less_than_it_can(monkeypatch):
    """As NumPy 2.1 does, which follows 2023.12 and takes scalars."""
    monkeypatch.setattr(np, "__array_api_version__", "2023.12")
    x = np.zeros((1, 2))
    for function in (xent_any.softmax, xent_any.log_softmax):
        assert function(x).shape == (1, 2)


def of_library(name, values):
    if name == "torch":
        return pytest.importorskip(name).as_tensor(values)
    if name == "array_api_strict":
        return pytest.importorskip(name).asarray(values)
    return pytest.importorskip("jax.numpy").asarray(values) if name == "jax" else np.asarray(values)


LIBRARY = pytest.mark.parametrize("library", ["numpy", "torch", "jax", "array_api_strict"])


@LIBRARY
@pytest.mark.parametrize("argument", ["reduction", "ignore_index"])
@pytest.mark.parametrize("value", [np.ones(3), np.array(1.5)])
def test_option_that_is_an_array_is_named(library, argument, value):
    logits, labels = of_library(library, np.zeros((2, 3), np.float32)), of_library(library, np.array([0, 1]))
    with pytest.raises((TypeError, ValueError), match=rf"^{argument}: "):
        xent_any.cross_entropy(logits, labels, **{argument: of_library(library, value)})


@pytest.mark.parametrize("value", [int])
def test_option_that_is_a_type_is_named(value):
    with pytest.raises(TypeError, match=r"^ignore_index: "):
        xent_any.cross_entropy(np.zeros((2, 3)), np.array([0, 1]), ignore_index=value)


@LIBRARY
def test_keepdims_that_is_an_array_is_named(library):
    logits = of_library(library, np.zeros((2, 3), np.float32))
    with pytest.raises((TypeError, ValueError), match=r"^keepdims: "):
        xent_any.logsumexp(logits, keepdims=of_library(library, np.ones(3)))


def test_dtype_in_place_of_an_array_is_named():
    with pytest.raises(TypeError, match=r"^x: "):
        xent_any.softmax(pytest.importorskip("torch").float32)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_smoothing_above_1_as_an_array_is_not_rounded_to_1(library):
    logits, labels = of_library(library, np.zeros((2, 3), np.float32)), of_library(library, np.array([0, 1]))
    smoothing = np.array(1 + 1e-12)
    if library == "torch":
        smoothing = of_library(library, smoothing)
    with pytest.raises(ValueError, match=r"^label_smoothing: "):
        xent_any.cross_entropy(logits, labels, label_smoothing=smoothing)
