"""MLX: its own loss and ours."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

import xent_any

from .._problems import AXIS, SMOOTHING, Array, Inputs, Values, ours
from . import GRADIENT, LOSS, Contestant

Bound = Callable[[Inputs, Array], Callable[[Array, Array], Any]]


def arrays(inputs: Inputs) -> tuple[list[Array], list[Array], Array]:
    """The inputs as MLX's arrays."""
    if inputs.problem.device != "cpu" or inputs.problem.dtype == "float64":
        raise NotImplementedError("MLX runs on its default device, without float64")

    def convert(values: Values) -> Array:
        array = mx.array(values)
        return array if values.dtype == np.int64 else array.astype(getattr(mx, inputs.problem.dtype))

    return inputs.converted("mlx", convert)


def _prepare(bind: Bound) -> Callable[[Inputs], Callable[[int], Any]]:
    def prepare(inputs: Inputs) -> Callable[[int], Any]:
        (x, y, weight), n = arrays(inputs), len(inputs)
        function = bind(inputs, weight)
        for a in (*x, *y):
            mx.eval(a)
        return lambda i: function(x[i % n], y[i % n])

    return prepare


def _peers(library: str, name: str, bind: Bound) -> list[Contestant]:
    def both(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
        return mx.value_and_grad(bind(inputs, weight))

    return [
        Contestant(name, library, "mlx", LOSS, _prepare(bind), wait=mx.eval),
        Contestant(name, library, "mlx", GRADIENT, _prepare(both), wait=mx.eval),
    ]


def _own(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
    if inputs.problem.option in ("weights", "ignored"):
        raise NotImplementedError(f"MLX has no {inputs.problem.option}")
    smoothing = SMOOTHING if inputs.problem.option == "smoothing" else 0.0
    return lambda x, y: nn.losses.cross_entropy(x, y, axis=AXIS, label_smoothing=smoothing, reduction="mean")


def _ours(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
    options = ours(inputs.problem, weight)
    return lambda x, y: xent_any.cross_entropy(x, y, **options)


CONTESTANTS = [*_peers("xent-any", "cross_entropy", _ours), *_peers("mlx", "nn.losses.cross_entropy", _own)]
