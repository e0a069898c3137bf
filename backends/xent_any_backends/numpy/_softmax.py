"""NumPy's kernels of the softmax and the log-sum-exp; see `_kernels`."""

from typing import Any

import numpy as np

from xent_any._formulas import Options

from ._memory import SCRATCH, positions, row_sum


def maximum(x: Any) -> tuple[Any, Any]:
    """Find the maximum of each row (*batch, C), and where that is as fast, a class that has it."""
    if not x.flags.c_contiguous:
        return None, np.max(x, axis=-1)
    k = x.argmax(axis=-1)
    return k, at_class(x, k)


def class_of(x: Any, m: Any) -> Any:
    """Find the first class of each row (*batch, C) where it has its maximum m; any if there is none."""
    highest = x == m[..., None]
    return highest.argmax(axis=-1)


def rest_of(x: Any, k: Any, m: Any, e: Any) -> tuple[Any, Any]:
    """Sum e (*batch, C) over the classes but one with the maximum; that class, where it has been looked for."""
    if k is None:
        if np.count_nonzero(e == 1) == np.count_nonzero(np.isfinite(m)):  # each row has one
            rest = np.floor(e, out=SCRATCH.empty_like(e))
            return None, row_sum(np.subtract(e, rest, out=rest))
        k = class_of(x, m)
    view, places = positions(e, k)
    view[places] = 0.0
    s = row_sum(e)
    view[places] = 1.0
    return k, s


def at_class(a: Any, k: Any) -> Any:
    """Take the element of each row of an array that `load` laid out at the class k (*batch)."""
    view, places = positions(a, k)
    return view[places]


def softmax_state(options: Options, rows: Any) -> Any:
    """Compute x, d = x - m, exp(d), m and s, and which rows are finite."""
    x = options.backend.load(rows[0], options.dtype)
    k, m = maximum(x)
    d = np.subtract(x, m[..., None], out=SCRATCH.output_like(x))
    e = np.exp(d, out=SCRATCH.empty_like(x))
    _, s = rest_of(x, k, m, e)
    return d, e, m, s, np.isfinite(m + s)


def logsumexp(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    _, _, m, s, finite = softmax_state(options, rows)
    return finite, (m + np.log1p(s),)


def log_softmax(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    d, _, _, s, finite = softmax_state(options, rows)
    return finite, (np.subtract(d, np.log1p(s)[..., None], out=d),)


def softmax(xp: Any, options: Options, rows: Any, shared: Any) -> Any:
    d, e, _, s, finite = softmax_state(options, rows)
    return finite, (options.backend.rounded(np.divide(e, (1 + s)[..., None], out=d), rows[0].dtype),)
