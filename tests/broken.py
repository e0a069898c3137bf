"""The kit on broken implementations and broken array libraries: it must reject every one of them.

Each defect of `defects.py` is made in a copy of the package, on which the kit runs in a process of its own, with only
the checks that are to notice. ``python tests/broken.py [PART ...]`` prints what rejected what; its exit status is 1 if
a defect survives, or if one of the same checks fails where nothing is changed.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from defects import DEFECTS, Defect
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from xent_any_conformance.run import Worker

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "xent_any",
    "backends/xent_any_backends",
    "conformance/xent_any_conformance",
    "examples/toyarray/src/toyarray",
)


class Control(NamedTuple):
    """The checks that notice a subject's defects, where nothing is wrong."""

    name: str
    checks: tuple[str, ...]
    subject: str
    quick: bool


Case: TypeAlias = Defect | Control


class Outcome(NamedTuple):
    """What the kit found."""

    failed: list[str]  # ids of checks that noticed
    wrong: list[str]  # checks that should have noticed, or should not, and what happened
    unusable: str  # why the subject is not to be had here
    seconds: float


def controls() -> list[Control]:
    wanted: dict[tuple[str, bool], dict[str, None]] = {}
    for defect in DEFECTS:
        wanted.setdefault((defect.subject, defect.quick), {}).update(dict.fromkeys(defect.checks))
    return [
        Control(f"nothing, {'quick' if quick else 'full'} run", tuple(checks), subject, quick)
        for (subject, quick), checks in wanted.items()
    ]


def run(cases: Sequence[Case], jobs: int | None = None) -> Iterator[tuple[Case, Outcome]]:
    """The kit on each of them, `jobs` at a time; by default as many as there are CPUs."""
    with tempfile.TemporaryDirectory(prefix="xent-any-broken-") as name:
        # What is not broken is compiled once, and the truths are computed once.
        shared = {"PYTHONDONTWRITEBYTECODE": "", "XENT_ANY_TRUTHS": name}
        waiting, running = deque(enumerate(cases)), list[tuple[Case, Worker]]()
        try:
            while waiting or running:
                while waiting and len(running) < (jobs or os.cpu_count() or 1):
                    number, case = waiting.popleft()
                    folder = Path(name, str(number))
                    folder.mkdir()
                    worker = Worker(case.subject, folder, case.quick, "")
                    worker.command += ["--checks", ",".join(case.checks)]
                    worker.environment |= shared | {"PYTHONPATH": search_path(case, folder)}
                    worker.start()
                    running.append((case, worker))
                time.sleep(0.02)
                for case, worker in list(running):
                    if worker.poll():
                        running.remove((case, worker))
                        yield case, judged(case, worker)
        finally:
            for _, worker in running:
                worker.stop()


def search_path(case: Case, folder: Path) -> str:
    """Where Python finds the packages: the one with the defect in a copy."""
    paths = []
    for package in PACKAGES:
        found = ROOT / package
        if isinstance(case, Defect) and case.file.startswith(f"{package}/"):
            found = shutil.copytree(found, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
            file = folder / case.file
            file.write_text(changed(file.read_text(encoding="utf-8"), case), encoding="utf-8")
        paths.append(str(found.parent))
    return os.pathsep.join(paths)


def changed(text: str, defect: Defect) -> str:
    for old, new in defect.changes:
        if old and text.count(old) != 1:
            raise ValueError(f"{defect.name}: expected once in {defect.file}, found {text.count(old)} times: {old}")
        text = text.replace(old, new) if old else text + new
    return text


def judged(case: Case, worker: Worker) -> Outcome:
    if worker.unusable:
        return Outcome([], [], worker.unusable, worker.seconds)
    failed = [r for r in worker.results if r["outcome"] == "failed"]
    wrong = []
    if isinstance(case, Defect):
        failed = [r for r in failed if r["id"].startswith(case.checks) and re.match(case.error, r["error"])]
    else:
        wrong = [f"{r['id']} failed: {r['reason'][-300:]}" for r in failed]
    for check in case.checks:
        found = [r for r in worker.results if r["id"].startswith(check)]
        if not found or (isinstance(case, Defect) and not any(r in failed for r in found)):
            found += [r for r in worker.results if r["id"] == "run.process"]
            what = "; ".join(f"{r['outcome']} {r['reason'][-300:]}" for r in found)
            wrong.append(f"{check} {what or 'is no check'}")
    return Outcome([r["id"] for r in failed], wrong, "", worker.seconds)


def is_among(case: Case, parts: Sequence[str]) -> bool:
    """Whether a case is one of those that `parts` of their names, files or subjects stand for."""
    texts = (case.name, case.subject, getattr(case, "file", ""))
    return not parts or any(part in text for part in parts for text in texts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of names, files or subjects of defects; by default all")
    parser.add_argument("--jobs", type=int, help="so many at a time; by default as many as there are CPUs")
    options = parser.parse_args()
    cases = [case for case in [*DEFECTS, *controls()] if is_among(case, options.names)]
    bar = track(
        run(cases, options.jobs), "The kit on broken copies", len(cases), console=Console(stderr=True), transient=True
    )
    outcomes = dict(bar)
    table = Table("What is broken", "On", "Rejected by", "s")
    for case in cases:
        outcome = outcomes[case]
        lines = [*map(Text, outcome.failed), *(Text(line, style="red") for line in outcome.wrong)]
        lines += [Text(outcome.unusable, style="yellow")] * bool(outcome.unusable)
        table.add_row(case.name, case.subject, Text("\n").join(lines), f"{outcome.seconds:.1f}")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    wrong = sum(bool(outcomes[case].wrong) for case in cases)
    defects = sum(isinstance(case, Defect) for case in cases)
    console.print(f"{defects} defects and {len(cases) - defects} controls; {wrong} not as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
