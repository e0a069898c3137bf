"""A kernel and the arrays to run it on, as a backend is handed them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from . import _binary, _formulas
from ._derivatives import RULES
from ._formulas import Array, Arrays, Kernel, Options, compute, with_numbers


class Result(NamedTuple):
    """Shape and dtype of one result of a kernel."""

    whole: bool = False  # of the shape of the first of the rows; otherwise (*batch)
    rounded: bool = False  # to the dtype of the first of the rows; otherwise in the precision computed in


ROW, WHOLE, ROUNDED = Result(), Result(whole=True), Result(whole=True, rounded=True)

RESULTS: Mapping[Kernel, tuple[Result, ...]] = {
    _formulas.label_weight: (ROW,),
    _formulas.loss: (ROW,),
    _formulas.loss_and_grad: (ROW, ROUNDED),
    _formulas.loss_and_state: (ROW, ROW, ROW, ROW),
    _formulas.loss_and_jvp: (ROW, ROW),
    _formulas.gradient: (ROUNDED,),
    _formulas.part: (ROW, ROW, ROW, ROW),
    _formulas.hvp: (ROUNDED,),
    _formulas.hessian: (ROUNDED,),
    _formulas.nll: (ROW,),
    _formulas.logsumexp: (ROW,),
    _formulas.log_softmax: (WHOLE,),
    _formulas.softmax: (ROUNDED,),
    _binary.binary: (WHOLE,),
    _binary.binary_and_grad: (WHOLE, ROUNDED),
}
"""The results of each kernel."""


@dataclass(frozen=True)
class Task:
    """A kernel of the reference and the arrays to run it on.

    Attributes
    ----------
    kernel : callable
        ``kernel(xp, options, rows, shared)``.
    xp : namespace
        That of the arrays.
    options : Options
        Hashable; the kernel may be compiled for it.
    rows : tuple of array or None
        Arrays of shape ``batch`` or ``(*batch, C)``.
    shared : tuple of array or None
        Arrays of shape ``(C,)``, which every block needs whole; the last holds the numbers ``options.given``, if any.
    batch : tuple of int
        The axes that the rows may be cut along.
    summed : bool
        Whether the sum of the first result is asked for in its place.
    """

    kernel: Kernel
    xp: Any
    options: Options
    rows: Arrays
    shared: Arrays
    batch: tuple[int, ...]
    summed: bool = False

    def at_once(self) -> Arrays:
        """Run the kernel on all rows: the tuned one of the backend, if it has one."""
        options, shared = with_numbers(self.options, self.shared)
        return self.reduced(compute(self.kernel, self.xp, options, self.rows, shared))

    def reference(self) -> Arrays:
        """Run the kernel of the reference on all rows."""
        options, shared = with_numbers(self.options, self.shared)
        return self.reduced(self.kernel(self.xp, options, self.rows, shared))

    def reduced(self, results: Arrays) -> Arrays:
        """Add up the first of the results, if that is asked for."""
        if not self.summed:
            return results
        return self.options.backend.sum(self.xp, self.xp.reshape(results[0], (-1,))), *results[1:]

    def run(self, kernel: Kernel, rows: Arrays) -> Arrays:
        """Have the backend run another kernel, with the same options, on other rows."""
        results: Arrays = self.options.backend.run(Task(kernel, self.xp, self.options, rows, self.shared, self.batch))
        return results

    @property
    def arrays(self) -> Arrays:
        """All arrays, and None for those that the problem does not have."""
        return (*self.rows, *self.shared)

    def with_arrays(self, arrays: Sequence[Array | None]) -> "Task":
        """The same task of other `arrays`."""
        count = len(self.rows)
        return replace(self, rows=tuple(arrays[:count]), shared=tuple(arrays[count:]))

    def without_arrays(self) -> "Task":
        """The same task without its arrays; hashable."""
        return self.with_arrays((None,) * len(self.arrays))

    def partial(self, positions: Sequence[int]) -> Callable[..., Arrays]:
        """Return the reference's kernel as a function of those of `arrays` at `positions`, in that order.

        It is linear in each but the first of `arrays`, and smooth in the numbers that the options are given: there the
        framework's own derivative of it is right.
        """

        def function(*values: Array) -> Arrays:
            arrays = list(self.arrays)
            for i, value in zip(positions, values, strict=True):
                arrays[i] = value
            return self.with_arrays(arrays).reference()

        return function

    @property
    def has_derivative(self) -> bool:
        """Whether `jvp` and `vjp` know the kernel's derivative; where not, autodiff through the kernel is right."""
        return self.kernel in RULES

    def jvp(self, tangent: Array) -> tuple[Arrays, Arrays]:
        """Compute the results, and their derivatives along `tangent`, which is like the first of the rows.

        Linear in the tangent for a framework that transposes it.
        """
        results, along = RULES[self.kernel].jvp(self, tangent)
        return self.reduced(results), self.reduced(along)

    def vjp(self, cotangents: Arrays, residuals: Arrays = ()) -> Array:
        """Compute the cotangent of the first of the rows, like it, for one of each result, in the order of the results.

        None stands for 0; not all may be None. `residuals` are those of `run_with_residuals`.
        """
        first, *others = cotangents
        if self.summed and first is not None and first.ndim != len(self.batch):
            first = self.xp.broadcast_to(first, self.batch)
        return RULES[self.kernel].vjp(self, (first, *others), residuals)

    def run_with_residuals(self) -> tuple[Arrays, Arrays]:
        """Run the kernel, and return beside its results what `vjp` then need not compute again: numbers for each row.

        Those are constants: with them, `vjp` is not differentiated.
        """
        kernel = RULES[self.kernel].with_residuals if self.has_derivative else None
        results, count = self.run(kernel or self.kernel, self.rows), len(RESULTS[self.kernel])
        return self.reduced(results[:count]), results[count:]

    def dtypes(self) -> tuple[Any, ...]:
        """The dtype of each result."""
        rounded, computed = self.rows[0].dtype, self.options.dtype
        return tuple(rounded if result.rounded else computed for result in RESULTS[self.kernel])

    def row_bytes(self) -> int:
        """Bytes of one row of classes, in the precision computed in."""
        sizes: list[int] = [math.prod(a.shape[len(self.batch) :]) for a in self.rows if a is not None]
        sizes += [a.shape[0] for a in self.shared if a is not None]
        bits = int(self.xp.finfo(self.options.dtype).bits)
        return max(sizes) * bits // 8

    def in_blocks(
        self,
        block_bytes: int,
        compute: Callable[[list["Block"]], None] | None = None,
        empty_like: Callable[..., Array] | None = None,
    ) -> Arrays:
        """Run the kernel block by block, each of which is a task of its own.

        `block_bytes` counts a block's elements in the precision computed in, one array of them. `compute` is to
        `Block.compute` all blocks, in any order or at the same time; without it, that is done one after the other.
        `empty_like` makes the results, if not the namespace's.
        """
        first = self.rows[0]
        row = first if first.ndim == len(self.batch) else first[..., 0]
        empty_like = empty_like or self.xp.empty_like
        outputs = tuple(
            empty_like(first if result.whole else row, dtype=dtype)
            for result, dtype in zip(RESULTS[self.kernel], self.dtypes(), strict=True)
        )
        blocks = []
        for part in _slices(self.batch, max(1, block_bytes // self.row_bytes())):
            rows = tuple(None if a is None else a[(*part, ...)] for a in self.rows)
            task = replace(self, rows=rows, summed=False)
            blocks.append(Block(task, tuple(output[(*part, ...)] for output in outputs)))
        if compute is not None:
            compute(blocks)
        else:
            for block in blocks:
                block.compute()
        return self.reduced(outputs)


class Block(NamedTuple):
    """A block of a task's rows, and the places of its results in the whole ones."""

    task: Task
    outputs: Arrays

    def compute(self) -> None:
        """Run the kernel, and write each result to its output, unless the kernel has done so."""
        for output, result in zip(self.outputs, self.task.at_once(), strict=True):
            if result is not output:
                output[...] = result


def _slices(batch: tuple[int, ...], count: int) -> Iterator[tuple[int | slice, ...]]:
    """Cut the axes `batch` into blocks of at most `count` elements, or as near as slices come to it."""
    if math.prod(batch) <= count:
        yield (slice(None),) * len(batch)
        return
    axis = next(i for i in range(len(batch)) if math.prod(batch[i + 1 :]) <= count)
    step = max(1, count // math.prod(batch[axis + 1 :]))
    step = -(-batch[axis] // -(-batch[axis] // step))  # as many blocks, of equal size
    for outer in product(*map(range, batch[:axis])):
        for start in range(0, batch[axis], step):
            yield (*outer, slice(start, min(start + step, batch[axis])))
