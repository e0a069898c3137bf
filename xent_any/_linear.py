"""A linear layer and the cross-entropy of what it returns, a block of rows at a time: its logits are never all held.

For rows ``h`` (N, D), a weight ``W`` (C, D) and a bias ``b`` (C,), with ``G`` the gradient with respect to the logits::

    logits      X = h W^T + b
    gradient    dh = G W,    dW = G^T h,    db = the sum of G's rows

A block of rows leaves its losses and its part of ``dh``; its parts of ``dW`` and ``db`` are added to what the blocks
before it have left. Everything is computed in the precision of the loss, and rounded once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

from . import _rows
from ._backend import Task
from ._rows import Array, Arrays, Kernel, Options

FEW = 128
"""Of fewer rows at a time the products of all classes take longer than those of blocks of classes, one of which is
computed twice: NumPy, float32, D = 256, C = 64128, N = 1024, on two CPUs."""

MANY = 1024
"""So many rows at a time are enough."""

LIKE_HIDDEN = 4
"""So many arrays like a block of the layer's inputs there are at a time."""

Part: TypeAlias = tuple[slice, Array, Array | None]
"""Some of the classes, and their weight and bias."""

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
        The weights of the classes (C,); the layer's weight (C, D) and bias (C,); the numbers ``options.given``, if any.
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

    @property
    def block(self) -> tuple[int, int]:
        """So many rows, of so many classes, are computed at a time: as few blocks as may be, of equal size.

        Of all classes, unless so few rows would fit that adding up their parts of ``dW`` takes longer than products.
        As many as fit, where a compiler does not know how many rows there are; all, where it does not know the classes.
        """
        backend = self.options.backend
        count: Any = max(self.lead[0], 1)
        classes, inputs = self.shared[1].shape
        bits = int(self.xp.finfo(self.options.dtype).bits)
        numbers = 8 * backend.linear_memory(self.max_bytes) // bits
        each, other = backend.linear_arrays(classes * bits // 8), LIKE_HIDDEN * inputs
        if not isinstance(classes * inputs, int):  # sizes that are known when the program is run
            return self.lead[0], classes
        rows = numbers // (each * classes + other)
        if not isinstance(count, int):
            return max(1, rows), classes
        if rows >= min(count, FEW) or not backend.may_cut_classes(*self.arrays):
            return _even(count, max(1, rows)), classes
        each += 2 * (len(self.rows[1].shape) > 1)  # the target of probabilities, in which two arrays take part
        few = math.isqrt(8 * classes)  # so many at a time, what `merged` takes of all of their blocks fits as well
        rows = _even(count, max(1, min(MANY, numbers // (each * few + other))))
        return rows, _even(classes, max(1, (numbers // rows - other) // each))

    def losses(self) -> Array:
        """The loss of each row."""
        layer = self._layer()

        def step(_: Arrays, rows: Arrays) -> Carried:
            return (), (self._visited(_rows.loss, self._inputs(rows), rows, layer)[0],)

        return self.options.backend.scan(self, step, ())[1][0]

    def losses_and_gradients(
        self, hidden: bool = True, weight: bool = True, bias: bool = True, *, rounded: bool = True
    ) -> Arrays:
        """The loss of each row, and the gradient of their sum with respect to those that are asked for.

        In the dtypes of the arrays, or in the precision computed in, if they are to be multiplied before they are
        `rounded`; None for others, and for a bias that there is not.
        """
        xp, backend, dtype = self.xp, self.options.backend, self.options.dtype
        own = self.shared[1:3]
        dtypes = [a.dtype if rounded and a is not None else dtype for a in (self.rows[0], *own)]
        layer = self._layer()
        wanted = (weight, bias and own[1] is not None)

        def step(totals: Arrays, rows: Arrays) -> Carried:
            h = self._inputs(rows)
            loss, gradients = self._visited(_rows.loss_and_grad, h, rows, layer)
            added, d = [], None
            for (_, w, _), (d_weight, d_bias), gradient in zip(layer, totals, gradients, strict=True):
                b = None if d_bias is None else d_bias + backend.sum_of_rows(xp, gradient)
                g = backend.factor(xp, gradient, w)
                added.append((None if d_weight is None else backend.add_product(xp, d_weight, g, h), b))
                if hidden:
                    more = backend.product(xp, g, w)
                    d = more if d is None else d + more
            return tuple(added), (loss, backend.store(xp, self._usable(d, rows), dtypes[0])) if hidden else (loss,)

        zeros = [xp.zeros_like(a, dtype=dtype) if is_wanted else None for a, is_wanted in zip(own, wanted, strict=True)]
        parts = [tuple(None if a is None else a[classes, ...] for a in zeros) for classes, _, _ in layer]
        totals, results = backend.scan(self, step, tuple(parts))
        d_weight, d_bias = totals[0]
        if len(layer) > 1:  # `add_product` has written to `zeros`
            d_weight, d_bias = zeros[0], None if d_bias is None else xp.concat([b for _, b in totals])
        d_layer = (
            None if d is None else backend.store(xp, d, dtype)
            for d, dtype in zip((d_weight, d_bias), dtypes[1:], strict=True)
        )
        return (results[0], results[1] if hidden else None, *d_layer)

    def _layer(self) -> list[Part]:
        """The layer by blocks of classes: which, and their weight and bias as what computes the logits takes them."""
        _, weight, bias, *_ = self.shared
        xp, dtype = self.xp, self.options.dtype
        weight = self.options.backend.widened(xp, weight, dtype)
        bias = None if bias is None else self.options.backend.load(xp, bias, dtype)
        count = weight.shape[0]
        size = self.block[1] if self.options.backend.may_cut_classes(*self.arrays) else count
        if count <= size:
            return [(slice(None), weight, bias)]
        blocks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        return [(block, weight[block, :], None if bias is None else bias[block]) for block in blocks]

    def _visited(self, kernel: Kernel, hidden: Array, rows: Arrays, layer: list[Part]) -> tuple[Array, Iterable[Array]]:
        """The loss of rows, whose inputs are `hidden`, and its gradient by blocks of classes, each when it is due."""
        _, labels, a = rows
        if len(layer) == 1:
            loss, *gradients = self._run(kernel, self.options, hidden, (labels, a), layer[0])
            return loss, gradients
        xp = self.xp
        given = self.options._replace(classes=self.shared[1].shape[0])
        here = [self._labels_here(labels, classes, a) for classes, _, _ in layer]

        def total(part: Part, labels: Array) -> Arrays:
            options, (w,) = _rows.with_numbers(given, self._shared(part))
            goal = _rows.target_here(xp, options, part[1].shape[0], labels, a, w)
            return goal.total, goal.is_zero(xp, options)

        found = [total(part, y) for part, y in zip(layer, here, strict=True)]
        totals, are_zero = (xp.stack(several, axis=-1) for several in zip(*found, strict=True))
        options, _ = _rows.with_numbers(given, self.shared)
        a = xp.where(_rows.weightless(options, a, xp.all(are_zero, axis=-1)), 0.0, a)
        states = [self._run(_rows.part, given, hidden, (y, a), part) for part, y in zip(layer, here, strict=True)]
        loss, *state, block = _rows.merged(xp, options, a, totals, states)
        return loss, (
            self._run(_rows.part_grad, given, hidden, (y, a, *state, block == i), part)[0]
            for i, (part, y) in enumerate(zip(layer, here, strict=True))
        )

    def _run(self, kernel: Kernel, options: Options, hidden: Array, rows: Arrays, part: Part) -> Arrays:
        """Run a kernel on the logits of rows for a block of classes."""
        x = options.backend.affine(self.xp, hidden, *part[1:], options.dtype)
        task = Task(kernel, self.xp, options, (x, *rows), self._shared(part), rows[1].shape)
        return options.backend.run(task)

    def _shared(self, part: Part) -> Arrays:
        """What rows of logits for a block of classes share."""
        w, _, _, *numbers = self.shared
        return None if w is None else w[part[0]], *numbers

    def _labels_here(self, labels: Array, classes: slice, a: Array) -> Array:
        """The labels of a block of classes, whose number stands for another class."""
        if labels.ndim > a.ndim:
            return labels[:, classes]
        start, stop = classes.start, classes.stop
        return self.xp.where((labels >= start) & (labels < stop), labels - start, stop - start)

    def _inputs(self, rows: Arrays) -> Array:
        """The inputs of a block of rows in the precision computed in."""
        return self._usable(self.options.backend.load(self.xp, rows[0], self.options.dtype), rows)

    def _usable(self, values: Array, rows: Arrays) -> Array:
        """An array like the rows' inputs, with zeros in rows that are not counted and could not be computed with."""
        xp, (_, labels, a) = self.xp, rows
        usable = xp.all(xp.isfinite(values), axis=-1)
        if self.options.backend.holds(xp, usable):
            return values
        options, (w, weight, _) = _rows.with_numbers(self.options, self.shared)
        unused = _rows.uncounted(xp, options, _rows.target(xp, options, weight.shape[0], labels, a, w), a)
        return options.backend.zeroed(xp, values, xp.logical_and(~usable, unused))


def _even(count: int, most: int) -> int:
    """The size of blocks of at most so many of `count`: as few as may be, of equal size."""
    return -(-count // -(-count // most))
