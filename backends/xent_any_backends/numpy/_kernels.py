"""NumPy's kernels: the reference's formulas in place, for rows that are finite.

In all of them the one maximum that the formulas leave out is a single class, `k`. Rows whose loss is not finite are
handed to the reference; so are caps, blocks of classes, and rows longer than a block.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from xent_any import _formulas
from xent_any._formulas import Kernel, Options, Tuned, is_zero

from ._memory import BLOCK_BYTES, SCRATCH, positions, row_dot, row_sum


class Forward(NamedTuple):
    """Rows of logits x, their target ``Q = a dense`` and at the label `at_label` more, and their loss."""

    x: Any  # (*batch, C), as `load` lays it out
    a: Any  # (*batch)
    label: Any  # (*batch), or None
    at_label: Any  # (*batch), or None
    dense: Any  # (*batch, C), (C,) or a number, to be multiplied by a; or None
    total: Any  # (*batch), T
    k: Any  # (*batch), a class with the maximum; None where nothing has needed it
    m: Any  # (*batch), the maximum
    e: Any  # (*batch, C), exp(x - m), which may be written to; None where only the loss is asked for
    s: Any  # (*batch)
    loss: Any  # (*batch)


def forward(options: Options, rows: Any, shared: Any) -> Forward:
    """Compute the losses of rows ``(logits, labels, a)`` and what their gradient is made of."""
    (logits, labels, a), (w,) = rows[:3], shared
    load = options.backend.load
    x, smoothing, is_dense = load(logits, options.dtype), options.label_smoothing, labels.ndim > a.ndim
    even = None if is_zero(smoothing) else smoothing / x.shape[-1]
    # The target
    label = at_label = dense = None
    if is_dense:
        dense = load(labels, options.dtype)
        if even is not None:
            dense = np.multiply(dense, 1 - smoothing, out=SCRATCH.empty_like(x))
            dense += even
        if w is not None:
            dense = np.multiply(dense, w, out=SCRATCH.empty_like(x) if even is None else dense)
        total = a * row_sum(dense)
    else:
        label, at_label = labels, a if even is None else a * (1 - smoothing)
        at_label = at_label if w is None else at_label * w[labels]
        total = at_label
        if even is not None:
            dense = even if w is None else even * w
            total = at_label + a * (even * x.shape[-1] if w is None else row_sum(dense))
    # The softmax
    k, m = maximum(x)
    e, missed = np.subtract(x, m[..., None], out=SCRATCH.output_like(x)), None
    if dense is not None:
        missed = -a * (dense * row_sum(e) if np.ndim(dense) == 0 else row_dot(dense, e))
    np.exp(e, out=e)
    k, s = rest_of(x, k, m, e)
    # The loss
    if label is not None:
        peak = at_label * (m - at_class(x, label))
        missed = peak if missed is None else missed + peak
    loss = missed + total * np.log1p(s)
    if not is_zero(options.z_loss):
        lse = m + np.log1p(s)
        loss = loss + a * options.z_loss * lse * lse
    return Forward(x, a, label, at_label, dense, total, k, m, e, s, loss)


def maximum(x: Any) -> tuple[Any, Any]:
    """Find the maximum of each row (*batch, C), and where that is as fast, a class that has it."""
    if not x.flags.c_contiguous:
        return None, np.max(x, axis=-1)
    k = x.argmax(axis=-1)
    return k, at_class(x, k)


def class_of(x: Any, m: Any) -> Any:
    """Find the first class of each row (*batch, C) where it has its maximum m; any if there is none."""
    highest = x == m[..., None]
    return highest.argmax(axis=-1)


def rest_of(x: Any, k: Any, m: Any, e: Any) -> tuple[Any, Any]:
    """Sum e (*batch, C) over the classes but one with the maximum; that class, where it has been looked for."""
    if k is None:
        if np.count_nonzero(e == 1) == np.count_nonzero(np.isfinite(m)):  # each row has one
            rest = np.floor(e, out=SCRATCH.empty_like(e))
            return None, row_sum(np.subtract(e, rest, out=rest))
        k = class_of(x, m)
    view, places = positions(e, k)
    view[places] = 0.0
    s = row_sum(e)
    view[places] = 1.0
    return k, s


def gradient_of(options: Options, f: Forward) -> Any:
    """Compute the gradient in the memory of the exponentials."""
    a, s, g = f.a, f.s, f.e
    c = f.total / (1 + s)
    more = None if is_zero(options.z_loss) else 2 * (a * options.z_loss) * (f.m + np.log1p(s)) / (1 + s)
    np.multiply(g, (c if more is None else c + more)[..., None], out=g)
    if f.dense is None:
        # Minus T (s + (1 - e_y)) / (1 + s): at a maximum the second term is 0, elsewhere e_y is a part of s.
        e_y = np.exp(at_class(f.x, f.label) - f.m)
        at_label = (c * e_y - c) - c * s
        view, places = positions(g, f.label)
        view[places] = at_label if more is None else at_label + more * e_y
        return g
    if np.ndim(f.dense) == 0:
        np.subtract(g, (a * f.dense)[..., None], out=g)
    else:
        np.subtract(g, np.multiply(f.dense, a[..., None], out=SCRATCH.empty_like(g)), out=g)
    k = class_of(f.x, f.m) if f.k is None else f.k
    q_k = a * (f.dense if np.ndim(f.dense) == 0 else f.dense[k] if f.dense.ndim == 1 else at_class(f.dense, k))
    if f.label is not None:
        view, places = positions(g, f.label)
        view[places] -= f.at_label
        q_k = q_k + np.where(f.label == k, f.at_label, 0.0)
    at_k = (f.total - q_k - q_k * s) / (1 + s)
    view, places = positions(g, k)
    view[places] = at_k if more is None else at_k + more
    return g


def at_class(a: Any, k: Any) -> Any:
    """Take the element of each row of an array that `load` laid out at the class k (*batch)."""
    view, places = positions(a, k)
    return view[places]


def loss(options: Options, rows: Any, shared: Any) -> Any:
    f = forward(options, rows, shared)
    return np.isfinite(f.loss), (f.loss,)


def loss_and_state(options: Options, rows: Any, shared: Any) -> Any:
    f = forward(options, rows, shared)
    return np.isfinite(f.loss), (f.loss, f.m, f.s, f.total)


def loss_and_grad(options: Options, rows: Any, shared: Any) -> Any:
    f = forward(options, rows, shared)
    return np.isfinite(f.loss), (f.loss, options.backend.rounded(gradient_of(options, f), rows[0].dtype))


def softmax_state(options: Options, rows: Any) -> Any:
    """Compute x, d = x - m, exp(d), m and s, and which rows are finite."""
    x = options.backend.load(rows[0], options.dtype)
    k, m = maximum(x)
    d = np.subtract(x, m[..., None], out=SCRATCH.output_like(x))
    e = np.exp(d, out=SCRATCH.empty_like(x))
    _, s = rest_of(x, k, m, e)
    return d, e, m, s, np.isfinite(m + s)


def logsumexp(options: Options, rows: Any, shared: Any) -> Any:
    _, _, m, s, finite = softmax_state(options, rows)
    return finite, (m + np.log1p(s),)


def log_softmax(options: Options, rows: Any, shared: Any) -> Any:
    d, _, _, s, finite = softmax_state(options, rows)
    return finite, (np.subtract(d, np.log1p(s)[..., None], out=d),)


def softmax(options: Options, rows: Any, shared: Any) -> Any:
    d, e, _, s, finite = softmax_state(options, rows)
    return finite, (options.backend.rounded(np.divide(e, (1 + s)[..., None], out=d), rows[0].dtype),)


def label_weight(options: Options, rows: Any, shared: Any) -> Any:
    (labels,), (w,) = rows, shared
    q = options.backend.load(labels, options.dtype)
    total = row_sum(q) if w is None else row_dot(w, q)
    return (np.min(q, axis=-1) >= 0) & np.isfinite(total), (total,)


def for_finite_rows(reference: Any, tuned: Any) -> Callable[[Any, Options, Any, Any], tuple[Any, ...] | None]:
    """Complete a kernel that says which rows (*batch) it is right for: the reference computes the others."""

    def kernel(xp: Any, options: Options, rows: Any, shared: Any) -> tuple[Any, ...] | None:
        first = rows[0]
        if first.size == 0 or first.shape[-1] * first.itemsize > BLOCK_BYTES or first.dtype.kind in "iu":
            return None
        right, results = tuned(options, rows, shared)
        if np.count_nonzero(right) == right.size:
            return results  # type: ignore[no-any-return]
        if right.ndim == 0:
            return reference(xp, options, rows, shared)  # type: ignore[no-any-return]
        others = ~right
        found = reference(xp, options, tuple([None if a is None else a[others] for a in rows]), shared)
        for result, values in zip(results, found, strict=True):
            result[others] = values
        return results  # type: ignore[no-any-return]

    return kernel


LOSS = frozenset({"label_smoothing", "z_loss", "axis", "unrestricted"})

KERNELS: Mapping[Kernel, Tuned] = {
    reference: Tuned(for_finite_rows(reference, tuned), knows)
    for reference, tuned, knows in (
        (_formulas.loss, loss, LOSS),
        (_formulas.loss_and_state, loss_and_state, LOSS),
        (_formulas.loss_and_grad, loss_and_grad, LOSS),
        (_formulas.logsumexp, logsumexp, frozenset({"axis"})),
        (_formulas.log_softmax, log_softmax, frozenset({"axis"})),
        (_formulas.softmax, softmax, frozenset({"axis"})),
        (_formulas.label_weight, label_weight, LOSS),
    )
}
"""NumPy's tuned kernels."""
