"""What a run proved of each subject, as files, and the tables of the documentation that are made from them.

``python -m xent_any_conformance.records conformance/records docs`` writes them, into support.md and differentiation.md.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .subjects import TABLE

HEAD = """# What is supported where

Made from the conformance kit's records of full runs, in `conformance/records/`; [Certify](certify.md) says what they
mean. *Wrong labels*: what becomes of an index out of range; it raises where labels can be read without waiting,
elsewhere the loss and the gradient of its row are NaN. *Transforms*: the program transformations that the checks went
through. *Checks*: passed, and declared deviations, which are listed below. *Error*: the worst of the hard rows as a
share of what is [promised](contract.md#accuracy) in float32 and float64. *Commit*: of the code that was certified.

"""
BEGIN, END = "<!-- made from the records -->\n", "<!-- until here -->\n"
COLUMNS = ("subject", "library", "device", "dtypes", "wrong labels", "transforms", "checks", "error", "commit")


def record(run: dict[str, Any], subject: dict[str, Any]) -> dict[str, Any]:
    """What a run proved of one of its subjects."""
    results = [result for result in run["results"] if result["subject"] == subject["name"]]
    families = {result["id"].partition(".")[0] for result in results}
    errors: dict[str, float] = {}
    for result in results:
        for error in result["measurements"]:
            if result["id"].startswith(("truth.table", "truth.half")):
                key = f"{error['quantity']} {error['dtype']}"
                errors[key] = max(errors.get(key, 0.0), round(error["share"], 3))
    return {
        **{key: run[key] for key in ("xent_any", "commit", "date", "machine", "packages", "command")},
        "passed": all(result["outcome"] != "failed" for result in results),
        "subject": {key: value for key, value in subject.items() if key != "seconds"},
        "outcomes": {
            family: dict(Counter(r["outcome"] for r in results if r["id"].startswith(f"{family}.")))
            for family in sorted(families)
        },
        "derivatives": _derivatives(results),
        "skips": dict(Counter(r["reason"] for r in results if r["outcome"] == "skipped")),
        "worst share of the promised error": errors,
    }


def _derivatives(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What holds for program transformations: the statement of each check, and its worst outcome."""
    worst = ("skipped", "passed", "deviates", "failed")
    found: dict[str, str] = {}
    for result in results:
        if result["id"].startswith(("transforms.", "truth.autodiff")):
            outcomes = (result["outcome"], found.get(result["statement"], worst[0]))
            found[result["statement"]] = max(outcomes, key=worst.index)
    return found


def write(run: dict[str, Any], folder: Path) -> None:
    """Write ``<subject>.json`` for each subject of a run of all checks."""
    folder.mkdir(parents=True, exist_ok=True)
    for subject in run["subjects"]:
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in subject["name"])
        path = folder / f"{name}.json"
        path.write_text(json.dumps(record(run, subject), indent=1) + "\n", encoding="utf-8")


def support(records: Sequence[dict[str, Any]]) -> str:
    """The table of the documentation, in Markdown."""
    lines = []
    deviations = []
    for entry in records:
        subject, outcomes = entry["subject"], Counter[str]()
        for counts in entry["outcomes"].values():
            outcomes.update(counts)
        checks = f"{outcomes['passed']} passed" + f", {outcomes['deviates']} deviate" * bool(outcomes["deviates"])
        checks += f", **{outcomes['failed']} failed**" * bool(outcomes["failed"])
        errors = [share for name, share in entry["worst share of the promised error"].items() if "float16" not in name]
        lines.append(
            (
                f"`{subject['name']}`",
                f"{subject['library']} {subject['version']}",
                subject["device"],
                ", ".join(subject["dtypes"]),
                {"read": "raise", "NaN": "NaN"}[subject["labels"]],
                ", ".join(subject["transforms"]) or "-",
                checks,
                f"{max(errors):.2f}" if errors else "-",
                entry.get("commit") or "unknown",
            )
        )
        deviations += [f"* `{subject['name']}`, `{id_}`: {reason}" for id_, reason in subject["deviations"].items()]
    return f"{HEAD}{table(COLUMNS, lines)}\n## Deviations\n\n" + "\n".join(deviations or ["None."]) + "\n"


def differentiation(records: Sequence[dict[str, Any]]) -> str:
    """The table of what works in a library that differentiates, in Markdown: a column for the first of its subjects."""
    first: dict[str, dict[str, Any]] = {}
    for entry in records:
        if "grad" in entry["subject"]["transforms"] and entry["subject"]["has_values"]:
            first.setdefault(entry["subject"]["library"], entry)
    signs = {"passed": "yes", "deviates": "deviates", "failed": "**no**", "skipped": "-"}
    rows = []
    statements = dict.fromkeys(statement for entry in first.values() for statement in entry["derivatives"])
    for statement in statements:
        signs_of = [signs[entry["derivatives"].get(statement, "skipped")] for entry in first.values()]
        if set(signs_of) != {"-"}:
            rows.append([statement, *signs_of])
    return table(["", *(f"`{entry['subject']['name']}`" for entry in first.values())], rows)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (heading, ["---"] * len(heading), *rows))


def read(folder: Path) -> list[dict[str, Any]]:
    """The records in a folder, in the order of our subjects, then by name; peers certify nothing and are left out."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    order = {name: i for i, name in enumerate(TABLE)}
    certified = [entry for entry in found if not entry["subject"]["peer"]]
    return sorted(certified, key=lambda entry: order.get(entry["subject"]["name"], len(order)))


def main(folder: Path, docs: Path) -> None:
    """Write the tables."""
    records = read(folder)
    (docs / "support.md").write_text(support(records), encoding="utf-8")
    page = (docs / "differentiation.md").read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    (docs / "differentiation.md").write_text(
        f"{before}{BEGIN}\n{differentiation(records)}\n{END}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
