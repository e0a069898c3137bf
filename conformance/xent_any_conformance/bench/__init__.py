"""``xent-any bench``: ours and the peers side by side, against what memory allows."""

from ._problems import SHAPES as SHAPES
from ._problems import Problem as Problem
from ._run import Plan as Plan
from ._run import run as run

__all__ = ["SHAPES", "Plan", "Problem", "run"]
