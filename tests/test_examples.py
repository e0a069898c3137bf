"""The examples agree with the frameworks' own losses, and say so only where they do."""

import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import require

import xent_any
from xent_any_tools import cli

for module in cli.EXTRA["demo"]:
    pytest.importorskip(module)

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))  # as for a script: they import each other, in fresh processes as well


def loaded(name):
    require("torch")
    if name == "training_curves":
        require("jax")
        pytest.importorskip("optax")
    return importlib.import_module(name)


@pytest.mark.parametrize(("name", "length"), [("one_import", "--steps=10"), ("training_curves", "--epochs=2")])
def test_curves_agree(tmp_path, capsys, name, length):
    figure = tmp_path / "figure.png"
    assert loaded(name).main([length, f"--figure={figure}"]) == 0
    assert "They agree" in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_word_model(tmp_path, capsys):
    figure = tmp_path / "figure.png"
    assert loaded("word_model").main(["--steps=1", "--rows=1024", f"--figure={figure}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "They agree" in printed
    assert int(re.search(r"That is (\d+) %", printed)[1]) < 60
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_script_alone():
    require("torch")
    command = [sys.executable, str(EXAMPLES / "language_model.py"), "--steps=1"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("step   1: ")


def smoothed(right, *arguments, by=1e-4, **options):
    return right(*arguments, label_smoothing=by, **options)


def steeper(right, logits, labels):
    """AdamW takes the same steps with any multiple of the gradient; its norm shows it."""
    value = right(logits, labels)
    return value + 1e-4 * (value - value.detach())


def not_a_number(right, *arguments, **options):
    return right(*arguments, **options) * float("nan")


@pytest.mark.parametrize("wrong", [smoothed, steeper, not_a_number])
def test_a_wrong_loss_of_the_language_model(tmp_path, capsys, monkeypatch, wrong):
    module = loaded("one_import")
    dropin = importlib.import_module("xent_any_backends.torch")
    monkeypatch.setattr(dropin, "cross_entropy", functools.partial(wrong, dropin.cross_entropy))
    assert module.main(["--steps=2", f"--figure={tmp_path / 'figure.png'}"]) == 1
    assert "They disagree" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [smoothed])
def test_a_wrong_loss_of_the_word_model(tmp_path, capsys, monkeypatch, wrong):
    module = loaded("word_model")
    monkeypatch.setattr(module, "linear_cross_entropy", functools.partial(wrong, module.linear_cross_entropy))
    assert module.compared(1, tmp_path / "figure.png") == 1
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
