"""The record on the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

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


def terminal(record: Record, console: Console) -> None:
    """Print a table for each case, what was left out and why, and what went wrong."""
    for case in cases(record):
        if case.record["growth"]:
            continue  # the page plots them
        console.print()
        console.print(_table(case))
    console.print()
    console.print(LEGEND, style="dim", highlight=False)
    for why, names in not_timed_by_reason(record):
        console.print(f"not timed: {why} ({', '.join(names)})", highlight=False, markup=False)
    for name, value in provenance(record):
        console.print(f"{name}: {value}", highlight=False, markup=False)
    for text in failures(record):
        console.print(text, style="bold red", highlight=False, markup=False)


def _table(case: Case) -> Table:
    table = Table(title=case.title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    has_peak = any("peak_bytes" in row for row in case.timed)
    table.add_column("")
    headings = ("time", "", "/ limit", "/ ours", *(["peak"] if has_peak else []))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    for kind in kinds([case]):
        table.add_row(Text(kind, "bold"))
        group = "limit"
        for line in case.lines(kind):
            row = line.row
            if row["group"] != group:
                group = row["group"]
                table.add_row(Text(f" on {group}", "italic"))
            style = "cyan" if row["ours"] else "dim" if row["limit"] else ""
            ratios = (line.of_limit, line.of_ours, *([line.peak] if has_peak else []))
            cells = (f"  {title(row)}", duration(row["median"]), interquartile(row), *map(ratio, ratios))
            table.add_row(*(Text(cell, style) for cell in cells))
    return table
