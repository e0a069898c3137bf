"""The demonstration ``xent-any demo``: the same training on every backend must give the same losses."""

import datetime as dt
import os
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import xent_any
from xent_any_conformance._machine import device_text

from . import _figures, _page, _train

DTYPES = ("float64", "float32")
HEADING = (
    "backend",
    "device",
    "dtype",
    "final\nloss",
    "test\nacc.",
    "diff.\n(ULP)",
    "diff.\n(rel.)",
    "of the\nbound",
    "time\n(s)",
)
LEGEND = (
    "Final loss: of the training images, in nats. Test acc.: how many of the other images are recognised. Diff.: the "
    "largest difference of a step's loss from NumPy's in the same dtype, in units in the last place and relative. Of "
    "the bound: the largest part of what rounding can explain. Time: of the training, compiling included."
)


def run(names: Sequence[str], output: Path, epochs: int, command: str) -> int:
    """Train on every backend, print a table and a verdict, write the page and its figures.

    Parameters
    ----------
    names : sequence of str
        The backends to compare with NumPy; empty for all that are usable.
    output : Path
        The directory that the page and the figures are written to.
    epochs : int
        How many passes over the data.
    command : str
        What the user typed, for the page.

    Returns
    -------
    int
        0 where all backends agree within the bound, 1 where they do not, 2 where nothing could be compared.
    """
    console = Console()
    found = xent_any.backends()
    unknown = set(names) - {info.name for info in found}
    if unknown:
        console.print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(info.name for info in found)}")
        return 2
    plan, not_run = _plan([info for info in found if not names or info.name in (*names, "numpy")])
    if all(backend.name == "numpy" for backend, _, _ in plan):
        console.print("nothing to compare NumPy with", *not_run, sep="\n", highlight=False, markup=False)
        return 2
    output.mkdir(parents=True, exist_ok=True)
    problem = _train.load_problem()
    runs = []
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=epochs * len(plan))
        advance = partial(progress.advance, bar)
        for backend, dtype, device in plan:
            progress.update(bar, description=f"{backend.name} {dtype}")
            runs.append(_train.train(problem, backend, dtype, device, epochs=epochs, advance=advance))
    references = {run.dtype: run for run in runs if run.backend == "numpy"}
    bound = _train.rounding_bound(problem, epochs)
    differences = [_train.difference(run, references[run.dtype], bound) for run in runs]
    status, verdict = _verdict(runs, differences)
    rows = [HEADING, *map(_row, runs, differences)]
    notes = (LEGEND, _bound_text(problem, references, bound))
    page = _page.write(
        output,
        verdict=verdict,
        good=status == 0,
        facts=[("command", command), *_facts(found), *(("not run", text) for text in not_run)],
        table=rows,
        notes=notes,
        sections=_sections(problem, runs, references, bound),
    )
    title = "Softmax regression, from the same start on every backend"
    table = Table(title=title, box=None, pad_edge=False, collapse_padding=True)
    for i, heading in enumerate(HEADING):
        is_text = i < 3
        table.add_column(heading, justify="left" if is_text else "right", vertical="bottom", no_wrap=not is_text)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)
    for text in (*(f"not run: {text}" for text in not_run), *notes):
        console.print(text, highlight=False, markup=False)
    console.print(verdict, style="bold green" if status == 0 else "bold red", highlight=False)
    console.print(f"written: {page.resolve()}", highlight=False, markup=False, soft_wrap=True)
    return status


def _verdict(runs: Sequence[_train.Run], differences: Sequence[_train.Difference]) -> tuple[int, str]:
    beyond = [run for run, difference in zip(runs, differences, strict=True) if not difference.within_bound]
    if beyond:
        return 1, f"They disagree: {_listed(beyond)} differ from NumPy by more than rounding can explain."
    largest = max(difference.of_bound for difference in differences)
    return 0, f"They agree: {_listed(runs)} differ by at most {largest:.2%} of what rounding can explain."


def _facts(found: Sequence[xent_any.BackendInfo]) -> list[tuple[str, str]]:
    libraries = [f"{info.name} {info.version}" for info in found if info.version is not None]
    versions = [f"xent_any {xent_any.__version__}", f"Python {platform.python_version()}", *libraries]
    return [
        ("date", f"{dt.datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"),
        ("machine", f"{platform.machine()}, {os.cpu_count()} logical processors, {platform.platform()}"),
        ("versions", ", ".join(versions)),
    ]


def _listed(runs: Sequence[_train.Run]) -> str:
    names = list(dict.fromkeys(run.backend for run in runs))
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _plan(found: Sequence[xent_any.BackendInfo]) -> tuple[list[tuple[xent_any.Backend, str, Any]], list[str]]:
    """What is trained, NumPy first, and what is not with the reason."""
    plan, not_run = [], []
    for info in sorted(found, key=lambda info: info.name != "numpy"):
        if info.backend is None or info.reason is not None:
            not_run.append(f"{info.name}: {info.reason}")
            continue
        devices = list(info.backend.devices())
        if info.name == "array_api_strict":
            not_run.append(f"{info.name} on its devices but the first, which imitate what other libraries lack")
            devices = devices[:1]
        for device, dtype in product(devices, DTYPES):
            obstacle = _train.obstacle(info.backend, dtype, device)
            if obstacle is None:
                plan.append((info.backend, dtype, device))
            else:
                not_run.append(f"{info.name} on {device_text(device)} in {dtype}: {obstacle}")
    return plan, not_run


def _row(run: _train.Run, difference: _train.Difference) -> tuple[str, ...]:
    numbers = f"{run.final_loss:.6f}", f"{run.accuracy:.1%}"
    from_numpy = f"{difference.ulp:.0f}", f"{difference.relative:.0e}", f"{difference.of_bound:.2%}"
    return run.backend, run.device, run.dtype, *numbers, *from_numpy, f"{run.seconds:.1f}"


def _bound_text(problem: _train.Problem, references: Mapping[str, _train.Run], bound: _train.Values) -> str:
    last = " and ".join(
        f"{bound[-1] * np.finfo(dtype).eps / 2 / run.losses[-1]:.0e} in {dtype}" for dtype, run in references.items()
    )
    return (
        "The bound is for the loss of each step, and is derived, not chosen. The loss is convex and the step of "
        f"{problem.step:g} at most 2 / L, where L bounds its curvature: gradient descent then never takes two "
        "parameters further apart, and the rounding errors of its steps add up but are not amplified. Each is at most "
        "as many unit roundoffs as its sums have terms, plus the (8 + d) that xent_any promises. At the last step the "
        f"bound is, relative to the loss, {last}; at the first steps, where little has added up, far less."
    )


def _sections(
    problem: _train.Problem, runs: Sequence[_train.Run], references: Mapping[str, _train.Run], bound: _train.Values
) -> list[_page.Section]:
    shown = references["float64"]
    wrong = int(np.sum(shown.predictions != problem.test_labels))
    margin, truth, losses = _figures.confident_losses()
    promised = truth >= 4 * 2.0**-100  # below it, exponentials may be subnormal
    zeros = [
        f"{name} gives exactly 0 from M = {margin[loss == 0][0]:g} on"
        if np.any(loss[promised] == 0)
        else f"the relative error of {name} is at most {np.max(np.abs(loss / truth - 1)[promised]):.0e} up to "
        f"M = {margin[promised][-1]:g}, where its promise ends"
        for name, loss in losses.items()
    ]
    return [
        _page.Section(
            "The loss curves",
            f"Left: all {len(runs)} curves, drawn from wide to narrow because they lie on each other. Right: the "
            "largest difference in each epoch; 0 is a loss that is the same to the last bit, and the dashed "
            "lines are the bounds.",
            "loss-curves",
            _figures.loss_curves(runs, references, bound),
        ),
        _page.Section(
            "What was learned",
            "The weights of each digit, as the image they are multiplied with: ink on red pixels speaks for the digit, "
            f"on blue ones against it. ({shown.backend}, {shown.dtype})",
            "learned-weights",
            _figures.learned_weights(shown),
        ),
        _page.Section(
            "What is mistaken for what",
            f"{len(problem.test_labels)} images were kept for this test; {len(problem.test_labels) - wrong} are "
            f"recognised, {wrong} are not. ({shown.backend}, {shown.dtype})",
            "confusion-matrix",
            _figures.confusion_matrix(problem, shown),
        ),
        _page.Section(
            "Why not squared error",
            "Where the model is sure of a wrong class, the logit of the true class is low and the gradient should say "
            "so. That of cross-entropy is p - 1, which tends to -1. That of squared error has the factor p (1 - p), "
            "from the derivative of softmax, and vanishes: exactly where the model is most wrong it learns nothing. "
            "Nor is squared error convex in the logits, so that the bound above would not hold for it.",
            "squared-error",
            _figures.against_squared_error(),
        ),
        _page.Section(
            "Confident and right",
            f"In float32, {'; '.join(zeros)}. log(sum of exp) - x loses what is small beside x; with the largest "
            "logit taken out of the sum, log1p of the rest keeps it.",
            "confident-loss",
            _figures.confident(margin, truth, losses),
        ),
    ]
