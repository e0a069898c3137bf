"""The demonstration: what it writes, and that it fails when it should."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

import xent_any
from xent_any_tools import cli

for module in cli.EXTRA["demo"]:
    pytest.importorskip(module)
array_api_strict = pytest.importorskip("array_api_strict")

from xent_any_backends.array_api_strict import BACKEND as STRICT  # noqa: E402
from xent_any_backends.numpy import BACKEND as NUMPY  # noqa: E402
from xent_any_tools.demo import _train  # noqa: E402

EPOCHS = 1
FIGURES = ["confident-loss", "confusion-matrix", "learned-weights", "loss-curves", "squared-error"]
RUN = "import sys; from xent_any_tools.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """What the command would set, gone after the test."""
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    """The command on all backends, in a process of its own, where JAX has 64-bit types."""
    output = tmp_path_factory.mktemp("demo") / "new" / "folder"
    command = [sys.executable, "-c", RUN, "demo", "--epochs", str(EPOCHS), "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False), output


@pytest.fixture(scope="module")
def problem():
    return _train.load_problem()


@pytest.fixture(scope="module")
def bound(problem):
    return _train.rounding_bound(problem, EPOCHS)


def train(problem, dtype, backend=NUMPY):
    return _train.train(problem, backend, dtype, backend.devices()[0], epochs=EPOCHS, advance=lambda: None)


def scale_gradient(monkeypatch, factor):
    """Make array-api-strict's gradients wrong."""

    def run(task, right=STRICT.run):
        results = right(task)
        return results if len(results) == 1 else (results[0], results[1] * factor)

    monkeypatch.setattr(STRICT, "run", run)


def test_all_backends_agree(everywhere):
    run, output = everywhere
    assert run.returncode == 0, run.stdout + run.stderr
    assert "They agree" in run.stdout
    page = (output / "xent-any-demo.html").read_text(encoding="utf-8")
    for info in xent_any.backends():
        for dtype in ("float64", "float32"):
            runs = info.usable and dtype in info.backend.dtypes(info.backend.devices()[0])
            row = rf"^{info.name} +\S.* {dtype} +\d"
            assert bool(re.search(row, run.stdout, re.MULTILINE)) == runs
            row = rf"<td>{info.name}</td><td>[^<]*</td><td>{dtype}</td>"
            assert bool(re.search(row, page)) == runs
        if not info.usable:
            assert f"not run: {info.name}: " in run.stdout
            assert f"<dd>{info.name}: " in page


def test_the_page_needs_no_other_file(everywhere):
    _, output = everywhere
    assert sorted(path.stem for path in output.glob("*.png")) == FIGURES
    page = (output / "xent-any-demo.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == len(FIGURES) == page.count(" src=")
    assert not re.search(r"""(?:https?:)?//\w|<link|<script|@import|url\(""", re.sub(r'src="data:[^"]*"', "", page))


def test_a_wrong_backend_is_found(tmp_path, capsys, monkeypatch):
    scale_gradient(monkeypatch, 1 + 1e-3)
    assert cli.main(["demo", "array_api_strict", "--epochs", str(EPOCHS), "--output", str(tmp_path)]) == 1
    assert "They disagree: array_api_strict" in capsys.readouterr().out
    page = (tmp_path / "xent-any-demo.html").read_text(encoding="utf-8")
    assert '<p class="verdict"><strong>They disagree: array_api_strict' in page


def test_nothing_to_compare(tmp_path, capsys):
    assert cli.main(["demo", "numpy", "--epochs", "1", "--output", str(tmp_path)]) == 2
    assert "nothing to compare" in capsys.readouterr().out


def test_unknown_backend(tmp_path, capsys):
    assert cli.main(["demo", "numpi", "--output", str(tmp_path)]) == 2
    assert "unknown: numpi; known: array_api_strict, " in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sensitivity_in_each_dtype(problem, bound, monkeypatch, dtype):
    reference = train(problem, dtype)
    # The smallest relative error of the gradient that the bound does not take for rounding is between these.
    unseen, seen = {"float64": (1e-14, 1e-11), "float32": (1e-5, 1e-3)}[dtype]
    for error in (unseen, seen):
        with monkeypatch.context() as patch:
            scale_gradient(patch, 1 + error)
            apart = _train.difference(train(problem, dtype, STRICT), reference, bound)
        assert apart.within_bound == (error == unseen)


def test_nan_is_beyond_the_bound(problem, bound):
    run = train(problem, "float64")
    wrong = dataclasses.replace(run, losses=np.full_like(run.losses, np.nan))
    assert not _train.difference(wrong, run, bound).within_bound
    assert _train.difference(run, run, bound) == _train.Difference(0.0, 0.0, 0.0)


def test_the_bound_covers_float32(problem, bound):
    single, double = train(problem, "float32").losses, train(problem, "float64").losses
    # The bound is for two backends, each in error by half of it; beside float32's, float64's errors are nothing.
    assert np.all(np.abs(single - double) <= np.finfo(np.float32).eps / 2 * bound / 2)


def test_the_step_is_a_power_of_two_that_is_short_enough(problem):
    assert np.frexp(problem.step)[0] == 0.5
    for images, _ in problem.batches:
        x = np.column_stack([images, np.ones(len(images))])
        assert problem.step <= 2 / (np.linalg.eigvalsh(x.T @ x / len(x))[-1] / 2)


def test_a_missing_dtype_is_reported():
    class Single(xent_any.Backend):
        def dtypes(self, device):
            return ["float32", "float16"]

        def asarray(self, values, dtype, device):
            return np.asarray(values, dtype="float32" if dtype == "float64" else dtype)

        def to_numpy(self, array):
            return array

    assert _train.obstacle(Single(), "float64", "cpu") == "makes it float32"
    assert _train.obstacle(Single(), "float32", "cpu") is None
    assert _train.obstacle(Single(), "longdouble", "cpu") == "not computed with in full"
    assert "float64" in _train.obstacle(STRICT, "float64", array_api_strict.Device("no_float64"))
