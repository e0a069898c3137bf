"""ndonnx: with values at hand, and as a model that onnxruntime runs."""

import functools
import importlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import ndonnx
import numpy as np
from spox import _future

import xent_any

from . import Subject
from ._namespace import Namespace


class Models:
    """The functions of `xent_any`, each written as an ONNX model of its array arguments, and run by onnxruntime."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(xent_any, name)

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            given: dict[int | str, Any] = dict(enumerate(arguments))
            given.update(options)
            arrays = {key: value for key, value in given.items() if isinstance(value, ndonnx.Array)}
            static = {key: value for key, value in given.items() if key not in arrays}
            if not all(isinstance(value, Hashable) for value in static.values()):  # another library's array: an error
                return function(*arguments, **options)
            run = _model(
                function,
                tuple((key, array.shape, array.dtype) for key, array in arrays.items()),
                tuple((key, type(value), value) for key, value in static.items()),  # or True would be 1
            )
            return run({f"x_{key}": array.unwrap_numpy() for key, array in arrays.items()})

        return call


def _arrays(result: Any) -> list[Any]:
    """The arrays of a result: one, or a tuple of results, of which some may be None."""
    if isinstance(result, tuple):
        return [array for part in result for array in _arrays(part)]
    return [] if result is None else [result]


def _like(result: Any, arrays: Iterator[Any]) -> Any:
    """A result of other arrays."""
    if isinstance(result, tuple):
        return tuple(_like(part, arrays) for part in result)
    return None if result is None else next(arrays)


@functools.cache
def _model(function: Any, arrays: tuple[Any, ...], static: tuple[Any, ...]) -> Callable[[dict[str, Any]], Any]:
    onnxruntime = importlib.import_module("onnxruntime")  # the other subject does without
    inputs = {key: ndonnx.argument(shape=shape, dtype=dtype) for key, shape, dtype in arrays}
    given = inputs | {key: value for key, _, value in static}
    arguments = [given.pop(key) for key in sorted(key for key in given if isinstance(key, int))]
    result = function(*arguments, **given)
    results = _arrays(result)
    model = ndonnx.build(
        {f"x_{key}": array for key, array in inputs.items()},
        {f"y_{i}": array for i, array in enumerate(results)},
        drop_unused=True,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [node.name for node in session.get_inputs()]

    def run(values: dict[str, Any]) -> Any:
        outputs = session.run(None, {name: values[name] for name in names})
        return _like(result, (ndonnx.asarray(np.asarray(output)) for output in outputs))

    return run


class NDONNX(Namespace):
    def devices(self) -> Sequence[Any]:
        return ["cpu"]  # its own object for that has no name

    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        return super().asarray(values, dtype, None)

    def to_numpy(self, array: Any) -> Any:
        return array.unwrap_numpy()


def load(name: str) -> Subject:
    # What ndonnx takes to compute values at hand depends on what is installed; this is always there, and the faster.
    _future.set_value_prop_backend(_future.ValuePropBackend.REFERENCE)
    record = NDONNX(ndonnx)
    if name == "ndonnx":
        return Subject(name, record, "cpu")
    record.version += f", onnxruntime {version('onnxruntime')}"
    why = "onnxruntime's Log rounds as the position of an element in the array suggests"
    deviations = {"relations.bitwise[few-rows]": why}
    return Subject(name, record, "cpu", functions=Models(), compiled=True, deviations=deviations)
