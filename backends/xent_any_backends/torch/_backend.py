"""How PyTorch runs the kernels, and where their derivatives are attached to its autograd."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from array_api_compat import torch as torch_namespace
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    is_functorch_wrapped_tensor,
    is_legacy_batchedtensor,
)
from torch.autograd import forward_ad

from xent_any import Backend, Task
from xent_any._linear import LinearTask
from xent_any._rows import loss, loss_and_grad

from ..numpy import LAYER, MEMORY, SMALL, NumPy, parts_of, scan_in_place

BFLOAT16 = np.dtype("V2")
"""Bits that NumPy does not compute with."""

PLAIN = {torch.Tensor, torch.nn.Parameter}
"""What is not a tensor of a class of its own."""

GRADIENT_BYTES = 1 << 26
"""A gradient of at most so many bytes is kept from the forward pass. Without, the backward pass takes about as long as
the forward pass; a larger one would be held, perhaps for long, beside logits that take as much memory."""

_vjp: Any = torch.func.vjp  # which says that it returns two or three values


def _backward(function: Any, x: Any, cotangents: Sequence[Any]) -> list[Any]:
    x = x.detach().requires_grad_()
    result = function(x)
    return [torch.autograd.grad(result, x, c, retain_graph=True)[0] for c in cotangents]


class Torch(Backend):
    name = "torch"
    version = torch.__version__
    block_bytes = 1 << 22  # on other devices than the CPU, and not measured there
    transforms = {
        "grad": torch.func.grad,
        "vmap": torch.func.vmap,
        "jvp": lambda f, x, tangent: torch.func.jvp(f, (x,), (tangent,))[1],
        "backward": _backward,
    }

    def namespace(self) -> Any:
        return torch_namespace

    def namespace_of(self, array: Any) -> Any:
        if not isinstance(array, torch.Tensor):  # of another type of PyTorch's: a dtype, a device
            raise TypeError(type(array).__name__)
        return torch_namespace

    def devices(self) -> Sequence[Any]:
        cuda = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        mps = [torch.device("mps")] if torch.backends.mps.is_available() else []
        return [torch.device("cpu"), *cuda, *mps]

    def dtypes(self, device: Any) -> Sequence[str]:
        return [*super().dtypes(device), "float16", "bfloat16"]

    def to_numpy(self, array: Any) -> Any:
        return _to_numpy(array.cpu())

    def share(self, xp: Any, like: Any, dtype: Any, shape: tuple[int, ...], parts: float) -> Any:
        if torch.compiler.is_compiling():
            return super().share(xp, like, dtype, shape, parts)
        if _are_numpys((like,)) and not torch._C._len_torch_dispatch_stack():
            return _share(dtype, shape, parts)
        return torch.full((), 1.0 / parts, dtype=dtype, device=like.device).expand(shape)

    def all_below(self, xp: Any, a: Any, stop: int) -> bool:
        return IN_NUMPY.all_below(np, _to_numpy(a), stop) if _are_numpys((a,)) else super().all_below(xp, a, stop)

    def signature(self, arrays: Collection[Any]) -> Any:
        if not _are_plain([a for a in arrays if a is not None]):
            return None
        try:
            return tuple([None if a is None else (a.dtype, a.shape, a.device, a.layout) for a in arrays])
        except RuntimeError:  # of nested tensors, which have no shape
            return None

    def rejects(self, array: Any) -> str | None:
        if array.is_nested:
            return "expected a dense tensor, got a nested one; pad it, by torch.nested.to_padded_tensor"
        if array.layout != torch.strided:
            kind = str(array.layout).removeprefix("torch.").removeprefix("_")
            return f"expected a dense tensor, got a {kind} one; make it dense, by to_dense()"
        return (
            "expected a tensor of numbers, got a quantized one; take its dequantize()" if array.is_quantized else None
        )

    def is_readable(self, array: Any) -> bool:
        return array.is_cpu and _are_plain((array,))

    def top(self, xp: Any, x: Any) -> tuple[Any, Any]:
        if torch.compiler.is_compiling() and not torch.is_grad_enabled():  # nobody differentiates the maximum
            return None, torch.amax(x, dim=-1)
        m, k = torch.max(x, dim=-1)
        return k, m

    def winner(self, xp: Any, x: Any, m: Any) -> Any:
        return torch.argmax(x, dim=-1)

    def pick(self, xp: Any, a: Any, k: Any) -> Any:
        return a[k] if a.ndim == 1 else torch.gather(a, -1, k.unsqueeze(-1)).squeeze(-1)

    def put(self, xp: Any, a: Any, k: Any, value: Any, *, owned: bool = False) -> Any:
        value = value if isinstance(value, float) else value.unsqueeze(-1)
        if torch.compiler.is_compiling():
            # Comparing, unlike scattering, is fused with what is before and after it. `where` would lay its result out
            # like its condition, the classes last; a product is like its first factor.
            at = self.arange(xp, a, a.shape[-1]) == k.unsqueeze(-1)
            return a * ~at + torch.where(at, value, 0.0)
        return a.scatter(-1, k.unsqueeze(-1), value)

    def lessen(self, xp: Any, a: Any, value: Any, k: Any = None) -> Any:
        if k is None or torch.compiler.is_compiling():
            return super().lessen(xp, a, value, k)
        return self.put(xp, a, k, self.pick(xp, a, k) - value)  # scatter_add is not deterministic on CUDA

    def as_zeros(self, broken: Any, masked: Any) -> Any:
        if not torch.compiler.is_compiling() or _is_transforming():
            return masked
        return broken  # of one condition on m; Inductor would ask anew at each logit whether its row counts

    def exponentials(self, xp: Any, x: Any, zeros: Any, k: Any, m: Any, *, keep: bool) -> tuple[Any, Any, Any]:
        found: tuple[Any, Any, Any] = super().exponentials(xp, x, zeros, k, m, keep=keep)
        if not (keep and torch.compiler.is_compiling()):
            return found
        # The same bits, by operations that no compiler finds to be the same: Inductor would hold exponentials that are
        # used twice, for the sum and here, which takes longer than to compute them again.
        _, others, root = found
        x = x if zeros is None else self.zeroed(xp, x, zeros)
        return torch.square(torch.exp(0.5 * x - 0.5 * m[..., None]) / root[..., None]), others, root

    def sum(self, xp: Any, a: Any) -> Any:
        if _is_tracing():  # the trace may be run with another number of terms
            return a.sum(-1, dtype=torch.float64).to(a.dtype)
        if not torch.compiler.is_compiling():
            return super().sum(xp, a)
        from torch.fx.experimental.symbolic_shapes import statically_known_true  # noqa: PLC0415  (slow to import)

        # What Inductor makes of one long sum loses 640 units in the last place of 128256 equal terms; of two, 2. On the
        # CPU it fuses one with what computes its terms, not two.
        while statically_known_true(a.shape[-1] > 512) and (a.dtype == torch.float64 or a.device.type != "cpu"):
            a = torch.nn.functional.pad(a, (0, -a.shape[-1] % 256))
            a = a.reshape(*a.shape[:-1], -1, 256).sum(-1)
        if statically_known_true(a.shape[-1] <= 512):
            return a.sum(-1)
        return a.sum(-1, dtype=torch.float64).to(a.dtype)

    def total(self, xp: Any, a: Any) -> Any:
        if _is_tracing():
            return super().total(xp, a)
        few = a.numel() <= 512
        if torch.compiler.is_compiling() or not a.is_cpu or not (few or a.dtype == torch.float32):
            return super().total(xp, a)
        if few:
            return a.sum()
        if _are_numpys((a,)) and not _may_differentiate((a,)):
            # The threads of an operation of PyTorch's wait some ms for more to do, in the way of NumPy's.
            return _from_numpy(np.asarray(IN_NUMPY.total(np, _to_numpy(a))))
        return a.sum(dtype=torch.float64).to(a.dtype)

    def is_positive(self, size: Any) -> bool:
        if not torch.compiler.is_compiling():
            return super().is_positive(size)
        from torch.fx.experimental.symbolic_shapes import statically_known_true  # noqa: PLC0415  (slow to import)

        return statically_known_true(size > 0)

    def are_known(self, xp: Any, a: Any) -> bool:
        if not _are_numpys((a,)):
            return super().are_known(xp, a)
        return IN_NUMPY.are_known(np, _to_numpy(a))

    def run(self, task: Task) -> tuple[Any, ...]:
        if not task.lead:  # one row becomes a batch of one: forward mode gives numbers of no dimensions another dtype
            rows = tuple(None if a is None else a.unsqueeze(0) for a in task.rows)
            return tuple(r.squeeze(0) for r in self.run(replace(task, rows=rows, lead=(1,))))
        if torch.compiler.is_compiling() and not _can_be_compiled():
            torch._dynamo.graph_break(msg="these transforms of torch.func are run, not compiled")
        arrays = [a for a in task.arrays if a is not None]
        if _are_numpys(arrays):
            return _run_in_numpy(task, arrays, summed=False)
        if not _may_differentiate(arrays):
            return self.compute(task)
        if not task.has_derivative or not _may_attach():
            return task.at_once()
        a, b, c, d, e, f = (*task.arrays, *(None,) * 6)[:6]  # Dynamo cannot bind *arrays
        if torch.compiler.is_compiling():
            apply = _Compiled.apply
        elif not _are_plain(arrays) or get_interpreter_stack():
            apply = _Eager.apply
        else:
            apply = _without_binding(_Eager)
        results: tuple[Any, ...] = apply(task.emptied(), False, a, b, c, d, e, f)  # type: ignore[no-untyped-call]
        return results

    def run_total(self, task: Task) -> tuple[Any, ...]:
        arrays = [a for a in task.arrays if a is not None]
        if task.lead and _are_numpys(arrays):
            return _run_in_numpy(task, arrays, summed=True)
        return super().run_total(task)

    def compute(self, task: Task) -> tuple[Any, ...]:
        """Run the task with no derivative attached, in blocks where there are values."""
        arrays = [a for a in task.arrays if a is not None]
        if _are_numpys(arrays):
            return _tensors(IN_NUMPY.run(_in_numpy(task, task.arrays)), summed=False)
        return super().run(task) if _are_plain(arrays) else task.at_once()

    def may_cut_classes(self, *arrays: Any) -> bool:
        return self.is_computed(*arrays)

    def linear(self, task: Any) -> Any:
        arrays = [a for a in task.arrays if a is not None]
        if _are_plain(arrays) and _may_differentiate(arrays) and forward_ad._current_level < 0:
            return _Linear.apply(task.emptied(), *task.arrays)  # type: ignore[no-untyped-call]
        losses: Any = _computed(task, lambda task: (task.losses(),))[0]
        return task.reduced(losses)

    def linear_and_gradients(self, task: Any) -> tuple[Any, ...]:
        return _computed(task, LinearTask.losses_and_gradients)

    def scan(self, task: Any, step: Any, totals: Any) -> tuple[Any, ...]:
        hidden = task.rows[0]
        if is_autocast(hidden):  # which would compute the products in another dtype
            with torch.autocast(hidden.device.type, enabled=False):
                return self.scan(task, step, totals)
        if not self.is_computed(*task.arrays):
            # A compiler would fuse the blocks again, a trace may be run with more rows than these blocks have, and
            # batched gradients have no rule for concat.
            is_recorded = torch.compiler.is_compiling() or _is_tracing()
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
        return _are_plain(given) and not _may_differentiate(given)


class _NumPy(NumPy):
    """On the CPU a tensor's memory is an array's: NumPy's blocks, on as many threads as PyTorch's own operations."""

    def threads(self) -> int:
        return torch.get_num_threads()

    def load(self, xp: Any, a: Any, dtype: Any) -> Any:
        if a.dtype == BFLOAT16:  # the first half of the bits of float32
            bits = MEMORY.empty(a.shape, np.uint32)
            np.copyto(bits, a.view(np.uint16))
            a = np.left_shift(bits, 16, out=bits).view(np.float32)
        elif a.dtype == np.float16:  # which NumPy converts one by one
            out = MEMORY.empty(a.shape, dtype)
            torch.from_numpy(out).copy_(torch.from_numpy(a))
            a = out
        return super().load(xp, a, dtype)

    def store(self, xp: Any, a: Any, dtype: Any) -> Any:
        if dtype in (BFLOAT16, np.float16):
            return _to_numpy(torch.from_numpy(a).to(torch.float16 if dtype == np.float16 else torch.bfloat16))
        return super().store(xp, a, dtype)

    def affine(self, xp: Any, hidden: Any, weight: Any, bias: Any, dtype: Any) -> Any:
        if weight.dtype != BFLOAT16:
            return super().affine(xp, hidden, weight, bias, dtype)
        # NumPy's product may be faster, but its threads then wait for 0.1 s in the way of PyTorch's; that of oneDNN
        # is faster than that of torch.mm, and fastest of 1 to 4 MiB of the weight at a time: 2 CPUs, AVX-512.
        x = LAYER.array("logits", (hidden.shape[0], weight.shape[0]), dtype)
        h, w, into = torch.from_numpy(hidden), _from_numpy(weight), torch.from_numpy(x)
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
        step = max(1, self.block_bytes // max(1, g[:1].nbytes))
        for start in range(0, len(g), step):
            block = slice(start, start + step)
            _from_numpy(rounded[block]).copy_(torch.from_numpy(g[block]).to(torch.bfloat16))
        return rounded

    def product(self, xp: Any, g: Any, weight: Any) -> Any:
        if g.dtype != BFLOAT16:
            return super().product(xp, g, weight)
        out = _from_numpy(LAYER.array("part", (g.shape[0], weight.shape[1]), BFLOAT16))
        return torch.mm(_from_numpy(g), _from_numpy(weight), out=out).to(torch.float32).numpy()

    def add_product(self, xp: Any, total: Any, g: Any, hidden: Any) -> Any:
        if g.dtype != BFLOAT16:
            return super().add_product(xp, total, g, hidden)
        into, factor, hidden = torch.from_numpy(total), _from_numpy(g), torch.from_numpy(hidden).to(torch.bfloat16)
        for part in parts_of(total):
            place = into[part]
            out = _from_numpy(LAYER.array("part", tuple(place.shape), BFLOAT16))
            place += torch.mm(factor[:, part].T, hidden, out=out)
        return total


def _are_plain(arrays: Sequence[Any]) -> bool:
    """Whether all hold values: none is traced, fake or inside a transform."""
    if torch.compiler.is_compiling() or _is_tracing():
        return False
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:  # make_fx records operations
        return False
    return PLAIN.issuperset(map(type, arrays)) and not any(map(_is_transformed, arrays))


def _are_numpys(arrays: Sequence[Any]) -> bool:
    """Whether NumPy computes with these."""
    return _are_plain(arrays) and not get_interpreter_stack() and all(a.is_cpu for a in arrays)


def _run_in_numpy(task: Task, arrays: Sequence[Any], *, summed: bool) -> tuple[Any, ...]:
    """Run a task of tensors that NumPy can read, its `arrays` but for None; of the first result the sum, if asked."""
    if not _may_differentiate(arrays):
        return _tensors(IN_NUMPY.run(_in_numpy(task, task.arrays)), summed=summed)
    if not task.has_derivative:
        results = task.at_once()
        return (BACKEND.total(task.xp, results[0]), *results[1:]) if summed else results
    attached: tuple[Any, ...] = _without_binding(_InNumPy)(task.emptied(), summed, *task.arrays)
    return attached


def _without_binding(function: Any) -> Any:
    """Its `apply` but for a look at the signature of `forward`, which takes longer than all the rest.

    That is all there is in it where no transform is active.
    """
    return super(torch.autograd.Function, function).apply


def _tensors(results: tuple[Any, ...], *, summed: bool) -> tuple[Any, ...]:
    """Results in NumPy as tensors; of the first the sum, if asked."""
    if summed:
        results = (np.asarray(IN_NUMPY.total(np, results[0])), *results[1:])
    return tuple(map(_from_numpy, results))


def _in_numpy(task: Task, arrays: Sequence[Any]) -> Task:
    """The task of these tensors, which NumPy can read, in NumPy."""
    count, values = len(task.rows), tuple(map(_to_numpy, arrays[: len(task.arrays)]))
    return Task(task.kernel, np, _numpys(task.options), values[:count], values[count:], task.lead)


def _computed(task: Any, compute: Any) -> tuple[Any, ...]:
    """What `compute` makes of a linear task: in NumPy, if that can read its tensors and nobody differentiates it."""
    arrays = [a for a in task.arrays if a is not None]
    if _may_differentiate(arrays) or not _are_numpys(arrays):
        return compute(task)  # type: ignore[no-any-return]
    task = replace(task.filled([*map(_to_numpy, task.arrays)]), xp=np, options=_numpys(task.options))
    with np.errstate(all="ignore"), torch.autocast("cpu", enabled=False):  # which would choose the products' dtype
        return tuple(None if a is None else _from_numpy(a) for a in compute(task))


@lru_cache(16)
def _share(dtype: Any, shape: tuple[int, ...], parts: float) -> Any:
    with torch.inference_mode(False):  # a tensor of that mode could not be saved for a backward pass
        return torch.full((), 1.0 / parts, dtype=dtype, device="cpu").expand(shape)


@lru_cache
def _numpys(options: Any) -> Any:
    return options._replace(dtype=getattr(np, str(options.dtype).rpartition(".")[2]), backend=IN_NUMPY)


class _Memory:
    """A tensor's memory as NumPy takes it.

    `Tensor.numpy` would mark the storage as one that is not to be resized.
    """

    __slots__ = ("__array_interface__", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor  # keeps the memory alive
        size = tensor.itemsize
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "typestr": _TYPES[tensor.dtype],
            "data": (tensor.data_ptr() or size, False),  # of no elements: NumPy 2.1 takes no null pointer
            "strides": None if tensor.is_contiguous() else tuple([size * step for step in tensor.stride()]),
        }


_TYPES = {torch.bfloat16: np.dtype("uint16").str} | {  # of the type V2, NumPy 2.1.0 makes no array: the process ends
    getattr(torch, name): np.dtype(name).str
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}


def _to_numpy(array: Any) -> Any:
    """The NumPy array in a tensor's memory, or of its values where they are not in memory as they are."""
    if array is None:
        return None
    if array.is_neg() or array.is_conj() or array._is_zerotensor():
        array = torch.zeros_like(array).add(array)
    found = np.asarray(_Memory(array))
    return found.view(BFLOAT16) if array.dtype == torch.bfloat16 else found


def _from_numpy(array: Any) -> Any:
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def is_autocast(tensor: torch.Tensor) -> bool:
    """Whether PyTorch now chooses the dtypes of products where `tensor` lies."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _may_differentiate(arrays: Sequence[Any]) -> bool:
    """Whether a derivative with respect to one of them may be asked for."""
    if torch.is_grad_enabled() and any(a.requires_grad for a in arrays):
        return True
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or any(map(_is_transformed, arrays))


def _is_transformed(array: Any) -> bool:
    """Whether `array` is one of a transform of torch.func, or of autograd's batched gradients."""
    return is_functorch_wrapped_tensor(array) or is_legacy_batchedtensor(array)


def _transforms() -> list[Any]:
    """The kinds of the active transforms of torch.func."""
    return [interpreter.key() for interpreter in get_interpreter_stack() or ()]


def _may_attach() -> bool:
    """Whether an autograd.Function is right here.

    Not under two transforms of forward mode, where its derivative would be 0, nor compiled inside any transform, where
    the compiler does not ask for its rules, and differentiates its backward pass no more; nor in `torch.jit.trace`,
    which would record a call of it.
    """
    if _is_tracing():
        return False
    kinds = _transforms()
    return not kinds if torch.compiler.is_compiling() else kinds.count(TransformType.Jvp) < 2


def _can_be_compiled() -> bool:
    """Whether PyTorch compiles products inside the active transforms: not in forward mode twice, or in three vmaps."""
    kinds = _transforms()
    forward = kinds.count(TransformType.Jvp)
    return forward == 0 or (forward == 1 and kinds.count(TransformType.Vmap) < 3)


def _is_tracing() -> bool:
    """Whether `torch.jit.trace` or an exporter records operations."""
    return torch._C._get_tracing_state() is not None


def _is_transforming() -> bool:
    """Whether a transform of torch.func is active."""
    return bool(_transforms())


def _is_run_as_recorded() -> bool:
    """Whether a compiler records operations and runs them as they are: `torch.compile` with the backend "eager".

    Then a second derivative of the compiled function may be asked for. Other backends refuse it.
    """
    from torch._dynamo.symbolic_convert import tls  # noqa: PLC0415  (slow to import)

    compiler = tls.current_tx.output.compiler_fn if hasattr(tls, "current_tx") else None
    return getattr(compiler, "_compiler_name", None) == "eager"


# What torch.compiler.assume_constant_result does after importing the compiler, which takes seconds.
_may_attach._dynamo_marked_constant = True  # type: ignore[attr-defined]
_can_be_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]
_is_tracing._dynamo_marked_constant = True  # type: ignore[attr-defined]
_is_transforming._dynamo_marked_constant = True  # type: ignore[attr-defined]
_is_run_as_recorded._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Compiled(torch.autograd.Function):
    """A kernel with its analytic derivative with respect to the first array, and autograd's in the others.

    Saves its inputs and nothing else. Of what is `summed`, the first result is the sum; see `_InNumPy`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(empty: Task, summed: bool, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
        return _filled(empty, (a, b, c, d, e, f)).at_once()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.empty, ctx.summed, *arrays = inputs
        ctx.save_for_backward(*arrays)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        if not (torch.compiler.is_compiling() and _is_run_as_recorded()):
            return None, None, *_pulled(ctx, ctx.saved_tensors, cotangents, BACKEND)
        with torch.enable_grad():  # which is recorded as well: autograd differentiates what has been recorded
            return None, None, *_pulled(ctx, ctx.saved_tensors, cotangents, FORMULAS)


def _pulled(ctx: Any, arrays: Sequence[Any], cotangents: Sequence[Any], backend: Any) -> list[Any]:
    """The cotangents of the arrays of a `_Compiled`, computed by that backend; None for those that nobody needs."""
    found: list[Any] = [None] * len(arrays)
    if any(c is not None for c in cotangents):
        task = _filled(replace(ctx.empty, options=ctx.empty.options._replace(backend=backend)), arrays)
        if ctx.needs_input_grad[2]:
            found[0] = task.vjp(tuple(cotangents))
        others = [i for i in range(1, len(arrays)) if ctx.needs_input_grad[i + 2]]
        if others:
            given = [arrays[i] for i in others]
            # What may be read has formulas of its own, of which autograd makes 0 times infinity.
            linear = replace(task, options=task.options._replace(backend=FORMULAS)).partial(others)
            for i, cotangent in zip(others, _pulled_by_autograd(linear, given, cotangents), strict=True):
                found[i] = cotangent
    return found


def _pulled_by_autograd(function: Any, arrays: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[Any]:
    """The cotangents of arrays of which `function` makes results; None for one of the results' is 0."""
    if torch.compiler.is_compiling() or get_interpreter_stack() or any(map(_is_transformed, arrays)):
        results, pull = _vjp(function, *arrays)
        whole = (torch.zeros_like(r) if c is None else c for r, c in zip(results, cotangents, strict=True))
        return pull(tuple(whole))  # type: ignore[no-any-return]
    # `torch.func` refuses to run in hooks for saved tensors, which may be there for the whole of a training step.
    with torch.enable_grad():
        arrays = [a.view_as(a) for a in arrays]
        pairs = [
            (r, c) for r, c in zip(function(*arrays), cotangents, strict=True) if c is not None and r.requires_grad
        ]
    results, cotangents = zip(*pairs, strict=True)
    options = {"create_graph": torch.is_grad_enabled(), "materialize_grads": True}
    return torch.autograd.grad(results, arrays, cotangents, **options)


class _Eager(_Compiled):
    """With forward mode, and blocks of rows."""

    @staticmethod
    def forward(empty: Task, summed: bool, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
        return BACKEND.compute(_filled(empty, (a, b, c, d, e, f)))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _Compiled.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def jvp(ctx: Any, *inputs: Any) -> Any:
        tangents = inputs[2:]
        arrays = ctx.saved_tensors
        task = _filled(ctx.empty, arrays)
        found = None if tangents[0] is None else task.jvp(tangents[0])[1]
        others = [i for i in range(1, len(arrays)) if tangents[i] is not None]
        if others:
            # Forward mode does not nest here: transposing the transpose is the same.
            results, pull = _vjp(task.partial(others), *(arrays[i] for i in others))
            _, push = _vjp(pull, tuple(map(torch.zeros_like, results)))
            (more,) = push(tuple(tangents[i] for i in others))
            found = more if found is None else tuple(map(torch.add, found, more))
        return found


class _InNumPy(_Eager):
    """Of tensors that NumPy can read: in NumPy from beginning to end, where no second derivative may be asked for.

    Saves, beside its inputs, the gradient, if it is that of a sum and of at most `GRADIENT_BYTES`, and nothing else may
    be asked for; otherwise what `Task.run_and_keep` keeps.
    """

    @staticmethod
    def forward(ctx: Any, empty: Task, summed: bool, *arrays: Any) -> Any:  # type: ignore[override]  # with the context
        ctx.empty, ctx.summed = empty, summed
        task = _in_numpy(empty, arrays)
        first, *others = ctx.needs_input_grad[2:]
        is_small = task.rows[0].nbytes <= GRADIENT_BYTES
        ctx.has_gradient = is_small and summed and task.kernel is loss and first and not any(others)
        if ctx.has_gradient:
            losses, gradient = task.run(loss_and_grad, task.rows)
            results, kept = (losses,), (gradient,)
        else:
            results, kept = task.run_and_keep()
        ctx.save_for_backward(*arrays, *map(_from_numpy, kept))
        ctx.save_for_forward(*arrays)
        ctx.set_materialize_grads(False)
        return _tensors(results, summed=summed)

    setup_context = staticmethod(torch.autograd.Function.setup_context)  # none: `forward` takes the context

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        first, *others = cotangents
        needed = ctx.needs_input_grad
        saved = ctx.saved_tensors
        arrays, kept = saved[: len(needed) - 2], saved[len(needed) - 2 :]
        is_first = needed[2] and not any(needed[3:]) and ctx.empty.kernel is loss and first is not None
        if is_first and not (torch.is_grad_enabled() or forward_ad._current_level >= 0) and _are_numpys((first,)):
            found = _times(kept[0], first) if ctx.has_gradient else None
            if found is None:
                task = _in_numpy(ctx.empty, arrays)
                with np.errstate(all="ignore"):
                    kept = () if ctx.has_gradient else tuple(map(_to_numpy, kept))
                    found = _from_numpy(task.vjp((_to_numpy(first),), kept))
            return None, None, found, *[None] * (len(arrays) - 1)
        if first is not None and ctx.summed:
            first = first.expand(ctx.empty.lead)
        return None, None, *_pulled(ctx, arrays, (first, *others), BACKEND)

    @staticmethod
    def jvp(ctx: Any, *inputs: Any) -> Any:
        first, *others = _Eager.jvp(ctx, *inputs)
        return BACKEND.total(torch_namespace, first) if ctx.summed else first, *others


def _times(gradient: Any, c: Any) -> Any:
    """The gradient of a sum times the sum's cotangent c, in a tensor of its own; None where digits would be lost.

    That is where it has been rounded to half precision, and where c lifts numbers below the smallest normal one.
    """
    if c == 1:
        return gradient.clone() if _is_graph_kept() else gradient
    is_exact = gradient.dtype == c.dtype and 0 < abs(c) <= 1  # and where c is 0, no row counts
    return _from_numpy(np.multiply(_to_numpy(gradient), _to_numpy(c))) if is_exact else None


def _is_graph_kept() -> bool:
    """Whether the backward pass that runs now may run again, with the same saved tensors."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


class _Linear(torch.autograd.Function):
    """A linear layer and its loss, with the analytic derivative in the layer, and autograd's in the others."""

    @staticmethod
    def forward(ctx: Any, empty: Any, *arrays: Any) -> Any:
        task = empty.filled(arrays)
        ctx.empty = empty
        if task.recompute:
            ctx.save_for_backward(*arrays)
            return _whole(BACKEND.linear(task))
        wanted = [ctx.needs_input_grad[i + 1] for i in task.LAYER]
        losses, *gradients = _computed(task, lambda task: task.losses_and_gradients(*wanted, rounded=False))
        ctx.save_for_backward(*arrays, *gradients)
        return _whole(task.reduced(losses))

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        (c,), saved, needed = cotangents, ctx.saved_tensors, ctx.needs_input_grad[1:]
        arrays, gradients = saved[: len(needed)], saved[len(needed) :]
        task = ctx.empty.filled(arrays)
        found: list[Any] = [None] * len(arrays)
        if not torch.is_grad_enabled():  # nobody differentiates this
            if gradients and BACKEND.is_computed(c):
                gradients = _scaled(gradients, c, arrays)
            else:
                hidden, labels, a, *shared = arrays
                scaled = task.filled((hidden, labels, torch.where(a == 0, a, a * c), *shared))
                wanted = [needed[i] for i in task.LAYER]
                gradients = _computed(scaled, lambda task: task.losses_and_gradients(*wanted))[1:]
            for i, gradient in zip(task.LAYER, gradients, strict=True):
                found[i] = gradient
        others = [i for i, is_needed in enumerate(needed) if is_needed and found[i] is None]
        if others:
            given = [arrays[i] for i in others]
            for i, cotangent in zip(others, _pulled_by_autograd(task.partial(others), given, cotangents), strict=True):
                found[i] = cotangent
        return None, *found


def _whole(result: Any) -> Any:
    """A result that is no view of another tensor, which nobody could write to in place, as by ``loss /= steps``."""
    return result.clone() if result._is_view() else result


def _scaled(gradients: Sequence[Any], c: Any, arrays: Sequence[Any]) -> list[Any]:
    """The saved gradients in a layer times the cotangent of the sum; 0 where none counts.

    They are written to, unless the graph is kept, and with it what it has saved.
    """
    layer, is_kept = [arrays[i] for i in LinearTask.LAYER], _is_graph_kept()
    if c.is_cpu and c == 1:
        return [None if g is None else g.to(a.dtype, copy=is_kept) for g, a in zip(gradients, layer, strict=True)]
    is_counted = arrays[2] != 0
    factors = [torch.where(is_counted, c, 1.0).unsqueeze(-1), *[torch.where(is_counted.any(), c, 1.0)] * 2]
    return [
        None if g is None else (g * factor if is_kept else g.mul_(factor)).to(a.dtype)
        for g, factor, a in zip(gradients, factors, layer, strict=True)
    ]


def _filled(empty: Task, arrays: Sequence[Any]) -> Task:
    return empty.filled(arrays[: len(empty.arrays)])


class _Formulas(Torch):
    """The formulas as they are, to be differentiated operation by operation."""

    def is_readable(self, array: Any) -> bool:
        return False

    def run(self, task: Task) -> tuple[Any, ...]:
        return task.at_once()


IN_NUMPY = _NumPy()
BACKEND = Torch()
FORMULAS = _Formulas()
