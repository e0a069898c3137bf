"""NumPy: as usual, read-only, with Fortran order and negative strides, without tuned kernels."""

from typing import Any

import numpy as np

from xent_any_backends.numpy import BACKEND, NumPy

from . import Subject


class ReadOnly(NumPy):
    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        array = np.array(values, dtype=dtype)
        array.flags.writeable = False
        return array


class Strided(NumPy):
    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        wide = np.zeros([2 * size for size in np.shape(values)], dtype, order="F")
        view: Any = wide[(..., *(slice(None, None, -2),) * wide.ndim)]  # type: ignore[arg-type]  # mypy reads a list
        view[...] = values
        return view


def load(name: str) -> Subject:
    variants = {"numpy-readonly": ReadOnly(), "numpy-strided": Strided()}
    if name == "numpy-reference":
        BACKEND.kernels = {}
    return Subject(name, variants.get(name, BACKEND), "cpu")
