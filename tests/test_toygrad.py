"""A framework that we never heard of attaches the analytic derivatives: `examples/toygrad` and its adapter."""

import importlib
import shutil
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import install_example
from test_conformance import one

import xent_any
from xent_any import Backend, _registry

ROOT = Path(__file__).parents[1]
ADAPTER = (ROOT / "examples/toygrad/src/toygrad/xent_any_backend.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return install_example("toygrad", tmp_path_factory)


@pytest.fixture
def toygrad(installed, monkeypatch):
    """The framework, with its adapter in place as if it had been installed when xent_any was imported."""
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    adapter = importlib.import_module("toygrad.xent_any_backend").BACKEND
    monkeypatch.setitem(_registry._IMPORTERS, "toygrad", lambda: adapter)
    return sys.modules["toygrad"]


def without_derivatives(monkeypatch):
    """From here on toygrad differentiates through the formulas."""
    monkeypatch.setattr(type(_registry._IMPORTERS["toygrad"]()), "run", Backend.run)


def test_it_is_certified(tmp_path, installed):
    done, run = one(tmp_path, "toygrad", path=installed)
    assert done.returncode == 0, done.stdout
    (subject,) = run["subjects"]
    assert (subject["transforms"], subject["labels"], subject["deviations"]) == (["grad"], "read", {})
    passed = {result["id"] for result in run["results"] if result["outcome"] == "passed"}
    assert "truth.autodiff[float32-confident]" in passed
    assert sum(id_.startswith("transforms.grad.") for id_ in passed) > 8


@pytest.mark.parametrize(
    ("right", "wrong", "check"),
    [
        ("task.vjp(", "-task.vjp(", "truth.autodiff"),
        ("[c if j == i", "[0 * c + 1 if j == i", "transforms.grad.logits"),
        ("toygrad.sum(c * f(b)[i])", "toygrad.sum(f(b)[i])", "transforms.grad.probabilities"),
        ("if array is not None:", "if False:", "transforms.grad.weights"),
        ("if not task.has_derivative:", "if True:", "truth.autodiff"),
    ],
    ids=["negated", "cotangent-forgotten", "others-cotangent-forgotten", "others-forgotten", "not-attached"],
)
def test_a_wrong_derivative_is_rejected(tmp_path, installed, right, wrong, check):
    assert ADAPTER.count(right) == 1
    folder = tmp_path / "broken"
    shutil.copytree(installed, folder)
    (folder / "toygrad" / "xent_any_backend.py").write_text(ADAPTER.replace(right, wrong))
    done, run = one(tmp_path, "toygrad", "--checks", check, path=folder)
    assert done.returncode == 1
    outcomes = Counter(result["outcome"] for result in run["results"])
    assert outcomes["failed"]
    assert outcomes.keys() <= {"failed", "skipped"}
    for result in run["results"]:
        assert result["outcome"] == "skipped" or result["error"].startswith(("AssertionError", "Failed"))


def test_it_needs_no_adapter_for_values(tmp_path):
    path = ROOT / "examples" / "toygrad" / "src"
    done, run = one(tmp_path, "toygrad", "--checks", "truth.table,contract.labels", path=path)
    assert done.returncode == 0, done.stdout
    assert run["subjects"][0]["transforms"] == []


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 30.0}], ids=["", "all"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_gradient_is_bitwise_the_analytic_one(toygrad, reduction, options):
    rng = np.random.default_rng(0)
    x = toygrad.asarray(rng.normal(scale=10, size=(6, 5)).astype(np.float32))
    y = toygrad.asarray(rng.integers(0, 5, 6))
    weights = {"class_weight": rng.uniform(0.5, 2, 5), "sample_weight": rng.uniform(0.5, 2, 6)}
    options |= {"reduction": reduction} | {name: toygrad.asarray(w) for name, w in weights.items()}
    found = toygrad.grad(lambda x: xent_any.cross_entropy(x, y, **options))(x)
    _, expected = xent_any.cross_entropy_value_and_grad(x, y, **options)
    assert found.data.tobytes() == expected.data.tobytes()


def test_the_second_derivative_is_the_analytic_one(toygrad):
    x, v = (toygrad.asarray(np.asarray(a, np.float32)) for a in ([[17, 0, 0, 0]], [[1, -2, 3, 0.5]]))
    y = toygrad.asarray([0])
    slope = toygrad.grad(lambda x: xent_any.cross_entropy(x, y))
    found = toygrad.grad(lambda x: toygrad.sum(slope(x) * v))(x)
    np.testing.assert_allclose(found.data, xent_any.cross_entropy_hvp(x, v, y).data, rtol=1e-6)


def test_a_confident_row_keeps_its_digits(toygrad, monkeypatch):
    x, y = toygrad.asarray(np.asarray([17, 0, 0, 0], np.float32)), toygrad.asarray(0)
    gradient = toygrad.grad(lambda x: xent_any.cross_entropy(x, y))
    true = -3 / (np.exp(17.0) + 3)
    assert abs(float(gradient(x)[0]) / true - 1) < 1e-7
    without_derivatives(monkeypatch)
    assert abs(float(gradient(x)[0]) / true - 1) > 0.01


def nodes(array):
    """How many arrays on the tape `array` was computed from."""
    found, waiting = set(), [array]
    while waiting:
        for parent, _ in waiting.pop().parents:
            if parent.number not in found:
                found.add(parent.number)
                waiting.append(parent)
    return len(found)


def test_the_tape_is_short_and_keeps_little(toygrad, monkeypatch):
    x, y = toygrad.asarray(np.zeros((64, 1000))), toygrad.asarray(np.zeros(64, int))

    def forward():
        """Nodes and bytes that differentiating the losses keeps until it is their turn."""
        found = []

        def f(x):
            before = tracemalloc.get_traced_memory()[0]
            losses = xent_any.cross_entropy(x, y, reduction="none")
            found.extend((nodes(losses), tracemalloc.get_traced_memory()[0] - before))
            return toygrad.sum(losses)

        toygrad.grad(f)(x)
        return found

    tracemalloc.start()
    try:
        count, kept = forward()
        without_derivatives(monkeypatch)
        many, much = forward()
    finally:
        tracemalloc.stop()
    assert count < 5
    assert many > 30
    assert kept < 0.1 * x.data.nbytes
    assert much > 5 * x.data.nbytes


def test_the_adapter_is_short():
    assert len(ADAPTER.splitlines()) < 40


def test_the_adapter_is_in_the_documentation():
    assert f"```python\n{ADAPTER}```\n" in (ROOT / "docs" / "differentiation.md").read_text(encoding="utf-8")
