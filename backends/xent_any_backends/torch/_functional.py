"""The functions of `torch.nn.functional` that are about cross-entropy, computed by `xent_any`.

Each maps PyTorch's arguments to the core's, calls it once and returns the dtype that PyTorch returns. Arguments that do
not fit together are handed to PyTorch's own function, which says what is wrong in its own words. What it does answer of
them is nothing that the core computes: no classes, the softmax of a number, nested tensors, complex binary targets.
"""

import functools
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812  (the name that everybody knows it by)
from torch import Tensor
from torch.nn import _reduction
from torch.overrides import handle_torch_function, has_torch_function

import xent_any
from xent_any import Reduction, _binary, _formulas, _problem
from xent_any._arguments import Arguments
from xent_any._linear import LIKE_HIDDEN

from ._bridge import IN_NUMPY
from ._tensors import is_autocast

_HALF = (torch.float16, torch.bfloat16)
_FLOATING = (*_HALF, torch.float32, torch.float64)
_REDUCTIONS: Sequence[Reduction] = ("none", "mean", "sum")  # each at PyTorch's number for it
_softmax_dim: Callable[[str, int, int], int] = F._get_softmax_dim  # type: ignore[attr-defined]  # not in its stubs


_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def _overridable(function: _Function) -> _Function:
    """Hand over to arguments that define ``__torch_function__``, as PyTorch's functions do: subclasses, proxies, ..."""

    @functools.wraps(function)
    def public(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if has_torch_function(given):
            return handle_torch_function(public, given, *args, **kwargs)
        return function(*args, **kwargs)

    return public  # type: ignore[return-value]  # of the same signature


@_overridable
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
    * NaN in an ignored row has a gradient of 0, and so has the mean over nothing, which is NaN in PyTorch as here;
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
    name = _reduction_name(size_average, reduce, reduction)
    soft = isinstance(input, Tensor) and isinstance(target, Tensor) and input.shape == target.shape
    smoothing = _smoothing(label_smoothing)
    if not _fits(input, target, weight, soft) or smoothing is None or (soft and ignore_index >= 0):
        return F.cross_entropy(input, target, weight, None, ignore_index, None, name, label_smoothing)
    dtype = _result_dtype(input, target, weight) if soft else _result_dtype(input)
    axis = _class_axis(input)
    denominator: Tensor | float | None = None
    total = None
    if soft and name == "mean":
        if sample_weight is None:
            denominator = _row_count(input, axis)
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
    labels = target if soft else _of_rows(input, target)
    problem = _problem.cross_entropy_problem(_formulas.loss, _wide(input, dtype), labels, arguments)
    loss: Tensor = problem.run()[0]
    if total is not None:
        loss = torch.where(total == 0, math.nan, loss)
    return loss.to(dtype)


@_overridable
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
    name = _reduction_name(size_average, reduce, reduction)
    if not _fits(input, target, weight, soft=False):
        return F.nll_loss(input, target, weight, None, ignore_index, None, name)
    arguments = Arguments(
        class_weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=name,
        axis=_class_axis(input),
        unrestricted=True,
    )
    labels = _of_rows(input, target)
    problem = _problem.cross_entropy_problem(_formulas.nll, input, labels, arguments, name="log_probs")
    loss: Tensor = problem.run()[0]
    return loss.to(_result_dtype(input))


@_overridable
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
    name = _reduction_name(size_average, reduce, reduction)
    if not (
        _are_together(input, target)
        and input.dtype in _FLOATING
        and target.dtype in _FLOATING
        and input.shape == target.shape
        and _can_weigh(weight, input)
        and _can_weigh(pos_weight, input)
    ):
        return F.binary_cross_entropy_with_logits(input, target, weight, None, None, name, pos_weight)
    if pos_weight is not None and pos_weight.ndim == 0:
        pos_weight = pos_weight.to(input.device)  # PyTorch takes a number from the CPU anywhere
    problem = _problem.binary_problem(
        _binary.binary,
        _wide(input, target.dtype),
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
    return loss.to(_result_dtype(target))


@_overridable
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
    if _are_positions(input, linear_weight, target):
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
    logits = _linear_shaped(input, linear_weight, linear_bias)
    soft = logits is not None and isinstance(target, Tensor) and logits.shape == target.shape
    smoothing = _smoothing(label_smoothing)
    fits = _fits(logits, target, weight, soft) and smoothing is not None and not (soft and ignore_index is not None)
    if fits and linear_weight.ndim == 2:
        name = _REDUCTIONS[_reduction.get_enum(reduction)]
        dtype = _result_dtype(logits, target, weight) if soft else _result_dtype(logits)
        count = linear_weight.shape[0]
        computed = torch.float64 if dtype == torch.float64 else logits.dtype
        if soft and name == "mean" and denominator is None:
            denominator = _row_count(logits, -1)
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
            target if soft else _of_rows(logits, target),
            None if linear_bias is None else linear_bias.to(computed),
            arguments,
            max_bytes=_chunk_bytes(options, input, count) if max_bytes is None else max_bytes,
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


@_overridable
def log_softmax(
    input: Tensor,  # noqa: A002
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`torch.nn.functional.log_softmax`, computed by `xent_any.log_softmax`.

    Parameters
    ----------
    input : Tensor, any shape
        Logits.
    dim : int, optional
        The axis of the classes. To leave it out is deprecated.
    _stacklevel : int
        How far up the warning about that points.
    dtype : torch.dtype, optional
        What `input` is converted to first.

    Returns
    -------
    Tensor
        Of the shape of `input`, of `dtype`. Without `dtype`, of the dtype of `input`; where PyTorch's autocast says so
        (not on the CPU), float32 instead of half precision.

    Raises
    ------
    IndexError
        If there is no such axis.
    TypeError, NotImplementedError
        Those of PyTorch, for dtypes that are not floating and for other arguments that it does not take.

    Examples
    --------
    >>> import torch
    >>> from xent_any_backends.torch import log_softmax
    >>> log_softmax(torch.tensor([17.0, 0.0, 0.0, 0.0]), dim=0)[0].item()
    -1.24198...e-07
    """
    return _transform(xent_any.log_softmax, F.log_softmax, input, dim, _stacklevel, dtype)


@_overridable
def softmax(
    input: Tensor,  # noqa: A002
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`torch.nn.functional.softmax`, computed by `xent_any.softmax`.

    Parameters
    ----------
    input, dim, _stacklevel, dtype
        As in `log_softmax`.

    Returns
    -------
    Tensor
        As `log_softmax`.

    Raises
    ------
    IndexError, TypeError, NotImplementedError
        As `log_softmax`.

    Examples
    --------
    >>> import torch
    >>> from xent_any_backends.torch import softmax
    >>> softmax(torch.tensor([0.0, 0.0, -torch.inf]), dim=0)
    tensor([0.5000, 0.5000, 0.0000])
    """
    return _transform(xent_any.softmax, F.softmax, input, dim, _stacklevel, dtype)


def _reduction_name(size_average: bool | None, reduce: bool | None, reduction: str) -> Reduction:
    """The reduction that is meant, with PyTorch's warnings about deprecated ways to say it."""
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    return _REDUCTIONS[_reduction.get_enum(reduction)]


def _fits(logits: Any, target: Any, weight: Any, soft: bool) -> bool:
    """Whether PyTorch has an answer for these, up to what the tensors hold, and classes to compute it from."""
    if not _are_together(logits, target, *(() if weight is None else (weight,))):
        return False
    if logits.dtype not in _FLOATING or logits.ndim == 0:
        return False
    count = logits.shape[_class_axis(logits)]
    if count == 0 or not (weight is None or weight.shape == (count,)):
        return False
    if soft:
        return target.dtype in _FLOATING
    return (
        not (target.dtype.is_floating_point or target.dtype.is_complex or target.dtype == torch.bool)
        and (target.shape == _row_shape(logits) or (logits.ndim == 1 and target.shape == (1,)))
        and (weight is None or _result_dtype(weight) == _result_dtype(logits))
    )


def _is_dense(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout == torch.strided and not x.is_nested


def _are_together(*tensors: Any) -> bool:
    return all(map(_is_dense, tensors)) and len({t.device for t in tensors}) == 1


def _linear_shaped(x: Any, weight: Any, bias: Any) -> Any:
    """What has the shape, dtype and device of a linear layer's logits and holds none; None for what is no layer."""
    layer = (weight,) if bias is None else (weight, bias)
    if not (
        _are_together(x, *layer)
        and x.ndim in (1, 2)
        and weight.ndim >= 2
        and x.shape[-1] == weight.shape[-1]
        and (x.ndim == 2 or weight.ndim == 2)
        and (bias is None or bias.shape == weight.shape[:-1])
    ):
        return None
    dtypes = {_autocast_linear(t) for t in (x, *layer)}
    if len(dtypes) > 1:
        return None
    return x.new_empty((), dtype=dtypes.pop()).expand(*x.shape[:-1], *weight.shape[:-1])


def _are_positions(x: Any, weight: Any, target: Any) -> bool:
    """Whether a linear layer's inputs are (..., D), of more than two dimensions, and the target is of each position."""
    if not (_is_dense(x) and _is_dense(weight) and _is_dense(target)) or x.ndim < 3 or weight.ndim != 2:
        return False
    lead = x.shape[:-1]
    return target.shape in (lead, (*lead, weight.shape[0]))


def _chunk_bytes(options: Any, x: Tensor, count: int) -> int | None:
    """The memory of a block of as many rows as the options of PyTorch ask for; None where they leave that open."""
    if options is None or (options.batch_chunk_size is None and options.chunking_method == "auto"):
        return None
    rows = x.shape[0] if x.ndim == 2 else 1
    sizes = {"num_batches": rows, "in_features": x.shape[-1], "num_classes": count}
    rows = int(options._adjust(**sizes, dtype=x.dtype, device=x.device).batch_chunk_size)
    size = 8 if x.dtype == torch.float64 else 4
    memory = rows * size * (IN_NUMPY.products.temporaries(count * size, False) * count + LIKE_HIDDEN * x.shape[-1])
    return (
        memory if torch.compiler.is_compiling() else IN_NUMPY.products.max_bytes(memory)
    )  # compiled code is not in NumPy


def _can_weigh(weight: Any, logits: Tensor) -> bool:
    """Whether binary cross-entropy takes this as a weight."""
    return weight is None or (
        _is_dense(weight)
        and not weight.dtype.is_complex
        and (weight.ndim == 0 or weight.device == logits.device)
        and weight.ndim <= logits.ndim
        and all(w in (1, n) for w, n in zip(reversed(weight.shape), reversed(logits.shape), strict=False))
    )


def _class_axis(logits: Tensor) -> int:
    return min(1, logits.ndim - 1)


def _row_shape(logits: Tensor) -> torch.Size:
    axis = _class_axis(logits)
    return logits.shape[:axis] + logits.shape[axis + 1 :]


def _row_count(logits: Tensor, axis: int) -> Tensor | float | None:
    """The number of rows, None for 0; a tensor where it is recorded how it comes from the logits."""
    count: Tensor | torch.SymInt | int = logits.numel() // logits.shape[axis]
    if isinstance(count, torch.SymInt):
        count = torch.scalar_tensor(count, dtype=torch.int64, device=logits.device)  # type: ignore[arg-type]
    return count if isinstance(count, Tensor) else float(count) or None


def _of_rows(logits: Tensor, target: Tensor) -> Tensor:
    """Class indices in the shape of the rows: PyTorch also takes the index of a single row as (1,)."""
    return target.reshape(_row_shape(logits))


def _result_dtype(*tensors: Tensor | None) -> torch.dtype:
    """What PyTorch computes a loss of these in: what they promote to, each as autocast converts it."""
    return functools.reduce(torch.promote_types, (_autocast(t) for t in tensors if t is not None))


def _autocast(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in _HALF and is_autocast(tensor) else tensor.dtype


def _autocast_linear(tensor: Tensor) -> torch.dtype:
    """The dtype in which a linear layer takes it."""
    if tensor.dtype in (*_HALF, torch.float32) and is_autocast(tensor):
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype


def _wide(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits in the precision of a float64 target: float32 cannot hold its numbers."""
    return logits.to(dtype) if dtype == torch.float64 else logits


def _smoothing(value: Any) -> float | None:
    """The label smoothing that PyTorch takes this for: 0 unless it is positive; None if it takes it for none."""
    if isinstance(value, Tensor):
        if value.ndim > 0 or value.requires_grad or value.is_complex():
            return None
    elif not isinstance(value, Real):
        return None
    number = float(value)
    return None if number > 1 else number if number > 0 else 0.0


def _transform(
    ours: Callable[..., Any],
    theirs: Callable[..., Tensor],
    x: Any,
    dim: int | None,
    stacklevel: int,
    dtype: torch.dtype | None,
) -> Tensor:
    """`ours` along an axis, in the dtype that `theirs` returns."""
    if dim is None:
        dim = _softmax_dim(theirs.__name__, x.dim(), stacklevel + 2)  # for this frame and the decorator's
    if (
        not _is_dense(x)
        or (dtype or x.dtype) not in _FLOATING
        or isinstance(dim, bool)
        or not hasattr(dim, "__index__")
        or not -x.ndim <= dim < x.ndim
        or x.shape[dim] == 0
    ):
        return theirs(x, dim, dtype=dtype)
    if dtype is None:
        dtype = x.dtype if x.device.type == "cpu" else _autocast(x)  # on the CPU, autocast leaves these two alone
    if not (ours is xent_any.log_softmax and x.dtype in _HALF and dtype == torch.float32):  # which it returns anyway
        x = x.to(dtype)
    result: Tensor = ours(x, axis=dim)
    return result.to(dtype)
