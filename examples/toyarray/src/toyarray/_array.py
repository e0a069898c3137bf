"""The class of arrays, and the way to NumPy's and back."""

import operator
import sys
from dataclasses import dataclass

import numpy as np

KINDS = {"b": "bool", "i": "integral", "u": "integral", "f": "floating", "c": "floating"}
HOLDS = {bool: {"bool"}, int: {"integral", "floating"}, float: {"floating"}, complex: {"floating"}}


@dataclass(frozen=True)
class Device:
    """A place for arrays; there is one."""

    name: str = "toybox"


@dataclass(frozen=True, repr=False)
class DType:
    """A type of numbers, named as in the standard."""

    name: str

    def __repr__(self):
        return f"toyarray.{self.name}"


class Array:
    """An array; `toyarray.asarray` and others make it."""

    __hash__ = None
    __array_ufunc__ = None  # NumPy arrays leave operators with ours to us, and we refuse

    def __init__(self):
        raise TypeError("arrays are made by toyarray.asarray")

    dtype = property(lambda self: DType(self._data.dtype.name))
    device = property(lambda self: Device())
    ndim = property(lambda self: self._data.ndim)
    shape = property(lambda self: self._data.shape)
    size = property(lambda self: self._data.size)
    T = property(lambda self: wrap(self._data.T))
    mT = property(lambda self: wrap(self._data.mT))  # noqa: N815  (the standard's name)

    def __array_namespace__(self, *, api_version=None):
        if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
            raise ValueError(f"version {api_version} of the Array API standard is not supported")
        return sys.modules[__package__]

    def __repr__(self):
        return f"toyarray.asarray({self._data.tolist()}, dtype={self.dtype})"

    def __getitem__(self, key):
        return wrap(self._data[unwrap(key)])

    def __setitem__(self, key, value):
        require_one_kind((self, value))
        self._data[unwrap(key)] = unwrap(value)

    def to_device(self, device, /, *, stream=None):
        require_device(device)
        return self

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return self._data.__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self):
        return self._data.__dlpack_device__()


def wrap(value):
    """What NumPy returned, as ours."""
    if isinstance(value, (np.ndarray, np.generic)):
        array = object.__new__(Array)
        array._data = np.asarray(value)
        return array
    if isinstance(value, np.dtype):
        return DType(value.name)
    if isinstance(value, (tuple, list)):
        return getattr(type(value), "_make", tuple)(map(wrap, value))
    return value


def unwrap(value):
    """Ours, as NumPy takes it; what belongs to another library is refused."""
    if isinstance(value, Array):
        return value._data
    if isinstance(value, DType):
        return np.dtype(value.name)
    if isinstance(value, Device):
        return "cpu"
    if isinstance(value, (tuple, list)):
        return type(value)(map(unwrap, value))
    if type(value) in (*HOLDS, str, slice, type(None), type(...)):
        return value
    raise TypeError(f"{type(value).__name__} does not belong to toyarray")


def require_device(device):
    if device not in (None, Device()):
        raise ValueError(f"{device} is not a device of toyarray")


def require_one_kind(values):
    """No dtype is promoted to one of another kind, and a Python number must be of a kind that the array can hold."""
    dtypes = {value.dtype.name: KINDS[value._data.dtype.kind] for value in values if isinstance(value, Array)}
    if len(set(dtypes.values())) > 1 or ("uint64" in dtypes and any(name.startswith("int") for name in dtypes)):
        raise TypeError(f"no common dtype of {', '.join(sorted(dtypes))}")
    for value in values:
        if type(value) in HOLDS and not HOLDS[type(value)] >= set(dtypes.values()):
            raise TypeError(f"a Python {type(value).__name__} with an array of dtype {', '.join(dtypes)}")


def _convert(name):
    def method(self):
        if self.ndim:
            raise TypeError(f"expected a single number, got an array of shape {self.shape}")
        return getattr(self._data.item(), name)()

    return method


def _binary(name, swap):
    function = getattr(operator, name)

    def method(self, other):
        if type(other) not in (Array, *HOLDS):
            return NotImplemented
        require_one_kind((self, other))
        pair = (unwrap(other), self._data) if swap else (self._data, unwrap(other))
        return wrap(function(*pair))

    return method


def _unary(name):
    function = getattr(operator, name)
    return lambda self: wrap(function(self._data))


CONVERSIONS = "bool float int complex index"
UNARY = "abs neg pos invert"
BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
COMPARISONS = "eq ne lt le gt ge"
for _name in CONVERSIONS.split():
    setattr(Array, f"__{_name}__", _convert(f"__{_name}__"))
for _name in UNARY.split():
    setattr(Array, f"__{_name}__", _unary(f"__{_name}__"))
for _name in f"{BINARY} {COMPARISONS}".split():
    setattr(Array, f"__{_name}__", _binary(f"__{_name}__", swap=False))
for _name in BINARY.split():
    setattr(Array, f"__r{_name}__", _binary(f"__{_name}__", swap=True))
