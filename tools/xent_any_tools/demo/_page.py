"""The page of the demonstration: one file with its figures inside."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from xent_any_conformance import _html

STYLE = "th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }"


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
        "<h1>One cross-entropy on every backend</h1>",
        "<p>Softmax regression on handwritten digits, trained by the same code, from the same start and with the same "
        "batches, on each array library found here.</p>",
        _html.verdict(verdict, good),
        _html.table(escaped[0], escaped[1:]),
        *(f'<p class="note">{html.escape(note)}</p>' for note in notes),
        _html.facts(facts),
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
    page = output / "xent-any-demo.html"
    page.write_text(_html.document("xent_any: one cross-entropy on every backend", parts, STYLE), encoding="utf-8")
    return page
