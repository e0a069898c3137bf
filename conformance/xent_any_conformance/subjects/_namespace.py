"""The record of a library that published none: only what the standard says of any."""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import array_api_compat
import numpy as np

from xent_any import Backend

NUMBERS = {
    "bool": (bool, "bool"),
    "signed integer": (int, "int64"),
    "unsigned integer": (int, "uint64"),
    "real floating": (float, "float64"),
}


class Namespace(Backend):
    """A namespace of the Array API standard, with conversions that need nothing else."""

    def __init__(self, namespace: Any) -> None:
        self.name = str(getattr(namespace, "__name__", type(namespace).__name__))
        self.version = _version(namespace, self.name.partition(".")[0])
        # The core asks the arrays, which may know a wrapped namespace that is nearer to the standard.
        self._namespace = array_api_compat.array_namespace(namespace.asarray([0.0]))

    def namespace(self) -> Any:
        return self._namespace

    def devices(self) -> Sequence[Any]:
        """The default device first; [None] where the library says nothing of devices."""
        info = getattr(self._namespace, "__array_namespace_info__", None)
        if info is None:
            return [None]
        default = info().default_device()
        others = [device for device in info().devices() or [None] if device != default]
        return others if default is None else [default, *others]

    def dtypes(self, device: Any) -> Sequence[str]:
        if hasattr(self._namespace, "__array_namespace_info__"):
            return super().dtypes(device)
        return [name for name in ("float32", "float64") if hasattr(self._namespace, name)]

    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        """An array of nested lists, which every library takes; of no elements they would not tell the shape."""
        values = np.asarray(values)
        options = {"dtype": getattr(self._namespace, dtype)} | ({} if device is None else {"device": device})
        if values.size == 0:
            return self._namespace.zeros(values.shape, **options)
        return self._namespace.asarray(values.tolist(), **options)

    def to_numpy(self, array: Any) -> Any:
        """A copy, by DLPack or the array protocol where the library has one, otherwise number by number."""
        for device in (None, "cpu"):
            try:
                return np.from_dlpack(array, device=device).copy()
            except Exception:  # noqa: BLE001  (each library refuses in its own way)
                continue
        if hasattr(array, "__array__"):
            return np.array(array)
        kind = next(kind for kind in NUMBERS if self._namespace.isdtype(array.dtype, kind))
        number, dtype = NUMBERS[kind]
        result = np.empty(array.shape, dtype)
        for index in np.ndindex(*array.shape):
            result[index] = number(array[index])
        return result


def _version(namespace: Any, package: str) -> str:
    """That of the distribution named like the package, or what the namespace or the package says itself."""
    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(namespace, "__version__", getattr(sys.modules.get(package), "__version__", "unknown")))
