"""linear_cross_entropy: what is no check of a backend: memory, blocks, second derivatives, both policies."""

import itertools
import tracemalloc

import numpy as np
import pytest
from conftest import require, some

import xent_any

RNG = np.random.default_rng(0)
HIDDEN, WEIGHT, BIAS = RNG.normal(size=(6, 4)), RNG.normal(size=(7, 4)), RNG.normal(size=7)
LABELS = np.asarray([0, 6, -100, 3, 3, 1])
PROBABILITIES = RNG.random((6, 7))
WEIGHTS = {"class_weight": RNG.random(7), "sample_weight": np.asarray([1, 0.25, 2, 0.5, 0.125, 3])}
OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 4.0}
BLOCK = 3 * (4 + 4 * 4) * 8
"""As max_bytes on NumPy: four, then three classes of a row."""

SMALL = [HIDDEN[:3, :2], WEIGHT[:4, :2], BIAS[:4], WEIGHTS["class_weight"][:4], WEIGHTS["sample_weight"][:3]]
FEW_LABELS, FEW_PROBABILITIES = np.asarray([0, -100, 3]), PROBABILITIES[:3, :4]
FEW_BYTES = {"torch": 240, "jax": 640}
"""As max_bytes, for the small problem: two classes of a row on PyTorch; two rows, then one on JAX."""

policies = pytest.mark.parametrize("recompute", [False, True])
labels_of_both_kinds = pytest.mark.parametrize("labels", [LABELS, PROBABILITIES], ids=["index", "probabilities"])
few_labels_of_both_kinds = pytest.mark.parametrize(
    "labels", [FEW_LABELS, FEW_PROBABILITIES], ids=["index", "probabilities"]
)


@labels_of_both_kinds
@pytest.mark.parametrize("options", [{}, OPTIONS, OPTIONS | WEIGHTS], ids=["none", "numbers", "all"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("max_bytes", [None, BLOCK, 1])
def test_it_is_the_loss_of_the_logits(labels, options, reduction, max_bytes):
    made = {**options, "reduction": reduction}
    loss, (d_hidden, d_weight, d_bias) = xent_any.linear_cross_entropy_value_and_grad(
        HIDDEN, WEIGHT, labels, bias=BIAS, max_bytes=max_bytes, **made
    )
    expected, g = xent_any.cross_entropy_value_and_grad(HIDDEN @ WEIGHT.T + BIAS, labels, **made)
    np.testing.assert_allclose(loss, expected, rtol=1e-13)
    np.testing.assert_allclose(d_hidden, g @ WEIGHT, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(d_weight, g.T @ HIDDEN, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(d_bias, g.sum(0), rtol=1e-12, atol=1e-15)
    alone = xent_any.linear_cross_entropy(HIDDEN, WEIGHT, labels, bias=BIAS, max_bytes=max_bytes, **made)
    np.testing.assert_array_equal(alone, loss)


@labels_of_both_kinds
def test_blocks_of_rows(labels):
    """Some of them ignored, and so is what they hold."""
    hidden = np.tile(HIDDEN, (50, 1)) * np.arange(1, 301)[:, None] / 100
    labels = np.concatenate([labels] * 50)
    weights = np.arange(300.0) % 7
    options = OPTIONS | {"sample_weight": weights, "reduction": "sum"}
    g = xent_any.cross_entropy_value_and_grad(hidden @ WEIGHT.T + BIAS, labels, **options)[1]
    expected = xent_any.cross_entropy(hidden @ WEIGHT.T + BIAS, labels, **options)
    hidden[weights == 0] = np.nan
    for max_bytes in (80_000, 10_000, BLOCK):  # blocks of 150 rows, of 25, and of classes
        loss, (d_hidden, d_weight, d_bias) = xent_any.linear_cross_entropy_value_and_grad(
            hidden, WEIGHT, labels, bias=BIAS, max_bytes=max_bytes, **options
        )
        np.testing.assert_allclose(loss, expected, rtol=1e-13)
        np.testing.assert_allclose(d_hidden, g @ WEIGHT, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(d_weight, g.T @ np.nan_to_num(hidden), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(d_bias, g.sum(0), rtol=1e-12, atol=1e-13)


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    "logits",
    [
        [0, 0, 0, 0, 0],
        [0, 17, 0, 17, 0],
        [0, 90, 1, 2, 0],
        [1, 2, 0, 3, 500],
        [-100, -INF, -300, -INF, -200],
        [-INF, -INF, -INF, -INF, 2],
        [-INF, -INF, -INF, -INF, -INF],
        [1, NAN, -INF, 2, 3],
        [1, 2, -INF, INF, 3],
        [3e38, -3e38, 1, 2, 3],
        [1e6, 1e6 + 1, 1e6 + 2, 1e6, 1e6 + 3],
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, OPTIONS | {"softcap": None}], ids=["none", "numbers"])
@pytest.mark.parametrize("max_bytes", [1, 160], ids=["1 class", "several classes"])
def test_rows_merged_of_blocks_of_classes(logits, options, max_bytes):
    """Ties, rows won by far, absent classes, NaN, inf: the bias is the logits, of a row for each label."""
    for dtype in ("float32", "float64"):
        x = np.asarray(logits, dtype)
        for labels in (np.arange(5), np.eye(5, dtype=dtype), np.full((5, 5), 0.2, dtype)):
            loss, (_, d_weight, _) = xent_any.linear_cross_entropy_value_and_grad(
                np.eye(5, dtype=dtype),
                np.zeros((5, 5), dtype),
                labels,
                bias=x,
                max_bytes=max_bytes,
                reduction="none",
                **options,
            )
            expected, g = xent_any.cross_entropy_value_and_grad(np.tile(x, (5, 1)), labels, reduction="none", **options)
            few = 8 * float(np.finfo(dtype).eps)
            np.testing.assert_allclose(loss, expected, rtol=few)
            size = 1e-3 * np.max(np.abs(np.nan_to_num(g)))
            if labels.dtype == dtype and labels.min() > 0:  # of truly soft labels the bound is relative to T p + q
                size = 2 * labels.max()
            np.testing.assert_allclose(d_weight, g.T, rtol=few, atol=few * size)


def test_memory_of_many_inputs():
    """More of them than of classes: they count as well, also where some rows are ignored."""
    hidden, weight, labels = np.zeros((8000, 512)), np.zeros((2, 512)), np.zeros(8000, np.int64)
    labels[3] = -100
    xent_any.linear_cross_entropy_value_and_grad(hidden[:9], weight, labels[:9])
    for function in (xent_any.linear_cross_entropy_value_and_grad, xent_any.linear_cross_entropy):
        tracemalloc.start()
        try:
            result = function(hidden, weight, labels, max_bytes=1 << 21)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        returned = sum(a.nbytes for a in result[1][:2]) if isinstance(result, tuple) else 0
        assert peak - returned < 1 << 21


def test_gradient_of_the_bias_is_accurate():
    """A sum over all rows."""
    count, classes = 65536, 100
    weight, labels = np.linspace(-1, 1, classes, dtype=np.float32)[:, None], np.zeros(count, np.int64)
    ones = np.ones((count, 1), np.float32)
    found, exact = (
        xent_any.linear_cross_entropy_value_and_grad(
            ones.astype(dtype), weight.astype(dtype), labels, bias=np.zeros(classes, dtype)
        )[1][2]
        for dtype in (np.float32, np.float64)
    )
    np.testing.assert_allclose(found, exact, rtol=8 * np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("kind", "mebibytes", "threads"),
    some(itertools.product(["index", "probabilities", "softcap", "half"], [None, 64, 16], [1, 2, 8]), 4),
)
def test_memory(kind, mebibytes, threads, monkeypatch):
    """The logits would take 320 MB; whatever the number of threads."""
    monkeypatch.setattr(xent_any._registry.backend_of(np.ndarray).products, "threads", lambda: threads)
    dtype, options = np.float32, {} if mebibytes is None else {"max_bytes": mebibytes << 20}
    labels = np.zeros(1600, np.int64)
    if kind == "probabilities":
        labels = np.broadcast_to(np.float32(1 / 50_000), (1600, 50_000))
        options["label_smoothing"] = 0.1
    elif kind == "softcap":
        options["softcap"] = 30.0
    elif kind == "half":
        dtype = np.float16
    hidden, weight = np.zeros((1600, 8), dtype), np.zeros((50_000, 8), dtype)
    tracemalloc.start()
    try:
        _, (d_hidden, d_weight, _) = xent_any.linear_cross_entropy_value_and_grad(hidden, weight, labels, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    total = d_weight.size * 4 if dtype == np.float16 else 0  # the sum of the gradient in float32
    assert peak - d_hidden.nbytes - d_weight.nbytes - total < options.get("max_bytes", 1 << 28)


def test_no_rows():
    loss, found = xent_any.linear_cross_entropy_value_and_grad(HIDDEN[:0], WEIGHT, LABELS[:0], bias=BIAS)
    assert np.isnan(loss)
    assert [a.shape for a in found] == [(0, 4), (7, 4), (7,)]
    assert not any(a.any() for a in found)
    assert xent_any.linear_cross_entropy(HIDDEN[:0], WEIGHT, LABELS[:0], reduction="sum") == 0


def test_arguments_are_not_written_to():
    arrays = [a.copy() for a in (HIDDEN, WEIGHT, BIAS)]
    for a in arrays:
        a.flags.writeable = False
    xent_any.linear_cross_entropy_value_and_grad(*arrays[:2], LABELS, bias=arrays[2], max_bytes=BLOCK)
    views = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (HIDDEN, WEIGHT)]
    loss, found = xent_any.linear_cross_entropy_value_and_grad(*views, LABELS, max_bytes=BLOCK)
    expected, exact = xent_any.linear_cross_entropy_value_and_grad(HIDDEN, WEIGHT, LABELS)
    np.testing.assert_allclose(loss, expected, rtol=1e-13)
    for a, b in zip(found[:2], exact[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def of_torch(labels, recompute, reduction="mean", max_bytes=FEW_BYTES["torch"]):
    """The loss as a function of tensors, and the tensors."""
    import torch  # noqa: PLC0415

    arrays = [torch.tensor(a, requires_grad=True) for a in SMALL]
    y = torch.tensor(labels)

    def loss(hidden, weight, bias, class_weight, sample_weight):
        return xent_any.linear_cross_entropy(
            hidden,
            weight,
            y,
            bias=bias,
            class_weight=class_weight,
            sample_weight=sample_weight,
            reduction=reduction,
            max_bytes=max_bytes,
            recompute=recompute,
            **OPTIONS,
        )

    return loss, arrays


@policies
@few_labels_of_both_kinds
def test_torch_derivatives(labels, recompute):
    require("torch")
    from torch.autograd import gradcheck, gradgradcheck  # noqa: PLC0415

    loss, arrays = of_torch(labels, recompute)
    # The first backward pass hands over what was kept, the next ones compute it.
    assert gradcheck(loss, arrays, check_forward_ad=True, check_batched_grad=True, nondet_tol=1e-12)
    assert gradgradcheck(lambda *layer: loss(*layer, *arrays[3:]), arrays[:3], nondet_tol=1e-12)


def test_torch_derivatives_of_each_row():
    require("torch")
    from torch.autograd import gradcheck  # noqa: PLC0415

    assert gradcheck(*of_torch(FEW_LABELS, None, "none"), check_forward_ad=True)


@policies
def test_torch_backward_twice(recompute):
    torch = require("torch").namespace()
    loss, arrays = of_torch(FEW_LABELS, recompute)
    value = loss(*arrays)
    first = torch.autograd.grad(3 * value, arrays, retain_graph=True)
    again = torch.autograd.grad(3 * value, arrays)
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


@policies
def test_torch_scaled_losses_of_half_precision(recompute):
    """As by a gradient scaler: what is kept is rounded after it is scaled."""
    torch = require("torch").namespace()
    hidden, weight = (torch.tensor(a).half().requires_grad_() for a in (HIDDEN, WEIGHT))
    exact, whole = (torch.tensor(a).half().float().requires_grad_() for a in (HIDDEN, WEIGHT))

    def of(*layer):
        loss = xent_any.linear_cross_entropy(*layer, torch.tensor(LABELS), denominator=1e8, recompute=recompute)
        return torch.autograd.grad(65536.0 * loss, layer)

    for found, expected in zip(of(hidden, weight), of(exact, whole), strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=2**-11, atol=2**-25)


@policies
def test_torch_infinite_cotangent_of_ignored_rows(recompute):
    torch = require("torch").namespace()
    hidden, weight = torch.tensor(HIDDEN, requires_grad=True), torch.tensor(WEIGHT, requires_grad=True)
    for labels in (LABELS, np.full(6, -100)):
        loss = xent_any.linear_cross_entropy(hidden, weight, torch.tensor(labels), reduction="sum", recompute=recompute)
        d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight), torch.tensor(torch.inf, dtype=torch.float64))
        assert not d_hidden[labels == -100].any()
        assert d_weight.isfinite().all() == (labels == -100).all()


@policies
def test_torch_transforms(recompute):
    torch = require("torch").namespace()
    loss, arrays = of_torch(FEW_LABELS, recompute)
    arrays = [a.detach() for a in arrays]

    def of_logits(hidden, weight, bias, class_weight, sample_weight):
        return xent_any.cross_entropy(
            hidden @ weight.T + bias,
            torch.asarray(FEW_LABELS),
            class_weight=class_weight,
            sample_weight=sample_weight,
            **OPTIONS,
        )

    for transform in (torch.func.hessian, torch.func.jacfwd, torch.func.jacrev):
        for i in range(3):
            torch.testing.assert_close(
                transform(loss, argnums=i)(*arrays), transform(of_logits, argnums=i)(*arrays), rtol=1e-11, atol=1e-13
            )


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch.compile itself
@policies
def test_torch_compiled(recompute):
    torch = require("torch").namespace()
    loss, arrays = of_torch(FEW_LABELS, recompute)
    value = torch.compile(loss, fullgraph=True, backend="aot_eager")(*arrays)
    torch.testing.assert_close(value, loss(*arrays), rtol=1e-13, atol=0)
    found = torch.autograd.grad(value, arrays)
    for a, b in zip(found, torch.autograd.grad(loss(*arrays), arrays), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@policies
def test_torch_autocast_changes_nothing(recompute):
    torch = require("torch").namespace()
    loss, arrays = of_torch(FEW_LABELS, recompute)
    arrays = [a.detach().float().requires_grad_() for a in arrays]
    expected = loss(*arrays)
    gradients = torch.autograd.grad(expected, arrays)
    with torch.autocast("cpu"):
        value = loss(*arrays)
        found = torch.autograd.grad(value, arrays)
    for a, b in zip((value, *found), (expected, *gradients), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@policies
def test_torch_asks_for_some_gradients(recompute):
    torch = require("torch").namespace()
    loss, arrays = of_torch(FEW_LABELS, recompute)
    expected = torch.autograd.grad(loss(*arrays), arrays[:3])
    for i in range(3):
        alone = [a.detach().requires_grad_(j == i) for j, a in enumerate(arrays)]
        loss(*alone).backward()
        torch.testing.assert_close(alone[i].grad, expected[i], rtol=1e-13, atol=1e-15)


@policies
@few_labels_of_both_kinds
def test_jax_derivatives(labels, recompute):
    require("jax")
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    with jax.enable_x64(True):
        y = jnp.asarray(labels)
        arrays = [jnp.asarray(a) for a in SMALL]

        def loss(*arrays):
            hidden, weight, bias, class_weight, sample_weight = map(jnp.asarray, arrays)
            return xent_any.linear_cross_entropy(
                hidden,
                weight,
                y,
                bias=bias,
                class_weight=class_weight,
                sample_weight=sample_weight,
                max_bytes=FEW_BYTES["jax"],
                recompute=recompute,
                **OPTIONS,
            )

        def of_logits(hidden, weight, bias, class_weight, sample_weight):
            weights = {"class_weight": class_weight, "sample_weight": sample_weight}
            return xent_any.cross_entropy(hidden @ weight.T + bias, y, **weights, **OPTIONS)

        by_all = jax.jit(jax.grad(loss, range(5)))(*arrays)
        for found, expected in zip(by_all, jax.jit(jax.grad(of_logits, range(5)))(*arrays), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-14)
        # Forward over reverse, in the layer; and reverse over forward, in the weights of the classes
        for second, i in ((jax.hessian, 1), (lambda f, i: jax.jacrev(jax.jacfwd(f, i), i), 3)):
            found = jax.jit(second(loss, i))(*arrays)
            np.testing.assert_allclose(found, jax.jit(second(of_logits, i))(*arrays), rtol=1e-10, atol=1e-13)


@policies
def test_jax_scaled_losses_of_half_precision(recompute):
    require("jax")
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    def of(dtype):
        arrays = [jnp.asarray(a).astype("float16").astype(dtype) for a in (HIDDEN, WEIGHT)]

        def loss(hidden, weight):
            y = jnp.asarray(LABELS)
            return 65536.0 * xent_any.linear_cross_entropy(hidden, weight, y, denominator=1e4, recompute=recompute)

        return jax.grad(loss, (0, 1))(*arrays)

    for found, expected in zip(of("float16"), of("float32"), strict=True):
        np.testing.assert_allclose(found.astype("float32"), expected, rtol=2**-11, atol=2**-15)


@policies
def test_jax_tangents_of_ignored_rows(recompute):
    require("jax")
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    hidden = jnp.asarray(HIDDEN)

    def loss(hidden):
        return xent_any.linear_cross_entropy(
            hidden, jnp.asarray(WEIGHT), jnp.asarray(LABELS), reduction="sum", recompute=recompute
        )

    assert jax.jvp(loss, (hidden,), (jnp.zeros_like(hidden).at[2].set(jnp.nan),))[1] == 0
    (found,) = jax.vjp(loss, hidden)[1](jnp.asarray(jnp.inf, loss(hidden).dtype))
    assert not found[2].any()


def test_jax_keeps_its_arrays_alone():
    require("jax")
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    hidden, weight = jnp.zeros((64, 8), "bfloat16"), jnp.zeros((500, 8), "bfloat16")

    def loss(*layer):
        return xent_any.linear_cross_entropy(*layer, jnp.zeros(64, int), recompute=True)

    kept = jax.tree.leaves(jax.vjp(loss, hidden, weight)[1])
    assert sum(a.nbytes for a in kept) < hidden.nbytes + weight.nbytes + 1000


@policies
def test_jax_holds_a_block(recompute):
    """What XLA allocates beside the results: blocks, not the logits."""
    require("jax")
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    hidden, weight, labels = jnp.zeros((1024, 8), "float32"), jnp.zeros((20_000, 8), "float32"), jnp.zeros(1024, int)
    size = 16 << 20
    f = jax.value_and_grad(
        lambda h, w: xent_any.linear_cross_entropy(h, w, labels, max_bytes=size, recompute=recompute), (0, 1)
    )
    memory = jax.jit(f).lower(hidden, weight).compile().memory_analysis()
    assert memory.temp_size_in_bytes < size < 20_000 * 1024 * 4 / 4


PRECISION = {"float16": "float32", "bfloat16": "float32"}
"""What is computed in another precision than its own."""
UNEQUAL = ["array_api_strict", "jax", "mlx", "numpy", "torch"]


def unequal(backend):
    """Dtypes of the layer's inputs, weight and bias, not all the same; and that which they are computed in."""
    dtypes = sorted(backend.dtypes(backend.devices()[0]))
    for a, b in itertools.permutations(dtypes, 2):
        for several in ((a, b, a), (b, b, a)):
            yield several, max(PRECISION.get(dtype, dtype) for dtype in several)


@pytest.mark.parametrize("library", UNEQUAL)
def test_unequal_dtypes(library):
    """The same as of arguments in the widest of them, at least float32; each gradient in the dtype of its argument."""
    backend = require(library)
    device = backend.devices()[0]
    labels = backend.asarray(LABELS.reshape(2, 3), "int32", device)
    layer = HIDDEN.reshape(2, 3, 4), WEIGHT, BIAS
    count = 0
    for dtypes, dtype in unequal(backend):
        h, w, b = (backend.asarray(a, own, device) for a, own in zip(layer, dtypes, strict=True))
        xp = xent_any._registry.backend_of(type(h)).namespace_of(h)
        like = backend.asarray(BIAS, dtype, device).dtype
        wide = [xp.astype(a, like) for a in (h, w, b)]
        expected, gradients = xent_any.linear_cross_entropy_value_and_grad(*wide[:2], labels, bias=wide[2])
        loss, found = xent_any.linear_cross_entropy_value_and_grad(h, w, labels, bias=b)
        alone = xent_any.linear_cross_entropy(h, w, labels, bias=b)
        assert loss.dtype == alone.dtype == like
        for result in (loss, alone):
            np.testing.assert_array_equal(backend.to_numpy(result), backend.to_numpy(expected))
        for gradient, exact, a in zip(found, gradients, (h, w, b), strict=True):
            assert (gradient.dtype, gradient.shape) == (a.dtype, a.shape)
            assert bool(xp.all(gradient == xp.astype(exact, a.dtype)))
        count += 1
    assert count >= 4


@policies
def test_unequal_dtypes_under_autocast(recompute):
    """On PyTorch autocast changes nothing: the core never lets it choose."""
    torch = pytest.importorskip("torch")
    backend, labels = require("torch"), torch.as_tensor(LABELS.reshape(2, 3))
    for dtypes, dtype in unequal(backend):
        layer = [
            torch.as_tensor(a).to(getattr(torch, own)).requires_grad_()
            for a, own in zip((HIDDEN.reshape(2, 3, 4), WEIGHT, BIAS), dtypes, strict=True)
        ]
        wide = [a.detach().to(getattr(torch, dtype)).requires_grad_() for a in layer]
        results = []
        for (h, w, b), is_autocast in ((wide, False), (layer, False), (layer, True)):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
                loss = xent_any.linear_cross_entropy(h, w, labels, bias=b, recompute=recompute)
            results.append((loss, *torch.autograd.grad(loss, (h, w, b))))
        expected = [results[0][0], *(g.to(a.dtype) for g, a in zip(results[0][1:], layer, strict=True))]
        for found in results[1:]:
            torch.testing.assert_close(list(found), expected, rtol=0, atol=0)


@policies
def test_unequal_dtypes_on_jax(recompute):
    """bfloat16 and float32, differentiated, also where JAX is told to promote no dtypes."""
    jax = pytest.importorskip("jax")
    require("jax")
    jnp, labels = jax.numpy, jax.numpy.asarray(LABELS)
    layer = [
        jnp.asarray(a, own) for a, own in zip((HIDDEN, WEIGHT, BIAS), ("bfloat16", "float32", "bfloat16"), strict=True)
    ]

    def loss(h, w, b):
        return xent_any.linear_cross_entropy(h, w, labels, bias=b, recompute=recompute)

    of = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    expected, gradients = of(*(a.astype("float32") for a in layer))
    with jax.numpy_dtype_promotion("strict"):
        found, own = of(*layer)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for gradient, exact, a in zip(own, gradients, layer, strict=True):
        assert gradient.dtype == a.dtype
        unit = float(jnp.finfo(a.dtype).eps)
        np.testing.assert_allclose(gradient.astype("float32"), exact, rtol=unit, atol=1e-6)
