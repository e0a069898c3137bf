"""Timing: contestants in turn, in another order every round."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

BATCH_SECONDS = 1e-3
"""A shorter call is timed with others of its kind, so that neither the clock's resolution nor its own cost counts."""

PAUSE_SECONDS = 0.01
"""Before each turn: the threads of the contestant before spin for a few milliseconds before they sleep."""

SETTLE_SECONDS = 0.05
"""A contestant that is faster than this runs once before it is timed: it then finds threads and allocator its own."""

FEWEST, FEWEST_SLOW, MOST = 5, 3, 101
"""Repeats of one contestant."""

SLOW_SECONDS = 1.0
"""Who takes longer than this for one call has fewer repeats."""

Call = Callable[[int], Any]
"""Runs on the i-th of the inputs, in turn, and waits for the result."""


def timings(
    calls: Mapping[str, Call],
    seconds: float,
    *,
    batch_seconds: float = BATCH_SECONDS,
    after: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """Time calls that are warm already.

    Parameters
    ----------
    calls : mapping of str to callable
        What is timed.
    seconds : float
        The time that each may use; each has at least `FEWEST` repeats, or `FEWEST_SLOW`, and at most `MOST`.
    batch_seconds : float
        How long a repeat takes at least, by calling more than once.
    after : callable
        Waits for all results, at the end of a repeat.
    clock : callable
        Seconds.

    Returns
    -------
    dict
        For each: ``median``, the quartiles ``q1`` and ``q3`` and ``least`` in seconds of one call; how many
        ``repeats`` of how many ``calls``.
    """
    order, shuffle = list(calls), random.Random(0).shuffle
    index = dict.fromkeys(order, 0)

    def repeat(name: str, count: int) -> float:
        call, first = calls[name], index[name]
        index[name] += count
        start = clock()
        for i in range(first, first + count):
            call(i)
        after()
        return (clock() - start) / count

    batch, fastest = {}, {}
    for name in order:
        count, one = 1, repeat(name, 1)
        if one < SETTLE_SECONDS:
            one = min(repeat(name, 1) for _ in range(3))
        while one * count < batch_seconds:
            count = max(2 * count, min(1 << 20, round(1.2 * batch_seconds / max(one, 1e-9))))
            one = min(one, repeat(name, count))
        batch[name], fastest[name] = count, one
    found: dict[str, list[float]] = {name: [] for name in order}
    used = dict.fromkeys(order, 0.0)
    while order:
        shuffle(order)
        for name in order:
            time.sleep(PAUSE_SECONDS)
            if fastest[name] < SETTLE_SECONDS:
                repeat(name, 1)
            found[name].append(repeat(name, batch[name]))
            used[name] += found[name][-1] * batch[name] + min(SETTLE_SECONDS, fastest[name]) + PAUSE_SECONDS
        order = [name for name in order if _wants_more(found[name], used[name], seconds, fastest[name])]
    return {name: summary(times) | {"calls": batch[name]} for name, times in found.items()}


def _wants_more(times: list[float], used: float, seconds: float, one: float) -> bool:
    fewest = FEWEST if one < SLOW_SECONDS else FEWEST_SLOW
    return len(times) < fewest or (used < seconds and len(times) < MOST)


def summary(times: list[float]) -> dict[str, Any]:
    """The median, its quartiles, the least, and of how many."""
    q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": median, "q1": q1, "q3": q3, "least": min(times), "repeats": len(times)}
