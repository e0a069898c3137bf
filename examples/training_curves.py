"""Softmax regression with PyTorch's and with optax's optimiser, each with its framework's own loss and with xent_any's.

``python examples/training_curves.py`` trains the demonstration's model on its digits four times, from one start and on
the same batches, in float32; `xent_any.cross_entropy` is the same function in both frameworks. It compares the curves
with what rounding can explain, and draws them. Needs the extras ``demo``, ``torch`` and ``jax``, and optax.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import xent_any
from xent_any_tools.demo._figures import COLOURS, MARKERS
from xent_any_tools.demo._train import BATCHES, Problem, Values, load_problem, rounding_bound

Loss: TypeAlias = Callable[[Any, Any], Any]

UNIT_ROUNDOFF = 2.0**-24


def with_torch(problem: Problem, cross_entropy: Loss, epochs: int) -> Values:
    """The loss of each step's batch before the step, trained with `torch.optim.SGD`."""
    model = torch.nn.Linear(*problem.weights.T.shape)
    model.load_state_dict({"weight": torch.from_numpy(problem.weights), "bias": torch.from_numpy(problem.bias)})
    optimizer = torch.optim.SGD(model.parameters(), lr=problem.step)
    batches = [(torch.from_numpy(x).float(), torch.from_numpy(y)) for x, y in problem.batches]
    losses = []
    for _ in range(epochs):
        for x, y in batches:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return np.asarray(losses)


def with_optax(problem: Problem, cross_entropy: Loss, epochs: int) -> Values:
    """The loss of each step's batch before the step, trained with `optax.sgd`, compiled."""
    parameters = jnp.asarray(problem.weights, dtype="float32"), jnp.asarray(problem.bias, dtype="float32")
    optimizer = optax.sgd(problem.step)
    state = optimizer.init(parameters)
    batches = [(jnp.asarray(x, dtype="float32"), jnp.asarray(y)) for x, y in problem.batches]

    @jax.jit
    def step(parameters: Any, state: Any, x: Any, y: Any) -> Any:
        def of(parameters: Any) -> Any:
            weights, bias = parameters
            # "highest": float32 means float32, also on a GPU
            return cross_entropy(jnp.matmul(x, weights.T, precision="highest") + bias, y)

        loss, gradient = jax.value_and_grad(of)(parameters)
        updates, state = optimizer.update(gradient, state)
        return loss, optax.apply_updates(parameters, updates), state

    losses = []
    for _ in range(epochs):
        for x, y in batches:
            loss, parameters, state = step(parameters, state, x, y)
            losses.append(float(loss))
    return np.asarray(losses)


def optax_loss(logits: Any, labels: Any) -> Any:
    """Optax's own, the mean of it."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def draw(runs: Mapping[str, Values], bound: Values) -> Figure:
    """The curves, and how far each is from the first."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    curves, apart = figure.subplots(1, 2)
    epochs = np.arange(1, len(bound) // BATCHES + 1)
    (first, reference), *others = runs.items()
    curves.plot(epochs, reference.reshape(-1, BATCHES).mean(axis=1), color="#BBBBBB", linewidth=8, label=first)
    for i, (name, losses) in enumerate(others):
        style: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i], "label": name}
        curves.plot(epochs, losses.reshape(-1, BATCHES).mean(axis=1), markevery=(2 * i, 6), **style)
        largest = (np.abs(losses - reference) / reference).reshape(-1, BATCHES).max(axis=1)
        apart.semilogy(epochs, largest, linestyle="none", markerfacecolor="none", **style)
    explained = (bound / reference).reshape(-1, BATCHES).min(axis=1)
    apart.semilogy(epochs, explained, "k--", linewidth=1, label="what rounding can explain")
    apart.axhline(2 * UNIT_ROUNDOFF, color="#999999", linewidth=1, label="float32's eps")
    curves.set(title="Loss, mean of each epoch", xlabel="epoch", ylabel="cross-entropy (nats)", ylim=0)
    apart.set(title=f"Largest difference from {first}", xlabel="epoch", ylabel="relative difference of the loss")
    for axes in (curves, apart):
        axes.grid(alpha=0.3)
        axes.legend(loc="upper right" if axes is curves else "center right")
    return figure


def main(argv: list[str] | None = None) -> int:
    """Train, print a table and a verdict, write the figure.

    Gradient descent with a short enough step, on a convex loss, does not make differences grow; so the bound that the
    demonstration derives, from the accuracy that xent_any promises, holds here as well. The frameworks' own losses are
    held to it too.

    Returns
    -------
    int
        1 where a curve is further from the first than that, otherwise 0.
    """
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=60, help="passes over the data (default: %(default)s)")
    parser.add_argument("--figure", type=Path, default=Path("training-curves.png"), help="default: %(default)s")
    options = parser.parse_args(argv)
    problem = load_problem()
    runs = {
        "torch.optim.SGD, PyTorch's loss": with_torch(problem, torch.nn.functional.cross_entropy, options.epochs),
        "torch.optim.SGD, xent_any": with_torch(problem, xent_any.cross_entropy, options.epochs),
        "optax.sgd, optax's loss": with_optax(problem, optax_loss, options.epochs),
        "optax.sgd, xent_any": with_optax(problem, xent_any.cross_entropy, options.epochs),
    }
    bound = UNIT_ROUNDOFF * rounding_bound(problem, options.epochs)
    reference = next(iter(runs.values()))
    table = Table(title=f"Softmax regression, {len(bound)} steps of SGD in float32", box=None)
    for heading in ("", "mean loss of\nlast epoch", "difference\n(relative)", "of the\nbound"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    parts = []
    for name, losses in runs.items():
        apart = np.abs(losses - reference)
        parts.append(np.max(apart / bound))
        numbers = f"{losses[-BATCHES:].mean():.6f}", f"{np.max(apart / reference):.0e}", f"{parts[-1]:.2%}"
        table.add_row(name, *numbers)
    largest = np.max(parts)
    agree = bool(largest <= 1)  # False for NaN
    verdict = (
        f"They {'agree' if agree else 'disagree'}: they differ by up to {largest:.2%} of what rounding can explain."
    )
    console = Console()
    console.print(table)
    console.print(verdict, style="bold green" if agree else "bold red", highlight=False)
    draw(runs, bound).savefig(options.figure, dpi=110)
    console.print(f"written: {options.figure.resolve()}", highlight=False, markup=False, soft_wrap=True)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
