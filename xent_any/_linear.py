"""A linear layer and the cross-entropy of what it returns, a block of rows at a time: its logits are never all held.

For rows ``h`` (N, D), a weight ``W`` (C, D) and a bias ``b`` (C,), with ``G`` the gradient with respect to the logits::

    logits      X = h W^T + b
    gradient    dh = G W,    dW = G^T h,    db = the sum of G's rows

A block of rows leaves its losses and its part of ``dh``; its parts of ``dW`` and ``db`` are added to what the blocks
before it have left. Everything is computed in the precision of the loss, and rounded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from . import _rows
from ._backend import Task
from ._rows import Array, Arrays, Kernel

Carried: TypeAlias = tuple[Arrays, Arrays]
"""The totals with a block's own added, and the block's results, one for each row."""


@dataclass(frozen=True)
class LinearTask(Task):
    """The losses of rows of a linear layer.

    Attributes
    ----------
    kernel : callable
        The one that leaves the losses of rows of logits.
    rows : tuple of array
        The layer's inputs (N, D), the labels (N,) or (N, C), and each row's scale (N,).
    shared : tuple of array or None
        The weights of the classes (C,); the layer's weight (C, D) and bias (C,).
    lead : tuple of int
        (N,).
    max_bytes : int or None
        So much memory may be used for blocks.
    summed : bool
        Whether the sum of the losses is asked for, not each.
    recompute : bool
        Whether a derivative computes the logits anew. Otherwise the gradient of the sum is computed with it, and kept.
    """

    max_bytes: int | None
    summed: bool
    recompute: bool

    LAYER: ClassVar[tuple[int, int, int]] = (0, 4, 5)
    """Where in `arrays` the layer's inputs, weight and bias are."""

    def filled(self, arrays: Sequence[Array | None]) -> "LinearTask":
        """The same task with other `arrays`."""
        count = len(self.rows)
        return replace(self, rows=tuple(arrays[:count]), shared=tuple(arrays[count:]))

    def at_once(self) -> Arrays:
        """What is asked for, without an analytic derivative of its own: the losses' derivatives are that."""
        return (self.reduced(self.losses()),)

    def reduced(self, losses: Array) -> Array:
        """What is asked for, given the loss of each row."""
        return self.options.backend.sum(self.xp, losses) if self.summed else losses

    def row_bytes(self) -> int:
        """Bytes of one row of logits."""
        bits = int(self.xp.finfo(self.options.dtype).bits)
        return int(self.shared[1].shape[0]) * bits // 8

    @property
    def block(self) -> int:
        """So many rows are computed at a time: as few blocks as may be, of equal size."""
        count = max(self.lead[0], 1)
        return -(-count // -(-count // self.options.backend.linear_rows(self.row_bytes(), self.max_bytes)))

    def losses(self) -> Array:
        """The loss of each row."""
        weight, bias = self._widened()

        def step(_: Arrays, rows: Arrays) -> Carried:
            return (), self._run(_rows.loss, self._usable(rows[0], rows), rows, weight, bias)

        return self.options.backend.scan(self, step, ())[1][0]

    def losses_and_gradients(self, hidden: bool = True, weight: bool = True, bias: bool = True) -> Arrays:
        """The loss of each row, and the gradient of their sum with respect to those that are asked for.

        In the dtypes of the arrays; None for others, and for a bias that there is not.
        """
        xp, backend, dtype = self.xp, self.options.backend, self.options.dtype
        own = self.shared[1:]
        w, b = self._widened()
        wanted = (weight, bias and own[1] is not None)

        def step(totals: Arrays, rows: Arrays) -> Carried:
            h = self._usable(rows[0], rows)
            loss, g = self._run(_rows.loss_and_grad, h, rows, w, b)
            d_weight, d_bias = totals
            if wanted[0]:
                d_weight = backend.add_product(xp, d_weight, g, h)
            if wanted[1]:
                d_bias = d_bias + xp.sum(g, axis=0)
            if not hidden:
                return (d_weight, d_bias), (loss,)
            d = self._usable(backend.product(xp, g, w), rows)
            return (d_weight, d_bias), (loss, _rows.cast(xp, d, h.dtype))

        zeros = [xp.zeros_like(a, dtype=dtype) if is_wanted else None for a, is_wanted in zip(own, wanted, strict=True)]
        totals, results = backend.scan(self, step, tuple(zeros))
        totals = (None if t is None else _rows.cast(xp, t, a.dtype) for t, a in zip(totals, own, strict=True))
        return (results[0], results[1] if hidden else None, *totals)

    def _widened(self) -> Arrays:
        """The layer's weight and bias as what computes the logits takes them."""
        _, weight, bias = self.shared
        xp, dtype = self.xp, self.options.dtype
        weight = self.options.backend.widened(xp, weight, dtype)
        return weight, None if bias is None else _rows.cast(xp, bias, dtype)

    def _run(self, kernel: Kernel, hidden: Array, rows: Arrays, weight: Array, bias: Array | None) -> Arrays:
        """Run a kernel on the logits of rows, whose inputs are `hidden`."""
        _, labels, a = rows
        x = self.options.backend.affine(self.xp, hidden, weight, bias, self.options.dtype)
        return self.options.backend.run(Task(kernel, self.xp, self.options, (x, labels, a), self.shared[:1], a.shape))

    def _usable(self, values: Array, rows: Arrays) -> Array:
        """An array like the rows' inputs, with zeros in rows that are not counted and could not be computed with."""
        xp, (_, labels, a) = self.xp, rows
        usable = xp.all(xp.isfinite(values), axis=-1)
        if self.options.backend.holds(xp, usable):
            return values
        goal = _rows.target(xp, self.options, self.shared[1].shape[0], labels, a, self.shared[0])
        return self.options.backend.zeroed(xp, values, ~usable & _rows.uncounted(self.options, goal, a))
