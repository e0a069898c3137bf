"""The protocol: what the Array API standard cannot say about a framework."""

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import array_api_compat

from ._formulas import Array, Arrays, Kernel, Tuned, cast
from ._linear import LinearTask, Products
from ._task import Task


class Backend:
    """How one framework runs the kernels; the defaults suit any array with ``__array_namespace__``.

    A framework needs an adapter only to gain something. An adapter is an instance of a subclass, published under the
    entry-point group ``xent_any.backends`` by the name of the top-level module that the framework's array type is
    defined in. Its methods are of five kinds.

    * Arrays are made and read, by the conformance kit and `backends`: `namespace`, `devices`, `dtypes`, `asarray`,
      `to_numpy`.
    * Arguments are looked at: `namespace_of`, `takes`, `device`, `readable`, `cache_key`, `is_positive`, `quiet`.
    * Kernels are run, compiled, cut into blocks, differentiated: `run`, `run_layer`.
    * Primitives, where libraries truly differ: `max`, `sum`, `take`, `arange`, `share`.
    * Tuned kernels take the place of kernels of the reference: `kernels`.

    Attributes
    ----------
    name : str
        The framework's name.
    version : str
        The framework's version.
    block_bytes : int or None
        Bytes of logits, in the precision they are computed in, that are computed at a time; None computes all at once.
    products : Products
        The matrix products of a linear layer, and the memory for its blocks.
    kernels : mapping of kernel to Tuned
        Tuned kernels by the kernel of ``xent_any._formulas`` that they compute. A tuned kernel has the same signature
        and returns the same within the bound of accuracy, or None to decline.
    transforms : mapping of str to callable
        The framework's program transformations: ``jit(f)``, ``vmap(f)``, which maps over the first axis of every
        argument, ``grad(f)``, with respect to the first argument, ``jvp(f, x, tangent)``, which returns the
        derivative alone, and ``backward(f, x, cotangents)``, which runs f once and the backward pass once for each
        cotangent, by the framework's own means of training, where ``grad`` is another way.
    deviations : mapping of str to str or (str, type of exception)
        The conformance checks that do not hold, by id, and why; with the error that is raised, where one is.

    Notes
    -----
    `run` is where a framework that differentiates attaches the analytic derivative: it is handed the kernel (say
    ``loss``) and its arrays before anything of the logits' size is computed, and `Task.jvp` and `Task.vjp` are the
    derivatives with respect to the first of them, the logits. They run other kernels on the same backend, so that
    they can be differentiated in turn. In each of the other arrays a kernel is linear: there the framework's own
    autodiff, through `Task.partial`, makes no error but rounding. ``examples/toygrad`` is a whole adapter of this kind.
    """

    name: str = "generic"
    version: str = "unknown"
    block_bytes: int | None = None
    products: Products = Products(1 << 28)
    kernels: Mapping[Kernel, Tuned] = {}
    transforms: Mapping[str, Callable[..., Any]] = {}
    deviations: Mapping[str, str | tuple[str, type[Exception]]] = {}

    def namespace(self) -> Any:
        """Return the namespace that its arrays are made with."""
        raise NotImplementedError(f"the adapter {self.name!r} does not make arrays")

    def devices(self) -> Sequence[Any]:
        """List the devices that arrays can be made on now; raises what the framework raises where there are none."""
        return ["cpu"]

    def dtypes(self, device: Any) -> Sequence[str]:
        """Name the real floating dtypes that arrays on `device` can have; here those of the standard."""
        found = self.namespace().__array_namespace_info__().dtypes(device=device, kind=None)
        return [name for name in ("float32", "float64") if name in found]

    def asarray(self, values: Any, dtype: str, device: Any) -> Array:
        """Make an array of a NumPy array or nested list, of the dtype so named in the standard, on a device."""
        xp = self.namespace()
        return xp.asarray(values, dtype=getattr(xp, dtype), device=device)

    def to_numpy(self, array: Array) -> Any:
        """Make a NumPy array of the same values."""
        raise NotImplementedError(f"the adapter {self.name!r} does not convert to NumPy")

    def namespace_of(self, array: Array) -> Any:
        """Return the namespace that `array` is computed with.

        TypeError where it is not an array; `RefusedError` where it is one that cannot be computed with.
        """
        return array_api_compat.array_namespace(array)

    def takes(self, array: Array) -> bool:
        """Whether the framework's own functions take `array`, which is another library's."""
        return False

    def device(self, array: Array) -> Any:
        """Say where `array` lies; None where it cannot be told."""
        return getattr(array, "device", None)

    def readable(self, array: Array) -> tuple[Any, Array] | None:
        """Return what the values of `array` can be read with now: a namespace, and its array in the same memory.

        None where reading waits for a device, computes something lazy, or is recorded.
        """
        return None

    def is_positive(self, size: int) -> bool:
        """Whether a size is positive, and known to be so before the program is run."""
        return isinstance(size, int) and size > 0

    def cache_key(self, arrays: Collection[Array | None]) -> Hashable:
        """Name types, dtypes, shapes and devices: arrays of the same are checked once. None where they are not.

        That is, of arrays that are traced, or of classes that `namespace_of` may refuse. It may hold none of `arrays`.
        """
        return None

    def quiet(self) -> AbstractContextManager[Any]:
        """Return a context in which results that are not finite neither warn nor raise; here none does."""
        return nullcontext()

    def run(self, task: Task) -> Arrays:
        """Run the task's kernel on its rows, in blocks of them or at once."""
        if self.block_bytes is None or task.row_bytes() * math.prod(task.batch) <= self.block_bytes:
            return task.at_once()
        return task.in_blocks(self.block_bytes)

    def run_layer(self, task: LinearTask) -> Arrays:
        """Run a linear layer's task block by block."""
        return task.at_once()

    def max(self, xp: Any, a: Array) -> Array:
        """Compute the maximum over the last axis, which of NaN is NaN.

        No formula depends on it but by rounding: any derivative of it is right, that of one class keeps most digits.
        """
        return xp.max(a, axis=-1)

    def sum(self, xp: Any, a: Array) -> Array:
        """Sum over the last axis with the error of few roundings, however many elements there are.

        Here by halving: at most 2 log2(n) roundings, and the same bits for every memory layout.
        """
        n, odd = a.shape[-1], None
        if n == 0:
            return xp.sum(a, axis=-1)
        while n > 1:
            if n % 2:
                odd = a[..., -1] if odd is None else odd + a[..., -1]
            n //= 2
            a = a[..., :n] + a[..., n : 2 * n]
        return a[..., 0] if odd is None else a[..., 0] + odd

    def take(self, xp: Any, a: Array, k: Array) -> Array:
        """Take the element of each row of `a`, (*batch, C) or (C,), at the class `k` (*batch)."""
        return xp.sum(xp.where(self.arange(xp, a, a.shape[-1]) == k[..., None], a, 0.0), axis=-1)

    def arange(self, xp: Any, like: Array, stop: int) -> Array:
        """Make ``0, ..., stop - 1`` in the default integer dtype, where `like` lies."""
        device = self.device(like)
        return xp.arange(stop) if device is None else xp.arange(stop, device=device)

    def share(self, xp: Any, like: Array, dtype: Any, shape: tuple[int, ...], parts: float) -> Array:
        """Make ``1 / parts``, where `like` lies: held once for all elements of `shape`."""
        one = cast(xp, xp.reshape(self.arange(xp, like, 1) + 1, ()), dtype)
        return xp.broadcast_to(one if parts == 1 else one / parts, shape)


class RefusedError(TypeError):
    """An array that its library's functions take and ours do not; the message says why, and the way out."""
