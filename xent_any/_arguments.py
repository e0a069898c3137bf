"""Checks of one argument or a few: each raises an error that names the argument and the way out.

What cannot be read without waiting raises nothing: it is NaN in what is computed with.
"""

import math
import operator
from collections.abc import Mapping
from contextlib import suppress
from numbers import Real
from typing import Any, NamedTuple

from ._backend import Backend, RefusedError
from ._errors import dtype_text, invalid, shape_text
from ._formulas import INF, NAN, Array, cast, extremes
from ._registry import GENERIC, backend_of

STANDARD = "2024.12"
"""The Array API standard since which functions take Python scalars."""
FLOATING = "real floating"
REAL = ("bool", "integral", FLOATING)
NOT_BROADCAST = "reshape it: nothing is broadcast"
SIZES = "call compute_chunk_sizes() on the arrays whose sizes are not known"
WIDER = "scale them, or cast the logits to a wider dtype"
LARGEST = math.nextafter(INF, 0.0)
SMALLEST = math.nextafter(0.0, INF)
NUMBERS = {
    "label_smoothing": ("a number in [0, 1]", 0.0, 1.0),
    "z_loss": ("a finite number that is not negative", 0.0, LARGEST),
    "softcap": ("a positive finite number", SMALLEST, LARGEST),
    "denominator": ("a positive finite number or an array of no dimensions", SMALLEST, LARGEST),
    "pos_weight": ("a finite number that is not negative, or an array", 0.0, LARGEST),
    "max_bytes": ("a positive number of bytes", 1.0, LARGEST),
}
"""What is expected of a number, the smallest and the largest."""
OF_KERNELS = ("label_smoothing", "z_loss", "softcap")
"""Numbers of `Options`."""
NUMBERS_OR_ARRAYS = frozenset({"pos_weight", "denominator"})
OPTIONAL = frozenset({"bias", "class_weight", "sample_weight"}) | NUMBERS_OR_ARRAYS
"""Arrays that may be None."""


class Arguments(NamedTuple):
    """The optional arguments of cross-entropy."""

    class_weight: Array | None = None
    sample_weight: Array | None = None
    ignore_index: int | None = -100
    label_smoothing: float | Array = 0.0
    z_loss: float | Array = 0.0
    softcap: float | Array | None = None
    reduction: str = "mean"
    denominator: float | Array | None = None
    axis: int = -1
    unrestricted: bool = False  # class weights, probabilities and log-probabilities may be any numbers

    def with_denominator(self) -> "Arguments":
        """The same with the denominator, and the reduction, checked."""
        return self._replace(denominator=checked_denominator(self.denominator, self.reduction))

    def arrays(self) -> dict[str, Any]:
        """Those that are arrays, or that only an array or None may stand for."""
        weights = {name: getattr(self, name) for name in ("class_weight", "sample_weight", "denominator")}
        numbers = {name: getattr(self, name) for name in OF_KERNELS}
        return weights | {name: a for name, a in numbers.items() if is_array(a)}


class Context(NamedTuple):
    """The one library that all arrays of a call belong to, and its backend."""

    xp: Any
    backend: Backend


class Logits(NamedTuple):
    """The logits that labels belong to, as an error tells of them; those of a layer are nowhere held."""

    name: str
    shape: tuple[int, ...]
    axis: int  # of the classes
    hidden: tuple[int, ...] | None = None  # shape of the inputs, if they are those of a layer

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape of the unreduced loss."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    def origin_of_batch(self) -> str:
        if self.hidden is not None:
            return f"that of hidden {shape_text(self.hidden)} without its last axis"
        return f"that of {self.name} {shape_text(self.shape)} without axis {self.axis}"


class Indices(NamedTuple):
    """How index labels are compared."""

    dtype: Any  # that holds every class
    ignored: int | None  # the label that is ignored, as it is in that dtype; None where no label can be it


# Libraries, devices, dtypes


def one_library(arrays: Mapping[str, Any]) -> Context:
    """The one library and its backend: all arrays are its own, on one device, or are taken for its own."""
    xp: Any = None
    backend, first, device = GENERIC, "", None
    for name, array in arrays.items():
        if (array is None and name in OPTIONAL) or (isinstance(array, float) and name in NUMBERS_OR_ARRAYS):
            continue
        try:
            own = backend_of(type(array))
            namespace = own.namespace_of(array)
        except RefusedError as refused:
            raise TypeError(f"{name}: {refused}") from None
        except TypeError:
            got, expected = f"got {type(array).__name__}", "an array of an Array API library"
            raise invalid(TypeError, name, expected, got, way_to_array(name, array, arrays)) from None
        if xp is None:
            xp, backend, first, device = namespace, own, name, own.device(array)
            require_standard(xp, name)
        elif namespace is not xp:  # then it has no device of this library's
            if not backend.takes(array):
                ours, other = (str(n.__name__).removeprefix("array_api_compat.") for n in (xp, namespace))
                expected, way_out = f"an array of the library of {first}, {ours}", f"convert it by {ours}'s asarray"
                raise invalid(TypeError, name, expected, f"got one of {other}", way_out)
        elif device is not None and (other := own.device(array)) is not None and device != other:
            expected = f"an array on the device of {first}, {device}"
            raise invalid(ValueError, name, expected, f"got one on {other}", "move one of them")
    return Context(xp, backend)


def way_to_array(name: str, value: Any, arrays: Mapping[str, Any]) -> str:
    """How `value` is made an array of the library of other arguments; of the first that comes to mind, without one."""
    if value is None:
        return "it must be given"
    if hasattr(value, "toarray") or hasattr(value, "todense"):
        return f"make it dense, by {name}.{'toarray' if hasattr(value, 'toarray') else 'todense'}()"
    for other in arrays.values():
        with suppress(TypeError):
            library = str(backend_of(type(other)).namespace_of(other).__name__).removeprefix("array_api_compat.")
            return f"make it one by {library}.asarray({name})"
    return f"make it one, say by numpy.asarray({name})"


def require_standard(xp: Any, name: str) -> None:
    """Raise TypeError for a library whose functions do not take Python scalars."""
    version = getattr(xp, "__array_api_version__", None) or STANDARD
    if version >= STANDARD:
        return
    one = xp.ones(())
    try:
        xp.where(one == one, one, 0.0)  # noqa: PLR0124  (a condition)
    except (AttributeError, TypeError):
        expected = f"an array of a library that follows the Array API standard {STANDARD}"
        got, way_out = f"got one of {xp.__name__}, which follows {version}", "install a newer version of the library"
        raise invalid(TypeError, name, expected, got, way_out) from None


def is_dtype(xp: Any, array: Array, kind: str | tuple[str, ...]) -> bool:
    """Whether the dtype is of that kind, and one that is computed with.

    A floating dtype of 8 bits or less is not, and a library's own functions refuse dtypes that are not its own.
    """
    try:
        if not xp.isdtype(array.dtype, kind):
            return False
        narrow = getattr(array.dtype, "itemsize", 1) == 1
        return not (narrow and xp.isdtype(array.dtype, FLOATING) and xp.finfo(array.dtype).bits < 16)
    except (TypeError, ValueError):
        return False


def require_dtypes(xp: Any, kind: str | tuple[str, ...], arrays: Mapping[str, float | Array | None]) -> None:
    """Raise TypeError for an array of another kind than `FLOATING` or `REAL`."""
    for name, array in arrays.items():
        if not (array is None or isinstance(array, float) or is_dtype(xp, array, kind)):
            expected = "a real floating dtype" if kind == FLOATING else "a real dtype"
            raise invalid(TypeError, name, expected, f"got {dtype_text(array.dtype)}", "cast it, say to float32")


def computed_dtype(xp: Any, dtype: Any) -> Any:
    """The precision that `dtype` is computed in: float32 for half precision, otherwise its own."""
    return xp.float32 if xp.finfo(dtype).eps > 1e-6 else dtype


def is_wider(xp: Any, dtype: Any, than: Any) -> bool:
    """Whether a floating dtype holds numbers that are infinite or 0 in another."""
    if dtype == than or not xp.isdtype(dtype, FLOATING):
        return False
    return bool(xp.finfo(dtype).bits > xp.finfo(than).bits)


def in_dtype(context: Context, array: Array, dtype: Any) -> Array:
    """An array in a floating dtype: of another library that is taken, before its numbers are cut to fewer bits."""
    xp, backend = context
    if not backend.takes(array):
        return cast(xp, array, dtype)
    own = backend_of(type(array))
    with own.quiet():
        return xp.asarray(cast(own.namespace_of(array), array, dtype))


# Shapes


def require_shape(
    name: str, array: Array | None, shape: tuple[int, ...], origin: str, way_out: str = NOT_BROADCAST
) -> None:
    """Raise ValueError for another shape than `shape`, whose `origin` the error tells."""
    if array is not None and array.shape != shape:
        way_out = SIZES if any(size != size for size in (*shape, *array.shape)) else way_out  # noqa: PLR0124  (NaN)
        expected = f"shape {shape_text(shape)}, {origin}"
        raise invalid(ValueError, name, expected, f"got {shape_text(array.shape)}", way_out)


def require_like(name: str, array: Array, of: str, other: Array) -> None:
    """Raise for an array of another shape or dtype than `other`, whose name is `of`."""
    require_shape(name, array, other.shape, f"that of {of}")
    if array.dtype != other.dtype:
        expected = f"{dtype_text(other.dtype)}, the dtype of {of}"
        raise invalid(TypeError, name, expected, f"got {dtype_text(array.dtype)}", f"cast {name} or {of}")


def integer(value: Any) -> int | None:
    """`value` as an int; None if it is no integer."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except Exception:  # noqa: BLE001  (arrays raise what their library raises)
        return None


def class_axis(x: Array, axis: int, name: str) -> int:
    """`axis` as a number from 0."""
    position = integer(axis)
    if position is None:
        raise invalid(TypeError, "axis", "an integer", f"got {type(axis).__name__}", "there is one axis of classes")
    if not -x.ndim <= position < x.ndim:
        expected = f"an axis of {name}, whose shape is {shape_text(x.shape)}"
        way_out = f"pass one from {-x.ndim} to {x.ndim - 1}" if x.ndim else f"give {name} an axis of classes"
        raise invalid(ValueError, "axis", expected, f"got {axis}", way_out)
    size = x.shape[position]
    if size == 0 or size != size:  # noqa: PLR0124  (not known)
        expected, got = f"at least one class along axis {axis}", f"got shape {shape_text(x.shape)}"
        raise invalid(ValueError, name, expected, got, "pass the axis of the classes" if size == 0 else SIZES)
    return position % int(x.ndim)


# Numbers


def is_array(value: Any) -> bool:
    """Whether a number is given as an array. What is neither is an error where it is looked at as a number."""
    return not isinstance(value, Real) and hasattr(value, "shape")


def number(name: str, value: Any) -> float:
    """One of `NUMBERS` as a float."""
    expected, low, high = NUMBERS[name]
    if isinstance(value, bool) or not isinstance(value, Real):
        raise invalid(TypeError, name, expected, f"got {type(value).__name__}", "pass an int or a float")
    try:
        result = float(value)
    except OverflowError:
        result = INF
    if not low <= result <= high:
        raise invalid(ValueError, name, expected, f"got {value}")
    return result


def require_held(xp: Any, dtype: Any, values: Mapping[str, Any]) -> None:
    """Numbers must neither overflow nor lose digits in the precision that they are computed in."""
    largest = float(xp.finfo(dtype).max)
    for name, value in values.items():
        if isinstance(value, Real) and value != 0 and not 4 / largest <= abs(float(value)) <= largest:
            kind = dtype_text(dtype)
            way_out = f"the arguments are computed in {kind}: cast them to a wider dtype"
            raise invalid(ValueError, name, f"a number in the range of {kind}", f"got {value}", way_out)


def number_in_array(context: Context, name: str, value: Array, dtype: Any) -> Array:
    """One of `NUMBERS` that is an array, in `dtype`."""
    xp, (expected, low, high) = context.xp, NUMBERS[name]
    if value.shape != ():
        got = f"got shape {shape_text(value.shape)}"
        raise invalid(ValueError, name, f"{expected} or an array of no dimensions", got)
    if not is_dtype(xp, value, ("integral", FLOATING)):
        raise invalid(TypeError, name, expected, f"got an array of {dtype_text(value.dtype)}", "cast it")
    values, largest = in_dtype(context, value, dtype), float(xp.finfo(dtype).max)
    is_right = (values >= max(low, 4 / largest)) & (values <= min(high, largest))
    if high == 1:  # to which it may round
        is_right = is_right & (value <= 1)
    if low == 0:
        is_right = is_right | (value == 0)
    if first_true(context, ~is_right) is not None:
        expected = f"{expected}, as {dtype_text(dtype)} holds it"
        raise invalid(ValueError, name, expected, f"but {at(xp, name, value, ())}")
    return xp.where(is_right, values, NAN)


def checked_denominator(denominator: float | Array | None, reduction: str) -> float | Array | None:
    """`denominator`, where it is a number as a float; and `reduction` is checked."""
    if not (isinstance(reduction, str) and reduction in ("none", "mean", "sum")):
        raise invalid(ValueError, "reduction", "'none', 'mean' or 'sum'", f"got {reduction!r}")
    if denominator is not None and reduction != "mean":
        expected, way_out = f"None with reduction {reduction!r}", "leave it out, or take reduction 'mean'"
        raise invalid(ValueError, "denominator", expected, f"got {denominator}", way_out)
    return number("denominator", denominator) if isinstance(denominator, (Real, str)) else denominator


def require_one_denominator(xp: Any, denominator: float | Array | None) -> None:
    """Raise for a denominator that is an array of more than one number, or of no real ones."""
    if not (denominator is None or isinstance(denominator, float) or denominator.shape == ()):
        got = f"got shape {shape_text(denominator.shape)}"
        raise invalid(ValueError, "denominator", NUMBERS["denominator"][0], got, "take its sum")
    require_dtypes(xp, REAL, {"denominator": denominator})


# What arrays hold


def first_true(context: Context, wrong: Array) -> tuple[int, ...] | None:
    """The position of the first true element; None where there is none, or where it cannot be read without waiting."""
    read_with = context.backend.readable(wrong)
    if read_with is None:
        return None
    xp, wrong = read_with
    if not xp.any(wrong):
        return None
    flat = xp.reshape(wrong, (-1,))
    count = flat.shape[0]
    offset = int(xp.min(xp.where(flat, GENERIC.arange(xp, flat, count), count)))
    position = []
    for size in reversed(wrong.shape):
        offset, index = divmod(offset, size)
        position.append(index)
    return tuple(reversed(position))


def at(xp: Any, name: str, array: Array, position: tuple[int, ...]) -> str:
    """``name[i, j] is value``."""
    index = f"[{', '.join(map(str, position))}]" if position else ""
    return f"{name}{index} is {value_at(xp, array, position)}"


def value_at(xp: Any, array: Array, position: tuple[int, ...]) -> Any:
    """One value of an array, as a Python number."""
    value = array[position]
    if hasattr(value, "item"):
        return value.item()
    return int(value) if xp.isdtype(array.dtype, "integral") else float(value)


def checked_weight(context: Context, name: str, weight: Array, dtype: Any, unrestricted: bool = False) -> Array:
    """`weight` in `dtype`, finite and not negative; a denominator is positive."""
    xp, is_denominator = context.xp, name == "denominator"
    values = in_dtype(context, weight, dtype)
    is_narrower = is_wider(xp, weight.dtype, dtype)  # then one may silently be a weight of 0
    found = None if is_narrower else extremes(context.backend, values)
    if unrestricted or (found and (found[0] > 0 if is_denominator else found[0] >= 0) and found[1] < INF):
        return values
    wrong = ~(((values > 0) if is_denominator else (values >= 0)) & (values < INF))
    if is_narrower:
        wrong = wrong | ((values == 0) & (weight != 0))
    position = first_true(context, wrong)
    if position is not None:
        kind = dtype_text(values.dtype)
        expected, way_out = f"finite {kind} numbers that are not negative", "weigh with 0 what is not to count"
        if is_denominator:
            expected, way_out = f"a positive finite {kind}", "take reduction 'sum', to divide by nothing"
        if 0 < float(value_at(xp, weight, position)) < INF:
            way_out = WIDER
        raise invalid(ValueError, name, expected, f"but {at(xp, name, weight, position)}", way_out)
    return xp.where(wrong, NAN, values)


def fitting(context: Context, name: str, what: str, values: Array) -> Array:
    """Numbers computed of an argument, none negative; what overflows is an error about it."""
    found = extremes(context.backend, values)
    if found and found[1] < INF:
        return values
    if first_true(context, values == INF) is not None:
        raise invalid(ValueError, name, f"{what} a finite {dtype_text(values.dtype)}", "got inf", WIDER)
    return context.xp.where(values < INF, values, NAN)


# Labels


def are_indices(xp: Any, labels: Array, logits: Logits) -> bool:
    """Whether labels are class indices; if not, they are class probabilities. Their shapes are checked."""
    shape, batch = labels.shape, logits.batch
    if is_dtype(xp, labels, "integral"):
        if shape != batch:  # or a compiler would take a size not to be what the way out compares it with
            require_shape("labels", labels, batch, logits.origin_of_batch(), way_to_indices(shape, logits))
        return True
    if is_dtype(xp, labels, FLOATING):
        if shape != logits.shape:
            way_out = "give each row a probability for each class"
            way_out = "cast class indices to an integer dtype" if shape == batch else way_out
            require_shape("labels", labels, logits.shape, f"that of {logits.name}, for class probabilities", way_out)
        return False
    expected = "an integer dtype (class indices) or a real floating one (class probabilities)"
    way_out = "cast class indices to an integer dtype, probabilities to a floating one"
    raise invalid(TypeError, "labels", expected, f"got {dtype_text(labels.dtype)}", way_out)


def way_to_indices(shape: tuple[int, ...], logits: Logits) -> str:
    """What to do about labels of an integer dtype whose shape is not that of class indices."""
    if shape == logits.shape:
        way_out = "cast one-hot labels to a floating dtype"
        if len(shape) == 1 or shape[logits.axis] == 1:
            way_out += "; of one logit for each event, take binary_cross_entropy"
        return way_out
    axes = [axis for axis in range(len(logits.shape)) if logits._replace(axis=axis).batch == shape]
    return f"pass axis={axes[0]}, if the classes are along that axis" if axes and not logits.hidden else NOT_BROADCAST


def comparable(context: Context, labels: Array, ignore_index: int | None) -> Indices:
    """How index labels, and `ignore_index` with them, are compared."""
    xp, backend = context
    value = integer(ignore_index)
    if value is None and ignore_index is not None:
        got = f"got {type(ignore_index).__name__} {ignore_index!r}"
        raise invalid(TypeError, "ignore_index", "an integer or None", got, "None ignores no label")
    info = xp.iinfo(labels.dtype)
    default = backend.arange(xp, labels, 1).dtype
    size = 2 * (int(xp.iinfo(default).max) + 1)
    # Labels no wider than the default integer are compared in it. Unsigned ones that do not fit turn negative there,
    # which is no class.
    dtype = default if info.max < size else labels.dtype
    if value is not None:
        value = None if not info.min <= value <= info.max else value if value <= xp.iinfo(dtype).max else value - size
    return Indices(dtype, value)


def class_indices(
    context: Context, labels: Array, count: int, indices: Indices, ignore_index: int | None
) -> tuple[Array, Array | None, Array | None]:
    """Index labels in a dtype that holds every class; which of them are ignored, and which are wrong.

    None for those where it is known that there are none.
    """
    xp = context.xp
    y, value = cast(xp, labels, indices.dtype), indices.ignored
    found = extremes(context.backend, y)
    if found and found[0] >= 0 and found[1] < count and (value is None or not found[0] <= value <= found[1]):
        return y, None, None
    wrong = y < 0
    if not isinstance(count, int) or count <= xp.iinfo(y.dtype).max:
        wrong = wrong | (y >= count)
    ignored = None
    if value is not None:
        ignored = y == value
        wrong = wrong & ~ignored
    position = first_true(context, wrong)
    if position is not None:
        expected = f"class indices in [0, {count})"
        expected += "" if ignore_index is None else f" or the ignore_index {ignore_index}"
        label, got = value_at(xp, labels, position), f"but {at(xp, 'labels', labels, position)}"
        way_out = f"pass ignore_index={label} to ignore such rows"
        if count == 1:
            way_out = "of one logit for each event, take binary_cross_entropy"
        elif label == count:
            way_out = "subtract 1, if classes are counted from 1"
        raise invalid(IndexError, "labels", expected, got, way_out)
    # A class for every row: what ignored and wrong ones have is scaled by 0 and NaN.
    return xp.where(wrong if ignored is None else wrong | ignored, 0, y), ignored, wrong


def wrong_probabilities(context: Context, labels: Array, total: Array, dtype: Any) -> Array | None:
    """Which rows (*batch) hold what is no probability, where `total` is NaN; None where it is known that none does."""
    xp, is_narrower = context.xp, is_wider(context.xp, labels.dtype, dtype)  # then a negative number may round to 0
    found = None if is_narrower else extremes(context.backend, total)
    if found and found[0] == found[0]:  # no NaN
        return None
    wrong = xp.isnan(total)
    if is_narrower:
        wrong = wrong | xp.any(labels < 0, axis=-1)
    position = first_true(context, wrong)
    if position is not None:
        row = f"row {shape_text(position)}" if position else "the row"
        got, way_out = f"but {row} has another value", "take their softmax, if they are logits"
        raise invalid(ValueError, "labels", "probabilities, finite and not negative", got, way_out)
    return wrong
