"""Threads for NumPy, whose operations give the interpreter away."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache

import numpy as np

from xent_any import Block

from ._memory import SCRATCH

BUFFER = 512
"""Numbers that NumPy's operations may buffer. If two rows fit, what is one number for each row is copied once for
each class: with 1000 of them a difference then takes 0.17 ns for a logit instead of 0.08, and a product 0.15 instead of
0.07. From some 250 classes on it is not to be copied; with 128, copying is faster."""


def in_threads(count: int, blocks: Sequence[Block]) -> None:
    """Compute all blocks, on so many threads."""
    left = iter(blocks)  # whose next is atomic

    def work() -> None:
        with np.errstate(all="ignore"):
            np.setbufsize(BUFFER)  # until the end of errstate
            for block in left:
                SCRATCH.compute(block)

    running = []
    if min(count, len(blocks)) > 1:
        with suppress(RuntimeError):  # while the interpreter shuts down, there are no other threads
            running += [_pool(count).submit(work) for _ in range(min(count, len(blocks)))]
    if not running:
        work()
    for other in running:
        other.result()


@cache
def thread_count() -> int:
    """Number of threads: XENT_ANY_NUM_THREADS, or that of the CPUs."""
    given = os.environ.get("XENT_ANY_NUM_THREADS", "")
    if given:
        if not (given.isascii() and given.isdecimal()) or int(given) == 0:
            raise ValueError(f"XENT_ANY_NUM_THREADS: expected a positive integer, got {given!r}")
        return int(given)
    return len(_cpus()) or os.cpu_count() or 1


def _cpus() -> list[int]:
    """The CPUs that this thread may use; none where that cannot be told."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Make so many threads, each on a CPU of its own if there are as many.

    Otherwise Linux may wake one on the CPU of another, whenever that gives the interpreter away, and leave both there:
    loss and gradient of 4096 x 1000 on two CPUs then take as long as on one.
    """
    cpus = _cpus()
    if threads != len(cpus):
        return ThreadPoolExecutor(threads, "xent_any")
    left = iter(cpus)

    def settle() -> None:
        with suppress(OSError):  # where that is forbidden
            os.sched_setaffinity(0, [next(left)])

    return ThreadPoolExecutor(threads, "xent_any", initializer=settle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not forked
