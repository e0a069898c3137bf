"""The record on the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._summary import Case, Record, about, cases, duration, kinds, ratio, reasons, spread, title, wrong

LEGEND = (
    "time: the median of the repeats, and half the distance of their quartiles. / limit: the time over what memory "
    "alone takes: a pass that reads the logits for the loss, a copy of them for loss + gradient, one after the other "
    "for forward then backward. / ours: over the time of xent_any on the same arrays, compiled or not; above 1 is "
    "slower than ours. peak: extra memory at the peak of a call, its results among it, over the bytes of the logits."
)


def terminal(record: Record, console: Console) -> None:
    """Print a table for each case, what was left out and why, and what went wrong."""
    for case in cases(record):
        console.print()
        console.print(_table(case))
    console.print()
    console.print(LEGEND, style="dim", highlight=False)
    for why, names in reasons(record):
        console.print(f"not timed: {why} ({', '.join(names)})", highlight=False, markup=False)
    for name, value in about(record):
        console.print(f"{name}: {value}", highlight=False, markup=False)
    for text in wrong(record):
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
            cells = (f"  {title(row)}", duration(row["median"]), spread(row), *map(ratio, ratios))
            table.add_row(*(Text(cell, style) for cell in cells))
    return table
