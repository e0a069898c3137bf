"""Binary cross-entropy: one logit for each event, whose label is a probability.

With ``t = exp(-|x|)``, ``no = a (1 - y)`` and ``yes = a w y``::

    loss      L = no softplus(x) + yes softplus(-x),    softplus(x) = max(x, 0) + log1p(t)
    gradient  g = no sigmoid(x) - yes sigmoid(-x),      sigmoid(x) = 1 / (1 + t) for x >= 0, else t / (1 + t)
"""

from typing import Any

from ._formulas import INF, NAN, Array, Arrays, Options, cast


def binary(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Elements ``(logits, labels, positive weight, a)`` -> loss, of the same shape."""
    return (_binary(xp, options, rows)[0],)


def binary_and_grad(xp: Any, options: Options, rows: Arrays, shared: Arrays) -> Arrays:
    """Elements ``(logits, labels, positive weight, a)`` -> loss, gradient in the dtype of the logits."""
    loss, right, t, no, yes = _binary(xp, options, rows)
    g = (no * xp.where(right, 1.0, t) - yes * xp.where(right, t, 1.0)) / (1 + t)
    return loss, cast(xp, g, rows[0].dtype)


def _binary(xp: Any, options: Options, rows: Arrays) -> tuple[Array, ...]:
    logits, labels, positive, a = rows
    x = cast(xp, logits, options.dtype)
    x = xp.where((a == 0) & ~xp.isfinite(x), 0.0, x)
    y = cast(xp, labels, options.dtype)
    y = y if options.unrestricted else xp.where((y >= 0) & (y <= 1), y, NAN)
    no, yes = a * (1 - y), a * y if positive is None else a * y * positive
    # One condition for |x|, max(x, 0) and max(-x, 0): at 0 they are then differentiated on the same side.
    right = x >= 0
    t = xp.exp(xp.where(right, -x, x))
    log1p = xp.log1p(t)
    # An infinite logit costs nothing under the label that it is sure of.
    below = xp.where((no == 0) & (x == INF), 0.0, xp.where(right, x, 0.0) + log1p)
    above = xp.where((yes == 0) & (x == -INF), 0.0, xp.where(right, 0.0, -x) + log1p)
    return no * below + yes * above, right, t, no, yes
