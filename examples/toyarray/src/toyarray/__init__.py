"""A toy array library: a class of its own, and the functions of the Array API standard 2024.12.

NumPy computes inside, but its arrays neither come in nor go out, other than by DLPack.
"""

import functools
from types import SimpleNamespace

import numpy as np

from ._array import Array, Device, DType, require_device, require_one_kind, unwrap, wrap

__array_api_version__ = "2024.12"
__version__ = "0.1"
e, inf, nan, newaxis, pi = np.e, np.inf, np.nan, None, np.pi

SIGNED, UNSIGNED = ["int8", "int16", "int32", "int64"], ["uint8", "uint16", "uint32", "uint64"]
REAL, COMPLEX = ["float32", "float64"], ["complex64", "complex128"]
DTYPES = {
    None: ["bool", *SIGNED, *UNSIGNED, *REAL, *COMPLEX],
    "bool": ["bool"],
    "signed integer": SIGNED,
    "unsigned integer": UNSIGNED,
    "integral": SIGNED + UNSIGNED,
    "real floating": REAL,
    "complex floating": COMPLEX,
    "numeric": SIGNED + UNSIGNED + REAL + COMPLEX,
}
DEFAULTS = {"real floating": "float64", "complex floating": "complex128", "integral": "int64", "indexing": "int64"}
# What NumPy has under the standard's names. Those that combine arrays:
COMBINING = """add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor clip copysign divide
equal floor_divide greater greater_equal hypot less less_equal logaddexp logical_and logical_or logical_xor matmul
maximum minimum multiply nextafter not_equal pow remainder subtract tensordot vecdot where"""
MAKING = "arange empty eye from_dlpack full isdtype linspace ones result_type zeros"
OTHERS = """abs acos acosh all any argmax argmin asin asinh astype atan atanh bitwise_invert broadcast_arrays
broadcast_to can_cast ceil concat conj cos cosh count_nonzero cumulative_prod cumulative_sum diff empty_like exp
expand_dims expm1 flip floor full_like imag isfinite isinf isnan log log10 log1p log2 logical_not matrix_transpose max
mean meshgrid min moveaxis negative nonzero ones_like permute_dims positive prod real reciprocal repeat reshape
roll round searchsorted sign signbit sin sinh sqrt square squeeze stack std sum take take_along_axis tan
tanh tile tril triu trunc unique_all unique_counts unique_inverse unique_values unstack var zeros_like"""


def _function(name):
    function = getattr(np, name)
    combines, makes = name in COMBINING.split(), name in MAKING.split()

    @functools.wraps(function, assigned=("__name__", "__doc__"), updated=())
    def ours(*arguments, **options):
        require_device(options.get("device"))
        first = arguments[:1] if name not in ("concat", "stack") else arguments[0][:1]
        if not (combines or makes or isinstance(*first, (Array, DType))):
            raise TypeError(f"{name}: expected an array of toyarray, got {type(*first).__name__}")
        if combines:
            require_one_kind([*arguments[name == "where" :], *options.values()])
        return wrap(function(*unwrap(arguments), **{key: unwrap(value) for key, value in options.items()}))

    return ours


def asarray(obj, /, *, dtype=None, device=None, copy=None):
    require_device(device)
    return wrap(np.asarray(unwrap(obj), dtype=unwrap(dtype), copy=copy))


def argsort(x, /, *, axis=-1, descending=False, stable=True):
    if not descending:
        return wrap(np.argsort(x._data, axis=axis, stable=stable))
    return wrap(x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x._data, axis), axis=axis, stable=stable), axis))


def sort(x, /, *, axis=-1, descending=False, stable=True):
    return wrap(np.take_along_axis(x._data, argsort(x, axis=axis, descending=descending)._data, axis))


def finfo(type, /):  # noqa: A002  (the standard's name)
    info = np.finfo(unwrap(getattr(type, "dtype", type)))
    values = {name: float(getattr(info, name)) for name in ("eps", "max", "min", "smallest_normal")}
    return SimpleNamespace(bits=info.bits, dtype=wrap(info.dtype), **values)


def iinfo(type, /):  # noqa: A002  (the standard's name)
    info = np.iinfo(unwrap(getattr(type, "dtype", type)))
    return SimpleNamespace(bits=info.bits, dtype=wrap(info.dtype), max=int(info.max), min=int(info.min))


def _dtypes(*, device=None, kind=None):
    require_device(device)
    return {name: DType(name) for k in (kind if isinstance(kind, tuple) else (kind,)) for name in DTYPES[k]}


def __array_namespace_info__():  # noqa: N807  (the standard's name)
    return SimpleNamespace(
        capabilities=lambda: {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64},
        default_device=Device,
        default_dtypes=lambda *, device=None: {kind: DType(name) for kind, name in DEFAULTS.items()},
        devices=lambda: [Device()],
        dtypes=_dtypes,
    )


globals().update({name: _function(name) for name in f"{COMBINING} {MAKING} {OTHERS}".split()} | _dtypes())
