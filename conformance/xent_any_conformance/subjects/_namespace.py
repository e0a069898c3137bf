"""The record of a library that published none: only what the standard says of any."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from xent_any import Backend


class Namespace(Backend):
    """A namespace of the Array API standard, with conversions that need nothing else."""

    def __init__(self, namespace: Any) -> None:
        self._namespace = namespace
        self.name = str(getattr(namespace, "__name__", type(namespace).__name__))
        try:
            self.version = version(self.name.partition(".")[0])
        except PackageNotFoundError:
            self.version = str(getattr(namespace, "__version__", "unknown"))

    def namespace(self) -> Any:
        return self._namespace

    def devices(self) -> Sequence[Any]:
        return self._namespace.__array_namespace_info__().devices() or [None]

    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        values = np.asarray(values)
        options = {"dtype": getattr(self._namespace, dtype)} | ({} if device is None else {"device": device})
        if values.size == 0:
            return self._namespace.zeros(values.shape, **options)
        return self._namespace.asarray(values.tolist(), **options)

    def to_numpy(self, array: Any) -> Any:
        """By DLPack or the array protocol where the library has one, otherwise number by number."""
        try:
            return np.from_dlpack(array)
        except (AttributeError, BufferError, NotImplementedError, RuntimeError, TypeError):
            pass
        if hasattr(array, "__array__"):
            return np.asarray(array)
        xp = self._namespace
        kind = bool if xp.isdtype(array.dtype, "bool") else int if xp.isdtype(array.dtype, "integral") else float
        result = np.empty(array.shape, {bool: "bool", int: "int64", float: "float64"}[kind])
        for index in np.ndindex(*array.shape):
            result[index] = kind(array[index])
        return result
