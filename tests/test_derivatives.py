"""The derivatives agree with differences at 50 digits, with autodiff, and with each other."""

import mparray
import mpmath
import numpy as np
import pytest
from conftest import library

import xent_any

OPTIONS = {
    "none": {},
    "class weights": {"class_weight": [0.5, 2.0, 0.0, 1.0, 3.0]},
    "sample weights": {"sample_weight": [1.0, 0.0, 2.5, 0.25]},
    "smoothing": {"label_smoothing": 0.2, "class_weight": [0.5, 2.0, 0.0, 1.0, 3.0]},
    "z-loss": {"z_loss": 0.3},
    "softcap": {"softcap": 3.0},
    "all": {
        "class_weight": [0.5, 2.0, 0.0, 1.0, 3.0],
        "sample_weight": [1.0, 0.0, 2.5, 0.25],
        "label_smoothing": 0.2,
        "z_loss": 0.3,
        "softcap": 3.0,
    },
}
REDUCTIONS = [{"reduction": "mean"}, {"reduction": "sum"}, {"reduction": "none"}, {"denominator": 7.0}]


def convert(make, options):
    return {key: make(np.asarray(value)) if isinstance(value, list) else value for key, value in options.items()}


@pytest.fixture(params=OPTIONS)
def options(request):
    return OPTIONS[request.param]


@pytest.fixture(params=["index", "probabilities"])
def problem(request, rng):
    """Logits, direction and labels; one row has two maxima, one row's label is ignored."""
    x, v = rng.normal(size=(2, 4, 5)) * 3
    x[3, 1:3] = x[3].max() + 1
    if request.param == "index":
        return x, v, np.asarray([1, 4, -100, 2])
    return x, v, rng.dirichlet(np.ones(5), size=4)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_differences_at_fifty_digits(problem, options, reduction):
    """Differences of fourth order with step 1e-10: their error is about 1e-40."""
    x, v, y = problem
    with mpmath.workdps(50):
        x, v, y = (mparray.asarray(a) for a in (x, v, y))
        options = convert(mparray.asarray, options) | reduction
        h = mpmath.mpf(10) ** -10
        small = mpmath.mpf(10) ** -35

        def difference(f):
            return (8 * (f(x + h * v) - f(x - h * v)) - (f(x + 2 * h * v) - f(x - 2 * h * v))) / (12 * h)

        def loss(a):
            return mparray.sum(xent_any.cross_entropy(a, y, **options))

        def grad(a):
            return xent_any.cross_entropy_value_and_grad(a, y, **options)[1]

        slope = mparray.sum(xent_any.cross_entropy_jvp(x, v, y, **options)[1])
        assert bool(abs(mparray.sum(grad(x) * v) - difference(loss)) < small)
        assert bool(abs(slope - difference(loss)) < small)
        h_v = xent_any.cross_entropy_hvp(x, v, y, **options)
        assert bool(mparray.max(abs(h_v - difference(grad))) < small)


@pytest.mark.parametrize("reduction", REDUCTIONS[:3], ids=str)
def test_torch_autodiff(problem, options, reduction):
    lib = library("torch")
    torch = pytest.importorskip("torch")
    x, v, y = (lib(a) for a in problem)
    options = convert(lib, options) | reduction

    def f(a):
        return xent_any.cross_entropy(a, y, **options).sum()

    _, grad = xent_any.cross_entropy_value_and_grad(x, y, **options)
    torch.testing.assert_close(torch.func.grad(f)(x), grad, rtol=1e-13, atol=1e-15)
    _, slope = xent_any.cross_entropy_jvp(x, v, y, **options)
    torch.testing.assert_close(torch.func.jvp(f, (x,), (v,))[1], slope.sum(), rtol=1e-12, atol=1e-14)
    h_v = torch.func.jvp(torch.func.grad(f), (x,), (v,))[1]
    torch.testing.assert_close(h_v, xent_any.cross_entropy_hvp(x, v, y, **options), rtol=1e-11, atol=1e-13)
    leaf = x.clone().requires_grad_()
    f(leaf).backward()
    torch.testing.assert_close(leaf.grad, grad, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("reduction", REDUCTIONS[:3], ids=str)
def test_jax_autodiff(problem, options, reduction):
    lib = library("jax")
    jax = pytest.importorskip("jax")
    x, v, y = (lib(a) for a in problem)
    options = convert(lib, options) | reduction

    def f(a):
        return xent_any.cross_entropy(a, y, **options).sum()

    _, grad = xent_any.cross_entropy_value_and_grad(x, y, **options)
    np.testing.assert_allclose(jax.grad(f)(x), grad, rtol=1e-13, atol=1e-15)
    _, slope = xent_any.cross_entropy_jvp(x, v, y, **options)
    np.testing.assert_allclose(jax.jit(lambda a: jax.jvp(f, (a,), (v,))[1])(x), slope.sum(), rtol=1e-12, atol=1e-14)
    h_v = jax.jit(lambda a: jax.jvp(jax.grad(f), (a,), (v,))[1])(x)
    np.testing.assert_allclose(h_v, xent_any.cross_entropy_hvp(x, v, y, **options), rtol=1e-11, atol=1e-13)


def test_gradients_reach_probabilities_and_weights(rng):
    """dL/dq_j = -log p_j, also where q_j is 0; through the generic code."""
    torch = pytest.importorskip("torch")
    lib = library("torch")
    x = lib(rng.normal(size=(3, 4)))
    q = lib([[0.0, 1, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]])
    grad = torch.func.grad(lambda q: xent_any.cross_entropy(x, q, reduction="sum"))(q)
    torch.testing.assert_close(grad, -xent_any.log_softmax(x))
    s = lib([1.0, 2, 3])
    grad = torch.func.grad(lambda s: xent_any.cross_entropy(x, q, sample_weight=s, reduction="sum"))(s)
    torch.testing.assert_close(grad, xent_any.cross_entropy(x, q, reduction="none"))


def test_gradient_jvp_and_hvp_agree(lib, problem, options):
    x, v, y = (lib(a) for a in problem)
    options = convert(lib, options)
    loss, grad = xent_any.cross_entropy_value_and_grad(x, y, **options)
    loss2, slope = xent_any.cross_entropy_jvp(x, v, y, **options)
    assert float(loss) == float(loss2)
    assert float(slope) == pytest.approx(float(lib.xp.sum(grad * v)), rel=1e-12)
    # The Hessian is symmetric: <u, H v> = <v, H u>
    u = lib(np.cos(np.arange(20.0)).reshape(4, 5))
    left = float(lib.xp.sum(u * xent_any.cross_entropy_hvp(x, v, y, **options)))
    right = float(lib.xp.sum(v * xent_any.cross_entropy_hvp(x, u, y, **options)))
    assert left == pytest.approx(right, rel=1e-11)


@pytest.mark.parametrize("pi", [None, 2.5])
def test_binary(lib, pi, rng):
    z, y = lib(rng.normal(size=20) * 3), lib(rng.random(20))
    loss, grad = xent_any.binary_cross_entropy_value_and_grad(z, y, pos_weight=pi)
    h = 1e-4

    def f(t):
        moved = [xent_any.binary_cross_entropy(z + lib(t * np.eye(20)[i]), y, pos_weight=pi) for i in range(20)]
        return np.asarray([float(m) for m in moved])

    # Fourth order: an error of h**4 and of u / h
    np.testing.assert_allclose(lib.numpy(grad), (8 * (f(h) - f(-h)) - f(2 * h) + f(-2 * h)) / (12 * h), atol=1e-11)
    assert float(loss) == float(xent_any.binary_cross_entropy(z, y, pos_weight=pi))


@pytest.mark.parametrize("gap", [30.0, 45.0, 70.0, 90.0, 100.0, 400.0, 720.0, 800.0])
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_autodiff_of_confident_rows_is_finite(gap, label, dtype):
    x = np.asarray([gap, 0, 1], dtype)
    expected = xent_any.cross_entropy_value_and_grad(x, np.asarray(label))[1]
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")

    def on_torch(a):
        return xent_any.cross_entropy(a, torch.tensor(label))

    def on_jax(a):
        return xent_any.cross_entropy(a, jax.numpy.asarray(label))

    tiny = np.finfo(dtype).eps  # autodiff cancels where the formulas do not
    np.testing.assert_allclose(torch.func.grad(on_torch)(torch.tensor(x)), expected, atol=tiny)
    np.testing.assert_allclose(jax.grad(on_jax)(jax.numpy.asarray(x)), expected, atol=tiny)
    assert torch.isfinite(torch.func.hessian(on_torch)(torch.tensor(x))).all()
    assert np.isfinite(jax.hessian(on_jax)(jax.numpy.asarray(x))).all()


@pytest.mark.parametrize("z", [-2.0, 0.0, 1.0])
@pytest.mark.parametrize("y", [0.0, 0.3, 1.0])
def test_autodiff_of_binary(z, y):
    """Also at 0, where |z| has no derivative."""
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    p = 1 / (1 + np.exp(-z))

    def on_torch(a):
        return xent_any.binary_cross_entropy(a, torch.tensor(y, dtype=a.dtype))

    def on_jax(a):
        return xent_any.binary_cross_entropy(a, jax.numpy.asarray(y))

    t = torch.tensor(z, dtype=torch.float64)
    assert float(torch.func.grad(on_torch)(t)) == pytest.approx(p - y, abs=1e-15)
    assert float(torch.func.hessian(on_torch)(t)) == pytest.approx(p * (1 - p), rel=1e-14)
    assert float(jax.grad(on_jax)(z)) == pytest.approx(p - y, abs=1e-15)
    assert float(jax.hessian(on_jax)(z)) == pytest.approx(p * (1 - p), rel=1e-14)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradients_reach_weights_of_zero(rng, reduction):
    torch = pytest.importorskip("torch")
    lib = library("torch")
    x, y = lib(rng.normal(size=(3, 4))), lib(np.asarray([0, 2, 1]))
    s = lib([0.0, 1.0, 2.0])

    def f(s):
        return xent_any.cross_entropy(x, y, sample_weight=s, reduction=reduction)

    each = xent_any.cross_entropy(x, y, reduction="none")
    expected = each if reduction == "sum" else (each - f(s)) / 3
    torch.testing.assert_close(torch.func.grad(f)(s), expected)
    q = lib(rng.random((3, 4)))

    def binary(s):
        return xent_any.binary_cross_entropy(x, q, sample_weight=s, reduction="sum")

    weights = lib(np.eye(3, 4))
    torch.testing.assert_close(torch.func.grad(binary)(weights), xent_any.binary_cross_entropy(x, q, reduction="none"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_forward_over_reverse_of_one_row(dtype):
    torch = pytest.importorskip("torch")
    x, v, y = (torch.tensor(a) for a in (np.asarray([1, 3, 2], dtype), np.asarray([1, 0, 2], dtype), np.asarray(0)))
    product = torch.func.jvp(torch.func.grad(lambda a: xent_any.cross_entropy(a, y)), (x,), (v,))[1]
    torch.testing.assert_close(product, xent_any.cross_entropy_hvp(x, v, y))


def test_hvp_of_a_far_row_survives_a_large_weight():
    """exp(-95) and less is subnormal in float32; 1e30 times it is not."""
    y, w = np.asarray([0]), np.asarray([1e30], np.float32)
    for gap in (61.0, 87.5, 95.0, 100.0):
        x, v = np.asarray([[gap, 0]], np.float32), np.asarray([[0, 1]], np.float32)
        product = xent_any.cross_entropy_hvp(x, v, y, sample_weight=w, reduction="sum")
        true = float(w[0]) * np.exp(-gap)
        np.testing.assert_allclose(product, [[-true, true]], rtol=2 * (8 + gap) * 2**-24)
