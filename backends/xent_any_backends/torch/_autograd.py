"""Where the analytic derivatives are attached to PyTorch's autograd."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch._C._functorch import get_interpreter_stack
from torch.autograd import forward_ad

from xent_any import Task
from xent_any._formulas import loss, loss_and_grad
from xent_any._linear import LinearTask

from ._bridge import in_numpy
from ._memory import from_numpy, to_numpy
from ._tensors import are_numpys, are_plain, is_run_as_recorded, is_transformed, may_differentiate

GRADIENT_BYTES = 1 << 26
"""A gradient of at most so many bytes is kept from the forward pass. Without, the backward pass takes about as long as
the forward pass; a larger one would be held, perhaps for long, beside logits that take as much memory."""

_vjp: Any = torch.func.vjp  # which says that it returns two or three values


def attached(task: Task, *, is_readable: bool) -> tuple[Any, ...]:
    """Run a task whose derivative may be asked for; `is_readable` says whether NumPy can read its tensors."""
    if is_readable:
        return _without_binding(_InNumPy)(task.without_arrays(), *task.arrays)  # type: ignore[no-any-return]
    a, b, c, d, e, f = (*task.arrays, *(None,) * 6)[:6]  # Dynamo cannot bind *arrays
    if torch.compiler.is_compiling():
        apply = _Compiled.apply
    elif not are_plain([x for x in task.arrays if x is not None]) or get_interpreter_stack():
        apply = _Eager.apply
    else:
        apply = _without_binding(_Eager)
    results: tuple[Any, ...] = apply(task.without_arrays(), a, b, c, d, e, f)  # type: ignore[no-untyped-call]
    return results


def _without_binding(function: Any) -> Any:
    """Return its `apply` but for a look at the signature of `forward`, which takes longer than all the rest.

    That is all there is in it where no transform is active.
    """
    return super(torch.autograd.Function, function).apply


class _Compiled(torch.autograd.Function):
    """A kernel with its analytic derivative with respect to the first array, and autograd's in the others.

    Saves its inputs and nothing else.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(empty: Task, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
        return _filled(empty, (a, b, c, d, e, f)).at_once()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.empty, *arrays = inputs
        ctx.save_for_backward(*arrays)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        if not (torch.compiler.is_compiling() and is_run_as_recorded()):
            return None, *_pulled(ctx, ctx.saved_tensors, cotangents)
        with torch.enable_grad():  # which is recorded as well: autograd differentiates what has been recorded
            return None, *_pulled(ctx, ctx.saved_tensors, cotangents, recorded=True)


def _pulled(ctx: Any, arrays: Sequence[Any], cotangents: Sequence[Any], *, recorded: bool = False) -> list[Any]:
    """Compute the cotangents of the arrays of a `_Compiled`; None for those that nobody needs.

    With the kernels of the reference and no derivative attached, if autograd is to differentiate what is `recorded`.
    """
    found: list[Any] = [None] * len(arrays)
    if any(c is not None for c in cotangents):
        task, (first, *rest) = _filled(ctx.empty, arrays), cotangents
        if ctx.needs_input_grad[1]:
            options = task.options
            options = options._replace(backend=options.backend.recorded) if recorded else options
            if task.summed and first is not None:  # autograd's batched gradients have a rule for this, no broadcast_to
                first = first.expand(task.batch)
            found[0] = replace(task, options=options).vjp((first, *rest))
        others = [i for i in range(1, len(arrays)) if ctx.needs_input_grad[i + 1]]
        if others:
            given = [arrays[i] for i in others]
            for i, c in zip(others, _pulled_by_autograd(task.partial(others), given, cotangents), strict=True):
                found[i] = c
    return found


def _pulled_by_autograd(function: Any, arrays: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
    """The cotangents of arrays of which `function` makes results; None for one of the results' is 0."""
    if torch.compiler.is_compiling() or get_interpreter_stack() or any(map(is_transformed, arrays)):
        results, pull = _vjp(function, *arrays)
        whole = (torch.zeros_like(r) if c is None else c for r, c in zip(results, cotangents, strict=True))
        return pull(tuple(whole))  # type: ignore[no-any-return]
    # `torch.func` refuses to run in hooks for saved tensors, which may be there for the whole of a training step.
    with torch.enable_grad():
        arrays = [a.view_as(a) for a in arrays]
        pairs = [
            (r, c) for r, c in zip(function(*arrays), cotangents, strict=True) if c is not None and r.requires_grad
        ]
    results, cotangents = zip(*pairs, strict=True)
    options = {"create_graph": torch.is_grad_enabled(), "materialize_grads": True}
    return torch.autograd.grad(results, arrays, cotangents, **options)


class _Eager(_Compiled):
    """With forward mode, and blocks of rows."""

    @staticmethod
    def forward(empty: Task, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
        return empty.options.backend.compute(_filled(empty, (a, b, c, d, e, f)))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _Compiled.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def jvp(ctx: Any, *inputs: Any) -> Any:
        tangents = inputs[1:]
        arrays = ctx.saved_tensors
        task = _filled(ctx.empty, arrays)
        found = None if tangents[0] is None else task.jvp(tangents[0])[1]
        others = [i for i in range(1, len(arrays)) if tangents[i] is not None]
        if others:
            # Forward mode does not nest here: transposing the transpose is the same.
            results, pull = _vjp(task.partial(others), *(arrays[i] for i in others))
            _, push = _vjp(pull, tuple(map(torch.zeros_like, results)))
            (more,) = push(tuple(tangents[i] for i in others))
            found = more if found is None else tuple(map(torch.add, found, more))
        return found


class _InNumPy(_Eager):
    """Of tensors that NumPy can read: in NumPy from beginning to end, where no second derivative may be asked for.

    Saves, beside its inputs, the gradient, if it is that of a sum and of at most `GRADIENT_BYTES`, and nothing else may
    be asked for; otherwise what `Task.run_with_residuals` keeps.
    """

    @staticmethod
    def forward(ctx: Any, empty: Task, *arrays: Any) -> Any:  # type: ignore[override]  # with the context
        ctx.empty, task = empty, in_numpy(empty, arrays)
        first, *others = ctx.needs_input_grad[1:]
        is_small = task.rows[0].nbytes <= GRADIENT_BYTES
        ctx.has_gradient = is_small and empty.summed and task.kernel is loss and first and not any(others)
        with np.errstate(all="ignore"):
            if ctx.has_gradient:
                losses, gradient = task.run(loss_and_grad, task.rows)
                results, residuals = task.reduced((losses,)), (gradient,)
            else:
                results, residuals = task.run_with_residuals()
        ctx.save_for_backward(*arrays, *map(from_numpy, residuals))
        ctx.save_for_forward(*arrays)
        ctx.set_materialize_grads(False)
        return tuple([from_numpy(np.asarray(r)) for r in results])

    setup_context = staticmethod(torch.autograd.Function.setup_context)  # none: `forward` takes the context

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        first, *_ = cotangents
        needed, saved = ctx.needs_input_grad, ctx.saved_tensors
        arrays, residuals = saved[: len(needed) - 1], saved[len(needed) - 1 :]
        is_first = needed[1] and not any(needed[2:]) and ctx.empty.kernel is loss and first is not None
        if is_first and not (torch.is_grad_enabled() or forward_ad._current_level >= 0) and are_numpys((first,)):
            found = _times(residuals[0], first) if ctx.has_gradient else None
            if found is None:
                task = in_numpy(ctx.empty, arrays)
                with np.errstate(all="ignore"):
                    residuals = () if ctx.has_gradient else tuple(map(to_numpy, residuals))
                    found = from_numpy(task.vjp((to_numpy(first),), residuals))
            return None, found, *[None] * (len(arrays) - 1)
        return None, *_pulled(ctx, arrays, cotangents)


def _times(gradient: Any, c: Any) -> Any:
    """The gradient of a sum times the sum's cotangent c, in a tensor of its own; None where digits would be lost.

    That is where it has been rounded to half precision, and where c lifts numbers below the smallest normal one.
    """
    if c == 1:
        return gradient.clone() if _is_graph_kept() else gradient
    is_exact = gradient.dtype == c.dtype and 0 < abs(c) <= 1  # and where c is 0, no row counts
    return from_numpy(np.multiply(to_numpy(gradient), to_numpy(c))) if is_exact else None


def _is_graph_kept() -> bool:
    """Whether the backward pass that runs now may run again, with the same saved tensors."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def attached_to_layer(task: LinearTask) -> Any:
    """Compute a layer's loss, whose derivative may be asked for."""
    return _Linear.apply(task.without_arrays(), *task.arrays)  # type: ignore[no-untyped-call]


def compute_layer(task: Any) -> tuple[Any, ...]:
    """Run a layer's task: in NumPy, if that can read its tensors and nobody differentiates it."""
    arrays = [a for a in task.arrays if a is not None]
    if may_differentiate(arrays) or not are_numpys(arrays):
        return task.at_once()  # type: ignore[no-any-return]
    with np.errstate(all="ignore"), torch.autocast("cpu", enabled=False):  # which would choose the products' dtype
        results = in_numpy(task, task.arrays).at_once()
    return tuple([None if a is None else from_numpy(np.asarray(a)) for a in results])


class _Linear(torch.autograd.Function):
    """A linear layer and its loss, with the analytic derivative in the layer, and autograd's in the others."""

    @staticmethod
    def forward(ctx: Any, empty: Any, *arrays: Any) -> Any:
        task = empty.with_arrays(arrays)
        ctx.empty = empty
        if task.recompute:
            ctx.save_for_backward(*arrays)
            return _whole(compute_layer(task)[0])
        wanted = tuple(ctx.needs_input_grad[i + 1] for i in task.LAYER)
        loss, *gradients = compute_layer(replace(task, wanted=wanted, rounded=False))
        ctx.save_for_backward(*arrays, *gradients)
        return _whole(loss)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        (c,), saved, needed = cotangents, ctx.saved_tensors, ctx.needs_input_grad[1:]
        arrays, gradients = saved[: len(needed)], saved[len(needed) :]
        task = ctx.empty.with_arrays(arrays)
        found: list[Any] = [None] * len(arrays)
        if not torch.is_grad_enabled():  # nobody differentiates this
            if gradients and task.options.backend.products.is_computed(c):
                gradients = _scaled(gradients, c, arrays)
            else:
                hidden, labels, a, *shared = arrays
                scaled = task.with_arrays((hidden, labels, torch.where(a == 0, a, a * c), *shared))
                gradients = compute_layer(replace(scaled, wanted=tuple(needed[i] for i in task.LAYER)))[1:]
            for i, gradient in zip(task.LAYER, gradients, strict=True):
                found[i] = gradient
        others = [i for i, is_needed in enumerate(needed) if is_needed and found[i] is None]
        if others:
            given = [arrays[i] for i in others]
            for i, cotangent in zip(others, _pulled_by_autograd(task.partial(others), given, cotangents), strict=True):
                found[i] = cotangent
        return None, *found


def _whole(result: Any) -> Any:
    """A result that is no view of another tensor, which nobody could write to in place, as by ``loss /= steps``."""
    return result.clone() if result._is_view() else result


def _scaled(gradients: Sequence[Any], c: Any, arrays: Sequence[Any]) -> list[Any]:
    """The saved gradients in a layer times the cotangent of the sum; 0 where none counts.

    They are written to, unless the graph is kept, and with it what it has saved.
    """
    layer, is_kept = [arrays[i] for i in LinearTask.LAYER], _is_graph_kept()
    if c.is_cpu and c == 1:
        return [None if g is None else g.to(a.dtype, copy=is_kept) for g, a in zip(gradients, layer, strict=True)]
    is_counted = arrays[2] != 0
    factors = [torch.where(is_counted, c, 1.0).unsqueeze(-1), *[torch.where(is_counted.any(), c, 1.0)] * 2]
    return [
        None if g is None else (g * factor if is_kept else g.mul_(factor)).to(a.dtype)
        for g, factor, a in zip(gradients, factors, layer, strict=True)
    ]


def _filled(empty: Task, arrays: Sequence[Any]) -> Task:
    return empty.with_arrays(arrays[: len(empty.arrays)])
