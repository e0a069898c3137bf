"""A run: a process for each problem and number of threads; one account of it all."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import xent_any
from xent_any_conformance import _machine

from ._problems import Problem
from ._summary import Record
from .contestants import versions

Progress = Callable[[str], None]

GROWTH_POWERS, GROWTH_OTHER_SIZE = range(5, 16), 1000
"""The powers of two that N and C take in turn, and the size of the other axis meanwhile."""

TIMEOUT_SECONDS = 1800
"""A process that takes longer is killed."""


class Plan(NamedTuple):
    """What is timed, and how.

    Attributes
    ----------
    problems : sequence of Problem
    threads : sequence of str
        ``"1"``, ``"all"`` or a number.
    libraries : sequence of str
        Only these libraries, and ours on their arrays; by default all.
    seconds : float
        The time that each contestant may use for one problem.
    memory : collection of Problem
        Problems whose peak memory is measured as well: a process for each contestant, with the last of `threads`.
    growth : bool
        Whether sizes that double are timed as well, with the last of `threads`, by all but what is compiled by PyTorch,
        which takes longest to prepare.
    command : str
        What reproduces the run.
    """

    problems: Sequence[Problem]
    threads: Sequence[str] = ("1", "all")
    libraries: Sequence[str] = ()
    seconds: float = 0.5
    memory: Collection[Problem] = ()
    growth: bool = False
    command: str = ""


def run(
    plan: Plan, progress: Progress = lambda text: None, save: Callable[[Record], None] = lambda record: None
) -> Record:
    """Time all contestants on the problems of a plan.

    Parameters
    ----------
    plan : Plan
    progress : callable
        Called with what is being done.
    save : callable
        Called with the record after each problem.

    Returns
    -------
    dict
        Of what JSON can hold: where, when and with what the run was made, the libraries that are ``missing`` and why,
        and the ``cases``: for each problem and number of threads the ``results`` of all contestants. Times are in
        seconds.
    """
    start = time.perf_counter()
    cases: list[Record] = []
    missing: dict[str, str] = {}
    machine = _machine.facts()
    installed = versions()
    counts = list(dict.fromkeys(map(thread_count, plan.threads)))

    def record() -> Record:
        return {
            "xent_any": xent_any.__version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "versions": installed,
            "command": plan.command,
            "seconds_of_each": plan.seconds,
            "seconds": round(time.perf_counter() - start, 1),
            "missing": [{"library": name, "reason": why} for name, why in missing.items()],
            "cases": cases,
        }

    def timed(problem: Problem, threads: int, growth: str = "") -> Record:
        title = f"{problem.name} {problem.dtype} {problem.option}, {threads} thread{'s' * (threads != 1)}"
        job = timing_job(problem, threads, plan.libraries, plan.seconds)
        answer = run_job(
            job | ({"without": ["torch compiled"]} if growth else {}), lambda what: progress(f"{title}: {what}")
        )
        missing.update(answer["missing"])
        if answer.get("gpu"):
            machine["gpu"] = answer["gpu"]
        case = {"problem": problem._asdict(), "threads": threads, "growth": growth, "results": answer["results"]}
        return case | ({"failed": answer["failed"]} if "failed" in answer else {})

    for problem in plan.problems:
        of_problem = [timed(problem, threads) for threads in counts]
        if problem in plan.memory:
            _add_memory(problem, of_problem, progress)
        cases.extend(of_problem)
        save(record())
    for axis, shape in growth_shapes() if plan.growth else ():
        cases.append(timed(Problem(shape, device=plan.problems[0].device), counts[-1], axis))
        save(record())
    return record()


def growth_shapes() -> list[tuple[str, tuple[int, int]]]:
    """Shapes whose N, then whose C, doubles over three decades."""
    sizes = [2**k for k in GROWTH_POWERS]
    return [("N", (size, GROWTH_OTHER_SIZE)) for size in sizes] + [("C", (GROWTH_OTHER_SIZE, size)) for size in sizes]


def thread_count(threads: str) -> int:
    """A number of threads; ``"all"`` is as many as there are CPUs for this process."""
    return len(_machine.cpus()) if threads == "all" else int(threads)


def timing_job(problem: Problem, threads: int, libraries: Sequence[str], seconds: float = 0.0) -> Record:
    """The job of a worker that times all contestants."""
    return {
        "problem": problem._asdict(),
        "threads": threads,
        "libraries": list(libraries),
        "contestants": None,
        "without": [],
        "seconds": seconds,
        "memory": False,
        "limits": True,
    }


def _add_memory(problem: Problem, cases: Sequence[Record], progress: Progress) -> None:
    """Measure the memory of the contestants that were timed, and add it to their rows."""
    timed = {row["key"]: row for case in cases for row in case["results"] if row["status"] == "timed"}
    for key, row in timed.items():
        progress(f"{problem.name} {problem.dtype} {problem.option}: memory of {key}")
        library = row["group"].split()[0] if row["ours"] else row["library"]
        job = timing_job(problem, cases[-1]["threads"], [library]) | {"contestants": [key], "memory": True}
        answer = run_job(job | {"limits": row["limit"]})
        found: Record = next(iter(answer["results"]), {"reason": answer.get("failed", "no result")})
        if "reason" in found:
            cases[-1].setdefault("failed", f"memory of {key}: {found['reason']}")
        for other in (r for case in cases for r in case["results"] if r["key"] == key):
            other |= {name: found[name] for name in ("peak_bytes", "peak_is") if name in found}


def run_job(job: Record, progress: Progress = lambda text: None) -> Record:
    """Run a job in a process of its own; its answer, or the reason and no results where it fails."""
    command = [sys.executable, "-m", f"{__package__}._worker", json.dumps(job)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(job), errors="replace"
    ) as process:
        timer = threading.Timer(TIMEOUT_SECONDS, process.kill)
        timer.start()
        lines: deque[str] = deque(maxlen=5)

        def read() -> None:
            for line in process.stderr or ():
                if line.startswith("\0"):
                    progress(line[1:].strip())
                else:
                    lines.append(line.rstrip())

        reader = threading.Thread(target=read)
        reader.start()
        output = process.stdout.read() if process.stdout else ""
        reader.join()
        timer.cancel()
    if process.returncode or not output:
        return {"results": [], "missing": {}, "failed": " / ".join(lines) or f"status {process.returncode}"}
    answer: Record = json.loads(output.splitlines()[-1])
    return answer


def environment(job: Record) -> dict[str, str]:
    """The environment of a worker, with the number of threads for every library that reads it from there."""
    threads = str(job["threads"])
    pools = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR", "XENT_ANY")
    changed = {f"{pool}_NUM_THREADS": threads for pool in pools}
    changed |= {"KERAS_BACKEND": "numpy", "JAX_PLATFORMS": "cuda" if job["problem"]["device"] == "cuda" else "cpu"}
    if job["problem"]["dtype"] == "float64":
        changed["JAX_ENABLE_X64"] = "1"
    if job["problem"]["device"] == "cuda":
        changed["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if job["memory"]:  # what is freed goes back to the system at once
        changed |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return {**os.environ, **changed}
