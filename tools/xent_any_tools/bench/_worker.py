"""One process: one problem, with so many threads, and nothing left from another.

``python -m xent_any_tools.bench._worker JOB``, where JOB is JSON; its result is the last line of its output.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from xent_any_conformance import _machine

from . import _clock, _memory
from ._answers import prepared
from ._clock import Call
from ._problems import Inputs, Problem
from .contestants import Contestant, load

GPU_CACHE_BYTES = 1 << 26
"""Twice this is more than the second-level cache of an H100, 50 MB, or of a B200, 126 MB."""


def measured(
    problem: Problem,
    contestants: Sequence[Contestant],
    *,
    seconds: float,
    threads: int,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Check what each contestant answers, then time those that are right.

    Parameters
    ----------
    problem : Problem
    contestants : sequence of Contestant
    seconds : float
        The time that each may use, for all its repeats.
    threads : int
        How many the process has.
    progress : callable
        Called with the key of each contestant as it is prepared, the slowest part where it compiles.

    Returns
    -------
    list of dict
        For each contestant what it is, its ``status`` (``timed``, ``wrong``, ``failed`` or ``not there``), the
        ``reason`` for any but the first, and its times.
    """
    on_gpu = problem.device != "cpu"
    inputs = Inputs(problem, GPU_CACHE_BYTES if on_gpu else _machine.cache_bytes(), threads)
    pending = Pending()
    rows, calls = [], {}
    for contestant in contestants:
        progress(contestant.key)
        row, call = prepared(contestant, inputs)
        rows.append(row)
        if call is not None:
            calls[contestant.key] = pending.keeping(call, contestant.wait) if on_gpu else call
    progress("timing")
    gc.collect()
    is_enabled = gc.isenabled()
    gc.disable()  # as timeit does
    batch = _clock.BATCH_SECONDS * (10 if on_gpu else 1)  # a GPU is waited for at the end of a batch
    try:
        found = _clock.timings(calls, seconds, batch_seconds=batch, after=pending.finish)
    finally:
        if is_enabled:
            gc.enable()
    return [row | found.get(row["key"], {}) for row in rows]


class Pending:
    """What a GPU has been given to do: it works in order, so that the last result is waited for."""

    def __init__(self) -> None:
        self._wait: Callable[[Any], Any] | None = None
        self._result: Any = None

    def keeping(self, call: Call, wait: Callable[[Any], Any] | None) -> Call:
        """The call, with its result kept to be waited for."""

        def kept(i: int) -> None:
            self._wait, self._result = wait, call(i)

        return kept

    def finish(self) -> None:
        """Wait for the last result."""
        if self._wait is not None:
            self._wait(self._result)
        elif self._result is not None:
            sys.modules["torch"].cuda.synchronize()
        self._wait = self._result = None


def main(job: dict[str, Any]) -> dict[str, Any]:
    """The answer to a job, which `_run.timing_job` describes."""
    threads = int(job["threads"])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, _machine.cpus()[-threads:])
    problem = Problem(**(job["problem"] | {"shape": tuple(job["problem"]["shape"])}))
    contestants, missing = load(job["libraries"], limits=job["limits"])
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    wanted = job["contestants"] or [c.key for c in contestants if c.group not in job["without"]]
    contestants = [c for c in contestants if c.key in wanted]
    if job["memory"]:
        (contestant,) = contestants
        return {"results": [_memory.measured(contestant, problem, threads)], "missing": missing}
    rows = measured(problem, contestants, seconds=job["seconds"], threads=threads, progress=_report)
    gpu = sys.modules["torch"].cuda.get_device_name() if problem.device != "cpu" and "torch" in sys.modules else None
    return {"results": rows, "missing": missing, "gpu": gpu}


def _report(what: str) -> None:
    sys.stderr.write(f"\0{what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    # What libraries print goes to the error stream; the result goes where the output was.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    output.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
    output.flush()
    os._exit(0)  # no library's threads are waited for
