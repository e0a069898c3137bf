"""What our figures share: SVG whose lines and letters take the colour of the page's text."""

import io
import re

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TEXT = "#010203"
"""Stands for the colour of the text around the figure, light or dark."""


def svg(figure: Figure) -> str:
    """The figure as a part of an HTML page, without references to anything outside of it."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "xent_any"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL).replace(TEXT, "currentColor")


def finish(axes: Axes) -> None:
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.tick_params(colors=TEXT)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(TEXT)
    for spine in axes.spines.values():
        spine.set(color=TEXT, alpha=0.4)
