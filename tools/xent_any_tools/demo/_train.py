"""Softmax regression on handwritten digits: one training loop for every backend, and how far two may differ."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import array_api_compat
import numpy as np
from sklearn.datasets import load_digits

import xent_any
from xent_any_conformance._machine import device_text

Values: TypeAlias = np.ndarray[Any, np.dtype[Any]]

CLASSES = 10
BATCHES = 11  # of 130 images: 60 epochs then recognise 95 % of the test images


@dataclass(frozen=True)
class Problem:
    """What every backend gets: the same images in the same batches, the same start, the same step.

    Attributes
    ----------
    batches : list of (images, labels)
        Images of shape (N, 64) with pixels in [0, 1], labels of shape (N,).
    test_images, test_labels : ndarray
        The fifth of the images that are not trained on.
    weights, bias : ndarray
        The start, of shapes (10, 64) and (10,); exact in float32.
    step : float
        The largest power of two not above 2 / L, where L bounds the curvature of the loss of every batch.
    """

    batches: list[tuple[Values, Values]]
    test_images: Values
    test_labels: Values
    weights: Values
    bias: Values
    step: float


@dataclass(frozen=True)
class Run:
    """One training: on one backend and device, in one dtype.

    Attributes
    ----------
    backend, device, dtype : str
        Where and in which precision.
    losses : ndarray
        The loss of each step's batch before the step.
    final_loss, accuracy : float
        Of all training images, and of the test images, after the last step.
    weights : ndarray
        The learned weights, of shape (10, 64).
    predictions : ndarray
        The predicted class of each test image.
    seconds : float
        Wall time of the training, compilation included.
    """

    backend: str
    device: str
    dtype: str
    losses: Values
    final_loss: float
    accuracy: float
    weights: Values
    predictions: Values
    seconds: float


@dataclass(frozen=True)
class Difference:
    """How far the losses of a run are from NumPy's in the same dtype, each the largest of all steps.

    Attributes
    ----------
    ulp, relative, of_bound : float
        In units in the last place of NumPy's loss; relative to it; and as a part of `rounding_bound`.
    """

    ulp: float
    relative: float
    of_bound: float

    @property
    def within_bound(self) -> bool:
        """Whether no step is beyond the bound; False for NaN."""
        return self.of_bound <= 1


def load_problem() -> Problem:
    """The digits that scikit-learn ships, shuffled and cut once for all backends."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    images, labels = images[order] / 16, labels[order]  # multiples of 1/16: exact in every dtype
    count = len(images) * 4 // 5 // BATCHES * BATCHES  # batches of one shape: JAX compiles for each
    x, y = np.array_split(images[:count], BATCHES), np.array_split(labels[:count], BATCHES)
    # The Hessian of a row's loss with respect to its logits is at most 1/2.
    curvature = max(float(np.linalg.norm(_with_ones(batch), 2)) ** 2 / (2 * len(batch)) for batch in x)
    weights = rng.normal(0, 0.1, (CLASSES, images.shape[1])).astype(np.float32).astype(np.float64)
    return Problem(
        list(zip(x, y, strict=True)),
        images[count:],
        labels[count:],
        weights,
        np.zeros(CLASSES),
        2.0 ** math.floor(math.log2(2 / curvature)),
    )


def obstacle(backend: xent_any.Backend, dtype: str, device: Any) -> str | None:
    """Why `backend` cannot train in `dtype` on `device`; None where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the dtype that is made is compared below
            made = backend.to_numpy(backend.asarray([1.0], dtype, device)).dtype
    except Exception as error:  # noqa: BLE001  (each framework raises its own)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    if made != dtype:
        return f"makes it {made}"
    return None if dtype in backend.dtypes(device) else "not computed with in full"


def train(
    problem: Problem, backend: xent_any.Backend, dtype: str, device: Any, *, epochs: int, advance: Callable[[], object]
) -> Run:
    """Train by mini-batch gradient descent; `advance` is called after each epoch."""

    def array(values: Values, dtype: str = dtype) -> Any:
        return backend.asarray(values, dtype, device)

    batches = [(array(x), array(y, "int32")) for x, y in problem.batches]
    w, b = array(problem.weights), array(problem.bias)
    xp = array_api_compat.array_namespace(w, b)
    losses = []
    start = time.perf_counter()
    for _ in range(epochs):
        for x, y in batches:
            loss, g = xent_any.cross_entropy_value_and_grad(x @ w.T + b, y)
            w = w - problem.step * (g.T @ x)
            b = b - problem.step * xp.sum(g, axis=0)
            losses.append(loss)
        advance()
    curve = backend.to_numpy(xp.stack(losses))  # reading it waits for the device
    seconds = time.perf_counter() - start
    # The function and the shapes that are compiled already; the batches have one size.
    after = [xent_any.cross_entropy_value_and_grad(x @ w.T + b, y)[0] for x, y in batches]
    final_loss = float(xp.mean(xp.stack(after)))
    predictions = backend.to_numpy(xp.argmax(array(problem.test_images) @ w.T + b, axis=-1))
    accuracy = float(np.mean(predictions == problem.test_labels))
    weights = backend.to_numpy(w)
    return Run(backend.name, device_text(device), dtype, curve, final_loss, accuracy, weights, predictions, seconds)


def rounding_bound(problem: Problem, epochs: int) -> Values:
    """By how many unit roundoffs the losses of two backends may differ at each step, to first order.

    The loss is convex and the step at most 2 / L, so that a step never takes two parameters further apart than they
    are. The rounding errors of the steps therefore add and are not amplified: after them the parameters of a backend
    are at most ``distance``, the sum of the errors of all steps so far, from those of exact arithmetic, and its loss
    at most the norm of the gradient times that, plus the error in computing the loss. Two backends may differ
    by twice as much. The error of a step follows from the lengths of its sums, whatever the order they are summed in
    (n terms: at most n roundings of the sum of their magnitudes), and from the (8 + d) roundings that `xent_any`
    promises of each loss and gradient.
    """
    theta = np.column_stack([problem.weights, problem.bias])
    distance = 0.0
    bound = []
    for _ in range(epochs):
        for images, labels in problem.batches:
            x, n = _with_ones(images), len(images)
            logits = x @ theta.T
            p = np.exp(logits - np.max(logits, axis=1, keepdims=True))
            p /= np.sum(p, axis=1, keepdims=True)
            loss = -np.log(p[np.arange(n), labels])
            g = (p - np.eye(CLASSES)[labels]) / n
            gradient = g.T @ x
            promised = 8 + np.ptp(logits, axis=1)
            logits_error = x.shape[1] * (np.abs(x) @ np.abs(theta).T)
            loss_error = np.sum(np.linalg.norm(g, axis=1) * np.linalg.norm(logits_error, axis=1))
            loss_error += np.mean((promised + n) * loss)
            bound.append(2 * (np.linalg.norm(gradient) * distance + loss_error))
            # softmax takes logits at most half as far apart as they are
            g_error = np.linalg.norm(logits_error) / (2 * n) + np.linalg.norm(promised[:, None] * g)
            gradient_error = np.linalg.norm(x, 2) * g_error + n * np.linalg.norm(np.abs(g).T @ np.abs(x))
            theta = theta - problem.step * gradient  # the step is a power of two: only the difference is rounded
            distance += float(problem.step * gradient_error + np.linalg.norm(theta))
    return np.asarray(bound)


def difference(run: Run, reference: Run, bound: Values) -> Difference:
    """How far the losses of `run` are from those of `reference`, both in one dtype; `bound` is `rounding_bound`'s."""
    absolute = np.abs(run.losses.astype(np.float64) - reference.losses)
    unit_roundoff = float(np.finfo(run.dtype).eps) / 2
    return Difference(
        float(np.max(absolute / np.spacing(reference.losses))),
        float(np.max(absolute / reference.losses)),
        float(np.max(absolute / (unit_roundoff * bound))),
    )


def _with_ones(images: Values) -> Values:
    """Images with a last column of ones, whose weight is the bias."""
    return np.column_stack([images, np.ones(len(images))])
