"""How PyTorch runs the kernels."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from array_api_compat import torch as torch_namespace
from torch.autograd import forward_ad

from xent_any import Backend, RefusedError, Task

from . import _autograd
from ._bridge import run_in_numpy
from ._kernels import KERNELS
from ._layer import TorchProducts
from ._memory import to_numpy
from ._tensors import are_numpys, are_plain, can_be_compiled, is_tracing, may_attach, may_differentiate


def _backward(function: Any, x: Any, cotangents: Sequence[Any]) -> list[Any]:
    x = x.detach().requires_grad_()
    result = function(x)
    return [torch.autograd.grad(result, x, c, retain_graph=True)[0] for c in cotangents]


class Torch(Backend):
    name = "torch"
    version = torch.__version__
    block_bytes = 1 << 22  # on other devices than the CPU, and not measured there
    products = TorchProducts(1 << 28)
    kernels = KERNELS
    transforms = {
        "grad": torch.func.grad,
        "vmap": torch.func.vmap,
        "jvp": lambda f, x, tangent: torch.func.jvp(f, (x,), (tangent,))[1],
        "backward": _backward,
    }

    def namespace(self) -> Any:
        return torch_namespace

    def devices(self) -> Sequence[Any]:
        cuda = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        mps = [torch.device("mps")] if torch.backends.mps.is_available() else []
        return [torch.device("cpu"), *cuda, *mps]

    def dtypes(self, device: Any) -> Sequence[str]:
        return [*super().dtypes(device), "float16", "bfloat16"]

    def to_numpy(self, array: Any) -> Any:
        return to_numpy(array.cpu())

    def namespace_of(self, array: Any) -> Any:
        if not isinstance(array, torch.Tensor):  # of another type of PyTorch's: a dtype, a device
            raise TypeError(type(array).__name__)
        if array.is_nested:
            raise RefusedError("expected a dense tensor, got a nested one; pad it, by torch.nested.to_padded_tensor")
        if array.layout != torch.strided:
            kind = str(array.layout).removeprefix("torch.").removeprefix("_")
            raise RefusedError(f"expected a dense tensor, got a {kind} one; make it dense, by to_dense()")
        if array.is_quantized:
            raise RefusedError("expected a tensor of numbers, got a quantized one; take its dequantize()")
        return torch_namespace

    def readable(self, array: Any) -> Any:
        if not array.is_cpu or not are_plain((array,)):
            return None
        return (torch_namespace, array) if array.dtype == torch.bfloat16 else (np, to_numpy(array))

    def is_positive(self, size: Any) -> bool:
        if not torch.compiler.is_compiling():
            return super().is_positive(size)
        from torch.fx.experimental.symbolic_shapes import statically_known_true  # noqa: PLC0415  (slow to import)

        return statically_known_true(size > 0)

    def cache_key(self, arrays: Collection[Any]) -> Any:
        if not are_plain([a for a in arrays if a is not None]):
            return None
        try:
            return tuple([None if a is None else (a.dtype, a.shape, a.device, a.layout) for a in arrays])
        except RuntimeError:  # of nested tensors, which have no shape
            return None

    def run(self, task: Task) -> tuple[Any, ...]:
        if not task.batch:  # one row becomes a batch of one: forward mode gives numbers of no dimensions another dtype
            rows = tuple(None if a is None else a.unsqueeze(0) for a in task.rows)
            results = self.run(replace(task, rows=rows, batch=(1,)))
            return tuple(r.squeeze(0) if r.ndim else r for r in results)
        if torch.compiler.is_compiling() and not can_be_compiled():
            torch._dynamo.graph_break(msg="these transforms of torch.func are run, not compiled")
        arrays = [a for a in task.arrays if a is not None]
        if not may_differentiate(arrays):
            return self.compute(task)
        if not task.has_derivative or not may_attach():
            return task.reference()
        return _autograd.attached(task, is_readable=are_numpys(arrays))

    @property
    def recorded(self) -> Backend:
        """The adapter for what autograd itself is to differentiate."""
        return RECORDED

    def compute(self, task: Task) -> tuple[Any, ...]:
        """Run the task with no derivative attached, in blocks where there are values."""
        arrays = [a for a in task.arrays if a is not None]
        if are_numpys(arrays):
            return run_in_numpy(task)
        return super().run(task) if are_plain(arrays) else task.at_once()

    def run_layer(self, task: Any) -> tuple[Any, ...]:
        arrays = [a for a in task.arrays if a is not None]
        is_attached = are_plain(arrays) and may_differentiate(arrays) and forward_ad._current_level < 0
        if task.wanted is None and is_attached:
            return (_autograd.attached_to_layer(task),)
        return _autograd.compute_layer(task)

    def max(self, xp: Any, a: Any) -> Any:
        if not (torch.is_grad_enabled() or is_tracing()):  # nobody differentiates the maximum
            return torch.amax(a, dim=-1)
        return torch.max(a, dim=-1).values  # its derivative is that of one class

    def sum(self, xp: Any, a: Any) -> Any:
        if is_tracing():  # the trace may be run with another number of terms
            return a.sum(-1, dtype=torch.float64).to(a.dtype)
        if not torch.compiler.is_compiling():
            return a.sum(-1) if a.ndim == 1 and a.numel() <= 512 else super().sum(xp, a)
        from torch.fx.experimental.symbolic_shapes import statically_known_true  # noqa: PLC0415  (slow to import)

        # What Inductor makes of one long sum loses 640 units in the last place of 128256 equal terms; of two, 2. On the
        # CPU it fuses one with what computes its terms, not two.
        while statically_known_true(a.shape[-1] > 512) and (a.dtype == torch.float64 or a.device.type != "cpu"):
            a = torch.nn.functional.pad(a, (0, -a.shape[-1] % 256))
            a = a.reshape(*a.shape[:-1], -1, 256).sum(-1)
        if statically_known_true(a.shape[-1] <= 512):
            return a.sum(-1)
        return a.sum(-1, dtype=torch.float64).to(a.dtype)

    def take(self, xp: Any, a: Any, k: Any) -> Any:
        return a[k] if a.ndim == 1 else torch.gather(a, -1, k.unsqueeze(-1)).squeeze(-1)

    def share(self, xp: Any, like: Any, dtype: Any, shape: tuple[int, ...], parts: float) -> Any:
        if torch.compiler.is_compiling():
            return super().share(xp, like, dtype, shape, parts)
        if are_numpys((like,)) and not torch._C._len_torch_dispatch_stack():
            return _share(dtype, shape, parts)
        return torch.full((), 1.0 / parts, dtype=dtype, device=like.device).expand(shape)


@lru_cache(16)
def _share(dtype: Any, shape: tuple[int, ...], parts: float) -> Any:
    with torch.inference_mode(False):  # a tensor of that mode could not be saved for a backward pass
        return torch.full((), 1.0 / parts, dtype=dtype, device="cpu").expand(shape)


class _Recorded(Torch):
    """Kernels of the reference with no derivative attached: autograd differentiates them operation by operation."""

    def run(self, task: Task) -> tuple[Any, ...]:
        return task.reference()


BACKEND = Torch()
RECORDED = _Recorded()
