"""The contestants: one table, each library's part in a module of its own, in a few lines for each contestant."""

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .._problems import Array, Inputs, our_options

LOSS, GRADIENT, BACKWARD = "loss", "loss + gradient", "forward then backward"
COMPUTES = (LOSS, GRADIENT, BACKWARD)

MODULES = {
    "_limits": ("numpy", ""),
    "_limits_torch": ("torch", ""),
    "_limits_cupy": ("cupy", ""),
    "_numpy": ("numpy", ""),
    "_scipy": ("scipy", "_numpy"),
    "_sklearn": ("scikit-learn", "_numpy"),
    "_keras": ("keras", "_numpy"),
    "_torch": ("torch", ""),
    "_liger": ("liger-kernel", "_torch"),
    "_quack": ("quack-kernels", "_torch"),
    "_flash": ("flash-attn", "_torch"),
    "_cce": ("cut-cross-entropy", "_torch"),
    "_jax": ("jax", ""),
    "_optax": ("optax", "_jax"),
    "_mlx": ("mlx", ""),
    "_cupy": ("cupy", ""),
}
"""The library that each module is about, by the name of its distribution, and the module with ours on its arrays."""

LIBRARIES = tuple(dict.fromkeys(library for library, _ in MODULES.values()))

BESIDE = ("array-api-compat", "numpy", "jaxlib", "mlx-cpu", "mlx-metal", "triton")
"""Beside the contestants' own libraries, what times may depend on."""


Arrays = Callable[[Inputs], tuple[list[Array], list[Array], Array]]
"""A library's own logits, labels and class weights."""
Bound = Callable[[Inputs, Array], Callable[[Array, Array], Any]]
"""From the inputs and the class weights, a function of logits and labels."""
Prepare = Callable[[Inputs], Callable[[int], Any]]
"""From the inputs, a call; see `Contestant`."""


class Contestant(NamedTuple):
    """A way to compute a problem, as its users write it.

    Attributes
    ----------
    name : str
        The function.
    library : str
        The name of its distribution; ``"xent-any"`` for ours.
    group : str
        Ours and the peers of one group take the same arrays, compiled or not: ours is what they are compared with.
    computes : str
        `LOSS`, `GRADIENT` (both in one call) or `BACKWARD` (the loss, then its gradient, by autodiff).
    prepare : callable
        From `Inputs` to a call with an index: ``call(i)`` solves the problem ``i % len(inputs)`` and returns the mean
        loss, or the loss and its gradient. Raises NotImplementedError with the reason where it cannot.
    wait : callable
        Waits for a result.
    limit : bool
        Computes nothing: it moves the bytes that any contestant must move.
    """

    name: str
    library: str
    group: str
    computes: str
    prepare: Prepare
    wait: Callable[[Any], Any] | None = None
    limit: bool = False

    @property
    def key(self) -> str:
        return f"{self.computes}: {self.group}: {self.library} {self.name}"

    @property
    def ours(self) -> bool:
        return self.library == "xent-any"


def in_turn(arrays: Arrays, bind: Bound) -> Prepare:
    """A function of logits and labels, called on each of the inputs in turn."""

    def prepare(inputs: Inputs) -> Callable[[int], Any]:
        (x, y, weight), n = arrays(inputs), len(inputs)
        function = bind(inputs, weight)
        return lambda i: function(x[i % n], y[i % n])

    return prepare


def our(function: Callable[..., Any]) -> Bound:
    """A function of ours, with the options of the problem."""

    def bind(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
        options = our_options(inputs.problem, weight)
        return lambda x, y: function(x, y, **options)

    return bind


def with_gradient(
    contestant: Contestant, bind: Bound, prepare: Callable[[Bound], Prepare], value_and_grad: Callable[..., Any]
) -> list[Contestant]:
    """A loss alone, and with the gradient that the library's `value_and_grad` adds."""

    def both(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
        return value_and_grad(bind(inputs, weight))  # type: ignore[no-any-return]  # each library's own

    return [
        contestant._replace(computes=LOSS, prepare=prepare(bind)),
        contestant._replace(computes=GRADIENT, prepare=prepare(both)),
    ]


def limit(name: str, library: str, computes: str, arrays: Arrays, move: Callable[[Array], Any]) -> Contestant:
    """A pass over the logits alone."""

    def prepare(inputs: Inputs) -> Callable[[int], Any]:
        x, n = arrays(inputs)[0], len(inputs)
        return lambda i: move(x[i % n])

    return Contestant(name, library, "limit", computes, prepare, limit=True)


def copy_limit(
    library: str, arrays: Arrays, zeros_like: Callable[[Array], Array], copy: Callable[[Array, Array], Any]
) -> Contestant:
    """A copy of the logits into memory that is there already."""

    def prepare(inputs: Inputs) -> Callable[[int], Any]:
        x, n = arrays(inputs)[0], len(inputs)
        out = [zeros_like(x[0]) for _ in range(n)]
        return lambda i: copy(out[i % n], x[i % n])

    return Contestant("copy into memory at hand", library, "limit", GRADIENT, prepare, limit=True)


def load(libraries: Sequence[str] = (), *, limits: bool = True) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that can be had here, and why a library's cannot.

    Parameters
    ----------
    libraries : sequence of str
        Only contestants of these libraries, ours on their arrays, and the limits; by default all.
    limits : bool
        Whether the limits, which are always timed, are wanted.
    """
    found: list[Contestant] = []
    missing = {}
    for module in _modules(libraries, limits):
        try:
            found += importlib.import_module(f"{__name__}.{module}").CONTESTANTS
        except Exception as error:  # noqa: BLE001  (whatever keeps it from being imported is the reason)
            missing[MODULES[module][0]] = reason(error)
    return found, missing


def _modules(libraries: Sequence[str], limits: bool) -> list[str]:
    """Modules with contestants of these libraries, with ours beside them, and with the limits or without."""
    chosen = {m for m, (library, _) in MODULES.items() if library in libraries or not libraries}
    chosen |= {MODULES[m][1] for m in chosen}
    return [m for m in MODULES if (limits if m.startswith("_limits") else m in chosen)]


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, ModuleNotFoundError):
        return f"not installed ({first})"
    return first if isinstance(error, NotImplementedError) else f"{type(error).__name__}: {first}"


def versions() -> dict[str, str]:
    """The versions of the libraries, and of what their times may depend on, that are installed."""
    found = {library: version(library) for library in sorted({*LIBRARIES, *BESIDE})}
    return {library: number for library, number in found.items() if number}


def version(library: str) -> str | None:
    """The version of a distribution, None where it is not installed; CuPy has one for each version of CUDA."""
    for name in ("cupy", "cupy-cuda12x", "cupy-cuda13x") if library == "cupy" else (library,):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
