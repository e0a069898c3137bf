"""Ours on JAX, under jit."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import xent_any

from .._problems import Array, Inputs, Values, ours
from . import GRADIENT, LOSS, Contestant

Bound = Callable[[Inputs, Array], Callable[[Array, Array], Any]]


def arrays(inputs: Inputs) -> tuple[list[Array], list[Array], Array]:
    """The inputs as JAX's arrays."""
    platforms = {"cpu": "cpu", "cuda": "gpu"}
    try:
        device = jax.devices(platforms[inputs.problem.device])[0]
    except RuntimeError as error:
        raise NotImplementedError(f"JAX: {error}") from None
    if inputs.problem.dtype == "float64" and not jax.config.read("jax_enable_x64"):  # type: ignore[no-untyped-call]
        raise NotImplementedError("JAX has float64 only where JAX_ENABLE_X64 is set")

    def convert(values: Values) -> Array:
        dtype = values.dtype if values.dtype == np.int64 else inputs.problem.dtype
        return jax.device_put(values, device).astype(jax.dtypes.canonicalize_dtype(dtype))

    return inputs.converted("jax", convert)


def jitted(bind: Bound) -> Callable[[Inputs], Callable[[int], Any]]:
    """Loss, or loss and gradient, compiled."""

    def prepare(inputs: Inputs) -> Callable[[int], Any]:
        (x, y, weight), n = arrays(inputs), len(inputs)
        function = jax.jit(bind(inputs, weight))
        return lambda i: function(x[i % n], y[i % n])

    return prepare


def peers(library: str, name: str, bind: Bound) -> list[Contestant]:
    """A function of JAX's arrays: its loss alone, and with the gradient that `jax.value_and_grad` adds."""

    def both(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
        return jax.value_and_grad(bind(inputs, weight))

    return [
        Contestant(name, library, "jax", LOSS, jitted(bind), wait=jax.block_until_ready),
        Contestant(name, library, "jax", GRADIENT, jitted(both), wait=jax.block_until_ready),
    ]


def _ours(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
    options = ours(inputs.problem, weight)
    return lambda x, y: xent_any.cross_entropy(x, y, **options)


CONTESTANTS = peers("xent-any", "cross_entropy", _ours)
