"""Peak extra memory of one call, in a process of its own."""

import ctypes
import gc
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._answers import prepared
from ._problems import Inputs, Problem
from .contestants import Contestant

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measured(contestant: Contestant, problem: Problem, threads: int) -> dict[str, Any]:
    """How much more memory a call needs at its peak than the process had before it; its results are part of that.

    The call before it has imported, compiled and warmed up everything; what that freed is given back to the system
    first. On Linux the kernel's peak is set back and read again; elsewhere it is the peak of the process so far, which
    may be that of the first call. On a GPU it is the peak of PyTorch's allocator.
    """
    inputs = Inputs(problem, 0, threads)
    _ = inputs.truth
    row, call = prepared(contestant, inputs)
    inputs.__dict__.pop("truth", None)
    if call is None:
        return row
    if problem.device != "cpu":
        return row | _on_gpu(call)
    return row | of_call(lambda: call(1))


def of_call(call: Callable[[], Any]) -> dict[str, Any]:
    """How much more memory the process needs at its peak in a call than before it, and what was read."""
    gc.collect()
    _give_back()
    is_reset = _reset_peak()
    before = _resident() if is_reset else _peak_so_far()
    result = call()
    after = _peak() if is_reset else _peak_so_far()
    del result
    return {"peak_bytes": max(0, after - before), "peak_is": "VmHWM" if is_reset else "ru_maxrss"}


def _on_gpu(call: Any) -> dict[str, Any]:
    import torch  # noqa: PLC0415

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call(1)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return {"peak_bytes": peak, "peak_is": "torch.cuda.max_memory_allocated"} if peak else {}


def _give_back() -> None:
    """Memory that was freed, to the system; MLX and the C library keep some."""
    if "mlx.core" in sys.modules:
        sys.modules["mlx.core"].clear_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another C library
        return


def _reset_peak() -> bool:
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{STATUS} has no {name}")
    return int(found[1]) << 10


def _peak_so_far() -> int:
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size << 10
