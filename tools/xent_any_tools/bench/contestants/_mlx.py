"""MLX: its own loss and ours."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

import xent_any

from .._problems import AXIS, SMOOTHING, Array, Inputs, Values
from . import LOSS, Bound, Contestant, Prepare, in_turn, our, with_gradient


def arrays(inputs: Inputs) -> tuple[list[Array], list[Array], Array]:
    """The inputs as MLX's arrays."""
    if inputs.problem.device != "cpu" or inputs.problem.dtype == "float64":
        raise NotImplementedError("MLX runs on its default device, without float64")

    def convert(values: Values) -> Array:
        array = mx.array(values)
        array = array if values.dtype == np.int64 else array.astype(getattr(mx, inputs.problem.dtype))
        mx.eval(array)
        return array

    return inputs.converted("mlx", convert)


def _eager(bind: Bound) -> Prepare:
    return in_turn(arrays, bind)


def _peers(library: str, name: str, bind: Bound) -> list[Contestant]:
    contestant = Contestant(name, library, "mlx", LOSS, _eager(bind), wait=mx.eval)
    return with_gradient(contestant, bind, _eager, mx.value_and_grad)


def _own(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
    if inputs.problem.option in ("weights", "ignored"):
        raise NotImplementedError(f"MLX has no {inputs.problem.option}")
    smoothing = SMOOTHING if inputs.problem.option == "smoothing" else 0.0
    return lambda x, y: nn.losses.cross_entropy(x, y, axis=AXIS, label_smoothing=smoothing, reduction="mean")


CONTESTANTS = [
    *_peers("xent-any", "cross_entropy", our(xent_any.cross_entropy)),
    *_peers("mlx", "nn.losses.cross_entropy", _own),
]
