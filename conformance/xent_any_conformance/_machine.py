"""Where a run is made."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any


def commit() -> str:
    """The commit of the code that runs, with ``-dirty`` after it where files of it have been changed; "" if unknown."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def cpus() -> list[int]:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cache_bytes() -> int:
    """The size of the largest cache of the CPU; 32 MiB where it cannot be read."""
    sizes = [_size(path) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(sizes, default=1 << 25)


def _size(path: Path) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMG]?)\s*", path.read_text(encoding="ascii")).groups()  # type: ignore[union-attr]  # the kernel's format
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit]


def memory_bytes() -> int | None:
    """The memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def processor() -> str:
    """The CPU's name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def instructions() -> str:
    """The widest vector instructions that the CPU has."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return ""
    known = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
    return next((name for flag, name in known.items() if flag in flags), "")


def device_text(device: object) -> str:
    """The device's name alone, where `str` gives code that makes it."""
    _, quote, rest = str(device).partition("'")
    return rest.partition("'")[0] if quote else str(device)


def facts() -> dict[str, Any]:
    """What a record says about the machine."""
    return {
        "processor": processor(),
        "instructions": instructions(),
        "cpus": len(cpus()),
        "cache_bytes": cache_bytes(),
        "memory_bytes": memory_bytes(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
    }
