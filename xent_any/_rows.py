"""The mathematics: everything that is computed for one block of rows.

One row has logits ``x``, weighted target ``Q`` (``Q_c = w_c q_c``), total ``T = sum_c Q_c`` and scale ``a``
(sample weight over the mean's divisor). With ``m = max x``, ``k`` one class where it is attained,
``e_j = exp(x_j - m)`` and ``s = sum of e over the classes other than k``::

    log-sum-exp    lse    = m + log1p(s)
    loss           L      = a (sum_j Q_j (m - x_j) + T log1p(s) + z lse^2)
    gradient       g_j    = a ((T + 2 z lse) p_j - Q_j),    p_j = e_j / (1 + s)
                   g_k    = a ((T - Q_k + 2 z lse) p_k - Q_k s / (1 + s))
                   g_y    = a (2 z lse p_y - T (s + (1 - e_y)) / (1 + s)) at an index label y
    tangent        dL     = sum_j g_j t_j
    Hessian        (Hv)_j = a ((T + 2 z lse) p_j (v_j - <p, v>) + 2 z p_j <p, v>)

Nothing here cancels. ``log(1 + s) - (x_y - m)`` and ``p_y - 1``, the textbook forms, lose every digit of a confident
row. A probability above 1/2 can only be that of class k, and there ``1 - p_k`` is ``s / (1 + s)``.

Arrays have their class axis last; ``lead`` stands for all the other axes. Every kernel has the signature
``kernel(xp, options, rows, shared)``: ``rows`` are arrays that are cut into blocks along ``lead``, ``shared`` are
whole, ``options`` is hashable. It returns a tuple of arrays. A backend may compile it, run blocks of it in
parallel or attach derivatives to it: see `xent_any.Backend.run`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

Array: TypeAlias = Any
"""An array of any library that follows the Array API standard."""
Arrays: TypeAlias = tuple[Any, ...]
"""Arrays, or None for those that a problem does not have."""

Guarded: TypeAlias = tuple[Arrays, Array]
"""Results, and the condition, unless it holds everywhere, on which they are not to be used."""

INF = float("inf")
NAN = float("nan")

NEGLIGIBLE = 2.0**-100
"""A row whose other classes sum to less than this for each class is won by far. What float32 cannot hold is far below
this: in other rows no sum loses digits by terms that are subnormal, or flushed to 0."""

HALF_SLACK = 2.0**-4
"""The square root of what bfloat16 rounds by, nearly; that of float16 is less."""

LOWEST = -32.0
"""Log-probabilities below this, and -inf among them, count as this where it is judged what rounding may do."""

LIFT = 2.0**32
"""In rows that are won by far, exponentials are multiplied by the square of this, which makes those from 2**-190 on
normal in float32."""


def are_near(s: Array, count: int) -> Array:
    """Whether rows of `count` classes have a finite maximum and are not won by far, given their s."""
    return s >= NEGLIGIBLE * count


class Primitives(Protocol):
    """What libraries do in ways of their own; `xent_any.Backend` documents it and has the portable forms."""

    def load(self, xp: Any, a: Array, dtype: Any) -> Array: ...
    def store(self, xp: Any, a: Array, dtype: Any) -> Array: ...
    def top(self, xp: Any, x: Array) -> tuple[Array | None, Array]: ...
    def winner(self, xp: Any, x: Array, m: Array) -> Array: ...
    def share(self, xp: Any, like: Array, dtype: Any, shape: tuple[int, ...], parts: float) -> Array: ...
    def with_nan(self, xp: Any, x: Array, m: Array, rows: Array | None) -> Array: ...
    def as_zeros(self, broken: Array, masked: Array | None) -> Array | None: ...
    def pick(self, xp: Any, a: Array, k: Array) -> Array: ...
    def put(self, xp: Any, a: Array, k: Array, value: Array | float, *, owned: bool = False) -> Array: ...
    def zeroed(self, xp: Any, a: Array, rows: Array) -> Array: ...
    def lessen(self, xp: Any, a: Array, value: Any, k: Array | None = None) -> Array: ...
    def minus(self, xp: Any, x: Array, m: Array) -> Array: ...
    def exp(self, xp: Any, x: Array, m: Array | None, times: float = 1.0) -> Array: ...
    def others(self, xp: Any, x: Array, k: Array | None, m: Array | None, *, keep: bool) -> tuple[Array, Array]: ...
    def exponentials(
        self, xp: Any, x: Array, zeros: Array | None, k: Array | None, m: Array, *, keep: bool
    ) -> tuple[Array, Array, Array | None]: ...
    def roots(self, xp: Any, x: Array, k: Array | None, m: Array) -> tuple[Array, Array]: ...
    def scaled(self, xp: Any, a: Array, c: Array) -> Array: ...
    def multiplied(self, xp: Any, a: Array, b: Array | float, like: Array) -> Array: ...
    def sum(self, xp: Any, a: Array) -> Array: ...
    def sum_of_rows(self, xp: Any, a: Array) -> Array: ...
    def dot(self, xp: Any, a: Array | float, b: Array) -> Array: ...
    def is_readable(self, array: Array) -> bool: ...
    def either(self, xp: Any, like: Array, usual: Callable[[], Guarded], always: Callable[[], Arrays]) -> Arrays: ...
    def may_choose(self, x: Array, spread: Array | float | None, *others: Array | float | None) -> bool: ...
    def where(self, xp: Any, condition: Array, a: Array, otherwise: Callable[[], Array]) -> Array: ...
    def holds(self, xp: Any, condition: Array) -> bool: ...
    def run(self, task: Any) -> Arrays: ...

    def linear_memory(self, max_bytes: int | None) -> int: ...
    def linear_arrays(self, row_bytes: int) -> int: ...
    def may_cut_classes(self, *arrays: Array) -> bool: ...
    def widened(self, xp: Any, weight: Array, dtype: Any) -> Array: ...
    def affine(self, xp: Any, hidden: Array, weight: Array, bias: Array | None, dtype: Any) -> Array: ...
    def factor(self, xp: Any, g: Array, weight: Array) -> Array: ...
    def product(self, xp: Any, g: Array, weight: Array) -> Array: ...
    def add_product(self, xp: Any, total: Array, g: Array, hidden: Array) -> Array: ...
    def scan(self, task: Any, step: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]], totals: Arrays) -> Arrays: ...


class Options(NamedTuple):
    """What a kernel is compiled with, and the numbers that it computes with.

    A number is a float, or inside of a kernel a 0-d array: then it is the element of the last of `shared` at its place
    in `given`, and 1.0 elsewhere.
    """

    dtype: Any  # the precision computed in
    backend: Primitives
    label_smoothing: Array | float = 0.0
    z_loss: Array | float = 0.0
    softcap: Array | float | None = None
    given: tuple[str, ...] = ()  # names of the numbers that are arrays
    classes: int | None = None  # that a row has, where some of them are at hand
    axis: int = -1  # of the classes in the arrays as given, from the end: kernels have them last
    unrestricted: bool = False  # class weights, probabilities and log-probabilities may be any numbers, NaN as well


def with_numbers(options: Options, shared: Arrays) -> tuple[Options, Arrays]:
    """The options with the numbers that are arrays, and what else is `shared`."""
    if not options.given:
        return options, shared
    *others, numbers = shared
    values = {name: numbers[i] for i, name in enumerate(options.given)}
    return options._replace(given=(), **values), tuple(others)


def is_zero(number: Array | float) -> bool:
    """Whether one of the options' numbers is known to be 0 before anything is computed."""
    return isinstance(number, float) and number == 0


class Target(NamedTuple):
    """What a row should be: ``Q_c`` is `spread` at c, and for an index label there `peak` more."""

    label: Array | None  # (*lead)
    peak: Array | float  # (*lead)
    spread: Array | float | None  # (*lead, C), (C,), or one number for all
    total: Array | float  # (*lead), T

    @property
    def is_spread_unevenly(self) -> bool:
        """Whether `spread` is an array."""
        return not (self.spread is None or isinstance(self.spread, float))

    def is_zero(self, xp: Any, options: Options) -> Array | bool:
        """Whether all of a row's Q are 0, (*lead) or of fewer axes."""
        if not (options.unrestricted and self.is_spread_unevenly):
            return self.total == 0  # of numbers that are not negative
        is_zero = xp.all(self.spread == 0, axis=-1)
        return is_zero if isinstance(self.peak, float) else is_zero & (self.peak == 0)

    def spread_at(self, xp: Any, options: Options, k: Array) -> Array | float:
        """`spread` at the class k (*lead)."""
        if not self.is_spread_unevenly:
            return self.spread or 0.0
        return options.backend.pick(xp, self.spread, k)

    def share(self, xp: Any, options: Options, a: Array, x: Array) -> Array | None:
        """`spread` times a (*lead), like x (*lead, C) or (*lead, 1)."""
        if not self.is_spread_unevenly:
            return None if self.spread is None else a[..., None] * self.spread
        return options.backend.multiplied(xp, self.spread, a[..., None], x)


class Softmax(NamedTuple):
    """The state of a row over its classes; see the module's formulas.

    ``exp(x - m)`` is held as ``e * root * root`` and ``s`` as ``others * root * root``, with `root` 1 but for a row won
    by far: there ``s`` alone may be subnormal, and have lost its digits, when a multiple of it is not. None for `root`
    says that there is no such row.
    """

    k: Array | None  # (*lead), one class of each row with the maximum; None where nobody has looked for it
    m: Array  # (*lead), NaN where the maximum is not finite
    e: Array  # (*lead, C); None where only sums are asked for
    others: Array  # (*lead), the sum of e over the classes but k
    s: Array  # (*lead)
    root: Array | None = None  # (*lead)
    top: Array | None = None  # (*lead), the maximum also where it is not finite; None where it is
    has_k: Array | None = None  # (*lead), whether k is that class; None where all are at hand
    apart: Array | None = None  # (*lead), the sum of spread (x - m)

    def exp(self) -> Array:
        """``exp(x - m)``, of shape (*lead, C)."""
        return self.e if self.root is None else self.e * (self.root * self.root)[..., None]

    def exp_times(self, xp: Any, c: Array) -> Array:
        """The multiple ``c exp(x - m)``, of shape (*lead, C), for c of shape (*lead)."""
        product = self.e
        for factor in self.factors(xp, c):
            product = product * factor[..., None]
        return product

    def factors(self, xp: Any, c: Array) -> Arrays:
        """What e and `others` are multiplied by, one after the other, for ``c exp(x - m)`` and c s, c of shape (*lead).

        Nothing in between overflows or is subnormal where the product is not.
        """
        if self.root is None:
            return (c,)
        is_small = xp.abs(c) < 1
        return xp.where(is_small, c, self.root), xp.where(is_small, self.root * self.root, c * self.root)

    def times_others(self, xp: Any, c: Array, others: Array) -> Array:
        """``c s``, for c of shape (*lead) and `others`, or another sum of terms with e (*lead)."""
        for factor in self.factors(xp, c):
            others = others * factor
        return others

    def s_times(self, xp: Any, c: Array) -> Array:
        """``c s``, for c of shape (*lead)."""
        return self.times_others(xp, c, self.others)

    def log_sum_exp(self, xp: Any, options: Options) -> Array | None:
        """``lse`` (*lead), if the z-loss asks for it."""
        return None if is_zero(options.z_loss) else self.m + xp.log1p(self.s)

    def log1p_times(self, xp: Any, c: Array) -> Array:
        """``c log1p(s)``, for c of shape (*lead); s itself, where that is at most C 2**-100."""
        near = c * xp.log1p(self.s)
        return near if self.root is None else xp.where(self.root < 1, self.s_times(xp, c), near)


def pairwise_sum(xp: Any, a: Array) -> Array:
    """Sum over the last axis by halving: at most 2 log2(n) roundings, and the same bits for every memory layout."""
    if a.shape[-1] == 0:
        return xp.sum(a, axis=-1)
    a, odd = halved(a, 1)
    return a[..., 0] if odd is None else a[..., 0] + odd


def halved(a: Array, most: int) -> tuple[Array, Array | None]:
    """At most so many sums, whose sum is that over the last axis; and what else there is of it, (*lead)."""
    n, odd = a.shape[-1], None
    while n > most:
        if n % 2:
            odd = a[..., -1] if odd is None else odd + a[..., -1]
        n //= 2
        a = a[..., :n] + a[..., n : 2 * n]
    return a, odd


def cast(xp: Any, a: Array, dtype: Any) -> Array:
    """`a` itself where it has that dtype: not every library's astype knows ``copy=False``."""
    return a if a.dtype == dtype else xp.astype(a, dtype)


def finite(
    xp: Any, options: Options, x: Array, m: Array, uncounted: Array | None
) -> tuple[Array, Array | None, Array | None]:
    """The maximum m of each row, 0 in rows that are broken, where it is not finite; those; and which are masked.

    Masked rows are to be computed as if they were zeros. Those are `uncounted` rows that could not be computed with,
    and no others: with respect to its weight of 0, the derivative of a row is its loss.
    """
    m = options.backend.with_nan(xp, x, m, uncounted)
    broken = ~xp.isfinite(m)
    if options.backend.holds(xp, ~broken):
        return m, None, None
    masked = None if uncounted is None else broken & uncounted
    return xp.where(broken, 0.0, m), broken, masked


def lost(xp: Any, a: Array, broken: Array | None, masked: Array | None) -> Array:
    """`a` (*lead) with NaN, as its derivative is then, in rows that are broken and not masked."""
    if broken is None:
        return a
    return a * xp.where(broken if masked is None else broken & ~masked, NAN, xp.ones_like(a))


def unbroken(xp: Any, options: Options, x: Array, masked: Array | None) -> Array:
    """`x` (*lead, C) with zeros in the rows `masked` (*lead)."""
    return x if masked is None else options.backend.zeroed(xp, x, masked)


def softmax_state(
    xp: Any,
    options: Options,
    x: Array,
    uncounted: Callable[[], Array] | None = None,
    *,
    keep: bool = True,
    spread: Array | float | None = None,
) -> tuple[Softmax, Array | None]:
    """The state of rows, with `e` if that is to be kept; and which of them are computed as if they were zeros.

    With ``sum of spread (x - m)`` for the target's `spread`, if that takes no pass more.
    """
    backend, count = options.backend, x.shape[-1]
    k, highest = backend.top(xp, x)

    def near() -> Guarded:
        apart, d, m = None, x, highest
        if spread is not None:
            d, m = backend.minus(xp, x, highest), None
            apart = backend.dot(xp, spread, d)
        e, s = backend.others(xp, d, k, m, keep=keep)
        return (Softmax(k, highest, e, s, s, apart=apart), None), are_near(s, count)

    def far() -> Arrays:
        m, broken, masked = finite(xp, options, x, highest, None if uncounted is None else uncounted())
        zeros = None if broken is None else backend.as_zeros(broken, masked)
        e, others, root = backend.exponentials(xp, x, zeros, k, m, keep=keep)
        m, others = lost(xp, m, broken, masked), lost(xp, others, broken, masked)
        return _state(k, m, e, others, root)._replace(top=highest), masked

    state, masked = backend.either(xp, highest, near, far)
    return state, masked


def _state(k: Array | None, m: Array, e: Array | None, others: Array, root: Array | None) -> Softmax:
    """The state of rows, given what `Backend.exponentials` returns."""
    return Softmax(k, m, e, others, others if root is None else root * others * root, root)


def lowered(xp: Any, lifted: Array, count: int) -> tuple[Array, Array]:
    """`others` and `root` of `Softmax` of rows of `count` classes, given the sum that `Backend.roots` returns."""
    s = lifted / LIFT / LIFT
    is_near = are_near(s, count)
    return xp.where(is_near, s, lifted), xp.where(is_near, xp.ones_like(s), 1 / LIFT)


def near_state(xp: Any, options: Options, x: Array, k: Array, s: Array) -> Softmax:
    """The state of rows that `are_near`, given two parts of it."""
    m = options.backend.pick(xp, x, k)
    return Softmax(k, m, options.backend.exp(xp, x, m), s, s)


def label_weight(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(labels,)``, shared ``(class_weight,)`` -> weight of each row's index label (*lead)."""
    (labels,), (w,) = rows, shared
    return (options.backend.pick(xp, w, labels),)


def label_total(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(probabilities,)``, shared ``(class_weight,)`` -> ``sum_c w_c q_c`` (*lead), NaN where a q_c is wrong."""
    (labels,), (w,) = rows, shared
    backend = options.backend
    q = backend.load(xp, labels, options.dtype)
    total = backend.sum(xp, q if w is None else backend.multiplied(xp, q, w, q))

    def each() -> Arrays:
        is_right = (xp.max(q, axis=-1) < INF) & (xp.min(q, axis=-1) >= 0)
        return (xp.where(is_right, total, NAN),)

    if 0 in q.shape:  # of nothing there is no minimum
        return each()
    return backend.either(xp, q, lambda: ((total,), (total < INF) & (xp.min(q) >= 0)), each)


def target(xp: Any, options: Options, count: int, labels: Array, a: Array, w: Array | None) -> Target:
    """What rows of `count` classes should be; `a` is one number for each row."""
    backend, smoothing = options.backend, options.label_smoothing
    even, rest = smoothing if is_zero(smoothing) else _part(xp, options, a, count), 1 - smoothing
    if labels.ndim > a.ndim:
        q = backend.load(xp, labels, options.dtype)
        if not is_zero(even):
            q = backend.lessen(xp, backend.multiplied(xp, q, rest, q), -even)
        if w is not None:
            q = backend.multiplied(xp, q, w, q)
        return Target(None, 0.0, q, backend.sum(xp, q))
    peak = rest if w is None else rest * backend.pick(xp, w, labels)
    if options.unrestricted and w is not None:  # ignored rows have the label 0, whatever its weight is
        peak = xp.where((a == 0) & ~xp.isfinite(peak), 0.0, peak)
    if is_zero(even):
        return Target(labels, peak, None, peak)
    if w is None:
        if isinstance(even, float):
            return Target(labels, peak, even, 1.0)
        one = 1 + 0 * smoothing  # NaN where that is
        return Target(labels, peak, xp.broadcast_to(even, (count,)), xp.broadcast_to(one, a.shape))
    spread = even * w
    return Target(labels, peak, spread, peak + backend.sum(xp, spread))


def _part(xp: Any, options: Options, a: Array, count: Any) -> Array | float:
    """Each class's share of the label smoothing; `count` may be unknown until the program is run."""
    count = options.classes or count
    if isinstance(count, int):
        return options.label_smoothing / count
    return options.label_smoothing * options.backend.share(xp, a, options.dtype, (), count)


def uncounted(xp: Any, options: Options, goal: Target, a: Array) -> Array:
    """Which rows have a weight of 0, (*lead) bool."""
    return a == 0 if isinstance(goal.total, float) else weightless(options, a, goal.is_zero(xp, options))


def weightless(options: Options, a: Array, is_zero: Array | bool) -> Array:
    """Which rows have a weight of 0, (*lead) bool: of the row, or of all of the target where there is no z-loss."""
    z = options.z_loss
    if isinstance(z, float):
        return (a == 0) | is_zero if z == 0 else a == 0
    return (a == 0) | (is_zero & (z == 0))


def times(a: Array, c: Array | float) -> Array:
    """``c a``."""
    return a if isinstance(c, float) and c == 1 else c * a


def distance(xp: Any, weight: Array, m: Array, x: Array) -> Array:
    """``weight (m - x)`` without overflow in the difference; 0 for weight 0 on an absent class."""
    half = weight * xp.where((weight == 0) & (x == -INF), 0.0, 0.5 * m - 0.5 * x)
    return half + half


def _cap(xp: Any, options: Options, x: Array) -> tuple[Array, Array | None, Array | None]:
    """The capped logits and the first and second derivative of the cap; infinities stay as they are."""
    if options.softcap is None:
        return x, None, None
    finite = xp.isfinite(x)
    ratio = xp.where(finite, x, 0.0) / options.softcap
    sign = xp.where(ratio >= 0, xp.ones_like(ratio), -1.0)
    size = -2 * sign * ratio
    t = xp.exp(size)
    tanh = -sign * xp.expm1(size) / (1 + t)
    slope = xp.where(finite, 4 * t / ((1 + t) * (1 + t)), 0.0)  # 1 - tanh^2 without cancellation
    return xp.where(finite, options.softcap * tanh, x), slope, -2 * tanh * slope / options.softcap


class _Rows(NamedTuple):
    """What the loss and its derivatives of a block of rows have in common."""

    x: Array  # (*lead, C), capped
    slope: Array | None  # (*lead, C)
    curvature: Array | None  # (*lead, C)
    a: Array  # (*lead)
    target: Target
    x_y: Array | None  # (*lead), at the label
    softmax: Softmax
    masked: Array | None  # (*lead) bool, rows that are computed as if they were zeros
    lse: Array | None  # (*lead), for the z-loss
    loss: Array | None  # (*lead); None where it is known already

    def uncapped(self, g: Array) -> Array:
        """The chain rule of the cap, in either direction, for g of shape (*lead, C)."""
        return g if self.slope is None else g * self.slope

    def winner(self, xp: Any, options: Options) -> Array:
        """One class of each row with the maximum, (*lead)."""
        k = self.softmax.k
        return options.backend.winner(xp, self.x, self.softmax.m) if k is None else k


def _forward(
    xp: Any, options: Options, rows: Arrays, shared: Arrays, known: Arrays = (), *, keep: bool = True
) -> _Rows:
    """All that is asked of the rows before their derivatives; of those whose k and s are `known`, all but the loss."""
    (logits, labels, a), (w,) = rows[:3], shared
    x = options.backend.load(xp, logits, options.dtype)
    goal = target(xp, options, x.shape[-1], labels, a, w)
    x, slope, curvature = _cap(xp, options, x)
    if known:
        state, masked = near_state(xp, options, x, *known), None
    else:
        unused = partial(uncounted, xp, options, goal, a)
        state, masked = softmax_state(xp, options, x, unused, keep=keep, spread=goal.spread)
    x_y = _at_label(xp, options, goal, x, masked)
    lse, loss = state.log_sum_exp(xp, options), None
    if not known:
        missed = _missed(xp, options, goal, a, state.m, x, x_y, masked, state.apart)
        loss = _added(xp, options, a, goal.total, missed, state, lse)
    return _Rows(x, slope, curvature, a, goal, x_y, state, masked, lse, loss)


def _at_label(xp: Any, options: Options, goal: Target, x: Array, masked: Array | None) -> Array | None:
    """The logit at an index label, (*lead)."""
    if goal.label is None:
        return None
    x_y = options.backend.pick(xp, x, goal.label)
    return x_y if masked is None else xp.where(masked, 0.0, x_y)


def _added(
    xp: Any, options: Options, a: Array, total: Array | float, missed: Array, state: Softmax, lse: Array | None
) -> Array:
    """``a (sum_c Q_c (m - x_c) + T log1p(s) + z lse^2)``, given the first term, `missed`."""
    loss = missed + state.log1p_times(xp, times(a, total))
    if options.unrestricted:  # weights that are not finite, for an ignored row as well
        loss = xp.where((a == 0) & ~xp.isfinite(loss), 0.0, loss)
    return loss if lse is None else loss + a * options.z_loss * lse * lse


def _missed(
    xp: Any,
    options: Options,
    goal: Target,
    a: Array,
    m: Array,
    x: Array,
    x_y: Array | None,
    masked: Array | None,
    apart: Array | None = None,
) -> Array:
    """``a sum_c Q_c (m - x_c)``, (*lead), given ``sum of spread (x - m)``, if that is known, as `apart`."""
    backend, spread = options.backend, goal.spread
    peak = None if x_y is None else times(a, goal.peak)

    def careful() -> Array:
        terms = [] if peak is None else [distance(xp, peak, m, x_y)]
        share = goal.share(xp, options, a, x)
        if share is not None:
            terms.append(backend.sum(xp, distance(xp, share, m[..., None], unbroken(xp, options, x, masked))))
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    if not backend.may_choose(x, spread, a, peak):
        return careful()
    loss = 0.0 if peak is None else peak * (m - x_y)
    if spread is not None:
        loss = loss - a * (backend.dot(xp, spread, backend.minus(xp, x, m)) if apart is None else apart)
    return backend.where(xp, xp.isfinite(loss), loss, careful)


def _gradient(xp: Any, options: Options, f: _Rows) -> Array:
    """The gradient with respect to the capped logits, (*lead, C); what `f` holds may be written to."""
    backend, state, goal, label = options.backend, f.softmax, f.target, f.target.label
    a, last = f.a, None
    if goal.is_spread_unevenly and backend.is_readable(a):
        # The last product is that with a, of p and Q together, unless it would lift what was subnormal before.
        is_first = a > 1 if state.root is None else (a > 1) | (state.root < 1)
        a, last = xp.where(is_first, a, xp.ones_like(a)), xp.where(is_first, xp.ones_like(a), a)
    scale = a / (1 + state.s)
    c = times(scale, goal.total)
    extra = None if f.lse is None else 2 * (scale * options.z_loss * f.lse)
    with_extra = c if extra is None else c + extra
    g = state.e
    for factor in state.factors(xp, with_extra):
        g = backend.scaled(xp, g, factor)
    if goal.spread is None and state.has_k is None:
        # Minus T (s + (1 - e_y)) / (1 + s): at a maximum the second term is 0, elsewhere e_y is a part of s.
        e_y = xp.exp(f.x_y - state.m)
        at_label = (c * e_y - c) - state.s_times(xp, c)
        return backend.put(xp, g, label, at_label if extra is None else at_label + extra * e_y, owned=True)
    if goal.spread is not None:
        is_whole = last is not None and backend.holds(xp, a == 1)
        g = backend.lessen(xp, g, goal.spread if is_whole else goal.share(xp, options, a, f.x))
    if label is not None:
        g = backend.lessen(xp, g, times(a, goal.peak), label)
    k = f.winner(xp, options)
    q_k = goal.spread_at(xp, options, k)
    if label is not None:
        q_k = q_k + xp.where(label == k, goal.peak, xp.zeros_like(scale))
    at_k = 0.0 - state.s_times(xp, scale * q_k) + scale * (goal.total - q_k)
    at_k = at_k if extra is None else at_k + extra
    if state.has_k is not None:
        at_k = xp.where(state.has_k, at_k, backend.pick(xp, g, k))
    g = backend.put(xp, g, k, at_k, owned=True)
    return g if last is None else backend.scaled(xp, g, last)


def target_here(xp: Any, options: Options, count: int, labels: Array, a: Array, w: Array | None) -> Target:
    """`target` of `count` classes of more; an index label of `count` is not among them."""
    if labels.ndim > a.ndim:
        return target(xp, options, count, labels, a, w)
    is_here = labels < count
    goal = target(xp, options, count, xp.where(is_here, labels, 0), a, w)
    peak = xp.where(is_here, goal.peak, xp.zeros_like(a))
    even = goal.spread
    if even is None:
        return goal._replace(peak=peak, total=peak)
    return goal._replace(
        peak=peak, total=peak + (count * even if isinstance(even, float) else options.backend.sum(xp, even))
    )


def part(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a)`` of some of the classes -> what `merged` makes the state of all classes of.

    That is, of each row the maximum, ``sum of exp(x - maximum)`` over the classes but one maximum, times the square of
    `LIFT`, and ``a sum_c Q_c (maximum - x_c)``. Where all classes are absent, the maximum is -inf.
    """
    (logits, labels, a), (w,) = rows, shared
    x = options.backend.load(xp, logits, options.dtype)
    goal = target_here(xp, options, x.shape[-1], labels, a, w)
    x = _cap(xp, options, x)[0]
    k, m = options.backend.top(xp, x)
    is_absent = m == -INF
    m, broken, masked = finite(xp, options, x, m, a == 0)
    m = lost(xp, m, broken, masked)
    if masked is not None:
        is_absent, x = is_absent & ~masked, unbroken(xp, options, x, masked)
    m = xp.where(is_absent, 0.0, m)
    _, lifted = options.backend.roots(xp, x, k, m)
    missed = _missed(xp, options, goal, a, m, x, _at_label(xp, options, goal, x, None), None)
    return xp.where(is_absent, -INF, m), xp.where(is_absent, 0.0, lifted), missed


def _top(xp: Any, options: Options, x: Array) -> tuple[Array, Array]:
    """One class of each row with the maximum, and that."""
    k, m = options.backend.top(xp, x)
    return options.backend.winner(xp, x, m) if k is None else k, m


def merged(xp: Any, options: Options, a: Array, totals: Array, parts: Sequence[Arrays]) -> Arrays:
    """The loss of rows, each (*lead), and their state: what `part` returns of each block of their classes, merged.

    `totals` (*lead, blocks) are the blocks' ``sum_c Q_c``. The state is what `part_grad` takes after `a`, but for
    its last, for which here is the number of the block with the maximum.
    """
    backend = options.backend
    m, lifted, missed = (xp.stack(several, axis=-1) for several in zip(*parts, strict=True))
    block, top = _top(xp, options, m)
    top, broken, _ = finite(xp, options, m, top, None)
    top = lost(xp, top, broken, None)
    roots, maxima = backend.roots(xp, m, block, top)
    others, root = lowered(xp, backend.sum(xp, lifted * roots * roots) + maxima, options.classes or 0)
    total = backend.sum(xp, totals)
    state = _state(block, top, None, others, root)
    from_top = backend.sum(xp, missed + distance(xp, a[..., None] * totals, top[..., None], m))
    loss = _added(xp, options, a, total, from_top, state, state.log_sum_exp(xp, options))
    return loss, total, top, others, root, block


def part_grad(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a)`` of some of the classes and the state of all -> gradient (*lead, C).

    The state is ``T``, the maximum, `others` and `root` of `Softmax`, and whether the maximum is of these classes.
    """
    (logits, labels, a, total, m, others, root, has_k), (w,) = rows, shared
    x = options.backend.load(xp, logits, options.dtype)
    goal = target_here(xp, options, x.shape[-1], labels, a, w)._replace(total=total)
    x, slope, curvature = _cap(xp, options, x)
    k, top = _top(xp, options, x)
    *_, masked = finite(xp, options, x, top, a == 0)
    x = unbroken(xp, options, x, masked)
    if options.backend.holds(xp, root == 1):
        e, root = options.backend.exp(xp, x, m), None
    else:
        roots = options.backend.exp(xp, x, m, 0.5) / root[..., None]
        e = roots * roots
    state = _state(k, m, e, others, root)._replace(has_k=has_k)
    lse = state.log_sum_exp(xp, options)
    f = _Rows(x, slope, curvature, a, goal, None, state, masked, lse, None)
    return (options.backend.store(xp, f.uncapped(_gradient(xp, options, f)), logits.dtype),)


def _direction(xp: Any, options: Options, f: _Rows, v: Array) -> Array:
    """A tangent or vector (*lead, C) in the precision computed in; in rows of weight 0 it may hold anything."""
    v = options.backend.load(xp, v, options.dtype)
    unused = uncounted(xp, options, f.target, f.a)
    if options.backend.holds(xp, ~unused):
        return v
    usable = xp.abs(v) < 0.25 * float(xp.finfo(options.dtype).max)
    return xp.where(unused[..., None] & ~usable, 0.0, v)


def loss(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a)`` -> loss (*lead)."""
    return (_forward(xp, options, rows, shared, keep=False).loss,)


def loss_and_grad(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a)`` -> loss (*lead), gradient (*lead, C) in the dtype of the logits."""
    f = _forward(xp, options, rows, shared)
    return f.loss, options.backend.store(xp, f.uncapped(_gradient(xp, options, f)), rows[0].dtype)


def loss_and_state(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a)`` -> loss (*lead), and what `gradient` need not find again: k and s (*lead)."""
    f = _forward(xp, options, rows, shared, keep=False)
    s = f.softmax.s
    return f.loss, f.winner(xp, options), s if f.masked is None else xp.where(f.masked, NAN, s)


def gradient(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a, k, s)`` -> the gradient that `loss_and_grad` returns of the first three."""
    *first, k, s = rows
    if not options.backend.holds(xp, are_near(s, first[0].shape[-1])):
        return loss_and_grad(xp, options, tuple(first), shared)[1:]
    f = _forward(xp, options, tuple(first), shared, (k, s))
    return (options.backend.store(xp, f.uncapped(_gradient(xp, options, f)), first[0].dtype),)


def loss_and_jvp(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a, tangent)`` -> loss (*lead), its directional derivative (*lead)."""
    f = _forward(xp, options, rows, shared)
    g = f.uncapped(_gradient(xp, options, f))
    return f.loss, options.backend.dot(xp, g, _direction(xp, options, f, rows[3]))


def hvp(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(logits, labels, a, v)`` -> Hessian times v (*lead, C) in the dtype of the logits."""
    f = _forward(xp, options, rows, shared)
    return (options.backend.store(xp, _hessian(xp, options, f, _direction(xp, options, f, rows[3])), rows[0].dtype),)


def hessian(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """`hvp`, linear in v to the letter: also in rows of weight 0, where v must be finite."""
    f = _forward(xp, options, rows, shared)
    v = options.backend.load(xp, rows[3], options.dtype)
    return (options.backend.store(xp, _hessian(xp, options, f, v), rows[0].dtype),)


def _hessian(xp: Any, options: Options, f: _Rows, v: Array) -> Array:
    u = f.uncapped(v)
    state, z, k = f.softmax, options.z_loss, f.winner(xp, options)
    # Measured from its value at the maximum, then from its mean, twice: neither a confident row, whose mean is nearly
    # that value, nor an outlier at the maximum, far from the mean, loses its digits.
    origin = options.backend.pick(xp, u, k)
    centred = u - origin[..., None]
    total = options.backend.dot(xp, state.e, centred) / (1 + state.s)
    shift = total if state.root is None else state.root * total * state.root
    centred = centred - shift[..., None]
    p = state.exp() / (1 + state.s)[..., None]
    centred = centred - options.backend.dot(xp, p, centred)[..., None]
    scale = f.a / (1 + state.s)
    outer = scale * f.target.total if f.lse is None else scale * f.target.total + 2 * (scale * z * f.lse)
    h = state.exp_times(xp, outer) * centred
    if state.root is not None:
        # At a maximum far above the rest the mean alone is left, perhaps subnormal before it is scaled.
        mean = -state.times_others(xp, outer, total)
        at_maximum = xp.where(state.root < 1, mean, options.backend.pick(xp, h, k))
        h = options.backend.put(xp, h, k, at_maximum, owned=True)
    if f.lse is not None:
        h = h + state.exp_times(xp, 2 * (scale * z * (origin + shift)))
    if f.curvature is not None:
        h = f.uncapped(h) + _gradient(xp, options, f) * f.curvature * v
    return h


def nll(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(log_probs, labels, a)`` -> loss (*lead)."""
    (log_probs, labels, a), (w,) = rows, shared
    x = options.backend.load(xp, log_probs, options.dtype)
    goal = target(xp, options, x.shape[-1], labels, a, w)
    unused = uncounted(xp, options, goal, a)
    if options.unrestricted:  # what is not at a label does not matter
        x_y = _at_label(xp, options, goal, x, None)
        masked = None if x_y is None else unused & ~xp.isfinite(x_y)
    else:
        _, m = options.backend.top(xp, x)
        *_, masked = finite(xp, options, x, m, unused)
        broken = ~xp.isfinite(options.backend.with_nan(xp, x, m, ~unused))
        if not options.backend.holds(xp, m <= 0):
            broken = broken | (above_zero(xp, options, x, m, log_probs.dtype) & ~unused)
        a = lost(xp, a, broken, masked)
    zero = xp.zeros_like(a)
    return (_missed(xp, options, goal, a, zero, x, _at_label(xp, options, goal, x, masked), masked),)


def above_zero(xp: Any, options: Options, x: Array, m: Array, dtype: Any) -> Array:
    """Which rows x (*lead, C), with the maximum m, are no log-probabilities: one is positive beyond rounding.

    Where rounding makes one positive, it is nearly 1, and all others are far below it; by their lowest, what rounding
    there may be is judged. It is that of `dtype`, in which the logarithms have been computed.
    """
    slack = math.sqrt(xp.finfo(options.dtype).eps) if dtype == options.dtype else HALF_SLACK
    low = xp.min(x, axis=-1)
    return (m > 0) & (m < INF) & (m > -slack * xp.where(low < LOWEST, LOWEST, low))


def logsumexp(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(x,)`` -> log-sum-exp (*lead)."""
    x = options.backend.load(xp, rows[0], options.dtype)
    state, _ = softmax_state(xp, options, x, keep=False)
    top = state.m if state.top is None else state.top
    return (xp.where(xp.abs(top) == INF, top, state.m + xp.log1p(state.s)),)


def log_softmax(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(x,)`` -> log-probabilities (*lead, C)."""
    x = options.backend.load(xp, rows[0], options.dtype)
    state, _ = softmax_state(xp, options, x, keep=False)
    return ((x - state.m[..., None]) - xp.log1p(state.s)[..., None],)


def softmax(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Rows ``(x,)`` -> probabilities (*lead, C) in the dtype of `x`."""
    x = options.backend.load(xp, rows[0], options.dtype)
    state, _ = softmax_state(xp, options, x)
    return (options.backend.store(xp, state.exp() / (1 + state.s)[..., None], rows[0].dtype),)


def binary(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Elements ``(logits, labels, positive weight, a)`` -> loss, of the same shape."""
    return (_binary(xp, options, rows)[0],)


def binary_and_grad(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Elements ``(logits, labels, positive weight, a)`` -> loss, gradient in the dtype of the logits."""
    loss, x, t, no, yes = _binary(xp, options, rows)
    g = (no * xp.where(x >= 0, 1.0, t) - yes * xp.where(x >= 0, t, 1.0)) / (1 + t)
    return loss, options.backend.store(xp, g, rows[0].dtype)


def _binary(xp: Any, options: Options, rows: Arrays) -> Arrays:
    logits, labels, positive, a = rows
    x = options.backend.load(xp, logits, options.dtype)
    x = xp.where((a == 0) & ~xp.isfinite(x), 0.0, x)
    y = options.backend.load(xp, labels, options.dtype)
    y = y if options.unrestricted else xp.where((y >= 0) & (y <= 1), y, NAN)
    no, yes = a * (1 - y), a * y if positive is None else a * y * positive
    # One condition for |x|, max(x, 0) and max(-x, 0): at 0 they are then differentiated on the same side.
    right = x >= 0
    t = xp.exp(xp.where(right, -x, x))
    log1p = xp.log1p(t)
    # softplus(x) = max(x, 0) + log1p(exp(-|x|)); an infinite logit costs nothing under the label that it is sure of
    below = xp.where((no == 0) & (x == INF), 0.0, xp.where(right, x, 0.0) + log1p)
    above = xp.where((yes == 0) & (x == -INF), 0.0, xp.where(right, 0.0, -x) + log1p)
    return no * below + yes * above, x, t, no, yes


Kernel: TypeAlias = Callable[[Any, Options, Arrays, Arrays], Arrays]
"""``kernel(xp, options, rows, shared)``."""


class Result(NamedTuple):
    """What one result of a kernel is like."""

    whole: bool = False  # of the shape of the first of the rows; otherwise (*lead)
    rounded: bool = False  # to the dtype of the first of the rows; otherwise in the precision computed in
    integer: bool = False  # a class


RESULTS: Mapping[Kernel, tuple[Result, ...]] = {
    label_weight: (Result(),),
    label_total: (Result(),),
    loss: (Result(),),
    loss_and_grad: (Result(), Result(whole=True, rounded=True)),
    loss_and_state: (Result(), Result(integer=True), Result()),
    gradient: (Result(whole=True, rounded=True),),
    loss_and_jvp: (Result(), Result()),
    part: (Result(), Result(), Result()),
    part_grad: (Result(whole=True, rounded=True),),
    hvp: (Result(whole=True, rounded=True),),
    hessian: (Result(whole=True, rounded=True),),
    nll: (Result(),),
    logsumexp: (Result(),),
    log_softmax: (Result(whole=True),),
    softmax: (Result(whole=True, rounded=True),),
    binary: (Result(whole=True),),
    binary_and_grad: (Result(whole=True), Result(whole=True, rounded=True)),
}
"""What each kernel returns."""
