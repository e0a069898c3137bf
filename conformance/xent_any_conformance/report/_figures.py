"""The figures of the report."""

from collections import defaultdict
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .._svg import TEXT, finish, svg
from ..plugin import EDGES
from ._summary import Summary, family, largest

# Those of Okabe and Ito's colours, which colour-blind readers can tell apart, that a dark page shows as well.
OURS, GRADIENT, PEERS = "#1f8fd6", "#E69F00", ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#999999")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))
PANELS = [(quantity, dtype) for quantity in ("loss", "grad") for dtype in ("float32", "float64")]
NAMES = {"loss": "loss", "grad": "gradient"}
HIGHEST = 1e17
"""Where errors beyond the bound end: a float64 result without a right digit is some 1e15 times its bound off."""


def distributions(summary: Summary) -> str | None:
    """How many results are further off than so many ULP: ours, and those of the peers' own functions."""
    tables: dict[tuple[str, str], defaultdict[str, dict[str, Any]]] = {panel: defaultdict(dict) for panel in PANELS}
    for result in summary.run["results"]:
        for found in result["measurements"] if family(result["id"]) == "truth" else ():
            if (found["quantity"], found["dtype"]) in tables and result["outcome"] != "deviates":
                counts = np.asarray(found["counts"])
                tables[found["quantity"], found["dtype"]][result["id"]][result["subject"]] = counts
    figure = Figure(figsize=(11.2, 7.4), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    lowest = 1.0
    for axes, panel in zip(grid.flat, PANELS, strict=True):
        peers = [name for name in summary.peers if any(name in table for table in tables[panel].values())]
        shared = [table for table in tables[panel].values() if all(name in table for name in peers)]
        lines: list[tuple[list[str], dict[str, Any]]] = [([name], {"color": OURS, "lw": 0.6}) for name in summary.ours]
        lines += [(summary.ours, {"color": OURS, "lw": 3, "label": "xent_any, all backends"})]
        for name, colour, dash in zip(summary.peers, PEERS, DASHES, strict=False):
            lines.append(
                ([name], {"color": colour, "ls": dash, "lw": 2, "label": f"{summary.subjects[name]['library']}'s own"})
            )
        for names, style in lines:
            counts = sum((table[name] for table in shared for name in names if name in table), np.zeros(len(EDGES) - 1))
            if counts.any():
                beyond = np.cumsum(counts[::-1])[::-1] / counts.sum()
                lowest = min(lowest, beyond[beyond > 0].min())
                axes.step(EDGES, np.maximum([*beyond, beyond[-1]], 1e-99), where="post", **style)
        axes.axvline(0.5, color=TEXT, lw=0.8, alpha=0.6)
        axes.set(xscale="log", yscale="log", title=f"{NAMES[panel[0]].capitalize()}, {panel[1]}")
        axes.set_xticks([2.0**k for k in range(-6, 31, 6)], [*(f"$2^{{{k}}}$" for k in range(-6, 30, 6)), "$≥2^{30}$"])
        finish(axes)
    if lowest == 1:
        return None
    grid[0, 0].set(xlim=(EDGES[0], EDGES[-1]), ylim=(lowest / 2, 1.3))
    figure.supxlabel("error (ULP)", size="medium", color=TEXT)
    figure.supylabel("share of the results with an error at least as large", size="medium", color=TEXT)
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=6, frameon=False, labelcolor=TEXT)
    return svg(figure)


def shares(summary: Summary) -> str | None:
    """The worst error of each subject in the truth tables, as a share of what is promised."""
    worst: defaultdict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for result in summary.run["results"]:
        for found in result["measurements"] if family(result["id"]) == "truth" else ():
            if result["outcome"] != "deviates":
                mine, panel = worst[result["subject"]], (found["quantity"], found["dtype"])
                mine[panel] = largest(mine.get(panel), found["share"])
    names = [name for name in (*summary.ours, *summary.peers) if name in worst]
    if not names:
        return None
    figure = Figure(figsize=(11.2, 1.3 + 0.27 * len(names)), layout="constrained")
    within, beyond = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.01})
    for (quantity, dtype), marker in zip(PANELS, "osos", strict=True):
        x = np.array([worst[name].get((quantity, dtype), np.nan) for name in names])
        colour, offset = (OURS, 0.15) if quantity == "loss" else (GRADIENT, -0.15)
        style: dict[str, Any] = {"color": colour, "mfc": "none" if dtype == "float64" else colour, "clip_on": False}
        style |= {"ls": "none", "marker": marker, "ms": 7, "mew": 1.5, "label": f"{NAMES[quantity]}, {dtype}"}
        for axes, shown in ((within, x <= 1), (beyond, x > 1)):
            axes.plot(np.where(shown, np.minimum(x, HIGHEST), np.nan), offset - np.arange(len(names)), **style)
    titles = [f"{name} ({summary.subjects[name]['version']})" if name in summary.peers else name for name in names]
    within.set(xlim=(0, 1), ylim=(0.4 - len(names), 0.6), xlabel="within the promise: error / bound")
    within.set_yticks([-i for i in range(len(names))], titles)
    beyond.set(xscale="log", xlim=(1, HIGHEST), xlabel="beyond it: error / bound (right edge: infinite or NaN)")
    beyond.axvspan(1, HIGHEST, color=PEERS[0], alpha=0.1, lw=0)
    for axes in (within, beyond):
        axes.axhline(0.5 - sum(name in summary.ours for name in names), color=TEXT, lw=0.8, alpha=0.5)
        finish(axes)
    handles = within.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4, frameon=False, labelcolor=TEXT)
    return svg(figure)
