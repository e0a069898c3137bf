"""Where every argument is checked and the problem becomes rows of classes."""

import math
import operator
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from numbers import Real
from typing import Any, NamedTuple

from . import _formulas
from ._backend import Backend, RefusedError
from ._errors import dtype_text, invalid, shape_text
from ._formulas import INF, NAN, Array, Arrays, Kernel, Options, cast, holds
from ._linear import LinearTask
from ._registry import backend_of
from ._task import Task

REDUCTIONS = ("none", "mean", "sum")
REAL = ("bool", "integral", "real floating")
SCALARS = "2024.12"
"""The Array API standard since which functions take Python scalars."""
DENOMINATOR = "a positive finite number or an array of no dimensions"
NOT_BROADCAST = "reshape it: nothing is broadcast"
SIZES = "call compute_chunk_sizes() on the arrays whose sizes are not known"
WIDER = "scale them, or cast the logits to a wider dtype"
LARGEST = math.nextafter(INF, 0.0)
SMALLEST = math.nextafter(0.0, INF)
NUMBERS = {
    "label_smoothing": ("a number in [0, 1]", 0.0, 1.0),
    "z_loss": ("a finite number that is not negative", 0.0, LARGEST),
    "softcap": ("a positive finite number", SMALLEST, LARGEST),
}
"""What the numbers of `Options` may be."""


NOTHING = nullcontext()
"""For numbers of which nothing overflows: a library's own context takes 1 us."""


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

HASHABLE = frozenset({bool, int, float, str, type(None)})
"""Types whose values cannot be changed, and are the same if they are equal."""


class Problem(NamedTuple):
    """Checked arguments, as a task of rows, of which the logits are the first; `scaled` weights are among them."""

    task: Task
    backend: Backend
    axis: int  # of the classes in the logits as given
    divisor: Array | None  # (), the sum of the weights if that is what the mean divides by

    def run(self) -> Arrays:
        """Run the kernel; of a mean or a sum the first result, the losses, is reduced."""
        first, *others = self.backend.run(self.task)
        return mean(self.task, first, self.divisor) if self.task.summed else first, *others

    def total(self, values: Array) -> Array:
        """Reduce a value of each row, which is scaled already."""
        if not self.task.summed:
            return values
        with self.backend.quiet():
            return self.backend.sum(self.task.xp, self.task.xp.reshape(values, (-1,)))

    def restore(self, x: Array) -> Array:
        """An array like the rows' logits in the shape of the logits as given."""
        return classes_back(self.task.xp, x, self.axis)


def mean(task: Task, total: Array, divisor: Array | None) -> Array:
    """The mean that a total of scaled losses is; over nothing NaN, with a derivative of 0.

    Where weights of both signs have a sum of 0, it is infinite, as its derivative is.
    """
    if divisor is None:
        return total
    xp, is_over_zero = task.xp, divisor == 0
    if task.options.unrestricted:
        is_infinite = is_over_zero & (total != 0)
        total = total * xp.where(is_infinite, INF, 1.0)
        is_over_zero = is_over_zero & ~is_infinite
    return xp.where(is_over_zero, NAN, total)


class Rows(NamedTuple):
    """Where the labels of a problem belong: its shapes, and in which words an error tells them."""

    lead: tuple[int, ...]  # of the unreduced loss
    shape: tuple[int, ...]  # of class probabilities, the classes along `axis`
    axis: int
    of_lead: tuple[Any, ...]  # whose shape `lead` is; see `require_shape`
    of_shape: tuple[Any, ...]
    is_given: bool  # whether `axis` is an argument


def cross_entropy_problem(
    kernel: Kernel,
    arrays: Mapping[str, Array],
    axis: int,
    class_weight: Array | None,
    sample_weight: Array | None,
    ignore_index: int | None,
    label_smoothing: float | Array,
    z_loss: float | Array,
    softcap: float | Array | None,
    reduction: str,
    denominator: float | Array | None,
    unrestricted: bool = False,
) -> Problem:
    """Check all arguments; `arrays` are the logits, the labels and what else the kernel takes, like the logits.

    If they are `unrestricted`, class weights, probabilities and log-probabilities may be any numbers, and their results
    are what the formulas say.
    """
    numbers = (unrestricted, axis, ignore_index, label_smoothing, z_loss, softcap, reduction, denominator)
    logits, labels, *vectors = arrays.values()
    plan = plan_of(arrays, class_weight, sample_weight, numbers)
    (xp, backend), options, axis = plan.context, plan.options, plan.axis
    x = classes_last(xp, logits, axis)
    labels, class_weight, scale, divisor = weighted(plan, x, labels, class_weight, sample_weight, ignore_index)
    rows = (x, labels, scale, *[classes_last(xp, vector, axis) for vector in vectors])
    shared = (class_weight, *plan.numbers)
    task = Task(kernel, xp, options, rows, shared, plan.lead, kernel is not _formulas.hvp and reduction != "none")
    return Problem(task, backend, axis, divisor)


def plan_of(
    arrays: Mapping[str, Array], class_weight: Array | None, sample_weight: Array | None, numbers: tuple[Any, ...]
) -> Plan:
    """What `planned` returns of these; computed once for all calls alike."""
    given = (*arrays.values(), class_weight, sample_weight)
    backend, types = backend_of(type(given[0])), tuple(map(type, numbers))
    signature = backend.cache_key(given)
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
    unrestricted: bool,
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
    options = options._replace(axis=axis - logits.ndim, unrestricted=unrestricted)
    rows = Rows(
        shape,
        logits.shape,
        axis,
        ("that of {} {} without axis {}", name, logits.shape, axis),
        (f"that of {name}, for class probabilities",),
        True,
    )
    plan = labelled(context, options, rows, labels, class_weight, sample_weight, ignore_index, reduction, denominator)
    return plan._replace(numbers=given)


def checked_options(
    context: Context, dtype: Any, numbers: Mapping[str, Any], denominator: float | Array | None
) -> tuple[Options, Arrays]:
    """The options of a problem whose logits have that dtype, and `Plan.numbers`."""
    require_no_axes(denominator)
    require_real(context.xp, {"denominator": denominator})
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
    require_real(xp, {"class_weight": class_weight, "sample_weight": sample_weight})
    if class_weight is not None:
        require_shape("class_weight", class_weight, (count,), "one for each class")
    if sample_weight is not None:
        require_shape("sample_weight", sample_weight, rows.lead, "that of the unreduced loss")
    indices = None
    if is_dtype(xp, labels, "integral"):
        if labels.shape != rows.lead:  # or a compiler would take a size not to be what the way out compares it with
            require_shape("labels", labels, rows.lead, *rows.of_lead, way_out=way_to_indices(labels, rows))
        indices = comparable(context, labels, ignore_index)
    elif is_dtype(xp, labels, "real floating"):
        if labels.shape != rows.shape:
            is_of_rows = labels.shape == rows.lead
            way_out = (
                "cast class indices to an integer dtype" if is_of_rows else "give each row a probability for each class"
            )
            require_shape("labels", labels, rows.shape, *rows.of_shape, way_out=way_out)
    else:
        expected = "an integer dtype (class indices) or a real floating one (class probabilities)"
        way_out = "cast class indices to an integer dtype, probabilities to a floating one"
        raise invalid(TypeError, "labels", expected, f"got {dtype_text(labels.dtype)}", way_out)
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
    if options.given:
        options = options._replace(given=())  # for what is computed of the labels and the weights alone
    is_plain = class_weight is None and sample_weight is None and indices is not None
    is_plain = is_plain and (denominator is None or isinstance(denominator, float))
    with NOTHING if is_plain else backend.quiet():
        if class_weight is not None:
            class_weight = checked_weight(context, "class_weight", class_weight, dtype, options.unrestricted)
        weight = None
        if sample_weight is not None:
            weight = checked_weight(context, "sample_weight", sample_weight, dtype)

        total = wrong = None  # each row's share of the divisor, but for its sample weight
        if indices is not None:
            labels, ignored, wrong = class_indices(context, labels, count, indices, ignore_index)
            if ignored is not None:
                weight = xp.where(ignored, 0.0, backend.share(xp, like, dtype, (), 1.0) if weight is None else weight)
            if class_weight is not None and denominator is None:
                (total,) = backend.run(Task(_formulas.label_weight, xp, options, (labels,), (class_weight,), lead))
        elif options.unrestricted and denominator is not None:
            labels = classes_last(xp, labels, axis)
        else:
            labels = classes_last(xp, labels, axis)
            task = Task(_formulas.label_weight, xp, options, (labels,), (class_weight,), lead)
            (total,) = backend.run(task)
            wrong = xp.isnan(total)
            wrong = None if holds(xp, backend, ~wrong) else wrong
            if is_wider(xp, labels.dtype, dtype):  # a negative number may round to 0
                negative = xp.any(labels < 0, axis=-1)
                wrong = negative if wrong is None else wrong | negative
            position = None if wrong is None else first_true(context, wrong)
            if position is not None:
                row = f"row {shape_text(position)}" if position else "the row"
                got, way_out = f"but {row} has another value", "take their softmax, if they are logits"
                raise invalid(ValueError, "labels", "probabilities, finite and not negative", got, way_out)
        name = "labels" if class_weight is None else "class_weight"
        name = name if sample_weight is None else "sample_weight"
        scale, divisor = scaled(
            context, like, dtype, lead, weight, total, wrong, denominator, name, options.unrestricted
        )
        return labels, class_weight, scale, divisor


class LinearProblem(NamedTuple):
    """Checked arguments, as a task of a linear layer."""

    backend: Backend
    task: LinearTask
    lead: tuple[int, ...]  # the shape of the unreduced loss
    divisor: Array | None  # (), as in `Problem`
    dtypes: list[Any]  # of the layer's inputs, weight and bias as given

    def loss(self) -> Array:
        """The loss, reduced."""
        with self.backend.quiet():
            return self.reduced(self.backend.run_layer(self.task)[0])

    def loss_and_gradients(self) -> tuple[Array, Arrays]:
        """The loss, reduced, and the gradients of the layer's inputs, weight and bias."""
        with self.backend.quiet():
            loss, d_hidden, *others = self.backend.run_layer(replace(self.task, wanted=(True, True, True)))
            loss, xp = self.reduced(loss), self.task.xp
            gradients = (xp.reshape(d_hidden, (*self.lead, d_hidden.shape[-1])), *others)
            d_hidden, d_weight, d_bias = (
                None if g is None else cast(xp, g, dtype) for g, dtype in zip(gradients, self.dtypes, strict=True)
            )
        return loss, (d_hidden, d_weight, d_bias)

    def reduced(self, loss: Array) -> Array:
        xp = self.task.xp
        if not self.task.summed:
            return xp.reshape(loss, self.lead)
        return mean(self.task, loss, self.divisor)


def linear_problem(
    hidden: Array,
    weight: Array,
    labels: Array,
    bias: Array | None,
    class_weight: Array | None,
    sample_weight: Array | None,
    ignore_index: int | None,
    label_smoothing: float | Array,
    z_loss: float | Array,
    softcap: float | Array | None,
    reduction: str,
    denominator: float | Array | None,
    max_bytes: int | None,
    recompute: bool | None,
    unrestricted: bool = False,
) -> LinearProblem:
    """Check all arguments of a linear layer and the cross-entropy of its logits; `unrestricted` as in the latter's."""
    denominator = checked_denominator(denominator, reduction)
    if not (recompute is None or isinstance(recompute, bool)):
        raise invalid(TypeError, "recompute", "True, False or None", f"got {type(recompute).__name__}")
    if recompute is False and reduction == "none":
        raise invalid(ValueError, "recompute", "True or None with reduction 'none'", "got False", "leave it out")
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
    layer = {"hidden": hidden, "weight": weight, "bias": bias}
    for name, array in layer.items():
        if array is not None:
            require_floating(xp, name, array)
    if hidden.ndim == 0:
        raise invalid(ValueError, "hidden", "shape (..., D)", "got shape ()", "give it an axis of the layer's inputs")
    lead, size = hidden.shape[:-1], hidden.shape[-1]
    if weight.ndim != 2 or weight.shape[1] != size or weight.shape[0] == 0:
        expected = f"shape (C, {size}), of at least one class and D of hidden {shape_text(hidden.shape)}"
        way_out = "transpose it, if it is (D, C)"
        raise invalid(ValueError, "weight", expected, f"got {shape_text(weight.shape)}", way_out)
    count = weight.shape[0]
    if bias is not None:
        require_shape("bias", bias, (count,), "one for each class")
    dtypes = [None if a is None else a.dtype for a in layer.values()]
    hidden, weight, bias = alike(xp, hidden, weight, bias)
    options, given = checked_options(context, hidden.dtype, numbers, denominator)
    options = options._replace(unrestricted=unrestricted)
    rows = Rows(
        lead,
        (*lead, count),
        len(lead),
        ("that of hidden {} without its last axis", hidden.shape),
        ("that of the logits, for class probabilities",),
        False,
    )
    plan = labelled(context, options, rows, labels, class_weight, sample_weight, ignore_index, reduction, denominator)
    labels, class_weight, scale, divisor = weighted(plan, hidden, labels, class_weight, sample_weight, ignore_index)
    flat = math.prod(lead)
    task = LinearTask(
        _formulas.loss,
        xp,
        options,
        tuple(xp.reshape(a, (flat, *a.shape[len(lead) :])) for a in (hidden, labels, scale)),
        (class_weight, weight, bias, *given),
        (flat,),
        reduction != "none",
        max_bytes,
        reduction == "none" or bool(recompute),
    )
    return LinearProblem(backend, task, lead, divisor, dtypes)


def alike(xp: Any, *arrays: Array | None) -> list[Array | None]:
    """Floating arrays in one dtype: their own if it is the same, or the widest of theirs, and float32 at least."""
    dtypes = [a.dtype for a in arrays if a is not None]
    if all(dtype == dtypes[0] for dtype in dtypes):
        return list(arrays)
    widest = computed_dtype(xp, max(dtypes, key=lambda dtype: int(xp.finfo(dtype).bits)))
    return [None if a is None else cast(xp, a, widest) for a in arrays]


def binary_problem(
    kernel: Kernel,
    logits: Array,
    labels: Array,
    pos_weight: float | Array | None,
    sample_weight: Array | None,
    reduction: str,
    denominator: float | Array | None,
    unrestricted: bool = False,
) -> Problem:
    """Check the arguments of binary cross-entropy; the rows are ``(logits, labels, positive weight, scale)``.

    If they are `unrestricted`, labels and `pos_weight` may be any numbers.
    """
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
    require_no_axes(denominator)
    require_real(xp, {"pos_weight": pos_weight, "sample_weight": sample_weight, "denominator": denominator})
    require_shape("labels", labels, logits.shape, "that of logits")
    dtype = computed_dtype(xp, logits.dtype)
    require_held(xp, dtype, {"pos_weight": pos_weight, "denominator": denominator})
    given = labels
    if not is_dtype(xp, labels, "real floating"):
        if not is_dtype(xp, labels, REAL):
            expected, got = "a real floating, an integer or the bool dtype", f"got {dtype_text(labels.dtype)}"
            raise invalid(TypeError, "labels", expected, got, "cast it")
        labels = in_dtype(context, labels, dtype)
    is_wide = is_wider(xp, labels.dtype, dtype)
    if not unrestricted and (is_wide or backend.is_readable(labels)):
        wrong = ~((labels >= 0) & (labels <= 1))
        position = first_true(context, wrong)
        if position is not None:
            got, way_out = f"but {at(xp, 'labels', given, position)}", "map labels of two classes to 0 and 1"
            raise invalid(ValueError, "labels", "probabilities in [0, 1]", got, way_out)
        if is_wide:  # a wrong one may round to a right one
            labels = xp.where(wrong, NAN, labels)
    is_plain = pos_weight is None and sample_weight is None and (denominator is None or isinstance(denominator, float))
    with NOTHING if is_plain else backend.quiet():
        if isinstance(pos_weight, float):
            pos_weight = xp.broadcast_to(backend.share(xp, logits, dtype, (), 1.0) * pos_weight, logits.shape)
        elif pos_weight is not None:
            sizes = zip(reversed(pos_weight.shape), reversed(logits.shape), strict=False)
            if pos_weight.ndim > logits.ndim or any(given not in (1, size) for given, size in sizes):
                expected = f"a shape that broadcasts to that of logits, {shape_text(logits.shape)}"
                way_out = "give it axes of length 1 where it is to be repeated"
                raise invalid(ValueError, "pos_weight", expected, f"got {shape_text(pos_weight.shape)}", way_out)
            pos_weight = checked_weight(context, "pos_weight", pos_weight, dtype, unrestricted)
            pos_weight = xp.broadcast_to(pos_weight, logits.shape)
        weight = None
        if sample_weight is not None:
            require_shape("sample_weight", sample_weight, logits.shape, "that of logits")
            weight = checked_weight(context, "sample_weight", sample_weight, dtype)
        divisor = denominator if reduction == "mean" else 1.0
        scale, divisor = scaled(context, logits, dtype, logits.shape, weight, None, None, divisor, "sample_weight")
    options = Options(dtype, backend, unrestricted=unrestricted)
    rows = (logits, labels, pos_weight, scale)
    return Problem(Task(kernel, xp, options, rows, (), logits.shape, reduction != "none"), backend, -1, divisor)


def require_log_probabilities(problem: Problem, log_probs: Array, loss: Array) -> None:
    """Raise for a positive log-probability, which has made the loss NaN, where that can be read without waiting."""
    task, backend = problem.task, problem.backend
    xp = task.xp
    if not backend.is_readable(loss) or holds(xp, backend, ~xp.isnan(loss)):
        return
    (losses,) = backend.run(replace(task, summed=False))
    context, x = Context(xp, backend), cast(xp, task.rows[0], task.options.dtype)
    is_wrong = _formulas.above_zero(xp, task.options, x, xp.max(x, axis=-1), log_probs.dtype)
    is_wrong = is_wrong & xp.isnan(losses) & ~xp.any(xp.isnan(x), axis=-1)  # which are NaN anyhow
    position = first_true(context, is_wrong)
    if position is None:
        return
    row = x[(*position, ...)]
    (label,) = first_true(context, row == xp.max(row)) or ()
    found = at(xp, "log_probs", log_probs, (*position[: problem.axis], label, *position[problem.axis :]))
    expected, way_out = "log-probabilities, none of which is positive", "pass log_softmax(logits), or use cross_entropy"
    raise invalid(ValueError, "log_probs", expected, f"but {found}", way_out)


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
        except RefusedError as refused:
            raise TypeError(f"{name}: {refused}") from None
        except TypeError:
            got, expected = f"got {type(array).__name__}", "an array of an Array API library"
            raise invalid(TypeError, name, expected, got, way_to_array(name, array, arrays)) from None
        if not found:
            found.append(Context(xp, own))
            first, device = name, own.device(array)
            require_standard(xp, name)
        elif (is_foreign := xp is not found[0].xp) and not found[0].backend.takes(array):
            ours, other = (str(n.__name__).removeprefix("array_api_compat.") for n in (found[0].xp, xp))
            expected, way_out = f"an array of the library of {first}, {ours}", f"convert it by {ours}'s asarray"
            raise invalid(TypeError, name, expected, f"got one of {other}", way_out)
        if is_foreign:  # it has no device of this library's
            continue
        other = own.device(array)
        if device is not None and other is not None and device != other:
            expected = f"an array on the device of {first}, {device}"
            raise invalid(ValueError, name, expected, f"got one on {other}", "move one of them")
    return found[0]


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
    """Raise TypeError for a library whose functions do not take Python scalars, as they do since 2024.12."""
    version = getattr(xp, "__array_api_version__", None) or SCALARS
    if version >= SCALARS:
        return
    one = xp.ones(())
    try:
        xp.where(one == one, one, 0.0)  # noqa: PLR0124  (a condition)
    except (AttributeError, TypeError):
        expected = f"an array of a library that follows the Array API standard {SCALARS}"
        way_out = "install a newer version of the library"
        raise invalid(
            TypeError, name, expected, f"got one of {xp.__name__}, which follows {version}", way_out
        ) from None


def is_dtype(xp: Any, array: Array, kind: str | tuple[str, ...]) -> bool:
    """Whether the dtype is of that kind, and one that is computed with.

    A floating dtype of 8 bits or less is not, and a library's own functions refuse dtypes that are not its own.
    """
    try:
        if not xp.isdtype(array.dtype, kind):
            return False
        narrow = getattr(array.dtype, "itemsize", 1) == 1
        return not (narrow and xp.isdtype(array.dtype, "real floating") and xp.finfo(array.dtype).bits < 16)
    except (TypeError, ValueError):
        return False


def require_floating(xp: Any, name: str, array: Array) -> None:
    if not is_dtype(xp, array, "real floating"):
        got = f"got {dtype_text(array.dtype)}"
        raise invalid(TypeError, name, "a real floating dtype", got, "cast it, say to float32")


def require_real(xp: Any, weights: Mapping[str, float | Array | None]) -> None:
    for name, array in weights.items():
        if not (array is None or isinstance(array, float) or is_dtype(xp, array, REAL)):
            raise invalid(TypeError, name, "a real dtype", f"got {dtype_text(array.dtype)}", "cast it, say to float32")


def require_dtype(name: str, array: Array, other: Array, of: str) -> None:
    if array.dtype != other.dtype:
        expected = f"{dtype_text(other.dtype)}, the dtype of {of}"
        raise invalid(TypeError, name, expected, f"got {dtype_text(array.dtype)}", f"cast {name} or {of}")


def require_shape(
    name: str, array: Array, shape: tuple[int, ...], of: str, *parts: Any, way_out: str = NOT_BROADCAST
) -> None:
    """Raise ValueError for another shape than `shape`; `of` says whose it is, with fields for the parts."""
    if array.shape != shape:
        of = of.format(*(shape_text(part) if isinstance(part, tuple) else part for part in parts))
        way_out = SIZES if any(size != size for size in (*shape, *array.shape)) else way_out  # noqa: PLR0124  (NaN)
        raise invalid(ValueError, name, f"shape {shape_text(shape)}, {of}", f"got {shape_text(array.shape)}", way_out)


def way_to_indices(labels: Array, rows: Rows) -> str:
    """What to do about labels of an integer dtype whose shape is not that of class indices."""
    if labels.shape == rows.shape:
        way_out = "cast one-hot labels to a floating dtype"
        if len(rows.shape) == 1 or rows.shape[rows.axis] == 1:
            way_out += "; of one logit for each event, take binary_cross_entropy"
        return way_out
    axes = [i for i in range(len(rows.shape)) if rows.shape[:i] + rows.shape[i + 1 :] == labels.shape]
    if axes and rows.is_given:
        return f"pass axis={axes[0]}, if the classes are along that axis"
    return NOT_BROADCAST


def number(name: str, value: Any, expected: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise invalid(TypeError, name, expected, f"got {type(value).__name__}", "pass an int or a float")
    try:
        result = float(value)
    except OverflowError:
        result = INF
    if not low <= result <= high:
        raise invalid(ValueError, name, expected, f"got {value}")
    return result


def arrays_of(numbers: Mapping[str, Any]) -> dict[str, Array]:
    """Those that are arrays. What is neither an array nor a number is an error where it is looked at as a number."""
    return {name: a for name, a in numbers.items() if not isinstance(a, Real) and hasattr(a, "shape")}


def checked_number(
    context: Context, name: str, value: Array, expected: str, dtype: Any, low: float, high: float
) -> Array:
    """`number` of a 0-d array, in `dtype`; NaN instead of an error where it cannot be read."""
    xp = context.xp
    if value.shape != ():
        raise invalid(
            ValueError, name, f"{expected} or an array of no dimensions", f"got shape {shape_text(value.shape)}"
        )
    if not is_dtype(xp, value, ("integral", "real floating")):
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


def positive_number(name: str, value: Any, expected: str) -> float:
    return number(name, value, expected, SMALLEST, LARGEST)


def require_held(xp: Any, dtype: Any, values: Mapping[str, Any]) -> None:
    """Numbers must neither overflow nor lose digits in the precision that they are computed in."""
    largest = float(xp.finfo(dtype).max)
    for name, value in values.items():
        if isinstance(value, Real) and value != 0 and not 4 / largest <= abs(float(value)) <= largest:
            kind = dtype_text(dtype)
            way_out = f"the arguments are computed in {kind}: cast them to a wider dtype"
            raise invalid(ValueError, name, f"a number in the range of {kind}", f"got {value}", way_out)


def checked_denominator(denominator: float | Array | None, reduction: str) -> float | Array | None:
    """`denominator`, where it is a number as a float; and `reduction` is checked."""
    if not (isinstance(reduction, str) and reduction in REDUCTIONS):
        raise invalid(ValueError, "reduction", "'none', 'mean' or 'sum'", f"got {reduction!r}")
    if denominator is None:
        return None
    if reduction != "mean":
        expected, way_out = f"None with reduction {reduction!r}", "leave it out, or take reduction 'mean'"
        raise invalid(ValueError, "denominator", expected, f"got {denominator}", way_out)
    if isinstance(denominator, (Real, str)):
        return positive_number("denominator", denominator, DENOMINATOR)
    return denominator


def require_no_axes(denominator: float | Array | None) -> None:
    """Raise ValueError for a denominator that is an array of more than one number."""
    if not (denominator is None or isinstance(denominator, float) or denominator.shape == ()):
        got = f"got shape {shape_text(denominator.shape)}"
        raise invalid(ValueError, "denominator", DENOMINATOR, got, "take its sum")


def checked_weight(
    context: Context, name: str, weight: Array, dtype: Any, unrestricted: bool = False, *, positive: bool = False
) -> Array:
    """`weight` in `dtype`; what is negative or not finite raises where it can be read, elsewhere it is NaN."""
    xp = context.xp
    values = in_dtype(context, weight, dtype)
    if unrestricted:
        return values
    wrong = ~(((values > 0) if positive else (values >= 0)) & (values < INF))
    if is_wider(xp, weight.dtype, dtype):
        wrong = wrong | ((values == 0) & (weight != 0))  # it would silently be a weight of 0
    position = first_true(context, wrong)
    if position is not None:
        kind = dtype_text(values.dtype)
        expected = f"a positive finite {kind}" if positive else f"finite {kind} numbers that are not negative"
        way_out = "weigh with 0 what is not to count"
        if positive:
            way_out = "take reduction 'sum', to divide by nothing"
        if 0 < float(value_at(xp, weight, position)) < INF:
            way_out = WIDER
        raise invalid(ValueError, name, expected, f"but {at(xp, name, weight, position)}", way_out)
    return xp.where(wrong, NAN, values)


def in_dtype(context: Context, array: Array, dtype: Any) -> Array:
    """An array in a floating dtype: of another library that is taken, before its numbers are cut to fewer bits."""
    xp, backend = context
    if not backend.takes(array):
        return cast(xp, array, dtype)
    own = backend_of(type(array))
    with own.quiet():
        return xp.asarray(cast(own.namespace_of(array), array, dtype))


def is_wider(xp: Any, dtype: Any, than: Any) -> bool:
    """Whether a floating dtype holds numbers that are infinite or 0 in another."""
    if dtype == than or not xp.isdtype(dtype, "real floating"):
        return False
    return bool(xp.finfo(dtype).bits > xp.finfo(than).bits)


def comparable(context: Context, labels: Array, ignore_index: int | None) -> Indices:
    """How index labels, and `ignore_index` with them, are compared."""
    xp, backend = context
    try:
        value = None if ignore_index is None else operator.index(ignore_index)
    except Exception:  # noqa: BLE001  (arrays raise what their library raises)
        value = False
    if isinstance(ignore_index, bool) or value is False:
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
    xp, backend = context
    y, value = cast(xp, labels, indices.dtype), indices.ignored
    if holds(xp, backend, (y >= 0) & (y < count)) and (
        value is None or not 0 <= value < count or holds(xp, backend, y != value)
    ):
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
        got = f"but {at(xp, 'labels', labels, position)}"
        raise invalid(
            IndexError,
            "labels",
            f"class indices in [0, {count}){allowed}",
            got,
            way_to_class(value_at(xp, labels, position), count),
        )
    # A class for every row: what ignored and wrong ones have is scaled by 0 and NaN.
    return xp.where(wrong if ignored is None else wrong | ignored, 0, y), ignored, wrong


def way_to_class(label: Any, count: int) -> str:
    """What to do about an index label that is none of `count` classes."""
    if count == 1:
        return "of one logit for each event, take binary_cross_entropy"
    if label == count:
        return "subtract 1, if classes are counted from 1"
    return f"pass ignore_index={label} to ignore such rows"


def scaled(
    context: Context,
    like: Array,
    dtype: Any,
    shape: tuple[int, ...],
    weight: Array | None,
    total: Array | None,
    wrong: Array | None,
    denominator: float | Array | None,
    name: str,
    unrestricted: bool = False,
) -> tuple[Array, Array | None]:
    """Each row's weight over the divisor, NaN for a wrong label; and the divisor, if it is the sum of the weights.

    That sum is of ``weight * total``, each being 1 if it is None; a wrong label's row has no part in it: its NaN is
    its own. What overflows is an error about the argument `name` where it can be read, elsewhere NaN.
    """
    xp, backend = context
    if weight is None and total is None and wrong is None:
        if isinstance(denominator, float):
            return backend.share(xp, like, dtype, shape, denominator), None
        size = math.prod(shape)
        if denominator is None and backend.is_positive(size):
            # No float is made of it: a compiler may not know the size.
            return backend.share(xp, like, dtype, shape, size), None
    divisor = None
    given, weight = weight, backend.share(xp, like, dtype, (), 1.0) if weight is None else weight
    if denominator is None:
        counted = weight if total is None else total if given is None else weight * total
        counted = xp.broadcast_to(counted, shape)
        counted = counted if wrong is None else xp.where(wrong, 0.0, counted)
        if unrestricted:
            divisor = backend.sum(xp, xp.reshape(xp.where(weight == 0, 0.0, counted), (-1,)))
            divisor = xp.where(xp.abs(divisor) < INF, divisor, NAN)  # or all weights would silently turn to 0
        else:
            divisor = fitting(context, name, "weights whose sum is", backend.sum(xp, xp.reshape(counted, (-1,))))
        ignored = weight == 0 if unrestricted else divisor == 0
        weight = xp.where(ignored, 0.0, weight / xp.where(divisor == 0, 1.0, divisor))
    elif not isinstance(denominator, float):
        name = "denominator"
        weight = weight / checked_weight(context, name, denominator, weight.dtype, positive=True)
    elif denominator != 1:
        name = "denominator"
        weight = weight / denominator
    if not unrestricted:
        weight = fitting(context, name, "weights and a divisor of the mean whose quotient is", weight)
    return xp.broadcast_to(weight if wrong is None else xp.where(wrong, NAN, weight), shape), divisor


def fitting(context: Context, name: str, what: str, values: Array) -> Array:
    """Computed `values`, none negative; what overflows raises where it can be read, elsewhere it is NaN."""
    xp, backend = context
    fits = values < INF
    if holds(xp, backend, fits):
        return values
    if first_true(context, values == INF) is not None:
        raise invalid(ValueError, name, f"{what} a finite {dtype_text(values.dtype)}", "got inf", WIDER)
    return xp.where(fits, values, NAN)


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
        position = None if isinstance(axis, bool) else operator.index(axis)
    except TypeError:
        position = None
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
