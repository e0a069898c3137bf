"""The command ``xent-any``."""

import argparse
import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import xent_any

EXTRA = ("matplotlib", "numpy", "rich", "scipy", "sklearn")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``xent-any``.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the command's name; by default those of this process.

    Returns
    -------
    int
        The exit status: 0 for success, 1 where the backends of the demonstration disagree, 2 where it cannot be run.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="xent-any", description=xent_any.__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {xent_any.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("backends", help="list the array libraries, and why one cannot be used here")
    demo = commands.add_parser("demo", help="train the same model on every backend, compare, and write a page about it")
    demo.add_argument("names", nargs="*", metavar="BACKEND", help="compare only these with NumPy (default: all usable)")
    demo.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="where the page goes (default: here)")
    demo.add_argument("--epochs", type=_positive, default=60, help="passes over the data (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.command == "backends":
        sys.stdout.write(_table())
        return 0
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(f"xent-any demo needs {', '.join(missing)}: pip install 'xent-any[demo]'\n")
        return 2
    # JAX reads these when it is imported: without them it has no float64, and multiplies matrices in TF32 on a GPU.
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    from .demo import run  # noqa: PLC0415  (it needs the extra)

    return run(options.names, options.output, options.epochs, shlex.join(["xent-any", *arguments]))


def device_text(device: object) -> str:
    """The device's name alone, where `str` gives code that makes it."""
    _, quote, rest = str(device).partition("'")
    return rest.partition("'")[0] if quote else str(device)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return int(text)


def _table() -> str:
    rows = [("backend", "version", "devices", "status")]
    for info in xent_any.backends():
        rows.append(
            (info.name, info.version or "-", ", ".join(map(device_text, info.devices)) or "-", info.reason or "usable")
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"
