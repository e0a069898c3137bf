"""Cross-entropy and its derivatives in many digits, from their definitions, and how far a computed one may be off.

The promise is a relative error of ``(8 + d) u``: u is the unit roundoff, d the largest distance ``|x_j - max|`` that
contributes noticeably, which is read as: whose exponential is at least u times the sum of those of all classes but the
maximum. It ends where exponentials are subnormal, or flushed to 0, and has no digits left to promise: see `allowed`.

Options round more often than the plain formula, and each allows for what it adds: a class weight 3 (it multiplies the
label and enters the sum of the weights), smoothing 3 (``1 - e``, its product, the share), z-loss 2, a sample weight 1.
A softcap's logits are themselves rounded, to 6 u each; their error is carried through the formulas. So is its slope,
sech**2(x / c), to 8 u and what the rounding of x / c makes of it, 2 |x / c| u.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import mpmath
import numpy as np

from .compare import measured

MP = mpmath.MPContext()
MP.prec = 200  # its exponents have no limit, and nothing below cancels

SMALLEST = -1100
"""The exponent that smaller numbers are held with: far below float64's smallest subnormal number, 2**-1074."""

DIGITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
LOWEST = {"float16": -24, "bfloat16": -133, "float32": -149, "float64": -1074}
"""Binary digits of a dtype, and the exponent of its smallest subnormal number."""
LARGEST = {"float16": 16, "bfloat16": 128, "float32": 128, "float64": 1024}
"""The exponent of the first power of two that overflows."""
FAINT = {"float32": -100, "float64": -1000}
"""The exponent of the share of its scale below which a result is promised with an absolute error only."""


class Expected(NamedTuple):
    """True values ``(high + low) 2**exponent``, to 106 bits, and the error allowed in units of ``2**exponent``.

    Of the faint ones, only an absolute error is promised, and no digits.
    """

    high: Any
    low: Any
    exponent: Any
    bound: Any
    faint: Any = False


class Options(NamedTuple):
    """The options of one row, as the numbers that the functions are given."""

    weights: Any = None  # (C,)
    scale: float = 1.0  # the row's sample weight
    smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None

    def roundings(self) -> int:
        """How many roundings they add to the plain formula's."""
        counts = (self.weights is not None, 3), (self.smoothing != 0, 3), (self.z_loss != 0, 2), (self.scale != 1, 1)
        return sum(count for given, count in counts if given)


def stack(rows: Sequence[Expected]) -> Expected:
    return Expected(*(np.stack(column) for column in zip(*rows, strict=True)))


def errors(values: Any, true: Expected, dtype: str) -> tuple[Any, Any]:
    """The errors of computed values in ULP of the true ones, and as a share of what is allowed; inf where none is."""
    values = measured(values).astype(np.float64)
    with np.errstate(all="ignore"):
        error = np.abs((np.ldexp(values, -true.exponent) - true.high) - true.low)
        ulp = np.exp2(np.maximum(-DIGITS[dtype], LOWEST[dtype] - true.exponent).astype(float))
        share = np.where(error == 0, 0.0, error / true.bound)
        overflows = np.isinf(values) & (np.sign(values) == np.sign(true.high)) & (true.exponent > LARGEST[dtype])
    ulps, shares = (np.where(np.isfinite(a), a, np.inf) for a in (error / ulp, share))
    unbounded = ~np.isfinite(true.high + true.low) | ~(true.bound < np.inf)  # of these nothing can be said
    ulps, shares = (np.where(overflows & ~unbounded, 0.0, a) for a in (ulps, shares))
    return ulps, np.where(unbounded, np.inf, shares)


def allowed(value: Any, relative: Any, scale: Any, dtype: str) -> tuple[Any, bool]:
    """The error allowed of one result, and whether the result is faint.

    Every bound of this module is made here. Below ``2**FAINT`` of its scale, a result need only be right to the
    smallest normal number times the scale; below the smallest normal number, to that number. What is 0 because classes
    are not there has no exponential to lose: it may be off by two subnormal spacings.

    Parameters
    ----------
    value : mpf
        The true result.
    relative : mpf
        The error that ``(8 + d) u`` allows.
    scale : mpf
        What the result's exponentials are multiplied by, and added up over: ``C a T`` for a loss and its gradient.
    dtype : {"float32", "float64"}
        That computed in.
    """
    if value == relative == 0:
        return MP.ldexp(2, LOWEST[dtype]), False
    normal = MP.ldexp(1, LOWEST[dtype] + DIGITS[dtype] - 1)
    absolute = max(
        normal * scale if abs(value) < MP.ldexp(scale, FAINT[dtype]) else MP.zero,
        normal if abs(value) < normal else MP.zero,
    )
    return max(relative, absolute), absolute > 0


class Row(NamedTuple):
    """What is true of one row."""

    loss: Expected  # ()
    grad: Expected  # (C,)
    slope: Expected  # (), along the direction
    product: Expected  # (C,), the Hessian times the direction; of no classes where C > 64, for it takes C**2 sums


def row(x: Any, q: Any, direction: Any, dtype: str, options: Options, *, soft: bool) -> Row:
    """The truth of one row.

    Parameters
    ----------
    x, q, direction : arrays of float, shape (C,)
        Logits, label probabilities (1 at the class for an index), and what the derivatives are multiplied by.
    dtype : {"float32", "float64"}
        That computed in.
    options : Options
    soft : bool
        Whether the gradient's error is relative to ``Q p_j + q_j``, as for probability labels that are not one-hot.
    """
    u = MP.ldexp(1, -DIGITS[dtype])
    scale, z = MP.mpf(float(options.scale)), MP.mpf(options.z_loss)
    ratios = [0 if options.softcap is None or np.isinf(v) else MP.mpf(float(v)) / options.softcap for v in x]
    x, slopes, moved = _capped([MP.mpf(float(v)) for v in x], options.softcap, u)
    e = MP.mpf(options.smoothing)
    q = [(1 - e) * MP.mpf(float(v)) + e / len(x) for v in q]
    if options.weights is not None:
        q = [MP.mpf(float(w)) * v for w, v in zip(options.weights, q, strict=True)]
    mass = MP.fsum(q)
    top = max(range(len(x)), key=x.__getitem__)
    distance = [x[top] - v for v in x]
    near = [MP.zero if MP.isinf(d) else d for d in distance]  # a class that is not there has no error
    exps = [MP.exp(-d) for d in distance]
    rest = MP.fsum(exps[:top] + exps[top + 1 :])
    far = max(d for d, t in zip(near, exps, strict=True) if t >= u * rest)
    log1p = MP.log1p(rest)
    lse, lse_size = x[top] + log1p, abs(x[top]) + log1p
    p = [t / (1 + rest) for t in exps]
    # 1 - p_j without cancellation
    beside = [(rest if j == top else 1 + rest - t) / (1 + rest) for j, t in enumerate(exps)]
    steps = 8 + options.roundings()

    plain = MP.fsum(c * (d + log1p) for c, d in zip(q, distance, strict=True) if c != 0)
    loss = scale * (plain + z * lse**2)
    size = scale * (plain + z * lse_size**2)
    own = [d if a >= u or b == 0 else 0 for d, a, b in zip(near, p, q, strict=True)]
    capped = [scale * ((mass - b + 2 * z * lse) * a - b * r) for a, b, r in zip(p, q, beside, strict=True)]
    sizes = [
        scale * (mass * a + b) if soft else scale * ((mass - b) * a + b * r)
        for a, b, r in zip(p, q, beside, strict=True)
    ]
    sizes = [s + scale * 2 * z * lse_size * a for s, a in zip(sizes, p, strict=True)]
    drift = MP.fsum(a * abs(m) for a, m in zip(p, moved, strict=True))
    curve = scale * (mass + 2 * z * (lse_size + 1))
    grad = [g * s for g, s in zip(capped, slopes, strict=True)]
    loss_bound = (steps + far) * u * size + MP.fsum(abs(g * m) for g, m in zip(capped, moved, strict=True))
    grad_bound = [
        s * ((steps + d + far + (8 + 2 * abs(r) if options.softcap else 0)) * u * b + curve * a * (abs(m) + drift))
        for s, d, b, a, m, r in zip(slopes, own, sizes, p, moved, ratios, strict=True)
    ]

    t = [MP.mpf(float(v)) for v in direction]
    slope = MP.fsum(g * v for g, v in zip(grad, t, strict=True))
    slope_sizes = MP.fsum(s * b * abs(v) for s, b, v in zip(slopes, sizes, t, strict=True))
    # the sum by halving rounds at most 2 log2(C) times, the product once
    slope_bound = MP.fsum(b * abs(v) for b, v in zip(grad_bound, t, strict=True))
    slope_bound += (1 + 2 * MP.log(len(x), 2)) * u * slope_sizes
    # Without softcap: differences check it there. p enters twice, and both centrings add the roundings of a sum.
    count = len(x)
    few = count <= 64
    centred = [MP.fsum(b * (v - w) for b, w in zip(p, t, strict=True)) for v in t if few]  # v - mean cancels
    mean = MP.fsum(a * v for a, v in zip(p, t, strict=True))
    mean_size = MP.fsum(a * abs(v) for a, v in zip(p, t, strict=True))
    outer, outer_size = mass + 2 * z * lse, mass + 2 * z * lse_size
    product = [scale * a * (outer * v + 2 * z * mean) for a, v in zip(p, centred, strict=few)]
    product_bound = [
        (steps + 16 + 2 * (d + far))
        * u
        * scale
        * a
        * (outer_size * MP.fsum(b * abs(v - w) for b, w in zip(p, t, strict=True)) + 2 * z * mean_size)
        for a, v, d in zip(p, t, near, strict=True)
        if few
    ]
    # A slope of the cap is of exponentials, too: it does not make the scale smaller.
    spread = curve * (max(t) - min(t)) + scale * 2 * z * max(map(abs, t))
    return Row(
        _number(loss, loss_bound, count * curve, dtype),
        _expected(grad, grad_bound, count * curve, dtype),
        _number(slope, slope_bound, count * curve * MP.fsum(map(abs, t)), dtype),
        _expected(product, product_bound, count * spread, dtype),
    )


def binary(z: float, y: float, positive: float, dtype: str) -> tuple[Expected, Expected]:
    """The loss and the gradient of one event; a product and a sum more than the plain formula for `positive`."""
    u = MP.ldexp(1, -DIGITS[dtype])
    logit, label, weight = (MP.mpf(float(a)) for a in (z, y, positive))
    yes, no = weight * label, 1 - label
    loss = no * MP.log1p(MP.exp(logit)) + yes * MP.log1p(MP.exp(-logit))
    present, absent = no / (1 + MP.exp(-logit)), yes / (1 + MP.exp(logit))
    step = (8 + abs(logit)) * u
    scale = 2 * (no + yes)
    return (
        _number(loss, step * loss, scale, dtype),
        _number(present - absent, step * (present + absent), scale, dtype),
    )


def parts(x: Any, dtype: str) -> tuple[Expected, Expected, Expected]:
    """The log-sum-exp, the log-probabilities and the probabilities of one row."""
    u = MP.ldexp(1, -DIGITS[dtype])
    values = [MP.mpf(float(v)) for v in x]
    top = max(range(len(values)), key=values.__getitem__)
    distance = [values[top] - v for v in values]
    exps = [MP.exp(-d) for d in distance]
    rest = MP.fsum(exps[:top] + exps[top + 1 :])
    far = max(d for d, t in zip(distance, exps, strict=True) if t >= u * rest)
    log1p, step = MP.log1p(rest), 8 + far
    logs = [-(d + log1p) for d in distance]
    p = [t / (1 + rest) for t in exps]
    return (
        _number(values[top] + log1p, step * u * (abs(values[top]) + log1p), MP.mpf(len(p)), dtype),
        _expected(logs, [step * u * -v for v in logs], MP.mpf(len(p)), dtype),
        _expected(p, [(step + d) * u * v for v, d in zip(p, distance, strict=True)], MP.one, dtype),
    )


def rounded_to(true: Expected, dtype: str) -> Expected:
    """The same truth where the result is rounded once more, to half precision."""
    exponent = np.maximum(true.exponent, LOWEST[dtype] - 1000)  # its spacing, too, has to be below what overflows
    high, low, bound = (np.ldexp(a, true.exponent - exponent) for a in (true.high, true.low, true.bound))
    spacing = np.exp2((LOWEST[dtype] - exponent).astype(float))
    bound = bound + np.maximum(spacing / 2, 2.0 ** (-DIGITS[dtype] - 1) * (1 + bound))
    return Expected(high, low, exponent, bound, true.faint)


def _capped(x: list[Any], softcap: float | None, u: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """The capped logits, the slope of the cap at each, and the error of each."""
    if softcap is None:
        return x, [MP.one] * len(x), [MP.zero] * len(x)
    c = MP.mpf(softcap)
    capped = [v if MP.isinf(v) else c * MP.tanh(v / c) for v in x]
    slopes = [MP.zero if MP.isinf(v) else MP.sech(v / c) ** 2 for v in x]
    return capped, slopes, [MP.zero if MP.isinf(v) else 6 * u * abs(v) for v in capped]


def _number(value: Any, relative: Any, scale: Any, dtype: str) -> Expected:
    return Expected(*(a[0] for a in _expected([value], [relative], scale, dtype)))


def _expected(values: Sequence[Any], relative: Sequence[Any], scale: Any, dtype: str) -> Expected:
    promised = [allowed(v, b, scale, dtype) for v, b in zip(values, relative, strict=True)]
    bounds = [bound for bound, _ in promised]
    # Of a value that cancels, too, its error has to be below what overflows.
    exponents = [
        max(MP.frexp(v)[1] if v else SMALLEST, SMALLEST, MP.frexp(b)[1] - 1000 if b else SMALLEST)
        for v, b in zip(values, bounds, strict=True)
    ]
    high = [float(MP.ldexp(v, -e)) for v, e in zip(values, exponents, strict=True)]
    low = [float(MP.ldexp(v, -e) - h) for v, h, e in zip(values, high, exponents, strict=True)]
    bound = [float(MP.ldexp(b, -e)) for b, e in zip(bounds, exponents, strict=True)]
    faint = np.asarray([is_faint for _, is_faint in promised], dtype=bool)
    return Expected(np.asarray(high), np.asarray(low), np.asarray(exponents, dtype=int), np.asarray(bound), faint)
