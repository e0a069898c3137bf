"""From arguments to a task of rows: what is checked once, how rows are scaled, how losses are reduced."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from numbers import Real
from typing import Any, NamedTuple

from . import _arguments as check
from . import _formulas
from ._arguments import FLOATING, OF_KERNELS, REAL, Arguments, Context, Indices, Logits
from ._errors import dtype_text, invalid, shape_text
from ._formulas import INF, NAN, Array, Arrays, Kernel, Options, cast
from ._linear import LinearTask
from ._registry import backend_of
from ._task import Task
from ._types import ArrayT

PLANS: dict[Any, "Plan"] = {}
"""Plans by what they were made of: numbers, their types (1.0 is no axis, 1 is), and a cache key of the arrays, of which
none is held here."""

MOST_PLANS = 256
"""So many are kept; whoever has more shapes than that begins anew."""

HASHABLE = frozenset({bool, int, float, str, type(None)})
"""Types whose values cannot be changed, and are the same if they are equal."""

NOTHING = nullcontext()
"""For numbers of which nothing overflows: a library's own context takes 1 us."""


class Plan(NamedTuple):
    """What dtypes, shapes and numbers decide, whatever the arrays hold: checked once for all calls alike."""

    context: Context
    options: Options
    logits: Logits
    indices: Indices | None  # None where labels are probabilities
    denominator: float | Array | None  # None for the sum of the weights
    numbers: Arrays  # what the last of a task's `shared` is, if the options are given numbers as arrays


class Problem(NamedTuple):
    """Checked arguments, as a task of rows, of which the logits are the first."""

    task: Task
    axis: int  # of the classes in the logits as given
    denominator: Array | None  # (), the sum of the weights if that is what the mean divides by

    def run(self) -> Arrays:
        """Run the kernel; of a mean or a sum the first result, the losses, is reduced."""
        first, *others = self.task.options.backend.run(self.task)
        return mean(self.task, first, self.denominator), *others

    def total(self, values: Array) -> Array:
        """Reduce a value of each row, which is scaled already."""
        with self.task.options.backend.quiet():
            return self.task.reduced((values,))[0]

    def restore(self, x: Array) -> Array:
        """An array like the rows' logits in the shape of the logits as given."""
        return classes_back(self.task.xp, x, self.axis)


class LinearProblem(NamedTuple):
    """Checked arguments, as a task of a linear layer."""

    task: LinearTask
    batch: tuple[int, ...]  # the shape of the unreduced loss
    denominator: Array | None  # (), as in `Problem`
    dtypes: list[Any]  # of the layer's inputs, weight and bias as given

    def loss(self) -> Array:
        """The loss, reduced."""
        return self.run(self.task)[0]

    def loss_and_gradients(self) -> Arrays:
        """The loss, reduced, and the gradients of the layer's inputs, weight and bias."""
        loss, d_hidden, *others = self.run(replace(self.task, wanted=(True, True, True)))
        return loss, self.task.xp.reshape(d_hidden, (*self.batch, d_hidden.shape[-1])), *others

    def run(self, task: LinearTask) -> Arrays:
        """Compute the loss, reduced, and the gradients that the task wants, of rows on one axis."""
        backend = task.options.backend
        with backend.quiet():
            loss, *gradients = backend.run_layer(task)
            loss = mean(task, loss, self.denominator) if task.summed else task.xp.reshape(loss, self.batch)
            pairs = zip(gradients, self.dtypes, strict=False)
            return loss, *[None if g is None else cast(task.xp, g, dtype) for g, dtype in pairs]


def mean(task: Task, total: Array, denominator: Array | None) -> Array:
    """The mean that a total of scaled losses is; over nothing NaN, with a derivative of 0.

    Where weights of both signs have a sum of 0, it is infinite, as its derivative is.
    """
    if denominator is None or not task.summed:
        return total
    xp, is_over_zero = task.xp, denominator == 0
    if task.options.unrestricted:
        is_infinite = is_over_zero & (total != 0)
        total = total * xp.where(is_infinite, INF, 1.0)
        is_over_zero = is_over_zero & ~is_infinite
    return xp.where(is_over_zero, NAN, total)


def cross_entropy_problem(
    kernel: Kernel, logits: Array, labels: Array, arguments: Arguments, name: str = "logits", **vectors: Array
) -> Problem:
    """Check all arguments; `name` is that of the logits, and the kernel takes `vectors` like them."""
    plan = plan_of(name, logits, labels, vectors, arguments)
    xp, axis = plan.context.xp, plan.logits.axis
    x = classes_last(xp, logits, axis)
    labels, class_weight, scale, denominator = weighted(plan, x, labels, arguments)
    rows = (x, labels, scale, *[classes_last(xp, vector, axis) for vector in vectors.values()])
    summed = kernel is not _formulas.hvp and arguments.reduction != "none"
    task = Task(kernel, xp, plan.options, rows, (class_weight, *plan.numbers), plan.logits.batch, summed)
    return Problem(task, axis, denominator)


def plan_of(name: str, logits: Array, labels: Array, vectors: Mapping[str, Array], arguments: Arguments) -> Plan:
    """What `planned` returns of these; computed once for all calls alike."""
    class_weight, sample_weight, *numbers = arguments
    backend, types = backend_of(type(logits)), tuple(map(type, numbers))
    arrays = backend.cache_key((logits, labels, *vectors.values(), class_weight, sample_weight))
    if arrays is None or not HASHABLE.issuperset(types):
        return planned(name, logits, labels, vectors, arguments)
    key = backend, arrays, arguments[2:], types
    plan = PLANS.get(key)
    if plan is None:
        plan = planned(name, logits, labels, vectors, arguments)
        if len(PLANS) >= MOST_PLANS:
            PLANS.clear()
        PLANS[key] = plan
    return plan


def planned(name: str, logits: Array, labels: Array, vectors: Mapping[str, Array], arguments: Arguments) -> Plan:
    """Check all that does not depend on what the arrays hold."""
    arguments = arguments.with_denominator()
    context = check.one_library({name: logits, "labels": labels, **vectors, **arguments.arrays()})
    check.require_dtypes(context.xp, FLOATING, {name: logits})
    axis = check.class_axis(logits, arguments.axis, name)
    for vector_name, vector in vectors.items():
        check.require_like(vector_name, vector, name, logits)
    return plan_for(context, Logits(name, logits.shape, axis), logits.dtype, labels, arguments)


def plan_for(context: Context, logits: Logits, dtype: Any, labels: Array, arguments: Arguments) -> Plan:
    """Check numbers, and labels and weights beside the logits."""
    xp, axis, denominator = context.xp, logits.axis, arguments.denominator
    dtype = check.computed_dtype(xp, dtype)
    check.require_one_denominator(xp, denominator)
    values: dict[str, Any] = {}
    given: dict[str, Array] = {}
    for name in OF_KERNELS:
        value = getattr(arguments, name)
        if check.is_array(value):
            values[name], given[name] = 1.0, check.number_in_array(context, name, value, dtype)
        elif value is not None or name != "softcap":
            values[name] = check.number(name, value)
    check.require_held(xp, dtype, {**values, "denominator": denominator})
    class_weight, sample_weight = arguments.class_weight, arguments.sample_weight
    check.require_dtypes(xp, REAL, {"class_weight": class_weight, "sample_weight": sample_weight})
    check.require_shape("class_weight", class_weight, (logits.shape[axis],), "one for each class")
    check.require_shape("sample_weight", sample_weight, logits.batch, "that of the unreduced loss")
    is_indexed = check.are_indices(xp, labels, logits)
    indices = check.comparable(context, labels, arguments.ignore_index) if is_indexed else None
    options = Options(dtype, context.backend, **values, given=tuple(given), unrestricted=arguments.unrestricted)
    options = options._replace(axis=axis - len(logits.shape))
    denominator = denominator if arguments.reduction == "mean" else 1.0
    return Plan(context, options, logits, indices, denominator, (xp.stack([*given.values()]),) if given else ())


def weighted(
    plan: Plan, like: Array, labels: Array, arguments: Arguments
) -> tuple[Array, Array | None, Array, Array | None]:
    """Check what the labels and the weights hold; return the labels, the weights of the classes, and `row_scale`.

    The scale is made where `like` lies. Ignored rows have a scale of 0, wrong ones one of NaN.
    """
    context, options, logits, indices, denominator, _ = plan
    (xp, backend), dtype = context, options.dtype
    class_weight, sample_weight = arguments.class_weight, arguments.sample_weight
    if options.given:
        options = options._replace(given=())  # for what is computed of the labels and the weights alone
    is_plain = class_weight is None and sample_weight is None and indices is not None
    is_plain = is_plain and (denominator is None or isinstance(denominator, float))
    with NOTHING if is_plain else backend.quiet():
        if class_weight is not None:
            class_weight = check.checked_weight(context, "class_weight", class_weight, dtype, options.unrestricted)
        weight = total = wrong = None  # of each row: its sample weight, the weight of its label, whether that is wrong
        if sample_weight is not None:
            weight = check.checked_weight(context, "sample_weight", sample_weight, dtype)
        if indices is None:
            labels, needs_total = classes_last(xp, labels, logits.axis), denominator is None or not options.unrestricted
        else:
            count, needs_total = logits.shape[logits.axis], denominator is None and class_weight is not None
            labels, ignored, wrong = check.class_indices(context, labels, count, indices, arguments.ignore_index)
            if ignored is not None:
                weight = xp.where(ignored, 0.0, backend.share(xp, like, dtype, (), 1.0) if weight is None else weight)
        if needs_total:
            task = Task(_formulas.label_weight, xp, options, (labels,), (class_weight,), logits.batch)
            (total,) = backend.run(task)
            wrong = check.wrong_probabilities(context, labels, total, dtype) if indices is None else wrong
        name = "labels" if class_weight is None else "class_weight"
        name = name if sample_weight is None else "sample_weight"
        scale, divisor = row_scale(context, options, like, logits.batch, denominator, name, weight, total, wrong)
        return labels, class_weight, scale, divisor


def row_scale(
    context: Context,
    options: Options,
    like: Array,
    batch: tuple[int, ...],
    denominator: float | Array | None,
    name: str,
    weight: Array | None,
    total: Array | None = None,
    wrong: Array | None = None,
) -> tuple[Array, Array | None]:
    """Each row's weight over the denominator, NaN for a wrong label; and the denominator, if it is the weights' sum.

    That sum is of ``weight * total``, each being 1 if it is None; a wrong label's row has no part in it: its NaN is
    its own. What overflows is an error about the argument `name` where it can be read, elsewhere NaN.
    """
    (xp, backend), dtype = context, options.dtype
    if weight is None and total is None and wrong is None:
        # No float is made of the number of rows: a compiler may not know it.
        parts = math.prod(batch) if denominator is None else denominator
        if isinstance(parts, float) or (denominator is None and backend.is_positive(parts)):
            return backend.share(xp, like, dtype, batch, parts), None
    one, divisor = backend.share(xp, like, dtype, (), 1.0), None
    if denominator is None:
        counted = total if weight is None else weight if total is None else weight * total
        counted = xp.broadcast_to(one if counted is None else counted, batch)
        counted = counted if wrong is None else xp.where(wrong, 0.0, counted)
        weight = one if weight is None else weight
        if options.unrestricted:
            divisor = backend.sum(xp, xp.reshape(xp.where(weight == 0, 0.0, counted), (-1,)))
            divisor = xp.where(xp.abs(divisor) < INF, divisor, NAN)  # or all weights would silently turn to 0
        else:
            divisor = backend.sum(xp, xp.reshape(counted, (-1,)))
            divisor = check.fitting(context, name, "weights whose sum is", divisor)
        ignored = weight == 0 if options.unrestricted else divisor == 0
        weight = xp.where(ignored, 0.0, weight / xp.where(divisor == 0, 1.0, divisor))
    else:
        name = "denominator"
        if not isinstance(denominator, float):
            denominator = check.checked_weight(context, name, denominator, dtype)
        weight = (one if weight is None else weight) / denominator
    if not options.unrestricted:
        weight = check.fitting(context, name, "weights and a divisor of the mean whose quotient is", weight)
    return xp.broadcast_to(weight if wrong is None else xp.where(wrong, NAN, weight), batch), divisor


def require_log_probabilities(problem: Problem, log_probs: Array, loss: Array) -> None:
    """Raise for a positive log-probability, which has made the loss NaN, where that can be read without waiting."""
    task, axis = problem.task, problem.axis
    xp, context = task.xp, Context(task.xp, task.options.backend)
    found = _formulas.extremes(context.backend, loss)
    if not found or found[0] == found[0]:  # no NaN
        return
    (losses,) = context.backend.run(replace(task, summed=False))
    x = cast(xp, task.rows[0], task.options.dtype)
    wrong = _formulas.above_zero(xp, task.options, x, xp.max(x, axis=-1), log_probs.dtype)
    wrong = wrong & xp.isnan(losses) & ~xp.any(xp.isnan(x), axis=-1)  # which are NaN anyhow
    position = check.first_true(context, wrong)
    if position is None:
        return
    row = x[(*position, ...)]
    (label,) = check.first_true(context, row == xp.max(row)) or ()
    got = f"but {check.at(xp, 'log_probs', log_probs, (*position[:axis], label, *position[axis:]))}"
    expected, way_out = "log-probabilities, none of which is positive", "pass log_softmax(logits), or use cross_entropy"
    raise invalid(ValueError, "log_probs", expected, got, way_out)


def linear_problem(
    hidden: Array,
    weight: Array,
    labels: Array,
    bias: Array | None,
    arguments: Arguments,
    max_bytes: int | None,
    recompute: bool | None,
) -> LinearProblem:
    """Check all arguments of a linear layer and the cross-entropy of its logits."""
    arguments, reduction = arguments.with_denominator(), arguments.reduction
    if not (recompute is None or isinstance(recompute, bool)):
        raise invalid(TypeError, "recompute", "True, False or None", f"got {type(recompute).__name__}")
    if recompute is False and reduction == "none":
        raise invalid(ValueError, "recompute", "True or None with reduction 'none'", "got False", "leave it out")
    max_bytes = None if max_bytes is None else int(check.number("max_bytes", max_bytes))
    context = check.one_library(
        {"hidden": hidden, "weight": weight, "labels": labels, "bias": bias, **arguments.arrays()}
    )
    xp = context.xp
    check.require_dtypes(xp, FLOATING, {"hidden": hidden, "weight": weight, "bias": bias})
    if hidden.ndim == 0:
        raise invalid(ValueError, "hidden", "shape (..., D)", "got shape ()", "give it an axis of the layer's inputs")
    *batch, size = hidden.shape
    if weight.ndim != 2 or weight.shape[1] != size or weight.shape[0] == 0:
        expected = f"shape (C, {size}), of at least one class and D of hidden {shape_text(hidden.shape)}"
        way_out = "transpose it, if it is (D, C)"
        raise invalid(ValueError, "weight", expected, f"got {shape_text(weight.shape)}", way_out)
    check.require_shape("bias", bias, weight.shape[:1], "one for each class")
    dtypes = [None if a is None else a.dtype for a in (hidden, weight, bias)]
    hidden, weight, bias = alike(xp, hidden, weight, bias)
    logits = Logits("the logits", (*batch, weight.shape[0]), len(batch), hidden.shape)
    plan = plan_for(context, logits, hidden.dtype, labels, arguments)
    labels, class_weight, scale, denominator = weighted(plan, hidden, labels, arguments)
    count = math.prod(batch)
    rows = tuple(xp.reshape(a, (count, *a.shape[len(batch) :])) for a in (hidden, labels, scale))
    shared = (class_weight, weight, bias, *plan.numbers)
    is_recomputed = reduction == "none" or bool(recompute)
    summed = reduction != "none"
    task = LinearTask(_formulas.loss, xp, plan.options, rows, shared, (count,), summed, max_bytes, is_recomputed)
    return LinearProblem(task, logits.batch, denominator, dtypes)


def alike(xp: Any, *arrays: Array | None) -> list[Array | None]:
    """Floating arrays in one dtype: their own if it is the same, or the widest of theirs, and float32 at least."""
    dtypes = [a.dtype for a in arrays if a is not None]
    if all(dtype == dtypes[0] for dtype in dtypes):
        return list(arrays)
    widest = check.computed_dtype(xp, max(dtypes, key=lambda dtype: int(xp.finfo(dtype).bits)))
    return [None if a is None else cast(xp, a, widest) for a in arrays]


def transform(kernel: Kernel, x: ArrayT, axis: int, keepdims: bool = False) -> ArrayT:
    """Run a kernel of one array, with its classes along `axis`; `keepdims` is for a result that has none."""
    xp, backend = check.one_library({"x": x})
    check.require_dtypes(xp, FLOATING, {"x": x})
    axis = check.class_axis(x, axis, "x")
    rows = classes_last(xp, x, axis)
    options = Options(check.computed_dtype(xp, x.dtype), backend)
    result: ArrayT = backend.run(Task(kernel, xp, options, (rows,), (), rows.shape[:-1]))[0]
    if result.ndim == x.ndim:
        result = classes_back(xp, result, axis)
    elif keepdims:
        result = xp.expand_dims(result, axis=axis)
    return result


def classes_last(xp: Any, x: Array, axis: int) -> Array:
    if axis == x.ndim - 1:
        return x
    return xp.permute_dims(x, (*(i for i in range(x.ndim) if i != axis), axis))


def classes_back(xp: Any, x: Array, axis: int) -> Array:
    if axis == x.ndim - 1:
        return x
    return xp.permute_dims(x, (*range(axis), x.ndim - 1, *range(axis, x.ndim - 1)))


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
    denominator = check.checked_denominator(denominator, reduction)
    if isinstance(pos_weight, (Real, str)):
        pos_weight = check.number("pos_weight", pos_weight)
    arrays = {"logits": logits, "labels": labels, "sample_weight": sample_weight}
    context = check.one_library({**arrays, "pos_weight": pos_weight, "denominator": denominator})
    xp, backend = context
    shape = logits.shape
    check.require_dtypes(xp, FLOATING, {"logits": logits})
    check.require_dtypes(xp, REAL, {"pos_weight": pos_weight, "sample_weight": sample_weight})
    check.require_one_denominator(xp, denominator)
    check.require_shape("labels", labels, shape, "that of logits")
    check.require_shape("sample_weight", sample_weight, shape, "that of logits")
    dtype = check.computed_dtype(xp, logits.dtype)
    check.require_held(xp, dtype, {"pos_weight": pos_weight, "denominator": denominator})
    labels = events(context, labels, dtype, unrestricted)
    is_plain = pos_weight is None and sample_weight is None and (denominator is None or isinstance(denominator, float))
    with NOTHING if is_plain else backend.quiet():
        if isinstance(pos_weight, float):
            pos_weight = xp.broadcast_to(backend.share(xp, logits, dtype, (), 1.0) * pos_weight, shape)
        elif pos_weight is not None:
            sizes = zip(reversed(pos_weight.shape), reversed(shape), strict=False)
            if pos_weight.ndim > logits.ndim or any(given not in (1, size) for given, size in sizes):
                expected = f"a shape that broadcasts to that of logits, {shape_text(shape)}"
                way_out = "give it axes of length 1 where it is to be repeated"
                raise invalid(ValueError, "pos_weight", expected, f"got {shape_text(pos_weight.shape)}", way_out)
            pos_weight = check.checked_weight(context, "pos_weight", pos_weight, dtype, unrestricted)
            pos_weight = xp.broadcast_to(pos_weight, shape)
        if sample_weight is not None:
            sample_weight = check.checked_weight(context, "sample_weight", sample_weight, dtype)
        divisor = denominator if reduction == "mean" else 1.0
        options = Options(dtype, backend)
        scale, divisor = row_scale(context, options, logits, shape, divisor, "sample_weight", sample_weight)
    rows = (logits, labels, pos_weight, scale)
    options = options._replace(unrestricted=unrestricted)
    return Problem(Task(kernel, xp, options, rows, (), shape, reduction != "none"), -1, divisor)


def events(context: Context, labels: Array, dtype: Any, unrestricted: bool) -> Array:
    """Labels of events, probabilities in [0, 1] unless they are `unrestricted`, in a floating dtype."""
    (xp, backend), given = context, labels
    if not check.is_dtype(xp, labels, FLOATING):
        if not check.is_dtype(xp, labels, REAL):
            expected, got = "a real floating, an integer or the bool dtype", f"got {dtype_text(labels.dtype)}"
            raise invalid(TypeError, "labels", expected, got, "cast it")
        labels = check.in_dtype(context, labels, dtype)
    is_wide = check.is_wider(xp, labels.dtype, dtype)
    found = None if is_wide else _formulas.extremes(backend, labels)
    if unrestricted or not (is_wide or found) or (found and found[0] >= 0 and found[1] <= 1):
        return labels
    wrong = ~((labels >= 0) & (labels <= 1))
    position = check.first_true(context, wrong)
    if position is not None:
        got, way_out = f"but {check.at(xp, 'labels', given, position)}", "map labels of two classes to 0 and 1"
        raise invalid(ValueError, "labels", "probabilities in [0, 1]", got, way_out)
    return xp.where(wrong, NAN, labels) if is_wide else labels  # a wrong one may round to a right one
