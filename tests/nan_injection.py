"""NaN in place of what each comparison of the conformance kit measures: the check must then fail.

``python tests/nan_injection.py [SUBJECT]`` runs the kit, and every check once more for each place in it that compares
numbers, with that place given NaN, or numbers where NaN is expected. The exit status is 1 where one is taken for right.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from xent_any_conformance import run
from xent_any_conformance.compare import measured

SEEN = pytest.StashKey[dict[tuple[str, ...], str]]()


def pytest_configure(config):
    config.stash[SEEN] = {}


def place(function):
    """Where a comparison is made: the lines of the kit that led to it, from the check's own function on."""
    frames, frame = [], sys._getframe(2)
    while frame is not None:
        name = Path(frame.f_code.co_filename)
        if "xent_any_conformance" in name.parts and name.name != "compare.py":
            frames.append(f"{name.name}:{frame.f_lineno}")
        if frame.f_code is function.__code__:
            break
        frame = frame.f_back
    return tuple(frames)


def wrong(found, expected):
    """NaN for each number, and a number where NaN is expected."""
    found, expected = np.asarray(found), np.asarray(expected, float)
    return np.where(np.isnan(np.broadcast_to(expected, found.shape)), 0.0, np.nan)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    seen, function = pyfuncitem.config.stash[SEEN], pyfuncitem.function
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    places = {}

    def noted(found, expected=0.0):
        if np.size(found):
            places.setdefault(place(function), None)
        return measured(found, expected)

    def again(target):
        """Whether the check fails with numbers that are wrong in one place."""

        def injected(found, expected=0.0):
            right = place(function) != target or not np.size(found)
            return measured(found, expected) if right else wrong(found, expected)

        replace(injected)
        function.__globals__.get("RESULTS", {}).clear()  # what was found right before
        if "rng" in arguments:
            arguments["rng"] = np.random.default_rng(20240229)
        try:
            function(**arguments)
        except (AssertionError, pytest.fail.Exception):
            return True
        return False

    replace(noted)
    try:
        result = yield
        for target in [target for target in places if target not in seen]:
            seen[target] = pyfuncitem.nodeid
            if not again(target):
                raise AssertionError(f"wrong numbers are taken for right at {' from '.join(target)}")
    finally:
        replace(measured)
    return result


def replace(function):
    """Put a function in the place of `measured`, wherever it was imported."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("xent_any_conformance") and hasattr(module, "measured"):
            module.measured = function


def pytest_terminal_summary(terminalreporter, config):
    seen = config.stash[SEEN]
    terminalreporter.write_line(
        f"{len(seen)} comparisons, in {len({target[0] for target in seen})} lines, were given NaN"
    )


def main(subject="numpy", *arguments):
    """Run the kit with this module as a plugin."""
    with tempfile.TemporaryDirectory() as folder:
        worker = run.Worker(subject, Path(folder), False, "")
        environment = worker.environment | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        command = [*worker.command, "-p", "nan_injection", "-q", *arguments]
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
