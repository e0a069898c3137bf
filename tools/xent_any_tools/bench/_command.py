"""What ``xent-any bench`` does with its arguments."""

import argparse
import json
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from rich.console import Console

from . import _summary, _terminal, guard
from ._choices import DTYPES, OPTIONS
from ._problems import FEW_SHAPES, SHAPES, Problem
from ._run import Plan, run
from ._summary import Record
from .contestants import LIBRARIES


def problems(options: argparse.Namespace) -> tuple[list[Problem], list[Problem]]:
    """The problems that are asked for; and those of each dtype, and of each kind of labels, on a few of the shapes."""
    shapes = options.shapes or SHAPES
    few = [shape for shape in shapes if shape in FEW_SHAPES or options.shapes]
    asked = product(options.dtypes, options.labels, shapes)
    others = [*product(DTYPES, ["index"], few), *product(["float32"], OPTIONS, few)]

    def with_device(cases: Iterable[tuple[str, str, tuple[int, ...]]]) -> list[Problem]:
        return [Problem(shape, dtype, option, options.device) for dtype, option, shape in cases]

    return with_device(asked), with_device(others)


def main(options: argparse.Namespace, command: str) -> int:
    """Run, or read a record; print and write what was asked for.

    Returns
    -------
    int
        0; 1 where a contestant fails or gives a wrong answer, or a count has grown; 2 where nothing was compared.
    """
    if options.guard:
        return guard.main(options.guard, options.update, command)
    console = Console()
    unknown = set(options.libraries) - set(LIBRARIES)
    if unknown:
        console.print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(LIBRARIES)}", style="bold red")
        return 2
    if options.record:
        record: Record = json.loads(options.record.read_text(encoding="utf-8"))
    else:
        asked, others = problems(options)
        wanted = [*asked, *others] if options.others or options.full else asked
        plan = Plan(
            list(dict.fromkeys(wanted)),
            threads=options.threads if options.device == "cpu" else ["all"],
            libraries=options.libraries,
            seconds=options.seconds,
            memory=asked if options.memory or options.full else (),
            growth=options.growth or options.full,
            command=command,
        )
        with console.status("starting") as status:
            record = run(plan, status.update, lambda record: _write(record, options.json))
    _terminal.terminal(record, console)
    _write(record, options.json)
    if options.html:
        from . import _page  # noqa: PLC0415  (matplotlib takes a second)

        options.html.write_text(_page.html(record), encoding="utf-8")
    return 1 if _summary.failures(record) else 0


def _write(record: Record, path: Path | None) -> None:
    """Write what has been measured so far: a run takes long."""
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
