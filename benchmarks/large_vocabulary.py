"""The last layer of a large vocabulary and its loss together: time, errors, peak memory, and what can be done with it.

``python benchmarks/large_vocabulary.py benchmarks/records/large_vocabulary.json`` measures all of it in about 20
minutes, and writes the record after each part; fails where a gradient of ours is further from the truth than it may be.
``--page docs/large-vocabulary.md --figure docs/images/large-vocabulary.png`` makes the tables and the picture from the
record. ``--parts peaks growth`` measures these alone, into the record that there is, and ``--parts`` nothing;
``--fewer 4`` a quarter of the rows. Needs the extras ``bench``, ``torch`` and ``jax``, and optax; PyTorch 2.13.
"""

import argparse
import functools
import json
import multiprocessing
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import xent_any
from xent_any_conformance.records import BEGIN, END, table
from xent_any_tools.bench import _clock, _memory
from xent_any_tools.bench._summary import duration, interquartile, ratio

Record = dict[str, Any]
Answers = tuple[Any, Any, Any]
"""The loss, and its gradients with respect to the layer's inputs and its weight."""

MIB = 1 << 20
SECONDS = 0.0  # for all repeats of one contestant: so few as may be, 3 of those that take more than a second


@dataclass(frozen=True)
class Problem:
    """Rows, inputs of the layer, classes."""

    n: int
    d: int
    c: int
    dtype: str = "float32"

    @property
    def shape(self) -> str:
        return f"{self.n}x{self.d}x{self.c}"

    @property
    def itemsize(self) -> int:
        return int(torch.finfo(getattr(torch, self.dtype)).bits) // 8

    @property
    def logits_bytes(self) -> int:
        return self.n * self.c * self.itemsize

    @property
    def gradient_bytes(self) -> int:
        return (self.n + self.c) * self.d * self.itemsize

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The logits are about as large as those of a standard normal distribution."""
        torch.manual_seed(0)
        dtype = getattr(torch, self.dtype)
        hidden, weight = torch.randn(self.n, self.d), torch.randn(self.c, self.d).div_(self.d**0.5)
        return hidden.to(dtype), weight.to(dtype), torch.randint(self.c, (self.n,))


TIMED = (Problem(2048, 512, 32000), Problem(1024, 768, 128256), Problem(4096, 256, 50257))
PEAK = Problem(4096, 512, 128256)
GROWTH = tuple(Problem(2048, 256, 1 << i) for i in range(13, 19))
BLOCKS = Problem(2048, 512, 32000)
BLOCK_MIB = (4, 16, 64, 256, 1024)
ABILITIES = Problem(2048, 8, 16384)
BLOCK_OF_ABILITIES = 16 * MIB


def ours(hidden: Any, weight: Any, labels: Any, **options: Any) -> Any:
    return xent_any.linear_cross_entropy(hidden, weight, labels, **options)


def ours_and_gradients(hidden: Any, weight: Any, labels: Any, **options: Any) -> Any:
    return xent_any.linear_cross_entropy_value_and_grad(hidden, weight, labels, **options)


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), labels, **options)


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor, retain: bool = False, **options: Any) -> Tensor:
    chosen = torch.nn.LinearCrossEntropyOptions(allow_retain_graph=retain)
    return F.linear_cross_entropy(hidden, weight, labels, options=chosen, **options)


def plain_optax(hidden: Any, weight: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(hidden @ weight.T, labels).mean()


REFERENCE, CHUNKED = "PyTorch, plain", "PyTorch, chunked"
OURS_TORCH, OURS_NUMPY, OURS_JAX = "xent_any, PyTorch", "xent_any, NumPy", "xent_any, JAX"
LOSSES: Mapping[str, tuple[str, Callable[..., Any]]] = {
    OURS_NUMPY: ("numpy", ours_and_gradients),
    OURS_TORCH: ("torch", ours),
    f"{OURS_TORCH}, recompute": ("torch", functools.partial(ours, recompute=True)),
    OURS_JAX: ("jax", ours),
    REFERENCE: ("torch", plain),
    CHUNKED: ("torch", chunked),
    "Optax, plain": ("jax", plain_optax),
}
PRODUCTS = "three products alone, "
HOLD_LOGITS = (REFERENCE, "Optax, plain")


def prepared(name: str, problem: Problem, inputs: tuple[Tensor, Tensor, Tensor], **options: Any) -> Callable[[], Any]:
    """A call of the loss and its gradients, compiled where it will be."""
    library, loss = LOSSES[name]
    loss = functools.partial(loss, **options)
    h, w, y = inputs
    if library == "numpy":
        arrays = tuple(a.numpy() for a in inputs)

        def of_numpy() -> Answers:
            value, (d_hidden, d_weight, _) = loss(*arrays)
            return value, d_hidden, d_weight

        return of_numpy
    if library == "jax":
        given = (jnp.from_dlpack(h), jnp.from_dlpack(w), jnp.asarray(y.numpy().astype(np.int32)))
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*given).compile()

        def of_jax() -> Answers:
            value, gradients = jax.block_until_ready(compiled(*given))
            return value, *gradients

        return of_jax
    leaves = [a.detach().requires_grad_() for a in (h, w)]

    def of_torch() -> Answers:
        for leaf in leaves:
            leaf.grad = None
        value = loss(*leaves, y)
        value.backward()
        return value.detach(), leaves[0].grad, leaves[1].grad

    return of_torch


def products(inputs: tuple[Tensor, Tensor, Tensor]) -> dict[str, Callable[[], Any]]:
    """Those of logits, d_hidden and d_weight, into memory at hand."""
    h, w, _ = inputs
    x, dh, dw = h @ w.T, torch.empty_like(h), torch.empty_like(w)

    def of_torch() -> None:
        torch.mm(h, w.T, out=x)
        torch.mm(x, w, out=dh)
        torch.mm(x.T, h, out=dw)

    def of_numpy() -> None:
        np.matmul(h.numpy(), w.numpy().T, out=x.numpy())
        np.matmul(x.numpy(), w.numpy(), out=dh.numpy())
        np.matmul(x.numpy().T, h.numpy(), out=dw.numpy())

    numpys = {PRODUCTS + "NumPy": of_numpy} if h.dtype == torch.float32 else {}
    return {PRODUCTS + "PyTorch": of_torch} | numpys


def truth(inputs: tuple[Tensor, Tensor, Tensor], rows: int = 256) -> tuple[tuple[Tensor, Tensor, Tensor], float]:
    """The plain path in float64, some rows at a time, and the largest difference of logits of a row."""
    h, w, y = inputs
    h, w = (a.double().requires_grad_() for a in (h, w))
    total, apart = torch.zeros((), dtype=torch.float64), 0.0
    for hidden, labels in zip(h.split(rows), y.split(rows), strict=True):
        logits = F.linear(hidden, w)
        loss = F.cross_entropy(logits, labels, reduction="sum") / len(y)
        loss.backward()
        total += loss.detach()
        apart = max(apart, float((logits.detach().amax(1) - logits.detach().amin(1)).max()))
    if h.grad is None or w.grad is None:
        raise RuntimeError("PyTorch computed no gradient")
    return (total, h.grad, w.grad), apart


def errors(answers: Answers, right: tuple[Tensor, Tensor, Tensor], dtype: str) -> dict[str, float]:
    """The largest error of each, relative to the largest entry, in units of the dtype's eps."""
    found = {}
    for name, answer, true in zip(("loss", "d_hidden", "d_weight"), answers, right, strict=True):
        got = answer if isinstance(answer, Tensor) else torch.from_numpy(np.asarray(answer, dtype=np.float64))
        error = (got.double() - true).abs().max() / true.abs().max()
        found[name] = float(error) / torch.finfo(getattr(torch, dtype)).eps
    return found


def limits(dtype: str, apart: float, reference: Mapping[str, float]) -> dict[str, float]:
    """How large the errors of ours may be.

    float32: what the contract allows the gradient with respect to a logit, (8 + d) eps / 2; and beside it the error
    that the plain path has, for the matrix products round with either. Half precision is computed in float32: half a
    unit is the one rounding of the result, and as much again is left for everything before it.
    """
    if dtype == "float32":
        return {name: (8 + apart) / 2 + error for name, error in reference.items()}
    return dict.fromkeys(reference, 1.0)


def _of_nothing(run: Callable[[], Any]) -> _clock.Call:
    return lambda _: run()


def timed(problem: Problem) -> Record:
    """Times, in turn; the first call of each, which is not among them, tells the errors."""
    inputs = problem.inputs()
    right, apart = truth(inputs)
    found: dict[str, dict[str, float]] = {}

    def call_of(name: str) -> _clock.Call:
        run = prepared(name, problem, inputs)

        def call(_: int) -> None:
            answers = run()
            if name not in found:
                found[name] = errors(answers, right, problem.dtype)

        return call

    names = [name for name, (library, _) in LOSSES.items() if library != "numpy" or problem.dtype == "float32"]
    calls: dict[str, _clock.Call] = {name: call_of(name) for name in names}
    for name, run in products(inputs).items():
        calls[name] = _of_nothing(run)
    times = _clock.timings(calls, SECONDS)
    allowed = limits(problem.dtype, apart, found[REFERENCE])
    rows = {}
    for name in calls:
        rows[name] = times[name] | ({"errors": found[name]} if name in found else {})
        if name.startswith("xent_any"):
            rows[name] |= {"limits": allowed, "right": all(found[name][of] <= allowed[of] for of in allowed)}
    return asdict(problem) | {"rows": rows}


def peak(problem: Problem, name: str, **options: Any) -> int:
    """Bytes beyond what the process had before, inputs among it, and beyond the gradients."""
    small = replace(problem, n=64, d=16, c=300)
    prepared(name, small, small.inputs(), **options)()  # imports, threads
    call = prepared(name, problem, problem.inputs(), **options)
    return max(0, int(_memory.of_call(call)["peak_bytes"]) - problem.gradient_bytes)


def blocks(problem: Problem) -> Record:
    """The time that blocks of so many bytes take."""
    inputs = problem.inputs()
    calls: dict[str, _clock.Call] = {}
    for name in (OURS_NUMPY, OURS_TORCH):
        for size in BLOCK_MIB:
            run = prepared(name, problem, inputs, max_bytes=size * MIB)
            calls[f"{name} {size}"] = _of_nothing(run)
    times = _clock.timings(calls, SECONDS)
    return asdict(problem) | {
        "rows": {name: {size: times[f"{name} {size}"] for size in BLOCK_MIB} for name in (OURS_NUMPY, OURS_TORCH)}
    }


def gradients(f: Callable[..., Tensor], h: Tensor, w: Tensor, y: Tensor, cotangent: Any = None) -> tuple[Tensor, ...]:
    leaves = [a.detach().requires_grad_() for a in (h, w)]
    return torch.autograd.grad(f(*leaves, y), leaves, cotangent)


def twice(f: Callable[..., Tensor], h: Tensor, w: Tensor, y: Tensor) -> Any:
    leaves = [a.detach().requires_grad_() for a in (h, w)]
    loss = f(*leaves, y)
    loss.backward(retain_graph=True)
    loss.backward()
    return [leaf.grad for leaf in leaves]


def second(f: Callable[..., Tensor], h: Tensor, w: Tensor, y: Tensor) -> Any:
    leaves = [a.detach().requires_grad_() for a in (h, w)]
    first = torch.autograd.grad(f(*leaves, y), leaves, create_graph=True)
    return torch.autograd.grad(first, leaves, (h, w))


def compiled(f: Callable[..., Tensor], h: Tensor, w: Tensor, y: Tensor) -> Any:
    def function(*arguments: Tensor) -> Tensor:
        return f(*arguments)

    return gradients(torch.compile(function, fullgraph=True), h, w, y)


def traced(f: Callable[..., Tensor], h: Tensor, w: Tensor, y: Tensor) -> Any:
    def function(*arguments: Tensor) -> Tensor:
        return f(*arguments)

    return gradients(torch.jit.trace(function, (h, w, y)), h, w, y)


def func_hessian_product(f: Callable[..., Tensor], h: Tensor, w: Tensor, y: Tensor) -> Any:
    return (torch.func.jvp(torch.func.grad(lambda a: f(a, w, y)), (h,), (h,))[1],)


PROBABILITIES = "class probabilities"
WHAT: Mapping[str, Callable[..., Any]] = {
    "`loss.backward()`": gradients,
    '`reduction="none"`': lambda f, h, w, y: gradients(
        functools.partial(f, reduction="none"), h, w, y, torch.linspace(0, 1, len(y))
    ),
    "checkpointing": lambda f, *a: gradients(lambda *b: checkpoint(f, *b, use_reentrant=False), *a),
    "a second backward pass, `retain_graph=True`": twice,
    "label smoothing": lambda f, *a: gradients(functools.partial(f, label_smoothing=0.1), *a),
    PROBABILITIES: gradients,
    "second derivatives, `create_graph=True`": second,
    "`torch.func.grad`": lambda f, h, w, y: torch.func.grad(lambda *a: f(*a, y), (0, 1))(h, w),
    "`torch.func.vmap` of `grad`": lambda f, h, w, y: torch.func.vmap(
        torch.func.grad(lambda *a: f(*a, y), 1), (None, 0)
    )(h, torch.stack([w, 2 * w])),
    "`torch.func.jvp`": lambda f, h, w, y: torch.func.jvp(lambda *a: f(*a, y), (h, w), (h, w)),
    "`torch.func.jvp` of `grad`": func_hessian_product,
    "`torch.compile(fullgraph=True)`": compiled,
    "`torch.jit.trace`": traced,
}
WHOSE: Mapping[str, Callable[..., Tensor]] = {
    REFERENCE: plain,
    CHUNKED: functools.partial(chunked, retain=True),
    OURS_TORCH: functools.partial(ours, max_bytes=BLOCK_OF_ABILITIES),
}


def _keep(found: list[Any], do: Callable[..., Any], *arguments: Any) -> None:
    found.extend(do(*arguments))


def abilities(problem: Problem) -> Record:
    """Whether each can do what, and its peak memory over the bytes of the logits, results among it."""
    inputs = problem.inputs()
    probabilities = torch.rand(problem.n, problem.c).div_(problem.c / 2)
    for loss in WHOSE.values():
        gradients(loss, *inputs)
    rows: dict[str, dict[str, Record]] = {}
    for what, do in WHAT.items():
        rows[what] = {}
        given = (*inputs[:2], probabilities) if what == PROBABILITIES else inputs
        right: Any = None
        for name, loss in WHOSE.items():
            got: list[Any] = []
            row: Record = {"outcome": "yes"}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    needed = _memory.of_call(functools.partial(_keep, got, do, loss, *given))
                except Exception as error:  # noqa: BLE001  (what the table is about)
                    row = {"outcome": type(error).__name__, "says": str(error).partition("\n")[0]}
            if got:
                right = right or got  # the reference's, which comes first
                apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, right, strict=True))
                row["outcome"] = "yes" if apart < 1e-3 else "wrong"
                row |= {"apart": apart, "logits": needed["peak_bytes"] / problem.logits_bytes}
                row["warns"] = any("`options`` ignored" in str(warning.message) for warning in caught)
            rows[what][name] = row
    return asdict(problem) | {"rows": rows}


def alone(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What the function returns in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **options).result()


def peak_row(console: Console, problem: Problem, name: str, max_mib: int | None = None) -> Record:
    """The peak of one call, or why it is not measured."""
    console.print(f"peak memory of {problem.shape} {problem.dtype}: {titled(name, max_mib)}", highlight=False)
    row = asdict(problem) | {"name": name, "max_mib": max_mib, "logits_bytes": problem.logits_bytes}
    if name in HOLD_LOGITS:
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.M)
        available = int(found[1]) << 10 if found else 0
        if available < 5 * problem.logits_bytes + 2 * problem.gradient_bytes:
            console.print(f"  not measured: {available >> 20} MiB of memory are available", style="bold")
            return row | {"skipped": f"{available >> 20} MiB of memory were available"}
    options = {} if max_mib is None else {"max_bytes": max_mib * MIB}
    try:
        return row | {"peak_bytes": alone(peak, problem, name, **options)}
    except BrokenProcessPool:
        console.print("  not measured: the process was killed", style="bold")
        return row | {"skipped": "the process was killed"}


def titled(name: str, max_mib: int | None) -> str:
    return name if max_mib is None else f"{name}, `max_bytes={max_mib} << 20`"


PEAKS: Sequence[tuple[str, str, int | None]] = [
    *(("float32", name, None) for name in LOSSES),
    ("float32", OURS_NUMPY, 64),
    ("float32", OURS_TORCH, 64),
    *(("bfloat16", name, None) for name in (OURS_TORCH, OURS_JAX, REFERENCE, CHUNKED)),
]
GROWN: Sequence[tuple[str, int | None]] = [(REFERENCE, None), (CHUNKED, None), (OURS_TORCH, None), (OURS_TORCH, 64)]


def measured(console: Console, part: str, fewer: int) -> Any:
    """A part of the record, of one in `fewer` rows."""

    def chosen(problem: Problem) -> Problem:
        return replace(problem, n=problem.n // fewer)

    if part == "times":
        found = []
        for problem in map(chosen, TIMED):
            for dtype in ("float32", "bfloat16"):
                console.print(f"time and errors of {problem.shape} {dtype}", highlight=False)
                found.append(alone(timed, replace(problem, dtype=dtype)))
        return found
    if part == "blocks":
        console.print("block size against time")
        return alone(blocks, chosen(BLOCKS))
    if part == "abilities":
        console.print("what can be done with it")
        return alone(abilities, ABILITIES)
    if part == "peaks":
        return [peak_row(console, replace(chosen(PEAK), dtype=dtype), name, size) for dtype, name, size in PEAKS]
    return [peak_row(console, chosen(problem), *whose) for problem in GROWTH for whose in GROWN]


PARTS = ("times", "blocks", "abilities", "peaks", "growth")


def update(record: Record, console: Console, part: str, fewer: int) -> None:
    """Measure a part of the record."""
    start = time.perf_counter()
    record[part] = measured(console, part, fewer)
    packages = ("xent-any", "array-api-compat", "numpy", "torch", "jax", "jaxlib", "optax")
    record.setdefault("made", {})[part] = {
        "command": " ".join(sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "packages": {name: version(name) for name in packages},
    }


def shape(row: Record) -> str:
    return Problem(row["n"], row["d"], row["c"]).shape


def wrong(record: Record) -> list[str]:
    """What is further from the truth than it may be."""
    return [
        f"{name}, {shape(of)} {of['dtype']}: errors {row['errors']}, limits {row['limits']}"
        for of in record["times"]
        for name, row in of["rows"].items()
        if not row.get("right", True)
    ]


def tables(record: Record) -> str:
    """The tables of the page."""
    parts = []
    for dtype in ("float32", "bfloat16"):
        those = [of for of in record["times"] if of["dtype"] == dtype]
        shapes = [shape(of) for of in those]
        parts.append(f"## Time of loss and gradients, {dtype}\n\n" + table(["", *shapes], time_rows(those)))
        parts.append(f"## Errors, {dtype}\n\n" + table(["", *shapes], error_rows(those)))
    parts.append("## Peak memory\n\n" + peak_table(record["peaks"]))
    parts.append("## As the vocabulary grows\n\n" + growth_table(record["growth"]))
    parts.append("## Block size against time\n\n" + block_table(record["blocks"]))
    parts.append("## Beside PyTorch's chunked path\n\n" + ability_table(record["abilities"]))
    parts.append("## The run\n\n" + table(["", "date", "minutes", "with"], made_rows(record)))
    return "\n".join(parts)


def made_rows(record: Record) -> Iterable[Sequence[str]]:
    for part, of in record["made"].items():
        versions = ", ".join(f"{name} {number}" for name, number in of["packages"].items())
        machine = f"{of['cpus']} CPUs, {of['platform']}, Python {of['python']}, {versions}"
        yield [f"{part}: `{of['command']}`", of["date"], str(of["minutes"]), machine]


def time_rows(those: Sequence[Record]) -> Iterable[Sequence[str]]:
    limits = [min(row["median"] for name, row in of["rows"].items() if name.startswith(PRODUCTS)) for of in those]
    for name in those[0]["rows"]:
        cells = []
        for of, limit in zip(those, limits, strict=True):
            row = of["rows"][name]
            share = "" if name.startswith(PRODUCTS) else f", {100 * limit / row['median']:.0f} %"
            cells.append(f"{duration(row['median'])} {interquartile(row)}{share}")
        yield [bold(name), *cells]
    for peer in (REFERENCE, CHUNKED):
        yield [
            f"{peer} / {OURS_TORCH}",
            *(ratio(of["rows"][peer]["median"] / of["rows"][OURS_TORCH]["median"]) for of in those),
        ]


def error_rows(those: Sequence[Record]) -> Iterable[Sequence[str]]:
    for name, first in those[0]["rows"].items():
        if "errors" in first:
            yield [bold(name), *(triple(of["rows"][name]["errors"]) for of in those)]
    yield ["limit of ours", *(triple(of["rows"][OURS_TORCH]["limits"]) for of in those)]


def triple(values: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.2g}" for value in values.values())


def bold(name: str) -> str:
    return f"**{name}**" if name.startswith("xent_any") else name


def mib(row: Record) -> str:
    return f"{row['peak_bytes'] / MIB:.0f}" if "peak_bytes" in row else "-"


def peak_table(rows: Sequence[Record]) -> str:
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        cell = f"{mib(row)} ({ratio(row['peak_bytes'] / row['logits_bytes'])})" if "peak_bytes" in row else "-"
        found.setdefault(bold(titled(row["name"], row["max_mib"])), {})[row["dtype"]] = cell
    logits = {row["dtype"]: f"{row['logits_bytes'] / MIB:.0f}" for row in rows}
    cells = [
        ["the logits", *logits.values()],
        *([name, *(of.get(t, "") for t in logits)] for name, of in found.items()),
    ]
    return table([f"MiB, {shape(rows[0])}", *logits], cells)


def growth_table(rows: Sequence[Record]) -> str:
    sizes = dict.fromkeys(row["c"] for row in rows)
    lines: dict[str, list[str]] = {}
    for row in rows:
        lines.setdefault(bold(titled(row["name"], row["max_mib"])), []).append(mib(row))
    logits = [f"{size * rows[0]['n'] * 4 / MIB:.0f}" for size in sizes]
    heading = f"MiB, {rows[0]['n']} rows, {rows[0]['d']} inputs, {rows[0]['dtype']}, classes:"
    return table([heading, *map(str, sizes)], [["the logits", *logits], *([k, *v] for k, v in lines.items())])


def block_table(of: Record) -> str:
    sizes = [str(size) for size in BLOCK_MIB]
    rows = [[bold(name), *(duration(row["median"]) for row in times.values())] for name, times in of["rows"].items()]
    return table([f"{shape(of)} {of['dtype']}, MiB:", *sizes], rows)


def ability_table(of: Record) -> str:
    def cell(row: Record) -> str:
        if "logits" not in row:
            return f"no: `{row['outcome']}`"
        return f"{row['outcome']} ({row['logits']:.1f}){', options ignored' * row['warns']}"

    rows = [[what, *(cell(row) for row in whose.values())] for what, whose in of["rows"].items()]
    return table(["", *map(bold, WHOSE)], rows)


def draw(record: Record) -> Figure:
    """Peak memory as the vocabulary grows; the time of blocks of several sizes."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines: dict[str, list[Record]] = {}
    for row in record["growth"]:
        if "peak_bytes" in row:
            lines.setdefault(titled(row["name"], row["max_mib"]).replace("`", ""), []).append(row)
    colors = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00")
    for (name, rows), color in zip(lines.items(), colors, strict=False):
        left.loglog([r["c"] for r in rows], [r["peak_bytes"] / MIB for r in rows], "o-", color=color, label=name)
    logits = [(row["c"], row["logits_bytes"] / MIB) for row in record["growth"]]
    left.loglog(*zip(*dict.fromkeys(logits), strict=True), "k--", linewidth=1, label="the logits")
    first = record["growth"][0]
    left.set(title=f"Peak memory, {first['n']} rows of {first['d']} inputs", xlabel="classes", ylabel="MiB", ylim=1)
    of = record["blocks"]
    for (name, times), color in zip(of["rows"].items(), ("#009E73", "#D55E00"), strict=True):
        rows = list(times.values())
        middle = [row["median"] for row in rows]
        bars = [[row["median"] - row["q1"] for row in rows], [row["q3"] - row["median"] for row in rows]]
        right.errorbar([int(size) for size in times], middle, bars, fmt="o-", color=color, label=name)
    of_shape = [row for row in record["times"] if all(row[key] == of[key] for key in ("n", "d", "c", "dtype"))]
    for row in of_shape:
        limit = min(times["median"] for name, times in row["rows"].items() if name.startswith(PRODUCTS))
        right.axhline(limit, color="k", linestyle="--", linewidth=1, label="three products alone")
    right.set(title=f"Time of loss and gradients, {shape(of)}", xlabel="max_bytes (MiB)", ylabel="seconds", ylim=0)
    right.set_xscale("log", base=2)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    return figure


def main(argv: list[str] | None = None) -> int:
    """Measure, and write what is asked for; 1 where an error of ours is too large."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("record", type=Path, help="the record, in JSON")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="measure these, or nothing")
    parser.add_argument("--fewer", type=int, default=1, help="measure one in so many rows", metavar="N")
    parser.add_argument("--page", type=Path, help="write the tables into this page, between its markers")
    parser.add_argument("--figure", type=Path, help="draw the picture")
    options = parser.parse_args(argv)
    console = Console()
    record = json.loads(options.record.read_text(encoding="utf-8")) if options.record.exists() else {}
    for part in options.parts:
        update(record, console, part, options.fewer)
        record = json.loads(json.dumps(record))  # whose keys are strings
        options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.page:
        before, _, rest = options.page.read_text(encoding="utf-8").partition(BEGIN)
        page = f"{before}{BEGIN}\n{tables(record)}\n{END}{rest.partition(END)[2]}"
        options.page.write_text(page, encoding="utf-8")
    else:
        console.out(tables(record), highlight=False)
    if options.figure:
        draw(record).savefig(options.figure, dpi=110)
    failures = wrong(record)
    for failure in failures:
        console.print(failure, style="bold red", highlight=False, markup=False)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
