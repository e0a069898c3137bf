"""Ours on JAX, under jit."""

import jax
import numpy as np

import xent_any

from .._problems import Array, Inputs, Values
from . import LOSS, Bound, Contestant, Prepare, in_turn, our, with_gradient


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


def _jitted(bind: Bound) -> Prepare:
    return in_turn(arrays, lambda inputs, weight: jax.jit(bind(inputs, weight)))


def peers(library: str, name: str, bind: Bound) -> list[Contestant]:
    """A function of JAX's arrays, compiled: its loss alone, and with its gradient."""
    contestant = Contestant(name, library, "jax", LOSS, _jitted(bind), wait=jax.block_until_ready)
    return with_gradient(contestant, bind, _jitted, jax.value_and_grad)


CONTESTANTS = peers("xent-any", "cross_entropy", our(xent_any.cross_entropy))
