"""A run: a process for each problem and number of threads; one account of it all."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import xent_any

from . import _machine
from ._problems import Problem
from .contestants import LIBRARIES

Record = dict[str, Any]
Tell = Callable[[str], None]

LONGEST_SECONDS = 1800
"""A process that takes longer is ended."""


class Plan(NamedTuple):
    """What is run.

    Attributes
    ----------
    problems : sequence of Problem
    threads : sequence of str
        ``"1"``, ``"all"`` or a number.
    libraries : sequence of str
        Only these libraries, and ours on their arrays; by default all.
    seconds : float
        The time that each contestant may use for one problem.
    memory : bool
        Whether peak memory is measured as well: a process for each contestant and problem, with the first of `threads`.
    command : str
        What reproduces the run.
    """

    problems: Sequence[Problem]
    threads: Sequence[str] = ("1", "all")
    libraries: Sequence[str] = ()
    seconds: float = 1.0
    memory: bool = False
    command: str = ""


def run(plan: Plan, tell: Tell = lambda text: None) -> Record:
    """Run it.

    Parameters
    ----------
    plan : Plan
    tell : callable
        Told what is being done.

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
    for problem in plan.problems:
        for threads in dict.fromkeys(map(count, plan.threads)):
            about = f"{problem.name} {problem.dtype} {problem.option}, {threads} thread{'s' * (threads != 1)}"

            def told(what: str, about: str = about) -> None:
                tell(f"{about}: {what}")

            job = job_of(problem, threads, plan.libraries, plan.seconds)
            answer = work(job, told)
            missing |= answer["missing"]
            cases.append(
                {"problem": problem._asdict(), "threads": threads, "results": answer["results"]}
                | ({"failed": answer["failed"]} if "failed" in answer else {})
            )
        if plan.memory:
            _add_memory(plan, problem, cases[-len(set(map(count, plan.threads))) :], tell)
    return {
        "xent_any": xent_any.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine.facts(),
        "versions": _machine.versions(LIBRARIES),
        "command": plan.command,
        "seconds_of_each": plan.seconds,
        "seconds": round(time.perf_counter() - start, 1),
        "missing": [{"library": name, "reason": why} for name, why in missing.items()],
        "cases": cases,
    }


def count(threads: str) -> int:
    """How many threads ``"all"`` is."""
    return len(_machine.cpus()) if threads == "all" else int(threads)


def job_of(problem: Problem, threads: int, libraries: Sequence[str], seconds: float = 0.0) -> Record:
    """The job of a worker that times all contestants."""
    return {
        "problem": problem._asdict(),
        "threads": threads,
        "pin": True,
        "libraries": list(libraries),
        "contestants": None,
        "seconds": seconds,
        "memory": False,
    }


def _add_memory(plan: Plan, problem: Problem, cases: Sequence[Record], tell: Tell) -> None:
    """Of those that were timed."""
    timed = dict.fromkeys(row["key"] for case in cases for row in case["results"] if row["status"] == "timed")
    threads = cases[-1]["threads"]
    for key in timed:
        tell(f"{problem.name} {problem.dtype} {problem.option}: memory of {key}")
        job = job_of(problem, threads, plan.libraries) | {"contestants": [key], "memory": True}
        found: Record = next(iter(work(job)["results"]), {})
        for row in (row for case in cases for row in case["results"] if row["key"] == key):
            row |= {name: found[name] for name in ("peak_bytes", "peak_is") if name in found}


def work(job: Record, tell: Tell = lambda text: None) -> Record:
    """The answer of a process of its own; without results, and with the reason, where it fails."""
    command = [sys.executable, "-m", f"{__package__}._worker", json.dumps(job)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(job), errors="replace"
    ) as process:
        timer = threading.Timer(LONGEST_SECONDS, process.kill)
        timer.start()
        lines: deque[str] = deque(maxlen=5)

        def read() -> None:
            for line in process.stderr or ():
                if line.startswith("\0"):
                    tell(line[1:].strip())
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
    """That of a worker: the threads of every library that reads them from there."""
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
