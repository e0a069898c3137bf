"""What the contract promises of the parts, axes, dtypes, devices and arrays."""

from itertools import cycle
from typing import Any

import numpy as np
import pytest

from ..compare import equal, is_finite, same
from ..plugin import check
from ..subjects import HALF, Subject
from ._contract import (
    ARGUMENTS,
    WEIGHTED,
    Computed,
    Q,
    S,
    V,
    W,
    X,
    Y,
    close,
    few,
    formula,
    not_positive,
    rows,
    value_and_grad,
)

FUNCTIONS = "docs/contract.md, Functions"
DTYPES = "docs/contract.md, Dtypes, devices, arrays"

LSE = np.log(np.exp(X).sum(-1))
P = np.exp(X) / np.exp(X).sum(-1, keepdims=True)


@check("contract.parts.formula", "softmax, log_softmax and logsumexp follow their definitions.", source=FUNCTIONS)
def test_parts(subject: Subject):
    rows(subject, "softmax").close("finite", P)
    rows(subject, "log_softmax").close("finite", X - LSE[:, None])
    rows(subject, "logsumexp").close("finite", LSE)


@check("contract.parts.nll-loss", "nll_loss(log_softmax(x), y) equals cross_entropy(x, y).", source=FUNCTIONS)
def test_nll_loss(subject: Subject, quick):
    rows(subject, "nll_loss").close("finite", np.abs(X)[np.arange(8), Y] * W[Y] * S)
    if not few(subject, quick):
        log_p = subject.functions.log_softmax(subject(X))
        weights = {name: subject(value) for name, value in WEIGHTED.items()}
        for labels in (Y, Q):
            loss = subject.functions.nll_loss(log_p, subject(labels), label_smoothing=0.25, **weights)
            close(subject, loss, formula(X, labels, **WEIGHTED, label_smoothing=0.25)[0])


@check("contract.loss.differs-between-functions", "All functions return the same loss to the bit.", source=DTYPES)
def test_same_loss(subject: Subject, quick):
    for labels in ("index",) if few(subject, quick) else ("index", "probabilities"):
        expected = rows(subject, labels=labels).values[0]
        for name in ("cross_entropy", "cross_entropy_jvp"):
            equal(rows(subject, name, labels).values[0], expected)
    if not quick:
        x, y, weights = subject(X), subject(Y), {name: subject(value) for name, value in WEIGHTED.items()}
        losses = [
            subject.functions.cross_entropy(x, y, **weights),
            subject.functions.cross_entropy_value_and_grad(x, y, **weights)[0],
            subject.functions.cross_entropy_jvp(x, x, y, **weights)[0],
        ]
        for loss in losses[1:]:
            equal(subject.numpy(loss), subject.numpy(losses[0]))


@check(
    "contract.shapes.no-axes",
    "A single row, and a single event, whose labels, weights and loss have no axes, is a batch of one.",
    source=FUNCTIONS,
)
def test_no_axes(subject: Subject, quick):
    row, event = {"labels": Y[0], "sample_weight": S[1]}, {"labels": Q[0, 0], "sample_weight": S[1]}
    calls: list[tuple[str, list[Any], dict[str, Any], dict[str, Any]]] = [
        ("binary_cross_entropy_value_and_grad", [X[0, 0]], event, {"pos_weight": S[2]}),
        ("binary_cross_entropy", [X[0, 0]], {"labels": Y[0] * 0}, {}),
        ("cross_entropy_value_and_grad", [X[0]], row, {"class_weight": W}),
        ("linear_cross_entropy", [X[0]], row, {"weight": V}),
        ("nll_loss", [not_positive(X[0])], row, {}),
        ("cross_entropy_jvp", [X[0], V[0]], {**row, "labels": Q[0]}, {}),
        ("cross_entropy_hvp", [X[0], V[0]], row, {}),
    ]
    for name, first, named, shared in calls[:3:2] if few(subject, quick) else calls:
        function = getattr(subject.functions, name)
        for reduction in ("none", "mean"):
            options: dict[str, Any] = {"reduction": reduction} | {key: subject(a) for key, a in shared.items()}
            alone, of_one = (
                function(
                    *[subject(a[index]) for a in first], **{k: subject(a[index]) for k, a in named.items()}, **options
                )
                for index in ((), None)
            )
            alone, of_one = (found if isinstance(found, tuple) else (found,) for found in (alone, of_one))
            for got, expected in zip(alone, map(subject.numpy, of_one), strict=True):
                close(subject, got, expected if expected.ndim == 0 else expected[0])


@check("contract.axis.position", "The classes may lie along any axis, counted from either end.", source=FUNCTIONS)
def test_axis(subject: Subject, quick):
    arguments = {"x": X, "direction": V, "labels": Y}
    loss, grad = formula(X, Y, reduction="none")
    everything = {
        "cross_entropy_value_and_grad": (loss, grad),
        "cross_entropy_jvp": (loss, (grad * V).sum(-1)),
        "cross_entropy_hvp": (P * (V - (P * V).sum(-1, keepdims=True)),),
        "nll_loss": (np.abs(X)[np.arange(8), Y],),
        "softmax": (P,),
        "log_softmax": (X - LSE[:, None],),
        "logsumexp": (LSE,),
    }
    calls = list(zip(cycle((0, -2)), everything.items(), strict=False))
    for axis, (name, expected) in calls[: 1 if quick else 3] if few(subject, quick) else [*calls, (-1, calls[0][1])]:
        given = {**arguments, "x": not_positive(X)} if name == "nll_loss" else arguments
        arrays = [
            subject(Y.reshape(2, 4) if key == "labels" else np.moveaxis(given[key].reshape(2, 4, 5), -1, axis))
            for key in ARGUMENTS[name]
        ]
        options = {"reduction": "none"} if "labels" in ARGUMENTS[name] else {}
        found = getattr(subject.functions, name)(*arrays, axis=axis, **options)
        for got, true in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
            whole = np.moveaxis(true.reshape(2, 4, 5), -1, axis) if true.ndim == 2 else true.reshape(2, 4)
            close(subject, got, whole)


@check("contract.axis.probabilities", "Probabilities have their classes along the same axis.", source=FUNCTIONS)
@pytest.mark.full
def test_axis_of_probabilities(subject: Subject):
    loss, grad = formula(X, Q, class_weight=W, reduction="none")
    found = value_and_grad(subject, X.T, Q.T, axis=0, class_weight=W, reduction="none")
    close(subject, found[0], loss)
    close(subject, found[1], grad.T)


@check(
    "contract.axis.ignored",
    "Ignored rows are 0 whatever they hold, along any axis and of one row alone.",
    source=FUNCTIONS,
)
def test_axis_of_ignored_rows(subject: Subject):
    x, y = np.where(Y[:, None] == 1, np.nan, X).reshape(2, 4, 5), np.where(Y == 1, -100, Y).reshape(2, 4)
    loss, grad = formula(np.nan_to_num(x).reshape(8, 5), y.reshape(-1), reduction="none")
    found = value_and_grad(subject, np.moveaxis(x, -1, 1), y, axis=1, reduction="none")
    close(subject, found[0], loss.reshape(2, 4))
    close(subject, found[1], np.moveaxis(grad.reshape(2, 4, 5), -1, 1))
    for result in value_and_grad(subject, x[0, 0], y[0, 0], reduction="sum"):
        equal(subject.numpy(result), np.zeros(result.shape))


@check("contract.axis.keepdims", "logsumexp with keepdims keeps the axis, with length 1.", source=FUNCTIONS)
@pytest.mark.full
def test_keepdims(subject: Subject):
    close(subject, subject.functions.logsumexp(subject(X.T), axis=0, keepdims=True), LSE[None])


@check("contract.axis.one-row", "Logits may be one row, and its label a number without dimensions.", source=FUNCTIONS)
@pytest.mark.full
def test_one_row(subject: Subject):
    loss, grad = formula(X[:1], Y[:1])
    found = value_and_grad(subject, X[0], Y[0])
    close(subject, found[0], loss)
    close(subject, found[1], grad[0])


# Dtypes


@check(
    "contract.results.shape", "Results have the shape, and in float32 and float64 the dtype, promised.", source=DTYPES
)
@pytest.mark.parametrize("function", list(ARGUMENTS))
def test_shape(subject: Subject, function):
    computed = rows(subject, function)
    count = len(computed.inputs["x"])
    whole = {("cross_entropy_value_and_grad", 1), ("cross_entropy_hvp", 0), ("softmax", 0), ("log_softmax", 0)}
    for i, result in enumerate(computed.results):
        same(result.shape, (count, 5) if (function, i) in whole else (count,), "shape")
        same(result.dtype, computed.arrays["x"].dtype, "dtype")


@check("contract.dtypes.changed", "float32 and float64 stay, whatever dtype labels and weights have.", source=DTYPES)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.full)])
def test_dtype_kept(subject: Subject, dtype):
    if dtype not in subject.dtypes:
        pytest.skip(f"no {dtype} here")
    other = "float64" if dtype == "float32" else "float32"
    x = subject(X, dtype)
    q, w, s = (subject(a, other if other in subject.dtypes else dtype) for a in (Q, W, S))
    loss, grad = subject.functions.cross_entropy_value_and_grad(x, q, class_weight=w, sample_weight=s)
    same([subject.dtype(loss), subject.dtype(grad)], [dtype, dtype], "dtypes")
    expected = formula(X, Q, **WEIGHTED)
    close(subject, loss, expected[0])
    close(subject, grad, expected[1])


@check(
    "contract.dtypes.half",
    "Half precision: losses, log_softmax and logsumexp are float32; gradient, hvp and softmax have the logits' dtype.",
    source=DTYPES,
)
@pytest.mark.parametrize("dtype", HALF)
def test_half(subject: Subject, quick, dtype):
    f, x, v, y = subject.functions, subject(X, dtype), subject(V, dtype), subject(Y)
    loss, grad = f.cross_entropy_value_and_grad(x, y)
    expected = formula(X, Y)
    results = [(loss, "float32", expected[0]), (grad, dtype, expected[1])]
    if not few(subject, quick):
        loss, slope = f.cross_entropy_jvp(x, v, y)
        product = P * (V - (P * V).sum(-1, keepdims=True)) / 8
        results += [
            (loss, "float32", expected[0]),
            (slope, "float32", (expected[1] * V).sum()),
            (f.cross_entropy_hvp(x, v, y), dtype, product),
            (f.softmax(x), dtype, P),
            (f.log_softmax(x), "float32", X - LSE[:, None]),
        ]
    same([subject.dtype(result) for result, _, _ in results], [name for _, name, _ in results], "dtypes")
    for result, name, true in results:
        close(subject, result, true, roundings=64 if name == "float32" else 1.01)


@check(
    "contract.dtypes.half-summed-in-half",
    "Half precision is summed in float32: of 3001 equal classes the loss is log(3001).",
    source=DTYPES,
)
@pytest.mark.parametrize("dtype", HALF)
def test_half_sums(subject: Subject, quick, dtype):
    close(subject, subject.functions.cross_entropy_value_and_grad(subject(X, dtype), subject(Y))[0], formula(X, Y)[0])
    if not quick:
        # Half precision holds neither 4099, the sum of all exponentials, nor the sum of all but the maximum.
        loss = subject.functions.cross_entropy(subject(np.zeros((2, 4099)), dtype), subject(np.asarray([0, 1])))
        close(subject, loss, np.log(4099))


@pytest.mark.full
@check(
    "contract.dtypes.in-blocks",
    "Results have the shapes, dtypes and values promised, of arrays that are computed in several blocks as well.",
    source=DTYPES,
)
def test_blocks(subject: Subject):
    dtype = next(dtype for dtype in (*HALF, "float32") if dtype in subject.dtypes)
    if subject.backend.block_bytes is None:
        pytest.skip("computes in no blocks")
    times = subject.backend.block_bytes // (4 * X.size) + 1
    f, transforms = subject.functions, subject.backend.transforms
    x, v = (subject(np.tile(a, (times, 1)), dtype) for a in (X, V))
    y, events = subject(np.tile(Y, times)), subject(np.tile(Q / 2, (times, 1)), dtype)
    _, grad = formula(X, Y, reduction="none")
    product = P * (V - (P * V).sum(-1, keepdims=True))
    loss = -np.log(P[np.arange(8), Y])
    binary_loss, q = np.logaddexp(0, X) - Q / 2 * X, 1 / (1 + np.exp(-X))
    results = [
        *zip(f.cross_entropy_value_and_grad(x, y, reduction="none"), ("float32", dtype), (loss, grad), strict=True),
        (f.cross_entropy_jvp(x, v, y, reduction="none")[1], "float32", (grad * V).sum(-1)),
        (f.cross_entropy_hvp(x, v, y, reduction="none"), dtype, product),
        (f.softmax(x), dtype, P),
        (f.log_softmax(x), "float32", X - LSE[:, None]),
        (f.logsumexp(x), "float32", LSE),
        *zip(
            f.binary_cross_entropy_value_and_grad(x, events, reduction="none"),
            ("float32", dtype),
            (binary_loss, q - Q / 2),
            strict=True,
        ),
    ]
    if {"grad", "jvp"} <= transforms.keys():
        slope = transforms["grad"](lambda a: subject.xp.sum(f.cross_entropy(a, y, reduction="none")))
        results.append((transforms["jvp"](slope, x, v), dtype, product))
    for result, name, true in results:
        same(subject.dtype(result), name, "dtype")
        close(subject, result, np.tile(true, (times,) + (1,) * (true.ndim - 1)), 64 if name == "float32" else 1.01)


# Arrays


@check("contract.inputs.written-to", "Inputs are never written to.", source=DTYPES)
@pytest.mark.parametrize("function", list(ARGUMENTS))
def test_inputs(subject: Subject, quick, function):
    soft = "labels" in ARGUMENTS[function] and not few(subject, quick)
    for computed in [rows(subject, function, labels) for labels in ("index", "probabilities")[: 1 + soft]]:
        for name, values in computed.inputs.items():
            same(subject.dtype(computed.arrays[name]), subject.dtype(subject(values)), "dtype")
            equal(subject.numpy(computed.arrays[name]), subject.numpy(subject(values)))
    if function == "cross_entropy_value_and_grad" or not few(subject, quick):
        # Those rows are copied where some do not count; these ones need not be.
        x = not_positive(X) if function == "nll_loss" else X
        inputs = {"x": x, "direction": V, "labels": Q if function.startswith("binary") else Y}
        arrays = {name: subject(inputs[name]) for name in ARGUMENTS[function]}
        getattr(subject.functions, function)(*arrays.values())
        for name, array in arrays.items():
            equal(subject.numpy(array), subject.numpy(subject(inputs[name])))


@check("contract.results.overwritten", "A result is not written to by a later call.", source=DTYPES)
def test_results(subject: Subject):
    found = value_and_grad(subject, X, Y, reduction="none")
    kept = [subject.numpy(result).copy() for result in found]
    value_and_grad(subject, V, Y, reduction="none")
    for result, values in zip(found, kept, strict=True):
        equal(subject.numpy(result), values)


@check("contract.device.moved", "Results lie on the device of the arguments.", source=DTYPES)
@pytest.mark.parametrize("function", list(ARGUMENTS))
def test_device(subject: Subject, function):
    for result in rows(subject, function).results:
        same(subject.is_where(result), True, "on the device of the arguments")


@check(
    "contract.device.waited-for",
    "Nothing waits for a device or makes a lazy library compute, neither to check arguments nor to choose a formula.",
    source="docs/contract.md, Labels",
)
def test_waiting(subject: Subject, quick):
    if not hasattr(subject.backend, "no_waiting"):
        pytest.skip("nothing tells here whether it is waited for")
    calls: list[Any] = [(name, "events" if name.startswith("binary") else "index", {}) for name in ARGUMENTS]
    if few(subject, quick):
        calls = calls[1:3]
    else:
        calls += [
            ("cross_entropy_value_and_grad", "probabilities", {}),
            ("cross_entropy_value_and_grad", "index", {"label_smoothing": 0.25, "z_loss": 0.125, "softcap": 4.0}),
        ]
    with subject.backend.no_waiting():
        found = [Computed(subject, *call) for call in calls]
        loss, _ = value_and_grad(subject, X, Y, **WEIGHTED, denominator=np.asarray(2.0))
    for computed in found:
        for values in computed.values:
            is_finite(values[:8])
    close(subject, loss, formula(X, Y, **WEIGHTED, denominator=2.0)[0])
