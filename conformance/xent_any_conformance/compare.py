"""The comparisons of the checks: a NaN fails each of them, unless it is what is expected.

A check makes no other comparison, and no `assert`: it fails if it has compared nothing.
"""

from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

MADE: Counter[str] = Counter()
"""How many numbers have been compared, and how many shapes, names and errors."""


def measured(values: Any, expected: Any = 0.0) -> Any:
    """The measured side of every comparison of numbers, as a NumPy array; `expected` is what is not wrong of it."""
    return np.asarray(values)


def equal(found: Any, expected: Any, what: str = "") -> None:
    """Require the same numbers, zeros of either sign alike, and NaN where NaN is expected and nowhere else."""
    found = measured(found, expected)
    _require((found == expected) | (_is_nan(found) & _is_nan(expected)), found, expected, what)


def within(found: Any, expected: Any, bound: Any, what: str = "") -> None:
    """Require ``|found - expected| <= bound`` where a finite number is expected; elsewhere what is expected itself."""
    found, expected = measured(found, expected).astype(float), np.asarray(expected, float)
    with np.errstate(invalid="ignore"):
        near = (np.abs(found - expected) <= bound) & np.isfinite(bound)
        right = np.where(np.isfinite(expected), near, found == expected)
    _require(right | (_is_nan(found) & _is_nan(expected)), found, expected, what)


def at_least(found: Any, low: Any, what: str = "") -> None:
    """Require ``found >= low``."""
    found = measured(found, low)
    _require(found >= low, found, f"at least {low}", what)


def at_most(found: Any, high: Any, what: str = "") -> None:
    """Require ``found <= high``."""
    found = measured(found, high)
    _require(found <= high, found, f"at most {high}", what)


def is_finite(found: Any, what: str = "") -> None:
    """Require finite numbers."""
    found = measured(found)
    _require(np.isfinite(found), found, "finite numbers", what)


def is_nan(found: Any, where: Any = True, what: str = "") -> None:
    """Require NaN where `where` is true, and nowhere else."""
    found = measured(found, np.where(where, np.nan, 0.0))
    _require(np.isnan(found) == where, found, np.where(where, "NaN", "a number"), what)


def same(found: Any, expected: Any, what: str = "") -> None:
    """Require what is no measured number, such as a shape or a dtype, to equal what is expected."""
    MADE["others"] += 1
    if not found == expected:
        raise AssertionError(_message(found, expected, what))


def raises(error: type[Exception] | tuple[type[Exception], ...], pattern: str) -> AbstractContextManager[Any]:
    """Require an error of this type, whose message has the pattern."""
    MADE["others"] += 1
    return pytest.raises(error, match=pattern)


def _is_nan(values: Any) -> Any:
    return values != values  # noqa: PLR0124  (of integers and of bool, too)


def _require(right: Any, found: Any, expected: Any, what: str) -> None:
    if right.shape != found.shape:
        raise AssertionError(_message(f"shape {found.shape}", f"shape {right.shape}", what))
    MADE["numbers"] += right.size
    if not right.all():
        at = f", {np.count_nonzero(~right)} wrong, first at {np.argwhere(~right)[0].tolist()}" if right.ndim else ""
        raise AssertionError(_message(found, expected, what) + at)


def _message(found: Any, expected: Any, what: str) -> str:
    return f"{what}{': ' * bool(what)}found {found}, expected {expected}"
