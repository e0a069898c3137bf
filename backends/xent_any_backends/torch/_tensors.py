"""What tensors are now: values, traced, transformed, differentiated."""

from collections.abc import Sequence
from typing import Any

import torch
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    is_functorch_wrapped_tensor,
    is_legacy_batchedtensor,
)
from torch.autograd import forward_ad

PLAIN = {torch.Tensor, torch.nn.Parameter}
"""What is not a tensor of a class of its own."""


def are_plain(arrays: Sequence[Any]) -> bool:
    """Whether all hold values: none is traced, fake or inside a transform."""
    if torch.compiler.is_compiling() or is_tracing():
        return False
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:  # make_fx records operations
        return False
    return PLAIN.issuperset(map(type, arrays)) and not any(map(is_transformed, arrays))


def are_numpys(arrays: Sequence[Any]) -> bool:
    """Whether NumPy computes with these."""
    return are_plain(arrays) and not get_interpreter_stack() and all(a.is_cpu for a in arrays)


def is_autocast(tensor: torch.Tensor) -> bool:
    """Whether PyTorch now chooses the dtypes of products where `tensor` lies."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def may_differentiate(arrays: Sequence[Any]) -> bool:
    """Whether a derivative with respect to one of them may be asked for."""
    if torch.is_grad_enabled() and any(a.requires_grad for a in arrays):
        return True
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or any(map(is_transformed, arrays))


def is_transformed(array: Any) -> bool:
    """Whether `array` is one of a transform of torch.func, or of autograd's batched gradients."""
    return is_functorch_wrapped_tensor(array) or is_legacy_batchedtensor(array)


def transforms() -> list[Any]:
    """The kinds of the active transforms of torch.func."""
    return [interpreter.key() for interpreter in get_interpreter_stack() or ()]


def may_attach() -> bool:
    """Whether an autograd.Function is right here.

    Not under two transforms of forward mode, where its derivative would be 0, nor compiled inside any transform, where
    the compiler does not ask for its rules, and differentiates its backward pass no more; nor in `torch.jit.trace`,
    which would record a call of it.
    """
    if is_tracing():
        return False
    kinds = transforms()
    return not kinds if torch.compiler.is_compiling() else kinds.count(TransformType.Jvp) < 2


def can_be_compiled() -> bool:
    """Whether PyTorch compiles products inside the active transforms: not in forward mode twice, or in three vmaps."""
    kinds = transforms()
    forward = kinds.count(TransformType.Jvp)
    return forward == 0 or (forward == 1 and kinds.count(TransformType.Vmap) < 3)


def is_tracing() -> bool:
    """Whether `torch.jit.trace` or an exporter records operations."""
    return torch._C._get_tracing_state() is not None


def is_run_as_recorded() -> bool:
    """Whether a compiler records operations and runs them as they are: `torch.compile` with the backend "eager".

    Then a second derivative of the compiled function may be asked for. Other backends refuse it.
    """
    from torch._dynamo.symbolic_convert import tls  # noqa: PLC0415  (slow to import)

    compiler = tls.current_tx.output.compiler_fn if hasattr(tls, "current_tx") else None
    return getattr(compiler, "_compiler_name", None) == "eager"


# What torch.compiler.assume_constant_result does after importing the compiler, which takes seconds.
may_attach._dynamo_marked_constant = True  # type: ignore[attr-defined]
can_be_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]
is_tracing._dynamo_marked_constant = True  # type: ignore[attr-defined]
is_run_as_recorded._dynamo_marked_constant = True  # type: ignore[attr-defined]
