"""What type checkers are to find out about the public functions: mypy and pyright check this file, nothing runs it.

A line that is to be refused has a comment that silences its error; where there is none, both checkers complain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, assert_type

import xent_any

if TYPE_CHECKING:
    import jax
    import numpy as np
    import numpy.typing as npt
    import torch


def of_numpy(x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> None:
    assert_type(xent_any.cross_entropy(x, y), npt.NDArray[np.float32])
    assert_type(xent_any.cross_entropy_value_and_grad(x, y), tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]])
    xent_any.cross_entropy(x, y, class_weight=y, sample_weight=None, denominator=2, reduction="none", ignore_index=None)
    xent_any.binary_cross_entropy(x, x, pos_weight=2.0, denominator=x)


def of_torch(x: torch.Tensor, y: torch.Tensor) -> None:
    xent_any.cross_entropy(x, y, axis=1, label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]
    assert_type(xent_any.cross_entropy(x, y), torch.Tensor)
    assert_type(xent_any.cross_entropy_value_and_grad(x, y), tuple[torch.Tensor, torch.Tensor])
    assert_type(xent_any.cross_entropy_jvp(x, x, y), tuple[torch.Tensor, torch.Tensor])
    assert_type(xent_any.cross_entropy_hvp(x, x, y), torch.Tensor)
    assert_type(xent_any.linear_cross_entropy(x, torch.nn.Linear(3, 4).weight, y, max_bytes=1 << 20), torch.Tensor)
    loss, (d_hidden, d_weight, d_bias) = xent_any.linear_cross_entropy_value_and_grad(x, x, y, bias=x)
    assert_type(loss, torch.Tensor)
    assert_type(d_hidden, torch.Tensor)
    assert_type(d_weight, torch.Tensor)
    assert_type(d_bias, torch.Tensor | None)
    assert_type(xent_any.nll_loss(xent_any.log_softmax(x, axis=1), y), torch.Tensor)
    assert_type(xent_any.softmax(x), torch.Tensor)
    assert_type(xent_any.logsumexp(x, keepdims=True), torch.Tensor)
    assert_type(xent_any.binary_cross_entropy(x, y), torch.Tensor)
    assert_type(xent_any.binary_cross_entropy_value_and_grad(x, y), tuple[torch.Tensor, torch.Tensor])


def of_jax(x: jax.Array, y: jax.Array) -> jax.Array:
    return xent_any.cross_entropy(x, y) + xent_any.softmax(x).sum()


def of_any(x: xent_any.Array, y: xent_any.Array, untyped: Any, reduction: xent_any.Reduction) -> xent_any.Array:
    assert_type(xent_any.cross_entropy(untyped, y), Any)
    return xent_any.cross_entropy(x, y, reduction=reduction)


def handed_on(x: torch.Tensor, y: torch.Tensor, **options: Unpack[xent_any.CrossEntropyOptions]) -> torch.Tensor:
    return xent_any.cross_entropy(x, y, **options)


def layer(x: torch.Tensor, y: torch.Tensor, **options: Unpack[xent_any.LinearOptions]) -> torch.Tensor:
    handed_on(x, y, label_smoothing=0.1, axis=1)
    handed_on(x, y, weight=x)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    return xent_any.linear_cross_entropy(x, x, y, **options)


def refused(x: torch.Tensor, y: torch.Tensor) -> None:
    xent_any.cross_entropy([[1.0]], y)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    xent_any.cross_entropy(x, None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    xent_any.cross_entropy(x, y, weight=x)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    xent_any.cross_entropy(x, y, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    xent_any.cross_entropy(x, y, reduction="avg")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    xent_any.linear_cross_entropy(x, x, y, axis=0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    xent_any.softmax(x, dim=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
