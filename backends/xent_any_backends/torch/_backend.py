"""PyTorch."""

from collections.abc import Sequence
from typing import Any

import torch
from array_api_compat import torch as torch_namespace
from torch._C._functorch import is_functorch_wrapped_tensor

from xent_any import Backend, Task


class Torch(Backend):
    name = "torch"
    version = torch.__version__
    # Measured on the CPU as for NumPy, where 4 MiB was the fastest.
    block_bytes = 1 << 22
    transforms = {
        "grad": torch.func.grad,
        "vmap": torch.func.vmap,
        "jvp": lambda f, x, tangent: torch.func.jvp(f, (x,), (tangent,))[1],
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
        return array.detach().cpu().numpy()

    def is_readable(self, array: Any) -> bool:
        return array.device.type == "cpu" and self._is_plain(array)

    def top(self, xp: Any, x: Any) -> tuple[Any, Any]:
        m, k = torch.max(x, dim=-1)
        return k, m

    def pick(self, xp: Any, a: Any, k: Any) -> Any:
        return a[k] if a.ndim == 1 else torch.gather(a, -1, k.unsqueeze(-1)).squeeze(-1)

    def put(self, xp: Any, a: Any, k: Any, value: Any, *, owned: bool = False) -> Any:
        return a.scatter(-1, k.unsqueeze(-1), value if isinstance(value, float) else value.unsqueeze(-1))

    def run(self, task: Task) -> tuple[Any, ...]:
        if not task.lead:  # one row becomes a batch of one: forward mode gives numbers of no dimensions another dtype
            rows = tuple(None if a is None else a.unsqueeze(0) for a in task.rows)
            like = tuple((a.unsqueeze(0), dtype) for a, dtype in task.results)
            return tuple(r.squeeze(0) for r in self.run(task._replace(rows=rows, lead=(1,), results=like)))
        arrays = [a for a in (*task.rows, *task.shared) if a is not None]
        recorded = torch.is_grad_enabled() and any(a.requires_grad for a in arrays)
        if recorded or not all(map(self._is_plain, arrays)):
            return task.at_once()
        return super().run(task)

    def _is_plain(self, array: Any) -> bool:
        """Whether `array` holds values: it is not traced, fake or inside a transform of torch.func."""
        return (
            type(array) in (torch.Tensor, torch.nn.Parameter)
            and not torch.compiler.is_compiling()
            and not is_functorch_wrapped_tensor(array)
        )


BACKEND = Torch()
