"""The README's examples run, each in a namespace of its own; one whose library is missing is skipped aloud."""

import ast
import doctest
import re
from pathlib import Path

import mpmath
import pytest
from conftest import require

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^### (.*?)$.*?^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_there_are_examples():
    assert [title for title, _ in BLOCKS] == ["NumPy", "PyTorch", "JAX", "CuPy", "Another library"]


@pytest.mark.parametrize(("title", "block"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_example(title, block):
    test = doctest.DocTestParser().get_doctest(block, {}, title, "README.md", 0)
    tree = ast.parse("".join(example.source for example in test.examples))
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.Import) else []:
            pytest.importorskip(alias.name)
    if title == "CuPy":
        require("cupy")
    with mpmath.workdps(15):
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.attempted > 0
    assert result.failed == 0
