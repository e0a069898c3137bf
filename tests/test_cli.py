"""The command ``xent-any``, but for what the demonstration shows."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import xent_any
from xent_any import _registry
from xent_any_conformance import _machine
from xent_any_tools import cli

RUN = "import sys; from xent_any_tools.cli import main; sys.exit(main(sys.argv[1:]))"


class WithoutDevice(xent_any.Backend):
    name = "without_device"
    version = "1.0"

    def devices(self):
        raise RuntimeError("no device\nand a second line")


WITHOUT_DEVICE = WithoutDevice()


def status_of(output, name):
    """The last column, which begins below its heading."""
    heading, *lines = output.splitlines()
    (line,) = (line for line in lines if line.split()[0] == name)
    return line[heading.index("status") :]


def test_backends_lists_numpy_as_usable(capsys):
    assert cli.main(["backends"]) == 0
    assert status_of(capsys.readouterr().out, "numpy") == "usable"


def test_backends_says_why_one_is_not_usable(capsys, monkeypatch):
    entries = {
        "without_device": EntryPoint("without_device", f"{__name__}:WITHOUT_DEVICE", _registry.GROUP),
        "missing": EntryPoint("missing", "module_that_is_not_there:BACKEND", _registry.GROUP),
    }
    monkeypatch.setattr(_registry, "_ENTRIES", entries)
    assert cli.main(["backends"]) == 0
    output = capsys.readouterr().out
    assert status_of(output, "without_device") == "RuntimeError: no device"
    assert status_of(output, "missing").startswith("not installed (")


@pytest.mark.parametrize("value", ["module_alone", "not a module:BACKEND", "module:class"])
def test_a_malformed_entry_point_fails_where_it_is_needed(value):
    load = _registry._importer(EntryPoint("malformed", value, _registry.GROUP))
    with pytest.raises((AttributeError, ImportError)):
        load()


def test_backends_needs_nothing_that_the_demonstration_needs():
    blocked = f"import sys; sys.modules.update(dict.fromkeys({(*sum(cli.EXTRA.values(), ()), 'torch', 'jax', 'cupy')}))"
    run = subprocess.run(
        [sys.executable, "-c", f"{blocked}\n{RUN}", "backends"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    for name in ("numpy", "torch", "jax", "cupy"):
        # The adapter asks for NumPy, with which it computes, before it asks for PyTorch.
        assert status_of(run.stdout, name).startswith("cannot be imported (" if name == "torch" else "not installed (")


@pytest.mark.parametrize("command", ["demo", "conformance", "bench"])
def test_a_command_without_its_extra(capsys, monkeypatch, command):
    monkeypatch.setitem(cli.EXTRA, command, ("module_that_is_not_there",))
    assert cli.main([command]) == 2
    error = capsys.readouterr().err
    assert error == f"xent-any {command} needs module_that_is_not_there: pip install 'xent-any[{command}]'\n"


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["demo", "--epochs", "0"], ["demo", "--epochs", "many"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "xent-any" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "text"), [("cpu", "cpu"), ("array_api_strict.Device('CPU_DEVICE')", "CPU_DEVICE"), ("cuda:0", "cuda:0")]
)
def test_device_text(device, text):
    assert _machine.device_text(device) == text
