"""Every function from its definition, in NumPy's float64: plain formulas that share nothing with the library.

Each takes the arguments of the public function of its name as NumPy arrays, but for checks and ways to save memory,
and returns the same results. Gradients in the logits are written out; all other derivatives are `derivative`'s, of the
definition and of those, which therefore take complex numbers.

The error of a result is some units in the last place of its largest component, not of each: see `truth` for those.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

STEP = 1e-100
"""Of a complex step: so small that its square vanishes, and with it the error of the derivative."""


def derivative(function: Callable[[Any], Any], at: Any, direction: Any) -> Any:
    """The derivative of an array function along a direction, exact but for rounding: ``Im f(a + i h t) / h``."""
    return np.imag(function(np.asarray(at) + 1j * STEP * np.asarray(direction))) / STEP


def pullback(function: Callable[[Any], Any], at: Any, cotangent: Any) -> Any:
    """The gradient of ``sum(cotangent * function(a))``, component by component."""
    found = np.zeros(np.shape(at))
    for position in np.ndindex(found.shape):
        unit = np.zeros(found.shape)
        unit[position] = 1
        found[position] = np.sum(cotangent * derivative(function, at, unit))
    return found


def logsumexp(x: Any, axis: int = -1, keepdims: bool = False) -> Any:
    m, s = _state(x, axis)
    lse = m + np.log(s)
    return lse if keepdims else np.squeeze(lse, axis)


def log_softmax(x: Any, axis: int = -1) -> Any:
    m, s = _state(x, axis)
    return (x - m) - np.log(s)


def softmax(x: Any, axis: int = -1) -> Any:
    m, s = _state(x, axis)
    return np.exp(x - m) / s


def _state(x: Any, axis: int) -> tuple[Any, Any]:
    """The maximum, and the sum of the exponentials of the distances from it."""
    m = np.max(np.real(x), axis, keepdims=True)
    m = np.where(np.isfinite(m), m, 0.0)
    return m, np.sum(np.exp(x - m), axis, keepdims=True)


def cross_entropy(logits: Any, labels: Any, *, reduction: str = "mean", denominator: Any = None, **options: Any) -> Any:
    x, target, s, counts, z, _ = _rows(logits, labels, **options)
    losses = s * (np.sum(_product(target, -log_softmax(x)), -1) + z * logsumexp(x) ** 2)
    return _reduced(losses, counts, reduction, denominator)


def cross_entropy_value_and_grad(
    logits: Any, labels: Any, *, reduction: str = "mean", denominator: Any = None, axis: int = -1, **options: Any
) -> tuple[Any, Any]:
    x, target, s, counts, z, slopes = _rows(logits, labels, axis=axis, **options)
    lse = logsumexp(x, keepdims=True)
    total = np.sum(target, -1, keepdims=True)
    each = s[..., None] * ((total + 2 * z * lse) * softmax(x) - target) * slopes
    each = _scaled(each, counts, reduction, denominator)
    loss = cross_entropy(logits, labels, reduction=reduction, denominator=denominator, axis=axis, **options)
    return loss, np.moveaxis(each, -1, axis)


def cross_entropy_jvp(logits: Any, tangent: Any, labels: Any, **options: Any) -> tuple[Any, Any]:
    loss, grad = cross_entropy_value_and_grad(logits, labels, **options)
    slopes = np.where(grad == 0, 0.0, grad * tangent)
    return loss, np.sum(slopes, options.get("axis", -1)) if options.get("reduction") == "none" else np.sum(slopes)


def cross_entropy_hvp(logits: Any, vector: Any, labels: Any, **options: Any) -> Any:
    return derivative(lambda x: cross_entropy_value_and_grad(x, labels, **options)[1], logits, vector)


def nll_loss(log_probs: Any, labels: Any, *, reduction: str = "mean", denominator: Any = None, **options: Any) -> Any:
    x, target, s, counts, _, _ = _rows(log_probs, labels, **options)
    return _reduced(s * np.sum(_product(target, -x), -1), counts, reduction, denominator)


def binary_cross_entropy(
    logits: Any, labels: Any, *, reduction: str = "mean", denominator: Any = None, **weights: Any
) -> Any:
    no, yes, counts = _events(logits, labels, **weights)
    sign = np.where(np.real(logits) > 0, 1.0, -1.0)
    log1p = np.log1p(np.exp(-sign * logits))
    below, above = (np.where(sign == side, side * logits, 0.0) + log1p for side in (1.0, -1.0))  # -log(1 - p), -log p
    return _reduced(_product(no, below) + _product(yes, above), counts, reduction, denominator)


def binary_cross_entropy_value_and_grad(
    logits: Any, labels: Any, *, reduction: str = "mean", denominator: Any = None, **weights: Any
) -> tuple[Any, Any]:
    no, yes, counts = _events(logits, labels, **weights)
    present, absent = (1 / (1 + np.exp(sign * logits)) for sign in (-1, 1))
    grad = _product(no, present) - _product(yes, absent)
    loss = binary_cross_entropy(logits, labels, reduction=reduction, denominator=denominator, **weights)
    return loss, _scaled(grad, counts, reduction, denominator)


def linear_cross_entropy(hidden: Any, weight: Any, labels: Any, *, bias: Any = 0.0, **options: Any) -> Any:
    return cross_entropy(hidden @ weight.T + bias, labels, **options)


def linear_cross_entropy_value_and_grad(
    hidden: Any, weight: Any, labels: Any, *, bias: Any = None, **options: Any
) -> tuple[Any, tuple[Any, ...]]:
    loss, grad = cross_entropy_value_and_grad(hidden @ weight.T + (0.0 if bias is None else bias), labels, **options)
    rows, inputs = grad.reshape(-1, weight.shape[0]), hidden.reshape(-1, hidden.shape[-1])
    inputs = np.where(rows.any(-1, keepdims=True), inputs, 0.0)  # of rows that do not count
    return loss, (grad @ weight, rows.T @ inputs, None if bias is None else rows.sum(0))


def _rows(
    logits: Any,
    labels: Any,
    *,
    axis: int = -1,
    class_weight: Any = 1.0,
    sample_weight: Any = 1.0,
    ignore_index: int | None = -100,
    label_smoothing: Any = 0.0,
    z_loss: Any = 0.0,
    softcap: Any = None,
) -> tuple[Any, ...]:
    """The logits, classes last and capped; target, weights of rows, what a mean counts of each; z, the cap's slopes."""
    x = np.ascontiguousarray(np.moveaxis(logits, axis, -1))  # of which NumPy's sums are pairwise
    classes = x.shape[-1]
    if np.asarray(labels).dtype.kind in "iu":
        ignored = np.asarray(labels) == ignore_index
        q = np.where(np.arange(classes) == np.asarray(labels)[..., None], 1.0, 0.0)
    else:
        ignored, q = np.zeros(x.shape[:-1], bool), np.moveaxis(np.asarray(labels), axis, -1)
    s = np.where(ignored, 0.0, sample_weight)
    target = class_weight * ((1 - label_smoothing) * q + label_smoothing / classes)
    s = np.where(~np.any(target != 0, -1) & (z_loss == 0), 0.0 * s, s)
    counts = s * np.sum(class_weight * q, -1)
    x = np.where((s == 0)[..., None], 0.0, x)
    slopes: Any = 1.0
    if softcap is not None:
        finite = np.isfinite(x)
        t = np.tanh(np.where(finite, x, 0.0) / softcap)
        x, slopes = np.where(finite, softcap * t, x), np.where(finite, 1 - t**2, 0.0)
    return x, target, s, counts, z_loss, slopes


def _events(logits: Any, labels: Any, *, pos_weight: Any = 1.0, sample_weight: Any = 1.0) -> tuple[Any, Any, Any]:
    """The weights of each event's two terms, and what a mean counts of it."""
    no, yes = sample_weight * (1 - labels), sample_weight * pos_weight * labels
    return no, yes, sample_weight + np.zeros(np.shape(logits))


def _product(weight: Any, cost: Any) -> Any:
    """The product, where 0 times anything is 0."""
    return np.where(weight == 0, 0.0, weight * np.where(weight == 0, 0.0, cost))


def _reduced(losses: Any, counts: Any, reduction: str, denominator: Any) -> Any:
    if reduction == "none":
        return losses
    return np.sum(losses) / _divisor(counts, denominator) if reduction == "mean" else np.sum(losses)


def _scaled(gradients: Any, counts: Any, reduction: str, denominator: Any) -> Any:
    """The gradients of rows that have been reduced; 0 for the mean over nothing, which is NaN."""
    divisor = _divisor(counts, denominator) if reduction == "mean" else 1.0
    return np.where(np.isnan(divisor), 0.0, gradients / divisor)


def _divisor(counts: Any, denominator: Any) -> Any:
    total = np.sum(counts) if denominator is None else denominator
    return np.where(total == 0, np.nan, total)
