"""The results on the terminal."""

import textwrap

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._summary import MARKS, Cell, Result, Run, Summary, by_reason, last_lines, plural

MOST_FAILURES, MOST_REASONS, LAST_LINES = 20, 20, 6


def terminal(run: Run, console: Console) -> None:
    """Print the matrix of backends and families, the peers, every reason that was given, and the verdict."""
    Printer(Summary(run), console).all()


class Printer:
    def __init__(self, summary: Summary, console: Console) -> None:
        self.summary, self.console = summary, console
        self.symbols = {key: mark.ascii if console.options.ascii_only else mark.symbol for key, mark in MARKS.items()}

    def all(self) -> None:
        run, summary = self.summary.run, self.summary
        about = f"Python {run['machine']['python']}, {run['machine']['platform']}"
        self.heading(f"Conformance of xent_any {run['xent_any']}{', quick' if run['quick'] else ''}: {about}")
        self.matrix()
        if summary.peers:
            self.peers()
        for title, results in {
            "Skipped, by reason": summary.of("skipped"),
            "Deviations, as declared": summary.of("deviates"),
        }.items():
            if results:
                self.heading(title)
                self.reasons(results)
        if run["unusable"]:
            self.heading("Not usable here")
            for each in run["unusable"]:
                self.say(f"{each['name']}: {each['reason']}", indent=2)
        if failures := summary.of("failed"):
            self.heading("Failures")
            self.failures(failures)
        self.console.print()
        self.say(summary.verdict(), "bold green" if run["passed"] else "bold red")

    def say(self, text: str, style: str = "", indent: int = 0) -> None:
        for line in text.splitlines():
            for piece in textwrap.wrap(line, max(40, self.console.width) - indent, break_on_hyphens=False):
                self.console.print(Text(" " * indent + piece, style=style))

    def heading(self, text: str) -> None:
        self.console.print()
        self.say(text, "bold")

    def matrix(self) -> None:
        summary, outcomes = self.summary, [key for key in MARKS if self.summary.of(key)]
        table = _table("backend", *summary.families, "ULP", "of bound", "s")
        for name in summary.ours:
            total = summary.total[name]
            mark = "failed" if total.worst == "failed" else "passed"
            cells = (self.counts(summary.cells[name, family]) for family in summary.families)
            seconds = f"{summary.subjects[name]['seconds']:.1f}"
            title = Text(f"{self.symbols[mark]} {name}", MARKS[mark].colour)
            table.add_row(title, *cells, *(total.errors() or ("", "")), seconds)
        self.console.print(table)
        legend = [f"{self.symbols[key]} {MARKS[key].text} ({len(summary.of(key)):,})" for key in outcomes]
        self.say(f"{'  '.join(legend)}. ULP: the largest error; of bound: the largest as a part of its bound.", "dim")

    def counts(self, cell: Cell) -> Text:
        counted = ((key, cell.counts[key]) for key in MARKS if cell.counts[key])
        return Text(" ").join(Text(f"{self.symbols[key]}{count}", MARKS[key].colour) for key, count in counted)

    def peers(self) -> None:
        self.heading("Other libraries' own functions on the same truth tables: not part of the verdict")
        table = _table("peer", "within the bound", "beyond it", "not there", "ULP", "of bound")
        for name in self.summary.peers:
            total, subject = self.summary.total[name], self.summary.subjects[name]
            counts = (f"{total.counts[key]:,}" for key in ("passed", "failed", "skipped"))
            table.add_row(f"{subject['library']} {subject['version']}", *counts, *total.errors())
        self.console.print(table)

    def reasons(self, results: list[Result]) -> None:
        reasons = by_reason(results)
        for reason, group in reasons[:MOST_REASONS]:
            names = list(dict.fromkeys(result["subject"] for result in group))
            listed = ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} others"
            self.say(f"{len(group):5d}  {reason} ({listed})")
        if rest := reasons[MOST_REASONS:]:
            self.say(
                f"{sum(len(group) for _, group in rest):5d}  for {len(rest)} other reasons, all in --html and --json"
            )

    def failures(self, failures: list[Result]) -> None:
        for result in failures[:MOST_FAILURES]:
            self.say(f"{result['subject']}  {result['id']}", "bold red")
            self.say(f"{result['statement']} [{result['source']}]", indent=2)
            for line in last_lines(result["reason"], LAST_LINES):
                self.say(line[:400], "dim", indent=4)
        if failures[MOST_FAILURES:]:
            self.say(f"and {plural(len(failures) - MOST_FAILURES, 'more failure')}, all in --html and --json")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", overflow="fold")
    return table
