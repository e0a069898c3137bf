"""The derivatives of the kernels with respect to the first of their rows, in terms of other kernels.

They are what `xent_any.Backend.run` attaches to a framework's autodiff. Each runs its kernels on the same backend,
which attaches their derivatives in turn: ``loss`` leads to ``loss_and_grad``, that to ``hessian``. A kernel without a
rule is linear in its first rows, or a derivative whose own derivative needs no formula: autodiff through the kernel
itself is right for it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from . import _binary, _formulas
from ._formulas import INF, Array, Arrays, Kernel, cast


class Rule(NamedTuple):
    """The derivative of one kernel, given a `xent_any.Task` of it."""

    jvp: Callable[[Any, Array], tuple[Arrays, Arrays]]
    vjp: Callable[[Any, Arrays, Arrays], Array]
    with_residuals: Kernel | None = None  # returns, after the kernel's results, what `vjp` may be handed


def _times(task: Any, a: Array, c: Array) -> Array:
    """``a c``; 0 where a is 0, also where c is not finite: a row that is ignored has any cotangent."""
    return a * task.xp.where((a == 0) & ~task.xp.isfinite(c), 0.0, c)


def _along(task: Any, g: Array, t: Array, ignored: Array) -> Array:
    """The products ``g t``, linear in t; 0 where `ignored`, whatever the tangent is.

    Not where g is 0 by chance: the derivative with respect to g is t there as well.
    """
    return task.xp.where(ignored, 0.0, g * cast(task.xp, t, g.dtype))


def _dot(task: Any, g: Array, t: Array) -> Array:
    """The sum over the classes of the gradient's products with t, in rows that are not ignored: `_along` of rows."""
    ignored = task.rows[2] == 0
    return task.options.backend.sum(task.xp, _along(task, g, t, ignored[..., None]))


def _mean(task: Any, p: Array, t: Array) -> Array:
    """The mean of t under the probabilities."""
    return task.options.backend.sum(task.xp, _along(task, p, t, p == 0))


def _precise(task: Any) -> Array:
    """The first of the rows in the precision computed in, in which the results then are as well."""
    return cast(task.xp, task.rows[0], task.options.dtype)


def _loss_jvp(task: Any, t: Array) -> tuple[Arrays, Arrays]:
    loss, g = task.run(_formulas.loss_and_grad, (_precise(task), *task.rows[1:3]))
    return (loss,), (_dot(task, g, t),)


def _loss_vjp(task: Any, cotangents: Arrays, residuals: Arrays) -> Array:
    x, labels, a = task.rows[:3]
    c = cotangents[0]
    rows = x, labels, _times(task, a, c)
    if not residuals:
        return task.run(_formulas.loss_and_grad, rows)[1]
    m, s, total = residuals
    return task.run(_formulas.gradient, (*rows, m, s, _times(task, total, c)))[0]


def _gradient_jvp(task: Any, t: Array) -> tuple[Arrays, Arrays]:
    loss, g = task.run(_formulas.loss_and_grad, (_precise(task), *task.rows[1:]))
    rounded = cast(task.xp, g, task.rows[0].dtype)
    return (loss, rounded), (_dot(task, g, t), *task.run(_formulas.hessian, (*task.rows, t)))


def _gradient_vjp(task: Any, cotangents: Arrays, residuals: Arrays) -> Array:
    c, v = cotangents
    if v is None:
        return _loss_vjp(task, (c,), ())
    (product,) = task.run(_formulas.hessian, (*task.rows, v))
    return product if c is None else product + _loss_vjp(task, (c,), ())


def _slope_jvp(task: Any, t: Array) -> tuple[Arrays, Arrays]:
    _, labels, a, direction = task.rows
    _, (slope,) = _loss_jvp(task, t)
    (product,) = task.run(_formulas.hvp, (_precise(task), labels, a, direction))
    return task.run(_formulas.loss_and_jvp, task.rows), (slope, _dot(task, product, t))


def _slope_vjp(task: Any, cotangents: Arrays, residuals: Arrays) -> Array:
    x, labels, a, direction = task.rows
    c, d = cotangents
    if d is None:
        return _loss_vjp(task, (c,), ())
    (product,) = task.run(_formulas.hvp, (x, labels, _times(task, a, d), direction))
    return product if c is None else product + _loss_vjp(task, (c,), ())


def _probabilities(task: Any) -> tuple[Array, Array]:
    x = _precise(task)
    return x, task.run(_formulas.softmax, (x,))[0]


def _logsumexp_jvp(task: Any, t: Array) -> tuple[Arrays, Arrays]:
    x, p = _probabilities(task)
    return task.run(_formulas.logsumexp, task.rows), (_mean(task, task.xp.where(x == -INF, 0.0, p), t),)


def _logsumexp_vjp(task: Any, cotangents: Arrays, residuals: Arrays) -> Array:
    x, p = _probabilities(task)
    g = task.xp.where(x == -INF, 0.0, p) * cotangents[0][..., None]
    return cast(task.xp, g, task.rows[0].dtype)


def _log_softmax_jvp(task: Any, t: Array) -> tuple[Arrays, Arrays]:
    _, p = _probabilities(task)
    t = cast(task.xp, t, p.dtype)
    return task.run(_formulas.log_softmax, task.rows), (t - _mean(task, p, t)[..., None],)


def _log_softmax_vjp(task: Any, cotangents: Arrays, residuals: Arrays) -> Array:
    (v,) = cotangents
    _, p = _probabilities(task)
    return cast(task.xp, v - p * task.options.backend.sum(task.xp, v)[..., None], task.rows[0].dtype)


def _jacobian(task: Any, p: Array, v: Array) -> Array:
    """That of the softmax, which is symmetric, times v."""
    v = cast(task.xp, v, p.dtype)
    return cast(task.xp, p * (v - _mean(task, p, v)[..., None]), task.rows[0].dtype)


def _softmax_jvp(task: Any, t: Array) -> tuple[Arrays, Arrays]:
    _, p = _probabilities(task)
    return (cast(task.xp, p, task.rows[0].dtype),), (_jacobian(task, p, t),)


def _softmax_vjp(task: Any, cotangents: Arrays, residuals: Arrays) -> Array:
    return _jacobian(task, _probabilities(task)[1], cotangents[0])


def _binary_jvp(task: Any, t: Array) -> tuple[Arrays, Arrays]:
    loss, g = task.run(_binary.binary_and_grad, (_precise(task), *task.rows[1:]))
    return (loss,), (_along(task, g, t, task.rows[3] == 0),)


def _binary_vjp(task: Any, cotangents: Arrays, residuals: Arrays) -> Array:
    *rows, a = task.rows
    return task.run(_binary.binary_and_grad, (*rows, _times(task, a, cotangents[0])))[1]


RULES: Mapping[Kernel, Rule] = {
    _formulas.loss: Rule(_loss_jvp, _loss_vjp, _formulas.loss_and_state),
    _formulas.loss_and_grad: Rule(_gradient_jvp, _gradient_vjp),
    _formulas.loss_and_jvp: Rule(_slope_jvp, _slope_vjp),
    _formulas.logsumexp: Rule(_logsumexp_jvp, _logsumexp_vjp),
    _formulas.log_softmax: Rule(_log_softmax_jvp, _log_softmax_vjp),
    _formulas.softmax: Rule(_softmax_jvp, _softmax_vjp),
    _binary.binary: Rule(_binary_jvp, _binary_vjp),
}
