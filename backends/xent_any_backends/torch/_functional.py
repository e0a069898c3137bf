"""The functions of `torch.nn.functional` that are about cross-entropy, computed by `xent_any`.

Each maps PyTorch's arguments to the core's, calls it once and returns the dtype that PyTorch returns. Arguments that do
not fit together are handed to PyTorch's own function, which says what is wrong in its own words. What it does answer of
them is nothing that the core computes: no classes, the softmax of a number, nested tensors, complex binary targets.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name that everybody knows it by)
from torch import Tensor
from torch.nn import _reduction

from xent_any import _binary, _formulas, _problem
from xent_any._arguments import Arguments

from ._arguments import (
    FLOATING,
    REDUCTIONS,
    are_positions,
    are_together,
    can_weigh,
    chunk_bytes,
    class_axis,
    fit_together,
    linear_shaped,
    of_rows,
    overridable,
    reduction_name,
    result_dtype,
    row_count,
    smoothing_number,
    wide,
)


@overridable
def cross_entropy(
    input: Tensor,  # noqa: A002  (PyTorch's name, as in the functions below)
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.cross_entropy` with the accuracy of `xent_any.cross_entropy`.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64, shape (C,), (N, C) or (N, C, d_1, ..., d_K)
        Logits. Half precision is computed in float32.
    target : Tensor
        Class indices, of any integer dtype, of the shape of `input` without C. Or class probabilities, of a floating
        dtype, of the shape of `input`: any numbers, of any sum.
    weight : Tensor, shape (C,), optional
        A weight for each class, any number; with indices, of the dtype of `input`.
    size_average, reduce : bool, optional
        Deprecated. They override `reduction`.
    ignore_index : int, default -100
        Rows whose index is this have loss 0, gradient 0 and no part in the mean. Probabilities need a negative one,
        and none of them is ignored.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the weights of the indices; for probabilities, by the number of rows.
    label_smoothing : float or 0-d Tensor, at most 1, default 0
        The share of the target that is spread evenly over the classes; 0 unless it is positive.
    sample_weight : Tensor, shape of the unreduced loss, optional
        A weight for each row, not negative; PyTorch has none. Rows of weight 0 are ignored, and in what the mean
        divides by, each row counts as often as its weight says.

    Returns
    -------
    Tensor
        Of the dtype that PyTorch returns: that of `input`, or of all three promoted if the target is probabilities;
        under autocast float32 instead of half precision. A number, or of the shape of `input` without C for
        ``reduction="none"``.

    Raises
    ------
    TypeError, ValueError, RuntimeError, NotImplementedError
        Those of PyTorch for shapes, dtypes, devices and options that it does not take.
    IndexError
        For an index outside [0, C) that is not `ignore_index`, where it can be read without waiting; elsewhere (on a
        GPU, compiled, in a transform) the loss and the gradient of that row are NaN.

    Notes
    -----
    The differences from PyTorch:

    * the loss and the gradient of a confident row keep their digits;
    * NaN in an ignored row, or in the class weights beside it, has a gradient of 0 there, and so has the mean over
      nothing, which is NaN in PyTorch as here;
    * a probability or a class weight of 0 is 0 times anything: a logit of -inf, or a row of NaN, costs 0, not NaN;
    * indices are taken in any integer dtype, and `weight` can be differentiated whatever the target is;
    * infinite weights and probabilities may give NaN where PyTorch gives an infinity; a mean over weights of which one
      is infinite has a gradient of NaN in every row that counts;
    * with a `target` or `weight` of float64, all of it is computed in float64.

    Examples
    --------
    >>> import torch
    >>> from xent_any_backends.torch import cross_entropy
    >>> logits, target = torch.tensor([[17.0, 0.0, 0.0, 0.0]]), torch.tensor([0])
    >>> cross_entropy(logits, target).item()
    1.24198...e-07
    >>> torch.nn.functional.cross_entropy(logits, target).item()
    0.0
    """
    name = reduction_name(size_average, reduce, reduction)
    soft = isinstance(input, Tensor) and isinstance(target, Tensor) and input.shape == target.shape
    smoothing = smoothing_number(label_smoothing)
    if not fit_together(input, target, weight, soft) or smoothing is None or (soft and ignore_index >= 0):
        return F.cross_entropy(input, target, weight, None, ignore_index, None, name, label_smoothing)
    dtype = result_dtype(input, target, weight) if soft else result_dtype(input)
    axis = class_axis(input)
    denominator: Tensor | float | None = None
    total = None
    if soft and name == "mean":
        if sample_weight is None:
            denominator = row_count(input, axis)
        else:
            total = torch.sum(sample_weight, dtype=torch.promote_types(input.dtype, torch.float32))
            denominator = torch.where(total == 0, 1.0, total)
    arguments = Arguments(
        class_weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=smoothing,
        reduction=name,
        denominator=denominator,
        axis=axis,
        unrestricted=True,
    )
    labels = target if soft else of_rows(input, target)
    problem = _problem.cross_entropy_problem(_formulas.loss, wide(input, dtype), labels, arguments)
    loss: Tensor = problem.run()[0]
    if total is not None:
        loss = torch.where(total == 0, math.nan, loss)
    return loss.to(dtype)


@overridable
def nll_loss(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.nll_loss`, computed by `xent_any.nll_loss`.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64, shape (C,), (N, C) or (N, C, d_1, ..., d_K)
        Log-probabilities.
    target : Tensor of any integer dtype, shape of `input` without C
        Class indices.
    weight, size_average, ignore_index, reduce, reduction, sample_weight
        As in `cross_entropy`.

    Returns
    -------
    Tensor
        Of the dtype of `input`; under autocast float32 instead of half precision. A number, or of the shape of `target`
        for ``reduction="none"``.

    Raises
    ------
    TypeError, ValueError, RuntimeError, NotImplementedError, IndexError
        As `cross_entropy`.

    Notes
    -----
    The differences from PyTorch are those of `cross_entropy`. `xent_any.nll_loss` refuses positive log-probabilities;
    this, as PyTorch, computes with any numbers.

    Examples
    --------
    >>> import torch
    >>> from xent_any_backends.torch import log_softmax, nll_loss
    >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
    >>> nll_loss(log_softmax(logits, dim=1), torch.tensor([0]))
    tensor(0.4076)
    """
    name = reduction_name(size_average, reduce, reduction)
    if not fit_together(input, target, weight, soft=False):
        return F.nll_loss(input, target, weight, None, ignore_index, None, name)
    arguments = Arguments(
        class_weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=name,
        axis=class_axis(input),
        unrestricted=True,
    )
    labels = of_rows(input, target)
    problem = _problem.cross_entropy_problem(_formulas.nll, input, labels, arguments, name="log_probs")
    loss: Tensor = problem.run()[0]
    return loss.to(result_dtype(input))


@overridable
def binary_cross_entropy_with_logits(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.binary_cross_entropy_with_logits`, computed by `xent_any.binary_cross_entropy`.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64, any shape
        Logits. Half precision is computed in float32.
    target : Tensor of such a dtype, shape of `input`
        Probabilities of the events. One outside [0, 1], say a marker that `weight` takes out, gives what the formula
        gives.
    weight : Tensor that broadcasts to `input`, optional
        Multiplies the loss of each element; the mean still divides by the number of elements.
    size_average, reduce : bool, optional
        Deprecated. They override `reduction`.
    reduction : {"mean", "sum", "none"}, default "mean"
        What is returned of the losses of the elements.
    pos_weight : Tensor that broadcasts to `input`, optional
        The weight of the positive term, any number.

    Returns
    -------
    Tensor
        Of the dtype of `target`, as PyTorch has it; under autocast float32 instead of half precision. A number, or of
        the shape of `input` for ``reduction="none"``.

    Raises
    ------
    TypeError, ValueError, RuntimeError, NotImplementedError
        Those of PyTorch for shapes, dtypes, devices and options that it does not take.

    Notes
    -----
    The differences from PyTorch: an infinite logit that is sure of the right event costs 0, not NaN; with a `target` of
    float64, all of it is computed in float64; `pos_weight` may be a mask, and both weights can be differentiated.

    Examples
    --------
    >>> import torch
    >>> from xent_any_backends.torch import binary_cross_entropy_with_logits
    >>> logits, target = torch.tensor([-10.0, 3.0]), torch.tensor([0.0, 1.0])
    >>> binary_cross_entropy_with_logits(logits, target, reduction="none")
    tensor([4.5399e-05, 4.8587e-02])
    """
    name = reduction_name(size_average, reduce, reduction)
    if not (
        are_together(input, target)
        and input.dtype in FLOATING
        and target.dtype in FLOATING
        and input.shape == target.shape
        and can_weigh(weight, input)
        and can_weigh(pos_weight, input)
    ):
        return F.binary_cross_entropy_with_logits(input, target, weight, None, None, name, pos_weight)
    if pos_weight is not None and pos_weight.ndim == 0:
        pos_weight = pos_weight.to(input.device)  # PyTorch takes a number from the CPU anywhere
    problem = _problem.binary_problem(
        _binary.binary,
        wide(input, target.dtype),
        target,
        pos_weight=pos_weight,
        sample_weight=None,
        reduction=name if weight is None else "none",
        denominator=None,
        unrestricted=True,
    )
    loss: Tensor = problem.run()[0]
    if weight is not None:
        loss = loss * weight
        loss = loss.mean() if name == "mean" else loss.sum() if name == "sum" else loss
    return loss.to(result_dtype(target))


@overridable
def linear_cross_entropy(
    input: Tensor,  # noqa: A002
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: "torch.nn.LinearCrossEntropyOptions | None" = None,
    z_loss: float | Tensor = 0.0,
    softcap: float | Tensor | None = None,
    denominator: float | Tensor | None = None,
    max_bytes: int | None = None,
) -> Tensor:
    """`torch.nn.functional.linear_cross_entropy` of PyTorch 2.13, computed by `xent_any.linear_cross_entropy`.

    The logits are computed a block of rows at a time and never all held, whatever `options` say.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64, shape (D,), (N, D) or (..., D)
        The inputs of the linear layer. Half precision is computed in float32, the logits among it. With more than two
        dimensions, which PyTorch does not take, each position is a row.
    linear_weight : Tensor of the dtype of `input`, shape (C, D) or (C, d_1, ..., d_K, D)
        The weight of the layer. With more than two dimensions, each position of the K dimensions has a layer of its own
        and a row of its own to classify, and `input` must be (N, D). Then all logits are computed, by
        `torch.nn.functional.linear`, and held, as in PyTorch; `cross_entropy` is what is computed of them.
    target : Tensor
        Class indices, of any integer dtype, of shape (), (N,) or (N, d_1, ..., d_K). Or class probabilities, of a
        floating dtype, of shape (C,), (N, C) or (N, C, d_1, ..., d_K): any numbers, of any sum. For `input` of shape
        (..., D), of shape (...) or (..., C).
    linear_bias : Tensor of the dtype of `input`, shape (C,) or (C, d_1, ..., d_K), optional
        The bias of the layer.
    weight, reduction, label_smoothing
        As in `cross_entropy`.
    ignore_index : int, optional
        As in `cross_entropy`: None is -100 for indices, and must be None for probabilities.
    options : torch.nn.LinearCrossEntropyOptions, optional
        `batch_chunk_size`, or a `chunking_method` other than "auto", says how many rows a block has at most; otherwise
        `xent_any.linear_cross_entropy` does. The other options have no effect.
    z_loss, softcap, denominator, max_bytes
        As in `xent_any.linear_cross_entropy`; PyTorch has none. For a `linear_weight` of two dimensions; `max_bytes`
        goes before `options`.

    Returns
    -------
    Tensor
        Of the dtype that PyTorch returns for ``options=None``, which is what `cross_entropy` returns for the logits. A
        number, or of the shape of the class indices for ``reduction="none"``.

    Raises
    ------
    TypeError, ValueError, RuntimeError, NotImplementedError, IndexError
        As `cross_entropy`; those of PyTorch for a layer that does not fit.

    Notes
    -----
    The differences from PyTorch are those of `cross_entropy`, and

    * logits of half precision are not rounded to it, where `linear_weight` has two dimensions;
    * `options` can be had together with probabilities, label smoothing and every derivative that PyTorch has: a second
      backward pass, higher orders, forward mode, `torch.func` and `torch.compile`;
    * `input` may have any number of dimensions, and `z_loss`, `softcap`, `denominator` and `max_bytes` are here;
    * it is here in every PyTorch that this library supports.

    Examples
    --------
    >>> import torch
    >>> from xent_any_backends.torch import linear_cross_entropy
    >>> hidden, layer = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> linear_cross_entropy(hidden, layer, torch.tensor([0]))
    tensor(0.4076)
    """
    extras: dict[str, Any] = {"z_loss": z_loss, "softcap": softcap, "denominator": denominator, "max_bytes": max_bytes}
    if are_positions(input, linear_weight, target):
        loss: Tensor = linear_cross_entropy(
            input.flatten(0, -2),
            linear_weight,
            target.flatten(0, input.ndim - 2),
            linear_bias=linear_bias,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
            **extras,
        )
        return loss.reshape(input.shape[:-1]) if reduction == "none" else loss
    ignored = -100 if ignore_index is None else ignore_index
    logits = linear_shaped(input, linear_weight, linear_bias)
    soft = logits is not None and isinstance(target, Tensor) and logits.shape == target.shape
    smoothing = smoothing_number(label_smoothing)
    fits = (
        fit_together(logits, target, weight, soft) and smoothing is not None and not (soft and ignore_index is not None)
    )
    if fits and linear_weight.ndim == 2:
        name = REDUCTIONS[_reduction.get_enum(reduction)]
        dtype = result_dtype(logits, target, weight) if soft else result_dtype(logits)
        count = linear_weight.shape[0]
        computed = torch.float64 if dtype == torch.float64 else logits.dtype
        if soft and name == "mean" and denominator is None:
            denominator = row_count(logits, -1)
        arguments = Arguments(
            class_weight=weight,
            ignore_index=ignored,
            label_smoothing=smoothing or 0.0,
            z_loss=z_loss,
            softcap=softcap,
            reduction=name,
            denominator=denominator,
            unrestricted=True,
        )
        problem = _problem.linear_problem(
            input.to(computed),
            linear_weight.to(computed),
            target if soft else of_rows(logits, target),
            None if linear_bias is None else linear_bias.to(computed),
            arguments,
            max_bytes=chunk_bytes(options, input, count) if max_bytes is None else max_bytes,
            recompute=None,
        )
        loss = problem.loss()
        return loss.to(dtype)
    for extra, given in extras.items():
        if given is not None and (isinstance(given, Tensor) or given != 0):
            raise ValueError(f"{extra}: expected none without a layer (C, D) that fits, got {given}; leave it out")
    theirs = getattr(F, "linear_cross_entropy", None)
    if not fits and theirs is not None:
        result: Tensor = theirs(
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
        )
        return result
    if logits is None or (soft and ignore_index is not None):
        raise ValueError(
            "expected input (D,) or (N, D), linear_weight (C, D) or (C, d_1, ..., d_K, D) and linear_bias like that "
            "without D, of one floating dtype and on one device, and no ignore_index for probabilities"
        )
    flat = None if linear_bias is None else linear_bias.flatten()
    x = F.linear(input, linear_weight.flatten(0, -2), flat)
    x = x.reshape(*input.shape[:-1], *linear_weight.shape[:-1])
    return cross_entropy(x, target, weight, ignore_index=ignored, reduction=reduction, label_smoothing=label_smoothing)
