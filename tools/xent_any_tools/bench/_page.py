"""The record as one page with everything inside."""

from collections.abc import Sequence
from html import escape

from xent_any_conformance import _html

from . import _figures
from ._summary import LEGEND, Case, Record, about, cases, duration, kinds, ratio, reasons, spread, title, wrong

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
    found = cases(record)
    plain = [case for case in found if not case.record["growth"]]
    usual = [case for case in plain if (case.problem.dtype, case.problem.option) == ("float32", "index")]
    others = [case for case in plain if case not in usual]
    wrongs = wrong(record)
    parts = [
        "<h1>Cross-entropy against what memory allows</h1>",
        f"<p>{escape(LEGEND)}</p>",
        *(_html.verdict(text, False) for text in wrongs),
        _html.facts(about(record)),
    ]
    for threads in dict.fromkeys(case.threads for case in usual):
        those = [case for case in usual if case.threads == threads]
        parts += _section(f"Time, {_threads(those[0])}", _figures.against_limit(those, lambda case: case.problem.name))
    parts += _section(
        "Peak extra memory",
        _figures.memory(usual[-1:] and [c for c in usual if c.threads == usual[-1].threads], lambda c: c.problem.name),
    )
    for threads in dict.fromkeys(case.threads for case in others):
        those = [case for case in others if case.threads == threads]
        figure = _figures.against_limit(those, lambda c: f"{c.problem.name}\n{c.problem.dtype}, {c.problem.option}")
        parts += _section(f"Other dtypes and labels, {_threads(those[0])}", figure)
    parts += _section("As it grows", _figures.growth([case for case in found if case.record["growth"]]))
    parts.append("<h2>All figures</h2>")
    parts += [
        f"<details><summary>{escape(case.title)}</summary>{_table(case)}</details>" for case in found if case.timed
    ]
    left_out = [f"<li>{escape(why)} ({escape(', '.join(names))})</li>" for why, names in reasons(record)]
    if left_out:
        parts.append(f"<h2>Not timed</h2><ul>{''.join(left_out)}</ul>")
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
                    spread(row),
                    *(ratio(value) for value in (line.of_limit, line.of_ours, line.peak)),
                ]
            )
    return _html.table(["", "arrays", "time", "", "/ limit", "/ ours", "peak"], rows)
