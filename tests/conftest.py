"""Frameworks that cannot be used here are skipped aloud, with the reason."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when JAX is imported

import pytest

import xent_any

FUNCTIONS = [f for name in xent_any.__all__ if inspect.isfunction(f := getattr(xent_any, name))]
"""The public functions; `xent_any.__all__` has types as well."""
LOSSES = [f for f in FUNCTIONS if "labels" in inspect.signature(f).parameters]


def some(cases, step, offset=0):
    """Every `step`-th case; all of them where ``XENT_ANY_EVERY_CASE`` is set, as the scheduled job sets it."""
    return list(cases)[offset::step] if "XENT_ANY_EVERY_CASE" not in os.environ else list(cases)


def require(name):
    """That backend; the test is skipped where it cannot be used."""
    found = {info.name: info for info in xent_any.backends()}
    if name not in found or not found[name].usable:
        pytest.skip(f"{name}: {found[name].reason if name in found else 'not installed'}")
    return found[name].backend


def install_example(name, tmp_path_factory):
    """A folder in which a package of ``examples`` is installed, to be put on the path."""
    folder = tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source") / name  # a build writes beside what it builds
    shutil.copytree(Path(__file__).parents[1] / "examples" / name, source)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    done = subprocess.run([*install, str(folder), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def pytest_terminal_summary(terminalreporter):
    """Say how many samples of PyTorch's own the tests have compared, each of which has recorded them."""
    reports = terminalreporter.stats.get("passed", [])
    counts = [value for report in reports for name, value in report.user_properties if name == "samples of PyTorch"]
    if counts:
        terminalreporter.write_line(f"{sum(counts)} samples of PyTorch's own compared, in {len(counts)} tests")
