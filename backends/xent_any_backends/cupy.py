"""CuPy."""

from collections.abc import Sequence
from typing import Any

import cupy

from xent_any import Backend


class CuPy(Backend):
    name = "cupy"
    version = cupy.__version__
    block_bytes = 1 << 26

    def namespace(self) -> Any:
        return cupy

    def devices(self) -> Sequence[Any]:
        return [cupy.cuda.Device(i) for i in range(cupy.cuda.runtime.getDeviceCount())]

    def dtypes(self, device: Any) -> Sequence[str]:
        return ["float32", "float64", "float16"]

    def asarray(self, values: Any, dtype: str, device: Any) -> Any:
        with device:
            return cupy.asarray(values, dtype=dtype)

    def to_numpy(self, array: Any) -> Any:
        return cupy.asnumpy(array)


BACKEND = CuPy()
