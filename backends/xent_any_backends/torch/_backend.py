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


class Torch(Backend):
    name = "torch"
    version = torch.__version__
    block_bytes = 1 << 22  # on other devices than the CPU, and not measured there
    transforms = {
        "grad": torch.func.grad,
        "vmap": torch.func.vmap,
        "jvp": lambda f, x, tangent: torch.func.jvp(f, (x,), (tangent,))[1],
    }

    def namespace(self) -> Any:
        return torch_namespace

    def namespace_of(self, array: Any) -> Any:
        return torch_namespace

    def devices(self) -> Sequence[Any]:
        cuda = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        mps = [torch.device("mps")] if torch.backends.mps.is_available() else []
        return [torch.device("cpu"), *cuda, *mps]

    def dtypes(self, device: Any) -> Sequence[str]:
        return [*super().dtypes(device), "float16", "bfloat16"]

    def to_numpy(self, array: Any) -> Any:
        return array.detach().cpu().numpy()

    def share(self, xp: Any, like: Any, dtype: Any, shape: tuple[int, ...], parts: float) -> Any:
        if torch.compiler.is_compiling():
            return super().share(xp, like, dtype, shape, parts)
        if _are_numpys((like,)) and not torch._C._len_torch_dispatch_stack():
            return _share(dtype, shape, parts)
        return torch.full((), 1.0 / parts, dtype=dtype, device=like.device).expand(shape)

    def all_below(self, xp: Any, a: Any, stop: int) -> bool:
        return IN_NUMPY.all_below(np, a.numpy(), stop) if _are_numpys((a,)) else super().all_below(xp, a, stop)

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
        few = a.numel() <= 512
        if torch.compiler.is_compiling() or not a.is_cpu or not (few or a.dtype == torch.float32):
            return super().total(xp, a)
        if few:
            return a.sum()
        if _are_numpys((a,)) and not _may_differentiate((a,)):
            # The threads of an operation of PyTorch's wait some ms for more to do, in the way of NumPy's.
            return _from_numpy(np.asarray(IN_NUMPY.total(np, a.numpy())))
        return a.sum(dtype=torch.float64).to(a.dtype)

    def are_known(self, xp: Any, a: Any) -> bool:
        if not _are_numpys((a,)):
            return super().are_known(xp, a)
        return IN_NUMPY.are_known(np, a.detach().numpy())

    def run(self, task: Task) -> tuple[Any, ...]:
        if not task.lead:  # one row becomes a batch of one: forward mode gives numbers of no dimensions another dtype
            rows = tuple(None if a is None else a.unsqueeze(0) for a in task.rows)
            return tuple(r.squeeze(0) for r in self.run(replace(task, rows=rows, lead=(1,))))
        arrays = [a for a in task.arrays if a is not None]
        if _are_numpys(arrays):
            return _run_in_numpy(task, arrays, summed=False)
        if not _may_differentiate(arrays):
            return self.compute(task)
        if not task.has_derivative or not _may_attach():
            return task.at_once()
        a, b, c, d, e = (*task.arrays, *(None,) * 5)[:5]  # Dynamo cannot bind *arrays
        if torch.compiler.is_compiling():
            apply = _Compiled.apply
        elif not _are_plain(arrays) or get_interpreter_stack():
            apply = _Eager.apply
        else:
            apply = _without_binding(_Eager)
        results: tuple[Any, ...] = apply(task.emptied(), None, a, b, c, d, e)  # type: ignore[no-untyped-call]
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
            # A compiler would fuse the blocks again, and batched gradients have no rule for concat.
            if torch.compiler.is_compiling() or any(is_legacy_batchedtensor(a) for a in task.arrays if a is not None):
                return tuple(step(totals, task.rows))
            return super().scan(task, step, totals)
        return scan_in_place(task, step, totals, None)

    def widened(self, xp: Any, weight: Any, dtype: Any) -> Any:
        return weight if self.is_computed(weight) else super().widened(xp, weight, dtype)

    def affine(self, xp: Any, hidden: Any, weight: Any, bias: Any, dtype: Any) -> Any:
        if not self.is_computed(hidden, weight, bias):
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
        if weight.dtype == g.dtype:
            return (g @ weight).to(torch.promote_types(g.dtype, torch.float32))
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
    if torch.compiler.is_compiling():
        return False
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:  # make_fx records operations
        return False
    return PLAIN.issuperset(map(type, arrays)) and not any(map(_is_transformed, arrays))


def _are_numpys(arrays: Sequence[Any]) -> bool:
    """Whether NumPy computes with these."""
    return _are_plain(arrays) and not get_interpreter_stack() and all(a.is_cpu for a in arrays)


class _Call:
    """One call of `_InNumPy`: whether the first result is to be its sum, and what is kept for the backward pass.

    Of a sum that is the gradient, if it is of at most `GRADIENT_BYTES`, and nothing else may be asked for; else what
    `Task.run_and_keep` keeps.
    """

    def __init__(self, task: Task, *, summed: bool) -> None:
        first, *others = (a is not None and a.requires_grad for a in task.arrays)
        self.summed = summed
        is_small = task.rows[0].nbytes <= GRADIENT_BYTES
        self.keeps_gradient = is_small and summed and task.kernel is loss and first and not any(others)
        self.kept: tuple[Any, ...] = ()
        self.gradients: list[Any] = []

    def run(self, task: Task) -> tuple[Any, ...]:
        """Run the task, which is in NumPy, and keep what is to be kept."""
        if self.keeps_gradient:
            losses, gradient = task.run(loss_and_grad, task.rows)
            self.gradients.append(gradient)
            return (losses,)
        results, self.kept = task.run_and_keep()
        return results

    def gradient(self, c: Any) -> Any:
        """The kept gradient times the cotangent c, for the first who asks; None for others, and where digits are lost.

        That is where it has been rounded to half precision, and where c lifts numbers below the smallest normal one.
        """
        try:
            gradient = self.gradients.pop()
        except IndexError:
            return None
        if c == 1:
            return gradient
        is_exact = gradient.dtype == c.dtype and 0 < abs(c) <= 1  # and where c is 0, no row counts
        return np.multiply(gradient, c, out=gradient) if is_exact else None


def _run_in_numpy(task: Task, arrays: Sequence[Any], *, summed: bool) -> tuple[Any, ...]:
    """Run a task of tensors that NumPy can read, its `arrays` but for None; of the first result the sum, if asked."""
    if not _may_differentiate(arrays):
        return _tensors(IN_NUMPY.run(_in_numpy(task, task.arrays)), summed=summed)
    if not task.has_derivative:
        results = task.at_once()
        return (BACKEND.total(task.xp, results[0]), *results[1:]) if summed else results
    a, b, c, d, e = (*task.arrays, *(None,) * 5)[:5]
    attached: tuple[Any, ...] = _without_binding(_InNumPy)(task.emptied(), _Call(task, summed=summed), a, b, c, d, e)
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


def _to_numpy(array: Any) -> Any:
    if array is None:
        return None
    if array.dtype == torch.bfloat16:
        return array.view(torch.uint16).numpy(force=True).view(BFLOAT16)
    return array.numpy(force=True)


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


def _may_attach() -> bool:
    """Whether an autograd.Function is right here.

    Not under two transforms of forward mode, where its derivative would be 0, nor under a compiled vmap, which does not
    ask for its rule.
    """
    kinds = [interpreter.key() for interpreter in get_interpreter_stack() or ()]
    if torch.compiler.is_compiling():
        return TransformType.Vmap not in kinds
    return kinds.count(TransformType.Jvp) < 2


def _is_transforming() -> bool:
    """Whether a transform of torch.func is active."""
    return bool(get_interpreter_stack())


# What torch.compiler.assume_constant_result does after importing the compiler, which takes seconds.
_may_attach._dynamo_marked_constant = True  # type: ignore[attr-defined]
_is_transforming._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Compiled(torch.autograd.Function):
    """A kernel with its analytic derivative with respect to the first array, and autograd's in the others.

    Saves its inputs and nothing else.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(empty: Task, call: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
        return _filled(empty, (a, b, c, d, e)).at_once()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.empty, ctx.call, *arrays = inputs
        ctx.save_for_backward(*arrays)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        arrays = ctx.saved_tensors
        found = [None] * len(arrays)
        if any(c is not None for c in cotangents):
            task = _filled(ctx.empty, arrays)
            if ctx.needs_input_grad[2]:
                found[0] = task.vjp(cotangents)
            others = [i for i in range(1, len(arrays)) if ctx.needs_input_grad[i + 2]]
            if others:
                results, pull = _vjp(task.partial(others), *(arrays[i] for i in others))
                whole = (torch.zeros_like(r) if c is None else c for r, c in zip(results, cotangents, strict=True))
                for i, cotangent in zip(others, pull(tuple(whole)), strict=True):
                    found[i] = cotangent
        return None, None, *found


class _Eager(_Compiled):
    """With forward mode, and blocks of rows."""

    @staticmethod
    def forward(empty: Task, call: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
        return BACKEND.compute(_filled(empty, (a, b, c, d, e)))

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

    Keeps what its `_Call` keeps as well.
    """

    @staticmethod
    def forward(empty: Task, call: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
        return _tensors(call.run(_in_numpy(empty, (a, b, c, d, e))), summed=call.summed)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        first, *others = cotangents
        needed = ctx.needs_input_grad
        is_first = needed[2] and not any(needed[3:]) and ctx.empty.kernel is loss and first is not None
        if is_first and not (torch.is_grad_enabled() or forward_ad._current_level >= 0) and _are_numpys((first,)):
            c = _to_numpy(first)
            found = ctx.call.gradient(c)
            if found is None:
                task = _in_numpy(ctx.empty, ctx.saved_tensors)
                with np.errstate(all="ignore"):
                    found = task.vjp((c,), ctx.call.kept)
            return None, None, _from_numpy(found), None, None, None, None
        if first is not None and ctx.call.summed:
            first = first.expand(ctx.empty.lead)
        return _Eager.backward(ctx, first, *others)

    @staticmethod
    def jvp(ctx: Any, *inputs: Any) -> Any:
        first, *others = _Eager.jvp(ctx, *inputs)
        return BACKEND.total(torch_namespace, first) if ctx.call.summed else first, *others


class _Linear(torch.autograd.Function):
    """A linear layer and its loss, with the analytic derivative in the layer, and autograd's in the others."""

    @staticmethod
    def forward(ctx: Any, empty: Any, *arrays: Any) -> Any:
        task = empty.filled(arrays)
        ctx.empty, ctx.gradients = empty, None
        ctx.save_for_backward(*arrays)
        if task.recompute:
            return BACKEND.linear(task)
        wanted = [ctx.needs_input_grad[i + 1] for i in task.LAYER]
        losses, *ctx.gradients = _computed(task, lambda task: task.losses_and_gradients(*wanted, rounded=False))
        return task.reduced(losses)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        (c,), arrays, needed = cotangents, ctx.saved_tensors, ctx.needs_input_grad[1:]
        task = ctx.empty.filled(arrays)
        found: list[Any] = [None] * len(arrays)
        if not torch.is_grad_enabled():  # nobody differentiates this
            gradients, ctx.gradients = ctx.gradients, None  # written to here: whoever comes again has new ones
            if gradients is None or not BACKEND.is_computed(c):
                hidden, labels, a, *shared = arrays
                scaled = task.filled((hidden, labels, torch.where(a == 0, a, a * c), *shared))
                wanted = [needed[i] for i in task.LAYER]
                gradients = _computed(scaled, lambda task: task.losses_and_gradients(*wanted))[1:]
            else:
                gradients = _scaled(gradients, c, arrays)
            for i, gradient in zip(task.LAYER, gradients, strict=True):
                found[i] = gradient
        others = [i for i, is_needed in enumerate(needed) if is_needed and found[i] is None]
        if others:
            _, pull = _vjp(task.partial(others), *(arrays[i] for i in others))
            for i, cotangent in zip(others, pull((c,)), strict=True):
                found[i] = cotangent
        return None, *found


def _scaled(gradients: Sequence[Any], c: Any, arrays: Sequence[Any]) -> list[Any]:
    """The kept gradients in a layer, which may be written to, times the cotangent of the sum; 0 where none counts."""
    layer = [arrays[i] for i in LinearTask.LAYER]
    if c.is_cpu and c == 1:
        return [None if g is None else g.to(a.dtype) for g, a in zip(gradients, layer, strict=True)]
    is_counted = arrays[2] != 0
    factors = [torch.where(is_counted, c, 1.0).unsqueeze(-1), *[torch.where(is_counted.any(), c, 1.0)] * 2]
    return [
        None if g is None else g.mul_(factor).to(a.dtype)
        for g, factor, a in zip(gradients, factors, layer, strict=True)
    ]


def _filled(empty: Task, arrays: Sequence[Any]) -> Task:
    return empty.filled(arrays[: len(empty.arrays)])


IN_NUMPY = _NumPy()
BACKEND = Torch()
