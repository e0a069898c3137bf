"""The mathematics: everything that is computed for one block of rows.

One row has logits ``x``, weighted target ``Q`` (``Q_c = w_c q_c``), total ``T = sum_c Q_c`` and scale ``a``
(sample weight over the mean's divisor). With ``m = max x``, ``k`` one class where it is attained,
``e_j = exp(x_j - m)`` and ``s = sum of e over the classes other than k``::

    log-sum-exp    lse    = m + log1p(s)
    loss           L      = a (sum_j Q_j (m - x_j) + T log1p(s) + z lse^2)
    gradient       g_j    = a ((T - Q_j + 2 z lse) p_j - Q_j (1 - p_j)),    p_j = e_j / (1 + s)
    tangent        dL     = sum_j g_j t_j
    Hessian        (Hv)_j = a ((T + 2 z lse) p_j (v_j - <p, v>) + 2 z p_j <p, v>)

Nothing here cancels. ``log(1 + s) - (x_y - m)`` and ``p_y - 1``, the textbook forms, lose every digit of a confident
row. ``1 - p_j`` is computed as ``rest_j / (1 + s)``, where ``rest_j`` is the sum over the other classes: ``s`` for a
maximum, ``1 + (s - e_j)`` otherwise, a sum whose result is never smaller than half of its terms.

Arrays have their class axis last; ``lead`` stands for all the other axes. Every kernel has the signature
``kernel(xp, options, rows, shared)``: ``rows`` are arrays that are cut into blocks along ``lead``, ``shared`` are
whole, ``options`` is hashable. It returns a tuple of arrays. A backend may compile it, run blocks of it in
parallel or attach derivatives to it: see `xent_any.Backend.run`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

Array: TypeAlias = Any
"""An array of any library that follows the Array API standard."""

INF = float("inf")
NAN = float("nan")

FAR = 60.0
"""A row whose runner-up lies this far below its maximum measures the rest from the runner-up: exp(-60) is far from
float32's smallest normal number, exp(-87), below which a sum of many terms would lose its digits."""


class Options(NamedTuple):
    """The numbers that a kernel is compiled with."""

    dtype: Any  # the precision computed in
    arange: Callable[[Any, Array, int], Array]  # (xp, array on the wanted device, C) -> (C,) of the default integer dtype
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None


class Target(NamedTuple):
    """What a row should be: a label per row, or a weight per class."""

    is_label: Array | None  # (*lead, C) bool; of index labels without smoothing
    weight: Array | None  # (*lead, C), Q; of all the others
    total: Array  # (*lead), T


class Softmax(NamedTuple):
    """The state of a row over its classes; see the module's formulas."""

    at: Array  # (*lead, C) bool, true at one maximum of each row, k
    m: Array  # (*lead), NaN where the maximum is not finite
    s: Array  # (*lead)
    e: Array  # (*lead, C), exp(x - m) / ratio, and 0 at k
    ratio: Array  # (*lead), 1 but for a row whose other classes are all far below its maximum

    def exp(self, xp: Any) -> Array:
        """exp(x - m), of shape (*lead, C)."""
        return xp.where(self.at, 1.0, self.e * self.ratio[..., None])


def pairwise_sum(xp: Any, a: Array) -> Array:
    """Sum over the last axis by halving: error at most 2 log2(n) roundings, and the same bits for every memory layout."""
    if a.shape[-1] == 0:
        return xp.sum(a, axis=-1)
    odd = None
    while (n := a.shape[-1]) > 1:
        if n % 2:
            odd = a[..., -1] if odd is None else odd + a[..., -1]
        a = a[..., : n // 2] + a[..., n // 2 : n // 2 * 2]
    return a[..., 0] if odd is None else a[..., 0] + odd


def pick(xp: Any, a: Array, at: Array) -> Array:
    """The element of the last axis where `at`, true at most once in a row, is true; 0 where it is nowhere."""
    return xp.sum(xp.where(at, a, 0.0), axis=-1)


def softmax_state(xp: Any, options: Options, x: Array) -> Softmax:
    classes = options.arange(xp, x, x.shape[-1])
    m = xp.max(x, axis=-1)
    first = xp.min(xp.where(x == m[..., None], classes, x.shape[-1]), axis=-1)
    at = classes == first[..., None]
    # Picked, not the maximum itself: it then differentiates with respect to one class, also where classes tie.
    m = xp.where(xp.isfinite(m), pick(xp, x, at), NAN)
    others = xp.where(at, -INF, x)
    top = xp.max(others, axis=-1)
    far = (m - top > FAR) & (top > -INF)
    base = xp.where(far, top, m)
    e = xp.exp(others - base[..., None])
    s = pairwise_sum(xp, e)
    # exp(top - m) times the sum, rounded once: the factor alone may be subnormal.
    s = xp.where(far, xp.exp((base - m) + xp.log(xp.where(far, s, 1.0))), s)
    return Softmax(at, m, s, e, xp.exp(base - m))


def label_weight(xp: Any, options: Options, rows: tuple[Array], shared: tuple[Array]) -> tuple[Array]:
    """Rows ``(labels,)``, shared ``(class_weight,)`` -> the weight of each row's index label (*lead), 0 for no class."""
    (labels,), (w,) = rows, shared
    return (pick(xp, w, options.arange(xp, labels, w.shape[0]) == labels[..., None]),)


def label_total(xp: Any, options: Options, rows: tuple[Array], shared: tuple[Array | None]) -> tuple[Array]:
    """Rows ``(probabilities,)``, shared ``(class_weight,)`` -> ``sum_c w_c q_c`` (*lead), NaN where a q_c is none."""
    (labels,), (w,) = rows, shared
    q = xp.astype(labels, options.dtype, copy=False)
    valid = (xp.min(q, axis=-1) >= 0) & (xp.max(q, axis=-1) < INF)
    return (xp.where(valid, pairwise_sum(xp, q if w is None else q * w), NAN),)


def target(xp: Any, options: Options, x: Array, labels: Array, w: Array | None) -> Target:
    count = x.shape[-1]
    if labels.ndim == x.ndim:
        q = xp.astype(labels, options.dtype, copy=False)
    else:
        is_label = options.arange(xp, x, count) == labels[..., None]
        if options.label_smoothing == 0:
            total = xp.ones_like(x[..., 0]) if w is None else pick(xp, w, is_label)
            return Target(is_label, None, total)
        q = xp.astype(is_label, options.dtype)
    if options.label_smoothing != 0:
        q = q * (1 - options.label_smoothing) + options.label_smoothing / count
    if w is not None:
        q = q * w
    return Target(None, q, pairwise_sum(xp, q))


def masked(xp: Any, x: Array, a: Array, uncounted: Array) -> tuple[Array, Array]:
    """`x` with rows of zeros for those of weight zero, and which they are (*lead).

    A row whose scale is 0 is one; so is an `uncounted` one where its logits could not be computed with.
    """
    blank = (a == 0) | (uncounted & ~xp.isfinite(xp.max(x, axis=-1)))
    return xp.where(blank[..., None], 0.0, x), blank


def distance(xp: Any, weight: Array, m: Array, x: Array) -> Array:
    """``weight (m - x)`` without overflow in the difference; 0 for weight 0 on an absent class."""
    half = 0.5 * m - 0.5 * x
    return 2 * weight * xp.where((weight == 0) & (x == -INF), 0.0, half)


def _cap(xp: Any, options: Options, x: Array) -> tuple[Array, Array | None, Array | None]:
    """The capped logits and the first and second derivative of the cap; infinities stay as they are."""
    if options.softcap is None:
        return x, None, None
    finite = xp.isfinite(x)
    ratio = xp.where(finite, x, 0.0) / options.softcap
    tanh = xp.tanh(ratio)
    t = xp.exp(-2 * xp.abs(ratio))
    slope = xp.where(finite, 4 * t / ((1 + t) * (1 + t)), 0.0)  # 1 - tanh^2 without cancellation
    return xp.where(finite, options.softcap * tanh, x), slope, -2 * tanh * slope / options.softcap


class _Rows(NamedTuple):
    """What the loss and its derivatives of a block of rows have in common."""

    x: Array  # (*lead, C), capped
    slope: Array | None  # (*lead, C)
    curvature: Array | None  # (*lead, C)
    a: Array  # (*lead)
    blank: Array  # (*lead) bool
    target: Target
    softmax: Softmax
    log1p: Array  # (*lead), log1p(s)
    lse: Array  # (*lead)
    loss: Array  # (*lead)


def _forward(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[Array | None]) -> _Rows:
    (logits, labels, a), (w,) = rows[:3], shared
    x = xp.astype(logits, options.dtype, copy=False)
    goal = target(xp, options, x, labels, w)
    x, blank = masked(xp, x, a, (goal.total == 0) & (options.z_loss == 0))
    x, slope, curvature = _cap(xp, options, x)
    state = softmax_state(xp, options, x)
    log1p = xp.log1p(state.s)
    if goal.weight is None:
        loss = distance(xp, a * goal.total, state.m, pick(xp, x, goal.is_label))
    else:
        loss = pairwise_sum(xp, distance(xp, a[..., None] * goal.weight, state.m[..., None], x))
    loss = loss + a * goal.total * log1p
    lse = state.m + log1p
    if options.z_loss != 0:
        loss = loss + a * options.z_loss * lse * lse
    return _Rows(x, slope, curvature, a, blank, goal, state, log1p, lse, loss)


def _gradient(xp: Any, options: Options, f: _Rows) -> Array:
    """The gradient with respect to the capped logits, (*lead, C)."""
    at, m, s, e, ratio = f.softmax
    is_label, weight, total = f.target
    scale = f.a / (1 + s)
    extra = 2 * options.z_loss * f.lse if options.z_loss != 0 else 0.0
    if weight is None:
        others = scale * (total + extra)
        x_y = pick(xp, f.x, is_label)
        e_y = xp.exp(x_y - m)
        rest = xp.where(x_y == m, s, 1 + (s - e_y))
        at_label = scale * (extra * e_y - total * rest)
        g = xp.where(at, others[..., None], e * (others * ratio)[..., None])
        return xp.where(is_label, at_label[..., None], g)
    e = f.softmax.exp(xp)
    rest = xp.where(f.x == m[..., None], s[..., None], 1 + (s[..., None] - e))
    of_p = (total + extra)[..., None] - weight
    return scale[..., None] * (of_p * e - weight * rest)


def loss(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[Array | None]) -> tuple[Array]:
    """Rows ``(logits, labels, a)`` -> loss (*lead)."""
    return (_forward(xp, options, rows, shared).loss,)


def loss_and_grad(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[Array | None]) -> tuple[Array, Array]:
    """Rows ``(logits, labels, a)`` -> loss (*lead), gradient (*lead, C) in the dtype of the logits."""
    f = _forward(xp, options, rows, shared)
    g = _gradient(xp, options, f)
    if f.slope is not None:
        g = g * f.slope
    return f.loss, xp.astype(g, rows[0].dtype, copy=False)


def loss_and_jvp(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[Array | None]) -> tuple[Array, Array]:
    """Rows ``(logits, labels, a, tangent)`` -> loss (*lead), its directional derivative (*lead)."""
    f = _forward(xp, options, rows, shared)
    g = _gradient(xp, options, f)
    if f.slope is not None:
        g = g * f.slope
    t = xp.where(f.blank[..., None], 0.0, xp.astype(rows[3], options.dtype, copy=False))
    return f.loss, pairwise_sum(xp, g * t)


def hvp(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[Array | None]) -> tuple[Array]:
    """Rows ``(logits, labels, a, v)`` -> Hessian times v (*lead, C) in the dtype of the logits."""
    f = _forward(xp, options, rows, shared)
    v = xp.where(f.blank[..., None], 0.0, xp.astype(rows[3], options.dtype, copy=False))
    u = v if f.slope is None else v * f.slope
    p = f.softmax.exp(xp) / (1 + f.softmax.s)[..., None]
    # Measured from its value at the maximum, then from its mean, twice: neither a confident row, whose mean is nearly
    # that value, nor an outlier at the maximum, far from the mean, loses its digits.
    origin = pick(xp, u, f.softmax.at)
    centred = u - origin[..., None]
    shift = pairwise_sum(xp, p * centred)
    centred = centred - shift[..., None]
    centred = centred - pairwise_sum(xp, p * centred)[..., None]
    z = options.z_loss
    h = (f.a * (f.target.total + (2 * z * f.lse if z != 0 else 0.0)))[..., None] * (p * centred)
    if z != 0:
        h = h + (f.a * 2 * z * (origin + shift))[..., None] * p
    if f.slope is not None:
        h = h * f.slope + _gradient(xp, options, f) * f.curvature * v
    return (xp.astype(h, rows[0].dtype, copy=False),)


def nll(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[Array | None]) -> tuple[Array]:
    """Rows ``(log_probs, labels, a)`` -> loss (*lead)."""
    (log_probs, labels, a), (w,) = rows, shared
    x = xp.astype(log_probs, options.dtype, copy=False)
    goal = target(xp, options, x, labels, w)
    x, _ = masked(xp, x, a, goal.total == 0)
    zero = xp.where(xp.isfinite(xp.max(x, axis=-1)), xp.zeros_like(a), NAN)
    if goal.weight is None:
        return (distance(xp, a * goal.total, zero, pick(xp, x, goal.is_label)),)
    return (pairwise_sum(xp, distance(xp, a[..., None] * goal.weight, zero[..., None], x)),)


def logsumexp(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[()]) -> tuple[Array]:
    """Rows ``(x,)`` -> log-sum-exp (*lead)."""
    x = xp.astype(rows[0], options.dtype, copy=False)
    state = softmax_state(xp, options, x)
    m = xp.max(x, axis=-1)
    return (xp.where(xp.isfinite(m), state.m + xp.log1p(state.s), m),)


def log_softmax(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[()]) -> tuple[Array]:
    """Rows ``(x,)`` -> log-probabilities (*lead, C)."""
    x = xp.astype(rows[0], options.dtype, copy=False)
    state = softmax_state(xp, options, x)
    return ((x - state.m[..., None]) - xp.log1p(state.s)[..., None],)


def softmax(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[()]) -> tuple[Array]:
    """Rows ``(x,)`` -> probabilities (*lead, C) in the dtype of `x`."""
    state = softmax_state(xp, options, xp.astype(rows[0], options.dtype, copy=False))
    return (xp.astype(state.exp(xp) / (1 + state.s)[..., None], rows[0].dtype, copy=False),)


def binary(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[()]) -> tuple[Array]:
    """Elements ``(logits, labels, positive weight, a)`` -> loss, of the same shape."""
    return (_binary(xp, options, rows)[0],)


def binary_and_grad(xp: Any, options: Options, rows: tuple[Array, ...], shared: tuple[()]) -> tuple[Array, Array]:
    """Elements ``(logits, labels, positive weight, a)`` -> loss, gradient in the dtype of the logits."""
    loss, x, t, no, yes = _binary(xp, options, rows)
    g = (no * xp.where(x >= 0, 1.0, t) - yes * xp.where(x >= 0, t, 1.0)) / (1 + t)
    return loss, xp.astype(g, rows[0].dtype, copy=False)


def _binary(xp: Any, options: Options, rows: tuple[Array, ...]) -> tuple[Array, Array, Array, Array, Array]:
    logits, labels, positive, a = rows
    x = xp.where(a == 0, 0.0, xp.astype(logits, options.dtype, copy=False))
    y = xp.astype(labels, options.dtype, copy=False)
    no, yes = a * (1 - y), a * y if positive is None else a * y * positive
    t = xp.exp(-xp.abs(x))
    zero = xp.zeros_like(x)
    log1p = xp.log1p(t)
    # softplus(x) = max(x, 0) + log1p(exp(-|x|)); an infinite logit costs nothing under the label that it is sure of
    below = xp.where((no == 0) & (x == INF), 0.0, xp.maximum(x, zero) + log1p)
    above = xp.where((yes == 0) & (x == -INF), 0.0, xp.maximum(-x, zero) + log1p)
    return no * below + yes * above, x, t, no, yes
