"""Problems in which several rare things meet: each was wrong once."""

import itertools
import subprocess
import sys
import weakref

import numpy as np
import pytest
from conftest import require, some

import xent_any
from xent_any import _problem, cross_entropy, cross_entropy_jvp, cross_entropy_value_and_grad
from xent_any._registry import backend_of

ABSENT = [[0.0, 1.0, -np.inf]]
ONE_HOT = [[1.0, 0.0, 0.0]]


def test_one_class_with_z_loss():
    x, weight = np.asarray([[1.5]]), np.asarray([2.7])
    _, grad = cross_entropy_value_and_grad(x, np.asarray([0]), z_loss=1e-3, sample_weight=weight, reduction="sum")
    np.testing.assert_allclose(grad, [[2 * 1e-3 * 1.5 * 2.7]])


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_class_in_an_ignored_row(library, value):
    backend = require(library)
    arrays = (
        backend.asarray(a, str(a.dtype), backend.devices()[0])
        for a in (np.asarray([[value], [1.0]]), np.asarray([-100, 0]))
    )
    loss, grad = cross_entropy_value_and_grad(*arrays, reduction="none")
    np.testing.assert_array_equal(backend.to_numpy(loss), [0, 0])
    np.testing.assert_array_equal(backend.to_numpy(grad), [[0], [0]])


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("count", [5, 100])
@pytest.mark.parametrize("value", [0.0, 300.0, np.nan, -np.inf])
@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("labels", ["probability", "weighted smoothing"])
def test_bits_beside_an_unusual_row(library, count, value, weight, labels):
    """The gradient of a row does not depend on a neighbour that is far above, not finite, ignored, or weighs more."""
    backend, rng = require(library), np.random.default_rng(0)
    x, s = rng.normal(size=(4, count)), np.asarray([0.3, 0.7, 0.9, weight])
    x[3] = 0
    x[3, 0] = value
    arrays = {"logits": x, "labels": rng.random((4, count)), "sample_weight": s}
    options = {}
    if labels == "weighted smoothing":
        arrays["labels"] = np.asarray([1, 0, 2, 3])
        options = {"label_smoothing": 0.1, "class_weight": rng.random(count)}
    given = [
        {k: backend.asarray(a[:rows], "float32" if a.dtype == float else "int32", device) for k, a in arrays.items()}
        | {k: v if isinstance(v, float) else backend.asarray(v, "float32", device) for k, v in options.items()}
        for rows in (4, 3)
        for device in backend.devices()[:1]
    ]
    found = [cross_entropy_value_and_grad(**arguments, reduction="sum")[1] for arguments in given]
    together, alone = map(backend.to_numpy, found)
    # On JAX the last bits may depend on the number of rows, for which XLA compiles.
    atol = 2 * np.finfo(np.float32).eps * np.max(np.abs(alone)) if library == "jax" else 0
    np.testing.assert_allclose(together[:3], alone, rtol=0, atol=atol)


@pytest.mark.parametrize("shape", [(0, 100), (3, 0, 100), (0, 3, 100), (0, 5)])
def test_no_rows(shape):
    x, labels = np.zeros(shape), np.zeros(shape[:-1], dtype=int)
    loss, grad = cross_entropy_value_and_grad(x, labels, reduction="sum")
    assert loss == 0
    assert grad.shape == shape
    loss, grad = cross_entropy_value_and_grad(x, x, reduction="sum")
    assert loss == 0
    assert grad.shape == shape


def test_rounded_to_float16_as_numpy_does():
    with np.errstate(all="ignore"):
        x = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
        x = np.concatenate([x, *((1 + part * 2.0**-12) * x for part in (-2, -1, 1, 2)), x + 2.0**-25, x + 2.0**-26])
        np.testing.assert_array_equal(backend_of(np.ndarray).store(np, x, np.float16), x.astype(np.float16))


@pytest.mark.parametrize("margin", [59.9, 60.1, 62.0])
def test_the_bits_of_a_row_beside_one_that_is_farther(margin):
    x = np.full((2, 5), -margin, dtype=np.float32)
    x[:, 0] = 0
    x[1, 1:] = -300
    alone = cross_entropy_value_and_grad(x[:1], np.asarray([0]), reduction="none")
    beside = cross_entropy_value_and_grad(x, np.asarray([0, 0]), reduction="none")
    assert alone[0][0] == beside[0][0]
    np.testing.assert_array_equal(alone[1][0], beside[1][0])


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("classes", [1, 2, 31, 32, 33, 37, 61, 64, 65, 127, 128, 1009, 2003])
def test_any_number_of_classes(library, classes):
    """As each is computed in another way: the maximum first, last and in between, twice, alone, beside NaN or inf."""
    backend = require(library)
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(11, classes))
    last = classes - 1
    for row, k in enumerate((0, last, last // 2, max(0, last - 1), classes // 3)):
        x[row, k] = 40 if row % 2 else 5
    x[5, [0, last]] = 3
    x[6] = 1
    x[7, last], x[8, 0] = np.nan, np.inf
    x[9, :last] = -np.inf
    x[10, last] = 200
    y = np.asarray([0, last, 0, last, last, 0, last, 0, 0, last, last])
    broken = ~np.isfinite(x.max(axis=-1))
    e = np.exp(np.where(broken[:, None], np.nan, x - np.where(broken, 0.0, x.max(axis=-1))[:, None]))
    rest = np.where(broken, np.nan, np.sort(e, axis=-1)[:, :-1].sum(axis=-1))  # of all but one maximum
    p = e / (1 + rest)[:, None]
    others = np.where(np.arange(classes) == y[:, None], 0.0, e).sum(axis=-1) / (1 + rest)
    expected = np.where(np.arange(classes) == y[:, None], -others[:, None], p)
    arrays = (backend.asarray(a, str(a.dtype), backend.devices()[0]) for a in (x, y))
    loss, grad = (backend.to_numpy(a) for a in cross_entropy_value_and_grad(*arrays, reduction="none"))
    near = 2 * (8 + 200) * np.finfo(np.float64).eps / 2  # both within the promise, for what is 200 below the maximum
    np.testing.assert_allclose(grad, expected, rtol=near)
    np.testing.assert_allclose(loss, np.log1p(rest) - np.log(e[np.arange(11), y]), rtol=near)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("shape", [(64, 64), (500, 33), (8, 1000), (101, 101), (4096, 10)])
def test_nan_anywhere(library, shape):
    """It is seen in rows that count, and in rows that are ignored it does nothing, whatever a maximum makes of it."""
    backend = require(library)
    rows, classes = shape
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x[np.arange(rows), np.arange(rows) % classes] = np.nan
    x, y = (backend.asarray(a, str(a.dtype), backend.devices()[0]) for a in (x, (np.arange(rows) + 1) % classes))
    for result in cross_entropy_value_and_grad(x, y, reduction="none"):
        np.testing.assert_array_equal(backend.to_numpy(result), np.nan)
    ignored = y * 0 - 100
    for result in cross_entropy_value_and_grad(x, ignored, reduction="none"):
        np.testing.assert_array_equal(backend.to_numpy(result), 0)
    assert np.isnan(backend.to_numpy(xent_any.logsumexp(x))).all()
    assert np.isnan(backend.to_numpy(xent_any.softmax(x))).all()
    assert np.isnan(backend.to_numpy(xent_any.nll_loss(x, y, reduction="none"))).all()
    np.testing.assert_array_equal(backend.to_numpy(xent_any.nll_loss(x, ignored, reduction="none")), 0)


def test_arrays_of_a_class_of_their_own():
    class Own(np.ndarray):
        """What a memory map is as well."""

    for rows in (10, 3000):
        x, y = np.zeros((rows, 1000), np.float32).view(Own), np.zeros(rows, int).view(Own)
        for result in (*cross_entropy_value_and_grad(x, y, reduction="none"), xent_any.log_softmax(x)):
            assert type(result) is np.ndarray


def test_a_call_after_the_main_thread_has_ended():
    source = """
import threading, time
import numpy as np
import xent_any

x, y = np.zeros((5000, 1000)), np.zeros(5000, dtype=int)
xent_any.cross_entropy(x[:1], y[:1])
threading.Thread(target=lambda: (time.sleep(0.3), print(xent_any.cross_entropy(x, y).shape))).start()
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "()\n", done.stderr


def test_derivative_by_a_weight_beside_an_absent_class_in_torch():
    torch = pytest.importorskip("torch")
    s = torch.ones(1, requires_grad=True)
    cross_entropy(torch.tensor(ABSENT), torch.tensor(ONE_HOT), sample_weight=s, reduction="sum").backward()
    np.testing.assert_allclose(s.grad, [np.log1p(np.e)], rtol=1e-6)


def test_probabilities_inside_nested_transforms_of_torch():
    torch = pytest.importorskip("torch")
    q = torch.softmax(torch.randn(3, 5, dtype=torch.float64), -1)
    x = torch.randn(3, 5, dtype=torch.float64)
    expected = torch.func.hessian(lambda a: torch.nn.functional.cross_entropy(a, q, reduction="sum"))(x)
    found = torch.func.jacrev(torch.func.grad(lambda a: cross_entropy(a, q, reduction="sum")))(x)
    torch.testing.assert_close(found, expected)


def test_torch_binary_labels_in_uint16():
    torch = pytest.importorskip("torch")
    labels = torch.tensor([1, 0, 1])
    z = torch.zeros(3, dtype=torch.bfloat16)
    for dtype in (torch.uint16, torch.uint8, torch.int64):
        _, grad = xent_any.binary_cross_entropy_value_and_grad(z, labels.to(dtype), reduction="sum")
        assert grad.tolist() == [-0.5, 0.5, -0.5]


def test_jax_at_stationary_points():
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    q = jnp.asarray([0.5, 0.5])
    np.testing.assert_allclose(jax.hessian(lambda x: cross_entropy(x, q))(jnp.zeros(2)), [[0.25, -0.25], [-0.25, 0.25]])
    half = jnp.asarray(0.5)
    np.testing.assert_allclose(jax.hessian(lambda z: xent_any.binary_cross_entropy(z, half))(jnp.asarray(0.0)), 0.25)


def test_jax_derivative_by_a_weight_beside_an_absent_class():
    jax = pytest.importorskip("jax")
    x, q = jax.numpy.asarray(ABSENT), jax.numpy.asarray(ONE_HOT)

    def total(s, x, q):
        return cross_entropy(x, q, sample_weight=s, reduction="sum")

    s = jax.numpy.ones(1)
    np.testing.assert_allclose(jax.grad(total)(s, x, q), [np.log1p(np.e)], rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(total))(s[None], x[None], q[None]), [[np.log1p(np.e)]], rtol=1e-6)


def test_jax_takes_arrays_of_numpy_where_it_differentiates():
    jax = pytest.importorskip("jax")
    y = jax.numpy.asarray([0])
    x, s = np.zeros((1, 3), dtype=np.float32), np.ones(1, dtype=np.float32)
    grad, _ = jax.grad(lambda x, s: cross_entropy(x, y, sample_weight=s), (0, 1))(x, s)
    np.testing.assert_allclose(grad, [[-2 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "labels"),
    some(itertools.product([(7, 100), (7, 10)], ["probability", "smoothing", "weighted smoothing"]), 4),
)
def test_jax_unusual_rows_among_many(labels, shape):
    """What is computed in a branch where there are many rows is what is computed without one where there are few."""
    jax = pytest.importorskip("jax")
    rng, count = np.random.default_rng(0), shape[-1]
    x, q, s = rng.normal(size=shape), rng.random(shape), rng.random(shape[0])
    x[1, 3], q[1, 3] = -np.inf, 0  # absent
    x[2, 3] = -np.inf  # missed
    x[3, :], s[3] = np.nan, 0  # padding
    x[4, 0] = 300  # won by far
    x[5, :2] = -3e38, 3e38  # whose difference overflows
    q[6, :2], x[6, :2] = 0, -np.inf
    y, w = np.arange(shape[0]) + 3, rng.random(count)
    options = {"probability": {}, "smoothing": {"label_smoothing": 0.1}}.get(
        labels, {"label_smoothing": 0.1, "class_weight": jax.numpy.asarray(w, "float32")}
    )

    def losses(x, q, s):
        return cross_entropy(x, q, sample_weight=s, reduction="none", **options)

    def total(x, q, s):
        return losses(x, q, s).sum()

    def along_the_first_class(x, q, s):
        return jax.jvp(lambda x: losses(x, q, s), [x], [jax.numpy.zeros_like(x).at[:, 0].set(1.0)])

    gradient = jax.grad(total, (0, 1, 2) if labels == "probability" else (0, 2))
    mapped = jax.jit(jax.vmap(gradient))
    functions = (
        losses,
        jax.jit(losses),
        jax.jit(gradient),
        lambda *arrays: mapped(*[a[None] for a in arrays]),
        along_the_first_class,
    )
    for function in functions:
        found = []
        for copies in (1, 18000 // (7 * count)):  # of all rows: more elements than a branch is for, or fewer
            arrays = [np.tile(a, (copies, *(1,) * (a.ndim - 1))) for a in (x, q if labels == "probability" else y, s)]
            arrays = [jax.numpy.asarray(a, "float32" if a.dtype == float else "int32") for a in arrays]
            results = jax.tree.leaves(function(*arrays))
            found.append([np.asarray(a).reshape(copies, shape[0], -1) for a in results])
        for alone, among in zip(*found, strict=True):
            np.testing.assert_allclose(among, np.broadcast_to(alone, among.shape), rtol=1e-5, atol=1e-7)
            assert np.isfinite(among[:, [0, 4]]).all()


def test_jax_logits_that_are_nearly_0():
    jax = pytest.importorskip("jax")
    x = np.full((1, 1000), -np.inf, dtype=np.float32)
    x[0, :10] = 0
    x[0, 900] = 1e-35
    np.testing.assert_allclose(cross_entropy(jax.numpy.asarray(x), jax.numpy.asarray([0])), np.log(11), rtol=1e-6)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_what_was_taken_once_is_not_taken_in_another_guise(library):
    """Calls alike are checked once; these only look alike."""
    backend = require(library)
    x, y = (backend.asarray(a, dtype, "cpu") for a, dtype in (([[1.0, 2.0, 3.0]] * 3, "float32"), ([0, 2, 1], "int64")))
    for options in ({"axis": 1}, {"ignore_index": 1}, {"label_smoothing": 1}, {"reduction": "mean", "denominator": 1}):
        cross_entropy(x, y, **options)
    for options in ({"axis": 1.0}, {"ignore_index": True}, {"ignore_index": 1.0}, {"label_smoothing": True}):
        with pytest.raises(TypeError, match=next(iter(options))):
            cross_entropy(x, y, **options)
    with pytest.raises(ValueError, match=r"labels: expected shape \(3,\)"):
        cross_entropy(x, y[:2])
    with pytest.raises(IndexError, match=r"labels\[0\] is 3"):
        cross_entropy(x, y + 3)
    with pytest.raises(TypeError, match="labels: expected an integer dtype"):
        cross_entropy(x, y > 0)
    with pytest.raises(ValueError, match="class_weight: expected shape"):
        cross_entropy(x, y, class_weight=x[0, :2])
    with pytest.raises(TypeError, match="labels"):
        cross_entropy(x, y.tolist())
    assert cross_entropy(x[:, :2], y * 0, ignore_index=None) != cross_entropy(x, y, ignore_index=None)


def test_a_masked_array_after_a_plain_one():
    x, y = np.zeros((2, 3)), np.zeros(2, dtype=int)
    cross_entropy(x, y)
    with pytest.raises(TypeError, match="expected a plain array, got MaskedArray"):
        cross_entropy(np.ma.masked_array(x), y)


def test_plans_hold_no_arrays_and_are_bounded(monkeypatch):
    monkeypatch.setattr(_problem, "PLANS", {})
    x, y, w = np.zeros((2, 3)), np.zeros(2, dtype=int), np.ones(3)
    held = [weakref.ref(a) for a in (x, y, w)]
    loss = cross_entropy(x, y, class_weight=w)
    cross_entropy(x, y, class_weight=w, denominator=np.asarray(2.0))  # an array among the numbers
    assert len(_problem.PLANS) == 1
    del x, y, w, loss
    assert [ref() for ref in held] == [None] * 3
    for rows in range(2 * _problem.MOST_PLANS):
        cross_entropy(np.zeros((rows, 3)), np.zeros(rows, dtype=int), reduction="sum")
    assert 0 < len(_problem.PLANS) <= _problem.MOST_PLANS


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_tie_beside_a_row_that_is_not_finite(broken):
    """As many rows without a maximum as there are with two."""
    x, y = np.random.default_rng(0).standard_normal((1000, 10), dtype=np.float32), np.zeros(1000, int)
    x[1], x[1, [3, 5]] = 0, 4
    expected = cross_entropy_value_and_grad(x, y, reduction="none")
    x[0] = broken
    for found, values in zip(cross_entropy_value_and_grad(x, y, reduction="none"), expected, strict=True):
        assert np.isnan(found[0]).any()
        np.testing.assert_array_equal(found[1:], values[1:])


@pytest.mark.parametrize("weight", [1e-30, 1e-20, 1.0, 1e20, 1e35])
def test_a_weight_of_a_row_won_by_far(weight):
    x, s = np.asarray([[80, 0, 0]], np.float32), np.asarray([weight], np.float32)
    _, grad = cross_entropy_value_and_grad(x, np.asarray([1]), sample_weight=s, reduction="sum")
    far = np.exp(np.float64(-80)) * weight
    np.testing.assert_allclose(grad, [[weight, -weight, far if far > 1e-45 else 0]], rtol=1e-5)
    loss, slope = cross_entropy_jvp(
        x, np.asarray([[1, 0, 0]], np.float32), np.asarray([1]), sample_weight=s, reduction="sum"
    )
    np.testing.assert_allclose([loss, slope], [80 * weight, weight], rtol=1e-6)
