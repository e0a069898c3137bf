"""Comparison of a record's numbers: ratios, failures, and where they were measured."""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

from ._choices import OPTIONS
from ._problems import Problem
from .contestants import BACKWARD, COMPUTES, GRADIENT, LOSS

Record: TypeAlias = dict[str, Any]
Row: TypeAlias = dict[str, Any]


LEGEND = (
    "time: the median of the repeats, and half the distance of their quartiles. / limit: the time over what memory "
    "alone takes: a pass that reads the logits for the loss, a copy of them for loss + gradient, one after the other "
    "for forward then backward. / ours: over the time of xent_any on the same arrays, compiled or not; above 1 is "
    "slower than ours. peak: extra memory at the peak of a call, its results among it, over the bytes of the logits."
)


class Line(NamedTuple):
    """A contestant's ratios in one case; None where there is nothing to compare with."""

    row: Row
    of_limit: float | None
    of_ours: float | None
    peak: float | None  # in bytes of the logits


class Case:
    """The results for one problem and number of threads."""

    def __init__(self, case: Record) -> None:
        self.record = case
        self.problem = Problem(**(case["problem"] | {"shape": tuple(case["problem"]["shape"])}))
        self.threads: int = case["threads"]
        self.results: list[Row] = case["results"]
        self.timed = [row for row in self.results if row["status"] == "timed"]

    @property
    def title(self) -> str:
        problem = self.problem
        where = f"{self.threads} thread{'s' * (self.threads != 1)}" if problem.device == "cpu" else problem.device
        return f"{problem.name}, {problem.dtype}, {OPTIONS[problem.option]}, {where}"

    def limits(self) -> dict[str, float]:
        """For each kind of contestant the time that its bytes alone need.

        The fastest pass that reads the logits; the fastest copy of them; and one after the other, since the loss is
        there before its gradient is asked for.
        """
        fastest = {
            kind: min((r["median"] for r in self.timed if r["limit"] and r["computes"] == kind), default=None)
            for kind in (LOSS, GRADIENT)
        }
        limits = {kind: time for kind, time in fastest.items() if time is not None}
        if len(limits) == 2:
            limits[BACKWARD] = limits[LOSS] + limits[GRADIENT]
        return limits

    def ours(self, group: str, computes: str) -> float | None:
        """The time of our function on the same arrays; of the first, where we have two."""
        found = (r["median"] for r in self.timed if r["ours"] and (r["group"], r["computes"]) == (group, computes))
        return next(found, None)

    def lines(self, computes: str) -> list[Line]:
        """The contestants of one kind that were timed, the limits first, then by group and time."""
        limit = self.limits().get(computes)
        rows = [row for row in self.timed if row["computes"] == computes]
        groups = list(dict.fromkeys(row["group"] for row in rows))
        rows.sort(key=lambda row: (not row["limit"], groups.index(row["group"]), row["median"]))
        return [
            Line(
                row,
                row["median"] / limit if limit else None,
                row["median"] / ours if (ours := self.ours(row["group"], computes)) else None,
                row["peak_bytes"] / self.problem.nbytes if "peak_bytes" in row else None,
            )
            for row in rows
        ]

    def not_timed(self) -> list[Row]:
        """The rows of the contestants that were not timed, each with its ``reason``."""
        return [row for row in self.results if row["status"] != "timed"]


def cases(record: Record) -> list[Case]:
    """The cases of a record."""
    return [Case(case) for case in record["cases"]]


def failures(record: Record) -> list[str]:
    """Wrong answers, errors and processes that ended: nothing of the kind should be in a record."""
    found = [f"{case.title}: {case.record['failed']}" for case in cases(record) if "failed" in case.record]
    for case in cases(record):
        found += [
            f"{case.title}: {row['key']}: {row['status']}: {row['reason']}"
            for row in case.not_timed()
            if row["status"] != "not there" and not _is_imprecise(case, row)
        ]
    return found


def _is_imprecise(case: Case, row: Row) -> bool:
    """Whether a peer gave a wrong answer in half precision: a finding, and no failure of the run."""
    return row["status"] == "wrong" and not row["ours"] and "16" in case.problem.dtype


def not_timed_by_reason(record: Record) -> list[tuple[str, list[str]]]:
    """Why contestants were left out, and of which problems."""
    found: dict[str, dict[str, None]] = {}
    for case in cases(record):
        problem = f"{case.problem.name} {case.problem.dtype} {case.problem.option}"
        for row in case.not_timed():
            if not row["limit"] and (row["status"] == "not there" or _is_imprecise(case, row)):
                name = row["library"] if row["status"] == "not there" else title(row)
                found.setdefault(f"{name}: {row['reason']}", {})[problem] = None
    return [(why, list(names)) for why, names in found.items()]


def provenance(record: Record) -> list[tuple[str, str]]:
    """Where, when and with what versions a record was made."""
    machine = record["machine"]
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB of memory" if machine["memory_bytes"] else ""
    return [
        ("command", record["command"]),
        ("date", record["date"]),
        (
            "machine",
            f"{machine['processor']} {machine['instructions']}, {machine['cpus']} CPUs, "
            f"{machine['cache_bytes'] / 2**20:.0f} MiB of cache{memory}, {machine['platform']}",
        ),
        *([("GPU", machine["gpu"])] if machine.get("gpu") else []),
        (
            "versions",
            ", ".join(
                [f"xent_any {record['xent_any']}", f"Python {machine['python']}"]
                + [f"{name} {number}" for name, number in record["versions"].items()]
            ),
        ),
        *((f"without {entry['library']}", entry["reason"]) for entry in record["missing"]),
    ]


def duration(seconds: float) -> str:
    """A time with three digits and a unit."""
    value, unit = (seconds * 1e6, "µs") if seconds < 1e-3 else (seconds * 1e3, "ms")
    return f"{_digits(value, 3)} {unit}"


def interquartile(row: Row) -> str:
    """Half the interquartile range, in percent of the median."""
    return f"±{50 * (row['q3'] - row['q1']) / row['median']:.0f} %"


def title(row: Row) -> str:
    """The library and its function."""
    return f"{'xent_any' if row['ours'] else row['library']} {row['name']}"


def ratio(value: float | None) -> str:
    """A ratio with two or three digits; a dash for None."""
    return "-" if value is None else _digits(value, 2 if value < 1 else 3)


def _digits(value: float, count: int) -> str:
    whole = len(str(int(value))) if value >= 1 else 0
    return f"{value:.{max(0, count - whole)}f}"


def kinds(selected: Iterable[Case]) -> list[str]:
    """The kinds of contestants that were timed in some cases."""
    timed = {row["computes"] for case in selected for row in case.timed}
    return [kind for kind in COMPUTES if kind in timed]
