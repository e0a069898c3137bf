"""Optax under jit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from .._problems import AXIS, IGNORE_INDEX, SMOOTHING, Array, Inputs
from ._jax import peers


def _optax(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Array]:
    option, classes = inputs.problem.option, inputs.problem.shape[AXIS]

    def index(x: Array, y: Array) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(x, y, axis=AXIS)

    def ignored(x: Array, y: Array) -> Array:
        counted = y != IGNORE_INDEX
        return jnp.sum(jnp.where(counted, index(x, jnp.where(counted, y, 0)), 0)) / jnp.sum(counted)

    def smoothing(x: Array, y: Array) -> Array:
        q = optax.smooth_labels(jax.nn.one_hot(y, classes, dtype=x.dtype), SMOOTHING)  # which needs the classes last
        return optax.softmax_cross_entropy(x, jnp.moveaxis(q, -1, AXIS), axis=AXIS).mean()

    return {
        "index": lambda x, y: index(x, y).mean(),
        "probability": lambda x, y: optax.softmax_cross_entropy(x, y, axis=AXIS).mean(),
        "smoothing": smoothing,
        "weights": lambda x, y: jnp.sum(weight[y] * index(x, y)) / jnp.sum(weight[y]),
        "ignored": ignored,
    }[option]


CONTESTANTS = peers("optax", "softmax_cross_entropy", _optax)
