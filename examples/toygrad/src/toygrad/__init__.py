"""A toy framework that differentiates in reverse mode: NumPy's functions, and a tape of what they computed.

`grad` is its one transformation. A derivative is computed with the same functions, so that it can be differentiated
again. Arrays are not written to, and a function that is not in `PULLS` refuses to be differentiated.
"""

import functools
import itertools
import sys
from contextvars import ContextVar

import numpy as np

__version__ = "0.1"
xp = sys.modules[__name__]
_numbers = itertools.count()
_recording = ContextVar("_recording", default=False)


class Array:
    """NumPy's array `data`, and `parents`: pairs of an array on the tape that it depends on and the pull to that one.

    A pull takes a cotangent of this array to its part of the other's.
    """

    __hash__ = None
    __array_ufunc__ = None  # NumPy's arrays leave operators with ours to us

    def __init__(self, data, parents=()):
        self.data, self.parents, self.number = np.asarray(data), parents, next(_numbers)
        if self.data.dtype == object:
            raise TypeError(f"expected numbers, got {data!r}")

    def __array_namespace__(self, *, api_version=None):
        return xp

    def __repr__(self):
        return f"toygrad.{self.data!r}"

    def __getitem__(self, key):
        keys = key if isinstance(key, tuple) else (key,)
        return xp.take_from(self, tuple(k.data if isinstance(k, Array) else k for k in keys))


def node(data, parents):
    """An array of the values `data`, on the tape if one of its `parents` is."""
    return Array(data, tuple((a, pull) for a, pull in parents if a.parents) if _recording.get() else ())


def grad(f):
    """The gradient of `f`, a function that returns a single number, with respect to its first argument."""

    def gradient(x, *others):
        token = _recording.set(True)
        try:
            leaf = Array(x.data, ((x, lambda c: c),))  # x itself may be on the tape of another gradient
            y = f(leaf, *others)
        finally:
            _recording.reset(token)
        if y.shape != ():
            raise ValueError(f"expected a function that returns a single number, got shape {y.shape}")
        pending = {y.number: (y, xp.ones_like(y))}
        while (number := max(pending, default=-1)) > leaf.number:
            array, c = pending.pop(number)
            for parent, pull in array.parents:
                if (n := parent.number) >= leaf.number:
                    part = _like(pull(c), parent)
                    pending[n] = (parent, pending[n][1] + part if n in pending else part)
        return pending[leaf.number][1] if leaf.number in pending else xp.zeros_like(x)

    return gradient


def _like(c, a):
    """A cotangent in the shape and dtype of its array `a`, which may have been broadcast."""
    more = c.ndim - a.ndim
    axes = (*range(more), *(more + i for i, size in enumerate(a.shape) if size != c.shape[more + i]))
    return xp.astype(xp.reshape(xp.sum(c, axis=axes), a.shape) if axes else c, a.dtype, copy=False)


def _spread(c, axis=None, keepdims=False):
    """What was reduced over `axis`, to be broadcast over it again."""
    return c if axis is None or keepdims else xp.expand_dims(c, axis=axis)


def _extreme(reduce, c, x, **options):
    hit = x == _spread(reduce(x, **options), **options)
    return xp.where(hit, _spread(c / xp.sum(hit, **options), **options), 0.0)


def _put_into(c, shape, key):
    result = np.zeros(shape, c.dtype)
    np.add.at(result, key, c)
    return result


def concat(arrays, axis=0):
    """Each array at its place among zeros, and all of these added up."""
    axis %= arrays[0].ndim
    end, total = 0, sum(a.shape[axis] for a in arrays)
    placed = []
    for a in arrays:
        start, end = end, end + a.shape[axis]
        key = (slice(None),) * axis + (slice(start, end),)
        placed.append(xp.put_into(a, (*a.shape[:axis], total, *a.shape[axis + 1 :]), key))
    return sum(placed[1:], placed[0])


MADE = {"take_from": lambda x, key: x[key], "put_into": _put_into}
# By function and argument: the argument's cotangent, given that of the result and all arguments.
PULLS = {
    "add": [lambda c, a, b: c, lambda c, a, b: c],
    "subtract": [lambda c, a, b: c, lambda c, a, b: -c],
    "multiply": [lambda c, a, b: c * b, lambda c, a, b: c * a],
    "divide": [lambda c, a, b: c / b, lambda c, a, b: -c * (a / b) / b],
    "matmul": [
        lambda c, a, b: xp.matmul(c, xp.permute_dims(b, (1, 0))),
        lambda c, a, b: xp.matmul(xp.permute_dims(a, (1, 0)), c),
    ],
    "where": [None, lambda c, k, a, b: xp.where(k, c, 0.0), lambda c, k, a, b: xp.where(k, 0.0, c)],
    "negative": [lambda c, x: -c],
    "abs": [lambda c, x: xp.where(x < 0, -c, c)],
    "exp": [lambda c, x: c * xp.exp(x)],
    "expm1": [lambda c, x: c * xp.exp(x)],
    "log1p": [lambda c, x: c / (1 + x)],
    "square": [lambda c, x: 2 * c * x],
    "sum": [lambda c, x, **options: xp.broadcast_to(_spread(c, **options), x.shape)],
    "max": [lambda c, x, **options: _extreme(xp.max, c, x, **options)],
    "min": [lambda c, x, **options: _extreme(xp.min, c, x, **options)],
    "permute_dims": [lambda c, x, axes: xp.permute_dims(c, tuple(np.argsort(axes)))],
    "reshape": [lambda c, x, shape: xp.reshape(c, x.shape)],
    "expand_dims": [lambda c, x, axis: xp.reshape(c, x.shape)],
    "broadcast_to": [lambda c, x, shape: c],
    "astype": [lambda c, x, dtype, copy=True: c],
    "take_from": [lambda c, x, key: xp.put_into(c, x.shape, key)],
    "put_into": [lambda c, x, shape, key: c[key]],
    "ones_like": [],
    "zeros_like": [],
}


@functools.cache
def __getattr__(name):
    compute = MADE.get(name) or getattr(np, name)
    if isinstance(compute, type) or not callable(compute):
        return compute

    def unknown(*_, **__):
        raise NotImplementedError(f"toygrad knows no derivative of {name}")

    def function(*arguments, **options):
        with np.errstate(all="ignore"):
            result = compute(*(a.data if isinstance(a, Array) else a for a in arguments), **options)
        if not isinstance(result, np.ndarray | np.generic):
            return result
        pulls = zip(arguments, PULLS.get(name, itertools.repeat(unknown)), strict=False)
        pulls = ((a, lambda c, f=f: f(c, *arguments, **options)) for a, f in pulls if isinstance(a, Array))
        return node(result, pulls if result.dtype.kind == "f" else ())

    return function


ATTRIBUTES = "dtype ndim shape size"
METHODS = "__bool__ __int__ __float__ __index__ __dlpack__ __dlpack_device__"
BINARY = "add=add sub=subtract mul=multiply truediv=divide and=bitwise_and or=bitwise_or xor=bitwise_xor"
OTHERS = "eq=equal ne=not_equal lt=less le=less_equal gt=greater ge=greater_equal neg=negative invert=bitwise_invert"
for _name in ATTRIBUTES.split():
    setattr(Array, _name, property(lambda self, name=_name: getattr(self.data, name)))
for _name in METHODS.split():
    setattr(Array, _name, lambda self, name=_name, **options: getattr(self.data, name)(**options))
for _pair in f"{BINARY} {OTHERS}".split():
    _method, _, _name = _pair.partition("=")
    setattr(Array, f"__{_method}__", lambda *arrays, name=_name: getattr(xp, name)(*arrays))
    if _pair in BINARY.split():
        setattr(Array, f"__r{_method}__", lambda a, b, name=_name: getattr(xp, name)(b, a))
