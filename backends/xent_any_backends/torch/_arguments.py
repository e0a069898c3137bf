"""PyTorch's arguments, as the core takes them: what fits together, shapes, dtypes, the divisor of the mean."""

import functools
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812  (the name that everybody knows it by)
from torch import Tensor
from torch.nn import _reduction
from torch.overrides import handle_torch_function, has_torch_function

from xent_any import Reduction
from xent_any._linear import LIKE_HIDDEN

from ._bridge import IN_NUMPY
from ._tensors import is_autocast

HALF = (torch.float16, torch.bfloat16)
FLOATING = (*HALF, torch.float32, torch.float64)
REDUCTIONS: Sequence[Reduction] = ("none", "mean", "sum")  # each at PyTorch's number for it
softmax_dim: Callable[[str, int, int], int] = F._get_softmax_dim  # type: ignore[attr-defined]  # not in its stubs


_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def overridable(function: _Function) -> _Function:
    """Hand over to arguments that define ``__torch_function__``, as PyTorch's functions do: subclasses, proxies, ..."""

    @functools.wraps(function)
    def public(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if has_torch_function(given):
            return handle_torch_function(public, given, *args, **kwargs)
        return function(*args, **kwargs)

    return public  # type: ignore[return-value]  # of the same signature


def reduction_name(size_average: bool | None, reduce: bool | None, reduction: str) -> Reduction:
    """The reduction that is meant, with PyTorch's warnings about deprecated ways to say it."""
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    return REDUCTIONS[_reduction.get_enum(reduction)]


def fit_together(logits: Any, target: Any, weight: Any, soft: bool) -> bool:
    """Whether PyTorch has an answer for these, up to what the tensors hold, and classes to compute it from."""
    if not are_together(logits, target, *(() if weight is None else (weight,))):
        return False
    if logits.dtype not in FLOATING or logits.ndim == 0:
        return False
    count = logits.shape[class_axis(logits)]
    if count == 0 or not (weight is None or weight.shape == (count,)):
        return False
    if soft:
        return target.dtype in FLOATING
    return (
        not (target.dtype.is_floating_point or target.dtype.is_complex or target.dtype == torch.bool)
        and (target.shape == row_shape(logits) or (logits.ndim == 1 and target.shape == (1,)))
        and (weight is None or result_dtype(weight) == result_dtype(logits))
    )


def is_dense(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout == torch.strided and not x.is_nested


def are_together(*tensors: Any) -> bool:
    return all(map(is_dense, tensors)) and len({t.device for t in tensors}) == 1


def linear_shaped(x: Any, weight: Any, bias: Any) -> Any:
    """What has the shape, dtype and device of a linear layer's logits and holds none; None for what is no layer."""
    layer = (weight,) if bias is None else (weight, bias)
    if not (
        are_together(x, *layer)
        and x.ndim in (1, 2)
        and weight.ndim >= 2
        and x.shape[-1] == weight.shape[-1]
        and (x.ndim == 2 or weight.ndim == 2)
        and (bias is None or bias.shape == weight.shape[:-1])
    ):
        return None
    dtypes = {autocast_linear(t) for t in (x, *layer)}
    if len(dtypes) > 1:
        return None
    return x.new_empty((), dtype=dtypes.pop()).expand(*x.shape[:-1], *weight.shape[:-1])


def are_positions(x: Any, weight: Any, target: Any) -> bool:
    """Whether a linear layer's inputs are (..., D), of more than two dimensions, and the target is of each position."""
    if not (is_dense(x) and is_dense(weight) and is_dense(target)) or x.ndim < 3 or weight.ndim != 2:
        return False
    lead = x.shape[:-1]
    return target.shape in (lead, (*lead, weight.shape[0]))


def chunk_bytes(options: Any, x: Tensor, count: int) -> int | None:
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


def can_weigh(weight: Any, logits: Tensor) -> bool:
    """Whether binary cross-entropy takes this as a weight."""
    return weight is None or (
        is_dense(weight)
        and not weight.dtype.is_complex
        and (weight.ndim == 0 or weight.device == logits.device)
        and weight.ndim <= logits.ndim
        and all(w in (1, n) for w, n in zip(reversed(weight.shape), reversed(logits.shape), strict=False))
    )


def class_axis(logits: Tensor) -> int:
    return min(1, logits.ndim - 1)


def row_shape(logits: Tensor) -> torch.Size:
    axis = class_axis(logits)
    return logits.shape[:axis] + logits.shape[axis + 1 :]


def row_count(logits: Tensor, axis: int) -> Tensor | float | None:
    """The number of rows, None for 0; a tensor where it is recorded how it comes from the logits."""
    count: Tensor | torch.SymInt | int = logits.numel() // logits.shape[axis]
    if isinstance(count, torch.SymInt):
        count = torch.scalar_tensor(count, dtype=torch.int64, device=logits.device)  # type: ignore[arg-type]
    return count if isinstance(count, Tensor) else float(count) or None


def of_rows(logits: Tensor, target: Tensor) -> Tensor:
    """Class indices in the shape of the rows: PyTorch also takes the index of a single row as (1,)."""
    return target.reshape(row_shape(logits))


def result_dtype(*tensors: Tensor | None) -> torch.dtype:
    """What PyTorch computes a loss of these in: what they promote to, each as autocast converts it."""
    return functools.reduce(torch.promote_types, (autocast(t) for t in tensors if t is not None))


def autocast(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in HALF and is_autocast(tensor) else tensor.dtype


def autocast_linear(tensor: Tensor) -> torch.dtype:
    """The dtype in which a linear layer takes it."""
    if tensor.dtype in (*HALF, torch.float32) and is_autocast(tensor):
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype


def wide(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits in the precision of a float64 target: float32 cannot hold its numbers."""
    return logits.to(dtype) if dtype == torch.float64 else logits


def smoothing_number(value: Any) -> float | None:
    """The label smoothing that PyTorch takes this for: 0 unless it is positive; None if it takes it for none."""
    if isinstance(value, Tensor):
        if value.ndim > 0 or value.requires_grad or value.is_complex():
            return None
    elif not isinstance(value, Real):
        return None
    number = float(value)
    return None if number > 1 else number if number > 0 else 0.0
