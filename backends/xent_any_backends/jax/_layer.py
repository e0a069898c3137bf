"""A linear layer in JAX: a scan over blocks of rows."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from xent_any import Products

from ._autodiff import promoting, varying


class JAXProducts(Products):
    """Blocks of rows by `jax.lax.scan`, of which nothing is kept."""

    def scan(self, task: Any, step: Any, totals: Any) -> tuple[Any, ...]:
        (count,), size = task.batch, task.block[0]
        is_known = isinstance(count, int)
        if size == count or (is_known and count <= size):
            return tuple(step(totals, task.rows))
        step = jax.checkpoint(step, prevent_cse=False)  # nothing of a block is kept
        rows, blocks = task.rows, count // size
        if not is_known:  # the last block is filled up with rows that do not count
            blocks = -(-count // size)
            rows = tuple(jnp.pad(a, [(0, blocks * size - count), *[(0, 0)] * (a.ndim - 1)]) for a in rows)
        end = blocks * size
        cut = tuple(a[:end].reshape(blocks, size, *a.shape[1:]) for a in rows)
        totals, results = lax.scan(step, totals, cut)
        results = tuple(r.reshape(end, *r.shape[2:]) for r in results)
        if not is_known:
            results = tuple(r[:count] for r in results)
        elif end < count:
            totals, rest = step(totals, tuple(a[end:] for a in rows))
            results = tuple(jnp.concat(parts) for parts in zip(results, rest, strict=True))
        return totals, results


def run_layer(task: Any) -> tuple[Any, ...]:
    """Run a layer's task, whose loss alone may be differentiated."""
    empty, arrays = task.without_arrays(), varying(task.arrays)
    if task.wanted is not None:
        return tuple(_gradients(empty, arrays))
    return ((_loss if task.recompute else _loss_with_gradient)(empty, arrays),)


@functools.partial(jax.jit, static_argnums=0)
@promoting
def _loss(empty: Any, arrays: Any) -> Any:
    """Compute the loss; JAX differentiates it block by block, and keeps its arrays alone."""
    return jax.checkpoint(lambda *arrays: empty.with_arrays(arrays).at_once()[0])(*arrays)


@functools.partial(jax.jit, static_argnums=0)
@promoting
def _gradients(empty: Any, arrays: Any) -> Any:
    return empty.with_arrays(arrays).at_once()


_loss_with_gradient = jax.custom_jvp(_loss, nondiff_argnums=(0,))
"""The same of a sum, whose gradient in the layer is computed with it."""


@functools.partial(_loss_with_gradient.defjvp, symbolic_zeros=True)
@promoting
def _linear_derivative(empty: Any, primals: Any, tangents: Any) -> Any:
    (arrays,), (along,) = primals, tangents
    given = [i for i, t in enumerate(along) if not (t is None or isinstance(t, SymbolicZero))]
    wanted = tuple(i in given for i in empty.LAYER)
    loss, *gradients = _gradients(replace(empty, wanted=wanted, rounded=False), arrays)
    # Exactly 0 in ignored rows, whatever the tangent or, transposed, the cotangent is
    is_counted = arrays[2] != 0
    counted = (is_counted[:, None], is_counted.any(), is_counted.any())
    terms = [
        jnp.vdot(g, jnp.where(condition, along[i].astype(g.dtype), 0.0))
        for i, g, condition in zip(empty.LAYER, gradients, counted, strict=True)
        if g is not None
    ]
    others = [i for i in given if i not in empty.LAYER]
    if others:
        linear = empty.with_arrays(arrays).partial(others)
        terms += jax.jvp(linear, [arrays[i] for i in others], [along[i] for i in others])[1]
    return loss, sum(terms, jnp.zeros_like(loss)).astype(loss.dtype)
