"""Kernels for PyTorch's compiler, in forms that Inductor fuses; their derivatives are not to be asked for.

Inductor on the CPU writes to memory what is computed of an exponential and read by several formulas. All else it
computes anew wherever it is read. So the exponential of a logit is read once, and a number for each row that a
formula for each class reads has an exponential. What few rows need is made good in numbers for each row.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from xent_any import _formulas
from xent_any._formulas import (
    NAN,
    Kernel,
    Options,
    State,
    Target,
    Tuned,
    dense_of,
    is_ignored,
    loss_from,
    missed_of,
    target_of,
    z_of,
)

from ._tensors import may_attach


class Rows(NamedTuple):
    """Rows of logits and what they are compared with."""

    x: Any  # (*batch, C)
    target: Target
    z: Any  # (*batch), Z, or None
    found: Any  # (*batch), the maximum
    unusable: Any  # (*batch), rows that are ignored and could not be computed with


def read(xp: Any, options: Options, rows: Any, shared: Any, *known: Any) -> Rows:
    """Read rows ``(logits, labels, a)``, whose maximum and T may be `known`."""
    (logits, labels, a), (w,) = rows, shared
    x = logits.to(options.dtype)
    target, z = target_of(xp, options, x.shape[-1], labels, a, w), z_of(options, a)
    found, target = (known[0], target._replace(total=known[1])) if known else (torch.amax(x, -1), target)
    return Rows(x, target, z, found, is_ignored(xp, options, target, z) & ~torch.isfinite(found))


def state_of(xp: Any, options: Options, r: Rows) -> State:
    """Compute the state of rows, 0 in those that are unusable."""
    sum_of, found = options.backend.sum, r.found[..., None]
    highest = r.x >= found
    rest = sum_of(xp, torch.where(highest, 0.0, torch.exp(r.x - found))) + (sum_of(xp, highest.to(r.x.dtype)) - 1)
    usable = torch.where(torch.isfinite(r.found), r.found, NAN)
    parts = usable, rest + 0 * usable, missed_of(xp, options, r.target, usable, r.x)  # NaN where the maximum is
    m, rest, missed = (torch.where(r.unusable, 0.0, part) for part in parts)
    return State(m, rest, missed, r.target.total)


def gradient_of(xp: Any, options: Options, r: Rows, s: Any) -> Any:
    """Compute the gradient (*batch, C), in the precision computed in."""
    m, total = r.found[..., None], r.target.total
    q = dense_of(xp, options, r.target, r.x)
    total = total if r.z is None else total + 2 * r.z * (r.found + torch.log1p(s))
    p_m = torch.exp(r.found - r.found) / (1 + s)  # an exponential of 0: without one it is computed for each class
    scale, others = (total * p_m)[..., None], (s * p_m)[..., None]
    at_maximum = (total[..., None] - q) * p_m[..., None] - q * others
    g = torch.where(r.x == m, at_maximum, scale * torch.exp(r.x - m) - q)
    return torch.where(r.unusable[..., None], 0.0, g)


def loss(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    r = read(xp, options, rows, shared)
    return (loss_from(xp, state_of(xp, options, r), r.z),)


def loss_and_state(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    r = read(xp, options, rows, shared)
    state = state_of(xp, options, r)
    m = torch.where(is_ignored(xp, options, r.target, r.z), NAN, state.max)
    return loss_from(xp, state, r.z), m, state.rest, state.total


def loss_and_grad(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    r = read(xp, options, rows, shared)
    state = state_of(xp, options, r)
    return loss_from(xp, state, r.z), gradient_of(xp, options, r, state.rest).to(rows[0].dtype)


def gradient(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    *first, m, s, total = rows
    r = read(xp, options, first, shared, m, total)
    return (gradient_of(xp, options, r, s).to(rows[0].dtype),)


def compiled(kernel: Any) -> Callable[..., Any]:
    """Let a kernel decline where nothing is compiled, or a transform may differentiate it operation by operation."""

    def tuned(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
        return kernel(xp, options, rows, shared) if torch.compiler.is_compiling() and may_attach() else None

    return tuned


KERNELS: Mapping[Kernel, Tuned] = {
    reference: Tuned(compiled(kernel), frozenset({"label_smoothing", "z_loss", "axis", "unrestricted"}))
    for reference, kernel in (
        (_formulas.loss, loss),
        (_formulas.loss_and_state, loss_and_state),
        (_formulas.loss_and_grad, loss_and_grad),
        (_formulas.gradient, gradient),
    )
}
"""The compiler's tuned kernels."""
