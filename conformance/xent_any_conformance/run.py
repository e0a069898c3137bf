"""The run of all checks on all subjects: a process for each, their solutions compared, one account of it all."""

import importlib.metadata
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xent_any

from . import _machine, agreement, subjects
from .plugin import UNUSABLE, is_wanted

HERE = Path(__file__).parent
REFERENCE = "numpy"
"""Solves the problems of the agreement family in every run, so that one subject alone has another to agree with."""

SOLUTIONS = "agreement.solutions"
"""The check that solves them."""

PACKAGES = ("array-api-compat", "numpy", "mpmath", "hypothesis", "pytest", "jaxlib", "onnxruntime")
"""Beside the subjects' own libraries, what a run's results may depend on."""


def run(
    names: Sequence[str],
    *,
    quick: bool = False,
    checks: str = "",
    jobs: int | None = None,
    command: str = "",
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, Any]:
    """Run the checks on the subjects so named; by default on all that are usable.

    Parameters
    ----------
    names : sequence of str
        Subjects, libraries, modules or ``module:attribute``; see `xent_any_conformance.subjects.load`.
    quick : bool
        Fewer and smaller problems.
    checks : str
        Only the checks whose id contains one of these, separated by commas.
    jobs : int, optional
        How many subjects run at a time; by default as many as there are CPUs for this process.
    command : str
        What reproduces the run, for the account of it.
    progress : callable
        Called with a subject's name, the number of its checks that are done, and of all of them.

    Returns
    -------
    dict
        The account of the run, of what JSON can hold: ``passed``, ``subjects``, ``unusable``, ``results``,
        ``agreement``, and where, when and with what it was made.
    """
    start = time.perf_counter()
    chosen = subjects.names(names)
    left = [name for name in chosen if quick and not names and (name in subjects.SLOW or not _is_first(name))]
    chosen = [name for name in chosen if name not in left]
    helper = [REFERENCE] if REFERENCE not in chosen and is_wanted(SOLUTIONS, checks) else []
    with tempfile.TemporaryDirectory(prefix="xent-any-") as folder:
        workers = [Worker(name, Path(folder), quick, checks) for name in chosen]
        workers += [Worker(name, Path(folder), quick, SOLUTIONS) for name in helper]
        _work(sorted(workers, key=_order), jobs or len(_machine.cpus()), progress)
        compared = list(_compared(workers, quick=quick))
    counted = workers[: len(chosen)]
    alone = _alone(counted, compared)
    results = [result | {"subject": w.name} for w in counted for result in w.results]
    results = [result for result in results if (result["subject"], result["id"]) not in alone]
    results += [*alone.values(), *_disagreements(counted, compared)]
    found = [w.subject | {"seconds": round(w.seconds, 1)} for w in counted if w.subject]
    # What was asked for by name must be there.
    usable = {w.name for w in counted if not w.unusable}
    missing = [name for name in names if usable.isdisjoint(subjects.names([name]))]
    peers = {subject["name"] for subject in found if subject["peer"]}
    failed = [r for r in results if r["outcome"] == "failed" and r["subject"] not in peers]
    return {
        "xent_any": xent_any.__version__,
        "commit": _machine.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": _machine.processor(),
            "cpus": os.cpu_count(),
        },
        "packages": {name: _version(name) for name in PACKAGES},
        "command": command,
        "quick": quick,
        "checks": checks,
        "seconds": round(time.perf_counter() - start, 1),
        "passed": bool(found) and not failed and not missing,
        "subjects": found,
        "unusable": [
            *({"name": w.name, "reason": w.unusable} for w in counted if w.unusable),
            *({"name": name, "reason": "not in the quick run of all: name it, or run in full"} for name in left),
        ],
        "results": results,
        "agreement": compared,
    }


class Worker:
    """The process of one subject, and what it has reported; `command` and `environment` may be added to at first."""

    def __init__(self, name: str, folder: Path, quick: bool, checks: str) -> None:
        self.name = name
        self.subject: dict[str, Any] = {}
        self.unusable = ""
        self.results: list[dict[str, Any]] = []
        self.total = 0
        self.seconds = 0.0
        stem = "".join(c if c.isalnum() else "-" for c in name) + ("-" + checks.strip(".") if checks else "")
        self.solutions = folder / f"{stem}.solutions"
        self._lines = folder / f"{stem}.jsonl"
        self._log = folder / f"{stem}.log"
        self.environment = environment(folder)
        # A configuration of its own and no conftest: nothing of the caller's pytest has a part in it.
        self.command = [sys.executable, "-P", "-m", "pytest", "-c", str(HERE / "checks" / "pytest.ini")]
        self.command += ["--rootdir", str(HERE / "checks"), "--noconftest", "-p", "xent_any_conformance.plugin"]
        self.command += ["--pyargs", "xent_any_conformance.checks", "--subject", name, "--checks", checks]
        self.command += ["--results", str(self._lines), "--solutions", str(self.solutions)] + ["--quick"] * quick
        self._read = 0

    def start(self) -> None:
        self._begin = time.perf_counter()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self.environment)

    def stop(self) -> None:
        self._process.kill()

    def poll(self) -> bool:
        """Read what has been reported since; whether the process has ended."""
        ended = self._process.poll() is not None
        if self._lines.exists():
            with self._lines.open(encoding="utf-8") as file:
                file.seek(self._read)
                while (line := file.readline()).endswith("\n"):
                    self._take(json.loads(line))
                    self._read = file.tell()
        if ended:
            self.seconds = time.perf_counter() - self._begin
            if self._process.returncode not in (0, 1, UNUSABLE):
                self._crashed()
        return ended

    def _take(self, line: dict[str, Any]) -> None:
        if "id" in line:
            self.results.append(line)
        else:
            self.unusable = line.get("unusable", "")
            self.subject = line.get("subject", {})
            self.total = line.get("collected", 0)

    def _crashed(self) -> None:
        tail = self._log.read_text(encoding="utf-8", errors="replace")[-3000:]
        self.subject = self.subject or {
            "name": self.name,
            "library": self.name,
            "version": "",
            "device": "",
            "dtypes": [],
        }
        self.subject = {"labels": "", "transforms": [], "peer": False, "deviations": {}} | self.subject
        self.results.append(
            {
                "id": "run.process",
                "statement": "The checks run to their end.",
                "source": "docs/certify.md",
                "outcome": "failed",
                "reason": f"pytest ended with {self._process.returncode}:\n{tail}",
                "error": "",
                "seconds": self.seconds,
                "measurements": [],
            }
        )


def environment(folder: Path) -> dict[str, str]:
    """That of the workers: nothing of the caller's pytest, one thread each, memory on a GPU taken as it is needed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return kept | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "XENT_ANY_TRUTHS": str(folder),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
        "OMP_NUM_THREADS": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _work(workers: Sequence[Worker], jobs: int, progress: Callable[[str, int, int], None]) -> None:
    waiting, running = deque(workers), list[Worker]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(waiting.popleft())
                running[-1].start()
            time.sleep(0.05)
            for worker in list(running):
                if worker.poll():
                    running.remove(worker)
                progress(worker.name, len(worker.results), worker.total)
    finally:
        for worker in running:
            worker.stop()


def _compared(workers: Sequence[Worker], *, quick: bool) -> Iterator[dict[str, Any]]:
    """The largest difference of each pair of subjects in each quantity, over all problems."""
    solved = {w.name: pickle.loads(w.solutions.read_bytes()) for w in workers if w.solutions.exists()}
    worst: dict[tuple[str, str, str], dict[str, Any]] = {}
    for problem in agreement.problems(quick=quick):
        given = {name: solutions[problem.name] for name, solutions in solved.items() if problem.name in solutions}
        for pair in agreement.compare(problem, given):
            key = pair["a"], pair["b"], pair["quantity"]
            if key not in worst or not pair["share"] <= worst[key]["share"]:
                worst[key] = pair
    yield from worst.values()


def _alone(workers: Sequence[Worker], compared: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """The failures of the subjects that solved the problems of the agreement family, and that none else did."""
    met = {pair[side] for pair in compared for side in ("a", "b")}
    reason = "no other subject has solved these problems, not even NumPy"
    return {
        (w.name, r["id"]): r | {"subject": w.name, "outcome": "failed", "reason": reason, "error": reason}
        for w in workers
        for r in w.results
        if r["id"] == SOLUTIONS and r["outcome"] == "passed" and w.name not in met
    }


def _disagreements(workers: Sequence[Worker], compared: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A failure of the agreement family for each subject and other that is too far away."""
    failures = []
    for pair in (pair for pair in compared if not pair["share"] <= 1):
        for worker in (worker for worker in workers if worker.name in (pair["a"], pair["b"])):
            (solved,) = (r for r in worker.results if r["id"] == SOLUTIONS)
            other = pair["b"] if worker.name == pair["a"] else pair["a"]
            reason = f"{pair['quantity']} of {pair['problem']}: {pair['largest']:.3g} from {other}'s, "
            reason += f"{pair['share']:.3g} times what is allowed"
            failures.append(
                solved
                | {
                    "id": f"agreement.{pair['quantity']}[{other}]",
                    "subject": worker.name,
                    "outcome": "failed",
                    "reason": reason,
                    "error": f"AssertionError: {reason}",
                }
            )
    return failures


def _is_first(name: str) -> bool:
    """Whether it is the first subject of a library, or that on another kind of device, and no peer."""
    library, _, variant = name.partition("-")
    first = next((other for other in subjects.TABLE if other.partition("-")[0] == library), name)
    return library != "peer" and (name == first or variant in ("cuda", "mps"))


def _order(worker: "Worker") -> int:
    library = worker.name.partition("-")[0]
    return subjects.COSTLY.index(library) if library in subjects.COSTLY else len(subjects.COSTLY)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
