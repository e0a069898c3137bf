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

MIN_REPEATS, MIN_REPEATS_SLOW, MAX_REPEATS = 5, 3, 101
"""How often a contestant is timed."""

SLOW_SECONDS = 1.0
"""A contestant that takes longer than this for one call has fewer repeats."""

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
        The time that each may use; each has at least `MIN_REPEATS` repeats, or `MIN_REPEATS_SLOW`, and at most
        `MAX_REPEATS`.
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
        count, duration = 1, repeat(name, 1)
        if duration < SETTLE_SECONDS:
            duration = min(repeat(name, 1) for _ in range(3))
        while duration * count < batch_seconds:
            count = max(2 * count, min(1 << 20, round(1.2 * batch_seconds / max(duration, 1e-9))))
            duration = min(duration, repeat(name, count))
        batch[name], fastest[name] = count, duration
    times: dict[str, list[float]] = {name: [] for name in order}
    used = dict.fromkeys(order, 0.0)
    while order:
        shuffle(order)
        for name in order:
            time.sleep(PAUSE_SECONDS)
            if fastest[name] < SETTLE_SECONDS:
                repeat(name, 1)
            times[name].append(repeat(name, batch[name]))
            used[name] += times[name][-1] * batch[name] + min(SETTLE_SECONDS, fastest[name]) + PAUSE_SECONDS
        order = [name for name in order if _wants_more(times[name], used[name], seconds, fastest[name])]
    return {name: summary(times[name]) | {"calls": batch[name]} for name in times}


def _wants_more(times: list[float], used: float, seconds: float, duration: float) -> bool:
    minimum = MIN_REPEATS if duration < SLOW_SECONDS else MIN_REPEATS_SLOW
    return len(times) < minimum or (used < seconds and len(times) < MAX_REPEATS)


def summary(times: list[float]) -> dict[str, Any]:
    """The median of some times, their quartiles, the least, and how many there are."""
    q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": median, "q1": q1, "q3": q3, "least": min(times), "repeats": len(times)}
