"""What continuous integration runs, and a person can: ``nox -s NAME``; ``nox --list`` names them.

Versions are those of ``constraints.txt``, but for the sessions that are about others.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "docs", "tests", "wheel"]

ROOT = Path(__file__).parent
CONSTRAINED = ("--constraint", str(ROOT / "constraints.txt"))
IMPORTED = (
    "xent_any",
    "backends/xent_any_backends",
    "conformance/xent_any_conformance",
    "tools/xent_any_tools",
)
LIBRARIES = {
    "numpy": [],
    "torch": [".[torch]"],
    "jax": [".[jax]"],
    "array_api_strict": [".[strict]"],
    "dask": ["dask[array]"],
    "mlx": ["mlx[cpu]"],
    "ndonnx": ["ndonnx", "onnxruntime"],
    "mparray": ["mparray"],
    "toyarray": ["./examples/toyarray"],
    "toygrad": ["./examples/toygrad"],
}
"""What the kit needs, beside its own extra, to certify a library."""
PEERS = ("torch", "optax", "scipy", "sklearn")
# The first NumPy that the library takes; on newer Pythons the first that has a wheel.
OLDEST_NUMPY = {(3, 14): "2.3.2"}.get(sys.version_info[:2], "2.1.0")
# A caller's setup that would break any pytest run which read it.
HOSTILE = {
    "conftest.py": "raise RuntimeError('this conftest must not be read')\n",
    "pytest.ini": "[pytest]\naddopts = --no-such-option\n",
    "numpy.py": "raise RuntimeError('this module must not be imported')\n",
}


@nox.session
def tests(session: nox.Session) -> None:
    """All tests; arguments go to pytest."""
    session.install(*CONSTRAINED, "--editable", ".[test,torch,jax]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def every(session: nox.Session) -> None:
    """All tests, and all cases of those of which some are tried elsewhere, as all broken implementations."""
    session.install(*CONSTRAINED, "--editable", ".[test,torch,jax]")
    session.run("python", "-m", "pytest", *session.posargs, env={"XENT_ANY_EVERY_CASE": "1"})


@nox.session
def conformance(session: nox.Session) -> None:
    """The kit on the libraries named first, or on all; other arguments go to ``xent-any conformance``."""
    names = [argument for argument in session.posargs if argument.partition("-")[0] in LIBRARIES]
    wanted = {name.partition("-")[0] for name in names} or LIBRARIES.keys() - {"toyarray"}
    session.install(*CONSTRAINED, ".[conformance]", *(need for name in sorted(wanted) for need in LIBRARIES[name]))
    session.run("xent-any", "conformance", *session.posargs)


@nox.session
@nox.parametrize("version", ["oldest", "newest"], ids=["oldest", "newest"])
def numpy(session: nox.Session, version: str) -> None:
    """The kit on the oldest NumPy that is supported and on the newest that is released."""
    wanted = f"numpy=={OLDEST_NUMPY}" if version == "oldest" else "numpy"
    session.install("--upgrade", ".[conformance]", wanted)
    session.run("xent-any", "conformance", "numpy", *session.posargs)


@nox.session
def guard(session: nox.Session) -> None:
    """The counts of calls, operators, kernels and bytes, compared with the record."""
    session.install(*CONSTRAINED, ".[bench,torch,jax]")
    session.run("xent-any", "bench", "--guard", "benchmarks/records/guard.json")


@nox.session
def peers(session: nox.Session) -> None:
    """What other libraries' own functions make of the truth tables; they need not pass, but must be there."""
    session.install(*CONSTRAINED, ".[conformance,torch,jax]", "optax", "scipy", "scikit-learn")
    session.run("xent-any", "conformance", *(f"peer-{name}" for name in PEERS), *session.posargs)


@nox.session
def gradients(session: nox.Session) -> None:
    """The derivatives of every combination of options against differences, on PyTorch and JAX."""
    session.install(*CONSTRAINED, "--editable", ".[test,torch,jax]")
    session.run("python", "tests/gradients.py", "torch", "jax", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """The kit on mutants of the core: how many, and the seed that they are drawn by, are the arguments."""
    count, seed = session.posargs or ("40", "0")
    session.install(*CONSTRAINED, "--editable", ".[conformance,torch]", "./examples/toyarray", "cosmic-ray")
    database = str(Path(session.create_tmp()) / "session.sqlite")
    Path(database).unlink(missing_ok=True)
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["XENT_ANY_TRUTHS"] = session.create_tmp()
    session.run("cosmic-ray", "init", "tests/mutation.toml", database)
    session.run("cr-filter-operators", database, "tests/mutation.toml")
    session.run("python", "tests/mutation.py", "--sample", count, "--seed", seed, database)
    session.run("cosmic-ray", "baseline", "tests/mutation.toml", env=environment)
    session.run("cosmic-ray", "exec", "tests/mutation.toml", database, env=environment)
    session.run("python", "tests/mutation.py", "--check", database)


@nox.session
@nox.parametrize(
    "library", ["array_api_strict", "jax", "mlx", "torch"], ids=["array_api_strict", "jax", "mlx", "torch"]
)
def floors(session: nox.Session, library: str) -> None:
    """The kit's quick run on the lowest versions that are declared, of this library and of what it needs; Python 3.11.

    They are read from ``pyproject.toml``. What nothing there bounds, like the kit's own tools, is as released.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]["strict" if library == "array_api_strict" else library]
    lowest = [
        f"{name}=={version}"
        for name, version in re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join([*project["dependencies"], *extra]), re.M)
    ]
    if not any(need.startswith("numpy==") for need in lowest):
        lowest.append(f"numpy=={OLDEST_NUMPY}")
    session.install(".[conformance]", *lowest, *(["mlx[cpu]"] if library == "mlx" else []))
    session.run("xent-any", "conformance", library, "--quick", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """The kit on CuPy, PyTorch and JAX, on a machine with an NVIDIA GPU and a driver for CUDA 13."""
    session.install(*CONSTRAINED, ".[conformance,torch,cupy-cuda13x]", "cupy-cuda13x[ctk]", "jax[cuda13]")
    session.run("xent-any", "conformance", "cupy", "torch-cuda", "jax-cuda", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """The linter, the formatter and the budgets of lines."""
    session.install(*CONSTRAINED, "--editable", ".", "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("python", "tests/budgets.py")


@nox.session
def types(session: nox.Session) -> None:
    """The type checker, with the libraries that the adapters import; and a second one on calls as users write them."""
    session.install(*CONSTRAINED, "--editable", ".[test,torch,jax,lint]", "pyright")
    session.run("mypy")
    session.run("mypy", "tests/typing_uses.py")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """The examples in the documentation and in the docstrings."""
    session.install(*CONSTRAINED, "--editable", ".[test,torch,jax]")
    session.run("python", "-m", "pytest", "docs", "xent_any", "tests/test_readme.py", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the source distribution and from it the wheel: the latter holds the tracked files, and nothing else."""
    source, built = _build(session)
    with tarfile.open(source) as archive:
        top = source.name.removesuffix(".tar.gz")
        names = {name.removeprefix(f"{top}/") for name in archive.getnames()} - {top, "PKG-INFO"}
    _require_none(session, source, "also holds", names - _tracked())
    with zipfile.ZipFile(built) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {str(Path(name).relative_to(Path(folder).parent)) for folder in IMPORTED for name in _tracked(folder)}
    _require_none(session, built, "lacks", expected - names)
    _require_none(session, built, "also holds", names - expected)
    session.log(f"{built.name}: {len(names)} files, as tracked")


@nox.session
def downstream(session: nox.Session) -> None:
    """Install the wheel and run the kit as a stranger does: elsewhere, beside files that break any run of pytest."""
    _, built = _build(session)
    session.install(*CONSTRAINED, f"{built}[conformance]", "./examples/toyarray")
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        # By default pytest looks for its configuration above the installed files as well: above .nox that is ours.
        Path("empty.ini").write_text("[pytest]\n", encoding="utf-8")
        kit = ["-p", "xent_any_conformance.plugin", "--pyargs", "xent_any_conformance", "--subject", "numpy", "--quick"]
        session.run("python", "-m", "pytest", "-c", "empty.ini", *kit)
        for name, text in HOSTILE.items():
            Path(name).write_text(text, encoding="utf-8")
        session.run("xent-any", "conformance", "numpy", "toyarray", "--quick", *session.posargs)


def _build(session: nox.Session) -> tuple[Path, Path]:
    session.install("build")
    folder = Path(session.create_tmp())
    for old in folder.glob("xent_any-*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(folder), str(ROOT), silent=True)
    (source,), (built,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, built


def _require_none(session: nox.Session, file: Path, verb: str, names: set[str]) -> None:
    if names:
        session.error(f"{file.name} {verb} {', '.join(sorted(names))}")


def _tracked(folder: str = ".") -> set[str]:
    command = ["git", "ls-files", "-z", folder]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return set(output.split("\0")) - {""}
