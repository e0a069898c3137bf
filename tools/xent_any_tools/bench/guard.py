"""The regression guard: counts that are the same on every machine, compared with those of a record.

No time is measured: what is counted is what costs it.
"""

import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

Counts = dict[str, float]

BYTES_SLACK = 0.01
"""Of a count of bytes, which small objects change a little."""


class Source(NamedTuple):
    """A function that counts, the distributions that its counts depend on, and whether they depend on Python's."""

    counts: Callable[[], Counts]
    distributions: tuple[str, ...]
    python: bool


def _numpy() -> Counts:
    import tracemalloc  # noqa: PLC0415  (in this module, each source imports its own)

    import numpy as np  # noqa: PLC0415

    import xent_any  # noqa: PLC0415

    counts: Counts = {}
    functions = {"loss": xent_any.cross_entropy, "loss + gradient": xent_any.cross_entropy_value_and_grad}
    for kind, function in functions.items():
        x, y = np.zeros((32, 10), np.float32), np.zeros(32, np.int64)
        counts[f"numpy, {kind} of 32x10: calls"] = calls(partial(function, x, y))
        x, y = np.zeros((1024, 32000), np.float32), np.zeros(1024, np.int64)
        tracemalloc.start()
        result = function(x, y)
        counts[f"numpy, {kind} of 1024x32000: KiB at peak"] = tracemalloc.get_traced_memory()[1] >> 10
        tracemalloc.stop()
        del result
    return counts


def calls(function: Callable[[], Any]) -> int:
    """How many functions, of Python and of C, the second of two calls enters, itself among them."""
    function()
    entered = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal entered
        entered += event in ("call", "c_call")

    before, is_enabled = sys.getprofile(), gc.isenabled()
    gc.disable()  # what others ask it to call is not the function's
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
        if is_enabled:
            gc.enable()
    return entered - 1  # the setprofile that ends it


def _torch() -> Counts:
    import torch  # noqa: PLC0415

    import xent_any  # noqa: PLC0415

    x, y = torch.zeros(32, 10, requires_grad=True), torch.zeros(32, dtype=torch.int64)

    def forward() -> Any:
        with torch.no_grad():
            return xent_any.cross_entropy(x, y)

    def backward() -> None:
        xent_any.cross_entropy(x, y).backward()  # type: ignore[no-untyped-call]

    return {
        "torch, loss of 32x10: calls": calls(forward),
        "torch, forward then backward of 32x10: calls": calls(backward),
        "torch, loss of 32x10: operators": operators(forward),
        "torch, forward then backward of 32x10: operators": operators(backward),
    }


def operators(function: Callable[[], Any]) -> int:
    """How many of PyTorch's operators a call runs."""
    from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC0415

    class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's
        count: int = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return func(*args, **(kwargs or {}))

    counting = Counting()  # type: ignore[no-untyped-call]
    with counting:
        function()
    return counting.count


def _inductor() -> Counts:
    import torch  # noqa: PLC0415
    from torch._inductor import metrics  # noqa: PLC0415

    import xent_any  # noqa: PLC0415

    counts: Counts = {}
    for shape in ((256, 1000), (4, 21, 64, 64)):  # the classes on axis 1
        for kind, needs_gradient in (("loss", False), ("forward then backward", True)):
            x = torch.zeros(shape, requires_grad=needs_gradient)
            y = torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
            torch.compiler.reset()
            metrics.reset()
            loss = torch.compile(xent_any.cross_entropy, dynamic=False)(x, y, axis=1)
            if needs_gradient:
                loss.backward()  # type: ignore[no-untyped-call]
            name = f"torch compiled, {kind} of {'x'.join(map(str, shape))}: kernels"
            counts[name] = metrics.generated_kernel_count
    if not all(counts.values()):
        raise RuntimeError(f"the compiler counted nothing: {counts}")
    return counts


def _jax() -> Counts:
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    import xent_any  # noqa: PLC0415

    counts: Counts = {}
    for shape in ((1024, 1000), (4, 21, 64, 64)):
        name, (batch, _, *rest) = "x".join(map(str, shape)), shape
        x, y = jnp.zeros(shape), jnp.zeros((batch, *rest), int)
        loss = partial(xent_any.cross_entropy, axis=1)
        functions: dict[str, Any] = {"loss": loss, "loss + gradient": jax.value_and_grad(loss)}
        for kind, function in functions.items():
            compiled = jax.jit(function).lower(x, y).compile()
            counts[f"jax, {kind} of {name}: fusions"] = (compiled.as_text() or "").count(" fusion(")
            memory: Any = compiled.memory_analysis()
            counts[f"jax, {kind} of {name}: KiB of temporaries"] = memory.temp_size_in_bytes >> 10
    return counts


SOURCES: dict[str, Source] = {
    "numpy": Source(_numpy, ("numpy", "array-api-compat"), True),
    "torch": Source(_torch, ("torch", "array-api-compat"), True),
    "torch compiled": Source(_inductor, ("torch",), False),
    "jax": Source(_jax, ("jax", "jaxlib"), False),
}


def counted() -> dict[str, Any]:
    """Count here, in this process.

    Returns
    -------
    dict
        ``counts``, each with its ``value`` and what it was counted ``with``; the sources that are ``missing``, because
        their library is not installed, and those that ``failed``, and why.
    """
    counts: dict[str, Any] = {}
    missing, failed = {}, {}
    for name, source in SOURCES.items():
        library = name.partition(" ")[0]
        if importlib.util.find_spec(library) is None:
            missing[name] = f"{library} is not installed"
            continue
        try:
            found = source.counts()
        except Exception as error:  # noqa: BLE001  (whatever it is, it is a failure of the guard)
            failed[name] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            continue
        versions = {name: importlib.metadata.version(name) for name in source.distributions}
        if source.python:
            versions["python"] = ".".join(platform.python_version_tuple()[:2])
        counts |= {count: {"value": value, "with": versions} for count, value in found.items()}
    return {"counts": counts, "missing": missing, "failed": failed}


def count_apart() -> dict[str, Any]:
    """Count in a process with one thread and without a compiler's cache, from which it would take what it counts."""
    settings = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "XENT_ANY_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", f"import json, {__name__} as g; print(json.dumps(g.counted()))"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **settings})
    if done.returncode:
        raise RuntimeError(f"counting failed: {done.stderr.strip().splitlines()[-1:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


class Verdict(NamedTuple):
    """A count beside the recorded one; `state` is ``same``, ``fewer``, ``grown``, ``new`` or ``not compared``."""

    name: str
    recorded: float | None
    found: float | None
    state: str
    reason: str = ""


def compared(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[Verdict]:
    """Two of what `counted` returns; counts are compared where they were counted with the same versions."""
    verdicts = []
    for name in dict.fromkeys([*recorded["counts"], *found["counts"]]):
        old, new = recorded["counts"].get(name), found["counts"].get(name)
        if old is None:
            verdicts.append(Verdict(name, None, new["value"], "new", "not in the record: --update writes it"))
        elif new is None:
            source = max((s for s in SOURCES if name.startswith(s)), key=len, default="")
            why = (found["missing"] | found["failed"]).get(source, "no longer counted")
            verdicts.append(Verdict(name, old["value"], None, "not compared", why))
        elif old["with"] != new["with"]:
            changed = [f"{k} {v}, not {new['with'].get(k)}" for k, v in old["with"].items() if v != new["with"].get(k)]
            why = f"recorded with {'; '.join(changed)}"
            verdicts.append(Verdict(name, old["value"], new["value"], "not compared", why))
        else:
            verdicts.append(Verdict(name, old["value"], new["value"], _state(name, old["value"], new["value"])))
    return verdicts


def _state(name: str, old: float, new: float) -> str:
    slack = BYTES_SLACK * old if "KiB" in name else 0
    return "grown" if new > old + slack else "fewer" if new < old - slack else "same"


def record(found: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The content of the file of a record."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "platform": platform.platform(), "command": command, **found}


def main(path: Path, update: bool, command: str) -> int:
    """Count, print the comparison, or write the record.

    Returns
    -------
    int
        0; 1 where a count has grown, or an error was raised; 2 where nothing could be compared.
    """
    from rich.console import Console  # noqa: PLC0415  (it needs the extra)
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    if not update and not path.is_file():
        console.print(f"{path}: no such file; --update writes it", style="bold red")
        return 2
    with console.status("counting"):
        found = count_apart()
    for name, why in found["failed"].items():
        console.print(f"counting failed: {name}: {why}", style="bold red", highlight=False, markup=False)
    if found["failed"] and update:
        return 1
    if update:
        path.write_text(json.dumps(record(found, command), indent=1) + "\n", encoding="utf-8")
    verdicts = compared(json.loads(path.read_text(encoding="utf-8")), found)
    table = Table("count", box=None, pad_edge=False)
    for heading in ("recorded", "here"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    colours = {"grown": "bold red", "fewer": "green", "same": "", "new": "yellow", "not compared": "yellow"}
    for verdict in verdicts:
        numbers = ("-" if value is None else f"{value:,}" for value in (verdict.recorded, verdict.found))
        text = ": ".join(filter(None, [verdict.state, verdict.reason]))
        table.add_row(verdict.name, *numbers, text, style=colours[verdict.state])
    console.print(table)
    for name, why in found["missing"].items():
        console.print(f"not counted: {name}: {why}", highlight=False, markup=False)
    states = [verdict.state for verdict in verdicts]
    if "grown" in states:
        console.print(f"{states.count('grown')} grown", style="bold red", highlight=False)
    if "grown" in states or found["failed"]:
        return 1
    return 0 if {"same", "fewer"} & set(states) else 2
