"""Train `language_model.py` as it is, and again with one import changed; compare the curves and draw them.

``python examples/one_import.py`` takes about a minute. Needs the extras ``demo`` and ``torch``.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Values: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

PYTORCHS = "from torch.nn.functional import cross_entropy"
OURS = "from xent_any_backends.torch import cross_entropy"

EPS = 2.0**-23  # one unit in the last place of a float32 number, at most, relative to the number
# Empirical: by chance the differences of one training grow faster than those of another. Of 4 seeds with 4 controls
# each, one control's were up to 5.5 times another's, and xent_any's up to 10 times a control's.
FACTOR = 30


def script(line: str) -> ModuleType:
    """The training script, with `line` instead of its import of the loss."""
    source = Path(__file__).with_name("language_model.py").read_text(encoding="utf-8")
    if PYTORCHS not in source:
        raise ValueError(f"language_model.py: expected the line {PYTORCHS!r}")
    module = ModuleType("language_model")
    exec(source.replace(PYTORCHS, line), vars(module))
    return module


def moved(cross_entropy: Loss) -> Loss:
    """`cross_entropy` of logits each of which is moved to a neighbour in float32: up or down, by the toss of a coin."""
    coin = torch.Generator().manual_seed(0)

    def of_moved(logits: Tensor, targets: Tensor) -> Tensor:
        x = logits.detach()
        up = torch.rand(x.shape, generator=coin) < 0.5
        return cross_entropy(logits + (x.nextafter(torch.where(up, torch.inf, -torch.inf)) - x), targets)

    return of_moved


def largest_differences(run: Values, reference: Values) -> Values:
    """The largest relative difference up to each step."""
    return np.maximum.accumulate(np.abs(run - reference) / reference, axis=1)


def draw(runs: Mapping[str, Values], apart: Mapping[str, Values], allowed: Values, pytorchs: str, ours: str) -> Figure:
    """The curves, and how far they are apart; a difference of 0 has no place on a log axis."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    curves, *panels = figure.subplots(1, 3, width_ratios=(4, 3, 3))
    steps = np.arange(1, allowed.shape[1] + 1)
    curves.plot(steps, runs["PyTorch"][0], color="#0072B2", linewidth=5, label=pytorchs)
    curves.plot(steps, runs["xent_any"][0], color="#E69F00", linewidth=1, label=ours)
    curves.set(title="Loss of each step's batch", xlabel="step", ylabel="cross-entropy (nats)", ylim=0)
    for i, (axes, of) in enumerate(zip(panels, ("loss", "gradient's norm"), strict=True)):
        axes.semilogy(steps, allowed[i], "k--", linewidth=1, label=f"{FACTOR} times the control (empirical limit)")
        axes.semilogy(steps, apart["control"][i], color="#56B4E9", linewidth=5, label="control: PyTorch, logits moved")
        axes.semilogy(steps, apart["xent_any"][i], color="#D55E00", linewidth=2, label="xent_any")
        axes.set(title=f"Difference of the {of}", xlabel="step", ylim=(1e-9, 1e-3))
    panels[0].set_ylabel("largest relative difference from PyTorch so far")
    for axes in (curves, *panels):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left" if axes is curves else "lower right", fontsize=9)
    return figure


def report(runs: Mapping[str, Values], title: str, figure: Path, pytorchs: str, ours: str) -> int:
    """Print a table and a verdict, write the figure.

    Two right losses round differently, and training makes such differences grow; nothing derived says how much. So
    the control is a third training: PyTorch's loss again, of logits that are each moved by one unit in the last place.
    xent_any's curve may be `FACTOR` times as far from PyTorch's as the control's, at every step so far.

    Parameters
    ----------
    runs : mapping of str to array, shape (2, steps)
        The loss and the norm of its gradient, of "PyTorch", of "xent_any" and of the "control".
    title : str
        The table's.
    figure : path
        Where the figure is written.
    pytorchs, ours : str
        What the figure calls the losses.

    Returns
    -------
    int
        1 where the curves are further apart than that, otherwise 0.
    """
    apart = {name: largest_differences(run, runs["PyTorch"]) for name, run in runs.items()}
    last = min(len(runs["PyTorch"][0]), 50)
    table = Table(title=title, box=None)
    for heading in (
        "",
        "first\nloss",
        f"mean of the\nlast {last}",
        "diff. of\nthe loss",
        "diff. of the\ngradient's norm",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (losses, _) in runs.items():
        differences = (f"{difference:.0e}" for difference in apart[name][:, -1])
        table.add_row(name, f"{losses[0]:.6f}", f"{losses[-last:].mean():.6f}", *differences)
    control = np.maximum(apart["control"], EPS)
    factor = float(np.max(apart["xent_any"] / control))
    agree = factor <= FACTOR  # False for NaN
    console = Console()
    console.print(table)
    console.print(
        f"They {'agree' if agree else 'disagree'}: xent_any's curve is up to {factor:.1f} times as far from PyTorch's "
        f"as PyTorch's own with logits moved by one unit in the last place; {FACTOR} times is the limit, an empirical "
        "one.",
        style="bold green" if agree else "bold red",
        highlight=False,
    )
    draw(runs, apart, FACTOR * control, pytorchs, ours).savefig(figure, dpi=110)
    console.print(f"written: {figure.resolve()}", highlight=False, markup=False, soft_wrap=True)
    return 0 if agree else 1


def main(argv: list[str] | None = None) -> int:
    """Train three times, and report; 1 where the curves disagree, otherwise 0."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--figure", type=Path, default=Path("language-model.png"), help="default: %(default)s")
    options = parser.parse_args(argv)
    scripts = {"PyTorch": script(PYTORCHS), "xent_any": script(OURS), "control": script(PYTORCHS)}
    vars(scripts["control"])["cross_entropy"] = moved(scripts["PyTorch"].cross_entropy)
    runs = {
        name: np.asarray(list(track(module.train(options.steps), total=options.steps, description=f"{name:8}"))).T
        for name, module in scripts.items()
    }
    title = f"Language model, {options.steps} steps of AdamW in float32"
    pytorchs, ours = "torch.nn.functional.cross_entropy", "xent_any_backends.torch.cross_entropy"
    return report(runs, title, options.figure, pytorchs, ours)


if __name__ == "__main__":
    sys.exit(main())
