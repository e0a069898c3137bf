"""Training steps as people write them on JAX, each beside the same steps with optax's own loss."""

import importlib
from functools import cache

import numpy as np
import pytest
from conftest import require

import xent_any

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax", reason="optax: not installed")
require("jax")

import jax.numpy as jnp  # noqa: E402

N, D, C, STEPS = 8, 6, 5, 4
IGNORED = -100
RNG = np.random.default_rng(20261130)
INPUTS, LABELS = RNG.normal(size=(STEPS, N, D)), RNG.integers(0, C, (STEPS, N))
LABELS[:, 1] = IGNORED
LAYERS = [RNG.normal(size=shape) / 2 for shape in ((D, D), (D,), (C, D), (C,))]
ORDERS = [RNG.permutation(N) for _ in range(8)]


@pytest.fixture(autouse=True)
def hurried():
    """Programs that run a few times, compiled in half of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def head(parameters, hidden):
    return hidden @ parameters["weight"].T + parameters["bias"]


def theirs(hidden, parameters, labels):
    """optax's loss, which knows no label that is ignored: rows are weighed by hand."""
    counted = labels != IGNORED
    losses = optax.softmax_cross_entropy_with_integer_labels(head(parameters, hidden), jnp.where(counted, labels, 0))
    return jnp.where(counted, losses, 0.0).sum() / counted.sum()


def of_logits(hidden, parameters, labels):
    return xent_any.cross_entropy(head(parameters, hidden), labels)


def of_layer(hidden, parameters, labels):
    return xent_any.linear_cross_entropy(hidden, parameters["weight"], labels, bias=parameters["bias"])


def plain(arrays, loss):
    """A pytree of parameters, and a function of it, of inputs and of labels."""
    w, b, weight, bias = arrays

    def of(parameters, x, y):
        return loss(jnp.tanh(x @ parameters["w"].T + parameters["b"]), parameters["head"], y)

    return {"w": w, "b": b, "head": {"weight": weight, "bias": bias}}, of


def with_flax(arrays, loss):
    """A module of `flax.linen`, and its parameters."""
    linen = importlib.import_module("flax.linen")
    w, b, weight, bias = arrays

    class Body(linen.Module):
        @linen.compact
        def __call__(self, x):
            return jnp.tanh(linen.Dense(D, param_dtype=w.dtype)(x))

    body = Body()
    parameters = {"Dense_0": {"kernel": w.T, "bias": b}}
    assert jax.tree.structure(parameters) == jax.tree.structure(
        body.init(jax.random.key(0), jnp.zeros((1, D)))["params"]
    )

    def of(parameters, x, y):
        return loss(body.apply({"params": parameters["body"]}, x), parameters["head"], y)

    return {"body": parameters, "head": {"weight": weight, "bias": bias}}, of


def with_flax_nnx(arrays, loss):
    """A module of `flax.nnx`, split into its graph and its parameters."""
    nnx = importlib.import_module("flax.nnx")
    w, b, weight, bias = arrays
    layer = nnx.Linear(D, D, param_dtype=w.dtype, rngs=nnx.Rngs(0))
    layer.kernel[...], layer.bias[...] = w.T, b
    graph, state = nnx.split(layer)

    def of(parameters, x, y):
        return loss(jnp.tanh(nnx.merge(graph, parameters["body"])(x)), parameters["head"], y)

    return {"body": state, "head": {"weight": weight, "bias": bias}}, of


def with_equinox(arrays, loss):
    """A module of `equinox` that maps one row, of which `jax.vmap` makes many."""
    equinox = importlib.import_module("equinox")
    w, b, weight, bias = arrays
    layer = equinox.nn.Linear(D, D, key=jax.random.key(0))
    layer = equinox.tree_at(lambda layer: (layer.weight, layer.bias), layer, (w, b))
    trained, static = equinox.partition(layer, equinox.is_array)

    def of(parameters, x, y):
        hidden = jax.vmap(equinox.combine(parameters["body"], static))(x)
        return loss(jnp.tanh(hidden), parameters["head"], y)

    return {"body": trained, "head": {"weight": weight, "bias": bias}}, of


def same(of):
    return of


@cache
def prepared(model, loss, wrap):
    """An optimizer and a compiled step."""
    optimizer, of = optax.sgd(0.5, momentum=0.9), wrap(model([jnp.asarray(a) for a in LAYERS], loss)[1])

    @jax.jit
    def step(parameters, state, x, y):
        value, gradients = jax.value_and_grad(of)(parameters, x, y)
        updates, state = optimizer.update(gradients, state, parameters)
        return value, optax.apply_updates(parameters, updates), state

    return optimizer, step


def trained(model, loss, dtype, order=slice(None), wrap=same):
    """The losses, and the parameters after the steps, as numbers."""
    optimizer, step = prepared(model, loss, wrap)
    parameters = model([jnp.asarray(a, dtype) for a in LAYERS], loss)[0]
    state = optimizer.init(parameters)
    losses = []
    for x, y in zip(INPUTS, LABELS, strict=True):
        value, parameters, state = step(parameters, state, jnp.asarray(x[order], dtype), jnp.asarray(y[order]))
        losses.append(value)
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in (*losses, *jax.tree.leaves(parameters))])


MODELS = {"optax": plain, "flax": with_flax, "flax.nnx": with_flax_nnx, "equinox": with_equinox}


@pytest.mark.parametrize("loss", [of_logits, of_layer])
@pytest.mark.parametrize("name", MODELS)
def test_step(name, loss):
    """The mean of the rows that count: in float64 the same, in float32 as near to that as with optax's loss.

    The order of the rows makes no difference but for rounding; errors are root mean squares over orders and numbers.
    """
    library = name.partition(".")[0]
    pytest.importorskip(library, reason=f"{library}: not installed")
    model = MODELS[name]
    with jax.enable_x64(True):
        exact = trained(model, theirs, "float64")
        np.testing.assert_allclose(trained(model, loss, "float64"), exact, rtol=1e-10, atol=1e-11)

        def error(loss):
            return np.sqrt(np.mean([(trained(model, loss, "float32", order) - exact) ** 2 for order in ORDERS]))

        assert 0 < error(theirs) < 1e-4
        assert error(loss) <= 2 * error(theirs)


@pytest.mark.parametrize("loss", [of_logits, of_layer])
def test_rematerialized(loss):
    """`jax.checkpoint` around model and loss changes nothing but rounding."""
    with jax.enable_x64(True):
        expected = trained(plain, loss, "float64")
        found = trained(plain, loss, "float64", wrap=jax.checkpoint)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)
