"""CuPy."""

from . import Subject, UnusableError


def load(name: str) -> Subject:
    try:
        from xent_any_backends.cupy import BACKEND  # noqa: PLC0415  (it may fail)

        device = BACKEND.devices()[0]
        float(BACKEND.asarray([1.0], "float32", device)[0])
    except Exception as error:
        raise UnusableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return Subject(name, BACKEND, device)
