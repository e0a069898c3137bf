"""JAX: with and without 64-bit types, with every function under jit, without tuned kernels, on a GPU."""

import functools
from collections.abc import Hashable
from typing import Any

import jax

import xent_any
from xent_any_backends.jax import BACKEND

from . import Subject, UnusableError


class Jitted:
    """The functions of `xent_any`, each compiled: arrays are arguments, everything else is static."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(xent_any, name)

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            arrays = {key: value for key, value in options.items() if isinstance(value, jax.Array)}
            static = {key: value for key, value in options.items() if key not in arrays}
            if not all(isinstance(a, jax.Array) for a in arguments) or not all(map(_is_hashable, static.values())):
                return function(*arguments, **options)  # an error, which tracing would turn into another
            # The type with each value, or True would be 1.
            return _jitted(function, tuple((key, type(a), a) for key, a in static.items()))(*arguments, **arrays)

        return call


def _is_hashable(value: Any) -> bool:
    return isinstance(value, Hashable)


@functools.cache
def _jitted(function: Any, static: tuple[tuple[str, type, Any], ...]) -> Any:
    return jax.jit(functools.partial(function, **{key: value for key, _, value in static}))


def load(name: str) -> Subject:
    variant = name.partition("-")[2]
    jax.config.update("jax_enable_x64", variant != "x32")  # type: ignore[no-untyped-call]
    if variant == "cuda":
        try:
            device = jax.devices("gpu")[0]
        except RuntimeError as error:
            raise UnusableError(f"JAX {jax.__version__} finds no GPU here: {error}") from error
        return Subject(name, BACKEND, device, deviations={})  # those of the record are XLA's on the CPU
    if variant == "reference":
        BACKEND.kernels = {}
    cpu = jax.devices("cpu")[0]
    if variant == "jit":
        return Subject(name, BACKEND, cpu, functions=Jitted(), compiled=True)
    return Subject(name, BACKEND, cpu)
