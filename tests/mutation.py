"""Write the record of a mutation run: ``python tests/mutation.py SESSION.sqlite > FILE``; see docs/mutation.md."""

import json
import platform
import re
import sqlite3
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import xent_any

QUERY = """select operator_name, start_pos_row, test_outcome, output, diff
           from work_results join mutation_specs using (job_id)
           where worker_outcome != 'SKIPPED' order by start_pos_row, start_pos_col, operator_name"""


def record(session: Path) -> dict[str, object]:
    """What the kit made of the mutants of a session of cosmic-ray."""
    mutants = sqlite3.connect(session).execute(QUERY).fetchall()
    survivors = [
        {
            "line": row,
            "operator": operator.removeprefix("core/"),
            **dict(zip(("old", "new"), changed(diff), strict=True)),
        }
        for operator, row, outcome, _, diff in mutants
        if outcome == "SURVIVED"
    ]
    killers = Counter(killer(output) for *_, outcome, output, _ in mutants if outcome == "KILLED")
    return {
        "tool": "cosmic-ray",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "xent_any": xent_any.__version__,
        "module": "xent_any/_rows.py",
        "mutants": len(mutants),
        "killed": len(mutants) - len(survivors),
        "killed by": dict(killers.most_common()),
        "survivors": survivors,
    }


def changed(diff: str) -> list[str]:
    """The line taken out and the line put in."""
    return [line[1:].strip() for line in diff.splitlines() if re.match(r"[-+](?![-+])", line)]


def killer(output: str) -> str:
    """The family of the check that failed first."""
    found = re.search(r"^(?:FAILED|ERROR) \S*test_([a-z]+)\w*\.py", output, re.MULTILINE)
    return found[1] if found else "no check: the module raises"


if __name__ == "__main__":
    json.dump(record(Path(sys.argv[1])), sys.stdout, indent=1)
    sys.stdout.write("\n")
