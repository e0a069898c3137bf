"""Keras on NumPy; it has no gradients there."""

from collections.abc import Callable
from typing import Any

import keras

from .._problems import Array, Inputs
from . import LOSS, Contestant, in_turn
from ._numpy import arrays


def _loss(inputs: Inputs, _: Array) -> Callable[[Array, Array], Any]:
    if keras.backend.backend() != "numpy":
        raise NotImplementedError(f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=numpy")
    option = inputs.problem.option
    if option in ("weights", "ignored", "smoothing") or inputs.problem.dtype != "float32":
        raise NotImplementedError(f"not written here for {option}, {inputs.problem.dtype}")
    if len(inputs.problem.shape) > 2:
        raise NotImplementedError("Keras takes index labels for classes on the last axis")
    if option == "probability":
        loss: Any = keras.losses.CategoricalCrossentropy(from_logits=True)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return lambda x, y: loss(y, x)


CONTESTANTS = [Contestant("SparseCategoricalCrossentropy", "keras", "numpy", LOSS, in_turn(arrays, _loss))]
