"""NumPy's kernels: the reference's formulas in place, for rows whose maximum, s and loss are finite.

Other rows are handed to the reference; so are caps and blocks of classes. The class of the maximum, `k`, is looked for
only where a formula needs it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from xent_any import _formulas
from xent_any._formulas import Kernel, Options, Tuned, is_zero

from ._long_rows import of_long_rows
from ._memory import BLOCK_BYTES, SCRATCH, positions, row_dot, row_sum
from ._softmax import at_class, class_of, log_softmax, logsumexp, maximum, rest_of, softmax


class Target(NamedTuple):
    """The target of rows: ``Q = a dense``, and at the label `at_label` more."""

    a: Any  # (*batch)
    label: Any  # (*batch), or None
    at_label: Any  # (*batch), or None
    dense: Any  # (*batch, C), (C,) or a number, to be multiplied by a; or None
    total: Any  # (*batch), T


class Forward(NamedTuple):
    """Rows of logits and their softmax."""

    x: Any  # (*batch, C), as `load` lays it out
    k: Any  # (*batch), a class with the maximum; None where nothing has needed it
    m: Any  # (*batch), the maximum
    e: Any  # (*batch, C), exp(x - m), which may be written to
    s: Any  # (*batch)


def target_of(options: Options, labels: Any, a: Any, w: Any, count: int) -> Target:
    """Compute the target of rows over `count` classes."""
    smoothing = options.label_smoothing
    even = None if is_zero(smoothing) else smoothing / count
    if labels.ndim > a.ndim:
        dense = options.backend.load(labels, options.dtype)
        if even is not None:
            dense = np.multiply(dense, 1 - smoothing, out=SCRATCH.empty_like(dense))
            dense += even
        if w is not None:
            dense = np.multiply(dense, w, out=SCRATCH.empty_like(dense) if even is None else dense)
        return Target(a, None, None, dense, a * row_sum(dense))
    at_label = a if even is None else a * (1 - smoothing)
    at_label = at_label if w is None else at_label * w[labels]
    if even is None:
        return Target(a, labels, at_label, None, at_label)
    dense = even if w is None else even * w
    return Target(a, labels, at_label, dense, at_label + a * (even * count if w is None else row_sum(dense)))


def forward(xp: Any, options: Options, rows: Any, shared: Any) -> tuple[Forward, Target, Any, Any]:
    """Compute the softmax, the target and the losses of rows ``(logits, labels, a)``, and which of them are right.

    True says that all are. Rows of which the loss alone is not finite have been made good.
    """
    (logits, labels, a), (w,) = rows, shared
    x = options.backend.load(logits, options.dtype)
    target = target_of(options, labels, a, w, x.shape[-1])
    k, m = maximum(x)
    e, missed = np.subtract(x, m[..., None], out=SCRATCH.output_like(x)), None
    if target.dense is not None:
        missed = -a * (target.dense * row_sum(e) if np.ndim(target.dense) == 0 else row_dot(target.dense, e))
    np.exp(e, out=e)
    k, s = rest_of(x, k, m, e)
    if target.label is not None:
        peak = target.at_label * (m - at_class(x, target.label))
        missed = peak if missed is None else missed + peak
    loss = missed + target.total * np.log1p(s)
    if not is_zero(options.z_loss):
        lse = m + np.log1p(s)
        loss = loss + a * options.z_loss * lse * lse
    right: Any = np.isfinite(loss)
    if np.count_nonzero(right) == right.size:
        right = True
    elif right.ndim:  # a label on an absent class, a difference that overflows
        part = tuple([row[~right] for row in rows])
        loss[~right] = _formulas.loss(xp, options, part, shared)[0]
        right = np.isfinite(m + s + target.total)
    return Forward(x, k, m, e, s), target, loss, right


def gradient_of(options: Options, f: Forward, target: Target) -> Any:
    """Compute the gradient in the memory of the exponentials."""
    a, label, at_label, dense, total = target
    s, g = f.s, f.e
    c = total / (1 + s)
    more = None if is_zero(options.z_loss) else 2 * (a * options.z_loss) * (f.m + np.log1p(s)) / (1 + s)
    np.multiply(g, (c if more is None else c + more)[..., None], out=g)
    if dense is None:
        # Minus T (s + (1 - e_y)) / (1 + s): at a maximum the second term is 0, elsewhere e_y is a part of s.
        e_y = np.exp(at_class(f.x, label) - f.m)
        g_y = (c * e_y - c) - c * s
        view, places = positions(g, label)
        view[places] = g_y if more is None else g_y + more * e_y
        return g
    q = (a * dense)[..., None] if np.ndim(dense) == 0 else np.multiply(dense, a[..., None], out=SCRATCH.empty_like(g))
    np.subtract(g, q, out=g)
    k = class_of(f.x, f.m) if f.k is None else f.k
    q_k = a * (dense if np.ndim(dense) == 0 else dense[k] if dense.ndim == 1 else at_class(dense, k))
    if label is not None:
        view, places = positions(g, label)
        view[places] -= at_label
        q_k = q_k + np.where(label == k, at_label, 0.0)
    g_k = (total - q_k - q_k * s) / (1 + s)
    view, places = positions(g, k)
    view[places] = g_k if more is None else g_k + more
    return g


def loss(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    *_, loss, right = forward(xp, options, rows, shared)
    return right, (loss,)


def loss_and_state(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    f, target, loss, right = forward(xp, options, rows, shared)
    return right, (loss, f.m, f.s, target.total.copy())  # which may be `a`, and is written to


def loss_and_grad(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    f, target, loss, right = forward(xp, options, rows, shared)
    return right, (loss, options.backend.rounded(gradient_of(options, f, target), rows[0].dtype))


def gradient(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    (logits, labels, a, m, s, total), (w,) = rows, shared
    x = options.backend.load(logits, options.dtype)
    e = np.subtract(x, m[..., None], out=SCRATCH.output_like(x))
    f, target = Forward(x, None, m, np.exp(e, out=e), s), target_of(options, labels, a, w, x.shape[-1])
    g = gradient_of(options, f, target._replace(total=total))
    return np.isfinite(m + s + total), (options.backend.rounded(g, logits.dtype),)


def label_weight(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    (labels,), (w,) = rows, shared
    q = options.backend.load(labels, options.dtype)
    total = row_sum(q) if w is None else row_dot(w, q)
    return (np.min(q, axis=-1) >= 0) & np.isfinite(total), (total,)


def for_finite_rows(reference: Any, tuned: Any) -> Callable[[Any, Options, Any, Any], tuple[Any, ...] | None]:
    """Complete a kernel that says which rows (*batch) it is right for, or True: the reference computes the others."""

    def kernel(xp: Any, options: Options, rows: Any, shared: Any) -> tuple[Any, ...] | None:
        first = rows[0]
        if first.size == 0 or first.dtype.kind in "iu":
            return None
        if first.shape[-1] * first.itemsize > BLOCK_BYTES:
            return of_long_rows(reference, xp, options, rows, shared)
        right, results = tuned(xp, options, rows, shared)
        if right is True or np.count_nonzero(right) == right.size:
            return results  # type: ignore[no-any-return]
        if right.ndim == 0:
            return reference(xp, options, rows, shared)  # type: ignore[no-any-return]
        others = ~right
        found = reference(xp, options, tuple([a[others] for a in rows]), shared)
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
        (_formulas.gradient, gradient, LOSS),
        (_formulas.logsumexp, logsumexp, frozenset({"axis"})),
        (_formulas.log_softmax, log_softmax, frozenset({"axis"})),
        (_formulas.softmax, softmax, frozenset({"axis"})),
        (_formulas.label_weight, label_weight, LOSS),
    )
}
"""NumPy's tuned kernels."""
