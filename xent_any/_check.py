"""Where every argument is checked and the problem becomes rows of classes."""

import math
import operator
from collections.abc import Mapping
from numbers import Real
from types import MappingProxyType
from typing import Any, NamedTuple

import array_api_compat

from . import _rows
from ._backend import Backend, Kernel, Task, backend_of
from ._rows import INF, NAN, Array, Options

REDUCTIONS = ("none", "mean", "sum")


def shape_text(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def dtype_text(array: Array) -> str:
    return str(array.dtype).rpartition(".")[2]


def namespace(arrays: Mapping[str, Array]) -> tuple[Any, Backend]:
    """The one library and its backend that all arrays belong to, on one device."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        try:
            found[name] = array_api_compat.array_namespace(array)
        except TypeError:
            raise TypeError(
                f"{name}: expected an array of a library that follows the Array API standard, got {type(array).__name__}"
            ) from None
    first = next(iter(arrays))
    backend = backend_of(type(arrays[first]))
    device = backend.device(arrays[first])
    for name, array in arrays.items():
        if found[name] is not found[first]:
            raise TypeError(
                f"{name}: expected an array of the same library as {first}, "
                f"{_library(found[first])}, got one of {_library(found[name])}"
            )
        other = backend.device(array)
        if device is not None and other is not None and device != other:
            raise ValueError(f"{name}: expected an array on the device of {first}, {device}, got one on {other}")
    return found[first], backend


def _library(xp: Any) -> str:
    return str(xp.__name__).removeprefix("array_api_compat.")


def require_floating(xp: Any, name: str, array: Array) -> None:
    if not xp.isdtype(array.dtype, "real floating"):
        raise TypeError(f"{name}: expected a real floating dtype, got {dtype_text(array)}")


def require_like(name: str, array: Array, shape: tuple[int, ...], of: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape_text(shape)}, {of}, got {shape_text(array.shape)}")


def number(name: str, value: Any, expected: str, low: float, high: float, *, open_low: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    if not ((low < value if open_low else low <= value) and value <= high):
        raise ValueError(f"{name}: expected {expected}, got {value}")
    return float(value)


LARGEST = math.nextafter(INF, 0.0)


def computed_dtype(xp: Any, dtype: Any) -> Any:
    """The precision that `dtype` is computed in: float32 for half precision, otherwise its own."""
    return xp.float32 if xp.finfo(dtype).bits < 32 else dtype


def class_axis(x: Array, axis: int, name: str) -> int:
    """`axis` as a number from 0."""
    try:
        position = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: expected an integer, got {type(axis).__name__}") from None
    if not -x.ndim <= position < x.ndim:
        raise ValueError(f"axis: expected an axis of {name}, whose shape is {shape_text(x.shape)}, got {axis}")
    return position % x.ndim


def classes_last(xp: Any, x: Array, axis: int) -> Array:
    if axis == x.ndim - 1:
        return x
    return xp.permute_dims(x, (*(i for i in range(x.ndim) if i != axis), axis))


def classes_back(xp: Any, x: Array, axis: int) -> Array:
    if axis == x.ndim - 1:
        return x
    order = list(range(x.ndim - 1))
    order.insert(axis, x.ndim - 1)
    return xp.permute_dims(x, tuple(order))


def first_true(xp: Any, backend: Backend, wrong: Array) -> tuple[int, ...] | None:
    """The position of the first true element; None where there is none, or where it cannot be read without waiting."""
    found = xp.any(wrong)
    if not backend.is_readable(found) or not bool(found):
        return None
    flat = xp.reshape(wrong, (-1,))
    count = flat.shape[0]
    offset = int(xp.min(xp.where(flat, backend.arange(xp, flat, count), count)))
    position = []
    for size in reversed(wrong.shape):
        offset, index = divmod(offset, size)
        position.append(index)
    return tuple(reversed(position))


def at(name: str, array: Array, position: tuple[int, ...]) -> str:
    """``name[i, j] is value``"""
    value = array[position]
    index = f"[{', '.join(map(str, position))}]" if position else ""
    return f"{name}{index} is {value.item() if hasattr(value, 'item') else value}"


def checked_weight(xp: Any, backend: Backend, name: str, weight: Array, dtype: Any) -> Array:
    """`weight` in `dtype`; an element that is negative or not finite raises where it can be read, elsewhere it is NaN."""
    if not xp.isdtype(weight.dtype, ("bool", "integral", "real floating")):
        raise TypeError(f"{name}: expected a real dtype, got {dtype_text(weight)}")
    values = xp.astype(weight, dtype, copy=False)
    wrong = ~((values >= 0) & (values < INF))
    position = first_true(xp, backend, wrong)
    if position is not None:
        raise ValueError(f"{name}: expected finite numbers that are not negative, but {at(name, weight, position)}")
    return xp.where(wrong, NAN, values)


def class_indices(
    xp: Any, backend: Backend, labels: Array, count: int, ignore_index: int | None
) -> tuple[Array, Array | None, Array | None]:
    """Index labels in a dtype that holds every class; which of them are ignored and which are no class, if any may be."""
    info = xp.iinfo(labels.dtype)
    y = labels
    default = backend.arange(xp, labels, 1).dtype
    if info.bits <= xp.iinfo(default).bits:  # also unsigned of the same size: what does not fit turns negative, no class
        y = xp.astype(labels, default, copy=False)
    ignored = None
    if ignore_index is not None and info.min <= ignore_index <= info.max:
        width = xp.iinfo(y.dtype)
        ignored = y == (ignore_index if ignore_index <= width.max else ignore_index - 2**width.bits)
    outside = (y < 0) | (y >= count) if count <= xp.iinfo(y.dtype).max else y < 0
    if ignored is not None:
        outside = outside & ~ignored
    position = first_true(xp, backend, outside)
    if position is not None:
        allowed = "" if ignore_index is None else f" or the ignore_index {ignore_index}"
        raise IndexError(
            f"labels: expected class indices in [0, {count}){allowed}, but {at('labels', labels, position)}"
        )
    return y, ignored, outside


class Problem(NamedTuple):
    """Checked arguments, as what the kernels of `xent_any._rows` take."""

    xp: Any
    backend: Backend
    options: Options
    axis: int  # of the classes in the logits as given
    lead: tuple[int, ...]  # the shape of the unreduced loss
    rows: tuple[Array, ...]  # (*lead, C) or (*lead)
    shared: tuple[Array | None, ...]  # (C,)
    scale: Array  # (*lead), sample weight over divisor: 0 where ignored, NaN where the label is wrong
    divisor: Array | None  # (), the sum of the weights if that is what the mean divides by
    reduction: str

    def run(self, kernel: Kernel, results: tuple[Array, ...], *more: Array) -> tuple[Array, ...]:
        """Run a kernel on the rows and `more`; each result has the shape and dtype of one of `results`."""
        task = Task(
            kernel,
            self.xp,
            self.options,
            (*self.rows, *more),
            self.shared,
            self.lead,
            tuple((result, result.dtype) for result in results),
        )
        return self.backend.run(task)

    def reduce(self, losses: Array, over_nothing: float = NAN) -> Array:
        """Reduce the losses of all rows, which are scaled already."""
        if self.reduction == "none":
            return losses
        total = _rows.pairwise_sum(self.xp, self.xp.reshape(losses, (-1,)))
        return total if self.divisor is None else self.xp.where(self.divisor == 0, over_nothing, total)

    def restore(self, x: Array) -> Array:
        """An array like the rows' logits in the shape of the logits as given."""
        return classes_back(self.xp, x, self.axis)


def problem(
    logits: Array,
    labels: Array,
    name: str = "logits",
    vectors: Mapping[str, Array] = MappingProxyType({}),
    *,
    axis: int = -1,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    denominator: float | Array | None = None,
) -> tuple[Problem, tuple[Array, ...]]:
    """Check all arguments; return the problem and the `vectors`, arrays like the logits, with their classes last."""
    divisor = divisor_number(denominator, reduction)
    given = {name: logits, "labels": labels, **vectors, "class_weight": class_weight, "sample_weight": sample_weight}
    if not isinstance(divisor, float):
        given["denominator"] = divisor
    xp, backend = namespace({key: array for key, array in given.items() if array is not None})
    require_floating(xp, name, logits)
    axis = class_axis(logits, axis, name)
    count = logits.shape[axis]
    if count == 0:
        raise ValueError(f"{name}: expected at least one class along axis {axis}, got shape {shape_text(logits.shape)}")
    shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    for key, vector in vectors.items():
        require_like(key, vector, logits.shape, f"that of {name}")
        if vector.dtype != logits.dtype:
            raise TypeError(f"{key}: expected {dtype_text(logits)}, the dtype of {name}, got {dtype_text(vector)}")

    is_index = xp.isdtype(labels.dtype, "integral")
    if is_index:
        require_like("labels", labels, shape, f"that of {name} {shape_text(logits.shape)} without axis {axis}")
    elif xp.isdtype(labels.dtype, "real floating"):
        require_like("labels", labels, logits.shape, f"that of {name}, for class probabilities")
    else:
        raise TypeError(
            "labels: expected an integer dtype (class indices) or a real floating one (class probabilities), "
            f"got {dtype_text(labels)}"
        )
    if ignore_index is not None and (isinstance(ignore_index, bool) or not hasattr(ignore_index, "__index__")):
        raise TypeError(f"ignore_index: expected an integer or None, got {type(ignore_index).__name__}")
    options = Options(
        dtype := computed_dtype(xp, logits.dtype),
        backend.arange,
        number("label_smoothing", label_smoothing, "a number in [0, 1]", 0.0, 1.0),
        number("z_loss", z_loss, "a finite number that is not negative", 0.0, LARGEST),
        None if softcap is None else number("softcap", softcap, "a positive finite number", 0.0, LARGEST, open_low=True),
    )
    if class_weight is not None:
        require_like("class_weight", class_weight, (count,), "one for each class")
        class_weight = checked_weight(xp, backend, "class_weight", class_weight, dtype)
    if sample_weight is not None:
        require_like("sample_weight", sample_weight, shape, "that of the unreduced loss")
        sample_weight = checked_weight(xp, backend, "sample_weight", sample_weight, dtype)

    ignored, wrong = None, None
    if is_index:
        labels, ignored, wrong = class_indices(
            xp, backend, labels, count, None if ignore_index is None else operator.index(ignore_index)
        )
    else:
        labels = classes_last(xp, labels, axis)
    x = classes_last(xp, logits, axis)
    weight = xp.ones_like(x[..., 0], dtype=dtype) if sample_weight is None else sample_weight
    if ignored is not None:
        weight = xp.where(ignored, 0.0, weight)

    total = None
    if not is_index:
        (total,) = backend.run(
            Task(_rows.label_total, xp, options, (labels,), (class_weight,), shape, ((weight, dtype),))
        )
        wrong = xp.isnan(total)
        position = first_true(xp, backend, wrong)
        if position is not None:
            raise ValueError(
                "labels: expected probabilities, finite and not negative, but the row "
                f"{shape_text(position)} has another value"
            )
    elif reduction == "mean" and divisor is None:
        total = xp.where(wrong, 0.0, xp.ones_like(weight))
        if class_weight is not None:
            (total,) = backend.run(
                Task(_rows.label_weight, xp, options, (labels,), (class_weight,), shape, ((weight, dtype),))
            )
    scale, divisor = scaled(xp, backend, weight, total, wrong, reduction, divisor)
    result = Problem(
        xp, backend, options, axis, shape, (x, labels, scale), (class_weight,), scale, divisor, reduction
    )
    return result, tuple(classes_last(xp, vector, axis) for vector in vectors.values())


def binary_problem(
    logits: Array,
    labels: Array,
    *,
    pos_weight: float | Array | None,
    sample_weight: Array | None,
    reduction: str,
    denominator: float | Array | None,
) -> Problem:
    """Check the arguments of binary cross-entropy; the rows are ``(logits, labels, positive weight, scale)``."""
    divisor = divisor_number(denominator, reduction)
    given = {"logits": logits, "labels": labels, "sample_weight": sample_weight}
    positive = pos_weight
    if isinstance(pos_weight, (Real, str)):
        positive = number("pos_weight", pos_weight, "a finite number that is not negative, or an array", 0.0, LARGEST)
    else:
        given["pos_weight"] = pos_weight
    if not isinstance(divisor, float):
        given["denominator"] = divisor
    xp, backend = namespace({key: array for key, array in given.items() if array is not None})
    require_floating(xp, "logits", logits)
    require_like("labels", labels, logits.shape, "that of logits")
    if not xp.isdtype(labels.dtype, ("integral", "real floating")):
        raise TypeError(f"labels: expected a real floating or an integer dtype, got {dtype_text(labels)}")
    dtype = computed_dtype(xp, logits.dtype)
    wrong = ~((labels >= 0) & (labels <= 1))
    position = first_true(xp, backend, wrong)
    if position is not None:
        raise ValueError(f"labels: expected probabilities in [0, 1], but {at('labels', labels, position)}")
    if positive is None or isinstance(positive, float):
        positive = None if positive is None else xp.full_like(logits, positive, dtype=dtype)
    else:
        try:
            whole = xp.broadcast_to(positive, logits.shape)
        except (ValueError, RuntimeError):  # each library has its own
            whole = None
        if whole is None:
            raise ValueError(
                f"pos_weight: expected a shape that broadcasts to that of logits, {shape_text(logits.shape)}, "
                f"got {shape_text(positive.shape)}"
            )
        positive = xp.broadcast_to(checked_weight(xp, backend, "pos_weight", positive, dtype), logits.shape)
    if sample_weight is None:
        weight = xp.ones_like(logits, dtype=dtype)
    else:
        require_like("sample_weight", sample_weight, logits.shape, "that of logits")
        weight = checked_weight(xp, backend, "sample_weight", sample_weight, dtype)
    scale, divisor = scaled(xp, backend, weight, None, wrong, reduction, divisor)
    options = Options(dtype, backend.arange)
    rows = (logits, labels, positive, scale)
    return Problem(xp, backend, options, -1, logits.shape, rows, (), scale, divisor, reduction)


def transform(kernel: Kernel, x: Array, axis: int, *, keeps_axis: bool, keeps_dtype: bool) -> Array:
    """Run a kernel of one array, with its classes along `axis`."""
    xp, backend = namespace({"x": x})
    require_floating(xp, "x", x)
    axis = class_axis(x, axis, "x")
    if x.shape[axis] == 0:
        raise ValueError(f"x: expected something along axis {axis}, got shape {shape_text(x.shape)}")
    options = Options(computed_dtype(xp, x.dtype), backend.arange)
    rows = classes_last(xp, x, axis)
    like = rows if keeps_axis else rows[..., 0]
    dtype = x.dtype if keeps_dtype else options.dtype
    (result,) = backend.run(Task(kernel, xp, options, (rows,), (), rows.shape[:-1], ((like, dtype),)))
    return classes_back(xp, result, axis) if keeps_axis else result


def divisor_number(denominator: float | Array | None, reduction: str) -> float | Array | None:
    """`denominator`, where it is a number as a float; and `reduction` is checked."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected 'none', 'mean' or 'sum', got {reduction!r}")
    if denominator is None:
        return None
    if reduction != "mean":
        raise ValueError(f"denominator: expected None with reduction {reduction!r}, got {denominator}")
    expected = "a positive finite number or an array of no dimensions"
    if isinstance(denominator, (Real, str)):
        return number("denominator", denominator, expected, 0.0, LARGEST, open_low=True)
    if getattr(denominator, "shape", ()) != ():
        raise ValueError(f"denominator: expected {expected}, got shape {shape_text(denominator.shape)}")
    return denominator


def scaled(
    xp: Any,
    backend: Backend,
    weight: Array,
    total: Array | None,
    wrong: Array | None,
    reduction: str,
    denominator: float | Array | None,
) -> tuple[Array, Array | None]:
    """Each row's weight over the divisor, NaN for a wrong label; and the divisor, if it is the sum of the weights."""
    divisor = None
    if denominator is not None:
        if not isinstance(denominator, float):
            if not xp.isdtype(denominator.dtype, ("integral", "real floating")):
                raise TypeError(f"denominator: expected a real dtype, got {dtype_text(denominator)}")
            value = xp.astype(denominator, weight.dtype, copy=False)
            bad = ~((value > 0) & (value < INF))
            if first_true(xp, backend, bad) is not None:
                raise ValueError(f"denominator: expected a positive finite number, got {at('it', denominator, ())}")
            denominator = xp.where(bad, NAN, value)
        weight = weight / denominator
    elif reduction == "mean":
        counted = weight if total is None else weight * total
        # An ignored row counts for nothing, a wrong label's row too: its NaN is its own.
        counted = xp.where(weight == 0, 0.0, counted)
        if wrong is not None:
            counted = xp.where(wrong, 0.0, counted)
        divisor = _rows.pairwise_sum(xp, xp.reshape(counted, (-1,)))
        weight = xp.where(divisor == 0, 0.0, weight / xp.where(divisor == 0, 1.0, divisor))
    if wrong is not None:
        weight = xp.where(wrong, NAN, weight)
    return weight, divisor
