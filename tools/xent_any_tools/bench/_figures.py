"""The figures of the page."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from xent_any_conformance._svg import TEXT, finish, svg

from ._summary import Case, Line, kinds, title
from .contestants import LOSS

# Those of Okabe and Ito's colours, which colour-blind readers can tell apart, that a dark page shows as well.
OURS = "#1f8fd6"
COLOURS = {
    "torch": "#D55E00",
    "optax": "#009E73",
    "scikit-learn": "#CC79A7",
    "scipy": "#E69F00",
    "keras": "#8c6bb1",
    "mlx": "#999999",
    "cupy": "#009E73",
    "liger-kernel": "#CC79A7",
    "quack-kernels": "#E69F00",
    "flash-attn": "#8c6bb1",
}
MARKERS = {"numpy": "o", "torch": "s", "torch compiled": "D", "jax": "^", "mlx": "v", "cupy": "P"}


def _colour(row: dict[str, Any]) -> str:
    return OURS if row["ours"] else COLOURS.get(row["library"], "#999999")


def _label(row: dict[str, Any]) -> str:
    return f"{title(row)} ({row['group']})"


def against_limit(cases: Sequence[Case], name: Callable[[Case], str]) -> str | None:
    """Time over the limit: a row for each case, a mark for each contestant."""
    figure = _marks(cases, name, lambda line: line.of_limit, "time / what memory alone takes", quartiles=True)
    if figure is None:
        return None
    for axes in figure.axes:
        axes.set_xscale("log")
        axes.axvline(1, color=TEXT, lw=1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        finish(axes)
    return svg(figure)


def memory(cases: Sequence[Case], name: Callable[[Case], str]) -> str | None:
    """Peak memory over that of the logits, in the same way."""
    figure = _marks(cases, name, lambda line: line.peak, "peak extra memory / logits", quartiles=False)
    if figure is None:
        return None
    for axes in figure.axes:
        axes.set_xlim(left=-0.15)
        finish(axes)
    return svg(figure)


def _marks(
    cases: Sequence[Case],
    name: Callable[[Case], str],
    value: Callable[[Line], float | None],
    label: str,
    quartiles: bool,
) -> Figure | None:
    shown = kinds(cases)
    if not any(value(line) is not None for case in cases for kind in shown for line in case.lines(kind)):
        return None
    figure = Figure(figsize=(11.2, 2.6 + 0.62 * len(cases)), layout="constrained")
    grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, kind in zip(grid, shown, strict=True):
        rows = {line.row["key"]: line.row for case in cases for line in case.lines(kind) if not line.row["limit"]}
        heights = dict(zip(rows, np.linspace(-0.36, 0.36, len(rows)), strict=True))
        for i, case in enumerate(cases):
            for line in case.lines(kind):
                row, x = line.row, value(line)
                if row["limit"] or x is None:
                    continue
                y, colour = i + heights[row["key"]], _colour(row)
                mark: dict[str, Any] = {"marker": MARKERS.get(row["group"], "x"), "ms": 6, "ls": "none", "mew": 1.3}
                mark |= {"color": colour, "mfc": colour if row["ours"] else "none"}
                (handle,) = axes.plot(x, y, **mark)
                legend = f"{'xent_any' if row['ours'] else row['library']} ({row['group']})"
                handles.setdefault(legend, handle)
                if quartiles:
                    ends = [x * row[q] / row["median"] for q in ("q1", "q3")]
                    axes.plot(ends, [y, y], color=colour, lw=1.2, alpha=0.7)
        for i in range(1, len(cases)):
            axes.axhline(i - 0.5, color=TEXT, lw=0.5, alpha=0.3)
        axes.set(title=kind, xlabel=label)
    grid[0].set_yticks(range(len(cases)), [name(case) for case in cases])
    grid[0].set_ylim(len(cases) - 0.5, -0.5)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=5,
        frameon=False,
        labelcolor=TEXT,
        fontsize=9,
    )
    return figure


def growth(cases: Sequence[Case]) -> str | None:
    """Time as N and as C grows, one column each, on logarithmic axes."""
    axes_of = {axis: [case for case in cases if case.record["growth"] == axis] for axis in "NC"}
    shown = kinds(cases)
    if not any(axes_of.values()):
        return None
    figure = Figure(figsize=(11.2, 4.2 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 2, squeeze=False, sharey="row")
    for line_of_axes, kind in zip(grid, shown, strict=True):
        for axes, (axis, selected) in zip(line_of_axes, axes_of.items(), strict=True):
            rows = {row["key"]: row for case in selected for row in case.timed if row["computes"] == kind}
            for key, row in rows.items():
                if row["limit"]:
                    continue
                points = [
                    (case.problem.shape["NC".index(axis)], 1e3 * r["median"])
                    for case in selected
                    for r in case.timed
                    if r["key"] == key
                ]
                mark = {"marker": MARKERS.get(row["group"], "x"), "ms": 4, "color": _colour(row), "lw": 1.2}
                axes.plot(*zip(*points, strict=True), label=_label(row), **mark)
            limits = [(case.problem.shape["NC".index(axis)], case.limits().get(kind)) for case in selected]
            known = [(size, 1e3 * limit) for size, limit in limits if limit is not None]
            if known:
                axes.plot(*zip(*known, strict=True), color=TEXT, lw=2, ls="--", label=_limit_text(kind))
            other = selected[0].problem.shape["CN".index(axis)] if selected else ""
            axes.set(xscale="log", yscale="log", xlabel=axis, title=f"{kind}, {'CN'['NC'.index(axis)]} = {other}")
            finish(axes)
        line_of_axes[0].set_ylabel("ms", color=TEXT)
        beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}
        line_of_axes[1].legend(fontsize=8, frameon=False, labelcolor=TEXT, **beside)
    return svg(figure)


def _limit_text(kind: str) -> str:
    return "a pass that reads" if kind == LOSS else "the copy" if "+" in kind else "a pass that reads, and the copy"
