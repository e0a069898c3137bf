"""What the results of a run add up to."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

Run: TypeAlias = dict[str, Any]
Result: TypeAlias = dict[str, Any]

FAMILIES = ("truth", "values", "agreement", "gradient", "relations", "contract", "transforms")


class Mark(NamedTuple):
    """How an outcome is shown; the symbols tell them apart without colour."""

    symbol: str
    ascii: str
    colour: str
    text: str


MARKS = {
    "passed": Mark("✓", "+", "green", "passed"),
    "skipped": Mark("·", ".", "dim", "skipped, for a reason"),
    "deviates": Mark("≈", "~", "yellow", "deviates, as declared"),
    "failed": Mark("✗", "X", "bold red", "failed"),
}


@dataclass
class Cell:
    """Some results, counted; the largest error in ULP, and the largest as a share of its bound."""

    counts: Counter[str] = field(default_factory=Counter)
    ulp: float | None = None
    share: float | None = None

    def add(self, result: Result) -> None:
        self.counts[result["outcome"]] += 1
        if result["outcome"] != "deviates":  # that error is declared
            for measured in result["measurements"]:
                self.ulp = largest(self.ulp, measured["worst"])
                self.share = largest(self.share, measured["share"])

    @property
    def worst(self) -> str:
        """The worst outcome, skips aside."""
        return next((key for key in ("failed", "deviates", "passed") if self.counts[key]), "skipped")

    def errors(self) -> list[str]:
        return [] if self.ulp is None or self.share is None else [number(self.ulp), part(self.share)]


class Summary:
    """A run by subject and family."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.subjects: dict[str, dict[str, Any]] = {subject["name"]: subject for subject in run["subjects"]}
        self.ours = [name for name, subject in self.subjects.items() if not subject["peer"]]
        self.peers = [name for name, subject in self.subjects.items() if subject["peer"]]
        self.results = [result for result in run["results"] if result["subject"] in self.ours]
        found = dict.fromkeys(family(result["id"]) for result in self.results)
        self.families = sorted(found, key=[*FAMILIES, *found].index)
        self.cells: defaultdict[tuple[str, str], Cell] = defaultdict(Cell)
        self.total: defaultdict[str, Cell] = defaultdict(Cell)
        for result in run["results"]:
            self.cells[result["subject"], family(result["id"])].add(result)
            self.total[result["subject"]].add(result)

    def of(self, *outcomes: str) -> list[Result]:
        """Our results with those outcomes."""
        return [result for result in self.results if result["outcome"] in outcomes]

    def verdict(self) -> str:
        counts = Counter(result["outcome"] for result in self.results)
        if self.run["passed"]:
            others = f"{counts['deviates']:,} deviate as declared, {counts['skipped']:,} are skipped for a reason"
            return f"{plural(len(self.ours), 'backend')}: {counts['passed']:,} checks passed, {others}, none failed."
        broken = dict.fromkeys(result["subject"] for result in self.of("failed"))
        if broken:
            share = f"{len(broken)} of {plural(len(self.ours), 'backend')}"
            return f"{plural(counts['failed'], 'check')} failed, on {share}: {', '.join(broken)}."
        unusable = ", ".join(each["name"] for each in self.run["unusable"])
        return f"Not certified; not usable here: {unusable}." if unusable else "Nothing was checked."


def by_reason(results: Iterable[Result]) -> list[tuple[str, Sequence[Result]]]:
    """The reasons of some results, the most frequent first."""
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result["reason"] or "no reason given"].append(result)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def family(id_: str) -> str:
    """The first part of a check's id."""
    return id_.partition(".")[0]


def topic(id_: str) -> str:
    """A check's id without its parameters."""
    return id_.partition("[")[0]


def last_lines(reason: str, count: int) -> list[str]:
    """The lines that say what failed, which pytest marks with E, and where; of other texts the last lines."""
    lines = [line for line in reason.splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return [*errors[: count - 1], lines[-1]] if errors else lines[-count:]


def largest(a: float | None, b: float) -> float:
    """The larger of two errors."""
    return b if a is None else max(a, b)


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def number(value: float) -> str:
    """An error to two digits."""
    if value >= sys.float_info.max:  # what stands for infinity in JSON, which has none
        return "∞"
    if value == 0 or 0.01 <= value < 1e4:
        return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def part(share: float) -> str:
    """A share of the bound: per cent of it, or how many times it."""
    return f"{number(100 * share)}%" if share <= 1 else f"{number(share)} x"
