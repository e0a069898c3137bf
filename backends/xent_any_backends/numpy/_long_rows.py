"""Rows that are longer than a block, in NumPy: a block of classes at a time."""

from typing import Any

import numpy as np

from xent_any import _formulas
from xent_any._formulas import Options

LONG = 1 << 19
"""Bytes of classes of a longer row that are computed at a time."""


def of_long_rows(reference: Any, xp: Any, options: Options, rows: Any, shared: Any) -> tuple[Any, ...] | None:
    """Compute the loss of rows that are longer than a block, and its gradient, a block of classes at a time."""
    if reference not in (_formulas.loss, _formulas.loss_and_grad):
        return None
    (x, labels, a), (w,) = rows, shared
    if options.unrestricted and (w is not None or labels.ndim > a.ndim):  # weights of both signs may add up to 0
        return None
    count, step, given = x.shape[-1], LONG // x.itemsize, options._replace(classes=x.shape[-1])

    def run(kernel: Any, start: int, *state: Any) -> Any:
        stop = min(start + step, count)
        here = _formulas.labels_of_block(xp, labels, a, start, stop), a, *state
        return kernel(xp, given, (x[..., start:stop], *here), (None if w is None else w[start:stop],))

    states = [_formulas.State(*run(_formulas.part, start)) for start in range(0, count, step)]
    loss, state = _formulas.loss_of_parts(xp, options, states, a)
    if reference is _formulas.loss:
        return (loss,)
    gradient = np.empty_like(x)
    for start in range(0, count, step):
        gradient[..., start : start + step] = run(_formulas.gradient, start, state.max, state.rest, state.total)[0]
    return loss, gradient
