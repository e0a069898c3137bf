"""Which adapter an array belongs to, and which frameworks can be used here."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ._backend import Backend

GROUP = "xent_any.backends"

GENERIC = Backend()
"""The adapter of every library that has none."""


def _importer(entry: EntryPoint) -> Callable[[], Backend]:
    """What imports an adapter: by an import statement, which compilers that trace Python can follow."""
    scope: dict[str, Any] = {}
    try:
        exec(f"def load():\n    import {entry.module} as module\n    return module.{entry.attr}", scope)
    except (AttributeError, SyntaxError):  # not of the form module:attribute; whoever needs it is told so
        return entry.load
    load: Callable[[], Backend] = scope["load"]
    return load


_ENTRIES = {entry.name: entry for entry in entry_points(group=GROUP)}
_IMPORTERS = {name: _importer(entry) for name, entry in _ENTRIES.items()}


def backend_of(cls: type) -> Backend:
    """The adapter for arrays of type `cls`, found by the top-level module of it and of its base classes."""
    for base in cls.__mro__:
        load = _IMPORTERS.get(base.__module__.partition(".")[0])
        if load is not None:
            return load()
    return GENERIC


@dataclass(frozen=True)
class BackendInfo:
    """One framework as `backends` found it.

    Attributes
    ----------
    name : str
        The framework's name.
    version : str or None
        Its version; None where it is not installed.
    devices : tuple of str
        The devices that arrays can be made on.
    reason : str or None
        Why it cannot be used; None where it can.
    backend : Backend or None
        Its adapter; None where it could not be loaded.
    """

    name: str
    version: str | None
    devices: tuple[str, ...]
    reason: str | None
    backend: Backend | None

    @property
    def usable(self) -> bool:
        """Whether arrays can be made and computed with here."""
        return self.reason is None


def backends() -> list[BackendInfo]:
    """Every framework that an adapter is installed for, whether it can be used here, and if not, why.

    Importing a framework may take seconds. Any other array library that follows the standard works as well; it
    needs no adapter and is not listed.

    Returns
    -------
    list of BackendInfo
        Sorted by name, one for each framework.

    Examples
    --------
    >>> import xent_any
    >>> [info.usable for info in xent_any.backends() if info.name == "numpy"]
    [True]
    """
    found: dict[str, BackendInfo] = {}
    for entry in _ENTRIES.values():
        if entry.value not in found:  # two modules may belong to one framework
            found[entry.value] = _probe(entry)
    return sorted(found.values(), key=lambda info: info.name)


def _probe(entry: EntryPoint) -> BackendInfo:
    try:
        backend: Backend = entry.load()
    except ImportError as error:
        reason = "not installed" if isinstance(error, ModuleNotFoundError) else "cannot be imported"
        return BackendInfo(entry.name, None, (), f"{reason} ({error})", None)
    try:
        devices = tuple(str(device) for device in backend.devices())
        # Importing proves little: a GPU library imports where there is no GPU. Only allocating and computing does.
        values = backend.asarray([1.0, 2.0], "float32", backend.devices()[0])
        float(values[0] + values[1])
    except Exception as error:  # noqa: BLE001  (each framework raises its own)
        return BackendInfo(
            backend.name, backend.version, (), f"{type(error).__name__}: {error}".splitlines()[0], backend
        )
    return BackendInfo(backend.name, backend.version, devices, None, backend)
