"""Where the time of loss and gradient goes on NumPy arrays, on one thread.

``python benchmarks/profile_numpy.py benchmarks/records/profile_numpy.json docs/performance.md`` times every primitive
of the adapter while it computes, less the primitives that it calls, writes the record, and the table into the page.
Each figure is the median of the repeats, in ns for a logit, of new logits every time.
"""

import functools
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["XENT_ANY_NUM_THREADS"] = "1"  # read once, when first needed

import numpy as np

import xent_any
from xent_any import Piece
from xent_any_backends.numpy import NumPy
from xent_any_conformance import _machine
from xent_any_conformance.records import table

SHAPES = ((65536, 10), (8192, 1000), (1024, 32000))
LABELS = ("index", "smoothing", "probability")
REPEATS, INPUTS = 15, 3
PASSES = {
    "maximum": ("top",),
    "difference and exponential": ("exp",),
    "sums and products": ("sum", "dot", "_summed", "minus", "multiplied", "total"),
    "gradient scaled": ("scaled", "lessen"),
    "single classes": ("pick", "put"),
    "laid out": ("load", "compute"),
}
"""Primitives of the adapter; what is not among them is the rest."""
BEGIN, END = "<!-- the profile -->\n", "<!-- until here: the profile -->"


class Timed:
    """Times methods, less what the methods within them take."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.within = [0.0]

    def wrap(self, owner: Any, name: str) -> None:
        method: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(method)
        def timed(*args: Any, **options: Any) -> Any:
            self.within.append(0.0)
            start = time.perf_counter()
            try:
                return method(*args, **options)
            finally:
                taken = time.perf_counter() - start
                self.spent[name] += taken - self.within.pop()
                self.within[-1] += taken

        setattr(owner, name, timed)


def inputs(shape: tuple[int, int], labels: str) -> tuple[Any, Any, dict[str, Any]]:
    rng = np.random.default_rng(0)
    x = [3 * rng.standard_normal(shape, dtype=np.float32) for _ in range(INPUTS)]
    if labels == "probability":
        return x, [xent_any.softmax(a[::-1]) for a in x], {}
    options = {"label_smoothing": 0.1} if labels == "smoothing" else {}
    return x, [rng.integers(0, shape[1], shape[0])] * INPUTS, options


def measured(timed: Timed, shape: tuple[int, int], labels: str) -> dict[str, float]:
    x, y, options = inputs(shape, labels)
    runs: list[dict[str, float]] = []
    for i in range(REPEATS + 1):
        timed.spent.clear()
        start = time.perf_counter()
        xent_any.cross_entropy_value_and_grad(x[i % INPUTS], y[i % INPUTS], **options)
        whole = time.perf_counter() - start
        passes = {name: sum(timed.spent[m] for m in methods) for name, methods in PASSES.items()}
        runs.append(passes | {"the rest": whole - sum(passes.values()), "all": whole})
    count = shape[0] * shape[1]
    return {name: round(statistics.median(run[name] for run in runs[1:]) / count * 1e9, 3) for name in runs[0]}


def main() -> None:
    record, page = map(Path, sys.argv[1:3])
    timed = Timed()
    for name in (name for methods in PASSES.values() for name in methods):
        timed.wrap(Piece if name == "compute" else NumPy, name)
    rows = [
        {"shape": "x".join(map(str, shape)), "labels": labels} | measured(timed, shape, labels)
        for shape in SHAPES
        for labels in LABELS
    ]
    facts = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": _machine.facts()}
    versions = {"numpy": np.__version__, "xent_any": xent_any.__version__}
    record.write_text(json.dumps(facts | {"versions": versions, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    made = table(list(rows[0]), ([v if isinstance(v, str) else f"{v:.2f}" for v in row.values()] for row in rows))
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}{made}{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
