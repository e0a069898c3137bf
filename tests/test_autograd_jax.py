"""The derivatives that JAX takes of xent_any."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import require, some

import xent_any
from xent_any import cross_entropy, cross_entropy_hvp, cross_entropy_value_and_grad

jax = pytest.importorskip("jax")
require("jax")

import jax.numpy as jnp  # noqa: E402
from jax.experimental import checkify  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

N, C = 3, 4
RNG = np.random.default_rng(20240517)
X, V = (jnp.asarray(a) for a in RNG.normal(size=(2, N, C)))
Q, W, S = (jnp.asarray(RNG.uniform(0.1, 0.9, size=shape)) for shape in ((N, C), (C,), (N,)))
GIVEN = {"x": X, "v": V, "q": Q, "w": W, "s": S, "d": jnp.asarray(1.7)}
Y = jnp.asarray([1, -100, 3])
EVERY = {"label_smoothing": 0.2, "z_loss": 0.1, "softcap": 2.0}


@pytest.fixture
def hurried():
    """Programs that run once, compiled in half of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def others(x, q, w):
    """The functions beside cross-entropy."""
    binary = xent_any.binary_cross_entropy_value_and_grad
    return (
        xent_any.logsumexp(x, axis=0, keepdims=True),
        xent_any.log_softmax(x),
        xent_any.softmax(x, axis=0),
        xent_any.nll_loss(x - 9, q, class_weight=w),
        binary(x, q, pos_weight=w, sample_weight=q * q, reduction="none"),
    )


def products(x, v):
    return xent_any.cross_entropy_jvp(x, v, Y), xent_any.cross_entropy_hvp(x, v, Y, z_loss=0.1)


# Each option and each function once.
DIFFERENTIABLE = {
    "index": ("xs", lambda x, s: cross_entropy(x, Y, sample_weight=s, softcap=2.0, reduction="none")),
    "smooth": ("xwd", lambda x, w, d: cross_entropy(x, Y, class_weight=w, denominator=d, label_smoothing=0.2)),
    "every": ("xqws", lambda x, q, w, s: cross_entropy(x, q, class_weight=w, sample_weight=s, **EVERY)),
    "value_and_grad": ("xq", lambda x, q: cross_entropy_value_and_grad(x.T[None], q.T[None], axis=1, reduction="sum")),
    "products": ("xv", products),
    "others": ("xqw", others),
}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("case", some(DIFFERENTIABLE, 2))
def test_against_differences(case):
    """In both modes, with respect to every argument."""
    names, f = DIFFERENTIABLE[case]
    given = tuple(GIVEN[name] for name in names)
    if case not in {"value_and_grad", "products"}:  # which are derivatives themselves

        def directional(*arrays):
            return jax.jvp(f, arrays, given)

        check_grads(jax.jit(directional), given, 1, ["fwd", "rev"])
    else:
        check_grads(jax.jit(f), given, 1, ["fwd", "rev"])


@pytest.mark.usefixtures("hurried")
def test_backward_against_differences():
    names, f = DIFFERENTIABLE["smooth"]

    def backward(*arrays):
        results, pull = jax.vjp(f, *arrays)
        return pull(results)

    check_grads(jax.jit(backward), [GIVEN[name] for name in names], 1, ["fwd", "rev"])


def mean(x):
    """The textbook's loss of X and Y, with JAX's own derivatives."""
    rows = -jax.nn.log_softmax(x)[jnp.arange(N), jnp.where(Y < 0, 0, Y)]
    return jnp.where(Y < 0, 0.0, rows).sum() / (N - 1)


def scanned(f, x):
    return jax.lax.scan(lambda c, a: (c + f(a * c), None), 1.0, jnp.stack([x, V]))[0]


def slope(f):
    return lambda x: (jax.grad(f)(x) * V).sum()


TRANSFORMS = {
    "grad": lambda f: jax.grad(f)(X),
    "jit of value_and_grad": lambda f: jax.jit(jax.value_and_grad(f))(X),
    "vjp of jit": lambda f: jax.vjp(jax.jit(f), X)[1](2.0),
    "linearize": lambda f: jax.linearize(f, X)[1](V),
    "hessian": lambda f: jax.jit(jax.hessian(f))(X),
    "jacrev of jacrev": lambda f: jax.jit(jax.jacrev(jax.jacrev(f)))(X),
    "jacfwd of jacfwd": lambda f: jax.jit(jax.jacfwd(jax.jacfwd(f)))(X),
    "jacrev of jacfwd": lambda f: jax.jit(jax.jacrev(jax.jacfwd(f)))(X),
    "grad of grad of grad": lambda f: jax.jit(jax.grad(slope(slope(f))))(X),
    "checkpoint": lambda f: jax.jit(jax.grad(jax.checkpoint(lambda x: f(x * 2))))(X),
    "scan": lambda f: jax.jit(jax.grad(lambda x: scanned(f, x)))(X),
    "vmap of jvp of grad": lambda f: jax.jit(jax.vmap(lambda x: jax.jvp(jax.grad(f), (x,), (V,))[1]))(X[None]),
    "grad of vmap": lambda f: jax.jit(jax.grad(lambda x: (jax.vmap(f)(x) ** 2).sum()))(jnp.stack([X, V])),
}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_against_the_textbook(name):
    ours, theirs = TRANSFORMS[name](lambda x: cross_entropy(x, Y)), TRANSFORMS[name](mean)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), ours, theirs)


@pytest.mark.usefixtures("hurried")
def test_gradients_of_each_sample():
    y = jnp.asarray([1, 0, 3])
    each = jax.jit(jax.vmap(jax.grad(cross_entropy)))(X, y)
    np.testing.assert_allclose(each, cross_entropy_value_and_grad(X, y, reduction="sum")[1], rtol=1e-13)


CONFIDENT = np.asarray([[17.0, 0, 0, 0], [0, -30, 25, 1], [60, 1, 2, 3], [-2, 70, 0, 1]])
CONFIDENT_LABELS = jnp.asarray([0, 2, 0, 1])
VECTORS = RNG.normal(size=CONFIDENT.shape)


def close(found, expected, dtype):
    eps, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo("float32").tiny)  # XLA flushes what is smaller
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=100 * eps, atol=tiny)


def total(x):
    return cross_entropy(x, CONFIDENT_LABELS, reduction="sum")


def product(x, v):
    return cross_entropy_hvp(x, v, CONFIDENT_LABELS, reduction="sum")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_of_confident_rows(dtype):
    x = jnp.asarray(CONFIDENT, dtype)
    g = jax.jit(jax.grad(total))(x)
    assert g.dtype == x.dtype
    close(g, cross_entropy_value_and_grad(jnp.asarray(x, float), CONFIDENT_LABELS, reduction="sum")[1], dtype)


SECOND = {
    "forward over backward": lambda x, v: jax.jvp(jax.grad(total), (x,), (v,))[1],
    "backward over backward": lambda x, v: jax.vjp(jax.grad(total), x)[1](v)[0],
    "backward over backward, mapped": lambda x, v: jax.vmap(lambda v: jax.vjp(jax.grad(total), x)[1](v)[0])(v[None])[0],
    "backward through the product": lambda x, v: jax.vjp(lambda v: product(x, v), v)[1](v)[0],
    "transposed": lambda x, v: jax.linear_transpose(jax.linearize(jax.grad(total), x)[1], v)(v)[0],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", SECOND)
def test_second_derivatives_of_confident_rows_keep_their_digits(how, dtype):
    """Against ``p_j sum_k p_k (v_j - v_k)``, which cancels nowhere."""
    x, v = jnp.asarray(CONFIDENT, dtype), jnp.asarray(VECTORS, dtype)
    wide = np.asarray(v, float)
    p = np.asarray(jax.nn.softmax(jnp.asarray(CONFIDENT)))
    expected = p * (p[:, None, :] * (wide[:, :, None] - wide[:, None, :])).sum(-1)
    close(jax.jit(SECOND[how])(x, v), expected, dtype)


def test_the_gradient_of_a_row_won_by_far():
    x = jnp.asarray([17, 0, 0, 0], "float32")
    assert float(jax.grad(cross_entropy)(x, jnp.asarray(0))[0]) == pytest.approx(-1.2419810e-07, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_residuals(dtype):
    """What is kept for backward: the logits and little else."""
    x, y = jnp.ones((64, 4096), dtype), jnp.zeros(64, int)
    for options in ({}, EVERY):
        _, pull = jax.vjp(jax.jit(lambda x, options=options: cross_entropy(x, y, **options)), x)
        assert x.nbytes <= sum(a.nbytes for a in jax.tree.leaves(pull)) <= 1.1 * x.nbytes


@pytest.mark.parametrize("cotangent", [np.nan, np.inf, 1.0])
@pytest.mark.parametrize("logit", [np.nan, np.inf, -np.inf])
def test_ignored_rows(logit, cotangent):
    x = X.at[1].set(logit)
    c = jnp.asarray([1.0, cotangent, 2.0])
    for options in ({}, EVERY):
        loss, pull = jax.vjp(lambda x, options=options: cross_entropy(x, Y, reduction="none", **options), x)
        (g,) = pull(c)
        assert loss[1] == 0
        assert not g[1].any()
        assert g[0].all()


@pytest.mark.usefixtures("hurried")
def test_ignored_rows_have_no_second_derivative():
    x = X.at[1].set(np.nan)
    h = jax.jit(jax.hessian(lambda x: cross_entropy(x, Y, **EVERY)))(x)
    assert not h[1].any()
    assert not h[:, :, 1].any()
    assert np.isfinite(h).all()
    assert h[0, :, 0].all()


@pytest.mark.usefixtures("hurried")
def test_gradients_of_labels_and_weights():
    """``dL/dq_j = -log p_j``, also where ``q_j`` is 0; weights likewise."""
    q = jax.nn.one_hot(jnp.asarray([1, 0, 3]), C)
    log_p = jax.nn.log_softmax(X)

    def f(x, q, w, s):
        return cross_entropy(x, q, class_weight=w, sample_weight=s, reduction="sum")

    found = jax.jit(jax.grad(f, (1, 2, 3)))(X, q, W, S)
    expected = (-S[:, None] * W * log_p, -(S[:, None] * q * log_p).sum(0), -(q * W * log_p).sum(1))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.usefixtures("hurried")
def test_checkify():
    checked = checkify.checkify(jax.jit(jax.value_and_grad(lambda x: cross_entropy(x, Y))), errors=checkify.all_checks)
    error, (_, g) = checked(X)
    assert error.get() is None
    np.testing.assert_allclose(g, cross_entropy_value_and_grad(X, Y)[1], rtol=1e-14)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, xent_any
from jax.sharding import AxisType, NamedSharding, PartitionSpec

assert len(jax.devices()) == 2
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.{axis_type},))
x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), "float32")
y = jnp.asarray([0, 1, 2, 3, 4, 5, -100, 0])
f = jax.value_and_grad(lambda x, y: xent_any.cross_entropy(x, y, z_loss=0.1))
loss, g = f(x, y)
for spec in (PartitionSpec("d"), PartitionSpec(None, "d"))[:{specs}]:
    rows = NamedSharding(mesh, PartitionSpec(*spec[:1]))
    shards, labels = jax.device_put(x, NamedSharding(mesh, spec)), jax.device_put(y, rows)
    found, h = jax.jit(f)(shards, labels)
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    np.testing.assert_allclose(h, g, rtol=1e-5, atol=1e-8)
    assert h.sharding.is_equivalent_to(shards.sharding, 2), h.sharding
print("as on one device")
"""


@pytest.mark.parametrize(("axis_type", "specs"), [("Auto", 2), ("Explicit", 1)])
def test_sharded_logits(axis_type, specs):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED.format(axis_type=axis_type, specs=specs)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.stdout.strip() == "as on one device", done.stderr[-3000:]


@pytest.mark.parametrize("classes", [10, 1000])
def test_logits_that_are_computed_again_with_the_difference(classes):
    """A product less the maximum may be rounded once, and is not 0 at the maximum then; a loss of 1e-7 hangs on it."""
    y = jnp.arange(300) % classes
    factor = jax.random.normal(jax.random.key(0), (300, classes), jnp.float32).at[jnp.arange(300), y].set(30)

    def losses(factor):
        return xent_any.cross_entropy(factor * 0.7, y, reduction="none")

    expected = jax.vjp(losses, factor)[0]  # operation by operation
    np.testing.assert_allclose(jax.jit(losses)(factor), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda factor: jax.vjp(losses, factor)[0])(factor), expected, rtol=1e-5)
    value, gradient = jax.jit(jax.value_and_grad(lambda factor: losses(factor).sum()))(factor)
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-5)
    at_label = gradient[jnp.arange(300), y]
    np.testing.assert_allclose(at_label, 0.7 * jnp.expm1(-expected), rtol=1e-5)


@pytest.mark.parametrize("classes", some([5, 70], 2))
def test_classes_that_are_not_last(classes):
    """Compiled, they are computed where they are: as if they were last."""
    x = jax.random.normal(jax.random.key(0), (3, 18, 19, classes), jnp.float32)
    x = x.at[0, :9].set(jnp.round(x[0, :9])).at[1, 0, :, 2].set(200).at[1, 1, :, 1].set(-np.inf)
    x = x.at[1, 2].set(np.nan).at[2, 3, :4, 1].set(np.nan)
    y = (jnp.arange(3 * 18 * 19).reshape(x.shape[:3]) % classes).at[1, 2].set(-100)
    w = jnp.linspace(0.5, 1.5, classes)
    for options in ({}, {"softcap": 3.0, "class_weight": w}):

        def losses(x, axis=-1, y=y, options=options):
            return cross_entropy(x, y, axis=axis, reduction="none", **options)

        def gradient(x, axis=-1, y=y, losses=losses):
            return jax.grad(lambda x: losses(x, axis, y).sum())(x)

        other = jnp.moveaxis(x, -1, 1)
        np.testing.assert_allclose(jax.jit(losses, static_argnums=1)(other, 1), losses(x), rtol=1e-5)
        expected = gradient(x)
        for found in (
            jax.jit(gradient, static_argnums=1)(other, 1),
            jax.jit(jax.vmap(lambda x, y, gradient=gradient: gradient(x, 0, y)))(other, y),
        ):
            np.testing.assert_allclose(found, jnp.moveaxis(expected, -1, 1), rtol=1e-5, atol=1e-12)
