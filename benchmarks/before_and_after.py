"""Times of two checkouts of this project, one call after the other of either, on the same arrays.

``python benchmarks/before_and_after.py BEFORE [AFTER] [--engines ENGINE ...] [--shapes 32x10 ...] [--json FILE]``

Each checkout has a process of its own; only one of them computes at a time, in turns that change from round to round.
A cell is a shape, labels and a function; its ratio is the median, over the rounds, of the time of AFTER over that of
BEFORE beside it. Resolution: the same with BEFORE in both processes (``before_and_after.py X X``).
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import xent_any

SHAPES = ((32, 10), (65536, 10), (4096, 1000), (8192, 1000), (4, 21, 512, 512), (1024, 32000), (256, 128256))
LABELS = ("index", "smoothing", "probabilities", "class weights")
ENGINES = ("numpy", "torch", "compiled", "jax")
TURN = 0.06
"""Seconds of a turn, or one call: of a dozen rounds the median then moves by some 2 % from run to run."""


def functions(engine: str, shape: tuple[int, ...], labels: str) -> dict:
    """Calls to time, by what they compute."""
    rng, (rows, classes, *rest) = np.random.default_rng(0), shape
    x = rng.standard_normal(shape, np.float32) * 3
    y = rng.integers(0, classes, (rows, *rest))
    options = {"axis": 1}
    if labels == "probabilities":
        y = rng.random(shape, np.float32)
        y /= y.sum(1, keepdims=True)
    if labels == "smoothing":
        options["label_smoothing"] = 0.1
    if labels == "class weights":
        options["class_weight"] = rng.random(classes, np.float32) + np.float32(0.5)
    loss, both = xent_any.cross_entropy, xent_any.cross_entropy_value_and_grad
    if engine == "numpy":
        return {"loss": lambda: loss(x, y, **options), "loss + gradient": lambda: both(x, y, **options)}
    if engine == "jax":
        import jax  # noqa: PLC0415

        x, y, options = jax.tree.map(
            lambda a: jax.numpy.asarray(a) if isinstance(a, np.ndarray) else a, (x, y, options)
        )
        jitted = {"loss": jax.jit(lambda x, y: loss(x, y, **options))}
        jitted["loss + gradient"] = jax.jit(lambda x, y: both(x, y, **options))
        return {name: lambda f=f: jax.block_until_ready(f(x, y)) for name, f in jitted.items()}
    import torch  # noqa: PLC0415

    x, y = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)
    options = {name: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for name, a in options.items()}

    def forward(x, y):
        return loss(x, y, **options)

    if engine == "compiled":
        torch._dynamo.reset()
        forward = torch.compile(forward)
    leaf = x.detach()

    def backward():
        x.grad = None
        forward(x, y).backward()

    return {"loss": lambda: forward(leaf, y), "loss + gradient": backward}


def work() -> None:
    """Answer each line of the input, a cell to prepare or the function to time, by one line."""
    out, calls = os.fdopen(os.dup(1), "w"), {}
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        job = json.loads(line)
        if isinstance(job, list):
            calls = functions(*job)
            for call in calls.values():
                call(), call()
            answer = list(calls)
        else:
            call, times = calls[job], []
            call()
            end = time.perf_counter() + TURN
            while not times or time.perf_counter() < end:
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            answer = statistics.median(times)
        print(json.dumps(answer), file=out, flush=True)


def started(checkout: Path) -> subprocess.Popen:
    rooms = [checkout, *(checkout / room for room in ("backends", "conformance", "tools"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, rooms))}
    command = [sys.executable, __file__, "--work", str(checkout)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/")


def ask(process: subprocess.Popen, job: object) -> object:
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def measured(processes: list[subprocess.Popen], name: str, rounds: int) -> tuple[list[float], ...]:
    """Time a function in each process, in turns."""
    times = []
    for turn in range(rounds):
        order = processes if turn % 2 else processes[::-1]
        times.append({process.pid: ask(process, name) for process in order})
    return tuple([time[process.pid] for time in times] for process in processes)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=Path(__file__).parents[1])
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, type=lambda s: tuple(map(int, s.split("x"))))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work()
        return
    cells = []
    for engine in given.engines:
        processes = [started(path.resolve()) for path in (given.before, given.after)]
        ratios = []
        for shape, labels in itertools.product(given.shapes, LABELS):
            names, _ = [ask(process, (engine, shape, labels)) for process in processes]
            for name in names:
                before, after = measured(processes, name, given.rounds)
                ratios.append(statistics.median(b / a for a, b in zip(before, after, strict=True)))
                cell = {"engine": engine, "shape": shape, "labels": labels, "function": name, "ratio": ratios[-1]}
                cell |= {"before": statistics.median(before), "after": statistics.median(after)}
                cells.append(cell)
                text = f"{engine:9}{'x'.join(map(str, shape)):14}{labels:14}{name:16}"
                milliseconds = "".join(f"{1e3 * cell[when]:11.3f}" for when in ("before", "after"))
                say(f"{text}{milliseconds}{ratios[-1]:7.2f}")
        for process in processes:
            process.stdin.close()
            process.wait()
        mean = statistics.geometric_mean(ratios)
        say(f"{engine}: geometric mean {mean:.3f}, largest {max(ratios):.2f}, of {len(ratios)} cells")
        if given.json:
            given.json.write_text(json.dumps(cells, indent=1) + "\n")


if __name__ == "__main__":
    main()
