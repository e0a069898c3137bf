"""The page of the demonstration: one file with its figures inside."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

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
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
img { width: 100%; background: #fff; border-radius: 8px; border: 1px solid var(--line); box-sizing: border-box; }
img.narrow { width: 62%; display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; font-size: 15px; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
code { font-size: .92em; }
"""


class Section(NamedTuple):
    """A heading, what is to be seen, and the figure, which is also written to a file of that name."""

    title: str
    text: str
    name: str
    figure: Figure


def write(
    output: Path,
    *,
    verdict: str,
    good: bool,
    facts: Sequence[tuple[str, str]],
    table: Sequence[Sequence[str]],
    notes: Sequence[str],
    sections: Sequence[Section],
) -> Path:
    """Write the page and one PNG for each figure; the first row of `table` is its heading."""
    escaped = [[html.escape(cell).replace("\n", "<br>") for cell in row] for row in table]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>xent_any: one cross-entropy on every backend</title><style>{STYLE}</style></head><body>",
        "<h1>One cross-entropy on every backend</h1>",
        "<p>Softmax regression on handwritten digits, trained by the same code, from the same start and with the same "
        "batches, on each array library found here.</p>",
        f'<p class="verdict{" good" if good else ""}"><strong>{html.escape(verdict)}</strong></p>',
        '<div class="scroll"><table><thead><tr>',
        *(f"<th>{cell}</th>" for cell in escaped[0]),
        "</tr></thead><tbody>",
        *(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in escaped[1:]),
        "</tbody></table></div>",
        *(f'<p class="note">{html.escape(note)}</p>' for note in notes),
        "<dl>",
        *(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts),
        "</dl>",
    ]
    for section in sections:
        buffer = io.BytesIO()
        section.figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", pad_inches=0.2)
        (output / f"{section.name}.png").write_bytes(buffer.getvalue())
        narrow = ' class="narrow"' if section.figure.get_figwidth() < 10 else ""
        data = base64.b64encode(buffer.getvalue()).decode()
        title = html.escape(section.title)
        parts.append(f"<h2>{title}</h2><p>{html.escape(section.text)}</p>")
        parts.append(f'<img{narrow} alt="{title}" src="data:image/png;base64,{data}">')
    parts.append("</body></html>\n")
    page = output / "xent-any-demo.html"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page
