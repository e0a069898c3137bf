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
from xent_any._rows import LIFT, are_near

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
        return _only_if(jnp.any(rows), lambda: broken | (rows & jnp.any(jnp.isnan(x), axis=-1)), broken, x.size)

    def pick(self, xp: Any, a: Any, k: Any) -> Any:
        return a[k] if a.ndim == 1 else jnp.take_along_axis(a, k[..., None], axis=-1)[..., 0]

    def zeroed(self, xp: Any, a: Any, rows: Any) -> Any:
        count = a.shape[-1]
        if count > FEW:
            return super().zeroed(xp, a, rows)
        # Comparing classes is a vector operation even if they are few, repeating a condition is not: 0.5 and 3.1 ms of
        # 65536 x 10. At 50 classes it is the better one.
        return jnp.where(jnp.arange(count) < jnp.where(rows, 0, count)[..., None], a, 0)

    def others(self, xp: Any, x: Any, k: Any, m: Any, *, keep: bool) -> tuple[Any, Any]:
        m = jnp.zeros_like(k, dtype=x.dtype) if m is None else m
        if keep:
            # XLA holds them where the gradient will be, and adds up what it holds at full speed. To compute them twice,
            # first for the sum alone, took 9 ms instead of 5 for loss and gradient of 8192 x 1000 (2 cores).
            rest = self.put(xp, self.exp(xp, x, m), k, 0.0)
            return self.put(xp, rest, k, 1.0), self.sum(xp, rest)
        return None, self._sum_but_one(xp, x, k, m, jnp.exp)

    def _sum_but_one(self, xp: Any, x: Any, k: Any, m: Any, f: Any) -> Any:
        """The sum of ``f(x - m)`` over the classes other than k, none of which is held."""
        count = x.shape[-1]
        if count <= FEW:
            return _added_up([jnp.where(k == i, 0.0, f(x[..., i] - m)) for i in range(count)])
        width = _width(count)
        at = k // width
        sums = self.put(xp, _windows(f(self.minus(xp, x, m)), 0, lax.add, width), at, 0.0)
        near, classes = _window(x, at, width)
        counts = (classes != k[..., None]) & (classes >= (at * width)[..., None])
        return jnp.sum(sums, axis=-1) + jnp.sum(jnp.where(counts, f(self.minus(xp, near, m)), 0.0), axis=-1)

    def exponentials(self, xp: Any, x: Any, masked: Any, k: Any, m: Any, *, keep: bool) -> tuple[Any, Any, Any]:
        e, s = self.others(xp, self.zeroed(xp, x, masked) if keep and masked is not None else x, k, m, keep=keep)
        s = s if masked is None else jnp.where(masked, x.shape[-1] - 1, s)
        is_near = are_near(s, x.shape[-1])

        def lifted() -> Any:  # a sum of terms that XLA on the CPU flushes to 0
            lifted = self._sum_but_one(xp, x, k, m, lambda d: jnp.square(LIFT * jnp.exp(0.5 * d)))
            return jnp.where(is_near, s, lifted / LIFT / LIFT)

        return e, _only_if(jnp.any(~is_near), lifted, s, x.size), None

    def sum(self, xp: Any, a: Any) -> Any:
        return jnp.sum(a, axis=-1)

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
        return tuple(_linear_and_gradients(task.emptied(), task.arrays, (True,) * len(task.LAYER), True))

    def scan(self, task: Any, step: Any, totals: Any) -> tuple[Any, ...]:
        (count,), size = task.lead, task.block[0]
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
# if rows are neither short nor long (65 ms instead of 11 for sums of exponentials of 512 x 50257); but always, where it
# is over windows of neighbours. One with a function of its own, as `_top_two` has, is fused but not vectorised.

FEW = 32
"""So many classes are not divided into windows."""

SMALL = 1 << 14
"""So few elements take less time than a conditional branch: 20 us for the loss of 32 x 10."""

WIDTH = 128
"""At most about so many neighbours are a window: maxima and sums of exponentials of 1024 x 32000 took 11.7 ms by 25,
9.7 by 128."""


def _only_if(condition: Any, rarely: Any, usual: Any, size: int) -> Any:
    """What `rarely` returns, without computing it for `usual`, the same, where the condition does not hold."""
    return lax.cond(condition, rarely, lambda: usual) if size > SMALL else rarely()


def _added_up(terms: list[Any]) -> Any:
    while len(terms) > 1:
        terms = [*map(operator.add, terms[::2], terms[1::2]), *terms[len(terms) // 2 * 2 :]]
    return terms[0]


def _windows(x: Any, start: float, reduce: Any, width: int) -> Any:
    """Reductions of each `width` neighbours on the last axis, the last of perhaps fewer."""
    ones = (1,) * (x.ndim - 1)
    padding = ((0, 0),) * (x.ndim - 1) + ((0, -x.shape[-1] % width),)
    return lax.reduce_window(x, np.asarray(start, x.dtype), reduce, (*ones, width), (*ones, width), padding)


def _width(count: int) -> int:
    """A width of windows, perhaps one that divides `count`."""
    near = min(WIDTH, math.isqrt(count) + 1)
    widths = (w for w in range(near * 3 // 4, near * 5 // 4 + 1) if count % w == 0)
    return min(widths, key=lambda w: abs(w - near), default=near)


def _window(x: Any, i: Any, width: int) -> tuple[Any, Any]:
    """The window i (*lead) of each row of x (*lead, C), and its places; the last begins early enough to be whole."""
    starts = jnp.minimum(i * width, x.shape[-1] - width)
    cut = functools.partial(lax.dynamic_slice_in_dim, slice_size=width)
    for _ in starts.shape:  # rows by slices, which take XLA a quarter of the time of `take_along_axis`
        cut = jax.vmap(cut)
    return cut(x, starts), starts[..., None] + jnp.arange(width)


def _argmax(x: Any) -> Any:
    """A place of the maximum on the last axis; of windows first, then in one window."""
    count = x.shape[-1]
    if count <= FEW:
        return jnp.argmax(x, axis=-1).astype(np.int32)
    width = _width(count)
    window, places = _window(x, _argmax(_windows(x, -np.inf, lax.max, width)), width)
    return places[..., 0] + _argmax(window)


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


@functools.partial(jax.jit, static_argnums=0)
def _linear(empty: Any, arrays: Any) -> Any:
    """What a linear task asks for; JAX differentiates it block by block, and keeps its arrays alone."""
    return jax.checkpoint(lambda *arrays: empty.filled(arrays).at_once()[0])(*arrays)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _linear_and_gradients(empty: Any, arrays: Any, wanted: Any, rounded: bool) -> Any:
    return empty.filled(arrays).losses_and_gradients(*wanted, rounded=rounded)


_linear_with_gradient = jax.custom_jvp(_linear, nondiff_argnums=(0,))
"""The same of a sum, whose gradient in the layer is computed with it."""


@functools.partial(_linear_with_gradient.defjvp, symbolic_zeros=True)
def _linear_derivative(empty: Any, primals: Any, tangents: Any) -> Any:
    (arrays,), (along,) = primals, tangents
    given = [i for i, t in enumerate(along) if not (t is None or isinstance(t, SymbolicZero))]
    losses, *gradients = _linear_and_gradients(empty, arrays, tuple(i in given for i in empty.LAYER), False)
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
        linear = empty.filled(arrays).partial(others)
        terms += jax.jvp(linear, [arrays[i] for i in others], [along[i] for i in others])[1]
    return empty.reduced(losses), sum(terms, jnp.zeros_like(losses, shape=())).astype(losses.dtype)


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
