"""The account of a mutation run: ``python tests/mutation.py SESSION.sqlite`` writes the record and docs/mutation.md."""

import json
import platform
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = "conformance/records/mutation/rows.json"

HEAD = """# Mutants of the row kernel

Are the checks of the conformance kit sharp enough to notice when one operator, one number or one comparison of
[the kernels](../xent_any/_rows.py) is another? [cosmic-ray](https://cosmic-ray.readthedocs.io) makes each such mutant
and runs the kit on it: on NumPy, and, if that passes, on [toyarray](../examples/toyarray), where labels are not read,
and on PyTorch's transforms. The mutants that survive are below, each with the reason why its results are those of the
original.

In a clone, with Python 3.11 or later:

```sh
python -m venv .venv
. .venv/bin/activate
pip install -e '.[conformance,torch]' ./examples/toyarray cosmic-ray
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 XENT_ANY_TRUTHS=$(mktemp -d)
cosmic-ray init tests/mutation.toml session.sqlite
cr-filter-operators session.sqlite tests/mutation.toml
cosmic-ray --verbosity INFO baseline tests/mutation.toml
PYTHONDONTWRITEBYTECODE=1 cosmic-ray exec tests/mutation.toml session.sqlite
python tests/mutation.py session.sqlite
```

The last command writes this page and [the record](../{record}); it fails if a survivor has no reason. The run took
an hour, half of the mutants on each of two CPUs.

The broken implementations that the kit must reject, by name, are those of `tests/defects.py`; `python tests/broken.py`
prints them with the checks that reject them.

## The run

{run}

## The survivors

"""

# What part of a changed line, and of what takes its place, has which reason.
REASONS = {
    "A copy more, or none of an array that nobody else holds.": [("owned=True", "owned=False")],
    "The form of a protocol, which runs nothing.": [("owned: bool = False) -> Array: ...", "")],
    "A default that no kernel reads: those that read it are given it.": [(": float = 0.0", "")],
    "Where rows begin to be far is a choice: both formulas are right nearby.": [("FAR", "")],
    "The series' second term is at most C exp(-60), below all precision; the third as well.": [("0.5 - s / 3", "")],
    "An axis or a tuple that has one element only, or the same shape.": [
        ("a[..., 0]", "a[..., -1]"),
        ("x[..., 0]", "x[..., -1]"),
        ("axis=-1)", "axis=- 0)"),
        ("rows[0]", "rows[ -1]"),
    ],
    "Sums of no elements alone are the other case; one that goes there too has the same value.": [
        ("if a.shape[-1] == 0", ""),
    ],
    "What is compared is never smaller where it counts: weights, smoothing, z, a number of classes or of axes.": [
        ("(a == 0)", "(a <= 0)"),
        ("== 0", "<= 0"),
        ("!= 0", "> 0"),
        ("label_smoothing != 0", "!= -1"),
        ("z_loss != 0", "!= -1"),
        ("z != 0", "!= -1"),
        ("z == 0", "== -1"),
        ("z == 0", "z < 0"),
        ("> 1:", "!= 1:"),
        ("labels.ndim == x.ndim", ">="),
    ],
    "Nothing is greater than inf or less than -inf, and what could be NaN is NaN already.": [
        ("== INF", ">= INF"),
        ("== -INF", "<= -INF"),
        ("< INF", "!= INF"),
        ("> -INF", "!= -INF"),
    ],
    "With smoothing or z of 0 the other branch adds 0 or multiplies by 1: it costs time.": [
        ("label_smoothing != 0", ">= 0"),
        ("z_loss != 0", ">= 0"),
        ("z != 0", ">= 0"),
    ],
    "Any finite number will do where it is multiplied by 0, or not looked at.": [
        (", 0.0,", ", 1.0,"),
        (", 0.0,", ", -1.0,"),
        (", 0.0, v", ""),
        ("finite, x, 0.0", ""),
    ],
    "The mean is subtracted once more for its rounding: this is nearly the mean of what is left.": [
        ("p = ", "( 2 + state.s)")
    ],
    "Where rows are elements, both shapes are one.": [
        ("binary: (", "whole=False"),
        ("binary_and_grad: (", "whole=False"),
    ],
    "Only PyTorch's double backward runs it in blocks, which tests/test_autograd_torch.py does.": [
        ("hessian: (Result", "")
    ],
    "tanh has the same value from either sign, until the exponential of a large one overflows.": [("sign = ", "")],
    "A sign divides as it multiplies.": [("-2 * sign", "-2 / sign")],
    "At the boundary both sides are equal, or the choice is free.": [("0.25 *", "<= 0.25 *")],
}


def record(session: Path) -> dict[str, object]:
    """What the kit made of the mutants of a session of cosmic-ray."""
    mutants = (
        sqlite3.connect(session)
        .execute(
            """select operator_name, start_pos_row, test_outcome, output, diff
               from work_results join mutation_specs using (job_id)
               where worker_outcome != 'SKIPPED' order by start_pos_row, start_pos_col, operator_name, diff"""
        )
        .fetchall()
    )
    survivors = [survivor(*mutant) for mutant in mutants if mutant[2] == "SURVIVED"]
    killers = Counter(killer(output) for *_, outcome, output, _ in mutants if outcome == "KILLED")
    return {
        "tool": f"cosmic-ray {version('cosmic-ray')}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("xent-any", "numpy", "torch")},
        "module": "xent_any/_rows.py",
        "commit": subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip(),
        "mutants": len(mutants),
        "killed": len(mutants) - len(survivors),
        "killed by": dict(killers.most_common()),
        "survivors": survivors,
    }


def survivor(operator: str, row: int, outcome: str, output: str, diff: str) -> dict[str, object]:
    old, new = (line[1:].strip() for line in diff.splitlines() if re.match(r"[-+](?![-+])", line))
    why = [
        reason
        for reason, texts in REASONS.items()
        if any(a in old and b in new and (not b or b not in old) for a, b in texts)
    ]
    return {"line": row, "operator": operator.removeprefix("core/"), "old": old, "new": new, "why": (why or [""])[0]}


def killer(output: str) -> str:
    """The family of the check that failed first."""
    found = re.search(r"^(?:FAILED|ERROR) \S*test_([a-z]+)\w*\.py", output, re.MULTILINE)
    return found[1] if found else "none: the module cannot be imported"


def page(account: dict[str, object]) -> str:
    """docs/mutation.md."""
    packages = ", ".join(f"{name} {number}" for name, number in account["packages"].items())
    run = f"{account['tool']}, Python {account['python']}, {packages}; {account['date'][:10]}; the kernels of "
    run += f"commit {account['commit']}. "
    run += (
        f"**{account['mutants']} mutants, {account['killed']} killed, {len(account['survivors'])} survive.** Killed by"
    )
    run += " the family of checks that failed first: "
    run += ", ".join(f"{family} {count}" for family, count in account["killed by"].items()) + "."
    lines = [HEAD.format(record=RECORD, run=run)]
    for reason in dict.fromkeys(entry["why"] for entry in account["survivors"]):
        lines.append(f"**{reason or 'No reason is known.'}**\n\n```diff\n")
        last = None
        for entry in account["survivors"]:
            if entry["why"] == reason:
                lines += [f"-{entry['old']}\n"] * (entry["old"] != last) + [f"+{entry['new']}\n"]
                last = entry["old"]
        lines.append("```\n\n")
    return "".join(lines).rstrip() + "\n"


def main() -> int:
    account = record(Path(sys.argv[1]))
    path = ROOT / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(account, indent=1) + "\n", encoding="utf-8")
    (ROOT / "docs" / "mutation.md").write_text(page(account), encoding="utf-8")
    return int(not all(entry["why"] for entry in account["survivors"]))


if __name__ == "__main__":
    sys.exit(main())
