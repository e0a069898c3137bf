"""Tensors on the CPU as NumPy's arrays, in the same memory, and NumPy's adapter for them."""

import types
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from xent_any import Task
from xent_any._formulas import cast

from ..numpy import NumPy
from ..numpy._memory import SCRATCH
from ._layer import BridgeProducts
from ._memory import BFLOAT16, from_numpy, to_numpy


class BridgedNumPy(NumPy):
    """NumPy's blocks, on as many threads as PyTorch's own operations."""

    products = BridgeProducts(1 << 28, torch.get_num_threads)

    def load(self, a: Any, dtype: Any) -> Any:
        if a.dtype == BFLOAT16:  # the first half of the bits of float32
            bits = SCRATCH.empty(a.shape, np.uint32)
            np.copyto(bits, a.view(np.uint16))
            a = np.left_shift(bits, 16, out=bits).view(np.float32)
        elif a.dtype == np.float16:  # which NumPy converts one by one
            out = SCRATCH.empty(a.shape, dtype)
            torch.from_numpy(out).copy_(torch.from_numpy(a))
            a = out
        return super().load(a, dtype)

    def rounded(self, a: Any, dtype: Any) -> Any:
        return cast(NAMESPACE, a, dtype)


def astype(a: Any, dtype: Any) -> Any:
    """Cast an array; half precision by PyTorch, as NumPy has no bfloat16, and converts float16 one by one."""
    if a.dtype in HALF or dtype in HALF:
        return to_numpy(from_numpy(a).to(HALF[dtype] if dtype in HALF else getattr(torch, np.dtype(dtype).name)))
    return a.astype(dtype)


HALF = {BFLOAT16: torch.bfloat16, np.dtype(np.float16): torch.float16}

NAMESPACE = types.SimpleNamespace(**{**vars(np), "astype": astype})
"""NumPy's, with bfloat16."""

IN_NUMPY = BridgedNumPy()


def in_numpy(task: Any, arrays: Any) -> Any:
    """Return the task of these tensors, which NumPy can read, in NumPy."""
    values = [to_numpy(a) for a in arrays[: len(task.arrays)]]
    return replace(task.with_arrays(values), xp=NAMESPACE, options=_in_numpy(task.options))


@lru_cache
def _in_numpy(options: Any) -> Any:
    dtype = np.dtype(str(options.dtype).rpartition(".")[2])
    return options._replace(dtype=dtype, backend=IN_NUMPY)


def run_in_numpy(task: Task) -> tuple[Any, ...]:
    """Run a task of tensors that NumPy can read."""
    return tuple([from_numpy(np.asarray(a)) for a in IN_NUMPY.run(in_numpy(task, task.arrays))])
