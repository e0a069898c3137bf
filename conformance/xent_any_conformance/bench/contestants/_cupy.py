"""CuPy: its own log_softmax and ours."""

from collections.abc import Callable
from typing import Any

import cupy
from cupyx.scipy.special import log_softmax

import xent_any

from .._problems import AXIS, Array, Inputs, Values, ours
from . import GRADIENT, LOSS, Contestant

cupy.cuda.runtime.getDeviceCount()  # raises where there is no GPU


def arrays(inputs: Inputs) -> tuple[list[Array], list[Array], Array]:
    """The inputs on the GPU."""
    if inputs.problem.device != "cuda":
        raise NotImplementedError("CuPy has no CPU")
    if inputs.problem.dtype == "bfloat16":
        raise NotImplementedError("CuPy has no bfloat16")
    convert: Callable[[Values], Array] = cupy.asarray
    return inputs.converted("cupy", convert)


def _prepare_own(inputs: Inputs) -> Callable[[int], Any]:
    (x, y, _), n = arrays(inputs), len(inputs)
    if inputs.problem.option != "index":
        raise NotImplementedError(f"not written here for {inputs.problem.option}")
    label = [cupy.expand_dims(a, AXIS) for a in y]
    return lambda i: -cupy.mean(cupy.take_along_axis(log_softmax(x[i % n], axis=AXIS), label[i % n], axis=AXIS))


def _ours(function: Callable[..., Any]) -> Callable[[Inputs], Callable[[int], Any]]:
    def prepare(inputs: Inputs) -> Callable[[int], Any]:
        (x, y, weight), n = arrays(inputs), len(inputs)
        options = ours(inputs.problem, weight)
        return lambda i: function(x[i % n], y[i % n], **options)

    return prepare


def _wait(_: Any) -> None:
    cupy.cuda.get_current_stream().synchronize()


CONTESTANTS = [
    Contestant("cross_entropy", "xent-any", "cupy", LOSS, _ours(xent_any.cross_entropy), wait=_wait),
    Contestant(
        "cross_entropy_value_and_grad",
        "xent-any",
        "cupy",
        GRADIENT,
        _ours(xent_any.cross_entropy_value_and_grad),
        wait=_wait,
    ),
    Contestant("log_softmax, indexing", "cupy", "cupy", LOSS, _prepare_own, wait=_wait),
]
