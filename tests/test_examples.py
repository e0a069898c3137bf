"""The examples agree with the frameworks' own losses, and say so only where they do."""

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import require

import xent_any
from xent_any_conformance import cli

for module in cli.EXTRA["demo"]:
    pytest.importorskip(module)

EXAMPLES = Path(__file__).parents[1] / "examples"


def loaded(name):
    require("torch")
    if name == "training_curves":
        require("jax")
        pytest.importorskip("optax")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "length"), [("one_import", "--steps=10"), ("training_curves", "--epochs=2")])
def test_curves_agree(tmp_path, capsys, name, length):
    figure = tmp_path / "figure.png"
    assert loaded(name).main([length, f"--figure={figure}"]) == 0
    assert "They agree" in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_script_alone():
    require("torch")
    command = [sys.executable, str(EXAMPLES / "language_model.py"), "--steps=1"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("step   1: ")


def smoothed(right, logits, labels, by=1e-4):
    return right(logits, labels, label_smoothing=by)


def steeper(right, logits, labels):
    """AdamW takes the same steps with any multiple of the gradient; its norm shows it."""
    value = right(logits, labels)
    return value + 1e-4 * (value - value.detach())


def not_a_number(right, logits, labels):
    return right(logits, labels) * float("nan")


@pytest.mark.parametrize("wrong", [smoothed, steeper, not_a_number])
def test_a_wrong_loss_of_the_language_model(tmp_path, capsys, monkeypatch, wrong):
    module = loaded("one_import")
    dropin = importlib.import_module("xent_any_backends.torch")
    monkeypatch.setattr(dropin, "cross_entropy", functools.partial(wrong, dropin.cross_entropy))
    assert module.main(["--steps=2", f"--figure={tmp_path / 'figure.png'}"]) == 1
    assert "They disagree" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [functools.partial(smoothed, by=1e-3), not_a_number])
def test_a_wrong_loss_of_the_training_curves(tmp_path, capsys, monkeypatch, wrong):
    module = loaded("training_curves")
    monkeypatch.setattr(xent_any, "cross_entropy", functools.partial(wrong, xent_any.cross_entropy))
    assert module.main(["--epochs=1", f"--figure={tmp_path / 'figure.png'}"]) == 1
    assert "They disagree" in capsys.readouterr().out


def test_the_import_is_there(monkeypatch):
    module = loaded("one_import")
    monkeypatch.setattr(module, "PYTORCHS", "from elsewhere import cross_entropy")
    with pytest.raises(ValueError, match="expected the line 'from elsewhere"):
        module.script(module.OURS)
