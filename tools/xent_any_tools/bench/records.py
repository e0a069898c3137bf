"""The tables of the documentation, made from a record.

``python -m xent_any_tools.bench.records benchmarks/records/cpu.json docs/performance.md`` writes them.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from xent_any_conformance.records import BEGIN, END, table

from ._summary import Case, Line, Record, cases, duration, kinds, not_timed_by_reason, provenance, ratio, title


def markdown(record: Record) -> str:
    """Times, ratios and peak memory of float32 and index labels, times of others, and what the run was made with."""
    found = [case for case in cases(record) if not case.record["growth"]]
    usual = [case for case in found if (case.problem.dtype, case.problem.option) == ("float32", "index")]
    parts = []
    for threads in dict.fromkeys(case.threads for case in usual):
        selected = [case for case in usual if case.threads == threads]
        parts.append(f"## {selected[0].title.rpartition(', ')[2].capitalize()}\n")
        for kind in kinds(selected):
            parts.append(f"### {kind.capitalize()}\n\n{_table(selected, kind, _time)}")
    last = [case for case in usual if case.threads == usual[-1].threads]
    for kind in kinds(last):
        if any(line.peak is not None for case in last for line in case.lines(kind)):
            peaks = _table(last, kind, lambda line: ratio(line.peak), least=False)
            parts.append(f"## Peak extra memory, over the bytes of the logits: {kind}\n\n{peaks}")
    others = [case for case in found if case not in usual and case.threads == usual[-1].threads]
    parts += [f"## Other dtypes and labels: {kind}\n\n{_others(others, last, kind)}" for kind in kinds(others)]
    parts.append("## The run\n\n" + table(("", ""), provenance(record)))
    not_timed = "\n".join(f"* {why} ({', '.join(names)})" for why, names in not_timed_by_reason(record))
    return "\n".join([*parts, *([f"Not timed:\n\n{not_timed}\n"] if not_timed else [])])


def _time(line: Line) -> str:
    return f"{duration(line.row['median'])} ({ratio(line.of_limit)})"


def _table(selected: Sequence[Case], kind: str, cell: Callable[[Line], str], least: bool = True) -> str:
    """A row for each contestant, a column for each shape; of the limits only the least."""
    found: dict[str, dict[str, str]] = {}
    names: dict[str, tuple[str, str]] = {}
    for case in selected:
        for line in case.lines(kind):
            if line.row["limit"]:
                continue
            names[line.row["key"]] = (title(line.row), line.row["group"])
            found.setdefault(line.row["key"], {})[case.problem.name] = cell(line)
    shapes = [case.problem.name for case in selected]
    rows: list[Sequence[str]] = []
    if least:
        limits = (case.limits().get(kind) for case in selected)
        rows.append(["the limit", "", *(duration(limit) if limit else "-" for limit in limits)])
    for key in sorted(names, key=lambda key: _order(names[key])):
        name, group = names[key]
        name = f"**{name}**" if name.startswith("xent_any") else name
        rows.append([name, group, *(found[key].get(shape, "-") for shape in shapes)])
    return table(["", "arrays", *shapes], rows)


def _others(selected: Sequence[Case], usual: Sequence[Case], kind: str) -> str:
    """A row for each problem, a column for each contestant; ours also over the time of float32 and index labels."""
    rows_of_kind = [line.row for case in selected for line in case.lines(kind) if not line.row["limit"]]
    names = {row["key"]: (title(row), row["group"]) for row in rows_of_kind}
    keys = sorted(names, key=lambda key: _order(names[key]))
    before = {(case.problem.shape, row["key"]): row["median"] for case in usual for row in case.timed}
    rows = []
    for case in selected:
        cells = dict.fromkeys(keys, "-")
        for row in case.timed:
            if row["key"] in cells:
                cells[row["key"]] = duration(row["median"])
                same = before.get((case.problem.shape, row["key"]))
                if row["ours"] and same:
                    cells[row["key"]] += f" ({ratio(row['median'] / same)})"
        problem = case.problem
        rows.append([problem.name, problem.dtype, problem.option, *cells.values()])
    return table(["", "logits", "labels", *(", ".join(names[key]) for key in keys)], rows)


def _order(name: tuple[str, str]) -> tuple[int, bool, str]:
    groups = ("numpy", "torch", "torch compiled", "jax", "mlx", "cupy")
    return groups.index(name[1]), not name[0].startswith("xent_any"), name[0]


def main(record: Path, page: Path) -> None:
    """Write the tables into the page, between its markers."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    tables = markdown(json.loads(record.read_text(encoding="utf-8")))
    page.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
