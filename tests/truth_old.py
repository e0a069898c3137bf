"""Cross-entropy in many digits, from its definition, and the promised error bounds."""

from dataclasses import dataclass

import mpmath
import numpy as np

MP = mpmath.MPContext()
MP.prec = 200  # its exponents have no limit, and nothing below cancels


@dataclass(frozen=True)
class Truth:
    """One row's loss and gradient in many digits, and how far a computed one may be off.

    The promise is a relative error of ``(8 + d) u``: u is the unit roundoff, d the largest distance ``|x_j - max|``
    that contributes noticeably, which is read as: whose exponential is at least u times the sum of those of all classes
    but the maximum. A result below the smallest normal number may be off by two subnormal spacings, if that is more.
    """

    loss: mpmath.mpf
    grad: list[mpmath.mpf]
    loss_bound: mpmath.mpf
    grad_bound: list[mpmath.mpf]


def truth(x, q, dtype, weight=1.0, *, probabilities=False):
    """The row's `Truth`: logits `x`, class weights times label probabilities `q`, floats; `weight` its scale."""
    u = MP.mpf(float(np.finfo(dtype).eps)) / 2
    tiny, spacing = (MP.mpf(float(v)) for v in (np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal))
    x = [MP.mpf(float(v)) for v in x]
    q = [MP.mpf(float(v)) for v in q]
    weight = MP.mpf(float(weight))
    top = max(range(len(x)), key=x.__getitem__)
    distance = [x[top] - v for v in x]
    e = [MP.exp(-d) for d in distance]
    rest = MP.fsum(e[:top] + e[top + 1 :])
    far = max([d for d, t in zip(distance, e, strict=True) if t >= u * rest], default=MP.mpf(0))
    log1p, mass = MP.log1p(rest), MP.fsum(q)
    loss = weight * MP.fsum(c * (d + log1p) for c, d in zip(q, distance, strict=True) if c != 0)
    p = [t / (1 + rest) for t in e]
    # Q p_j - q_j = Q p_j (for q_j = 0), and without cancellation (Q - q_j) p_j - q_j (1 - p_j) for the others
    beside = [(rest if j == top else 1 + rest - t) / (1 + rest) for j, t in enumerate(e)]
    grad = [weight * ((mass - b) * a - b * r) for a, b, r in zip(p, q, beside, strict=True)]

    def bound(size, d):
        return max((8 + d) * u * size, 2 * spacing if size < tiny else 0)

    sizes = [weight * (mass * a + b) if probabilities else abs(g) for a, b, g in zip(p, q, grad, strict=True)]
    own = [d if a >= u or b == 0 else 0 for d, a, b in zip(distance, p, q, strict=True)]
    return Truth(loss, grad, bound(loss, far), [bound(size, d + far) for size, d in zip(sizes, own, strict=True)])


def excess(value, true, bound):
    """The error of a computed value over its bound: at most 1 where the promise is kept."""
    largest = float(np.finfo(np.asarray(value).dtype).max)
    if not np.isfinite(value):
        return 0.0 if abs(true) > largest and value == np.sign(float(true)) * np.inf else float("inf")
    error = abs(MP.mpf(float(value)) - true)
    return 0.0 if error == 0 else float(error / bound) if bound > 0 else float("inf")
