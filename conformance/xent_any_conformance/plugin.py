"""The pytest plugin: one subject, checks with stable ids, declared deviations, and a line of JSON for each check.

``xent-any conformance`` runs it; by hand: ``pytest -p xent_any_conformance.plugin --pyargs xent_any_conformance
--subject numpy``.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import hypothesis
import numpy as np
import pytest

from . import subjects
from .compare import MADE
from .subjects import Subject

EDGES = tuple(2.0 ** (k / 2) for k in range(-12, 61))
"""Edges of the histograms of errors in ULP; what is smaller and what is larger is counted in the outermost bins."""

F = TypeVar("F", bound=Callable[..., Any])


class Check(NamedTuple):
    """What a test checks."""

    id: str  # family.topic, stable
    statement: str
    source: str


def check(id_: str, statement: str, *, source: str) -> Callable[[F], F]:
    """Declare a test function a check.

    Parameters
    ----------
    id_ : str
        ``family.name``; stable, and unique but for what pytest's parameters add in brackets.
    statement : str
        What must hold, in one line.
    source : str
        Where that is promised: a section of ``docs/contract.md`` or ``docs/derivation.md``.
    """
    return pytest.mark.check(Check(id_, statement, source))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("xent_any conformance")
    group.addoption("--subject", default="numpy", help="what is certified: a name, module or module:attribute")
    group.addoption("--quick", action="store_true", help="fewer and smaller problems")
    group.addoption("--results", type=Path, help="write a line of JSON for each check to this file")
    group.addoption("--solutions", type=Path, help="write the solutions to be compared between subjects to this file")
    group.addoption("--checks", default="", help="only the checks whose id contains one of these, separated by commas")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "check(check): what a test checks")
    config.addinivalue_line("markers", "full: not in the quick run")
    recorder = config.stash[RECORDER] = Recorder(config.option.results)
    try:
        subject = config.stash[SUBJECT] = subjects.load(config.option.subject)
    except subjects.UnusableError as reason:
        recorder.write(unusable=str(reason))
        pytest.exit(f"{config.option.subject}: {reason}", returncode=UNUSABLE)
    config.stash[QUICK] = config.option.quick or subject.slow
    hypothesis.settings.register_profile(
        "conformance",
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("conformance")


SUBJECT = pytest.StashKey[Subject]()
QUICK = pytest.StashKey[bool]()
UNUSABLE = 10
"""The exit status where the subject cannot be used here."""


class Recorder:
    """Writes what happens as lines of JSON."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("w", encoding="utf-8") if path else None

    def write(self, **line: Any) -> None:
        if self._file:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


RECORDER = pytest.StashKey[Recorder]()


def describe(subject: Subject) -> dict[str, Any]:
    """What a subject declares, as JSON."""
    readable = subject.reads(subject([0]))
    return {
        "name": subject.name,
        "library": subject.backend.name,
        "version": subject.backend.version,
        "device": str(subject.device),
        "dtypes": subject.dtypes,
        "labels": "read" if readable else "NaN",
        "transforms": sorted(subject.backend.transforms),
        "compiled": subject.compiled,
        "has_values": subject.has_values,
        "peer": subject.peer,
        "deviations": {id_: why for id_, (why, _) in subject.declared.items()},
    }


def is_wanted(id_: str, checks: str) -> bool:
    """Whether a check is one of those that ``--checks`` asks for."""
    wanted = [part for part in checks.split(",") if part]
    return not wanted or any(part in id_ for part in wanted)


def full_id(item: pytest.Item) -> str:
    """The check's id with pytest's parameters in brackets."""
    callspec = getattr(item, "callspec", None)
    return checked(item).id + (f"[{callspec.id}]" if callspec else "")


def checked(item: pytest.Item) -> Check:
    marker = item.get_closest_marker("check")
    if marker is None:
        raise pytest.UsageError(f"{item.nodeid}: a conformance test without an id")
    found: Check = marker.args[0]
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    subject = config.stash[SUBJECT]
    wanted = config.option.checks
    declared = subject.declared
    unknown = set(declared)
    for item in items:
        for id_ in {full_id(item), checked(item).id} & set(declared):
            why, raises = declared[id_]
            item.add_marker(pytest.mark.xfail(reason=why, raises=raises, strict=True))
            unknown.discard(id_)
    if unknown and not wanted:
        raise pytest.UsageError(f"{subject.name} declares deviations from no check: {', '.join(sorted(unknown))}")
    if subject.peer:
        items[:] = [item for item in items if full_id(item).startswith("truth.")]
    if config.stash[QUICK]:
        items[:] = [item for item in items if item.get_closest_marker("full") is None]
    if wanted:
        items[:] = [item for item in items if is_wanted(full_id(item), wanted)]
    config.stash[RECORDER].write(subject=describe(subject), collected=len(items))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    before = MADE.total()
    result = yield
    if MADE.total() == before:
        raise AssertionError("nothing was compared: the check cannot fail here")
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]  # pluggy sends the report
    if report.when == "call" or report.outcome != "passed":
        outcome, reason = str(report.outcome), ""
        if hasattr(report, "wasxfail"):
            outcome, reason = "deviates", report.wasxfail
        elif report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            reason = report.longreprtext
        item.config.stash[RECORDER].write(
            **checked(item)._asdict() | {"id": full_id(item)},
            outcome=outcome,
            reason=reason,
            error=call.excinfo.exconly() if call.excinfo and outcome in ("failed", "deviates") else "",
            seconds=round(report.duration, 4),
            measurements=[value for name, value in item.user_properties if name == "ulps"],
        )
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Subject:
    """What is certified."""
    return request.config.stash[SUBJECT]


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    """Whether fewer and smaller problems will do."""
    return request.config.stash[QUICK]


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every check and on every subject."""
    return np.random.default_rng(20240229)


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Callable[[str, str, Any, float], None]:
    """Record errors: ``measure(quantity, dtype, ulps, worst share of the bound)``."""

    def record(quantity: str, dtype: str, ulps: Any, share: float) -> None:
        largest = np.finfo(float).max  # JSON has neither infinity nor NaN
        ulps, share = (np.nan_to_num(np.asarray(a, dtype=float), nan=largest, posinf=largest) for a in (ulps, share))
        counts = np.histogram(np.clip(ulps, EDGES[0], EDGES[-1]), EDGES)[0]
        request.node.user_properties.append(
            (
                "ulps",
                {
                    "quantity": quantity,
                    "dtype": dtype,
                    "worst": float(np.max(ulps, initial=0.0)),
                    "share": float(share),
                    "counts": counts.tolist(),
                },
            )
        )

    return record
