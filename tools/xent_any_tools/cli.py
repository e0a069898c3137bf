"""The command ``xent-any``."""

import argparse
import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import xent_any
from xent_any_conformance._machine import device_text

from .bench._choices import DTYPES, OPTIONS

if TYPE_CHECKING:
    from rich.progress import TaskID

EXTRA = {
    "demo": ("matplotlib", "numpy", "rich", "scipy", "sklearn"),
    "conformance": ("hypothesis", "matplotlib", "mpmath", "numpy", "pytest", "rich"),
    "bench": ("matplotlib", "numpy", "rich"),
}
"""The modules that a command needs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``xent-any``.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the command's name; by default those of this process.

    Returns
    -------
    int
        The exit status: 0 for success, 1 where the backends of the demonstration disagree or a check fails, 2 where
        the command cannot be run.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="xent-any", description=xent_any.__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {xent_any.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("backends", help="list the array libraries, and why one cannot be used here")
    demo = commands.add_parser("demo", help="train the same model on every backend, compare, and write a page about it")
    demo.add_argument("names", nargs="*", metavar="BACKEND", help="compare only these with NumPy (default: all usable)")
    demo.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="where the page goes (default: here)")
    demo.add_argument("--epochs", type=_positive, default=60, help="passes over the data (default: %(default)s)")
    kit = commands.add_parser("conformance", help="certify array libraries: run all checks on each, and report")
    kit.add_argument(
        "names",
        nargs="*",
        metavar="SUBJECT",
        help="a library, a variant such as numpy-strided, a module that follows the Array API standard, or "
        "module:attribute (default: all that are usable here)",
    )
    kit.add_argument("--quick", action="store_true", help="fewer and smaller problems")
    kit.add_argument("--checks", default="", metavar="IDS", help="only those whose id contains one of these (commas)")
    kit.add_argument("--jobs", type=_positive, metavar="N", help="subjects at a time (default: one for each CPU)")
    kit.add_argument("--json", type=Path, metavar="FILE", help="write the whole run")
    kit.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit's XML")
    kit.add_argument("--html", type=Path, metavar="FILE", help="write the report as one page")
    kit.add_argument("--records", type=Path, metavar="DIR", help="write a record of each subject; of a full run alone")
    bench = commands.add_parser("bench", help="time ours beside the peers, against what memory allows")
    _add_bench_arguments(bench)
    options = parser.parse_args(arguments)
    if options.command == "backends":
        sys.stdout.write(_table())
        return 0
    if options.command == "conformance" and options.records and (options.quick or options.checks):
        parser.error("--records: expected a full run, without --quick and --checks")
    missing = [name for name in EXTRA[options.command] if importlib.util.find_spec(name) is None]
    if missing:
        extra = f"xent-any[{options.command}]"
        sys.stderr.write(f"xent-any {options.command} needs {', '.join(missing)}: pip install '{extra}'\n")
        return 2
    command = shlex.join(["xent-any", *arguments])
    if options.command == "conformance":
        return _certify(options, command)
    if options.command == "bench":
        from .bench import _command  # noqa: PLC0415  (it needs the extra)

        return _command.main(options, command)
    # JAX reads these when it is imported: without them it has no float64, and multiplies matrices in TF32 on a GPU.
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    from .demo import run  # noqa: PLC0415  (it needs the extra)

    return run(options.names, options.output, options.epochs, command)


def _add_bench_arguments(bench: argparse.ArgumentParser) -> None:
    def several(name: str, known: Collection[str]) -> None:
        text, first = f"of {', '.join(known)} (default: the first)", next(iter(known))
        bench.add_argument(name, nargs="+", choices=known, default=(first,), metavar="NAME", help=text)

    bench.add_argument("shapes", nargs="*", type=_shape, metavar="SHAPE", help="as 1024x32000, classes on axis 1")
    bench.add_argument("--libraries", nargs="+", default=[], metavar="NAME", help="only these, with ours beside them")
    several("--dtypes", DTYPES)
    several("--labels", OPTIONS)
    bench.add_argument("--threads", nargs="+", type=_threads, default=["1", "all"], metavar="N", help="default: 1 all")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    bench.add_argument("--seconds", type=float, default=0.5, help="for each function and problem (default: 0.5)")
    bench.add_argument("--others", action="store_true", help="the other dtypes and labels too, of some of the shapes")
    bench.add_argument("--memory", action="store_true", help="peak memory too, each in a process of its own")
    bench.add_argument("--growth", action="store_true", help="sizes that double, too")
    bench.add_argument("--full", action="store_true", help="all three")
    bench.add_argument("--record", type=Path, metavar="FILE", help="show this run, which --json wrote")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the whole run")
    bench.add_argument("--html", type=Path, metavar="FILE", help="write one page with plots")
    bench.add_argument("--guard", type=Path, metavar="FILE", help="compare counts with those in FILE, and time nothing")
    bench.add_argument("--update", action="store_true", help="with --guard: write FILE instead")


def _certify(options: argparse.Namespace, command: str) -> int:
    from rich.console import Console  # noqa: PLC0415  (it needs the extra)
    from rich.progress import Progress  # noqa: PLC0415

    from xent_any_conformance import records, report  # noqa: PLC0415
    from xent_any_conformance.run import run  # noqa: PLC0415

    console = Console()
    with Progress(console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=None)
            bar.update(tasks[name], completed=done, total=total or None, visible=done < total or not total)

        result = run(
            options.names,
            quick=options.quick,
            checks=options.checks,
            jobs=options.jobs,
            command=command,
            progress=progress,
        )
    report.terminal(result, console)
    if options.json:
        options.json.write_text(json.dumps(result), encoding="utf-8")
    if options.junit:
        options.junit.write_text(report.junit(result), encoding="utf-8")
    if options.html:
        options.html.write_text(report.html(result), encoding="utf-8")
    if options.records:
        records.write(result, options.records)
    return 0 if result["passed"] else 1


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(map(int, text.split("x")))
    if len(shape) < 2 or min(shape) < 2:
        raise argparse.ArgumentTypeError(f"expected a shape such as 1024x32000, got {text}")
    return shape


def _threads(text: str) -> str:
    return text if text == "all" else str(_positive(text))


def _table() -> str:
    rows = [("backend", "version", "devices", "status")]
    for info in xent_any.backends():
        rows.append(
            (info.name, info.version or "-", ", ".join(map(device_text, info.devices)) or "-", info.reason or "usable")
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"
