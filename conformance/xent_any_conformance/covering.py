"""Covering arrays: few combinations of options in which each few of them meet in every way."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from covertable import make


def covering(columns: Mapping[str, Sequence[Any]], strength: int) -> Iterator[dict[str, Any]]:
    """Rows of a value for each column, the same ones in each run.

    For any `strength` columns, each combination of their values is in one of the rows.
    """
    for row in make([list(values) for values in columns.values()], strength=strength):
        yield dict(zip(columns, row, strict=True))
