"""`torch.nn.functional.softmax` and `log_softmax`, computed by `xent_any`; see `_functional`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name that everybody knows it by)
from torch import Tensor

import xent_any

from ._arguments import FLOATING, HALF, autocast, is_dense, overridable, softmax_dim


@overridable
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


@overridable
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
        dim = softmax_dim(theirs.__name__, x.dim(), stacklevel + 2)  # for this frame and the decorator's
    if (
        not is_dense(x)
        or (dtype or x.dtype) not in FLOATING
        or isinstance(dim, bool)
        or not hasattr(dim, "__index__")
        or not -x.ndim <= dim < x.ndim
        or x.shape[dim] == 0
    ):
        return theirs(x, dim, dtype=dtype)
    if dtype is None:
        dtype = x.dtype if x.device.type == "cpu" else autocast(x)  # on the CPU, autocast leaves these two alone
    if not (ours is xent_any.log_softmax and x.dtype in HALF and dtype == torch.float32):  # which it returns anyway
        x = x.to(dtype)
    result: Tensor = ours(x, axis=dim)
    return result.to(dtype)
