"""ndonnx: with values at hand, and as a model that onnxruntime runs."""

from . import Subject
from ._namespace import Namespace


def load(name: str) -> Subject:
    import ndonnx  # noqa: PLC0415

    class NDONNX(Namespace):
        def to_numpy(self, array):
            return array.unwrap_numpy()

    record = NDONNX(ndonnx)
    return Subject(name, record, record.devices()[0])
