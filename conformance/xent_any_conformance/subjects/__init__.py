"""What can be certified: the functions of `xent_any` on the arrays of one library, made and laid out in one way.

Each subject runs in a process of its own, which imports only that subject's library.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest

import xent_any
from xent_any import Backend
from xent_any._registry import backend_of

from ._namespace import Namespace

TABLE: Mapping[str, tuple[str, str]] = {
    "numpy": ("numpy", "numpy"),
    "numpy-readonly": ("numpy", "numpy"),
    "numpy-strided": ("numpy", "numpy"),
    "numpy-reference": ("numpy", "numpy"),
    "array_api_strict": ("array_api_strict", "strict"),
    "array_api_strict-device1": ("array_api_strict", "strict"),
    "array_api_strict-device2": ("array_api_strict", "strict"),
    "array_api_strict-no_float64": ("array_api_strict", "strict"),
    "array_api_strict-no_x64": ("array_api_strict", "strict"),
    "torch": ("torch", "torch"),
    "torch-default-float64": ("torch", "torch"),
    "torch-meta": ("torch", "torch"),
    "torch-reference": ("torch", "torch"),
    "torch-cuda": ("torch", "torch"),
    "torch-mps": ("torch", "torch"),
    "jax": ("jax", "jax"),
    "jax-x32": ("jax", "jax"),
    "jax-jit": ("jax", "jax"),
    "jax-reference": ("jax", "jax"),
    "jax-cuda": ("jax", "jax"),
    "cupy": ("cupy", "cupy"),
    "dask-rows": ("dask", "dask"),
    "dask-classes": ("dask", "dask"),
    "mlx": ("mlx", "mlx"),
    "ndonnx": ("ndonnx", "ndonnx"),
    "ndonnx-onnxruntime": ("onnxruntime", "ndonnx"),
    "mparray": ("mparray", "mparray"),
    "peer-torch": ("torch", "peers"),
    "peer-optax": ("optax", "peers"),
    "peer-scipy": ("scipy", "peers"),
    "peer-sklearn": ("sklearn", "peers"),
}
"""Every subject of ours: its name, the module that it needs, and the file beside this one that loads it."""

SLOW = ("mparray", "ndonnx", "ndonnx-onnxruntime", "dask-rows", "dask-classes")
"""They compute number by number, or build a model or a graph for each call: they are always given the quick run's
problems."""

COSTLY = ("ndonnx", "jax", "mparray", "dask")
"""Libraries that compile or plan each call, the longest first, as measured: a run starts with them."""

HALF = ("float16", "bfloat16")


class UnusableError(Exception):
    """Why a subject cannot be certified here."""


@dataclass(frozen=True)
class Subject:
    """An implementation of cross-entropy on the arrays of one library.

    Called with a NumPy array or nested list it makes an array of its own; `numpy` is the way back.
    """

    name: str
    backend: Backend  # its record: dtypes, transforms, deviations, how arrays are made
    device: Any
    functions: Any = xent_any  # where cross_entropy and the others are found
    has_values: bool = True  # False where arrays are shapes alone
    compiled: bool = False  # whether the functions see traced arrays
    peer: bool = False  # another library's own function: it is measured, and need not pass
    deviations: Mapping[str, Any] | None = None  # by default those of the backend
    compiling: Callable[[], AbstractContextManager[Any]] = (
        nullcontext  # where kernels run that compilers alone are given
    )
    _held: dict[str, bool] = field(default_factory=dict, repr=False)

    @property
    def slow(self) -> bool:
        """Whether it is given the quick run's problems always."""
        return self.name in SLOW

    @property
    def costly(self) -> bool:
        """Whether checks of many small problems are given fewer of them."""
        return self.name.partition("-")[0] in COSTLY

    @property
    def declared(self) -> Mapping[str, tuple[str, Any]]:
        """The ids of the checks that are known not to hold, why, and the errors that this shows in."""
        given = self.backend.deviations if self.deviations is None else self.deviations
        shows = AssertionError, pytest.fail.Exception
        return {id_: (why, shows) if isinstance(why, str) else why for id_, why in given.items()}

    @property
    def xp(self) -> Any:
        """The namespace of its arrays."""
        return self.backend.namespace()

    @property
    def dtypes(self) -> list[str]:
        """The names of its real floating dtypes."""
        return list(self.backend.dtypes(self.device))

    @property
    def precisions(self) -> list[str]:
        """The names of those of its dtypes that are computed in as they are."""
        return [dtype for dtype in ("float32", "float64") if dtype in self.dtypes]

    def holds(self, dtype: str) -> bool:
        """Whether its arrays can have the dtype of that name; of a dtype that it lists, an error is raised."""
        if dtype not in self._held:
            try:
                self._held[dtype] = self.dtype(self.backend.asarray(np.asarray([1]), dtype, self.device)) == dtype
            except Exception:
                if self.lists(dtype):
                    raise
                self._held[dtype] = False
            if self.lists(dtype) and not self._held[dtype]:
                raise TypeError(f"asarray: expected an array of the listed dtype {dtype}, got another one")
        return self._held[dtype]

    def lists(self, dtype: str) -> bool:
        """Whether the library says that it has the dtype on this device."""
        try:
            return dtype in self.xp.__array_namespace_info__().dtypes(device=self.device)
        except (AttributeError, TypeError):  # no such function, or another's signature
            return hasattr(self.xp, dtype)

    def reads(self, array: Any) -> bool:
        """Whether wrong values of `array` are to raise; elsewhere they are NaN."""
        if self.compiled or not self.has_values:
            return False
        # The core's own answer: of a library without an adapter, whatever its record says here, it reads nothing.
        cls: Any = type(array)
        return backend_of(cls).readable(array) is not None

    def __call__(self, values: Any, dtype: str | None = None) -> Any:
        """An array of `values`; without `dtype` of the widest real or integer dtype there is, as the values are."""
        values = np.asarray(values)
        if dtype is None:
            dtype = values.dtype.name
            if dtype == "float64" and dtype not in self.dtypes:
                dtype = "float32"
            if dtype == "int64" and not self.holds(dtype):
                dtype = "int32"
        elif not (dtype in self.dtypes or self.holds(dtype)):
            pytest.skip(f"no {dtype} here")
        return self.backend.asarray(np.array(values, order="C"), dtype, self.device)

    def dtype(self, array: Any) -> str:
        """The name of the dtype of one of its arrays."""
        return dtype_name(array.dtype)

    def numpy(self, array: Any) -> Any:
        """The same values as a NumPy array, in float32 for half precision."""
        if not self.has_values:
            pytest.skip("arrays without values: only shapes, dtypes and errors can be checked")
        if self.dtype(array) in HALF:
            array = self.xp.astype(array, self.xp.float32)
        return np.asarray(self.backend.to_numpy(array))

    def is_where(self, array: Any) -> bool:
        """Whether an array lies on this subject's device."""
        made = self.backend.device(self([1.0], "float32"))
        return made is None or self.backend.device(array) in (None, made)


def dtype_name(dtype: Any) -> str:
    """The standard's name of a dtype of any library."""
    return str(getattr(dtype, "__name__", dtype)).rpartition(".")[2].lower()


def load(name: str) -> Subject:
    """The subject of that name in `TABLE`, or of a stranger: ``module``, ``module:attribute`` or an entry point.

    The attribute is an `xent_any.Backend`, or a namespace of the Array API standard; without one, it is the module
    or its ``BACKEND``.

    Raises
    ------
    UnusableError
        If it cannot be used here; says why.
    """
    if name in TABLE:
        needs, file = TABLE[name]
        if importlib.util.find_spec(needs) is None:
            raise UnusableError(f"{needs} is not installed")
        subject: Subject = importlib.import_module(f"{__name__}._{file}").load(name)
        return subject
    published = {entry.name: entry for entry in entry_points(group="xent_any.backends")}
    if name in published:
        return _of(published[name].load(), name)
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UnusableError(f"{error}; expected one of {', '.join(TABLE)}, or module:attribute") from error
    for part in filter(None, attribute.split(".")):
        if not hasattr(found, part):
            raise UnusableError(f"{module} has no {attribute}")
        found = getattr(found, part)
    return _of(getattr(found, "BACKEND", found), name)


def _of(found: Any, name: str) -> Subject:
    if isinstance(found, Subject):
        return found
    if not isinstance(found, Backend):
        if not hasattr(found, "asarray"):
            kind = type(found).__name__
            raise UnusableError(f"{name}: expected an xent_any.Backend or a namespace of the Array API, got {kind}")
        found = Namespace(found)
    try:
        device = found.devices()[0]
    except Exception as error:
        raise UnusableError(f"{name}: {type(error).__name__}: {error}") from error
    return Subject(name, found, device)


def names(libraries: Sequence[str]) -> list[str]:
    """The subjects to certify: those so named, those of a library so named; by default all there are.

    NAME-reference, which tells about our own tuned kernels, is none of a library.
    """
    if not libraries:
        third = [
            e.name for e in entry_points(group="xent_any.backends") if not e.value.startswith("xent_any_backends.")
        ]
        return [*TABLE, *sorted(third)]
    chosen: list[str] = []
    for given in libraries:
        ours = [name for name in TABLE if name.partition("-")[0] == given and not name.endswith("-reference")]
        chosen += ours or [given]
    return list(dict.fromkeys(chosen))
