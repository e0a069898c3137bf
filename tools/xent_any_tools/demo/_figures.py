"""The figures of the demonstration; every number in them is computed here or was by the training."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import log_softmax

import xent_any

from ._train import BATCHES, CLASSES, Problem, Run, Values

Curves: TypeAlias = dict[str, Values]

# Okabe and Ito's colours, which colour-blind readers can tell differences.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vP*X"


def loss_curves(runs: Sequence[Run], references: Mapping[str, Run], bound: Values) -> Figure:
    """The loss of all runs, and how far each is from NumPy's, by epoch."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    curves, differences = figure.subplots(1, 2)
    epochs = np.arange(1, len(bound) // BATCHES + 1)
    for i, run in enumerate(runs):
        reference = references[run.dtype].losses
        style: dict[str, Any] = {"color": COLOURS[i % 8], "label": f"{run.backend} {run.device} {run.dtype}"}
        # From wide to narrow, so that curves that coincide can all be seen.
        width = 1 + 1.5 * (len(runs) - 1 - i)
        curves.plot(epochs, run.losses.reshape(-1, BATCHES).mean(axis=1), linewidth=width, **style)
        if run is not references[run.dtype]:
            relative = np.abs(run.losses.astype(np.float64) - reference) / reference
            largest = relative.reshape(-1, BATCHES).max(axis=1)
            style |= {"linestyle": "none", "marker": MARKERS[i % 8], "markerfacecolor": "none"}
            _with_zeros(differences, epochs, largest, floor=1e-18, **style)
    for dtype, run in references.items():
        relative = bound * np.finfo(dtype).eps / 2 / run.losses
        differences.plot(epochs, relative.reshape(-1, BATCHES).min(axis=1), "k--", linewidth=1)
        differences.annotate(
            f"bound for {dtype}", (epochs[-1], relative[-1]), (0, 6), textcoords="offset points", ha="right"
        )
    curves.set(title="Loss, mean of each epoch", xlabel="epoch", ylabel="cross-entropy (nats)", ylim=0)
    differences.set(
        title="Largest difference from NumPy's in the same dtype",
        xlabel="epoch",
        ylabel="relative difference of the loss",
        ylim=(1e-19, 1e5),
    )
    _zero_and_powers(differences, 1e-18, range(-15, 1, 3))
    for axes in (curves, differences):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9, loc="upper right", ncols=1 if axes is curves else 2)
    return figure


def learned_weights(run: Run) -> Figure:
    """The ten rows of the weights as images."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    grid = figure.subplots(2, 5)
    limit = float(np.max(np.abs(run.weights)))
    for digit, (axes, weights) in enumerate(zip(grid.flat, run.weights, strict=True)):
        image = axes.imshow(weights.reshape(8, 8), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set(title=f"logit of {digit}", xticks=[], yticks=[])
    figure.colorbar(image, ax=grid, label="weight of the pixel (logit per full brightness)", shrink=0.9)
    return figure


def confusion_matrix(problem: Problem, run: Run) -> Figure:
    """How often each digit of the test images is taken for each."""
    counts = np.zeros((CLASSES, CLASSES), dtype=int)
    np.add.at(counts, (problem.test_labels, run.predictions), 1)
    figure = Figure(figsize=(7, 6.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(counts, cmap="Blues")
    for (true, predicted), count in np.ndenumerate(counts):
        if count:
            colour = "white" if count > np.max(counts) / 2 else "black"
            axes.text(predicted, true, str(count), ha="center", va="center", color=colour)
    axes.set(title=f"{len(problem.test_labels)} test images", xlabel="predicted digit", ylabel="true digit")
    axes.set(xticks=range(CLASSES), yticks=range(CLASSES))
    figure.colorbar(image, ax=axes, label="images")
    return figure


def against_squared_error() -> Figure:
    """Cross-entropy and squared error on the softmax output, as functions of the logit of the true class."""
    z = np.linspace(-15, 15, 301)
    logits = np.zeros((len(z), CLASSES))
    logits[:, 0] = z
    labels = np.zeros(len(z), dtype=np.int64)
    loss = xent_any.cross_entropy(logits, labels, reduction="none")
    grad = xent_any.cross_entropy_value_and_grad(logits, labels, reduction="none")[1]
    p = xent_any.softmax(logits)
    residual = p - np.eye(CLASSES)[labels]
    squared = np.sum(residual**2, axis=1)
    squared_grad = 2 * p * (residual - np.sum(p * residual, axis=1, keepdims=True))
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    values, gradients = figure.subplots(1, 2)
    for axes, ours, theirs in ((values, loss, squared), (gradients, grad[:, 0], squared_grad[:, 0])):
        axes.plot(z, ours, color=COLOURS[0], linewidth=2.5, label="cross-entropy")
        axes.plot(z, theirs, color=COLOURS[1], linewidth=2.5, linestyle="--", label="squared error")
        axes.axvspan(z[0], -5, color="#999999", alpha=0.2, label="confidently wrong")
        axes.set(xlabel=f"logit of the true class (the other {CLASSES - 1} are 0)", xlim=(z[0], z[-1]))
        axes.grid(alpha=0.3)
        axes.legend()
    values.set(title="Loss", ylabel="loss (cross-entropy in nats)")
    gradients.set(title="Its derivative with respect to that logit", ylabel="derivative")
    return figure


def confident_losses() -> tuple[Values, Values, Curves]:
    """The margins M; the float64 losses of [M, 0, 0, 0] with label 0; and the float32 losses of each library here."""
    margin = np.arange(0, 100.5, 0.5)
    logits = np.zeros((len(margin), 4), dtype=np.float32)
    logits[:, 0] = margin
    labels = np.zeros(len(margin), dtype=np.int64)
    losses: Curves = {
        "xent_any on NumPy": xent_any.cross_entropy(logits, labels, reduction="none"),
        "scipy.special.log_softmax": -log_softmax(logits, axis=-1)[:, 0],
    }
    if importlib.util.find_spec("torch") is not None:
        import torch  # noqa: PLC0415  (only where it is installed)

        both = torch.from_numpy(logits), torch.from_numpy(labels)
        losses["torch.nn.functional.cross_entropy"] = torch.nn.functional.cross_entropy(*both, reduction="none").numpy()
    return margin, np.log1p(3 * np.exp(-margin)), losses


def confident(margin: Values, truth: Values, losses: Curves) -> Figure:
    """The arrays of `confident_losses` on a log axis."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(margin, truth, color="#BBBBBB", linewidth=8, label="log1p(3 exp(-M)) in float64")
    for i, (name, loss) in enumerate(losses.items()):
        style = {"color": COLOURS[i], "marker": MARKERS[i], "markevery": (3 * i, 10), "label": f"{name}, float32"}
        _with_zeros(axes, margin, loss, floor=1e-48, linewidth=1.5, **style)
    axes.set(
        title="Loss of the logits [M, 0, 0, 0] with label 0",
        xlabel="M",
        ylabel="cross-entropy (nats)",
        xlim=(0, 100),
        ylim=(1e-50, 10),
    )
    _zero_and_powers(axes, 1e-48, range(-42, 1, 6))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    return figure


def _with_zeros(axes: Axes, x: Values, y: Values, floor: float, **style: Any) -> None:
    """Plot on a log axis, with zeros, which it does not have, on a line at `floor`."""
    axes.set_yscale("log")
    axes.axhline(floor, color="#999999", linewidth=0.8)
    axes.plot(x, np.where(y == 0, floor, y.astype(np.float64)), **style)


def _zero_and_powers(axes: Axes, floor: float, powers: range) -> None:
    """Label the line at `floor` 0, and the powers of ten."""
    labels = ["0", *(f"$10^{{{power}}}$" for power in powers)]
    axes.set_yticks([floor, *(10.0**power for power in powers)], labels)
    axes.minorticks_off()
