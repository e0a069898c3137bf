"""What ``xent-any bench`` does with its arguments."""

import argparse
import json
from itertools import product

from rich.console import Console

from . import _summary, _terminal
from ._problems import SHAPES, Problem
from ._run import Plan, Record, run


def main(options: argparse.Namespace, command: str) -> int:
    """Run, or read a record; print and write what was asked for.

    Returns
    -------
    int
        0; 1 where a contestant fails or gives a wrong answer; 2 where the command cannot be run.
    """
    console = Console()
    if options.record:
        record: Record = json.loads(options.record.read_text(encoding="utf-8"))
    else:
        problems = [
            Problem(shape, dtype, option, options.device)
            for dtype, option, shape in product(options.dtypes, options.labels, options.shapes or SHAPES)
        ]
        plan = Plan(
            problems,
            threads=options.threads,
            libraries=options.libraries,
            seconds=options.seconds,
            memory=options.memory,
            command=command,
        )
        with console.status("starting") as status:
            record = run(plan, status.update)
    _terminal.terminal(record, console)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if _summary.wrong(record) else 0
