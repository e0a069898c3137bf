"""Where the analytic derivatives are attached to JAX's autodiff."""

import functools
from typing import Any

import jax
from jax import lax
from jax.custom_derivatives import SymbolicZero

from xent_any import Task


def promoting(function: Any) -> Any:
    """The same function, in which JAX promotes ranks and dtypes even where its user has told it not to."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*args, **options)

    return run


def varying(arrays: Any) -> Any:
    """The arrays of a device of a mesh, varying along each of its axes that one of them does: `lax.cond` wants that."""
    kinds = [None if a is None else _manual_axes(a) for a in arrays]
    axes = frozenset().union(*filter(None, kinds))
    if all(kind is None or kind == axes for kind in kinds):
        return arrays
    return tuple(
        a if kind is None or kind == axes else _varied(a, axes - kind) for a, kind in zip(arrays, kinds, strict=True)
    )


def _manual_axes(array: Any) -> frozenset[str]:
    """The axes of a mesh that `array` varies along inside of `jax.shard_map`."""
    kind = jax.typeof(array) if hasattr(jax, "typeof") else None
    kind = getattr(kind, "manual_axis_type", kind)  # where JAX 0.10 has what earlier ones have beside the shape
    found: frozenset[str] = getattr(kind, "varying", getattr(kind, "vma", frozenset()))
    return found


def _varied(array: Any, axes: frozenset[str]) -> Any:
    """A replicated array as one that varies along `axes`, whose transpose is the sum over them."""
    if hasattr(lax, "pcast"):
        return lax.pcast(array, tuple(axes), to="varying")
    return lax.pvary(array, tuple(axes))  # type: ignore[attr-defined]  # of earlier JAX


at_once = promoting(Task.at_once)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)
@promoting
def with_derivative(empty: Task, arrays: Any) -> Any:
    """A task's results, with the analytic derivative in the first array and JAX's own in the others."""
    return empty.with_arrays(arrays).at_once()


@functools.partial(with_derivative.defjvp, symbolic_zeros=True)
@promoting
def _derivative(empty: Task, primals: Any, tangents: Any) -> Any:
    (arrays,), (along,) = primals, tangents
    terms = []
    if isinstance(along[0], SymbolicZero):
        results = with_derivative(empty, arrays)
    else:
        results, term = _along_first(empty, arrays, along[0])
        terms.append(term)
    others = [i for i, t in enumerate(along) if i and not (t is None or isinstance(t, SymbolicZero))]
    if others:
        linear = empty.with_arrays(arrays).partial(others)
        terms.append(jax.jvp(linear, [arrays[i] for i in others], [along[i] for i in others])[1])
    return results, tuple(map(sum, zip(*terms, strict=True)))


@functools.partial(jax.jit, static_argnums=0)
# Or the gradient, perhaps in twice the bits, would be kept. Compiled with the loss, both are computed at once.
@functools.partial(jax.checkpoint, static_argnums=0, prevent_cse=False)
@promoting
def _along_first(empty: Task, arrays: Any, tangent: Any) -> Any:
    return empty.with_arrays(arrays).jvp(tangent)
