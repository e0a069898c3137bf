"""PyTorch."""

from ._backend import BACKEND as BACKEND
