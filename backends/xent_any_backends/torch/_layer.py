"""A linear layer of tensors: products in place where nobody asks how they were computed."""

from typing import Any

import numpy as np
import torch
from torch._C._functorch import is_legacy_batchedtensor

from xent_any import Products

from ..numpy import SMALL
from ..numpy._layer import NumPyProducts, parts_of, scan_in_place
from ..numpy._memory import BLOCK_BYTES, LAYER
from ._memory import BFLOAT16, from_numpy
from ._tensors import are_plain, is_autocast, is_tracing, may_differentiate


class TorchProducts(Products):
    """Products of tensors, where their values are at hand by operations in place."""

    def may_cut_classes(self, *arrays: Any) -> bool:
        return self.is_computed(*arrays)

    def scan(self, task: Any, step: Any, totals: Any) -> tuple[Any, ...]:
        hidden = task.rows[0]
        if is_autocast(hidden):  # which would compute the products in another dtype
            with torch.autocast(hidden.device.type, enabled=False):
                return self.scan(task, step, totals)
        if not self.is_computed(*task.arrays):
            # A compiler would fuse the blocks again, a trace may be run with more rows than these blocks have, and
            # batched gradients have no rule for concat.
            is_recorded = torch.compiler.is_compiling() or is_tracing()
            if is_recorded or any(is_legacy_batchedtensor(a) for a in task.arrays if a is not None):
                return tuple(step(totals, task.rows))
            return super().scan(task, step, totals)
        return scan_in_place(task, step, totals, None)

    def widened(self, xp: Any, weight: Any, dtype: Any) -> Any:
        return weight if self.is_computed(weight) else super().widened(xp, weight, dtype)

    def affine(self, xp: Any, hidden: Any, weight: Any, bias: Any, dtype: Any) -> Any:
        if not self.is_computed(hidden, weight, bias):
            weight = weight.to(dtype)  # it may have been left as it is, when it alone was looked at
            return hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
        if weight.dtype == dtype:
            x = hidden @ weight.T
        elif weight.device.type == "cuda":
            x = torch.mm(hidden.to(weight.dtype), weight.T, out_dtype=dtype)
        else:
            x = torch.empty((hidden.shape[0], weight.shape[0]), dtype=dtype, device=weight.device)
            for part in parts_of(weight):
                torch.mm(hidden, weight[part].to(dtype).T, out=x[:, part])
        return x if bias is None else x.add_(bias)

    def factor(self, xp: Any, g: Any, weight: Any) -> Any:
        return g.to(weight.dtype) if weight.dtype == torch.bfloat16 and self.is_computed(g, weight) else g

    def product(self, xp: Any, g: Any, weight: Any) -> Any:
        if weight.dtype == g.dtype or not self.is_computed(g, weight):
            return (g @ weight.to(g.dtype)).to(torch.promote_types(g.dtype, torch.float32))
        return sum(g[:, part] @ weight[part].to(g.dtype) for part in parts_of(weight))

    def add_product(self, xp: Any, total: Any, g: Any, hidden: Any) -> Any:
        if not self.is_computed(total, g, hidden):
            return super().add_product(xp, total, g, hidden)
        if g.dtype == total.dtype:
            return total.addmm_(g.T, hidden)
        hidden = hidden.to(g.dtype)
        for part in parts_of(total):
            total[part] += g[:, part].T @ hidden
        return total

    def is_computed(self, *arrays: Any) -> bool:
        """Whether arrays hold values and nobody asks how they were computed: they may be written to."""
        given = [a for a in arrays if a is not None]
        return are_plain(given) and not may_differentiate(given)


class BridgeProducts(NumPyProducts):
    """Products of the arrays in tensors' memory, those of bfloat16 by PyTorch."""

    loaded = Products.loaded  # NumPy's cannot read bfloat16

    def affine(self, xp: Any, hidden: Any, weight: Any, bias: Any, dtype: Any) -> Any:
        if weight.dtype != BFLOAT16:
            return super().affine(xp, hidden, weight, bias, dtype)
        # NumPy's product may be faster, but its threads then wait for 0.1 s in the way of PyTorch's; that of oneDNN
        # is faster than that of torch.mm, and fastest of 1 to 4 MiB of the weight at a time: 2 CPUs, AVX-512.
        x = LAYER.array("logits", (hidden.shape[0], weight.shape[0]), dtype)
        h, w, into = torch.from_numpy(hidden), from_numpy(weight), torch.from_numpy(x)
        has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        in_onednn = has_onednn and x.nbytes > SMALL and hidden.size > 0
        h = h.to_mkldnn() if in_onednn else h
        for part in parts_of(weight, len(hidden)):
            if in_onednn:
                into[:, part] = torch.nn.functional.linear(h, w[part].to_mkldnn(torch.float32)).to_dense()
            else:
                into[:, part] = h @ w[part].to(torch.float32).T
        return x if bias is None else np.add(x, bias, out=x)

    def factor(self, xp: Any, g: Any, weight: Any) -> Any:
        if weight.dtype != BFLOAT16:
            return g
        g = np.ascontiguousarray(g)
        rounded = g.view(BFLOAT16)[:, : g.shape[1]]  # in the first half of each row's memory
        step = max(1, BLOCK_BYTES // max(1, g[:1].nbytes))
        for start in range(0, len(g), step):
            block = slice(start, start + step)
            from_numpy(rounded[block]).copy_(torch.from_numpy(g[block]).to(torch.bfloat16))
        return rounded

    def product(self, xp: Any, g: Any, weight: Any) -> Any:
        if g.dtype != BFLOAT16:
            return super().product(xp, g, weight)
        out = from_numpy(LAYER.array("part", (g.shape[0], weight.shape[1]), BFLOAT16))
        return torch.mm(from_numpy(g), from_numpy(weight), out=out).to(torch.float32).numpy()

    def add_product(self, xp: Any, total: Any, g: Any, hidden: Any) -> Any:
        if g.dtype != BFLOAT16:
            return super().add_product(xp, total, g, hidden)
        into, factor, hidden = torch.from_numpy(total), from_numpy(g), torch.from_numpy(hidden).to(torch.bfloat16)
        for part in parts_of(total):
            place = into[part]
            out = from_numpy(LAYER.array("part", tuple(place.shape), BFLOAT16))
            place += torch.mm(factor[:, part].T, hidden, out=out)
        return total
