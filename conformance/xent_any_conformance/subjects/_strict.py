"""array-api-strict at its strictest, on each of its devices."""

import array_api_strict

from xent_any_backends.array_api_strict import BACKEND

from . import Subject


def load(name: str) -> Subject:
    array_api_strict.set_array_api_strict_flags(
        api_version="2024.12", boolean_indexing=False, data_dependent_shapes=False
    )
    return Subject(name, BACKEND, array_api_strict.Device(name.partition("-")[2] or "CPU_DEVICE"))
