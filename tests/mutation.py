"""The account of a mutation run: ``python tests/mutation.py SESSION.sqlite`` writes the record and docs/mutation.md.

With ``--sample COUNT`` it leaves that many mutants of a session before it runs, drawn by ``--seed``; with ``--check``
it writes nothing. The exit status is 1 where a mutant survives that `mutants.json` does not explain.
"""

import argparse
import ast
import json
import platform
import random
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = "conformance/records/mutation/core.json"

HEAD = """# Mutants of the core

Are the checks of the conformance kit sharp enough to notice when one operator, one number or one comparison of
[the formulas](../xent_any/_formulas.py), or of what cuts, differentiates and checks around them, is another?
[cosmic-ray](https://cosmic-ray.readthedocs.io) makes each such mutant and runs the kit's quick form on it: on NumPy
without tuned kernels, and, if that passes, on [toyarray](../examples/toyarray), where labels are not read, and on
PyTorch's transforms. The mutants that survive are below, each with the reason why its results are those of the
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

The last command writes this page and [the record](../{record}); it fails if a survivor is not in `tests/mutants.json`,
which explains each as a whole. The run takes hours; `nox -s mutation` runs a sample of the mutants, drawn by a seed.

The broken implementations that the kit must reject, by name, are those of `tests/defects.py`; `python tests/broken.py`
prints them with the checks that reject them.

## The run

{run}

## The survivors

"""

EXPLAINED: dict[str, list[list[str]]] = json.loads((ROOT / "tests" / "mutants.json").read_text(encoding="utf-8"))
"""Why a mutant survives, and each one of which this is true: the function that it is in, its line, the changed one."""


def record(session: Path) -> dict[str, object]:
    """What the kit made of the mutants of a session of cosmic-ray."""
    mutants = (
        sqlite3.connect(session)
        .execute(
            """select module_path, operator_name, start_pos_row, test_outcome, output, diff
               from work_results join mutation_specs using (job_id) where worker_outcome != 'SKIPPED'
               order by module_path, start_pos_row, start_pos_col, operator_name, diff"""
        )
        .fetchall()
    )
    texts = {module: (ROOT / module).read_text(encoding="utf-8") for module in dict.fromkeys(m[0] for m in mutants)}
    survivors = [
        {"module": module} | survivor(texts[module], *mutant) for module, *mutant in mutants if mutant[2] == "SURVIVED"
    ]
    killers = Counter(killer(output) for *_, outcome, output, _ in mutants if outcome == "KILLED")
    return {
        "tool": f"cosmic-ray {version('cosmic-ray')}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("xent-any", "numpy", "torch")},
        "modules": list(texts),
        **tree(ROOT),
        "mutants": len(mutants),
        "killed": len(mutants) - len(survivors),
        "killed by": dict(killers.most_common()),
        "survivors": survivors,
    }


def tree(folder: Path) -> dict[str, object]:
    """The commit that is checked out in a folder, and whether nothing in it is changed."""

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=folder, text=True).strip()

    return {"commit": git("rev-parse", "--short", "HEAD"), "clean": not git("status", "--porcelain")}


def survivor(text: str, operator: str, row: int, outcome: str, output: str, diff: str) -> dict[str, object]:
    old, new = (line[1:].strip() for line in diff.splitlines() if re.match(r"[-+](?![-+])", line))
    mutant = [function_of(text, row), old, new]
    why = next((reason for reason, mutants in EXPLAINED.items() if mutant in mutants), "")
    names = ("line", "operator", "function", "old", "new", "why")
    return dict(zip(names, (row, operator.removeprefix("core/"), *mutant, why), strict=True))


def function_of(text: str, row: int) -> str:
    """The innermost function or class that a line of a module is in."""
    around = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.lineno <= row <= (node.end_lineno or 0)
    ]
    return max(around, key=lambda node: node.lineno).name if around else ""


def sample(session: Path, count: int, seed: int) -> None:
    """Leave so many mutants of a session that has not run, drawn by the seed."""
    with sqlite3.connect(session) as database:
        waiting = """select job_id from mutation_specs where job_id not in (select job_id from work_results)
                     order by operator_name, start_pos_row, start_pos_col, occurrence"""
        jobs = [job for (job,) in database.execute(waiting)]
        left_out = set(jobs) - set(random.Random(seed).sample(jobs, min(count, len(jobs))))
        for table in ("mutation_specs", "work_items"):
            database.executemany(f"delete from {table} where job_id = ?", [(job,) for job in left_out])


def killer(output: str) -> str:
    """The family of the check that failed first."""
    found = re.search(r"^(?:FAILED|ERROR) \S*test_([a-z]+)\w*\.py", output, re.MULTILINE)
    return found[1] if found else "none: the module cannot be imported"


def page(account: dict[str, object]) -> str:
    """docs/mutation.md."""
    packages = ", ".join(f"{name} {number}" for name, number in account["packages"].items())
    run = f"{account['tool']}, Python {account['python']}, {packages}; {account['date'][:10]}; the modules of "
    run += f"commit {account['commit']}{'' if account['clean'] else ', with changes that are in no commit'}. "
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
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("session", type=Path)
    parser.add_argument("--sample", type=int, metavar="COUNT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.sample:
        sample(options.session, options.sample, options.seed)
        return 0
    account = record(options.session)
    unexplained = [entry for entry in account["survivors"] if not entry["why"]]
    lines = [f"{account['mutants']} mutants, {account['killed']} killed; without a reason {len(unexplained)} survive"]
    lines += [
        f"{entry['module']}, {entry['function']}, line {entry['line']}\n-{entry['old']}\n+{entry['new']}"
        for entry in unexplained
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if not options.check:
        path = ROOT / RECORD
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(account, indent=1) + "\n", encoding="utf-8")
        (ROOT / "docs" / "mutation.md").write_text(page(account), encoding="utf-8")
    return int(bool(unexplained) or not account["mutants"])


if __name__ == "__main__":
    sys.exit(main())
