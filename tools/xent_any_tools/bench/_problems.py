"""Problems, their arrays, and the true answers."""

import math
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

import xent_any

from ._choices import DTYPES

Array: TypeAlias = Any
Values: TypeAlias = np.ndarray[Any, np.dtype[Any]]

SHAPES = (
    (32, 10),
    (65536, 10),
    (4096, 1000),
    (8192, 1000),
    (4, 21, 512, 512),
    (1024, 32000),
    (512, 50257),
    (256, 128256),
    (128, 256000),
)
FEW_SHAPES = ((65536, 10), (8192, 1000), (4, 21, 512, 512), (1024, 32000))
"""The shapes on which the other dtypes and labels are timed."""

AXIS = 1
"""The axis of the classes, in every shape."""

SMOOTHING, IGNORED, IGNORE_INDEX = 0.1, 0.3, -100

MAX_BYTES, MAX_ARRAYS = 1 << 29, 256
"""Limits of the bytes and of the number of arrays of logits that take turns; there are always two arrays."""

# Relative to the loss; to the sum of the gradient's absolute values, and to the largest. bfloat16 has two and a half
# digits, and torch keeps log-probabilities in it.
TOLERANCE = {"float32": 1e-3, "float64": 1e-6, "bfloat16": 0.1, "float16": 0.02}
SMALLEST_HALF = 2.0**-24
"""An error of this size is allowed in float16, where the gradient of a mean, p / N, underflows to 0."""


class Problem(NamedTuple):
    """One problem, the classes on axis 1."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    option: str = "index"
    device: str = "cpu"

    @property
    def name(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def nbytes(self) -> int:
        """The bytes of the logits."""
        return math.prod(self.shape) * DTYPES[self.dtype]


class Inputs:
    """The arrays of a problem, several of each, in turn: so that none is in the cache when its turn comes.

    Parameters
    ----------
    problem : Problem
    cache_bytes : int
        The size of the largest cache, which the logits together are to exceed twice.
    threads : int
        How many threads the libraries may use, for those that ask.
    """

    def __init__(self, problem: Problem, cache_bytes: int = 0, threads: int = 1) -> None:
        self.problem, self.threads = problem, threads
        wanted = min(math.ceil(2 * cache_bytes / problem.nbytes), MAX_BYTES // problem.nbytes, MAX_ARRAYS)
        self._converted: dict[str, Any] = {}
        rng = np.random.default_rng(20240229)
        shape, classes = problem.shape, problem.shape[AXIS]
        batch_shape = shape[:AXIS] + shape[AXIS + 1 :]
        draw = np.float64 if problem.dtype == "float64" else np.float32
        self.logits: list[Values] = []
        self.labels: list[Values] = []
        self.class_weight = None
        for _ in range(max(2, wanted)):
            self.logits.append(_rounded(3 * rng.standard_normal(shape, dtype=draw), problem.dtype))
            labels = rng.integers(0, classes, batch_shape)
            if problem.option == "ignored":
                labels[rng.random(batch_shape) < IGNORED] = IGNORE_INDEX
            elif problem.option == "probability":
                e = rng.standard_exponential(shape, dtype=draw)
                labels = _rounded(e / e.sum(axis=AXIS, keepdims=True), problem.dtype)
            self.labels.append(labels)
        if problem.option == "weights":
            self.class_weight = _rounded(rng.random(classes, dtype=draw) + 0.5, problem.dtype)

    def __len__(self) -> int:
        return len(self.logits)

    def converted(self, library: str, convert: Callable[[Values], Array]) -> tuple[list[Array], list[Array], Array]:
        """Logits, labels and class weights as one library's arrays; made once for all of its contestants.

        bfloat16 is float32 here, of numbers that bfloat16 has: `convert` rounds to the problem's dtype.
        """
        if library not in self._converted:
            weight = None if self.class_weight is None else convert(self.class_weight)
            self._converted[library] = ([convert(x) for x in self.logits], [convert(y) for y in self.labels], weight)
        logits, labels, weight = self._converted[library]
        return logits, labels, weight

    @cached_property
    def truth(self) -> tuple[float, Values]:
        """Loss and gradient of the first problem, by our own NumPy functions in float64."""
        labels, weight = self.labels[0], self.class_weight
        labels = labels if labels.dtype == np.int64 else labels.astype(np.float64)
        weight = None if weight is None else weight.astype(np.float64)
        options = our_options(self.problem, weight)
        loss, grad = xent_any.cross_entropy_value_and_grad(self.logits[0].astype(np.float64), labels, **options)
        return float(loss), np.asarray(grad)


def our_options(problem: Problem, class_weight: Array) -> dict[str, Any]:
    """The options of `xent_any`'s functions for a problem."""
    options: dict[str, Any] = {"axis": AXIS}
    if problem.option == "smoothing":
        options["label_smoothing"] = SMOOTHING
    if class_weight is not None:
        options["class_weight"] = class_weight
    return options


def disagreement(inputs: Inputs, loss: Array, gradient: Array | None) -> str | None:
    """Why a loss, or a loss and a gradient, is not the answer to the first of the inputs; None where it is, loosely."""
    true_loss, true_gradient = inputs.truth
    dtype = inputs.problem.dtype
    found, tolerance = _values(loss), TOLERANCE[dtype]
    if found.shape != () or not abs(float(found) - true_loss) <= tolerance * true_loss:
        return f"the loss is {found if found.shape == () else f'of shape {found.shape}'}, not {true_loss:.6g}"
    if gradient is None:
        return None
    values = _values(gradient)
    if values.shape != true_gradient.shape:
        return f"the gradient's shape is {values.shape}, not {true_gradient.shape}"
    errors = np.abs(values - true_gradient)
    if dtype == "float16":
        errors = np.maximum(errors - SMALLEST_HALF, 0)
    for size, what in ((np.sum, "sum"), (np.max, "largest")):
        error, scale = float(size(errors)), float(size(np.abs(true_gradient)))
        if not error <= tolerance * scale:
            return f"the gradient is wrong: {what} of its errors {error:.3g}, of its values {scale:.3g}"
    return None


def _values(array: Array) -> Values:
    if hasattr(array, "detach"):  # a tensor
        array = array.detach().cpu().double()
    if hasattr(array, "get"):  # on CuPy
        array = array.get()
    if "bfloat16" in str(array.dtype) and type(array).__module__.startswith("mlx"):
        array = array.astype(_mlx_float32())
    return np.asarray(array).astype(np.float64)


@cache
def _mlx_float32() -> Any:
    import mlx.core as mx  # noqa: PLC0415  (only where it is used already)

    return mx.float32


def _rounded(values: Values, dtype: str) -> Values:
    """Values rounded to a dtype; for bfloat16, which NumPy lacks, the nearest numbers of bfloat16 in float32."""
    if dtype != "bfloat16":
        return values.astype(dtype, copy=False)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
