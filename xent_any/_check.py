"""Where every argument is checked and the problem becomes rows of classes."""

import math
import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

from . import _rows
from ._backend import Backend, Task, backend_of
from ._linear import LinearTask
from ._rows import INF, NAN, Array, Arrays, Kernel, Options

REDUCTIONS = ("none", "mean", "sum")
LARGEST = math.nextafter(INF, 0.0)
SMALLEST = math.nextafter(0.0, INF)
NUMBERS = {
    "label_smoothing": ("a number in [0, 1]", 0.0, 1.0),
    "z_loss": ("a finite number that is not negative", 0.0, LARGEST),
    "softcap": ("a positive finite number", SMALLEST, LARGEST),
}
"""What the numbers of `Options` may be."""


class Context(NamedTuple):
    """The one library that all arrays of a call belong to, and its backend."""

    xp: Any
    backend: Backend


class Indices(NamedTuple):
    """How index labels are compared."""

    dtype: Any  # that holds every class
    ignored: int | None  # the label that is ignored, as it is in that dtype; None where no label can be it


class Plan(NamedTuple):
    """What dtypes, shapes and numbers decide, whatever the arrays hold: checked once for all calls alike."""

    context: Context
    options: Options
    axis: int  # of the classes in the logits as given
    classes: int
    lead: tuple[int, ...]  # the shape of the unreduced loss
    indices: Indices | None  # None where labels are probabilities
    denominator: float | Array | None  # None for the sum of the weights
    numbers: Arrays = ()  # what the last of a task's `shared` is, if the options are given numbers as arrays


PLANS: dict[Any, Plan] = {}
"""Plans by what they were made of: numbers, their types (1.0 is no axis, 1 is), and a signature of the arrays, of which
none is held here."""

MOST_PLANS = 256
"""So many are kept; whoever has more shapes than that begins anew."""

OPTIONAL = frozenset({"bias", "class_weight", "sample_weight", "pos_weight", "denominator"})
"""Arrays that may be None."""

HASHABLE = frozenset({int, float, str, type(None)})
"""Types whose values cannot be changed, and are the same if they are equal."""


class Problem(NamedTuple):
    """Checked arguments, as a task of rows, of which the logits are the first; `scaled` weights are among them."""

    task: Task
    backend: Backend
    axis: int  # of the classes in the logits as given
    divisor: Array | None  # (), the sum of the weights if that is what the mean divides by
    reduction: str

    def run(self) -> Arrays:
        """What the kernel returns."""
        return self.backend.run(self.task)

    def reduced(self) -> Arrays:
        """`run`, and reduce the losses, its first result, which are scaled already; the mean over nothing is NaN."""
        if self.reduction == "none":
            return self.run()
        results = self.backend.run_total(self.task)
        if self.divisor is None:
            return results
        return self.task.xp.where(self.divisor == 0, NAN, results[0]), *results[1:]

    def total(self, values: Array) -> Array:
        """Reduce a value of each row, which is scaled already."""
        return values if self.reduction == "none" else self.backend.total(self.task.xp, values)

    def restore(self, x: Array) -> Array:
        """An array like the rows' logits in the shape of the logits as given."""
        return classes_back(self.task.xp, x, self.axis)


class Rows(NamedTuple):
    """Where the labels of a problem belong: its shapes, and in which words an error tells them."""

    lead: tuple[int, ...]  # of the unreduced loss
    shape: tuple[int, ...]  # of class probabilities, the classes along `axis`
    axis: int
    of_lead: tuple[Any, ...]  # whose shape `lead` is; see `require_shape`
    of_shape: tuple[Any, ...]


def cross_entropy_problem(
    kernel: Kernel,
    arrays: Mapping[str, Array],
    /,
    *,
    axis: int = -1,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    softcap: float | Array | None = None,
    reduction: str = "mean",
    denominator: float | Array | None = None,
) -> Problem:
    """Check all arguments; `arrays` are the logits, the labels and what else the kernel takes, like the logits."""
    numbers = (axis, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator)
    logits, labels, *vectors = arrays.values()
    plan = plan_of(arrays, class_weight, sample_weight, numbers)
    (xp, backend), options, axis = plan.context, plan.options, plan.axis
    x = classes_last(xp, logits, axis)
    labels, class_weight, scale, divisor = weighted(plan, x, labels, class_weight, sample_weight, ignore_index)
    rows = (x, labels, scale, *[classes_last(xp, vector, axis) for vector in vectors])
    shared = (class_weight, *plan.numbers)
    return Problem(Task(kernel, xp, options, rows, shared, plan.lead), backend, axis, divisor, reduction)


def plan_of(
    arrays: Mapping[str, Array], class_weight: Array | None, sample_weight: Array | None, numbers: tuple[Any, ...]
) -> Plan:
    """What `planned` returns of these; computed once for all calls alike."""
    given = (*arrays.values(), class_weight, sample_weight)
    backend, types = backend_of(type(given[0])), tuple(map(type, numbers))
    signature = backend.signature(given)
    if signature is None or not HASHABLE.issuperset(types):
        return planned(arrays, class_weight, sample_weight, *numbers)
    key = backend, signature, numbers, types
    plan = PLANS.get(key)
    if plan is None:
        plan = planned(arrays, class_weight, sample_weight, *numbers)
        if len(PLANS) >= MOST_PLANS:
            PLANS.clear()
        PLANS[key] = plan
    return plan


def planned(
    arrays: Mapping[str, Array],
    class_weight: Array | None,
    sample_weight: Array | None,
    axis: int,
    ignore_index: int | None,
    label_smoothing: float | Array,
    z_loss: float | Array,
    softcap: float | Array | None,
    reduction: str,
    denominator: float | Array | None,
) -> Plan:
    """Check all that does not depend on what the arrays hold: the logits, the labels, vectors and weights."""
    denominator = checked_denominator(denominator, reduction)
    weights = {"class_weight": class_weight, "sample_weight": sample_weight}
    numbers = {"label_smoothing": label_smoothing, "z_loss": z_loss, "softcap": softcap}
    weights["denominator"] = None if isinstance(denominator, float) else denominator
    context = one_library({**arrays, **weights, **arrays_of(numbers)})
    xp = context.xp
    (name, logits), (_, labels), *vectors = arrays.items()
    require_floating(xp, name, logits)
    axis = class_axis(logits, axis, name)
    shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    for key, vector in vectors:
        require_shape(key, vector, logits.shape, f"that of {name}")
        require_dtype(key, vector, logits, name)
    options, given = checked_options(context, logits.dtype, numbers, denominator)
    options = options._replace(axis=axis - logits.ndim)
    rows = Rows(
        shape,
        logits.shape,
        axis,
        ("that of {} {} without axis {}", name, logits.shape, axis),
        (f"that of {name}, for class probabilities",),
    )
    plan = labelled(context, options, rows, labels, class_weight, sample_weight, ignore_index, reduction, denominator)
    return plan._replace(numbers=given)


def checked_options(
    context: Context, dtype: Any, numbers: Mapping[str, Any], denominator: float | Array | None
) -> tuple[Options, Arrays]:
    """The options of a problem whose logits have that dtype, and `Plan.numbers`."""
    xp, dtype = context.xp, computed_dtype(context.xp, dtype)
    values, arrays = dict(numbers), arrays_of(numbers)
    for name, (expected, low, high) in NUMBERS.items():
        if name in arrays:
            values[name] = 1.0
            arrays[name] = checked_number(context, name, arrays[name], expected, dtype, low, high)
        elif values[name] is not None or name != "softcap":
            values[name] = number(name, values[name], expected, low, high)
    require_held(xp, dtype, {**values, "denominator": denominator})
    options = Options(dtype, context.backend, **values, given=tuple(arrays))
    return options, (xp.stack([*arrays.values()]),) if arrays else ()


def labelled(
    context: Context,
    options: Options,
    rows: Rows,
    labels: Array,
    class_weight: Array | None,
    sample_weight: Array | None,
    ignore_index: int | None,
    reduction: str,
    denominator: float | Array | None,
) -> Plan:
    """Check what does not depend on what the labels and the weights hold."""
    xp, count = context.xp, rows.shape[rows.axis]
    if class_weight is not None:
        require_shape("class_weight", class_weight, (count,), "one for each class")
    if sample_weight is not None:
        require_shape("sample_weight", sample_weight, rows.lead, "that of the unreduced loss")
    indices = None
    if xp.isdtype(labels.dtype, "integral"):
        require_shape("labels", labels, rows.lead, *rows.of_lead)
        indices = comparable(context, labels, ignore_index)
    elif xp.isdtype(labels.dtype, "real floating"):
        require_shape("labels", labels, rows.shape, *rows.of_shape)
    else:
        raise TypeError(
            "labels: expected an integer dtype (class indices) or a real floating one (class probabilities), "
            f"got {dtype_text(labels.dtype)}"
        )
    return Plan(context, options, rows.axis, count, rows.lead, indices, denominator if reduction == "mean" else 1.0)


def weighted(
    plan: Plan,
    like: Array,
    labels: Array,
    class_weight: Array | None,
    sample_weight: Array | None,
    ignore_index: int | None,
) -> tuple[Array, Array | None, Array, Array | None]:
    """Check what the labels and the weights hold; return the labels, the weights of the classes, and `scaled`.

    The scale is made where `like` lies. Ignored rows have a scale of 0, wrong ones one of NaN.
    """
    context, options, axis, count, lead, indices, denominator, _ = plan
    (xp, backend), dtype = context, options.dtype
    options = options._replace(given=())  # for what is computed of the labels and the weights alone
    if class_weight is not None:
        class_weight = checked_weight(context, "class_weight", class_weight, dtype)
    weight = None
    if sample_weight is not None:
        weight = checked_weight(context, "sample_weight", sample_weight, dtype)

    total = None  # each row's share of the divisor, but for its sample weight
    if indices is not None:
        labels, ignored, wrong = class_indices(context, labels, count, indices, ignore_index)
        if ignored is not None:
            weight = xp.where(ignored, 0.0, backend.share(xp, like, dtype, (), 1.0) if weight is None else weight)
        if class_weight is not None and denominator is None:
            task = Task(_rows.label_weight, xp, options, (labels,), (class_weight,), lead)
            (total,) = backend.run(task)
    else:
        labels = classes_last(xp, labels, axis)
        task = Task(_rows.label_total, xp, options, (labels,), (class_weight,), lead)
        (total,) = backend.run(task)
        wrong = None if backend.are_known(xp, total) else xp.isnan(total)
        position = None if wrong is None else first_true(context, wrong)
        if position is not None:
            row = f"row {shape_text(position)}" if position else "the row"
            raise ValueError(f"labels: expected probabilities, finite and not negative, but {row} has another value")
    scale, divisor = scaled(context, like, dtype, lead, weight, total, wrong, denominator)
    return labels, class_weight, scale, divisor


class LinearProblem(NamedTuple):
    """Checked arguments, as a task of a linear layer."""

    backend: Backend
    task: LinearTask
    lead: tuple[int, ...]  # the shape of the unreduced loss
    divisor: Array | None  # (), as in `Problem`

    def loss(self) -> Array:
        """The loss, reduced."""
        return self.reduced(self.backend.linear(self.task))

    def loss_and_gradients(self) -> tuple[Array, Arrays]:
        """The loss, reduced, and the gradients of the layer's inputs, weight and bias."""
        losses, d_hidden, d_weight, d_bias = self.backend.linear_and_gradients(self.task)
        d_hidden = self.task.xp.reshape(d_hidden, (*self.lead, d_hidden.shape[-1]))
        return self.reduced(self.task.reduced(losses)), (d_hidden, d_weight, d_bias)

    def reduced(self, loss: Array) -> Array:
        xp = self.task.xp
        if not self.task.summed:
            return xp.reshape(loss, self.lead)
        return loss if self.divisor is None else xp.where(self.divisor == 0, NAN, loss)


def linear_problem(
    hidden: Array,
    weight: Array,
    labels: Array,
    *,
    bias: Array | None = None,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    softcap: float | Array | None = None,
    reduction: str = "mean",
    denominator: float | Array | None = None,
    max_bytes: int | None = None,
    recompute: bool | None = None,
) -> LinearProblem:
    """Check all arguments of a linear layer and the cross-entropy of its logits."""
    denominator = checked_denominator(denominator, reduction)
    if not (recompute is None or isinstance(recompute, bool)):
        raise TypeError(f"recompute: expected True, False or None, got {type(recompute).__name__}")
    if recompute is False and reduction == "none":
        raise ValueError("recompute: expected True or None with reduction 'none', got False")
    if max_bytes is not None:
        max_bytes = int(number("max_bytes", max_bytes, "a positive number of bytes", 1.0, LARGEST))
    numbers = {"label_smoothing": label_smoothing, "z_loss": z_loss, "softcap": softcap}
    context = one_library(
        {"hidden": hidden, "weight": weight, "labels": labels, "bias": bias}
        | {"class_weight": class_weight, "sample_weight": sample_weight}
        | ({} if isinstance(denominator, float) else {"denominator": denominator})
        | arrays_of(numbers)
    )
    xp, backend = context
    require_floating(xp, "hidden", hidden)
    require_dtype("weight", weight, hidden, "hidden")
    if hidden.ndim == 0:
        raise ValueError("hidden: expected shape (..., D), got shape ()")
    lead, size = hidden.shape[:-1], hidden.shape[-1]
    if weight.ndim != 2 or weight.shape[1] != size or weight.shape[0] == 0:
        raise ValueError(
            f"weight: expected shape (C, {size}), of at least one class and D of hidden {shape_text(hidden.shape)}, "
            f"got {shape_text(weight.shape)}"
        )
    count = weight.shape[0]
    if bias is not None:
        require_shape("bias", bias, (count,), "one for each class")
        require_dtype("bias", bias, hidden, "hidden")
    options, given = checked_options(context, hidden.dtype, numbers, denominator)
    rows = Rows(
        lead,
        (*lead, count),
        len(lead),
        ("that of hidden {} without its last axis", hidden.shape),
        ("that of the logits, for class probabilities",),
    )
    plan = labelled(context, options, rows, labels, class_weight, sample_weight, ignore_index, reduction, denominator)
    labels, class_weight, scale, divisor = weighted(plan, hidden, labels, class_weight, sample_weight, ignore_index)
    flat = math.prod(lead)
    task = LinearTask(
        _rows.loss,
        xp,
        options,
        tuple(xp.reshape(a, (flat, *a.shape[len(lead) :])) for a in (hidden, labels, scale)),
        (class_weight, weight, bias, *given),
        (flat,),
        max_bytes,
        reduction != "none",
        reduction == "none" or bool(recompute),
    )
    return LinearProblem(backend, task, lead, divisor)


def binary_problem(
    kernel: Kernel,
    logits: Array,
    labels: Array,
    *,
    pos_weight: float | Array | None,
    sample_weight: Array | None,
    reduction: str,
    denominator: float | Array | None,
) -> Problem:
    """Check the arguments of binary cross-entropy; the rows are ``(logits, labels, positive weight, scale)``."""
    denominator = checked_denominator(denominator, reduction)
    if isinstance(pos_weight, (Real, str)):
        pos_weight = number("pos_weight", pos_weight, "a finite number that is not negative, or an array", 0.0, LARGEST)
    context = one_library(
        {"logits": logits, "labels": labels, "sample_weight": sample_weight}
        | ({} if isinstance(pos_weight, float) else {"pos_weight": pos_weight})
        | ({} if isinstance(denominator, float) else {"denominator": denominator})
    )
    xp, backend = context
    require_floating(xp, "logits", logits)
    require_shape("labels", labels, logits.shape, "that of logits")
    if not xp.isdtype(labels.dtype, ("integral", "real floating")):
        raise TypeError(f"labels: expected a real floating or an integer dtype, got {dtype_text(labels.dtype)}")
    dtype = computed_dtype(xp, logits.dtype)
    require_held(xp, dtype, {"pos_weight": pos_weight, "denominator": denominator})
    if backend.is_readable(labels):
        values = _rows.cast(xp, labels, dtype) if xp.isdtype(labels.dtype, "integral") else labels
        position = first_true(context, ~((values >= 0) & (values <= 1)))
        if position is not None:
            raise ValueError(f"labels: expected probabilities in [0, 1], but {at(xp, 'labels', labels, position)}")
    if isinstance(pos_weight, float):
        pos_weight = xp.broadcast_to(backend.share(xp, logits, dtype, (), 1.0) * pos_weight, logits.shape)
    elif pos_weight is not None:
        sizes = zip(reversed(pos_weight.shape), reversed(logits.shape), strict=False)
        if pos_weight.ndim > logits.ndim or any(given not in (1, size) for given, size in sizes):
            raise ValueError(
                f"pos_weight: expected a shape that broadcasts to that of logits, {shape_text(logits.shape)}, "
                f"got {shape_text(pos_weight.shape)}"
            )
        pos_weight = xp.broadcast_to(checked_weight(context, "pos_weight", pos_weight, dtype), logits.shape)
    weight = None
    if sample_weight is not None:
        require_shape("sample_weight", sample_weight, logits.shape, "that of logits")
        weight = checked_weight(context, "sample_weight", sample_weight, dtype)
    divisor = denominator if reduction == "mean" else 1.0
    scale, divisor = scaled(context, logits, dtype, logits.shape, weight, None, None, divisor)
    rows = (logits, labels, pos_weight, scale)
    return Problem(Task(kernel, xp, Options(dtype, backend), rows, (), logits.shape), backend, -1, divisor, reduction)


def transform(kernel: Kernel, x: Array, axis: int, *, keeps_axis: bool) -> Array:
    """Run a kernel of one array, with its classes along `axis`."""
    context = one_library({"x": x})
    xp, backend = context
    require_floating(xp, "x", x)
    axis = class_axis(x, axis, "x")
    options = Options(computed_dtype(xp, x.dtype), backend)
    rows = classes_last(xp, x, axis)
    (result,) = backend.run(Task(kernel, xp, options, (rows,), (), rows.shape[:-1]))
    return classes_back(xp, result, axis) if keeps_axis else result


def one_library(arrays: Mapping[str, Array | None]) -> Context:
    """The one library and its backend: all arrays are its own, on one device, or are taken for its own."""
    found: list[Context] = []
    is_foreign = False
    for name, array in arrays.items():
        if array is None and name in OPTIONAL:
            continue
        try:
            own = backend_of(type(array))
            xp = own.namespace_of(array)
        except TypeError:
            got = type(array).__name__
            raise TypeError(f"{name}: expected an array of an Array API library, got {got}") from None
        if not found:
            found.append(Context(xp, own))
            first, device = name, own.device(array)
        elif (is_foreign := xp is not found[0].xp) and not found[0].backend.takes(array):
            ours, other = (str(n.__name__).removeprefix("array_api_compat.") for n in (found[0].xp, xp))
            raise TypeError(f"{name}: expected an array of the library of {first}, {ours}, got one of {other}")
        reason = own.rejects(array)
        if reason is not None:
            raise TypeError(f"{name}: {reason}")
        if is_foreign:  # it has no device of this library's
            continue
        other = own.device(array)
        if device is not None and other is not None and device != other:
            raise ValueError(f"{name}: expected an array on the device of {first}, {device}, got one on {other}")
    return found[0]


def require_floating(xp: Any, name: str, array: Array) -> None:
    if not xp.isdtype(array.dtype, "real floating"):
        raise TypeError(f"{name}: expected a real floating dtype, got {dtype_text(array.dtype)}")


def require_dtype(name: str, array: Array, other: Array, of: str) -> None:
    if array.dtype != other.dtype:
        raise TypeError(f"{name}: expected {dtype_text(other.dtype)}, the dtype of {of}, got {dtype_text(array.dtype)}")


def require_shape(name: str, array: Array, shape: tuple[int, ...], of: str, *parts: Any) -> None:
    """Raise ValueError for another shape than `shape`; `of` says whose it is, with fields for the parts."""
    if array.shape != shape:
        of = of.format(*(shape_text(part) if isinstance(part, tuple) else part for part in parts))
        raise ValueError(f"{name}: expected shape {shape_text(shape)}, {of}, got {shape_text(array.shape)}")


def number(name: str, value: Any, expected: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    try:
        result = float(value)
    except OverflowError:
        result = INF
    if not low <= result <= high:
        raise ValueError(f"{name}: expected {expected}, got {value}")
    return result


def arrays_of(numbers: Mapping[str, Any]) -> dict[str, Array]:
    """Those that are arrays. What is neither an array nor a number is an error where it is looked at as a number."""
    return {name: a for name, a in numbers.items() if hasattr(a, "shape") and not isinstance(a, Real)}


def checked_number(
    context: Context, name: str, value: Array, expected: str, dtype: Any, low: float, high: float
) -> Array:
    """`number` of a 0-d array, in `dtype`; NaN instead of an error where it cannot be read."""
    xp = context.xp
    if value.shape != ():
        raise ValueError(
            f"{name}: expected {expected} or an array of no dimensions, got shape {shape_text(value.shape)}"
        )
    if not xp.isdtype(value.dtype, ("integral", "real floating")):
        raise TypeError(f"{name}: expected {expected}, got an array of {dtype_text(value.dtype)}")
    values, largest = _rows.cast(xp, value, dtype), float(xp.finfo(dtype).max)
    is_right = (values >= max(low, 4 / largest)) & (values <= min(high, largest))
    if low == 0:
        is_right = is_right | (value == 0)
    if first_true(context, ~is_right) is not None:
        raise ValueError(f"{name}: expected {expected}, as {dtype_text(dtype)} holds it, but {at(xp, name, value, ())}")
    return xp.where(is_right, values, NAN)


def positive_number(name: str, value: Any, expected: str) -> float:
    return number(name, value, expected, SMALLEST, LARGEST)


def require_held(xp: Any, dtype: Any, values: Mapping[str, Any]) -> None:
    """Numbers must neither overflow nor lose digits in the precision that they are computed in."""
    largest = float(xp.finfo(dtype).max)
    for name, value in values.items():
        if isinstance(value, Real) and value != 0 and not 4 / largest <= abs(float(value)) <= largest:
            raise ValueError(f"{name}: expected a number in the range of {dtype_text(dtype)}, got {value}")


def checked_denominator(denominator: float | Array | None, reduction: str) -> float | Array | None:
    """`denominator`, where it is a number as a float; and `reduction` is checked."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected 'none', 'mean' or 'sum', got {reduction!r}")
    if denominator is None:
        return None
    if reduction != "mean":
        raise ValueError(f"denominator: expected None with reduction {reduction!r}, got {denominator}")
    expected = "a positive finite number or an array of no dimensions"
    if isinstance(denominator, (Real, str)):
        return positive_number("denominator", denominator, expected)
    shape = getattr(denominator, "shape", ())
    if shape != ():
        raise ValueError(f"denominator: expected {expected}, got shape {shape_text(shape)}")
    return denominator


def checked_weight(context: Context, name: str, weight: Array, dtype: Any, *, positive: bool = False) -> Array:
    """`weight` in `dtype`; what is negative or not finite raises where it can be read, elsewhere it is NaN."""
    xp = context.xp
    if not xp.isdtype(weight.dtype, ("bool", "integral", "real floating")):
        raise TypeError(f"{name}: expected a real dtype, got {dtype_text(weight.dtype)}")
    values = _rows.cast(xp, weight, dtype)
    wrong = ~(((values > 0) if positive else (values >= 0)) & (values < INF))
    if weight.dtype != dtype and xp.isdtype(weight.dtype, "real floating"):
        wrong = wrong | ((values == 0) & (weight > 0))  # it would silently be a weight of 0
    position = first_true(context, wrong)
    if position is not None:
        kind = dtype_text(values.dtype)
        expected = f"a positive finite {kind}" if positive else f"finite {kind} numbers that are not negative"
        raise ValueError(f"{name}: expected {expected}, but {at(xp, name, weight, position)}")
    return xp.where(wrong, NAN, values)


def comparable(context: Context, labels: Array, ignore_index: int | None) -> Indices:
    """How index labels, and `ignore_index` with them, are compared."""
    xp, backend = context
    if ignore_index is not None and (isinstance(ignore_index, bool) or not hasattr(ignore_index, "__index__")):
        raise TypeError(f"ignore_index: expected an integer or None, got {type(ignore_index).__name__}")
    info = xp.iinfo(labels.dtype)
    default = backend.arange(xp, labels, 1).dtype
    size = 2 * (int(xp.iinfo(default).max) + 1)
    # Labels no wider than the default integer are compared in it. Unsigned ones that do not fit turn negative there,
    # which is no class.
    dtype = default if info.max < size else labels.dtype
    value = None if ignore_index is None else operator.index(ignore_index)
    if value is not None:
        value = None if not info.min <= value <= info.max else value if value <= xp.iinfo(dtype).max else value - size
    return Indices(dtype, value)


def class_indices(
    context: Context, labels: Array, count: int, indices: Indices, ignore_index: int | None
) -> tuple[Array, Array | None, Array | None]:
    """Index labels in a dtype that holds every class; which of them are ignored, and which are wrong.

    None for those where it is known that there are none.
    """
    xp, backend = context
    y, value = _rows.cast(xp, labels, indices.dtype), indices.ignored
    if backend.all_below(xp, y, count) and (value is None or not 0 <= value < count or backend.holds(xp, y != value)):
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
        allowed = "" if ignore_index is None else f" or the ignore_index {ignore_index}"
        found = at(xp, "labels", labels, position)
        raise IndexError(f"labels: expected class indices in [0, {count}){allowed}, but {found}")
    # A class for every row: what ignored and wrong ones have is scaled by 0 and NaN.
    return xp.where(wrong if ignored is None else wrong | ignored, 0, y), ignored, wrong


def scaled(
    context: Context,
    like: Array,
    dtype: Any,
    shape: tuple[int, ...],
    weight: Array | None,
    total: Array | None,
    wrong: Array | None,
    denominator: float | Array | None,
) -> tuple[Array, Array | None]:
    """Each row's weight over the divisor, NaN for a wrong label; and the divisor, if it is the sum of the weights.

    That sum is of ``weight * total``, each being 1 if it is None; a wrong label's row has no part in it: its NaN is
    its own.
    """
    xp, backend = context
    divisor = None
    if weight is None and total is None and wrong is None:
        size = math.prod(shape)
        if denominator is None and backend.is_positive(size):
            denominator = float(size)
        if isinstance(denominator, float):
            return backend.share(xp, like, dtype, shape, denominator), None
    given, weight = weight, backend.share(xp, like, dtype, (), 1.0) if weight is None else weight
    if denominator is None:
        counted = weight if total is None else total if given is None else weight * total
        counted = xp.broadcast_to(counted, shape)
        counted = counted if wrong is None else xp.where(wrong, 0.0, counted)
        divisor = backend.total(xp, counted)
        divisor = xp.where(divisor < INF, divisor, NAN)  # or all weights would silently turn to 0
        weight = xp.where(divisor == 0, 0.0, weight / xp.where(divisor == 0, 1.0, divisor))
    elif not isinstance(denominator, float):
        weight = weight / checked_weight(context, "denominator", denominator, weight.dtype, positive=True)
    elif denominator != 1:
        weight = weight / denominator
    return xp.broadcast_to(weight if wrong is None else xp.where(wrong, NAN, weight), shape), divisor


def first_true(context: Context, wrong: Array) -> tuple[int, ...] | None:
    """The position of the first true element; None where there is none, or where it cannot be read without waiting."""
    xp, backend = context
    if not backend.is_readable(wrong):
        return None
    found = xp.any(wrong)
    if not backend.is_readable(found) or not bool(found):  # an operation on a readable array may be traced
        return None
    flat = xp.reshape(wrong, (-1,))
    count = flat.shape[0]
    offset = int(xp.min(xp.where(flat, backend.arange(xp, flat, count), count)))
    position = []
    for size in reversed(wrong.shape):
        offset, index = divmod(offset, size)
        position.append(index)
    return tuple(reversed(position))


def class_axis(x: Array, axis: int, name: str) -> int:
    """`axis` as a number from 0."""
    try:
        position = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: expected an integer, got {type(axis).__name__}") from None
    if not -x.ndim <= position < x.ndim:
        raise ValueError(f"axis: expected an axis of {name}, whose shape is {shape_text(x.shape)}, got {axis}")
    if x.shape[position] == 0:
        raise ValueError(f"{name}: expected at least one class along axis {axis}, got shape {shape_text(x.shape)}")
    return position % int(x.ndim)


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


def computed_dtype(xp: Any, dtype: Any) -> Any:
    """The precision that `dtype` is computed in: float32 for half precision, otherwise its own."""
    return xp.float32 if xp.finfo(dtype).eps > 1e-6 else dtype


def shape_text(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def dtype_text(dtype: Any) -> str:
    return getattr(dtype, "__name__", str(dtype)).rpartition(".")[2]


def at(xp: Any, name: str, array: Array, position: tuple[int, ...]) -> str:
    """``name[i, j] is value``."""
    value = array[position]
    if hasattr(value, "item"):
        value = value.item()
    else:
        value = int(value) if xp.isdtype(array.dtype, "integral") else float(value)
    index = f"[{', '.join(map(str, position))}]" if position else ""
    return f"{name}{index} is {value}"
