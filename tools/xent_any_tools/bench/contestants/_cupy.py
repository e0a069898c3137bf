"""CuPy: its own log_softmax and ours."""

from collections.abc import Callable
from typing import Any

import cupy
from cupyx.scipy.special import log_softmax

import xent_any

from .._problems import AXIS, Array, Inputs, Values
from . import GRADIENT, LOSS, Bound, Contestant, in_turn, our

cupy.cuda.runtime.getDeviceCount()  # raises where there is no GPU


def arrays(inputs: Inputs) -> tuple[list[Array], list[Array], Array]:
    """The inputs on the GPU."""
    if inputs.problem.device != "cuda":
        raise NotImplementedError("CuPy has no CPU")
    if inputs.problem.dtype == "bfloat16":
        raise NotImplementedError("CuPy has no bfloat16")
    convert: Callable[[Values], Array] = cupy.asarray
    return inputs.converted("cupy", convert)


def _own(inputs: Inputs, _: Array) -> Callable[[Array, Array], Any]:
    if inputs.problem.option != "index":
        raise NotImplementedError(f"not written here for {inputs.problem.option}")
    return lambda x, y: (
        -cupy.mean(cupy.take_along_axis(log_softmax(x, axis=AXIS), cupy.expand_dims(y, AXIS), axis=AXIS))
    )


def _wait(_: Any) -> None:
    cupy.cuda.get_current_stream().synchronize()


def _contestant(name: str, library: str, computes: str, bind: Bound) -> Contestant:
    return Contestant(name, library, "cupy", computes, in_turn(arrays, bind), wait=_wait)


CONTESTANTS = [
    _contestant("cross_entropy", "xent-any", LOSS, our(xent_any.cross_entropy)),
    _contestant("cross_entropy_value_and_grad", "xent-any", GRADIENT, our(xent_any.cross_entropy_value_and_grad)),
    _contestant("log_softmax, indexing", "cupy", LOSS, _own),
]
