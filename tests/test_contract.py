"""What is true on every backend: labels, weights, reductions, infinities, dtypes, inputs."""

import threading

import numpy as np
import pytest
from conftest import library

import xent_any

OPTIONS = [
    {},
    {"class_weight": True},
    {"sample_weight": True},
    {"label_smoothing": 0.1},
    {"class_weight": True, "sample_weight": True, "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 5.0},
]
REDUCTIONS = ["mean", "sum", "none"]
CLASS_WEIGHT = np.asarray([0.5, 2.0, 0.0, 1.0, 3.0, 1.0])
SAMPLE_WEIGHT = np.asarray([1.0, 0.0, 2.5, 0.25])


def options_on(lib, options):
    arrays = {"class_weight": CLASS_WEIGHT, "sample_weight": SAMPLE_WEIGHT}
    return {key: lib(arrays[key]) if value is True else value for key, value in options.items()}


def value_and_grad(lib, x, y, **options):
    loss, grad = xent_any.cross_entropy_value_and_grad(lib(x), lib(y), **options)
    return lib.numpy(loss), lib.numpy(grad)


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 6)) * 3


Y = np.asarray([1, 5, 0, 2])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_index_and_its_one_hot_row_agree(lib, x, options, reduction):
    options = options_on(lib, options)
    index = value_and_grad(lib, x, Y, reduction=reduction, **options)
    one_hot = value_and_grad(lib, x, np.eye(6)[Y], reduction=reduction, **options)
    for a, b in zip(index, one_hot, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-15)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_index_labels_follow_the_formula_of_pytorch(lib, x, weighted, smoothing, reduction):
    torch = pytest.importorskip("torch")
    y = Y.copy()
    y[2] = 3
    t = torch.tensor(x, requires_grad=True)
    weight = torch.tensor(CLASS_WEIGHT) if weighted else None
    theirs = torch.nn.functional.cross_entropy(
        t, torch.tensor(y), weight=weight, ignore_index=3, label_smoothing=smoothing, reduction=reduction
    )
    theirs.sum().backward()
    ours, grad = value_and_grad(
        lib,
        x,
        y,
        ignore_index=3,
        label_smoothing=smoothing,
        reduction=reduction,
        class_weight=lib(CLASS_WEIGHT) if weighted else None,
    )
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(grad, t.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_all_functions_return_the_same_loss_to_the_bit(lib, x, options, reduction, soft):
    y = lib(np.eye(6)[Y] if soft else Y)
    options = options_on(lib, options) | {"reduction": reduction}
    loss = lib.numpy(xent_any.cross_entropy(lib(x), y, **options))
    np.testing.assert_array_equal(lib.numpy(xent_any.cross_entropy_value_and_grad(lib(x), y, **options)[0]), loss)
    np.testing.assert_array_equal(lib.numpy(xent_any.cross_entropy_jvp(lib(x), lib(x), y, **options)[0]), loss)


def test_nll_loss_of_log_softmax_is_cross_entropy(lib, x):
    for options in (
        {},
        {"class_weight": lib(CLASS_WEIGHT), "label_smoothing": 0.2, "sample_weight": lib(SAMPLE_WEIGHT)},
    ):
        for y in (lib(Y), lib(np.eye(6)[Y])):
            a = xent_any.nll_loss(xent_any.log_softmax(lib(x)), y, **options)
            assert float(a) == pytest.approx(float(xent_any.cross_entropy(lib(x), y, **options)), rel=1e-14)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6), (2, 1, 3, 6)])
def test_any_class_axis_and_any_other_axes(lib, shape, rng):
    x = rng.normal(size=shape)
    y = rng.integers(0, 6, shape[:-1])
    q = rng.dirichlet(np.ones(6), size=shape[:-1])
    v = rng.normal(size=shape)
    for labels in (y, q):
        loss, grad = value_and_grad(lib, x, labels, reduction="none")
        assert loss.shape == shape[:-1]
        hv = lib.numpy(xent_any.cross_entropy_hvp(lib(x), lib(v), lib(labels)))
        for axis in range(-len(shape), len(shape)):
            moved = [np.moveaxis(a, -1, axis) if a.shape == shape else a for a in (x, labels, v)]
            loss2, grad2 = value_and_grad(lib, moved[0], moved[1], axis=axis, reduction="none")
            np.testing.assert_allclose(loss2, loss, rtol=1e-14)
            np.testing.assert_allclose(np.moveaxis(grad2, axis, -1), grad, rtol=1e-13)
            hv2 = xent_any.cross_entropy_hvp(lib(moved[0]), lib(moved[2]), lib(moved[1]), axis=axis)
            np.testing.assert_allclose(np.moveaxis(lib.numpy(hv2), axis, -1), hv, rtol=1e-12, atol=1e-16)
            for f in (xent_any.softmax, xent_any.log_softmax):
                moved_back = np.moveaxis(lib.numpy(f(lib(moved[0]), axis=axis)), axis, -1)
                np.testing.assert_allclose(moved_back, lib.numpy(f(lib(x))), rtol=1e-14)
            for keepdims in (False, True):
                lse = lib.numpy(xent_any.logsumexp(lib(moved[0]), axis=axis, keepdims=keepdims))
                expected = lib.numpy(xent_any.logsumexp(lib(x)))
                expected = np.expand_dims(expected, axis) if keepdims else expected
                assert lse.shape == expected.shape
                np.testing.assert_allclose(lse, expected, rtol=1e-15)


def test_the_parts_against_their_definitions(lib, x):
    e = np.exp(x)
    np.testing.assert_allclose(lib.numpy(xent_any.softmax(lib(x))), e / e.sum(-1, keepdims=True), rtol=1e-14)
    np.testing.assert_allclose(lib.numpy(xent_any.logsumexp(lib(x))), np.log(e.sum(-1)), rtol=1e-14)
    expected = x - np.log(e.sum(-1, keepdims=True))
    np.testing.assert_allclose(lib.numpy(xent_any.log_softmax(lib(x))), expected, rtol=1e-13)


def test_infinities_in_the_parts(lib):
    inf = np.inf
    x = np.asarray([[-inf, -inf], [0, inf], [0, np.nan], [-inf, 3]])
    np.testing.assert_array_equal(lib.numpy(xent_any.logsumexp(lib(x))), [-inf, inf, np.nan, 3])
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(lib.numpy(xent_any.softmax(lib(x))), [nan, nan, nan, [0, 1]])
    np.testing.assert_array_equal(lib.numpy(xent_any.log_softmax(lib(x))), [nan, nan, nan, [-inf, 0]])


@pytest.mark.parametrize("soft", [False, True])
def test_empty_batches(lib, soft):
    for shape in ((0, 3), (2, 0, 3)):
        x, y = np.zeros(shape), np.zeros(shape) if soft else np.zeros(shape[:-1], np.int64)
        for reduction, expected in (("mean", np.nan), ("sum", 0.0), ("none", np.zeros(shape[:-1]))):
            loss, grad = value_and_grad(lib, x, y, reduction=reduction)
            np.testing.assert_array_equal(loss, expected)
            assert grad.shape == shape
    assert np.isnan(float(xent_any.binary_cross_entropy(lib(np.zeros(0)), lib(np.zeros(0)))))


def test_ignored_rows_are_exactly_zero_whatever_they_hold(lib):
    x = np.asarray([[1.0, 2, 3], [np.nan, 1, 2], [np.inf, 0, 0], [-np.inf] * 3, [0, 0, 0]])
    y = np.asarray([0, -100, -100, -100, 1])
    counted = value_and_grad(lib, x[[0, 4]], y[[0, 4]])
    sample_weight = np.asarray([1.0, 0, 0, 0, 1])
    one_hot = np.eye(3)[[0, 1, 2, 0, 1]]
    for labels, options in (
        (y, {}),
        (np.where(y == -100, 2, y), {"sample_weight": lib(sample_weight)}),
        (one_hot, {"sample_weight": lib(sample_weight)}),
        (y, {"label_smoothing": 0.0, "softcap": 1e6}),
    ):
        loss, grad = value_and_grad(lib, x, labels, **options)
        np.testing.assert_allclose(loss, counted[0], rtol=1e-10)
        np.testing.assert_allclose(grad[[0, 4]], counted[1], rtol=1e-10)
        np.testing.assert_array_equal(grad[1:4], 0)
        none, _ = value_and_grad(lib, x, labels, reduction="none", **options)
        np.testing.assert_array_equal(none[1:4], 0)
        v = np.where(np.isfinite(x), 1.0, np.nan)
        v[1, 1:] = [1.7e308, -1.7e308]
        hv = lib.numpy(xent_any.cross_entropy_hvp(lib(x), lib(v), lib(labels), **options))
        np.testing.assert_array_equal(hv[1:4], 0)
        slope = xent_any.cross_entropy_jvp(lib(x), lib(v), lib(labels), **options)[1]
        assert np.isfinite(float(slope))


def test_zero_weight_times_anything_is_zero(lib):
    x = np.asarray([[np.nan, 1.0, 2], [-np.inf, 1, 2], [0, 1, 2]])
    y = np.asarray([0, 0, 1])
    for labels in (y, np.eye(3)[y]):
        loss, grad = value_and_grad(lib, x, labels, class_weight=lib([0.0, 1, 1]))
        np.testing.assert_array_equal(grad[:2], 0)
        assert np.isfinite(loss)


def test_the_mean_over_nothing(lib):
    x, nothing = np.zeros((2, 3)), np.asarray([-100, -100])
    for y, options in (
        (nothing, {}),
        (np.zeros(2, np.int64), {"sample_weight": lib([0.0, 0.0])}),
        (np.zeros(2, np.int64), {"class_weight": lib([0.0, 1, 1]), "label_smoothing": 0.1}),
        (np.zeros((2, 3)), {}),
    ):
        loss, grad = value_and_grad(lib, x, y, **options)
        assert np.isnan(loss)
        np.testing.assert_array_equal(grad, 0)
    assert float(xent_any.cross_entropy(lib(x), lib(nothing), reduction="sum")) == 0
    assert float(xent_any.cross_entropy(lib(x), lib(nothing), denominator=5)) == 0
    _, slope = xent_any.cross_entropy_jvp(lib(x), lib(x + 1), lib(nothing))
    assert float(slope) == 0


def test_the_denominator_makes_accumulated_batches_equal_to_one(lib, x):
    w = lib(CLASS_WEIGHT)
    loss, grad = value_and_grad(lib, x, Y, class_weight=w)
    total = CLASS_WEIGHT[Y].sum()
    for denominator in (total, lib(np.asarray(total))):
        options = {"class_weight": w, "denominator": denominator}
        parts = [value_and_grad(lib, x[i], Y[i], **options) for i in (slice(1), slice(1, 4))]
        assert parts[0][0] + parts[1][0] == pytest.approx(float(loss), rel=1e-14)
        np.testing.assert_allclose(np.concatenate([parts[0][1], parts[1][1]]), grad, rtol=1e-13)


def test_absent_classes(lib):
    x = np.asarray([[0.5, -np.inf, 2, -1]])
    there = np.asarray([0, 2, 3])
    loss, grad = value_and_grad(lib, x, np.asarray([2]))
    expected = value_and_grad(lib, x[:, there], np.asarray([1]))
    np.testing.assert_allclose(loss, expected[0], rtol=1e-15)
    np.testing.assert_allclose(grad[:, there], expected[1], rtol=1e-15)
    assert grad[0, 1] == 0
    for y, options in (
        (np.asarray([1]), {}),
        (np.asarray([2]), {"label_smoothing": 0.1}),
        (np.asarray([[0.5, 0.5, 0, 0]]), {}),
    ):
        loss, grad = value_and_grad(lib, x, y, **options)
        assert loss == np.inf
        q = y if y.ndim == 2 else np.eye(4)[y]
        q = q * (1 - options.get("label_smoothing", 0)) + options.get("label_smoothing", 0) / 4
        p = np.exp(x - 2) / np.exp(x - 2).sum()
        np.testing.assert_allclose(grad, p - q, rtol=1e-14)
    capped, _ = value_and_grad(lib, x, np.asarray([2]), softcap=30.0)
    assert np.isfinite(capped)


@pytest.mark.parametrize("row", [[np.nan, 0, 1], [np.inf, 0, 1], [0, 1, np.inf], [-np.inf] * 3, [np.inf, -np.inf, 0]])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"softcap": 2.0}, {"z_loss": 0.1}], ids=str)
def test_a_counted_row_that_cannot_be_computed_is_nan(lib, row, options):
    x, y = np.asarray([row, [0, 1, 2]]), np.asarray([1, 1])
    for labels in (y, np.eye(3)[y]):
        loss, grad = value_and_grad(lib, x, labels, reduction="none", **options)
        assert np.isnan(loss[0])
        assert np.isfinite(loss[1])
        assert (np.isnan(grad[0]) | ((grad[0] == 0) & np.isneginf(x[0]))).all()
        assert np.isnan(grad[0, 1])
        assert np.isfinite(grad[1]).all()
    log_probs = xent_any.nll_loss(lib(x), lib(y), reduction="none")
    assert np.isnan(lib.numpy(log_probs)[0])


def test_binary(lib):
    z = np.asarray([0.5, -2, np.inf, -np.inf, np.inf, np.nan, np.nan])
    y = np.asarray([0.3, 1, 1, 0, 0, 1, 1])
    s = np.asarray([1.0, 1, 1, 1, 1, 1, 0])
    loss, grad = xent_any.binary_cross_entropy_value_and_grad(
        lib(z), lib(y), sample_weight=lib(s), pos_weight=lib([2.0]), reduction="none"
    )
    expected = [
        0.7 * np.log1p(np.exp(0.5)) + 0.6 * np.log1p(np.exp(-0.5)),
        2 * np.log1p(np.exp(2)),
        0,
        0,
        np.inf,
        np.nan,
        0,
    ]
    np.testing.assert_allclose(lib.numpy(loss), expected, rtol=1e-14)
    sigma = 1 / (1 + np.exp(-0.5))
    expected = [0.7 * sigma - 0.6 * (1 - sigma), -2 / (1 + np.exp(-2.0)), 0, 0, 1, np.nan, 0]
    np.testing.assert_allclose(lib.numpy(grad), expected, rtol=1e-14)
    two = np.stack([np.zeros(2), z[:2]], axis=-1)
    q = np.stack([1 - y[:2], y[:2]], axis=-1)
    for reduction in REDUCTIONS:
        a = lib.numpy(xent_any.binary_cross_entropy(lib(z[:2]), lib(y[:2]), reduction=reduction))
        np.testing.assert_allclose(a, value_and_grad(lib, two, q, reduction=reduction)[0], rtol=1e-14)
    ints = xent_any.binary_cross_entropy(lib(z[:2]), lib(np.asarray([0, 1])))
    assert float(ints) == float(xent_any.binary_cross_entropy(lib(z[:2]), lib(np.asarray([0.0, 1.0]))))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_labels_of_every_integer_dtype(lib, dtype, rng):
    x = rng.normal(size=(3, 300))
    expected = value_and_grad(lib, x, np.asarray([0, 100, 3]), ignore_index=3)
    labels = lib(np.asarray([0, 100, 3], dtype))
    result = xent_any.cross_entropy_value_and_grad(lib(x), labels, ignore_index=3)
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_array_equal(lib.numpy(a), b)


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**64 - 100])
def test_an_ignore_index_that_only_uint64_holds(lib, value):
    labels = np.asarray([0, value, 1], np.uint64)
    none = lib.numpy(xent_any.cross_entropy(lib(np.zeros((3, 2))), lib(labels), ignore_index=value, reduction="none"))
    np.testing.assert_allclose(none, [np.log(2), 0, np.log(2)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept_whatever_labels_and_weights_have(lib, dtype, x):
    for other in (np.float32, np.float64):
        loss, grad = xent_any.cross_entropy_value_and_grad(
            lib(x, dtype),
            lib(np.eye(6)[Y], other),
            class_weight=lib(CLASS_WEIGHT, other),
            sample_weight=lib(SAMPLE_WEIGHT, other),
        )
        assert lib.numpy(loss).dtype == lib.numpy(grad).dtype == dtype


def test_numpy_inputs_may_be_read_only_and_strided_and_are_left_alone(rng):
    base = rng.normal(size=(8, 12))
    x = base[::-2, ::-2]
    y = np.asarray([1, 9, 5, 9, 0, 9, 3])[::2]
    expected = xent_any.cross_entropy_value_and_grad(x.copy(), y.copy())
    fortran = np.asfortranarray(x)
    broadcast = np.broadcast_to(x[0], (4, 6))
    for a in (x, fortran, np.lib.stride_tricks.as_strided(x, writeable=False)):
        before = a.copy()
        a.flags.writeable = False
        loss, grad = xent_any.cross_entropy_value_and_grad(a, y)
        assert float(loss) == float(expected[0])
        np.testing.assert_array_equal(grad, expected[1])
        np.testing.assert_array_equal(a, before)
        assert grad.flags.writeable
    loss, grad = xent_any.cross_entropy_value_and_grad(broadcast, y)
    np.testing.assert_array_equal(grad, xent_any.cross_entropy_value_and_grad(broadcast.copy(), y)[1])
    assert not np.shares_memory(grad, broadcast)


def test_nothing_is_written_to(lib, x):
    arrays = [lib(a) for a in (x, Y, np.eye(6)[Y], CLASS_WEIGHT, SAMPLE_WEIGHT)]
    logits, index, q, w, s = arrays
    for y in (index, q):
        options = {"class_weight": w, "sample_weight": s, "softcap": 3.0}
        xent_any.cross_entropy_value_and_grad(logits, y, **options)
        xent_any.cross_entropy_jvp(logits, logits, y, **options)
        xent_any.cross_entropy_hvp(logits, logits, y, **options)
    xent_any.binary_cross_entropy_value_and_grad(logits, q)
    for a, before in zip(arrays, (x, Y, np.eye(6)[Y], CLASS_WEIGHT, SAMPLE_WEIGHT), strict=True):
        np.testing.assert_array_equal(lib.numpy(a), before)


@pytest.mark.parametrize("shape", [(1000, 700), (3, 2, 150, 700), (70001, 10), (2, 300_000)])
def test_a_row_is_the_same_to_the_bit_whatever_is_around_it(lib, shape, rng):
    """Also across the edges of blocks."""
    if lib.name == "array_api_strict" and shape[0] > 10_000:
        pytest.skip("array_api_strict runs in blocks of a few rows: too slow for this many")
    ulps = 4 if "relations.bitwise" in lib.backend.deviations else 0
    x, q = rng.normal(size=shape).astype(np.float32), rng.random(size=shape).astype(np.float32)
    for y in (rng.integers(0, shape[-1], shape[:-1]), q):
        loss, grad = value_and_grad(lib, x, y, reduction="none")
        rows, labels = x.reshape(-1, shape[-1]), y.reshape(-1, *y.shape[len(shape) - 1 :])
        loss, grad = loss.reshape(-1), grad.reshape(rows.shape)
        for part in ([0], [len(rows) - 1], slice(len(rows) // 2, len(rows) // 2 + 37)):
            loss2, grad2 = value_and_grad(lib, rows[part], labels[part], reduction="none")
            np.testing.assert_array_max_ulp(loss2, loss[part], ulps)
            # of the gradient's two terms, about 1, for probability labels
            np.testing.assert_allclose(grad2, grad[part], rtol=0, atol=ulps * np.spacing(np.abs(grad[part]).max()))
        alone, _ = value_and_grad(lib, rows[0], labels[0], reduction="none")
        np.testing.assert_array_max_ulp(alone, loss[0], ulps)


def test_concurrent_calls(x):
    expected = xent_any.cross_entropy_value_and_grad(x, Y)[1]
    results = []

    def call():
        results.append(xent_any.cross_entropy_value_and_grad(x, Y)[1])

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for result in results:
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("device", ["device1", "no_float64", "no_x64"])
def test_array_api_strict_at_its_strictest(device, x):
    strict = pytest.importorskip("array_api_strict")
    on = strict.Device(device)
    real = np.float64 if device == "device1" else np.float32
    whole = np.int32 if device == "no_x64" else np.int64

    def make(a):
        return strict.asarray(np.asarray(a).astype(whole if np.asarray(a).dtype.kind == "i" else real), device=on)

    options = {"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 9.0}
    with strict.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False, api_version="2024.12"):
        for y in (Y, np.eye(6)[Y]):
            arrays = {"class_weight": make(CLASS_WEIGHT), "sample_weight": make(SAMPLE_WEIGHT)}
            loss, grad = xent_any.cross_entropy_value_and_grad(make(x), make(y), **options, **arrays)
            assert loss.device == grad.device == on
            assert grad.dtype == make(x).dtype
            hv = xent_any.cross_entropy_hvp(make(x), make(x), make(y), **options, **arrays)
            arrays = {"class_weight": CLASS_WEIGHT, "sample_weight": SAMPLE_WEIGHT}
            expected = xent_any.cross_entropy_value_and_grad(x, y, **options, **arrays)
            assert float(loss) == pytest.approx(float(expected[0]), rel=1e-5)
            assert hv.device == on
        binary = xent_any.binary_cross_entropy_value_and_grad(make(x), make(np.eye(6)[Y]), pos_weight=2.0)
        assert binary[1].device == on
        for f in (xent_any.softmax, xent_any.log_softmax, xent_any.logsumexp):
            assert f(make(x)).device == on
        with pytest.raises(IndexError, match=r"labels\[3\] is 6"):
            xent_any.cross_entropy(make(x), make(np.asarray([0, 1, 2, 6])))


def test_libraries_without_an_adapter(x):
    """Dask computes nothing early; a wrong label is NaN, for it cannot be read."""
    dask = pytest.importorskip("dask")
    da = pytest.importorskip("dask.array")

    def computed(*_, **__):
        raise AssertionError("computed early")

    for chunks in ((2, 6), (4, 2)):
        a = da.from_array(x, chunks=chunks)
        y = da.from_array(np.asarray([1, 5, 6, 2]), chunks=2)
        with dask.config.set(scheduler=computed):
            loss, grad = xent_any.cross_entropy_value_and_grad(a, y, reduction="none", label_smoothing=0.1)
            weight = da.from_array(CLASS_WEIGHT, chunks=3)
            mean = xent_any.cross_entropy(a, da.from_array(Y, chunks=2), class_weight=weight)
        loss, grad = loss.compute(scheduler="sync"), grad.compute(scheduler="sync")
        assert np.isnan(loss[2])
        assert np.isnan(grad[2]).all()
        there = [0, 1, 3]
        expected = value_and_grad(library("numpy"), x[there], Y[there], reduction="none", label_smoothing=0.1)
        np.testing.assert_allclose(loss[there], expected[0], rtol=1e-14)
        np.testing.assert_allclose(grad[there], expected[1], rtol=1e-13)
        expected = xent_any.cross_entropy(x, Y, class_weight=CLASS_WEIGHT)
        np.testing.assert_allclose(mean.compute(scheduler="sync"), expected, rtol=1e-14)


@pytest.mark.parametrize("name", ["mlx.core", "ndonnx"])
@pytest.mark.filterwarnings("ignore:onnxruntime is not installed:UserWarning")
def test_other_libraries(name, x):
    module = pytest.importorskip(name)

    def make(a):
        return (
            module.array(a.astype(np.float32) if a.dtype.kind == "f" else a)
            if name == "mlx.core"
            else module.asarray(a)
        )

    def back(a):
        return np.asarray(a) if name == "mlx.core" else a.unwrap_numpy()

    loss, grad = xent_any.cross_entropy_value_and_grad(make(x), make(np.asarray([1, 5, 6, 2])), reduction="none")
    assert np.isnan(back(loss)[2])
    assert np.isnan(back(grad)[2]).all()
    expected = xent_any.cross_entropy_value_and_grad(x[:2], Y[:2], reduction="none")
    np.testing.assert_allclose(back(loss)[:2], expected[0], rtol=1e-5)
    np.testing.assert_allclose(back(grad)[:2], expected[1], rtol=1e-5, atol=1e-7)


def test_torch_in_transforms_and_without_data(x):
    torch = pytest.importorskip("torch")
    t, y = torch.tensor(x), torch.tensor(Y)
    wrong = torch.tensor([1, 5, 6, 2])
    losses = torch.func.vmap(xent_any.cross_entropy)(t, wrong)
    assert torch.isnan(losses).tolist() == [False, False, True, False]
    meta = xent_any.cross_entropy_value_and_grad(t.to("meta"), y.to("meta"))
    assert meta[1].device.type == "meta"
    assert meta[1].shape == t.shape
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        loss, grad = xent_any.cross_entropy_value_and_grad(t.float(), y, label_smoothing=0.1, z_loss=0.1, softcap=9.0)
        assert loss.dtype == grad.dtype == torch.float32
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize("x64", [False, True])
def test_wrong_labels_under_jit_are_nan(x64):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(x64):
        wrong = np.asarray([1, -1, 3, 2**32 - 100, 2**31], np.int64)
        labels = [
            wrong.astype(np.int32),
            wrong.astype(np.uint32),
            *([wrong, np.asarray([2, 3 + 2**32])] if x64 else []),
        ]
        for y in labels:
            jitted = jax.jit(lambda a, b: xent_any.cross_entropy_value_and_grad(a, b, reduction="none"))
            loss, grad = jitted(jax.numpy.zeros((len(y), 3)), jax.numpy.asarray(y))
            bad = (y < 0) | (y >= 3)
            bad &= y != -100  # an int32 that was 2**32 - 100 is -100; a uint32 is not
            np.testing.assert_array_equal(np.isnan(loss), bad)
            np.testing.assert_array_equal(np.isnan(grad), np.broadcast_to(bad[:, None], grad.shape))
        mean, grad = jax.jit(xent_any.cross_entropy_value_and_grad)(jax.numpy.zeros((2, 3)), jax.numpy.asarray([0, 7]))
        assert np.isnan(mean)
        np.testing.assert_array_equal(np.isnan(grad), [[False] * 3, [True] * 3])
        closed = jax.jit(lambda a: xent_any.cross_entropy(a, jax.numpy.asarray([0, 7]), reduction="none"))
        np.testing.assert_array_equal(np.isnan(closed(jax.numpy.zeros((2, 3)))), [False, True])


def test_the_slope_of_wrong_labels_alone_is_nan():
    jax = pytest.importorskip("jax")
    x, y = jax.numpy.zeros((1, 2)), jax.numpy.asarray([7])
    assert np.isnan(jax.jit(xent_any.cross_entropy_jvp)(x, x, y)[1])


def test_weights_that_overflow_are_not_silently_zero(lib):
    x, y = lib(np.asarray([[3.0, 0], [1, 2]])), lib(np.asarray([0, 0]))
    with np.errstate(over="ignore", invalid="ignore"):
        loss, grad = xent_any.cross_entropy_value_and_grad(x, y, sample_weight=lib([1e308, 1e308]))
    assert np.isnan(float(loss))
    assert np.isnan(lib.numpy(grad)).all()
    loss = xent_any.cross_entropy(x, y, sample_weight=lib([1.7e308, 0]), reduction="none")
    assert np.isfinite(lib.numpy(loss)).all()


def test_declared_deviations_are_real():
    """When XLA no longer needs one, it goes from the adapter's list."""
    lib = library("jax")
    if lib.device.platform != "cpu":
        pytest.skip(f"the deviations are XLA's on the CPU, not on {lib.device}")
    assert set(lib.backend.deviations) == {"truth.subnormal", "relations.bitwise"}
    assert float(xent_any.cross_entropy(lib([90, 0, 0, 0], np.float32), lib(np.asarray(0)))) == 0
    differs = False
    for count in (3, 7):
        for seed in range(20):
            rng = np.random.default_rng(seed)
            x, q = rng.normal(size=(count, 4)).astype(np.float32), rng.dirichlet(np.ones(4), count).astype(np.float32)
            (_, whole), (_, alone) = (value_and_grad(lib, x[:n], q[:n], reduction="sum") for n in (count, 1))
            differs |= bool((whole[0] != alone[0]).any())
    assert differs
