"""The results as one page with everything inside."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import Any

from .. import _html
from .._machine import device_text
from . import _figures
from ._summary import (
    MARKS,
    Cell,
    Result,
    Run,
    Summary,
    by_reason,
    family,
    last_lines,
    number,
    part,
    plural,
    topic,
)

STYLE = """
:root { --ok: #00875a; --meh: #b07800; --no: #c23c00; }
@media (prefers-color-scheme: dark) { :root { --ok: #3fbf8f; --meh: #e0a830; --no: #ff7a45; } }
body { max-width: 1240px; }
nav { font-size: 15px; } nav a { margin-right: 1.1rem; white-space: nowrap; }
h3 { margin: 1.4rem 0 .2rem; font-size: 16px; }
svg { width: 100%; height: auto; }
pre { background: var(--soft); padding: .8rem 1rem; border-radius: 8px; overflow-x: auto; }
pre { font-size: 13px; line-height: 1.45; white-space: pre-wrap; }
input { font: inherit; width: 100%; max-width: 30rem; padding: .4rem .7rem; box-sizing: border-box; }
details { margin: .5rem 0; } td details { margin: 0; } summary { cursor: pointer; } td summary { white-space: nowrap; }
table { font-size: 14px; } th, td { padding: .25rem .55rem; vertical-align: top; }
th:first-child, td:first-child, .text td, .text th { text-align: left; }
.text td { overflow-wrap: anywhere; } .text td:first-child { min-width: 15rem; } .text code { white-space: nowrap; }
td small { opacity: .75; display: block; white-space: nowrap; font-size: 12px; line-height: 1.35; }
.tall { max-height: 36rem; overflow-y: auto; border-bottom: 1px solid var(--line); }
.tall th { position: sticky; top: 0; background: Canvas; box-shadow: 0 1px var(--line); z-index: 1; }
b { white-space: nowrap; font-weight: 600; } b.skipped { opacity: .6; font-weight: 400; }
b.passed { color: var(--ok); } b.failed { color: var(--no); } b.deviates { color: var(--meh); }
td.passed { background: color-mix(in srgb, var(--ok) 9%, transparent); }
td.deviates { background: color-mix(in srgb, var(--meh) 14%, transparent); }
td.failed { background: color-mix(in srgb, var(--no) 18%, transparent); }
.heat table { font-size: 12px; width: auto; } .heat td { padding: .25rem; text-align: center; min-width: 2.3rem; }
.heat th { background: none; white-space: nowrap; } .heat td.self { background: var(--soft); }
.heat thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: .3rem; }
.bars { display: flex; gap: 2px; } .bars i { width: 7px; height: 17px; border-radius: 2px; background: #8883; }
.bars i.passed { background: var(--ok); } .bars i.failed { background: var(--no); }
.bars i.deviates { background: repeating-linear-gradient(45deg, var(--meh) 0 3px, #8883 3px 5px); }
"""

SEARCH = """<script>
document.getElementById("search").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const family of document.querySelectorAll("details.family")) {
    const rows = [...family.querySelectorAll("tbody tr")];
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    family.hidden = rows.every((row) => row.hidden);
    family.open = words.length > 0;
  }
});
</script>"""

DTYPE = re.compile(r"\b(?:bfloat16|float16|float32|float64)\b-?")


def html(run: Run) -> str:
    """A page that needs no other file and no network, in light and dark."""
    summary, machine = Summary(run), run["machine"]
    sections = {
        "Backends and checks": _matrix(summary),
        "What fails": _failures(summary),
        "How large the errors are": _errors(summary),
        "Where other libraries' own functions fall": _peers(summary) if summary.peers else [],
        "How far the backends are from each other": _agreement(summary) if run["agreement"] else [],
        "Declared deviations": _reasons(summary.of("deviates")),
        "Skips by reason": _reasons(summary.of("skipped")),
        "Not usable here": [_html.facts((each["name"], each["reason"]) for each in run["unusable"])],
        "Versions and declarations": _versions(summary),
        "How to reproduce this": _reproduce(summary),
        "All checks": _checks(summary),
    }
    if not run["unusable"]:
        del sections["Not usable here"]
    facts = {
        "date": f"{datetime.fromisoformat(run['date']):%Y-%m-%d %H:%M %Z}",
        "machine": f"{machine['processor']}, {plural(machine['cpus'], 'logical processor')}, {machine['platform']}",
        "versions": f"xent_any {run['xent_any']}, Python {machine['python']}",
        "command": f"{run['command']} ({run['seconds']:.0f} s)",
    }
    parts = [
        "<h1>Conformance of xent_any</h1>",
        "<p>One cross-entropy on every array library: does each keep the contract, and how large are its errors?</p>",
        _html.verdict(summary.verdict(), run["passed"]),
        _html.facts(facts.items()),
        "<nav>",
        *(f'<a href="#s{i}">{escape(title)}</a>' for i, (title, found) in enumerate(sections.items()) if found),
        "</nav>",
    ]
    for i, (title, found) in enumerate(sections.items()):
        parts += [f'<h2 id="s{i}">{escape(title)}</h2>', *found] if found else []
    return _html.document("xent_any: conformance", parts, STYLE)


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _more(summary: str, text: str, attributes: str = "") -> str:
    return f"<details{attributes}><summary>{summary}</summary>{text}</details>"


def _td(cell: Cell) -> str:
    counted = ((key, cell.counts[key]) for key in MARKS if cell.counts[key])
    marks = " ".join(f'<b class="{key}">{MARKS[key].symbol} {count}</b>' for key, count in counted)
    errors = f"<small>{' ULP · '.join(cell.errors())}</small>" if cell.errors() else ""
    return f'<td class="{cell.worst}">{marks}{errors}</td>'


def _name(subject: dict[str, Any]) -> str:
    return f"<strong>{escape(subject['name'])}</strong><small>{escape(subject['library'])} {subject['version']}</small>"


def _matrix(summary: Summary) -> list[str]:
    rows = []
    for name in summary.ours:
        cells = (_td(summary.cells[name, family]) for family in summary.families)
        subject = summary.subjects[name]
        rows.append([_name(subject), *cells, _td(summary.total[name]), f"{subject['seconds']:.1f}"])
    text = (
        f"{', '.join(f'{mark.symbol} {mark.text}' for mark in MARKS.values())}. Below: the largest error in units in "
        "the last place (ULP), and the largest as a part of the error that the contract allows that result, which need "
        "not be the same result: far rows are allowed more ULP. Errors of declared deviations are left out."
    )
    return [_html.table(["backend", *summary.families, "all", "time (s)"], rows), _note(text)]


def _failures(summary: Summary) -> list[str]:
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for result in summary.of("failed"):
        groups[topic(result["id"])].append(result)
    parts = []
    for id_, results in groups.items():
        about, kind = results[0], results[0]["outcome"]
        parts.append(f'<h3><b class="{kind}">{MARKS[kind].symbol}</b> <code>{escape(id_)}</code></h3>')
        parts.append(_note(f"{about['statement']} ({about['source']})"))
        for result in results:
            reason = "\n".join(result["reason"].splitlines()[-60:])[-8000:]
            error = escape(" ".join(last_lines(reason, 2)[:1])[:150])
            title = f"<strong>{escape(result['subject'])}</strong> <code>{escape(result['id'])}</code> {error}"
            parts.append(_more(title, f"<pre>{escape(reason)}</pre>"))
    return parts


def _errors(summary: Summary) -> list[str]:
    figure = _figures.shares(summary)
    text = (
        "The worst result of each backend in the truth tables, beside the error promised of that result, (8 + d) u, "
        "which docs/derivation.md derives. The truth is computed in many digits from the definitions."
    )
    return [_note(text), figure] if figure else []


def _peers(summary: Summary) -> list[str]:
    """The peers' errors, and where each falls, table by table; a table's dtypes are one line."""
    cells: defaultdict[str, defaultdict[str, Cell]] = defaultdict(lambda: defaultdict(Cell))
    for result in (result for result in summary.run["results"] if family(result["id"]) == "truth"):
        name = result["subject"] if result["subject"] in summary.peers else ""
        id_ = DTYPE.sub("", result["id"]).replace("-]", "]").replace("[]", "")
        cells[id_][name].add(result)
        cells["all"][name].add(result)
    heading = ["table", "xent_any, all backends"]
    heading += [
        escape(f"{summary.subjects[name]['library']} {summary.subjects[name]['version']}") for name in summary.peers
    ]

    def table(ids: Iterable[str], kind: str = "") -> str:
        rows = (
            [f"<code>{escape(id_)}</code>", *(_td(cells[id_][name]) for name in ("", *summary.peers))] for id_ in ids
        )
        return _html.table(heading, rows, kind)

    ids = sorted(set(cells) - {"all"})
    falls = [id_ for id_ in ids if any(cells[id_][name].counts["failed"] for name in summary.peers)]
    holds = [id_ for id_ in ids if id_ not in falls]
    text = (
        "For each error, how many of the results are at least as far off, on those tables that every peer can run. "
        "Thin: each of our backends. Upright: half a unit, which no rounding can beat. In float32, 2^24 is a result "
        "without a right digit; what goes on to the right edge is farther off, infinite or NaN. Declared "
        "deviations are left out."
    )
    return [
        _note(
            "The functions that these libraries have themselves, called as their users call them, on the same tables. "
            "They never promised our bound, and are not part of the verdict: this shows what the bound is worth."
        ),
        table(["all"]),
        "<h3>Distribution of the errors</h3>",
        _note(text),
        _figures.distributions(summary) or "",
        f"<h3>The {plural(len(falls), 'table')} of {len(ids)} where a peer is beyond the bound</h3>",
        table(falls, "tall"),
        _more(f"The {plural(len(holds), 'table')} where none is", table(holds, "tall")),
    ]


def _agreement(summary: Summary) -> list[str]:
    """Each pair of backends: the loss below the diagonal, derivatives above it; then each quantity's farthest pair."""
    pairs: dict[tuple[str, str, bool], dict[str, Any]] = {}
    quantities: dict[str, dict[str, Any]] = {}
    for found in summary.run["agreement"]:
        derivative = found["quantity"] in ("grad", "hvp")
        for key in ((found["a"], found["b"], derivative), (found["b"], found["a"], derivative)):
            pairs[key] = max(pairs.get(key, found), found, key=lambda each: float(each["share"]))
        quantity = found["quantity"]
        quantities[quantity] = max(quantities.get(quantity, found), found, key=lambda each: float(each["share"]))
    named = {name for name, _, _ in pairs}
    names = [name for name in dict.fromkeys([*summary.subjects, *sorted(named)]) if name in named]

    def cell(i: int, j: int) -> str:
        found = pairs.get((names[i], names[j], j > i))
        if found is None:
            return '<td class="self"></td>'
        share, where = found["share"], f"{names[i]} and {names[j]}, {found['quantity']} of {found['problem']}"
        strength = f"var(--{'ok' if share <= 1 else 'no'}) {10 + 60 * min(share, 1):.0f}%" if share else "transparent"
        style = f"background:color-mix(in srgb, {strength}, transparent)"
        title = escape(f"{where}: {number(found['largest'])}")
        return f'<td style="{style}" title="{title}">{part(share) if share else 0}</td>'

    rows = [[f"<th>{escape(name)}</th>", *(cell(i, j) for j in range(len(names)))] for i, name in enumerate(names)]
    worst = [[q, f["problem"], f["a"], f["b"], number(f["largest"]), part(f["share"])] for q, f in quantities.items()]
    text = (
        "The largest difference of each pair on large random problems with all options, as a part of what rounding can "
        "explain; 0: the same to the last bit. Below the diagonal the loss, above it gradient and Hessian."
    )
    heading = ["quantity", "problem", "between", "and", "largest difference", "part of what rounding explains"]
    return [
        _note(text),
        _html.table(["", *map(escape, names)], rows, "heat"),
        "<h3>The pairs that are farthest apart</h3>",
        _html.table(heading, [list(map(escape, row)) for row in worst], "text"),
    ]


def _reasons(results: Sequence[Result]) -> list[str]:
    rows = []
    for reason, group in by_reason(results):
        names, ids = (
            list(dict.fromkeys(r["subject"] for r in group)),
            list(dict.fromkeys(topic(r["id"]) for r in group)),
        )
        rows.append(
            [escape(reason), str(len(group)), _few(names, 5, "backend"), f"<code>{_few(ids, 2, 'check')}</code>"]
        )
    return [_html.table(["reason", "times", "backends", "checks"], rows, "text")] if rows else []


def _few(names: Sequence[str], most: int, noun: str) -> str:
    text = escape(", ".join(names))
    return text if len(names) <= most else _more(plural(len(names), noun), text)


def _versions(summary: Summary) -> list[str]:
    rows = []
    for subject in summary.subjects.values():
        labels = {"read": "raise", "NaN": "are NaN"}.get(subject["labels"], "")
        ours = [] if subject["peer"] else [", ".join(subject["transforms"]), labels]
        about = (device_text(subject["device"]).rpartition(".")[2], ", ".join(subject["dtypes"]), *ours)
        rows.append([_name(subject), *map(escape, about)])
    packages = ", ".join(f"{name} {version}" for name, version in summary.run["packages"].items())
    heading = ["backend", "device", "dtypes", "transforms", "wrong labels"]
    return [_html.table(heading, rows, "text"), _note(f"Beside them: {packages}.")]


def _reproduce(summary: Summary) -> list[str]:
    run = summary.run
    versions = {subject["library"]: subject["version"] for subject in summary.subjects.values()} | run["packages"]
    pins = (f"{name}=={version.partition('+')[0]}" for name, version in versions.items() if version[:1].isdigit())
    start = f"xent-any conformance{' --quick' if run['quick'] else ''} {(summary.ours or ['numpy'])[0]}"
    commands = [
        f"pip install 'xent-any[conformance]=={run['xent_any']}' {' '.join(pins)}",
        run["command"],
        f"{start}  # one backend",
        f"{start} --checks {topic(summary.results[0]['id']) if summary.results else 'truth'}  # one check",
    ]
    return [f"<pre>{escape(chr(10).join(commands))}</pre>"]


def _checks(summary: Summary) -> list[str]:
    groups: defaultdict[str, defaultdict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in summary.results:
        groups[family(result["id"])][topic(result["id"])].append(result)
    order = f"The bars at the right are, from left to right: {', '.join(summary.ours)}. Grey: skipped."
    parts = [_note(order), '<input id="search" type="search" placeholder="Search" aria-label="Search the checks">']
    heading = ["check", "what must hold", "source", "cases", "on each backend"]
    for name in summary.families:
        rows = [_check(summary, id_, results) for id_, results in sorted(groups[name].items())]
        title = f"<strong>{name}</strong>: {plural(len(rows), 'check')}"
        parts.append(_more(title, _html.table(heading, rows, "text"), ' class="family"'))
    return [*parts, SEARCH]


def _check(summary: Summary, id_: str, results: Sequence[Result]) -> list[str]:
    cells: defaultdict[str, Cell] = defaultdict(Cell)
    for result in results:
        cells[result["subject"]].add(result)
    bars = []
    for name in summary.ours:
        counts: Counter[str] = cells[name].counts
        title = ", ".join(f"{count} {MARKS[key].text}" for key, count in counts.items()) or "not run"
        bars.append(f'<i class="{cells[name].worst}" title="{escape(name)}: {title}"></i>')
    cases = list(dict.fromkeys(result["id"].removeprefix(id_).strip("[]") for result in results))
    listed = _more(str(len(cases)), escape(", ".join(cases))) if any(cases) else "1"
    statement = results[0]["statement"]
    about = (escape(statement), escape(results[0]["source"]))
    return [f"<code>{escape(id_)}</code>", *about, listed, f'<div class="bars">{"".join(bars)}</div>']
