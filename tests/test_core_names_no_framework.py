"""The core imports no framework and names none; and the two checks can fail."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import xent_any

CORE = Path(xent_any.__file__).parent
FRAMEWORKS = ("torch", "jax", "jaxlib", "cupy", "mlx", "dask", "tensorflow", "ndonnx", "cubed", "mparray", "sparse")

# NumPy is a framework as well. Importing the core, and calling it with an array that is none of those, needs none.
SCRIPT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {frameworks}:
            raise RuntimeError("the core imported " + name)

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {path!r})
import xent_any
import xent_any._formulas, xent_any._arguments, xent_any._problem, xent_any._backend, xent_any._functions
try:
    xent_any.cross_entropy([1.0], 0)
except TypeError:
    print("imported")
"""


def imports(core):
    script = SCRIPT.format(frameworks=(*FRAMEWORKS, "numpy", "array_api_strict"), path=str(core.parent))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def named(core):
    """Lines of code, docstrings' examples apart, with the name of a framework."""
    words = re.compile(rf"\b({'|'.join(FRAMEWORKS)}|is_\w+_(array|namespace))\b|import numpy|\bnp\.", re.IGNORECASE)
    found = []
    for path in sorted(core.glob("**/*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if words.search(line) and not line.lstrip().startswith((">>>", "...")):
                found.append(f"{path.name}:{number}: {line.strip()}")
    return found


def test_the_core_imports_no_framework():
    result = imports(CORE)
    assert result.stdout.strip() == "imported", result.stderr


def test_the_core_names_no_framework():
    assert named(CORE) == []


@pytest.mark.parametrize(
    "code",
    [
        "import torch",
        "from jax import numpy",
        "import numpy as np",
        "import importlib; importlib.import_module('mlx.core')",
    ],
)
def test_the_import_check_can_fail(tmp_path, code):
    core = tmp_path / "xent_any"
    core.mkdir()
    for path in CORE.glob("*.py"):
        (core / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    assert imports(core).stdout.strip() == "imported"
    (core / "_formulas.py").write_text(
        (CORE / "_formulas.py").read_text(encoding="utf-8") + "\n" + code, encoding="utf-8"
    )
    result = imports(core)
    assert result.returncode != 0
    assert "the core imported" in result.stderr


@pytest.mark.parametrize("code", ["if is_torch_array(x): pass", "x = np.exp(x)", "# as JAX does it"])
def test_the_name_check_can_fail(tmp_path, code):
    (tmp_path / "module.py").write_text(textwrap.dedent(code), encoding="utf-8")
    assert len(named(tmp_path)) == 1
