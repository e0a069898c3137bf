"""The report of a run of the conformance kit: on the terminal, as one page, and as JUnit's XML.

Each takes the whole run as one dictionary, which is also what ``--json`` writes.
"""

from ._junit import junit as junit
from ._page import html as html
from ._terminal import terminal as terminal

__all__ = ["html", "junit", "terminal"]
