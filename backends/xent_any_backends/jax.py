"""JAX: each kernel is compiled, together with the loop over its blocks."""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from xent_any import Backend, Task

SOLVES = jax.__version_info__ >= (0, 7)
"""Whether `lax.custom_linear_solve` can be transposed also where nothing depends on its solution."""


class JAX(Backend):
    name = "jax"
    version = jax.__version__
    block_bytes = 1 << 22
    transforms = {
        "jit": jax.jit,
        "grad": jax.grad,
        "vmap": jax.vmap,
        "jvp": lambda f, x, tangent: jax.jvp(f, (x,), (tangent,))[1],
    }
    deviations = {
        "truth.subnormal": "XLA on the CPU flushes numbers below the smallest normal one to 0",
        "relations.bitwise": "XLA fuses products with sums as shapes suggest, on which a row's last bits may depend",
    }
    if not SOLVES:
        deviations |= dict.fromkeys(
            ("truth.autodiff[float32-confident]", "truth.autodiff[float32-not-the-label]"),
            "before JAX 0.7, reverse over reverse cancels at the maximum of a row that is won by far",
        )

    def namespace(self) -> Any:
        return jnp

    def devices(self) -> Sequence[Any]:
        return jax.devices()

    def dtypes(self, device: Any) -> Sequence[str]:
        return [*super().dtypes(device), "float16", "bfloat16"]

    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        return jax.device_put(np.asarray(values, dtype=dtype), device)

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def device(self, array: Any) -> Any:
        if isinstance(array, jax.core.Tracer) or not array.committed:  # JAX moves it to where it is used
            return None
        return frozenset(array.devices())

    def arange(self, xp: Any, like: Any, stop: int) -> Any:
        return xp.arange(stop)

    def is_readable(self, array: Any) -> bool:
        if not isinstance(array, jax.Array) or isinstance(array, jax.core.Tracer):  # NumPy's, in a transform
            return False
        return all(d.platform == "cpu" for d in array.devices())

    def top(self, xp: Any, x: Any) -> tuple[Any, Any]:
        k = _argmax(lax.stop_gradient(x))
        return k, self.pick(xp, x, k)

    def broken(self, xp: Any, x: Any, m: Any, rows: Any) -> Any:
        broken = super().broken(xp, x, m, rows)
        if rows is None:
            return broken
        # XLA's maximum on the CPU may lose NaN. To look for it is another pass over the logits.
        return lax.cond(jnp.any(rows), lambda: broken | (rows & jnp.any(jnp.isnan(x), axis=-1)), lambda: broken)

    def pick(self, xp: Any, a: Any, k: Any) -> Any:
        return a[k] if a.ndim == 1 else jnp.take_along_axis(a, k[..., None], axis=-1)[..., 0]

    def zeroed(self, xp: Any, a: Any, rows: Any) -> Any:
        # Comparing classes is a vector operation even if they are few, repeating a condition is not.
        count = a.shape[-1]
        return jnp.where(jnp.arange(count) < jnp.where(rows, 0, count)[..., None], a, 0)

    def others(self, xp: Any, x: Any, k: Any, m: Any, *, keep: bool = True) -> tuple[Any, Any]:
        e = self.put(xp, self.exp(xp, x, m), k, 0.0)
        count = x.shape[-1]
        if count <= FEW:
            return e, _added_up([jnp.where(k == i, 0.0, jnp.exp(x[..., i] - m)) for i in range(count)])
        width = _width(count, SUMMED)
        classes, there = _window(k // width, width, count)
        near = jnp.where(
            (classes == k[..., None]) | ~there, 0.0, self.exp(xp, jnp.take_along_axis(x, classes, axis=-1), m)
        )
        sums = _windows(self.exp(xp, x, m), 0, lax.add, width)
        return e, jnp.sum(self.put(xp, sums, k // width, _windows(near, 0, lax.add, width)[..., 0]), axis=-1)

    def sum(self, xp: Any, a: Any) -> Any:
        return jnp.sum(a, axis=-1)

    def either(self, xp: Any, like: Any, usual: Any, always: Any) -> tuple[Any, ...]:
        if self.is_readable(like):
            return super().either(xp, like, usual, always)
        (*results, _), condition = usual()
        return *lax.cond(jnp.any(condition), lambda: always()[:-1], lambda: tuple(results)), None

    def run(self, task: Task) -> tuple[Any, ...]:
        arrays = [a for a in task.arrays if a is not None]
        if any(isinstance(a, jax.core.Tracer) for a in arrays):  # who compiles, maps or differentiates
            if task.is_symmetric and SOLVES:
                return (_symmetric(task),)
            if not task.has_derivative:
                return task.at_once()
            return tuple(_with_derivative(task.emptied(), task.arrays))
        if any(isinstance(a, jax.Array) and len(a.devices()) > 1 for a in arrays):
            return task.at_once()  # shards stay where they are
        count = math.prod(task.lead)
        if task.rows[0].dtype != task.options.dtype:  # half precision is never held whole in float32
            count = max(1, min(count, self.block_bytes // task.row_bytes()))
        return tuple(_compiled(task.kernel, task.options, task.rows, task.shared, task.lead, task.dtypes(), count))

    def linear(self, task: Any) -> Any:
        return (_linear if task.recompute else _linear_with_gradient)(task.emptied(), task.arrays)

    def linear_and_gradients(self, task: Any) -> tuple[Any, ...]:
        return tuple(_linear_and_gradients(task.emptied(), task.arrays, (True,) * len(LAYER)))

    def scan(self, task: Any, step: Any, totals: Any) -> tuple[Any, ...]:
        (count,), size = task.lead, task.block
        if count <= size:
            return tuple(step(totals, task.rows))
        step = jax.checkpoint(step, prevent_cse=False)  # nothing of a block is kept
        end = count - count % size
        blocks = tuple(a[:end].reshape(-1, size, *a.shape[1:]) for a in task.rows)
        totals, results = lax.scan(step, totals, blocks)
        results = tuple(r.reshape(end, *r.shape[2:]) for r in results)
        if end < count:
            totals, rest = step(totals, tuple(a[end:] for a in task.rows))
            results = tuple(jnp.concat(parts) for parts in zip(results, rest, strict=True))
        return totals, results


# On the CPU, XLA fuses a reduction with what it reduces, at full speed, if that is arithmetic and not a selection, and
# if rows are neither short nor long; but always, where it is over windows of neighbours, or written out.

FEW = 32
"""So many classes are added up without a reduction."""

SUMMED = 16
"""So many neighbours are added up one after the other."""


def _added_up(terms: list[Any]) -> Any:
    while len(terms) > 1:
        terms = [*map(operator.add, terms[::2], terms[1::2]), *terms[len(terms) // 2 * 2 :]]
    return terms[0]


def _windows(x: Any, start: float, reduce: Any, width: int) -> Any:
    """Reductions of each `width` neighbours on the last axis, the last of perhaps fewer."""
    ones = (1,) * (x.ndim - 1)
    padding = ((0, 0),) * (x.ndim - 1) + ((0, -x.shape[-1] % width),)
    return lax.reduce_window(x, np.asarray(start, x.dtype), reduce, (*ones, width), (*ones, width), padding)


def _width(count: int, near: int) -> int:
    """A width of windows, perhaps one that divides `count`."""
    return next((w for w in range(near * 3 // 4, near * 5 // 4 + 1) if count % w == 0), near)


def _window(i: Any, width: int, count: int) -> tuple[Any, Any]:
    """The places in the window i (*lead), and which of them there are; the last one stands for others."""
    places = (i * width)[..., None] + jnp.arange(width)
    return jnp.minimum(places, count - 1), places < count


def _argmax(x: Any) -> Any:
    """The first place of the maximum on the last axis, found among the maxima of windows, then in one window."""
    count = x.shape[-1]
    if count <= FEW // 2:
        return jnp.argmax(x, axis=-1)
    width = _width(count, min(FEW, math.isqrt(count) + 1))
    places, _ = _window(_argmax(_windows(x, -np.inf, lax.max, width)), width, count)
    return BACKEND.pick(jnp, places, _argmax(jnp.take_along_axis(x, places, axis=-1)))


def _symmetric(task: Task) -> Any:
    """The product ``H v`` whose transpose is the kernel itself, as the solution of a symmetric system of equations::

        (-H  I) (p)   (0)
        ( I  0) (q) = (v)

    That is ``p = v``, ``q = H v``, which JAX knows how to transpose, to map, and to differentiate also with respect to
    what H depends on. Its `linear_call` says the same in fewer words, but can be neither mapped nor differentiated.
    """
    last = len(task.rows) - 1
    multiply, v = task.partial([last]), task.rows[last].astype(*task.dtypes())

    def matrix(pq: Any) -> Any:
        return jnp.stack([pq[1] - multiply(pq[0])[0], pq[0]])

    def inverse(_: Any, right: Any) -> Any:
        return jnp.stack([right[1], right[0] + multiply(right[1])[0]])

    # Stacked, which XLA undoes, as JAX transposes this only where all of the right side is linear in what it looks for.
    return lax.custom_linear_solve(matrix, jnp.stack([jnp.zeros_like(v), v]), inverse, symmetric=True)[1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)
def _with_derivative(empty: Task, arrays: Any) -> Any:
    """A task's results, with the analytic derivative in the first array and JAX's own in the others."""
    return empty.filled(arrays).at_once()


@functools.partial(_with_derivative.defjvp, symbolic_zeros=True)
def _derivative(empty: Task, primals: Any, tangents: Any) -> Any:
    (arrays,), (along,) = primals, tangents
    terms = []
    if isinstance(along[0], SymbolicZero):
        results = _with_derivative(empty, arrays)
    else:
        results, term = _along_first(empty, arrays, along[0])
        terms.append(term)
    others = [i for i, t in enumerate(along) if i and not (t is None or isinstance(t, SymbolicZero))]
    if others:
        linear = empty.filled(arrays).partial(others)
        terms.append(jax.jvp(linear, [arrays[i] for i in others], [along[i] for i in others])[1])
    return results, tuple(map(sum, zip(*terms, strict=True)))


@functools.partial(jax.jit, static_argnums=0)
# Or the gradient, perhaps in twice the bits, would be kept. Compiled with the loss, both are computed at once.
@functools.partial(jax.checkpoint, static_argnums=0, prevent_cse=False)
def _along_first(empty: Task, arrays: Any, tangent: Any) -> Any:
    return empty.filled(arrays).jvp(tangent)


LAYER = (0, 4, 5)
"""Where in a linear task's arrays the layer's inputs, weight and bias are."""


@functools.partial(jax.jit, static_argnums=0)
def _linear(empty: Any, arrays: Any) -> Any:
    """What a linear task asks for; JAX differentiates it block by block."""
    return empty.filled(arrays).at_once()[0]


@functools.partial(jax.jit, static_argnums=(0, 2))
def _linear_and_gradients(empty: Any, arrays: Any, wanted: Any) -> Any:
    return empty.filled(arrays).losses_and_gradients(*wanted)


_linear_with_gradient = jax.custom_jvp(_linear, nondiff_argnums=(0,))
"""The same of a sum, whose gradient in the layer is computed with it."""


@functools.partial(_linear_with_gradient.defjvp, symbolic_zeros=True)
def _linear_derivative(empty: Any, primals: Any, tangents: Any) -> Any:
    (arrays,), (along,) = primals, tangents
    given = [i for i, t in enumerate(along) if not (t is None or isinstance(t, SymbolicZero))]
    losses, *gradients = _linear_and_gradients(empty, arrays, tuple(i in given for i in LAYER))
    terms = [jnp.vdot(g, along[i]) for i, g in zip(LAYER, gradients, strict=True) if g is not None]
    others = [i for i in given if i not in LAYER]
    if others:
        linear = empty.filled(arrays).partial(others)
        terms += jax.jvp(linear, [arrays[i] for i in others], [along[i] for i in others])[1]
    return jnp.sum(losses), sum(terms, jnp.zeros_like(losses, shape=())).astype(losses.dtype)


@functools.partial(jax.jit, static_argnames=("kernel", "options", "lead", "dtypes", "count"))
def _compiled(kernel: Any, options: Any, rows: Any, shared: Any, lead: Any, dtypes: Any, count: int) -> Any:
    """Run the kernel on `count` rows at a time; the last block starts early enough to be whole."""
    total = math.prod(lead)
    if count >= total:
        return kernel(jnp, options, rows, shared)
    flat = [None if a is None else a.reshape(total, *a.shape[len(lead) :]) for a in rows]

    def block(start: Any) -> Any:
        cut = [None if a is None else lax.dynamic_slice_in_dim(_packed(a), start, count).view(a.dtype) for a in flat]
        return [_packed(part) for part in kernel(jnp, options, cut, shared)]

    def step(i: Any, results: Any) -> Any:
        start = jnp.minimum(i * count, total - count)
        return [
            lax.dynamic_update_slice_in_dim(result, part, start, 0)
            for result, part in zip(results, block(start), strict=True)
        ]

    empty = [jnp.empty((total, *part.shape[1:]), part.dtype) for part in jax.eval_shape(block, 0)]
    results = lax.fori_loop(0, -(-total // count), step, empty)
    return [r.view(np.dtype(dtype)).reshape(*lead, *r.shape[1:]) for r, dtype in zip(results, dtypes, strict=True)]


def _packed(array: Any) -> Any:
    """The bits of bfloat16, which XLA on the CPU would otherwise hold in float32 for the whole loop."""
    return array.view(jnp.uint16) if array.dtype == jnp.bfloat16 else array


BACKEND = JAX()
