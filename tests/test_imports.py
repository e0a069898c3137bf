"""Imports run one way, tools -> conformance -> backends -> core, and never in a circle; and the checks can fail."""

import ast
import graphlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "xent_any": "xent_any",
    "xent_any_backends": "backends/xent_any_backends",
    "xent_any_conformance": "conformance/xent_any_conformance",
    "xent_any_tools": "tools/xent_any_tools",
}
"""Each import package and its folder; a package imports those before it, and itself."""


def modules(package, folder):
    """The text of each module of a package, by its full name; that of a package's own module ends in ``__init__``."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        found[".".join((package, *path.relative_to(folder).with_suffix("").parts))] = path.read_text(encoding="utf-8")
    return found


def imported(text, module):
    """The full names that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [module.rsplit(".", node.level)[0]] if node.level else []
            yield from (".".join((*base, *filter(None, [node.module]), alias.name)) for alias in node.names)


def quoted(text):
    """The words of a module's strings, but for docstrings: modules are also imported, or run, by name."""
    tree = ast.parse(text)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from node.value.split()


def wrong_way(package, texts):
    """The modules of a package that import a later package, each with what it imports."""
    later = list(PACKAGES)[list(PACKAGES).index(package) + 1 :]
    names = [(module, name) for module, text in texts.items() for name in (*imported(text, module), *quoted(text))]
    return [(module, name) for module, name in names if name.partition(".")[0] in later]


def require_no_circle(texts):
    """Raise graphlib.CycleError where a module imports one that imports it, at once or when a function is called."""

    def module_of(name):
        """The module that is, or that holds, what has this full name; None where that is not one of `texts`."""
        while name:
            for module in (name, f"{name}.__init__"):
                if module in texts:
                    return module
            name = name.rpartition(".")[0]
        return None

    found = {module: {*map(module_of, imported(text, module))} - {None, module} for module, text in texts.items()}
    graphlib.TopologicalSorter(found).prepare()


def test_these_are_the_packages_of_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package):
    texts = modules(package, ROOT / PACKAGES[package])
    assert f"{package}.__init__" in texts
    assert wrong_way(package, texts) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_through_others(package):
    require_no_circle(modules(package, ROOT / PACKAGES[package]))


@pytest.mark.parametrize(
    "text",
    [
        "import xent_any_tools",
        "from xent_any_tools.bench import _clock",
        "def run():\n    from xent_any_tools import cli",
        "import importlib\nimportlib.import_module('xent_any_tools.demo')",
        "command = ['-c', 'import xent_any_tools.cli']",
    ],
)
def test_an_import_in_the_wrong_way_is_found(text):
    for package in ("xent_any", "xent_any_backends", "xent_any_conformance"):
        assert len(wrong_way(package, {f"{package}.module": text})) == 1
    assert wrong_way("xent_any_tools", {"xent_any_tools.module": text}) == []


def test_a_docstring_may_name_any_package():
    assert wrong_way("xent_any", {"xent_any.module": '"""As `xent_any_tools.cli` does."""\n'}) == []


@pytest.mark.parametrize(
    "text", ["from ..cli import main", "from .. import cli", "def run():\n    import xent_any_tools.cli"]
)
def test_a_circle_is_found(text):
    texts = {"xent_any_tools.cli": "from .demo import run", "xent_any_tools.demo.__init__": text}
    with pytest.raises(graphlib.CycleError):
        require_no_circle(texts)


def test_the_architecture_names_what_there_is():
    """Every `_module.name` of docs/architecture.md is defined in the core, and every family.topic is of some check."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(_[a-z]+)\.([A-Za-z_]+)`", page)
    missing = [name for module, name in named if name != "py" and name not in defined(ROOT / f"xent_any/{module}.py")]
    checks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "conformance").rglob("checks/*.py"))
    ids = re.findall(r"`((?:contract|gradient|values|transforms)\.[a-z-]+)`", page)
    missing += [id_ for id_ in ids if f'"{id_}' not in checks]
    assert min(len(named), len(ids)) > 5
    assert not missing


def defined(path):
    """The names of a module's functions and classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
