"""array-api-strict at its strictest, on each of its devices."""

import array_api_strict

from xent_any_backends.array_api_strict import BACKEND

from . import Subject, UnusableError


def load(name: str) -> Subject:
    array_api_strict.set_array_api_strict_flags(
        api_version="2024.12", boolean_indexing=False, data_dependent_shapes=False
    )
    try:
        device = array_api_strict.Device(name.partition("-")[2] or "CPU_DEVICE")
    except ValueError as error:  # before 2.6
        raise UnusableError(f"array-api-strict {BACKEND.version}: {error}") from error
    return Subject(name, BACKEND, device)
