"""The conformance kit as a user runs it; that it rejects what is broken is in test_broken."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from conftest import install_example

from xent_any_conformance import records, subjects
from xent_any_conformance import run as kit_run

HERE = Path(__file__).parent
RUN = [sys.executable, "-c", "import sys; from xent_any_tools.cli import main; sys.exit(main())", "conformance"]


def conformance(*arguments, cwd, path=""):
    paths = [str(HERE), str(path), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "200"}
    return subprocess.run([*RUN, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All subjects, from a directory whose pytest files would break any run that reads them."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "conftest.py").write_text("raise RuntimeError('a conftest of the caller')\n")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\nfilterwarnings = error\n")
    (folder / "test_truth.py").write_text("raise RuntimeError('a test of the caller')\n")
    files = [f"--{kind}={folder / f'report.{kind}'}" for kind in ("json", "junit", "html")]
    return conformance("--quick", *files, cwd=folder), folder


def test_everything_passes_or_is_declared(everything):
    done, folder = everything
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    run = json.loads((folder / "report.json").read_text())
    assert run["passed"]
    names = {subject["name"] for subject in run["subjects"]} | {missing["name"] for missing in run["unusable"]}
    assert set(subjects.TABLE) <= names
    assert {"numpy", "array_api_strict"} <= {subject["name"] for subject in run["subjects"]}


def test_every_skip_and_every_absence_has_a_reason(everything):
    run = json.loads((everything[1] / "report.json").read_text())
    assert all(len(missing["reason"]) > 5 for missing in run["unusable"])
    skipped = [result for result in run["results"] if result["outcome"] == "skipped"]
    assert all(len(result["reason"]) > 5 and "unconditional skip" not in result["reason"] for result in skipped)


def test_ids_are_unique_and_have_a_statement(everything):
    run = json.loads((everything[1] / "report.json").read_text())
    ids = [result["id"] for result in run["results"] if result["subject"] == "numpy"]
    assert len(ids) == len(set(ids))
    families = {id_.partition(".")[0] for id_ in ids}
    assert families == {"truth", "values", "agreement", "gradient", "relations", "contract", "transforms", "tuned"}
    for result in run["results"]:
        assert 20 < len(result["statement"]) < 250
        assert (HERE.parent / result["source"].partition(",")[0]).exists()


def test_every_pair_is_compared(everything):
    run = json.loads((everything[1] / "report.json").read_text())
    solved = {r["subject"] for r in run["results"] if r["id"] == "agreement.solutions" and r["outcome"] == "passed"}
    pairs = {(pair["a"], pair["b"]) for pair in run["agreement"]}
    assert len(pairs) == len(solved) * (len(solved) - 1) // 2
    assert all(pair["share"] <= 1 for pair in run["agreement"])


def test_the_other_reports(everything):
    run = json.loads((everything[1] / "report.json").read_text())
    suites = ET.parse(everything[1] / "report.junit").getroot()
    peers = {subject["name"] for subject in run["subjects"] if subject["peer"]}  # which have no part in the verdict
    ours = [result for result in run["results"] if result["subject"] not in peers]
    assert len(suites.findall(".//testcase")) == len(ours) + len(run["unusable"])
    page = (everything[1] / "report.html").read_text()
    assert all(subject["name"] in page for subject in run["subjects"])
    assert "<script src" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_caller_is_left_alone(everything):
    expected = ["conftest.py", "pytest.ini", "report.html", "report.json", "report.junit", "test_truth.py"]
    assert sorted(path.name for path in everything[1].iterdir()) == expected


def one(tmp_path, name, *arguments, path=""):
    done = conformance(name, "--quick", "--json", str(tmp_path / "run.json"), *arguments, cwd=tmp_path, path=path)
    return done, json.loads((tmp_path / "run.json").read_text())


def test_a_namespace_needs_no_record(tmp_path):
    done, run = one(tmp_path, "strangers:NAMESPACE")
    assert done.returncode == 0, done.stdout
    assert run["subjects"][0]["library"] == "array_api_strict"
    assert {pair["a"] for pair in run["agreement"]} | {pair["b"] for pair in run["agreement"]} == {
        "numpy",
        "strangers:NAMESPACE",
    }


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The toy library, installed as a package of its own."""
    return install_example("toyarray", tmp_path_factory)


def test_a_library_that_never_heard_of_us(tmp_path, toy):
    assert not any("xent" in path.read_text() for path in toy.rglob("*.py"))
    done, run = one(tmp_path, "toyarray", path=toy)
    assert done.returncode == 0, done.stdout
    (subject,) = run["subjects"]
    assert subject["device"].startswith("Device")
    assert subject["labels"] == "NaN"
    outcomes = Counter(result["outcome"] for result in run["results"])
    assert outcomes["passed"] > 200
    assert set(outcomes) == {"passed", "skipped"}


@pytest.mark.parametrize(
    ("method", "replacement", "id_"),
    [
        ("exp", "lambda x: right(x) * 1.00001", "truth.table[float32-index-confident]"),
        ("isfinite", "lambda x: right(x) | True", "contract.infinities"),
    ],
)
def test_the_toy_with_a_broken_method(tmp_path, toy, method, replacement, id_):
    code = f"import toyarray\nright = toyarray.{method}\ntoyarray.{method} = {replacement}\nBACKEND = toyarray\n"
    (tmp_path / "broken_toy.py").write_text(code)
    done, run = one(tmp_path, "broken_toy", "--checks", id_, path=f"{toy}{os.pathsep}{tmp_path}")
    assert done.returncode == 1
    assert any(result["id"].startswith(id_) and result["outcome"] == "failed" for result in run["results"])


def test_a_deviation_that_passes_fails_the_run(tmp_path):
    done, run = one(tmp_path, "strangers:NEEDLESS", "--checks", "contract.labels.wrapped")
    assert done.returncode == 1
    (failed,) = (result for result in run["results"] if result["outcome"] == "failed")
    assert failed["id"] == "contract.labels.wrapped"
    assert "it wraps nothing" in failed["reason"]


@pytest.mark.parametrize(
    ("name", "outcome"), [("DECLARED", "deviates"), ("OTHERWISE", "failed"), ("UNSPECIFIED", "failed")]
)
def test_a_deviation_excuses_the_error_that_it_names_alone(tmp_path, name, outcome):
    done, run = one(tmp_path, f"strangers:{name}", "--checks", "contract.empty.batch")
    (result,) = run["results"]
    assert (done.returncode, result["outcome"]) == (int(outcome == "failed"), outcome)
    assert result["error"] == "MemoryError: no rows"


def test_an_integer_dtype_that_is_listed_and_cannot_be_made_is_a_failure(tmp_path):
    done, run = one(tmp_path, "strangers:INT64_ALONE", "--checks", "contract.labels.integer-dtype,truncated")
    assert done.returncode == 1
    failed = {result["id"] for result in run["results"] if result["outcome"] == "failed"}
    assert {"contract.labels.integer-dtype[int8]", "contract.labels.truncated[uint64]"} <= failed


def test_a_dtype_that_is_not_there_is_skipped_aloud(tmp_path):
    _, run = one(tmp_path, "array_api_strict-no_x64", "--checks", "contract.labels.integer-dtype")
    reasons = {result["id"]: result["reason"] for result in run["results"] if result["outcome"] == "skipped"}
    assert reasons == {"contract.labels.integer-dtype[uint64]": "no uint64 here"}


@pytest.mark.parametrize("checks", ["agreement.", "agreement.solutions", "agreement,contract.loss"])
def test_solutions_are_compared_whatever_asked_for_them(tmp_path, checks):
    done, run = one(tmp_path, "strangers:NAMESPACE", "--checks", checks)
    assert done.returncode == 0, done.stdout
    assert {(pair["a"], pair["b"]) for pair in run["agreement"]} == {("strangers:NAMESPACE", "numpy")}


def test_solutions_that_nobody_else_has_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(kit_run, "REFERENCE", "no_such_library")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    result = kit_run.run(["strangers:NAMESPACE"], quick=True, checks="agreement.")
    assert not result["passed"]
    assert "no other subject" in result["results"][0]["reason"]


def test_a_library_all_of_whose_subjects_are_missing_fails(monkeypatch):
    table = {name: ("no_such_module", file) for name, (_, file) in subjects.TABLE.items() if name.startswith("dask")}
    monkeypatch.setattr(subjects, "TABLE", {**subjects.TABLE, **table})

    class Worker(kit_run.Worker):
        def __init__(self, name, folder, quick, checks):
            super().__init__(name, folder, quick, checks)
            if name in table:
                self.command = [sys.executable, "-c", "pass"]
                self.unusable = "no_such_module is not installed"

    monkeypatch.setattr(kit_run, "Worker", Worker)
    for names, passed in ((["numpy"], True), (["dask", "numpy"], False)):
        assert kit_run.run(names, quick=True, checks="contract.loss.formula")["passed"] is passed


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("strangers:UNKNOWN", "declares deviations from no check: contract.nonsense"),
        ("strangers:CRASHES", "ended with 3"),
    ],
)
def test_a_run_that_breaks_off_fails(tmp_path, name, reason):
    done, run = one(tmp_path, name)
    assert done.returncode == 1
    (failed,) = (result for result in run["results"] if result["id"] == "run.process")
    assert reason in failed["reason"]
    assert "run.process" in done.stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_library", "No module named 'no_such_library'"),
        ("strangers:NOTHING", "strangers has no NOTHING"),
        ("strangers:NEITHER", "expected an xent_any.Backend or a namespace"),
        ("strangers:NO_DEVICE", "no such device"),
    ],
)
def test_what_cannot_be_used_fails_and_says_why(tmp_path, name, reason):
    done, run = one(tmp_path, name)
    assert done.returncode == 1
    assert reason in run["unusable"][0]["reason"]
    assert reason in " ".join(done.stdout.split())


def test_records_are_of_full_runs(tmp_path):
    done = conformance("numpy", "--quick", "--records", "somewhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "expected a full run" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_tables_of_the_documentation_are_made_from_the_records(tmp_path):
    for name in ("support.md", "differentiation.md"):
        shutil.copy(HERE.parent / "docs" / name, tmp_path)
    records.main(HERE.parent / "conformance" / "records", tmp_path)
    for path in tmp_path.iterdir():
        made = path.read_text(encoding="utf-8")
        assert "| `torch` |" in made
        assert (HERE.parent / "docs" / path.name).read_text(encoding="utf-8") == made


CERTIFIED = ("xent_any", "backends", "conformance/xent_any_conformance/checks")
"""The code that the records are about."""


def git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=HERE.parent, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def code(text):
    """The code of a module without its comments, docstrings and other bare strings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [line for line in node.body if not is_bare_string(line)]
    return ast.dump(tree)


def is_bare_string(line):
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def concerns(name, library):
    """Whether a library's arrays are computed by a module: not if it is another framework's adapter."""
    parts = Path(name).parts
    if parts[0] != "backends":
        return True
    framework = Path(parts[2]).stem
    return framework in ("__init__", library) or (framework, library) == ("numpy", "torch")


def changed_since(commit):
    """The modules that the records are about whose code is another than in that commit; None without its history."""
    tree = git("ls-tree", "-r", "--name-only", commit, *CERTIFIED)
    if tree is None:
        return None
    then = {name: git("show", f"{commit}:{name}") for name in tree.split() if name.endswith(".py")}
    now = {str(path.relative_to(HERE.parent)) for folder in CERTIFIED for path in (HERE.parent / folder).rglob("*.py")}
    return [
        name
        for name in sorted(now | then.keys())
        if name not in now or name not in then or code(then[name]) != code((HERE.parent / name).read_text("utf-8"))
    ]


def test_the_records_are_of_this_code():
    """Comments and docstrings may have changed since."""
    made = [json.loads(path.read_text("utf-8")) for path in (HERE.parent / "conformance" / "records").glob("*.json")]
    changed = {commit: changed_since(commit) for commit in {record["commit"] for record in made}}
    if None in changed.values():
        pytest.skip(f"no history of the records' commits here: {sorted(changed)}")
    stale = {
        record["subject"]["name"]: modules
        for record in made
        if (modules := [m for m in changed[record["commit"]] if concerns(m, record["subject"]["library"])])
    }
    again = "`xent-any conformance --records conformance/records`, then `python -m xent_any_conformance.records` on it"
    assert not stale, f"records are of other code: {stale}; {again}"


def test_an_adapter_concerns_its_library_alone():
    kernels = "backends/xent_any_backends/numpy/_kernels.py"
    assert [concerns(kernels, library) for library in ("numpy", "torch", "jax")] == [True, True, False]
    assert concerns("backends/xent_any_backends/mlx.py", "mlx")
    assert not concerns("backends/xent_any_backends/mlx.py", "numpy")
    assert concerns("xent_any/_formulas.py", "dask")


def test_a_change_of_the_code_is_told_from_one_of_its_words():
    text = 'def f(x):\n    """Return x."""\n    return x\n'
    assert code(text) == code(text.replace("Return x.", "The argument.").replace("return x", "return x  # itself"))
    assert code(text) != code(text.replace("return x", "return -x"))


def test_the_table_of_bytes_kept_is_the_record():
    record = json.loads((HERE.parent / "benchmarks" / "records" / "kept_for_backward.json").read_text(encoding="utf-8"))
    page = (HERE.parent / "docs" / "differentiation.md").read_text(encoding="utf-8")
    for row in record["rows"]:
        assert f"| {' | '.join(v if isinstance(v, str) else f'{v:.3f}' for v in row.values())} |" in page


@pytest.mark.parametrize("name", subjects.TABLE)
def test_the_records_declare_what_the_subjects_do(name):
    path = HERE.parent / "conformance" / "records" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{name}: no record; it was not at hand when the records were made")
    code = "import sys, json; from xent_any_conformance import plugin, subjects\n"
    code += "print(json.dumps(plugin.describe(subjects.load(sys.argv[1]))))"
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=False)
    if done.returncode and "UnusableError" in done.stderr:
        pytest.skip(f"{name}: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    now, then = json.loads(done.stdout), json.loads(path.read_text(encoding="utf-8"))["subject"]
    for declared in (now, then):
        declared.pop("version")  # of the library, which may be another here
    assert now == then
