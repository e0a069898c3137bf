"""What `import xent_any` shows: to people, to editors, and to what finds objects by their name."""

import inspect
import pickle
import pydoc
import types
from typing import get_type_hints

import pytest

import xent_any

FUNCTIONS = {name: f for name in xent_any.__all__ if inspect.isfunction(f := getattr(xent_any, name))}


def test_all_is_what_there_is():
    shown = {name for name, value in vars(xent_any).items() if not isinstance(value, types.ModuleType)}
    assert {name for name in shown if not name.startswith("_")} == {*xent_any.__all__}
    assert xent_any.__all__ == sorted(xent_any.__all__)


@pytest.mark.parametrize("name", sorted({*xent_any.__all__} - {"Reduction"}))  # which is one of typing's
def test_objects_are_found_by_their_name(name):
    value = getattr(xent_any, name)
    assert value.__module__ == "xent_any"
    assert pickle.loads(pickle.dumps(value)) is value


def test_help_begins_with_the_functions():
    text = pydoc.plain(pydoc.render_doc(xent_any))
    assert text.index("cross_entropy ") < text.index("PACKAGE CONTENTS")
    named = [line.split()[0] for line in xent_any.__doc__.splitlines() if "   " in line.strip()]
    assert sorted(named) == sorted(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_visible(name):
    taken = inspect.signature(FUNCTIONS[name]).parameters.values()
    assert not {p.kind for p in taken} & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    assert {*get_type_hints(FUNCTIONS[name])} == {p.name for p in taken} | {"return"}
    shown = pydoc.plain(pydoc.render_doc(FUNCTIONS[name]))
    assert all(p.name in shown for p in taken)


def test_an_option_has_one_default_and_one_type():
    """Wherever it is an option; and `CrossEntropyOptions` and `LinearOptions` are those of their functions."""
    defaults, hints = {}, {}
    for name, function in FUNCTIONS.items():
        taken, found = inspect.signature(function).parameters.values(), get_type_hints(function)
        options = {p.name: p.default for p in taken if p.default is not p.empty}
        for option, default in options.items():
            assert defaults.setdefault(option, default) == default
            assert hints.setdefault(option, found[option]) == found[option]
        if "softcap" in options:
            declared = xent_any.LinearOptions if name.startswith("linear") else xent_any.CrossEntropyOptions
            assert get_type_hints(declared) == {option: found[option] for option in options}
