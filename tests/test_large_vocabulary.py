"""The benchmark of large vocabularies: its page is its record, and an error that is too large is noticed."""

import functools
import importlib.util
import shutil
from pathlib import Path

import pytest
from conftest import require

import xent_any

ROOT = Path(__file__).parents[1]
for module in ("matplotlib", "rich", "optax"):
    pytest.importorskip(module)


@pytest.fixture
def benchmark():
    require("torch")
    require("jax")
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / "large_vocabulary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module.F, "linear_cross_entropy"):
        pytest.skip("PyTorch has linear_cross_entropy from 2.13 on")
    return module


def test_the_page_is_made_from_the_record(benchmark, tmp_path):
    page, made = ROOT / "docs" / "large-vocabulary.md", tmp_path / "page.md"
    shutil.copy(page, made)
    record = ROOT / "benchmarks" / "records" / "large_vocabulary.json"
    assert benchmark.main([str(record), "--parts", f"--page={made}", f"--figure={tmp_path / 'figure.png'}"]) == 0
    assert "| **xent_any, PyTorch** |" in made.read_text(encoding="utf-8")
    assert made.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_errors(benchmark, monkeypatch, dtype):
    problem = benchmark.Problem(32, 8, 300, dtype)
    monkeypatch.setattr(benchmark._clock, "timings", lambda calls, _: {name: f(0) or {} for name, f in calls.items()})
    assert benchmark.wrong({"times": [benchmark.timed(problem)]}) == []
    smoothed = functools.partial(xent_any.linear_cross_entropy, label_smoothing=0.1)
    monkeypatch.setattr(xent_any, "linear_cross_entropy", smoothed)
    failures = benchmark.wrong({"times": [benchmark.timed(problem)]})
    assert [failure.partition(f", {problem.shape}")[0] for failure in failures] == [
        benchmark.OURS_TORCH,
        f"{benchmark.OURS_TORCH}, recompute",
        benchmark.OURS_JAX,
    ]
