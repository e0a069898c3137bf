"""Cross-entropy of rows of logits and its exact derivatives: the reference, which defines what is right.

A row has logits ``x``, a weighted target ``Q_j = a w_j q_j`` (scale, class weight, probability) with sum ``T`` and,
with z-loss, ``Z = a z``. With ``m = max x``, ``e_j = exp(x_j - m)``, and ``s`` the sum of ``e`` over all classes but
one maximum::

    log-sum-exp   lse = m + log1p(s)
    softmax       p_j = e_j / (1 + s)
    loss          L   = sum_j Q_j (m - x_j) + T log1p(s) + Z lse^2
    gradient      g_j = (T + 2 Z lse) p_j - Q_j                             softmax(x) - q for T = 1, Z = 0
                  g_j = (T - Q_j + 2 Z lse) p_j - Q_j s / (1 + s)           wherever x_j = m: the same, no cancellation
    tangent       dL  = sum_j g_j t_j
    Hessian       (H v)_j = (T + 2 Z lse) p_j (v_j - <p, v>) + 2 Z p_j <p, v>

The textbook forms ``log(sum e) - x_y`` and ``p_y - 1`` cancel in a confident row, and lose every digit. A probability
above 1/2 can only be that of a maximum, so its own line of the gradient is all that is needed.

Arrays have the classes on their last axis: logits have the shape ``(*batch, C)``, a number for each row ``(*batch)``.
A kernel is ``kernel(xp, options, rows, shared)``, and returns a tuple of arrays. `rows` may be cut into blocks along
the batch; `shared` is needed whole. Every row takes the same path. Backends may replace whole kernels by tuned ones,
which have to agree: see `xent_any.Backend.kernels`. With a softcap, the x above is the capped logit `capped` computes;
the chain rule brings its slope and curvature into gradient and Hessian.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

Array: TypeAlias = Any
"""An array of any library that follows the Array API standard."""
Arrays: TypeAlias = tuple[Any, ...]
"""Arrays, or None for those that a problem does not have."""

INF = float("inf")
NAN = float("nan")


class Options(NamedTuple):
    """The options of a problem, for which a kernel may be compiled.

    A number is a float; or, if its name is in `given`, an array whose value is in the last of `shared`: then it is 1.0
    here, and inside of a kernel the 0-d array.
    """

    dtype: Any  # the precision computed in
    backend: Any  # a `xent_any.Backend`, whose primitives the kernels call
    label_smoothing: Array | float = 0.0
    z_loss: Array | float = 0.0
    softcap: Array | float | None = None
    given: tuple[str, ...] = ()  # names of the numbers that are arrays
    classes: int | None = None  # number of a row's classes, where a kernel is handed a block of them
    axis: int = -1  # of the classes in the caller's logits, from the end
    unrestricted: bool = False  # weights of classes, labels and log-probabilities may be any numbers, also NaN


class Tuned(NamedTuple):
    """A kernel that computes what a kernel of the reference does, faster on one engine.

    It declines by returning None: an array or an option that it is not made for.
    """

    kernel: "Callable[[Any, Options, Arrays, Arrays], Arrays | None]"
    knows: frozenset[str] = frozenset()  # options that it takes; of all others the default alone

    def takes(self, options: Options) -> bool:
        """Whether the kernel knows all options that are not the default."""
        for (name, default), value in zip(options._field_defaults.items(), options[2:], strict=True):
            if value is not default and name not in self.knows and (hasattr(value, "shape") or value != default):
                return False
        return True


def compute(kernel: "Kernel", xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Run the backend's tuned kernel in the place of the reference's; that where there is none that takes the task."""
    tuned = options.backend.kernels.get(kernel)
    if tuned is not None and tuned.takes(options):
        results: Arrays | None = tuned.kernel(xp, options, rows, shared)
        if results is not None:
            return results
    return kernel(xp, options, rows, shared)


class Target(NamedTuple):
    """The weighted target of rows: ``Q_j = dense_j``, and at the class `label` `at_label` more."""

    label: Array | None  # (*batch)
    at_label: Array | None  # (*batch)
    dense: Array | None  # (*batch, C), or (*batch, 1) if all classes have the same
    total: Array  # (*batch), T


class State(NamedTuple):
    """What some classes of a row, or all, add to its loss. `merge` combines blocks of classes."""

    max: Array  # (*batch), NaN where a class is NaN or +inf, or none of the row is there; -inf if none of a block is
    rest: Array  # (*batch), s: the sum of exp(x - max) over these classes but one maximum
    missed: Array | None  # (*batch), sum_j Q_j (max - x_j); None where nobody asks for the loss
    total: Array  # (*batch), sum_j Q_j


class Row(NamedTuple):
    """Rows of logits, their target and their state; 0 where a row is ignored and cannot be computed with."""

    x: Array  # (*batch, C), capped
    slope: Array | None  # (*batch, C), derivative of the cap
    curvature: Array | None  # (*batch, C), its second derivative
    target: Target
    state: State
    z: Array | None  # (*batch), Z

    def uncapped(self, g: Array) -> Array:
        """Apply the chain rule of the cap to g (*batch, C), in either direction."""
        return g if self.slope is None else g * self.slope


def cast(xp: Any, a: Array, dtype: Any) -> Array:
    """Return `a` in a dtype; itself where it has it: not every library's astype knows ``copy=False``."""
    return a if a.dtype == dtype else xp.astype(a, dtype)


def with_numbers(options: Options, shared: Arrays) -> tuple[Options, Arrays]:
    """Take the numbers that are arrays out of `shared` into the options."""
    if not options.given:
        return options, shared
    *others, numbers = shared
    values = {name: numbers[i] for i, name in enumerate(options.given)}
    return options._replace(given=(), **values), tuple(others)


def is_zero(number: Array | float) -> bool:
    """Whether a number of the options is known to be 0 before anything is computed."""
    return isinstance(number, float) and number == 0


def extremes(backend: Any, array: Array) -> tuple[Any, Any] | None:
    """Read the smallest and the largest value, NaN if one is; None where they cannot be read now."""
    read_with = backend.readable(array)
    if read_with is None:
        return None
    xp, array = read_with
    return (xp.min(array), xp.max(array)) if 0 not in array.shape else (INF, -INF)


def z_of(options: Options, a: Array) -> Array | None:
    """Compute Z (*batch), if there is a z-loss."""
    return None if is_zero(options.z_loss) else a * options.z_loss


def distance(xp: Any, weight: Array, m: Array, x: Array) -> Array:
    """Compute ``weight (m - x)``: no overflow in the difference, 0 for weight 0 on an absent class."""
    half = weight * xp.where((weight == 0) & (x == -INF), 0.0, 0.5 * m - 0.5 * x)
    return half + half


def target_of(xp: Any, options: Options, count: int, labels: Array, a: Array, w: Array | None) -> Target:
    """Compute the target of rows over `count` classes from labels, scales a (*batch) and class weights w (C,)."""
    backend, smoothing = options.backend, options.label_smoothing
    each = smoothing if is_zero(smoothing) else smoothing / (options.classes or count)
    even = None if is_zero(smoothing) else a * each

    def times(scale: Array, q: Array) -> Array:  # zero weight times anything is zero
        q = scale * q
        return xp.where((scale == 0) & ~xp.isfinite(q), 0.0, q) if options.unrestricted else q

    if labels.ndim > a.ndim:
        q = cast(xp, labels, options.dtype)
        q = q if even is None else (1 - smoothing) * q + each
        dense = times(a[..., None], q if w is None else w * q)
        return Target(None, None, dense, backend.sum(xp, dense))
    is_here = None if options.classes is None else labels < count  # in this block of classes
    labels = labels if is_here is None else xp.where(is_here, labels, 0)
    at_label = a if even is None else a * (1 - smoothing)
    at_label = at_label if w is None else times(at_label, backend.take(xp, w, labels))
    at_label = at_label if is_here is None else xp.where(is_here, at_label, 0.0)
    if even is None:
        return Target(labels, at_label, None, at_label)
    known = is_here is None and isinstance(smoothing, float)  # not NaN, which a number that is wrong has become
    if w is None:
        return Target(labels, at_label, even[..., None], a if known else at_label + count * even)
    return Target(labels, at_label, times(even[..., None], w), at_label + times(even, backend.sum(xp, w)))


def dense_of(xp: Any, options: Options, target: Target, x: Array) -> Array:
    """Compute Q in full, (*batch, C) or (*batch, 1)."""
    if target.label is None or target.at_label is None:
        return target.dense
    classes = options.backend.arange(xp, x, x.shape[-1])
    at_label = xp.where(classes == target.label[..., None], target.at_label[..., None], 0.0)
    return at_label if target.dense is None else at_label + target.dense


def is_ignored(xp: Any, options: Options, target: Target, z: Array | None) -> Array:
    """Which rows (*batch) have no weight: theirs, or that of all their classes, is 0."""
    zero = target.total == 0
    if options.unrestricted and target.dense is not None:  # weights of both signs may add up to 0
        zero = zero & xp.all(target.dense == 0, axis=-1)
    return zero if z is None else zero & (z == 0)


def capped(xp: Any, options: Options, x: Array) -> tuple[Array, Array | None, Array | None]:
    """Cap logits: ``c tanh(x / c)``, its first and second derivative. Infinities stay as they are."""
    if options.softcap is None:
        return x, None, None
    finite = xp.isfinite(x)
    ratio = xp.where(finite, x, 0.0) / options.softcap
    sign = xp.where(ratio >= 0, xp.ones_like(ratio), -1.0)
    t = xp.exp(-2 * sign * ratio)
    tanh = -sign * xp.expm1(-2 * sign * ratio) / (1 + t)
    slope = xp.where(finite, 4 * t / ((1 + t) * (1 + t)), 0.0)  # 1 - tanh^2 without cancellation
    return xp.where(finite, options.softcap * tanh, x), slope, -2 * tanh * slope / options.softcap


def rest_of(xp: Any, options: Options, x: Array, m: Array) -> Array:
    """Compute s (*batch), the sum of ``exp(x - m)`` over the classes of x (*batch, C) but one where x is its maximum m.

    Where a maximum is left out its exponential of 1 is subtracted, not replaced: the derivatives are right as well. Of
    classes that are all absent, the sum with none left out is 0, and s is -1.
    """
    highest = xp.astype(x == m[..., None], x.dtype)
    e = xp.exp(x - xp.where(m == -INF, 0.0, m)[..., None])
    return options.backend.sum(xp, e - highest) + (options.backend.sum(xp, highest) - 1)


def missed_of(xp: Any, options: Options, target: Target, m: Array, x: Array) -> Array:
    """Compute ``sum_j Q_j (m - x_j)`` (*batch); from 0 instead of m, where all classes of a block are absent."""
    m, missed = xp.where(m == -INF, 0.0, m), None
    if target.label is not None:
        missed = distance(xp, target.at_label, m, options.backend.take(xp, x, target.label))
    if target.dense is None:
        return missed
    dense = options.backend.sum(xp, distance(xp, target.dense, m[..., None], x))
    return dense if missed is None else missed + dense


def merge(xp: Any, options: Options, states: Sequence[State]) -> State:
    """Combine the states of blocks of classes, in any grouping."""
    m, rest, missed, total = (xp.stack(values, axis=-1) for values in zip(*states, strict=True))
    top = options.backend.max(xp, m)
    highest = m == top[..., None]
    terms = xp.where(highest, rest, (1 + rest) * xp.exp(m - top[..., None]))
    sum_of = options.backend.sum
    rest = sum_of(xp, terms) + (sum_of(xp, xp.astype(highest, m.dtype)) - 1)
    missed = sum_of(xp, missed + distance(xp, total, top[..., None], m))
    return State(top, rest, missed, sum_of(xp, total))


def read(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Row:
    """Read rows ``(logits, labels, a)``, or ``(logits, labels, a, maximum, s, T)`` of which the state is known."""
    (logits, labels, a, *known), (w,) = rows, shared
    x = cast(xp, logits, options.dtype)
    target = target_of(xp, options, x.shape[-1], labels, a, w)
    z = z_of(options, a)
    x, slope, curvature = capped(xp, options, x)
    m = known[0] if known else options.backend.max(xp, x)
    if known:
        target = target._replace(total=known[2])
    if known or options.classes is None:
        unusable = is_ignored(xp, options, target, z) & ~xp.isfinite(m)
        m = xp.where(unusable, 0.0, xp.where(xp.isfinite(m), m, NAN))
        x = xp.where(unusable[..., None], 0.0, x)
    else:  # a block of classes cannot tell whether its rows are ignored; -inf says that all of them are absent
        m = xp.where(m < INF, m, NAN)
    if known:
        return Row(x, slope, curvature, target, State(m, known[1], None, target.total), z)
    state = State(m, rest_of(xp, options, x, m), missed_of(xp, options, target, m, x), target.total)
    return Row(x, slope, curvature, target, state, z)


def loss_from(xp: Any, state: State, z: Array | None) -> Array:
    """Compute the loss of rows (*batch) from the state of all their classes."""
    loss = state.missed + state.total * xp.log1p(state.rest)
    if z is None:
        return loss
    lse = state.max + xp.log1p(state.rest)
    return loss + z * lse * lse


def labels_of_block(xp: Any, labels: Array, a: Array, start: int, stop: int) -> Array:
    """Return the labels of a block of classes, whose number stands for another class."""
    if labels.ndim > a.ndim:
        return labels[..., start:stop]
    return xp.where((labels >= start) & (labels < stop), labels - start, stop - start)


def loss_of_parts(xp: Any, options: Options, states: Sequence[State], a: Array) -> tuple[Array, State]:
    """Compute the loss of rows (*batch) from the states of blocks of their classes, and the state of all.

    For weights that are not negative: T is 0 in ignored rows alone.
    """
    state, z = merge(xp, options, states), z_of(options, a)
    ignored = is_ignored(xp, options, Target(None, None, None, state.total), z)
    return xp.where(ignored & ~xp.isfinite(state.max), 0.0, loss_from(xp, state, z)), state


def gradient_of(xp: Any, options: Options, row: Row) -> Array:
    """Compute the gradient with respect to the capped logits, (*batch, C)."""
    x, (m, s, _, total) = row.x, row.state
    e = xp.exp(x - m[..., None])
    s, total = s[..., None], total[..., None]
    p, q = e / (1 + s), dense_of(xp, options, row.target, x)
    more = 0.0 if row.z is None else 2 * (row.z * (m + xp.log1p(row.state.rest)))[..., None]
    at_maximum = (total - q + more) * p - q * ((s - (e - 1)) / (1 + s))  # e is 1 there; e - 1 is for its derivative
    return xp.where(x == m[..., None], at_maximum, (total + more) * p - q)


def loss(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a)`` -> loss (*batch)."""
    row = read(xp, options, rows, shared)
    return (loss_from(xp, row.state, row.z),)


def loss_and_state(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a)`` -> loss, and what `gradient` need not compute again: the maximum, s and T."""
    row = read(xp, options, rows, shared)
    m = xp.where(is_ignored(xp, options, row.target, row.z), NAN, row.state.max)  # `gradient` sees that it is ignored
    return loss_from(xp, row.state, row.z), m, row.state.rest, row.state.total


def loss_and_grad(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a)`` -> loss (*batch), gradient (*batch, C) in the dtype of the logits."""
    row = read(xp, options, rows, shared)
    gradient = row.uncapped(gradient_of(xp, options, row))
    return loss_from(xp, row.state, row.z), cast(xp, gradient, rows[0].dtype)


def part(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a)`` of a block of classes -> its `State`."""
    return tuple(read(xp, options, rows, shared).state)


def gradient(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a, maximum, s, T)`` of classes or a block of them -> gradient, given a row's state."""
    row = read(xp, options, rows, shared)
    return (cast(xp, row.uncapped(gradient_of(xp, options, row)), rows[0].dtype),)


def loss_and_jvp(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a, tangent)`` -> loss (*batch), its directional derivative (*batch)."""
    (logits, labels, a, tangent), (w,) = rows, shared
    first = cast(xp, logits, options.dtype), labels, a
    loss, g = compute(loss_and_grad, xp, options, first, shared)
    ignored = is_ignored(xp, options, target_of(xp, options, logits.shape[-1], labels, a, w), z_of(options, a))
    return loss, options.backend.sum(xp, g * direction(xp, options, ignored, tangent))


def direction(xp: Any, options: Options, ignored: Array, v: Array) -> Array:
    """Cast a tangent or vector (*batch, C) to the precision computed in; in ignored rows it may hold anything."""
    v = cast(xp, v, options.dtype)
    usable = xp.abs(v) < 0.25 * float(xp.finfo(options.dtype).max)  # no difference of them overflows
    return xp.where(ignored[..., None] & ~usable, 0.0, v)


def hvp(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a, v)`` -> Hessian times v (*batch, C) in the dtype of the logits."""
    row = read(xp, options, rows[:3], shared)
    v = direction(xp, options, is_ignored(xp, options, row.target, row.z), rows[3])
    return (cast(xp, hessian_times(xp, options, row, v), rows[0].dtype),)


def hessian(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Compute `hvp`, linear in v to the letter: also in ignored rows, where v must be finite."""
    row, v = read(xp, options, rows[:3], shared), cast(xp, rows[3], options.dtype)
    return (cast(xp, hessian_times(xp, options, row, v), rows[0].dtype),)


def hessian_times(xp: Any, options: Options, row: Row, v: Array) -> Array:
    """Compute the Hessian with respect to the logits times v (*batch, C)."""
    sum_of, u, (m, s, _, total) = options.backend.sum, row.uncapped(v), row.state
    p = xp.exp(row.x - m[..., None]) / (1 + s)[..., None]
    # The vector is measured from its value at the maximum, then from its mean, twice: neither a confident row, whose
    # mean is nearly that value, nor an outlier at the maximum, far from the mean, loses its digits.
    highest = xp.astype(row.x == m[..., None], p.dtype)
    origin = sum_of(xp, highest / sum_of(xp, highest)[..., None] * u)
    centred = u - origin[..., None]
    mean = sum_of(xp, p * centred)
    centred = centred - mean[..., None]
    centred = centred - sum_of(xp, p * centred)[..., None]
    outer = total if row.z is None else total + 2 * row.z * (m + xp.log1p(s))
    h = outer[..., None] * p * centred
    if row.z is not None:
        h = h + (2 * row.z * (origin + mean))[..., None] * p
    if row.curvature is not None:
        h = row.uncapped(h) + gradient_of(xp, options, row) * row.curvature * v
    return h


def label_weight(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(labels,)``, shared ``(class_weight,)`` -> ``sum_c w_c q_c`` (*batch), NaN where a q_c is wrong."""
    (labels,), (w,) = rows, shared
    if xp.isdtype(labels.dtype, "integral"):
        return (options.backend.take(xp, w, labels),)
    q = cast(xp, labels, options.dtype)
    is_right = (xp.min(q, axis=-1) >= 0) & (xp.max(q, axis=-1) < INF)
    return (xp.where(is_right, options.backend.sum(xp, q if w is None else w * q), NAN),)


HALF_SLACK = 2.0**-4
"""The square root of the unit roundoff of bfloat16; that of float16 is less."""

LOWEST = -32.0
"""Log-probabilities below this, and -inf among them, count as this where it is judged what rounding may do."""


def nll(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(log_probs, labels, a)`` -> loss (*batch), NaN for a row that has no log-probabilities."""
    (log_probs, labels, a), (w,) = rows, shared
    x = cast(xp, log_probs, options.dtype)
    target = target_of(xp, options, x.shape[-1], labels, a, w)
    ignored, wrong = is_ignored(xp, options, target, None), None
    if options.unrestricted and target.label is not None:  # the other classes do not matter
        unusable = ignored & ~xp.isfinite(options.backend.take(xp, x, target.label))
        x = xp.where(unusable[..., None], 0.0, x)
    elif not options.unrestricted:
        m = options.backend.max(xp, x)
        wrong = ~ignored & (~xp.isfinite(m) | above_zero(xp, options, x, m, log_probs.dtype))
        x = xp.where((ignored & ~xp.isfinite(m))[..., None], 0.0, x)
    loss = missed_of(xp, options, target, xp.zeros_like(a), x)
    return (loss if wrong is None else loss * xp.where(wrong, NAN, xp.ones_like(a)),)


def above_zero(xp: Any, options: Options, x: Array, m: Array, dtype: Any) -> Array:
    """Which rows x (*batch, C), with the maximum m, are no log-probabilities: one is positive beyond rounding.

    Where rounding makes one positive, it is nearly 1, and all others are far below it; by their lowest, what rounding
    there may be is judged. It is that of `dtype`, in which the logarithms have been computed.
    """
    slack = math.sqrt(xp.finfo(options.dtype).eps) if dtype == options.dtype else HALF_SLACK
    low = xp.min(x, axis=-1)
    return (m > 0) & (m < INF) & (m > -slack * xp.where(low < LOWEST, LOWEST, low))


def logsumexp(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(x,)`` -> log-sum-exp (*batch)."""
    x = cast(xp, rows[0], options.dtype)
    m = options.backend.max(xp, x)
    return (xp.where(xp.abs(m) == INF, m, m + xp.log1p(rest_of(xp, options, x, m))),)


def softmax_state(xp: Any, options: Options, x: Array) -> tuple[Array, Array]:
    """Compute the maximum of rows x (*batch, C), NaN where it is not finite, and s."""
    m = options.backend.max(xp, x)
    m = xp.where(xp.isfinite(m), m, NAN)
    return m, rest_of(xp, options, x, m)


def log_softmax(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(x,)`` -> log-probabilities (*batch, C)."""
    x = cast(xp, rows[0], options.dtype)
    m, s = softmax_state(xp, options, x)
    return ((x - m[..., None]) - xp.log1p(s)[..., None],)


def softmax(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(x,)`` -> probabilities (*batch, C) in the dtype of `x`."""
    x = cast(xp, rows[0], options.dtype)
    m, s = softmax_state(xp, options, x)
    return (cast(xp, xp.exp(x - m[..., None]) / (1 + s)[..., None], rows[0].dtype),)


Kernel: TypeAlias = Callable[[Any, Options, Arrays, Arrays], Arrays]
"""``kernel(xp, options, rows, shared)``."""
