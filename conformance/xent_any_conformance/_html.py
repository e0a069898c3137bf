"""What our pages share: one style for light and dark screens, and one file with everything inside."""

import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; --good: #00734d; --bad: #b33c00; }
body { font: 17px/1.55 system-ui, sans-serif; max-width: 1120px; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { line-height: 1.2; margin-bottom: .3rem; } h2 { margin-top: 2.6rem; }
p { max-width: 50rem; } .note { font-size: 15px; }
.verdict { color: #fff; background: var(--bad); padding: .8rem 1.2rem; border-radius: 8px; max-width: none; }
.verdict.good { background: var(--good); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; background: var(--soft); }
img { width: 100%; background: #fff; border-radius: 8px; border: 1px solid var(--line); box-sizing: border-box; }
img.narrow { width: 62%; display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; font-size: 15px; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
code { font-size: .92em; }
"""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """A page of `parts`, which are HTML; `style` is added to what all pages share."""
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body>",
    ]
    return "\n".join([*head, *parts, "</body></html>\n"])


def verdict(text: str, good: bool) -> str:
    """The banner."""
    return f'<p class="verdict{" good" if good else ""}"><strong>{html.escape(text)}</strong></p>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and values."""
    lines = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in pairs)
    return "\n".join(["<dl>", *lines, "</dl>"])


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table whose cells are HTML; a cell that begins with ``<td`` or ``<th`` brings its own tag."""
    body = ("".join(cell if cell.startswith(("<td", "<th")) else f"<td>{cell}</td>" for cell in row) for row in rows)
    return "\n".join(
        [
            f'<div class="scroll {kind}"><table><thead><tr>',
            *(cell if cell.startswith("<th") else f"<th>{cell}</th>" for cell in heading),
            "</tr></thead><tbody>",
            *(f"<tr>{row}</tr>" for row in body),
            "</tbody></table></div>",
        ]
    )
