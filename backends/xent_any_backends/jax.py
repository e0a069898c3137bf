"""JAX: each kernel is compiled, together with the loop over its blocks."""

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from xent_any import Backend, Task
from xent_any._rows import LIFT, are_near, loss, loss_and_grad, with_numbers

SOLVES = jax.__version_info__ >= (0, 7)
"""Whether `lax.custom_linear_solve` can be transposed also where nothing depends on its solution."""


def _promoting(function: Any) -> Any:
    """The same function, in which JAX promotes ranks and dtypes even where its user has told it not to."""

    @functools.wraps(function)
    def promoting(*args: Any, **options: Any) -> Any:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return function(*args, **options)

    return promoting


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
        **dict.fromkeys(
            ("truth.subnormal", "truth.subnormal-scaled", "truth.subnormal-binary"),
            "XLA on the CPU flushes numbers below the smallest normal one to 0",
        ),
    }
    if jax.__version_info__ >= (0, 6):  # seen with 0.10, and not with 0.5
        deviations |= dict.fromkeys(
            ("relations.bitwise[few-rows]", "relations.bitwise[blocks]", "relations.bitwise[hvp]"),
            "XLA fuses products with sums as shapes suggest, on which a row's last bits may depend",
        )
    if not SOLVES:
        deviations |= dict.fromkeys(
            ("truth.autodiff[float32-confident]", "truth.autodiff[float32-not-the-label]"),
            "before JAX 0.7, reverse over reverse cancels at the maximum of a row that is won by far",
        )

    def __init__(self, axis: int = -1, *, chooses: bool = False) -> None:
        self.axis = axis  # of the classes in arrays that are held, from the end
        self.chooses = chooses  # whether there may be branches that cannot be differentiated

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
        if isinstance(array, jax.core.Tracer):
            return False
        return self.takes(array) or all(d.platform == "cpu" for d in array.devices())

    def takes(self, array: Any) -> bool:
        return isinstance(array, np.ndarray | np.generic)

    def top(self, xp: Any, x: Any) -> tuple[None, Any]:
        m = self._max(x)
        if not _is_above(x.shape[-1], PIECES):
            return None, m
        return None, self.with_nan(xp, x, m, m == -np.inf)

    def winner(self, xp: Any, x: Any, m: Any) -> Any:
        pieces = _pieces(x, np.nan)
        width = pieces[0].shape[-1]
        places = [jnp.where(a == m[..., None], jnp.arange(width) + i * width, 0) for i, a in enumerate(pieces)]
        return jnp.max(_tree(jnp.maximum, places), axis=-1).astype(np.int32)

    def with_nan(self, xp: Any, x: Any, m: Any, rows: Any) -> Any:
        if rows is None:
            return m
        given = self._given(x)  # which a branch would turn by a copy

        def seen() -> Any:
            pieces = map(jnp.isnan, _pieces(given, 0.0, self.axis))
            return jnp.where(rows & jnp.any(_tree(operator.or_, [*pieces]), axis=self.axis), np.nan, m)

        # XLA's maximum on the CPU may lose NaN. To look for it is another pass over the logits. And what comes out of a
        # branch is held: else a maximum of few classes is computed again wherever it is used.
        return _only_if(jnp.any(rows), seen, m, x.size)

    def pick(self, xp: Any, a: Any, k: Any) -> Any:
        return a[k] if a.ndim == 1 else jnp.take_along_axis(a, k[..., None], axis=-1)[..., 0]

    def put(self, xp: Any, a: Any, k: Any, value: Any, *, owned: bool = False) -> Any:
        value = value if isinstance(value, float) else jnp.expand_dims(value, self.axis)
        classes = jnp.arange(a.shape[-1]).reshape(-1, *(1,) * (-self.axis - 1))
        return self._last(jnp.where(classes == jnp.expand_dims(k, self.axis), value, self._given(a)))

    def _given(self, a: Any) -> Any:
        """An array (*lead, C) with the classes at `axis`.

        XLA on the CPU holds what it computes in the order of the axes, and turns what is to be in another by a copy.
        What begins with this and ends with `_last` is held in the order of the logits; back and forth in between is
        nothing.
        """
        return jnp.moveaxis(a, -1, self.axis)

    def _max(self, x: Any) -> Any:
        """The maximum of the classes, but if there is NaN: then it may be less."""
        if _is_above(x.shape[-1], PIECES):
            return jnp.max(self._given(x), axis=self.axis)
        return _tree(jnp.maximum, [x[..., i] for i in range(x.shape[-1])])

    def _last(self, a: Any) -> Any:
        return jnp.moveaxis(a, self.axis, -1)

    def zeroed(self, xp: Any, a: Any, rows: Any) -> Any:
        count = a.shape[-1]
        if self.axis != -1 or _is_above(count, PIECES):
            return self._last(jnp.where(jnp.expand_dims(rows, self.axis), 0, self._given(a)))
        # Comparing classes is a vector operation even if they are few, repeating a condition is not: 0.5 and 3.1 ms of
        # 65536 x 10. At 50 classes it is the better one.
        return jnp.where(jnp.arange(count) < jnp.where(rows, 0, count)[..., None], a, 0)

    def others(self, xp: Any, x: Any, k: Any, m: Any, *, keep: bool) -> tuple[Any, Any]:
        if m is None or not keep:  # the sum alone need not wait for what the labels make of m
            m = self._max(x)
        x, highest = self._given(x), jnp.expand_dims(m, self.axis)
        if not keep:
            return None, _sum_but_one(x, m, lambda x: jnp.exp(x - highest), axis=self.axis)
        # 1 at the maximum, also where XLA computes x again with the difference, and rounds both at once
        e = jnp.where(x == highest, 1.0, jnp.exp(x - highest))
        return self._last(e), _sum_but_one(e, jnp.ones_like(m), axis=self.axis)

    def exponentials(self, xp: Any, x: Any, zeros: Any, k: Any, m: Any, *, keep: bool) -> tuple[Any, Any, Any]:
        e, s = self.others(xp, self.zeroed(xp, x, zeros) if keep and zeros is not None else x, k, m, keep=keep)
        s = s if zeros is None else jnp.where(zeros, x.shape[-1] - 1, s)
        is_near = are_near(s, x.shape[-1])
        is_near = is_near if zeros is None else is_near | zeros  # of one class there is no other

        given, highest = self._given(x), jnp.expand_dims(m, self.axis)

        def square(x: Any) -> Any:
            return jnp.square(LIFT * jnp.exp(0.5 * (x - highest)))

        def lifted() -> Any:  # a sum of terms that XLA on the CPU flushes to 0
            return jnp.where(is_near, s, _sum_but_one(given, m, square, LIFT * LIFT, self.axis) / LIFT / LIFT)

        return e, _only_if(jnp.any(~is_near), lifted, s, x.size), None

    def sum(self, xp: Any, a: Any) -> Any:
        return jnp.sum(a, axis=-1)

    def may_choose(self, x: Any, spread: Any, *others: Any) -> bool:
        return self.chooses and spread is not None and _is_above(x.size, SMALL)

    def where(self, xp: Any, condition: Any, a: Any, otherwise: Any) -> Any:
        return lax.cond(jnp.all(condition), lambda: a, lambda: jnp.where(condition, a, otherwise()))

    def run(self, task: Task) -> tuple[Any, ...]:
        arrays = [a for a in task.arrays if a is not None]
        if any(isinstance(a, jax.core.Tracer) for a in arrays):  # who compiles, maps or differentiates
            task = _placed(task.filled(_varying(task.arrays)))
            if task.is_symmetric and SOLVES:
                return (_symmetric(task),)
            if not task.has_derivative:
                return tuple(_at_once(task))
            return tuple(_with_derivative(task.emptied(), task.arrays))
        if any(isinstance(a, jax.Array) and len(a.devices()) > 1 for a in arrays):
            return tuple(_at_once(task))  # shards stay where they are
        count = math.prod(task.lead)
        if task.rows[0].dtype != task.options.dtype:  # half precision is never held whole in float32
            count = max(1, min(count, self.block_bytes // task.row_bytes()))
        options = _choosing(task.options)
        return tuple(_compiled(task.kernel, options, task.rows, task.shared, task.lead, task.dtypes(), count))

    def linear(self, task: Any) -> Any:
        return (_linear if task.recompute else _linear_with_gradient)(task.emptied(), _varying(task.arrays))

    def linear_and_gradients(self, task: Any) -> tuple[Any, ...]:
        return tuple(_linear_and_gradients(task.emptied(), _varying(task.arrays), (True,) * len(task.LAYER), True))

    def scan(self, task: Any, step: Any, totals: Any) -> tuple[Any, ...]:
        (count,), size = task.lead, task.block[0]
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


PIECES = 32
"""At most so many classes are computed one by one; more are cut into so many pieces, which are added as vectors.

XLA on the CPU fuses this with arithmetic and selections, however long rows are. Its own sums it fuses with arithmetic
alone, at full speed if rows are neither short nor long: 65 ms instead of 11 for exponentials of 512 x 50257. Maxima and
sums of 4096 x 1000 took 1.29 ms in 32 pieces, 1.35 in 16, 1.57 in 8; of 1024 x 32000 10.1, 12.6 and 13.5 (2 cores).
"""

SMALL = 1 << 14
"""So few elements take less time than a conditional branch: 20 us for the loss of 32 x 10."""


def _varying(arrays: Any) -> Any:
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


def _placed(task: Task) -> Task:
    """The task, to be computed with the classes where they are in the arrays as given, or with the classes last.

    With them last, XLA on the CPU is faster where more is of the size of the logits than they and their gradient; and
    where the logits have been turned already, as nobody compiles this.
    """
    x, options = task.rows[0], task.options
    value = getattr(x, "primal", x)  # of what is differentiated
    is_plain = task.kernel in (loss, loss_and_grad) and task.rows[1].ndim < x.ndim and options.label_smoothing == 0
    is_placed = is_plain and x.dtype == options.dtype and isinstance(value, jax.core.Tracer)
    axis = options.axis if is_placed else -1
    return replace(task, options=options._replace(backend=_backend(axis), axis=axis))


def _choosing(options: Any) -> Any:
    """The options where nobody differentiates what is computed."""
    return options._replace(backend=_backend(options.backend.axis, chooses=True))


def _only_if(condition: Any, rarely: Any, usual: Any, size: int) -> Any:
    """What `rarely` returns, without computing it for `usual`, the same, where the condition does not hold."""
    return lax.cond(condition, rarely, lambda: usual) if _is_above(size, SMALL) else rarely()


def _is_above(size: Any, limit: int) -> bool:
    """Whether a size is above the limit, for which one that a program is exported without is taken."""
    return not isinstance(size, int) or size > limit


def _tree(function: Any, terms: list[Any]) -> Any:
    while len(terms) > 1:
        terms = [*map(function, terms[::2], terms[1::2]), *terms[len(terms) // 2 * 2 :]]
    return terms[0]


def _pieces(x: Any, rest: float, axis: int = -1) -> list[Any]:
    """Pieces of an axis, all as wide as the first; the last is filled up with `rest`."""
    count = x.shape[axis]
    if not isinstance(count, int):
        return [x]
    width = 1 if count <= PIECES else -(-count // (8 * PIECES)) * 8
    pieces = [lax.slice_in_dim(x, i, min(i + width, count), axis=axis) for i in range(0, count, width)]
    if count % width:
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, width - count % width)
        pieces[-1] = jnp.pad(pieces[-1], padding, constant_values=rest)
    return pieces


def _sum_but_one(x: Any, m: Any, f: Any = None, one: float = 1.0, axis: int = -1) -> Any:
    """The sum of x, or f(x), on an axis but for one of the elements that equal m, where it is `one`."""
    pieces = _pieces(x, 0.0 if f is None else -np.inf, axis)
    terms = pieces if f is None else map(f, pieces)
    highest = [piece == jnp.expand_dims(m, axis) for piece in pieces]
    rest = _tree(operator.add, [jnp.where(h, 0.0, t) for h, t in zip(highest, terms, strict=True)])
    ones = _tree(operator.add, [jnp.where(h, one, jnp.zeros_like(rest)) for h in highest])
    width = rest.shape[axis]
    if width == 1:
        return jnp.squeeze(rest + (ones - one), axis)
    # Two sums that XLA makes one array of: it is negative where there were ones, which there count for one less. What
    # makes 0 negative as well is lost in any sum that is used.
    tiny = np.finfo(rest.dtype).tiny
    signed = jnp.where(ones > 0, -(rest + (ones - one) + tiny), rest + tiny)
    return _total(jnp.abs(signed), axis) + one * (0.5 * (width - _total(jnp.sign(signed), axis)) - 1)


def _total(x: Any, axis: int) -> Any:
    """The sum over an axis.

    It begins with -0.0, which nothing else does. XLA's library for sums would have to be handed a 0 that is also used
    elsewhere, and takes twice as long then if it adds up two arrays.
    """
    if not isinstance(x.size, int):  # what follows cannot be differentiated
        return jnp.sum(x, axis=axis)
    return lax.reduce(x, np.asarray(-0.0, x.dtype), lambda a, b: a + b, (axis % x.ndim,))


_at_once = _promoting(Task.at_once)


@_promoting
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
@_promoting
def _with_derivative(empty: Task, arrays: Any) -> Any:
    """A task's results, with the analytic derivative in the first array and JAX's own in the others."""
    return replace(empty, options=_choosing(empty.options)).filled(arrays).at_once()


@functools.partial(_with_derivative.defjvp, symbolic_zeros=True)
@_promoting
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
@_promoting
def _along_first(empty: Task, arrays: Any, tangent: Any) -> Any:
    return empty.filled(arrays).jvp(tangent)


@functools.partial(jax.jit, static_argnums=0)
@_promoting
def _linear(empty: Any, arrays: Any) -> Any:
    """What a linear task asks for; JAX differentiates it block by block, and keeps its arrays alone."""
    return jax.checkpoint(lambda *arrays: empty.filled(arrays).at_once()[0])(*arrays)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
@_promoting
def _linear_and_gradients(empty: Any, arrays: Any, wanted: Any, rounded: bool) -> Any:
    return empty.filled(arrays).losses_and_gradients(*wanted, rounded=rounded)


_linear_with_gradient = jax.custom_jvp(_linear, nondiff_argnums=(0,))
"""The same of a sum, whose gradient in the layer is computed with it."""


@functools.partial(_linear_with_gradient.defjvp, symbolic_zeros=True)
@_promoting
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
@_promoting
def _compiled(kernel: Any, options: Any, rows: Any, shared: Any, lead: Any, dtypes: Any, count: int) -> Any:
    """Run the kernel on `count` rows at a time; the last block starts early enough to be whole."""
    options, shared = with_numbers(options, shared)
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


_backend = functools.cache(JAX)
BACKEND = _backend(-1)
