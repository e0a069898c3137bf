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
from typing import Any, NamedTuple

import xent_any
from xent_any_conformance import _machine

from ._problems import Problem
from .contestants import versions

Record = dict[str, Any]
Tell = Callable[[str], None]

GROWING, GROWING_BESIDE = range(5, 16), 1000
"""The powers of two that N and C take in turn, and what the other one is."""

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
    memory : collection of Problem
        Those whose peak memory is measured as well: a process for each contestant, with the last of `threads`.
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


def run(plan: Plan, tell: Tell = lambda text: None, save: Callable[[Record], None] = lambda record: None) -> Record:
    """Run it.

    Parameters
    ----------
    plan : Plan
    tell : callable
        Told what is being done.
    save : callable
        Given the record after each problem.

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
    counts = list(dict.fromkeys(map(count, plan.threads)))

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
        about = f"{problem.name} {problem.dtype} {problem.option}, {threads} thread{'s' * (threads != 1)}"
        job = job_of(problem, threads, plan.libraries, plan.seconds)
        answer = work(job | ({"without": ["torch compiled"]} if growth else {}), lambda what: tell(f"{about}: {what}"))
        missing.update(answer["missing"])
        if answer.get("gpu"):
            machine["gpu"] = answer["gpu"]
        case = {"problem": problem._asdict(), "threads": threads, "growth": growth, "results": answer["results"]}
        return case | ({"failed": answer["failed"]} if "failed" in answer else {})

    for problem in plan.problems:
        of_problem = [timed(problem, threads) for threads in counts]
        if problem in plan.memory:
            _add_memory(problem, of_problem, tell)
        cases.extend(of_problem)
        save(record())
    for axis, shape in growing() if plan.growth else ():
        cases.append(timed(Problem(shape, device=plan.problems[0].device), counts[-1], axis))
        save(record())
    return record()


def growing() -> list[tuple[str, tuple[int, int]]]:
    """Shapes whose N, then whose C, doubles over three decades."""
    sizes = [2**k for k in range(GROWING.start, GROWING.stop)]
    return [("N", (size, GROWING_BESIDE)) for size in sizes] + [("C", (GROWING_BESIDE, size)) for size in sizes]


def count(threads: str) -> int:
    """How many threads ``"all"`` is."""
    return len(_machine.cpus()) if threads == "all" else int(threads)


def job_of(problem: Problem, threads: int, libraries: Sequence[str], seconds: float = 0.0) -> Record:
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


def _add_memory(problem: Problem, cases: Sequence[Record], tell: Tell) -> None:
    """Of those that were timed."""
    timed = {row["key"]: row for case in cases for row in case["results"] if row["status"] == "timed"}
    for key, row in timed.items():
        tell(f"{problem.name} {problem.dtype} {problem.option}: memory of {key}")
        library = row["group"].split()[0] if row["ours"] else row["library"]
        job = job_of(problem, cases[-1]["threads"], [library]) | {"contestants": [key], "memory": True}
        answer = work(job | {"limits": row["limit"]})
        found: Record = next(iter(answer["results"]), {"reason": answer.get("failed", "no result")})
        if "reason" in found:
            cases[-1].setdefault("failed", f"memory of {key}: {found['reason']}")
        for other in (r for case in cases for r in case["results"] if r["key"] == key):
            other |= {name: found[name] for name in ("peak_bytes", "peak_is") if name in found}


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
