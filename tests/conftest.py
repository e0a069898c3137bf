"""Frameworks that cannot be used here are skipped aloud, with the reason."""

import os

os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when JAX is imported

import pytest

import xent_any


def require(name):
    """Skip the test where that backend cannot be used."""
    found = {info.name: info for info in xent_any.backends()}
    if name not in found or not found[name].usable:
        pytest.skip(f"{name}: {found[name].reason if name in found else 'not installed'}")
