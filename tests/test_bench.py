"""``xent-any bench``: what it compares, refuses and computes; nothing here depends on how long anything takes."""

import io
import itertools
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import require, some
from rich.console import Console

import xent_any
from xent_any_conformance import _machine
from xent_any_tools import cli
from xent_any_tools.bench import _clock, _page, _run, _summary, _terminal, _worker, guard, records
from xent_any_tools.bench import _problems as problems
from xent_any_tools.bench import contestants as table
from xent_any_tools.bench._choices import OPTIONS
from xent_any_tools.bench._problems import Inputs, Problem
from xent_any_tools.bench.contestants import BACKWARD, GRADIENT, LOSS, Contestant

ROOT = Path(__file__).parents[1]
PROBLEM = Problem((6, 5))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Neither pauses nor many inputs, in this process."""
    monkeypatch.setattr(_clock.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(_machine, "cache_bytes", lambda: 0)


def measured(problem, *contestants):
    rows = _worker.measured(problem, contestants, seconds=0, threads=1, progress=lambda what: None)
    return [(row["status"], row.get("reason", "")) for row in rows]


def contestant(call, computes=GRADIENT):
    return Contestant(
        "a function", "a-library", "numpy", computes, lambda inputs: lambda i: call(inputs, i % len(inputs))
    )


def ours(inputs, i):
    return xent_any.cross_entropy_value_and_grad(inputs.logits[i], inputs.labels[i])


def test_a_right_answer_is_timed():
    assert measured(PROBLEM, contestant(ours), contestant(lambda *a: ours(*a)[0], LOSS)) == [("timed", "")] * 2


def of_the_sum(inputs, i):
    return xent_any.cross_entropy_value_and_grad(inputs.logits[i], inputs.labels[i], reduction="sum")


def without_the_label(inputs, i):
    loss, grad = ours(inputs, i)
    np.put_along_axis(grad, inputs.labels[i][:, None], 0, axis=1)
    return loss, grad


def the_label_alone(inputs, i):
    loss, grad = ours(inputs, i)
    return loss, np.where(grad < 0, grad, 0)


WRONG = {
    "the sum": (of_the_sum, GRADIENT, "the loss is"),
    "another gradient": (lambda *a: (ours(*a)[0], of_the_sum(*a)[1]), GRADIENT, "the gradient is wrong"),
    "no label": (without_the_label, GRADIENT, "the gradient is wrong"),
    "the label alone": (the_label_alone, GRADIENT, "the gradient is wrong"),
    "another shape": (lambda *a: (ours(*a)[0], ours(*a)[1].T), GRADIENT, "the gradient's shape"),
    "NaN": (lambda *a: np.float32("nan"), LOSS, "the loss is nan"),
    "a loss for each row": (lambda inputs, i: np.zeros(6), LOSS, "the loss is of shape"),
    "no gradient": (lambda *a: ours(*a)[0], BACKWARD, "expected a loss and a gradient"),
}


@pytest.mark.parametrize("name", WRONG)
def test_who_computes_another_thing_is_not_timed(name):
    call, computes, reason = WRONG[name]
    (found,) = measured(PROBLEM, contestant(call, computes))
    assert found[0] == "wrong"
    assert found[1].startswith(reason)


def test_a_failure_is_told_from_a_problem_that_a_contestant_does_not_have():
    def fails(inputs, i):
        raise ValueError("broken\nand a second line")

    def has_not(inputs, i):
        raise NotImplementedError("no such labels")

    found = measured(PROBLEM, contestant(fails), contestant(has_not))
    assert found == [("failed", "ValueError: broken"), ("not there", "no such labels")]


FRAMEWORKS = {"scipy": "numpy", "scikit-learn": "numpy", "torch": "torch", "optax": "jax", "mlx": "mlx"}


@pytest.mark.parametrize(("option", "library"), some(itertools.product(OPTIONS, FRAMEWORKS), 2))
def test_the_contestants_agree(library, option):
    require(FRAMEWORKS[library])
    found, missing = table.load([library])
    assert library not in missing
    eager = [c for c in found if c.group != "torch compiled"]
    problem = Problem((3, 4, 2) if library == "torch" else (6, 5), option=option)
    results = measured(problem, *eager)
    assert {status for status, _ in results} <= {"timed", "not there"}, results
    assert sum(status == "timed" for (status, _), c in zip(results, eager, strict=True) if c.ours) >= 2


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_the_contestants_agree_in_other_dtypes(dtype):
    require("torch")
    found, _ = table.load(["scipy", "torch"])
    results = measured(Problem((6, 5), dtype), *(c for c in found if c.group != "torch compiled"))
    assert {status for status, _ in results} <= {"timed", "not there"}, results


def test_bfloat16_numbers_are_rounded_as_frameworks_do():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(1000, dtype=np.float32)
    expected = torch.from_numpy(x).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(problems._rounded(x, "bfloat16"), expected)


def test_the_inputs_exceed_the_cache_and_not_the_memory():
    inputs = Inputs(Problem((64, 10)), cache_bytes=20_000)
    assert len(inputs) * inputs.problem.nbytes >= 40_000
    assert len({x.tobytes() for x in inputs.logits}) == len(inputs)
    assert len(Inputs(Problem((4, 2)), cache_bytes=1 << 40)) == problems.MAX_ARRAYS
    assert np.mean(Inputs(Problem((1000, 2), option="ignored")).labels[0] == -100) == pytest.approx(0.3, abs=0.1)


def test_contestants_take_turns_and_their_medians_are_exact():
    now, turns = [0.0], []

    def call_of(name, durations):
        def call(i):
            turns.append(name)
            now[0] += next(durations)

        return call

    calls = {
        "even": call_of("even", itertools.repeat(0.25)),
        "odd": call_of("odd", itertools.chain([9.0], itertools.cycle([0.5, 1.0, 1.5]))),
    }
    found = _clock.timings(calls, seconds=0, clock=lambda: now[0])
    assert found["even"] == {"median": 0.25, "q1": 0.25, "q3": 0.25, "least": 0.25, "repeats": 5, "calls": 1}
    assert found["odd"]["repeats"] == 3  # it is slow
    assert found["odd"]["median"] == 1.0
    timed = turns[2:]
    assert all({*timed[i : i + 2]} == {"even", "odd"} for i in range(0, 6, 2))


def test_a_short_call_is_timed_in_batches():
    now = [0.0]

    def call(i):
        now[0] += 1e-6

    found = _clock.timings({"short": call}, seconds=0, clock=lambda: now[0])
    assert found["short"]["calls"] >= 1000
    assert found["short"]["median"] == pytest.approx(1e-6)


def row(name, library, group, computes, median, **more):
    facts = {"name": name, "library": library, "group": group, "computes": computes, "ours": library == "xent-any"}
    times = {"median": median, "q1": median * 0.9, "q3": median * 1.1, "least": median, "repeats": 5, "calls": 1}
    return (
        {"key": f"{computes}: {group}: {library} {name}", "limit": group == "limit", "status": "timed"}
        | facts
        | times
        | more
    )


def made_up():
    """A record of known numbers."""
    results = [
        row("read", "numpy", "limit", LOSS, 0.002),
        row("read", "torch", "limit", LOSS, 0.001),
        row("copy", "numpy", "limit", GRADIENT, 0.003),
        row("cross_entropy", "xent-any", "numpy", LOSS, 0.004, peak_bytes=12),
        row("log_softmax", "scipy", "numpy", LOSS, 0.010, peak_bytes=36),
        row("both", "xent-any", "numpy", GRADIENT, 0.006),
        row("cross_entropy", "xent-any", "torch", BACKWARD, 0.008),
        row("F.cross_entropy", "torch", "torch", BACKWARD, 0.02),
        row("other", "mlx", "mlx", LOSS, 0.5) | {"status": "not there", "reason": "no such labels"},
    ]
    problem = Problem((3, 4))._asdict() | {"shape": [3, 4]}
    case = {"problem": problem, "threads": 2, "growth": "", "results": results}
    grown = [
        case | {"growth": axis, "threads": 2, "problem": problem | {"shape": shape}}
        for axis, shape in (("N", [3, 4]), ("N", [6, 4]), ("C", [3, 4]), ("C", [3, 8]))
    ]
    return {
        "xent_any": "1.2",
        "date": "2000-01-01",
        "machine": _machine.facts(),
        "versions": {"numpy": "9.9"},
        "command": "xent-any bench",
        "seconds_of_each": 0.5,
        "seconds": 1.0,
        "missing": [{"library": "a-library", "reason": "not installed (No module named 'a')"}],
        "cases": [case, case | {"problem": problem | {"option": "smoothing"}}, *grown],
    }


def test_ratios():
    case = _summary.cases(made_up())[0]
    assert case.limits() == {LOSS: 0.001, GRADIENT: 0.003, BACKWARD: 0.004}
    ratios = {
        (line.row["library"], line.row["group"]): (line.of_limit, line.of_ours, line.peak)
        for kind in (LOSS, BACKWARD)
        for line in case.lines(kind)
    }
    assert ratios["xent-any", "numpy"] == (4, 1, 12 / 48)
    assert ratios["scipy", "numpy"] == (10, 2.5, 36 / 48)
    assert ratios["torch", "torch"] == (5, 2.5, None)
    assert ratios["numpy", "limit"] == (2, None, None)


def test_the_terminal_shows_the_ratios_and_names_what_is_missing_aloud():
    output = io.StringIO()
    _terminal.terminal(made_up(), Console(file=output, width=200))
    text = output.getvalue()
    assert re.search(r"scipy log_softmax +10\.0 ms +±10 % +10\.0 +2\.50 +0\.75", text)
    assert "without a-library: not installed (No module named 'a')" in text
    left_out = ", ".join(("3x4 float32 index", "3x4 float32 smoothing", "6x4 float32 index", "3x8 float32 index"))
    assert f"not timed: mlx: no such labels ({left_out})" in text


def test_the_page_has_every_figure_and_every_number():
    page = _page.html(made_up())
    assert page.count("<svg") == 4  # time of two problems, memory, growth
    assert "10.0 ms" in page
    assert "without a-library" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing from elsewhere


def test_the_tables_of_the_documentation(tmp_path):
    record, page = tmp_path / "record.json", tmp_path / "page.md"
    record.write_text(json.dumps(made_up()), encoding="utf-8")
    page.write_text(f"before\n{records.BEGIN}old\n{records.END}after\n", encoding="utf-8")
    records.main(record, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| scipy log_softmax | numpy | 10.0 ms (10.0) |" in text
    assert "| the limit |  | 1.00 ms |" in text
    assert re.search(r"\| 3x4 \| float32 \| smoothing \| 4\.00 ms \(1\.00\) \|", text)
    once = text
    records.main(record, page)
    assert page.read_text(encoding="utf-8") == once


def test_the_documentation_is_that_of_the_record(tmp_path):
    record, page = ROOT / "benchmarks/records/cpu.json", ROOT / "docs/performance.md"
    if not record.is_file():
        pytest.skip("no record yet")
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    records.main(record, copy)
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


def test_a_library_that_is_not_there_is_missing_for_a_reason(monkeypatch):
    monkeypatch.setitem(table.MODULES, "_not_there", ("a-library", "_numpy"))
    found, missing = table.load(["a-library"], limits=False)
    assert list(missing) == ["a-library"]
    assert missing["a-library"].startswith("not installed (No module named")
    assert any(c.ours for c in found)


def test_a_library_that_cannot_be_imported_is_missing_for_that_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, f"{table.__name__}._scipy", None)
    assert "scipy" in table.load(["scipy"])[1]


@pytest.mark.parametrize("arguments", [["32"], ["32x1"], ["axb"], ["--threads", "0"], ["--labels", "none"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["bench", *arguments])
    assert exit_.value.code == 2
    assert "xent-any bench" in capsys.readouterr().err


def test_the_command(tmp_path, capsys):
    json_file, page = tmp_path / "run.json", tmp_path / "run.html"
    arguments = ["bench", "6x5", "--libraries", "scikit-learn", "--threads", "1", "--seconds", "0"]
    assert cli.main([*arguments, "--json", str(json_file), "--html", str(page)]) == 0
    assert "HalfMultinomialLoss" in capsys.readouterr().out
    record = json.loads(json_file.read_text(encoding="utf-8"))
    assert record["command"].startswith("xent-any bench 6x5")
    assert record["versions"]["numpy"] == np.__version__
    (case,) = record["cases"]
    timed = {r["key"]: r for r in case["results"] if r["status"] == "timed"}
    assert {f"{LOSS}: numpy: xent-any cross_entropy", f"{LOSS}: numpy: scikit-learn HalfMultinomialLoss.loss"} <= {
        *timed
    }
    assert all(r["q1"] <= r["median"] <= r["q3"] and r["repeats"] >= 3 for r in timed.values())
    assert "<svg" in page.read_text(encoding="utf-8")
    assert cli.main(["bench", "--record", str(json_file)]) == 0
    assert "HalfMultinomialLoss" in capsys.readouterr().out


def test_a_peer_that_goes_astray_in_half_precision_is_no_failure_of_the_run():
    record = made_up()
    record["cases"][0]["results"][4] |= {"status": "wrong", "reason": "the loss is inf, not 2"}
    assert len(_summary.failures(record)) > 0
    for case in record["cases"]:
        case["problem"]["dtype"] = "float16"
    assert _summary.failures(record) == []
    assert any(why == "scipy log_softmax: the loss is inf, not 2" for why, _ in _summary.not_timed_by_reason(record))
    record["cases"][0]["results"][3] |= {"status": "wrong", "reason": "the loss is inf, not 2"}
    assert len(_summary.failures(record)) > 0


def test_an_unknown_library(capsys):
    assert cli.main(["bench", "--libraries", "pytorch"]) == 2
    assert "unknown: pytorch; known: numpy, torch, " in capsys.readouterr().out


def test_on_a_gpu_the_last_result_is_waited_for():
    waited = []
    pending = _worker.Pending()
    call = pending.keeping(lambda i: 10 * i, waited.append)
    call(1)
    call(2)
    assert waited == []
    pending.finish()
    pending.finish()
    assert waited == [20]


def test_a_wrong_answer_fails_the_command(tmp_path, capsys):
    record = made_up()
    record["cases"][0]["results"][3] |= {"status": "wrong", "reason": "the loss is 1, not 2"}
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert cli.main(["bench", "--record", str(tmp_path / "run.json")]) == 1
    assert "the loss is 1, not 2" in capsys.readouterr().out


def test_a_process_that_ends_is_a_failure_of_its_case(monkeypatch):
    monkeypatch.setattr(_run.sys, "executable", "/bin/false")
    record = _run.run(_run.Plan([PROBLEM], threads=["1"], seconds=0))
    assert "failed" in record["cases"][0]
    assert _summary.failures(record)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak can be set back on Linux alone")
def test_peak_memory():
    problem = Problem((1000, 1000))
    found = {}
    for name in ("copy into new memory", "copy into memory at hand"):
        job = _run.timing_job(problem, 1, ["scipy"]) | {
            "contestants": [f"{GRADIENT}: limit: numpy {name}"],
            "memory": True,
        }
        (result,) = _run.run_job(job)["results"]
        found[name] = result["peak_bytes"] / problem.nbytes
    assert found["copy into new memory"] == pytest.approx(1, abs=0.1)
    assert found["copy into memory at hand"] == pytest.approx(0, abs=0.1)


def test_peak_memory_is_that_of_each_contestant(monkeypatch):
    def run_job(job, progress=None):
        if job["memory"]:
            (key,) = job["contestants"]
            return {"results": [{"key": key, "peak_bytes": len(key), "peak_is": "VmHWM"}]}
        return {"results": made_up()["cases"][0]["results"], "missing": {}}

    monkeypatch.setattr(_run, "run_job", run_job)
    (case,) = _run.run(_run.Plan([PROBLEM], threads=["1"], memory=[PROBLEM]))["cases"]
    assert all(r.get("peak_bytes") == (len(r["key"]) if r["status"] == "timed" else None) for r in case["results"])


def test_a_failure_to_measure_memory_is_said(monkeypatch):
    def run_job(job, progress=None):
        if job["memory"]:
            return {"results": [], "missing": {}, "failed": "killed"}
        return {"results": [row("cross_entropy", "xent-any", "numpy", LOSS, 1.0)], "missing": {}}

    monkeypatch.setattr(_run, "run_job", run_job)
    record = _run.run(_run.Plan([PROBLEM], threads=["1"], memory=[PROBLEM]))
    assert _summary.failures(record) == [
        "6x5, float32, index labels, 1 thread: memory of loss: numpy: xent-any cross_entropy: killed"
    ]


def test_growth_spans_three_decades():
    shapes = _run.growth_shapes()
    for axis, size in (("N", 0), ("C", 1)):
        sizes = [shape[size] for a, shape in shapes if a == axis]
        assert sizes[-1] / sizes[0] >= 1000
        assert all(b == 2 * a for a, b in itertools.pairwise(sizes))


def counts(**values):
    return {
        "counts": {name: {"value": value, "with": {"numpy": "2"}} for name, value in values.items()},
        "missing": {},
        "failed": {},
    }


def test_guard_states():
    recorded = counts(same=5, grown=5, fewer=5, gone=5, KiB=1000) | {"missing": {}}
    found = counts(same=5, grown=6, fewer=4, new=1, KiB=1005)
    found["missing"] = {"go": "not this one"}
    recorded["counts"]["other"] = {"value": 5, "with": {"numpy": "1"}}
    found["counts"]["other"] = {"value": 9, "with": {"numpy": "2"}}
    verdicts = {v.name: v for v in guard.compared(recorded, found)}
    states = {name: v.state for name, v in verdicts.items()}
    assert states == {
        "same": "same",
        "grown": "grown",
        "fewer": "fewer",
        "gone": "not compared",
        "KiB": "same",
        "new": "new",
        "other": "not compared",
    }
    assert verdicts["other"].reason == "recorded with numpy 1, not 2"
    assert guard._state("KiB", 1000, 1011) == "grown"


def test_guard_command(tmp_path, monkeypatch, capsys):
    path = tmp_path / "guard.json"
    arguments = ["bench", "--guard", str(path)]
    monkeypatch.setattr(guard, "count_apart", lambda: counts(calls=5))
    assert cli.main(arguments) == 2  # there is nothing to compare with
    assert cli.main([*arguments, "--update"]) == 0
    assert cli.main(arguments) == 0
    monkeypatch.setattr(guard, "count_apart", lambda: counts(calls=6))
    assert cli.main(arguments) == 1
    assert "1 grown" in capsys.readouterr().out
    monkeypatch.setattr(guard, "count_apart", lambda: counts() | {"missing": {"numpy": "numpy is not installed"}})
    assert cli.main(arguments) == 2
    assert "not counted: numpy: numpy is not installed" in capsys.readouterr().out
    monkeypatch.setattr(guard, "count_apart", lambda: counts(calls=5) | {"failed": {"jax": "TypeError: no"}})
    for more in ([], ["--update"]):
        assert cli.main([*arguments, *more]) == 1
        assert "counting failed: jax: TypeError: no" in capsys.readouterr().out


def test_guard_tells_an_error_from_a_library_that_is_not_there(monkeypatch):
    def broken():
        raise TypeError("a change of ours")

    sources = {"numpy": guard.Source(broken, (), False), "no_such_library": guard.Source(broken, (), False)}
    monkeypatch.setattr(guard, "SOURCES", sources)
    found = guard.counted()
    assert found["failed"] == {"numpy": "TypeError: a change of ours"}
    assert found["missing"] == {"no_such_library": "no_such_library is not installed"}


def test_guard_counts_what_a_call_does(monkeypatch):
    from xent_any_backends.numpy import BACKEND  # noqa: PLC0415
    from xent_any_backends.numpy._memory import SCRATCH  # noqa: PLC0415

    def counts():
        """As in a new process on one thread: what a thread keeps is counted, too."""
        vars(SCRATCH).pop("kept", None)
        return guard.SOURCES["numpy"].counts()

    monkeypatch.setattr(BACKEND.products, "threads", lambda: 1)
    assert guard.calls(lambda: None) == 1
    assert guard.calls(lambda: [len(()), len(())]) == 3
    found, again = counts(), counts()
    assert {guard._state(name, found[name], again[name]) for name in found} == {"same"}
    # Loss and gradient hold the gradient, and blocks.
    gradient = 1024 * 32000 * 4 / 1024
    assert gradient < found["numpy, loss + gradient of 1024x32000: KiB at peak"] < 1.5 * gradient


def test_guard_counts_operators():
    torch = pytest.importorskip("torch")
    x = torch.ones(3)
    assert guard.operators(lambda: (x + x) * x) == 2
