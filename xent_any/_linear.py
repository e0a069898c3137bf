"""A linear layer and the cross-entropy of what it returns, a block of rows at a time: its logits are never all held.

For rows ``h`` (N, D), a weight ``W`` (C, D) and a bias ``b`` (C,), with ``G`` the gradient with respect to the logits::

    logits      X = h W^T + b
    gradient    dh = G W,    dW = G^T h,    db = the sum of G's rows

A block of rows leaves its losses and its part of ``dh``; its parts of ``dW`` and ``db`` are added to what the blocks
before it have left. Everything is computed in the precision of the loss, and rounded once.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from . import _formulas
from ._formulas import INF, Array, Arrays, Kernel, Options, State, cast, with_numbers
from ._task import Task

FEW = 128
"""Of fewer rows at a time the products of all classes take longer than those of blocks of classes, one of which is
computed twice: NumPy, float32, D = 256, C = 64128, N = 1024, on two CPUs."""

MANY = 1024
"""So many rows at a time are enough."""

LIKE_HIDDEN = 4
"""Number of arrays like a block of the layer's inputs that there are at a time."""

Part: TypeAlias = tuple[slice, Array, Array | None]
"""A block of the classes, and their weight and bias."""

Carried: TypeAlias = tuple[Arrays, Arrays]
"""The totals with a block's own added, and the block's results, one for each row."""


class Products:
    """The matrix products of a linear layer, its memory, and the loop over its blocks, on one engine.

    Attributes
    ----------
    bytes : int
        Bytes of memory for a layer's blocks, unless the caller says how many.
    """

    def __init__(self, memory: int) -> None:
        self.bytes = memory

    def memory(self, max_bytes: int | None) -> int:
        """Bytes for the arrays of a block of rows, of `max_bytes` for all that is held."""
        return self.bytes if max_bytes is None else max_bytes

    def temporaries(self, row_bytes: int, dense: bool) -> int:
        """Number of arrays like a block of logits that there are at a time, in rows of so many bytes.

        `dense` says whether labels are probabilities of a block of classes.
        """
        return 8

    def may_cut_classes(self, *arrays: Array) -> bool:
        """Whether blocks of a layer with these arrays may have some of the classes: nobody differentiates them.

        `add_product` must write to the total that it is given, then.
        """
        return False

    def scan(self, task: Any, step: Callable[[Arrays, Arrays], Carried], totals: Arrays) -> Carried:
        """Hand `step` the totals and a block of rows of the task after the other; return the last totals, the results.

        Rows whose scale is 0 may be left out; their results are zeros.
        """
        (count,), size, parts = task.batch, task.block[0], []
        for start in range(0, max(count, 1), size):
            block = slice(start, min(start + size, count))
            totals, results = step(totals, tuple(a[block, ...] for a in task.rows))
            parts.append(results)
        if len(parts) == 1:
            return totals, parts[0]
        return totals, tuple(task.xp.concat(several, axis=0) for several in zip(*parts, strict=True))

    def widened(self, xp: Any, weight: Array, dtype: Any) -> Array:
        """Return a layer's weight (C, D) as `affine` and `product` take it: in `dtype`, or as it is."""
        return cast(xp, weight, dtype)

    def loaded(self, xp: Any, a: Array, dtype: Any) -> Array:
        """Return a layer's inputs or bias in `dtype`."""
        return cast(xp, a, dtype)

    def affine(self, xp: Any, hidden: Array, weight: Array, bias: Array | None, dtype: Any) -> Array:
        """Compute ``h W^T + b`` in `dtype`, for h (N, D) and b (C,) in that dtype and W (C, D)."""
        x = xp.matmul(hidden, xp.permute_dims(weight, (1, 0)))
        return x if bias is None else x + bias

    def factor(self, xp: Any, g: Array, weight: Array) -> Array:
        """Return G (N, C) as `product` and `add_product` take it: as it is, or in the dtype of the layer."""
        return g

    def product(self, xp: Any, g: Array, weight: Array) -> Array:
        """Compute ``G W`` for G (N, C), from `factor`, and W (C, D), in the precision computed in."""
        return xp.matmul(g, weight)

    def add_product(self, xp: Any, total: Array, g: Array, hidden: Array) -> Array:
        """Compute ``T + G^T h`` for T (C, D), which may be written to, G (N, C) from `factor`, and h (N, D)."""
        return total + xp.matmul(xp.permute_dims(g, (1, 0)), hidden)

    def sum_of_rows(self, xp: Any, g: Array) -> Array:
        """Sum over the first axis of g (N, C)."""
        return xp.sum(g, axis=0)

    def rounded(self, xp: Any, a: Array, dtype: Any) -> Array:
        """Round a result to `dtype`."""
        return cast(xp, a, dtype)


@dataclass(frozen=True)
class LinearTask(Task):
    """The losses of rows of a linear layer, and the gradients that are wanted.

    Attributes
    ----------
    kernel : callable
        The one that leaves the losses of rows of logits.
    rows : tuple of array
        The layer's inputs (N, D), the labels (N,) or (N, C), and each row's scale (N,).
    shared : tuple of array or None
        The weights of the classes (C,); the layer's weight (C, D) and bias (C,); the numbers ``options.given``, if any.
    batch : tuple of int
        (N,).
    summed : bool
        Whether the sum of the losses is asked for, not each.
    max_bytes : int or None
        Bytes of memory that may be used for blocks.
    recompute : bool
        Whether a derivative computes the logits anew. Otherwise the gradient of the sum is computed with it, and kept.
    wanted : tuple of bool, or None
        Whether the gradients of the losses' sum with respect to the layer's inputs, weight and bias are asked for
        beside the loss.
    rounded : bool
        Whether gradients have the dtypes of their arrays; otherwise the precision computed in, to be multiplied first.
    """

    max_bytes: int | None = None
    recompute: bool = True
    wanted: tuple[bool, bool, bool] | None = None
    rounded: bool = True

    LAYER: ClassVar[tuple[int, int, int]] = (0, 4, 5)
    """Where in `arrays` the layer's inputs, weight and bias are."""

    def at_once(self) -> Arrays:
        """Compute the loss, reduced, and the gradients wanted: None for others, and for a bias that there is not."""
        if self.wanted is None:
            return self.reduced((self._losses(),))
        return self.reduced(self._losses_and_gradients(*self.wanted))

    reference = at_once

    @property
    def may_cut_classes(self) -> bool:
        """Whether blocks may have some of the classes, and can tell whether a row is ignored: by its T alone."""
        has_signs = self.options.unrestricted and (self.shared[0] is not None or len(self.rows[1].shape) > 1)
        return not has_signs and self.options.backend.products.may_cut_classes(*self.arrays)

    @property
    def block(self) -> tuple[int, int]:
        """So many rows, of so many classes, are computed at a time: as few blocks as may be, of equal size.

        Of all classes, unless so few rows would fit that adding up their parts of ``dW`` takes longer than products.
        As many as fit, where a compiler does not know how many rows there are; all, where it does not know the classes.
        """
        products = self.options.backend.products
        count: Any = max(self.batch[0], 1)
        classes, inputs = self.shared[1].shape
        bits = int(self.xp.finfo(self.options.dtype).bits)
        numbers = 8 * products.memory(self.max_bytes) // bits
        each, other = products.temporaries(classes * bits // 8, False), LIKE_HIDDEN * inputs
        if not isinstance(classes * inputs, int):  # sizes that are known when the program is run
            return self.batch[0], classes
        rows = numbers // (each * classes + other)
        if not isinstance(count, int):
            return max(1, rows), classes
        if rows >= min(count, FEW) or not self.may_cut_classes:
            return _even(count, max(1, rows)), classes
        each = products.temporaries(classes * bits // 8, len(self.rows[1].shape) > 1)
        few = math.isqrt(8 * classes)  # so many at a time, what `merged` takes of all of their blocks fits as well
        rows = _even(count, max(1, min(MANY, numbers // (each * few + other))))
        return rows, _even(classes, max(1, (numbers // rows - other) // each))

    def _losses(self) -> Array:
        """Compute the loss of each row."""
        layer = self._layer()

        def step(_: Arrays, rows: Arrays) -> Carried:
            return (), (self._visited(_formulas.loss, self._inputs(rows), rows, layer)[0],)

        return self.options.backend.products.scan(self, step, ())[1][0]

    def _losses_and_gradients(self, hidden: bool, weight: bool, bias: bool) -> Arrays:
        """Compute the loss of each row, and the gradients of their sum that are asked for."""
        xp, products, dtype = self.xp, self.options.backend.products, self.options.dtype
        own = self.shared[1:3]
        dtypes = [a.dtype if self.rounded and a is not None else dtype for a in (self.rows[0], *own)]
        layer = self._layer()
        wanted = (weight, bias and own[1] is not None)

        def step(totals: Arrays, rows: Arrays) -> Carried:
            h = self._inputs(rows)
            loss, gradients = self._visited(_formulas.loss_and_grad, h, rows, layer)
            added, d = [], None
            for (_, w, _), (d_weight, d_bias), gradient in zip(layer, totals, gradients, strict=True):
                b = None if d_bias is None else d_bias + products.sum_of_rows(xp, gradient)
                g = products.factor(xp, gradient, w)
                added.append((None if d_weight is None else products.add_product(xp, d_weight, g, h), b))
                if hidden:
                    more = products.product(xp, g, w)
                    d = more if d is None else d + more
            if not hidden:
                return tuple(added), (loss,)
            return tuple(added), (loss, products.rounded(xp, self._usable(d, rows), dtypes[0]))

        zeros = [xp.zeros_like(a, dtype=dtype) if is_wanted else None for a, is_wanted in zip(own, wanted, strict=True)]
        parts = [tuple(None if a is None else a[classes, ...] for a in zeros) for classes, _, _ in layer]
        totals, results = products.scan(self, step, tuple(parts))
        d_weight, d_bias = totals[0]
        if len(layer) > 1:  # `add_product` has written to `zeros`
            d_weight, d_bias = zeros[0], None if d_bias is None else xp.concat([b for _, b in totals])
        d_layer = (
            None if d is None else products.rounded(xp, d, dtype)
            for d, dtype in zip((d_weight, d_bias), dtypes[1:], strict=True)
        )
        return (results[0], results[1] if hidden else None, *d_layer)

    def _layer(self) -> list[Part]:
        """Return the layer by blocks of classes: which, and their weight and bias as `affine` takes them."""
        _, weight, bias, *_ = self.shared
        xp, dtype, products = self.xp, self.options.dtype, self.options.backend.products
        weight = products.widened(xp, weight, dtype)
        bias = None if bias is None else products.loaded(xp, bias, dtype)
        count = weight.shape[0]
        size = self.block[1] if self.may_cut_classes else count
        if count <= size:
            return [(slice(None), weight, bias)]
        blocks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        return [(block, weight[block, :], None if bias is None else bias[block]) for block in blocks]

    def _visited(self, kernel: Kernel, hidden: Array, rows: Arrays, layer: list[Part]) -> tuple[Array, Iterable[Array]]:
        """Compute the loss of rows, whose inputs are `hidden`, and its gradient by blocks of classes, each when due."""
        _, labels, a = rows
        if len(layer) == 1:
            loss, *gradients = self._run(kernel, self.options, hidden, (labels, a), layer[0])
            return loss, gradients
        given = self.options._replace(classes=self.shared[1].shape[0])
        here = [_formulas.labels_of_block(self.xp, labels, a, classes.start, classes.stop) for classes, _, _ in layer]
        states = [self._run(_formulas.part, given, hidden, (y, a), part) for part, y in zip(layer, here, strict=True)]
        options, _ = with_numbers(self.options, self.shared)
        loss, state = _formulas.loss_of_parts(self.xp, options, [State(*several) for several in states], a)
        known = a, state.max, state.rest, state.total
        return loss, (
            self._run(_formulas.gradient, given, hidden, (y, *known), part)[0]
            for part, y in zip(layer, here, strict=True)
        )

    def _run(self, kernel: Kernel, options: Options, hidden: Array, rows: Arrays, part: Part) -> Arrays:
        """Run a kernel on the logits of rows for a block of classes."""
        x = options.backend.products.affine(self.xp, hidden, *part[1:], options.dtype)
        w, _, _, *numbers = self.shared
        shared = None if w is None else w[part[0]], *numbers
        results: Arrays = options.backend.run(Task(kernel, self.xp, options, (x, *rows), shared, rows[1].shape))
        return results

    def _inputs(self, rows: Arrays) -> Array:
        """Return the inputs of a block of rows in the precision computed in."""
        return self._usable(self.options.backend.products.loaded(self.xp, rows[0], self.options.dtype), rows)

    def _usable(self, values: Array, rows: Arrays) -> Array:
        """Return an array like the rows' inputs, with zeros in ignored rows that could not be computed with."""
        xp, (_, labels, a) = self.xp, rows
        found = _formulas.extremes(self.options.backend, values)
        if found and found[0] > -INF and found[1] < INF:
            return values
        usable = xp.all(xp.isfinite(values), axis=-1)
        options, (w, weight, _) = with_numbers(self.options, self.shared)
        target = _formulas.target_of(xp, options, weight.shape[0], labels, a, w)
        ignored = _formulas.is_ignored(xp, options, target, _formulas.z_of(options, a))
        return xp.where((~usable & ignored)[..., None], 0.0, values)


def _even(count: int, most: int) -> int:
    """The size of blocks of at most so many of `count`: as few as may be, of equal size."""
    return -(-count // -(-count // most))
