"""JAX's kernels, in forms that XLA fuses.

XLA on the CPU holds what it computes in the order of the axes, and turns what is to be in another by a copy. So the
classes are at `options.axis`, where they are in the logits as given. What a few rows need is in a branch.
"""

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from xent_any import _formulas
from xent_any._formulas import (
    Kernel,
    Options,
    State,
    Target,
    Tuned,
    cast,
    is_ignored,
    loss_from,
    missed_of,
    target_of,
    z_of,
)

PIECES = 32
"""So many classes at most are computed one by one; more are cut into so many pieces at most, added as vectors.

XLA on the CPU fuses this with arithmetic and selections, however long rows are. Its own sums it fuses with arithmetic
alone, at full speed if rows are neither short nor long: 65 ms instead of 11 for exponentials of 512 x 50257.
"""

SMALL = 1 << 14
"""So few elements take less time than a conditional branch: 20 us for the loss of 32 x 10."""


def loss(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    """Compute the reference's `loss`."""
    return (_forward(options, rows, shared, keep=False).loss,)


def loss_and_grad(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    """Compute the reference's `loss_and_grad`."""
    loss, unusable, m, e, s, target, z = _forward(options, rows, shared, keep=True)
    a, axis = rows[2], options.axis

    def spread(a: Any) -> Any:
        return jnp.expand_dims(a, axis)

    c = a * target.total / (1 + s)
    more = None if z is None else 2 * z * (m + jnp.log1p(s)) / (1 + s)
    scale = c if more is None else c + more
    classes = jnp.arange(e.shape[axis]).reshape(-1, *(1,) * (-axis - 1))
    if target.dense is None:
        # Minus T (s + (1 - e_y)) / (1 + s): at a maximum the second term is 0, elsewhere e_y is a part of s.
        e_y = jnp.exp(jnp.where(unusable, 0.0, options.backend.take(jnp, rows[0], target.label)) - m)
        at_label = (c * e_y - c) - c * s
        at_label = at_label if more is None else at_label + more * e_y
        g = jnp.where(classes == spread(target.label), spread(at_label), e * spread(scale))
    else:
        q = jnp.moveaxis(target.dense, -1, axis)
        if target.label is not None:
            q = q + jnp.where(classes == spread(target.label), spread(target.at_label), 0.0)
        # Scaled last: T - q is exactly 0 for a single class, which a product in it, of more digits, would not be.
        at_maximum = ((spread(target.total) - q) - q * spread(s)) * spread(a / (1 + s))
        at_maximum = at_maximum if more is None else at_maximum + spread(more)
        g = jnp.where(e == 1, at_maximum, e * spread(scale) - spread(a) * q)
    return loss, cast(jnp, jnp.moveaxis(g, axis, -1), rows[0].dtype)


class Forward(NamedTuple):
    """The loss, and what the gradient is made of."""

    loss: Any  # (*batch)
    unusable: Any  # (*batch), rows that are ignored and could not be computed with
    m: Any  # (*batch), the maximum
    e: Any  # exp(x - m) with the classes at `axis`, or None
    s: Any  # (*batch)
    target: Target  # of rows with the scale 1: of the logits' size, XLA need not hold a product
    z: Any  # (*batch), Z, or None


def _forward(options: Options, rows: Any, shared: Any, *, keep: bool) -> Forward:
    """Compute the loss, and `keep` the exponentials for the gradient."""
    (logits, labels, a), (w,) = rows, shared
    axis, last = options.axis, cast(jnp, logits, options.dtype)
    target, z = target_of(jnp, options, last.shape[-1], labels, jnp.ones_like(a), w), z_of(options, a)
    total = a * target.total
    ignored = is_ignored(jnp, options, target._replace(total=total), z)
    x = jnp.moveaxis(last, -1, axis)
    found = _with_nan(x, _max(x, axis), ignored, axis)
    unusable = ignored & ~jnp.isfinite(found)
    m = jnp.where(unusable, 0.0, jnp.where(jnp.isfinite(found), found, np.nan))
    highest, e = jnp.expand_dims(m, axis), None
    if keep:
        x = _zeroed(x, unusable, axis)
        # 1 at the maximum, also where XLA computes x again with the difference, and rounds both at once
        e = jnp.where(x == highest, 1.0, jnp.exp(x - highest))
        s = _sum_but_one(e, jnp.ones_like(m), axis)
    else:
        s = _sum_but_one(x, m, axis, lambda x: jnp.exp(x - highest))
    # A branch's outcome is held: else XLA adds up a row again for each of its classes.
    s = _only_if(jnp.any(unusable), lambda: jnp.where(unusable, 0.0, s), s, x.size)
    missed = jnp.where(unusable, 0.0, _missed(options, target, a, unusable, found, m, last))
    return Forward(loss_from(jnp, State(m, s, missed, total), z), unusable, m, e, s, target, z)


def _missed(options: Options, target: Any, a: Any, unusable: Any, found: Any, m: Any, x: Any) -> Any:
    """Compute the reference's `missed_of`: without its care for infinities, where a row does not need it.

    The maximum is taken as it was `found`: of what the exponentials are made of, XLA would hold an array like x.
    """
    label, at_label, dense, _ = target
    at_label = None if label is None else a * at_label

    def carefully() -> Any:
        scaled = target._replace(at_label=at_label, dense=None if dense is None else a[..., None] * dense)
        return missed_of(jnp, options, scaled, m, x)

    if dense is None or not _is_above(x.size, SMALL):
        return carefully()
    if dense.shape[-1] == 1:
        missed = a * dense[..., 0] * jnp.sum(found[..., None] - x, axis=-1)
    else:
        missed = a * jnp.sum(dense * (found[..., None] - x), axis=-1)
    if label is not None:
        missed = missed + at_label * (m - options.backend.take(jnp, x, label))
    right = jnp.isfinite(missed)
    return lax.cond(jnp.all(right | unusable), lambda: missed, lambda: jnp.where(right, missed, carefully()))


def _max(x: Any, axis: int) -> Any:
    """Compute the maximum of the classes, but if there is NaN: then it may be less."""
    count = x.shape[axis]
    if _is_above(count, PIECES):
        return jnp.max(x, axis=axis)
    return _tree(jnp.maximum, [lax.index_in_dim(x, i, axis, keepdims=False) for i in range(count)])


def _with_nan(x: Any, m: Any, rows: Any, axis: int) -> Any:
    """Put the NaN of x that `_max` has lost into the maximum m, in those `rows`, a condition (*batch)."""

    def seen() -> Any:
        pieces = map(jnp.isnan, _pieces(x, 0.0, axis))
        return jnp.where(rows & jnp.any(_tree(operator.or_, [*pieces]), axis=axis), np.nan, m)

    # To look for NaN is another pass over the logits. And what comes out of a branch is held: else a maximum of few
    # classes is computed again wherever it is used.
    return _only_if(jnp.any(rows), seen, m, x.size)


def _zeroed(x: Any, rows: Any, axis: int) -> Any:
    """Put zeros in those `rows`, a condition (*batch)."""
    if axis != -1 or _is_above(x.shape[-1], PIECES):
        return jnp.where(jnp.expand_dims(rows, axis), 0, x)
    # Comparing classes is a vector operation even if they are few, repeating a condition is not: 0.5 and 3.1 ms of
    # 65536 x 10. At 50 classes it is the better one.
    count = x.shape[-1]
    return jnp.where(jnp.arange(count) < jnp.where(rows, 0, count)[..., None], x, 0)


def _only_if(condition: Any, rarely: Any, usual: Any, size: int) -> Any:
    """Return what `rarely` does: `usual` where the condition does not hold, as both are the same there."""
    return lax.cond(condition, rarely, lambda: usual) if _is_above(size, SMALL) else rarely()


def _is_above(size: Any, limit: int) -> bool:
    """Whether a size is above the limit; one that is symbolic counts as such."""
    return not isinstance(size, int) or size > limit


def _tree(function: Any, terms: list[Any]) -> Any:
    while len(terms) > 1:
        terms = [*map(function, terms[::2], terms[1::2]), *terms[len(terms) // 2 * 2 :]]
    return terms[0]


def _pieces(x: Any, rest: float, axis: int) -> list[Any]:
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


def _sum_but_one(x: Any, m: Any, axis: int, f: Any = None) -> Any:
    """Add up x, or f(x), along an axis, but for one of the elements that equal m, where it is 1."""
    pieces = _pieces(x, 0.0 if f is None else -np.inf, axis)
    terms = pieces if f is None else map(f, pieces)
    highest = [piece == jnp.expand_dims(m, axis) for piece in pieces]
    rest = _tree(operator.add, [jnp.where(h, 0.0, t) for h, t in zip(highest, terms, strict=True)])
    ones = _tree(operator.add, [jnp.where(h, 1.0, jnp.zeros_like(rest)) for h in highest])
    width = rest.shape[axis]
    if width == 1:
        return jnp.squeeze(rest + (ones - 1), axis)
    # Two sums that XLA makes one array of: it is negative where there were ones, which there count for one less. What
    # makes 0 negative as well is lost in any sum that is used.
    tiny = np.finfo(rest.dtype).tiny
    signed = jnp.where(ones > 0, -(rest + (ones - 1) + tiny), rest + tiny)
    return _total(jnp.abs(signed), axis) + (0.5 * (width - _total(jnp.sign(signed), axis)) - 1)


def _total(x: Any, axis: int) -> Any:
    """Add up along an axis.

    The sum begins with -0.0, which nothing else does. XLA's library for sums would have to be handed a 0 that is also
    used elsewhere, and takes twice as long then if it adds up two arrays.
    """
    if not isinstance(x.size, int):  # JAX cannot differentiate `lax.reduce` of symbolic sizes
        return jnp.sum(x, axis=axis)
    return lax.reduce(x, np.asarray(-0.0, x.dtype), lambda a, b: a + b, (axis % x.ndim,))


_KNOWN = frozenset({"label_smoothing", "z_loss", "axis"})

KERNELS: Mapping[Kernel, Tuned] = {
    _formulas.loss: Tuned(loss, _KNOWN),
    _formulas.loss_and_grad: Tuned(loss_and_grad, _KNOWN),
}
"""JAX's tuned kernels."""
