"""The backends that every test runs on: all that can be used here. The others are skipped aloud, with the reason."""

import os

os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when JAX is imported; tests without it use a context

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import xent_any

FOUND = {info.name: info for info in xent_any.backends()}
KNOWN = sorted({"numpy", "torch", "jax", "cupy", "array_api_strict"} | set(FOUND))


@dataclass(frozen=True)
class Library:
    """A backend, its namespace, and conversion to and from NumPy."""

    name: str
    backend: xent_any.Backend
    device: Any

    @property
    def xp(self):
        return self.backend.namespace()

    def __call__(self, values, dtype=None):
        values = np.array(values, dtype=dtype, order="C")
        return self.backend.asarray(values, values.dtype.name, self.device)

    def numpy(self, array):
        return np.asarray(self.backend.to_numpy(array))


def library(name):
    if name not in FOUND or not FOUND[name].usable:
        pytest.skip(f"{name}: {FOUND[name].reason if name in FOUND else 'not installed'}")
    backend = FOUND[name].backend
    return Library(name, backend, backend.devices()[0])


@pytest.fixture(params=KNOWN)
def lib(request):
    return library(request.param)


@pytest.fixture(params=["array_api_strict", "jax", "numpy", "torch"])
def exact(request):
    """The backends whose accuracy is promised on the CPU."""
    return library(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)
