"""The memory of tensors as NumPy's arrays."""

from typing import Any

import numpy as np
import torch

BFLOAT16 = np.dtype("V2")
"""Bits that NumPy does not compute with."""


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


def to_numpy(array: Any) -> Any:
    """The NumPy array in a tensor's memory, or of its values where they are not in memory as they are."""
    if array is None:
        return None
    if array.is_neg() or array.is_conj() or array._is_zerotensor():
        array = torch.zeros_like(array).add(array)
    found = np.asarray(_Memory(array))
    return found.view(BFLOAT16) if array.dtype == torch.bfloat16 else found


def from_numpy(array: Any) -> Any:
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
