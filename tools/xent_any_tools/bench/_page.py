"""The record as one page with everything inside."""

from collections.abc import Sequence
from html import escape

from xent_any_conformance import _html

from . import _figures
from ._summary import (
    LEGEND,
    Case,
    Record,
    cases,
    duration,
    failures,
    interquartile,
    kinds,
    not_timed_by_reason,
    provenance,
    ratio,
    title,
)

STYLE = """
body { max-width: 1240px; } svg { width: 100%; height: auto; }
table { font-size: 14px; } th, td { padding: .2rem .55rem; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
details { margin: .4rem 0; } summary { cursor: pointer; }
tr:has(.ours) { background: color-mix(in srgb, #1f8fd6 12%, transparent); } tr:has(.limit) { opacity: .65; }
td.kind { font-weight: 600; padding-top: .8rem; }
"""


def html(record: Record) -> str:
    """The page."""
    every = cases(record)
    plain = [case for case in every if not case.record["growth"]]
    usual = [case for case in plain if (case.problem.dtype, case.problem.option) == ("float32", "index")]
    others = [case for case in plain if case not in usual]
    parts = [
        "<h1>Cross-entropy against what memory allows</h1>",
        f"<p>{escape(LEGEND)}</p>",
        *(_html.verdict(text, False) for text in failures(record)),
        _html.facts(provenance(record)),
    ]
    for threads in dict.fromkeys(case.threads for case in usual):
        selected = [case for case in usual if case.threads == threads]
        parts += _section(
            f"Time, {_threads(selected[0])}", _figures.against_limit(selected, lambda case: case.problem.name)
        )
    parts += _section(
        "Peak extra memory",
        _figures.memory(usual[-1:] and [c for c in usual if c.threads == usual[-1].threads], lambda c: c.problem.name),
    )
    for threads in dict.fromkeys(case.threads for case in others):
        selected = [case for case in others if case.threads == threads]
        figure = _figures.against_limit(selected, lambda c: f"{c.problem.name}\n{c.problem.dtype}, {c.problem.option}")
        parts += _section(f"Other dtypes and labels, {_threads(selected[0])}", figure)
    parts += _section("As it grows", _figures.growth([case for case in every if case.record["growth"]]))
    parts.append("<h2>All figures</h2>")
    parts += [
        f"<details><summary>{escape(case.title)}</summary>{_table(case)}</details>" for case in every if case.timed
    ]
    not_timed = [f"<li>{escape(why)} ({escape(', '.join(names))})</li>" for why, names in not_timed_by_reason(record)]
    if not_timed:
        parts.append(f"<h2>Not timed</h2><ul>{''.join(not_timed)}</ul>")
    return _html.document("xent_any: cross-entropy against what memory allows", parts, STYLE)


def _threads(case: Case) -> str:
    return case.title.rpartition(", ")[2]


def _section(heading: str, figure: str | None) -> Sequence[str]:
    return [f"<h2>{escape(heading)}</h2>", figure] if figure else []


def _table(case: Case) -> str:
    rows = []
    for kind in kinds([case]):
        rows.append([f'<td class="kind" colspan="7">{escape(kind)}</td>'])
        for line in case.lines(kind):
            row = line.row
            mark = "ours" if row["ours"] else "limit" if row["limit"] else ""
            rows.append(
                [
                    f'<td class="{mark}">{escape(title(row))}</td>',
                    escape(row["group"]),
                    duration(row["median"]),
                    interquartile(row),
                    *(ratio(value) for value in (line.of_limit, line.of_ours, line.peak)),
                ]
            )
    return _html.table(["", "arrays", "time", "", "/ limit", "/ ours", "peak"], rows)
