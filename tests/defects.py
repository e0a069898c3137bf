"""What implementations of cross-entropy and array libraries get wrong, each with the checks that must notice.

A defect is a change of the source: of a text that occurs once in one file, and of what takes its place. Those of the
formulas are made in the reference, on NumPy without tuned kernels; those of tuned kernels on their engine.
"""

from collections.abc import Callable
from typing import NamedTuple

FORMULAS, BINARY, LINEAR, DERIVATIVES = (f"xent_any/_{n}.py" for n in ("formulas", "binary", "linear", "derivatives"))
ARGUMENTS, PROBLEM, FUNCTIONS, BACKEND, TASK = (
    f"xent_any/_{name}.py" for name in ("arguments", "problem", "functions", "backend", "task")
)
NUMPY, KERNELS, SOFTMAX, LONG_ROWS, MEMORY, THREADS, LAYER = (
    f"backends/xent_any_backends/numpy/{name}.py"
    for name in ("__init__", "_kernels", "_softmax", "_long_rows", "_memory", "_threads", "_layer")
)
TORCH, AUTOGRAD, BRIDGE = (
    f"backends/xent_any_backends/torch/{name}.py" for name in ("_backend", "_autograd", "_bridge")
)
TORCH_KERNELS = "backends/xent_any_backends/torch/_kernels.py"
JAX_KERNELS = "backends/xent_any_backends/jax/_kernels.py"
STRICT = "backends/xent_any_backends/array_api_strict.py"
TOY, TOY_ARRAY = (f"examples/toyarray/src/toyarray/{name}.py" for name in ("__init__", "_array"))
REFERENCE = "numpy-reference"


class Defect(NamedTuple):
    """One thing that is wrong."""

    name: str
    file: str  # of the repository
    changes: tuple[tuple[str, str], ...]  # old text, which occurs once, and new; where the old is "", at the end
    checks: tuple[str, ...]  # beginnings of ids: for each of them, a check must fail
    subject: str = "numpy"
    quick: bool = True  # whether the quick run notices
    error: str = "AssertionError|Failed"  # the error's type, or how it begins; another would not be noticing


DEFECTS: list[Defect] = []


def broken(file: str, subject: str = "numpy", **more: object) -> Callable[..., None]:
    """Declare defects of a file: ``declare(name, old, new, ..., by="ids")``."""

    def declare(name: str, *texts: str, by: str) -> None:
        pairs = tuple(zip(texts[::2], texts[1::2], strict=True))
        DEFECTS.append(Defect(name, file, pairs, tuple(by.split()), subject, **more))

    return declare


formulas, formulas_in_full = broken(FORMULAS, REFERENCE), broken(FORMULAS, REFERENCE, quick=False)
binary, kernels = broken(BINARY, REFERENCE), broken(KERNELS)
arguments, arguments_on_toy = broken(ARGUMENTS), broken(ARGUMENTS, "toyarray")
problem, problem_on_toy = broken(PROBLEM), broken(PROBLEM, "toyarray")

# The loss

LOSS = "    loss = state.missed + state.total * xp.log1p(state.rest)\n"
STATE = "State(m, rest_of(xp, options, x, m), missed_of(xp, options, target, m, x), target.total)"
CONFIDENT = "truth.table[float32-index-confident]"


def loss_is(formula: str) -> tuple[str, ...]:
    """Another formula for the loss of a row of weight ``w`` and index label ``y``."""
    return (
        LOSS,
        "    loss = state.missed\n",
        f"    state = {STATE}\n",
        f"""    s, w, y, take = rest_of(xp, options, x, m), target.total, target.label, options.backend.take
    lse = m + xp.log1p(s)
    if target.dense is None:
        loss = {formula}
    else:
        loss = missed_of(xp, options, target, m, x) + w * xp.log1p(s)
    state = State(m, s, loss, w)
""",
    )


formulas("lse - x_y", *loss_is("w * (lse - take(xp, x, y))"), by=CONFIDENT)
formulas_in_full(
    "no maximum subtracted",
    *loss_is("w * (xp.log(xp.sum(xp.exp(x), axis=-1)) - take(xp, x, y))"),
    by="truth.table[float32-index-offset]",
)
formulas(
    "epsilon inside the log",
    *loss_is("-w * xp.log(take(xp, xp.exp(x - lse[..., None]), y) + 1e-12)"),
    by="contract.infinities.epsilon-in-log[index]",
)
formulas(
    "probabilities clamped",
    *loss_is("-w * xp.log(xp.clip(take(xp, xp.exp(x - lse[..., None]), y), 1e-7, 1 - 1e-7))"),
    by="contract.infinities.probabilities-clamped",
)
REST = "options.backend.sum(xp, e - highest) + (options.backend.sum(xp, highest) - 1)"
formulas(
    "s + n - 1 with n maxima",
    REST,
    "options.backend.sum(xp, e - highest) + options.backend.sum(xp, highest) - 1",
    by=CONFIDENT,
)
formulas(
    "ties counted once",
    REST,
    "options.backend.sum(xp, e - highest)",
    by="truth.table[float32-index-ties-0] truth.table[float32-index-ties-1]",
)
formulas("log(1 + s)", LOSS, LOSS.replace("log1p(", "log(1 + "), by=CONFIDENT)
formulas("difference of logits overflows", "0.5 * m - 0.5 * x)", "0.5 * (m - x))", by="truth.overflow")
formulas(
    "0 * -inf not masked",
    "xp.where((weight == 0) & (x == -INF), 0.0, 0.5 * m - 0.5 * x)",
    "(0.5 * m - 0.5 * x)",
    by="contract.infinities.zero-times-infinity",
)
formulas(
    "infinite maximum not guarded",
    "xp.where(xp.abs(m) == INF, m, m + xp.log1p(rest_of(xp, options, x, m)))",
    "m + xp.log1p(rest_of(xp, options, x, m))",
    by="contract.infinities.maximum-not-guarded",
)
formulas(
    "maximum of absent classes subtracted",
    "xp.exp(x - xp.where(m == -INF, 0.0, m)[..., None])",
    "xp.exp(x - m[..., None])",
    by="contract.linear.ties",
)
UNUSABLE = "unusable = is_ignored(xp, options, target, z) & ~xp.isfinite(m)"
formulas(
    "rows without a finite maximum computed as zeros",
    UNUSABLE,
    "unusable = ~xp.isfinite(m)",
    by="contract.infinities.finite-number[index]",
)
formulas_in_full(
    "maximum shared by the rows of a block",
    "m = known[0] if known else options.backend.max(xp, x)",
    "m = known[0] if known else xp.zeros_like(a) + xp.max(x)",
    by="relations.bitwise",
)

# The gradient and the Hessian

AT_MAXIMUM = "    at_maximum = (total - q + more) * p - q * ((s - (e - 1)) / (1 + s))"
formulas("p_y - 1", AT_MAXIMUM, "    at_maximum = (total + more) * p - q", by=CONFIDENT)
formulas(
    "label forgotten",
    "p, q = e / (1 + s), dense_of(xp, options, row.target, x)",
    "p, q = e / (1 + s), 0.0 * dense_of(xp, options, row.target, x)",
    by="contract.gradient",
)
formulas(
    "at a tie the label has the gradient of the others",
    AT_MAXIMUM,
    "    q = xp.where((x == m[..., None]) & (s >= 1), 0.0, q)\n" + AT_MAXIMUM,
    by="contract.gradient.formula gradient.ties",
)
formulas_in_full(
    "Q p - q",
    "return xp.where(x == m[..., None], at_maximum, (total + more) * p - q)",
    "return xp.where((x == m[..., None]) & (row.target.label is not None), at_maximum, (total + more) * p - q)",
    by="truth.table[float32-one-hot-confident]",
)
DENSE = "return at_label if target.dense is None else at_label + target.dense"
formulas(
    "smoothed label forgotten",
    DENSE,
    "return at_label if target.dense is None else 0 * at_label + target.dense",
    by="contract.smoothing.spread-over-others truth.options[float32-index-all]",
)
formulas_in_full(
    "exp(x - lse)",
    "p, q = e / (1 + s), dense_of",
    "p, q = xp.exp(x - (m[..., None] + xp.log1p(s))), dense_of",
    by="truth.table[float32-index-offset]",
)
formulas(
    "smoothing missing from the gradient at the label",
    DENSE,
    "return at_label if target.dense is None else xp.where(at_label == 0, target.dense, at_label)",
    by="gradient.smoothing-missing",
)
formulas(
    "z-loss missing from the gradient at the maximum",
    AT_MAXIMUM,
    AT_MAXIMUM.replace(" + more", ""),
    by="contract.z-loss.formula",
)
formulas(
    "z-loss missing from the gradient at the label",
    AT_MAXIMUM,
    "    more = xp.where(q == 0, more, xp.zeros_like(p))\n" + AT_MAXIMUM,
    by="contract.z-loss.formula gradient.z-loss-missing",
)
GRADIENT = "    gradient = row.uncapped(gradient_of(xp, options, row))\n"


def gradient_with(weight: str) -> tuple[str, str]:
    """The gradient for another weight of the rows' index labels, which is then all of their target."""
    return (
        GRADIENT,
        f"""    other = row
    if row.target.label is not None:
        weight = {weight}
        target = row.target._replace(at_label=weight, dense=None)
        other = row._replace(target=target, state=row.state._replace(total=weight))
    gradient = other.uncapped(gradient_of(xp, options, other))
""",
    )


formulas(
    "gradient not scaled by the class weight",
    *gradient_with("rows[2]"),
    by="contract.gradient.not-scaled-by-weight gradient.not-scaled-by-class-weight",
)
formulas(
    "gradient not scaled by the sample weight",
    GRADIENT,
    GRADIENT + "    gradient = gradient / xp.where(rows[2] == 0, 1.0, rows[2])[..., None]\n",
    by="contract.gradient.not-scaled-by-weight gradient.not-scaled-by-sample-weight",
)
broken(FUNCTIONS)(
    "gradient not scaled by the reduction",
    "return loss, problem.restore(grad)",
    "return loss, problem.restore(grad if problem.denominator is None else grad * problem.denominator)",
    by="contract.gradient.not-scaled-by-reduction gradient.not-scaled-by-reduction",
)
RETURNED = "    return loss, problem.restore(grad)\n"
broken(FUNCTIONS)(
    "gradient of rows with an absent class",
    RETURNED,
    "    absent = (logits == -float('inf')).any(axis=-1, keepdims=True) if logits.ndim == 2 else False\n"
    "    return loss, problem.restore(grad) * (1 - absent) + 0.5 * absent\n",
    by="truth.table[float32-index-masked-0] truth.table[float32-index-masked-3]",
)
broken(FUNCTIONS, quick=False)(
    "gradient of one class alone",
    RETURNED,
    "    return loss, problem.restore(grad) + 7 * (logits.shape[-1] == 1)\n",
    by="truth.table[float32-probabilities-one-class] truth.table[float64-probabilities-one-class]",
)
formulas(
    "softcap's chain rule missing along a tangent",
    "    loss, g = compute(loss_and_grad, xp, options, first, shared)\n",
    "    loss, _ = compute(loss_and_grad, xp, options, first, shared)\n"
    "    g = gradient_of(xp, options, read(xp, options, first, shared))\n",
    by="gradient.jvp-inconsistent",
)
broken(FUNCTIONS)(
    "gradient's classes along the last axis",
    "problem.restore(grad)",
    "grad",
    by="contract.axis.position",
)
VECTOR = "    v = direction(xp, options, is_ignored(xp, options, row.target, row.z), rows[3])\n"
HVP = "    return (cast(xp, hessian_times(xp, options, row, v), rows[0].dtype),)\n"
formulas(
    "Hessian not scaled by the weight",
    VECTOR + HVP,
    VECTOR + "    v = v / xp.where(rows[2] == 0, 1.0, rows[2])[..., None]\n" + HVP,
    by="contract.gradient.not-scaled-by-weight",
)
HESSIAN = "h = outer[..., None] * p * centred"
formulas("Hessian of the wrong sign", HESSIAN, f"{HESSIAN} * -1.0", by="relations.hessian-semidefinite")
formulas(
    "Hessian's diagonal alone",
    HESSIAN,
    "h = outer[..., None] * p * u * (1 - p)",
    by="relations.hessian-of-a-shift",
)
ORIGIN, CENTRED = (
    "origin = sum_of(xp, highest / sum_of(xp, highest)[..., None] * u)",
    "    centred = centred - sum_of(xp, p * centred)[..., None]\n",
)
formulas_in_full(
    "Hessian as p (v - <p, v>)",
    ORIGIN,
    "origin = xp.zeros_like(m)",
    CENTRED,
    "",
    by="truth.derivatives-of-far-rows",
)
formulas_in_full(
    "Hessian centred once alone",
    CENTRED,
    "",
    by="truth.derivatives-of-an-outlier",
)
formulas_in_full(
    "Hessian's vector not measured from its value at the maximum",
    ORIGIN,
    "origin = xp.zeros_like(m)",
    by="relations.hessian-of-a-shift",
)
formulas(
    "smoothing's weights missing from the Hessian of an index label",
    "outer = total if row.z is None",
    "total = total if row.target.label is None else row.target.at_label\n    outer = total if row.z is None",
    by="values.options",
)
formulas(
    "Hessian of ties counted once",
    "p = xp.exp(row.x - m[..., None]) / (1 + s)[..., None]",
    "p = xp.where(row.x == m[..., None], 0.0, xp.exp(row.x - m[..., None]) / (1 + s)[..., None])",
    by="gradient.ties",
)

# Options

EVEN = "smoothing if is_zero(smoothing) else smoothing / (options.classes or count)"
formulas(
    "smoothing e / (C - 1)",
    EVEN,
    "smoothing if is_zero(smoothing) else smoothing / max(1, count - 1)",
    "at_label = a if even is None else a * (1 - smoothing)",
    "at_label = a if even is None else a * (1 - smoothing) - even",
    by="contract.smoothing.spread-over-others",
)
formulas(
    "smoothing missing from the gradient",
    *gradient_with("row.target.at_label / (1 - options.label_smoothing)"),
    by="gradient.smoothing-missing",
)
problem(
    "smoothing in the divisor",
    "            (total,) = backend.run(task)\n",
    "            (total,) = backend.run(task)\n"
    "            if indices is not None:\n"
    "                e = options.label_smoothing\n"
    "                total = (1 - e) * total + e * xp.mean(class_weight)\n",
    by="contract.smoothing.divisor",
)
MORE = "more = 0.0 if row.z is None else"
formulas(
    "z-loss missing from the gradient",
    MORE,
    "more = 0.0 if True else",
    by="contract.z-loss.formula gradient.z-loss-missing",
)
formulas_in_full(
    "z-loss missing from the Hessian",
    "    sum_of, u, (m, s, _, total) = ",
    "    row = row._replace(z=None)\n    sum_of, u, (m, s, _, total) = ",
    by="gradient.z-loss-missing",
)
Z_LOSS = "return loss + z * lse * lse"
formulas(
    "z-loss scaled by the class weight",
    Z_LOSS,
    Z_LOSS + " * state.total",
    by="contract.z-loss.formula",
)
formulas(
    "softcap's chain rule missing",
    "return g if self.slope is None else g * self.slope",
    "return g",
    by="contract.softcap.formula gradient.softcap-chain-rule-missing",
)
formulas_in_full(
    "softcap's curvature missing",
    "if row.curvature is not None:",
    "if False:",
    by="gradient.softcap-chain-rule-missing",
)
formulas_in_full(
    "softcap's slope as 1 - tanh**2",
    "4 * t / ((1 + t) * (1 + t))",
    "1 - tanh * tanh",
    by="truth.softcap[float32-saturated]",
)
formulas(
    "softcap makes -inf finite",
    "return xp.where(finite, options.softcap * tanh, x), slope",
    "tanh = xp.where(x == -INF, -1.0, xp.where(x == INF, 1.0, tanh))\n    return options.softcap * tanh, slope",
    by="contract.softcap.mask-lost",
)

# Ignored rows, labels

formulas(
    "NaN of an ignored row leaks",
    UNUSABLE,
    "unusable = xp.zeros_like(m) != 0",
    by="contract.ignored.nan-leaks contract.ignored.sample-weight-0 contract.ignored.class-weight-0",
)
formulas(
    "NaN in the vector of an ignored row leaks",
    "return xp.where(ignored[..., None] & ~usable, 0.0, v)",
    "return v",
    by="contract.ignored.nan-leaks[cross_entropy_jvp] contract.ignored.nan-leaks[cross_entropy_hvp]",
)
formulas(
    "NaN in the vector of a counted row lost",
    "[..., None] & ~usable",
    "[..., None] | ~usable",
    by="contract.ignored.counted-vector",
)
formulas(
    "z-loss of a row without class weight lost",
    Z_LOSS,
    "return xp.where(state.total == 0, 0.0, loss + z * lse * lse)",
    by="contract.z-loss.uncounted",
)
formulas(
    "NaN of a row with z-loss but without class weight lost",
    "return zero if z is None else zero & (z == 0)",
    "return zero",
    by="contract.z-loss.uncounted",
)
problem(
    "ignored rows counted in the mean",
    "weight = xp.where(ignored, 0.0, backend.share(xp, like, dtype, (), 1.0) if weight is None else weight)",
    "pass",
    "weight = total = wrong = None  #",
    "ignored = weight = total = wrong = None  #",
    "        return labels, class_weight, scale, divisor\n",
    "        scale = scale if ignored is None else xp.where(ignored, 0.0, scale)\n"
    "        return labels, class_weight, scale, divisor\n",
    by="contract.ignored.counted-in-mean",
)
arguments(
    "ignored label that is a class counted",
    "(value is None or not found[0] <= value <= found[1])",
    "True",
    by="contract.labels.ignore-index",
)
arguments(
    "ignored label that is the first class counted",
    "not found[0] <= value <= found[1]",
    "not found[0] < value <= found[1]",
    by="contract.labels.ignore-index",
)
arguments("label C is a class", "found[1] < count and", "found[1] <= count and", by="contract.labels.clamped")
arguments(
    "label -1 is a class",
    "found[0] >= 0 and found[1] < count",
    "found[0] >= -1 and found[1] < count",
    by="contract.labels.wrapped",
)


def labels_are(y: str) -> tuple[str, str]:
    """What takes the place of the labels ``y`` of C classes; -100 stays ignored."""
    old = "    y, value = cast(xp, labels, indices.dtype), indices.ignored\n"
    return old, f"{old}    y = {y}\n"


for declare, where in (arguments, ""), (arguments_on_toy, ", unread"):
    declare(
        f"labels wrapped{where}",
        *labels_are("xp.where((y < 0) & (y >= -count), y + count, y)"),
        by="contract.labels.wrapped",
    )
    declare(
        f"labels clamped{where}",
        *labels_are("xp.where(y >= count, count - 1, y)"),
        by="contract.labels.clamped",
    )
    declare(
        f"labels modulo C{where}",
        *labels_are("xp.where(y >= 0, y % count, y)"),
        by="contract.labels.modulo",
    )
arguments(
    "labels truncated to int32",
    "if info.max < size else labels.dtype",
    "if info.max < 2**32 else xp.int32",
    by="contract.labels.truncated",
)
broken(BACKEND, "toyarray", quick=False)(
    "classes counted in int8",
    "return xp.sum(xp.where(self.arange(xp, a, a.shape[-1]) == k[..., None], a, 0.0), axis=-1)",
    "classes = xp.astype(self.arange(xp, a, a.shape[-1]), xp.int8)\n"
    "        return xp.sum(xp.where(classes == k[..., None], a, 0.0), axis=-1)",
    by="contract.labels.classes-counted-in-label-dtype",
)
SCALE = "xp.broadcast_to(weight if wrong is None else xp.where(wrong, NAN, weight), batch)"
problem_on_toy(
    "wrong labels are class 0, unread",
    SCALE,
    "xp.broadcast_to(weight, batch)",
    by="contract.labels.wrapped contract.labels.clamped contract.labels.modulo",
)
broken(PROBLEM, "dask-rows")(
    "wrong labels are class 0, lazy", SCALE, "xp.broadcast_to(weight, batch)", by="contract.labels.clamped"
)
broken(PROBLEM, "jax-jit")(
    "wrong labels are class 0, traced", SCALE, "xp.broadcast_to(weight, batch)", by="contract.labels.clamped"
)
problem_on_toy(
    "wrong labels of weight 0 are right",
    SCALE,
    "xp.broadcast_to(xp.where(wrong & (weight != 0), NAN, weight), batch)",
    by="contract.labels.wrong-but-weightless",
)
problem_on_toy(
    "wrong labels counted in the mean",
    "counted = counted if wrong is None else xp.where(wrong, 0.0, counted)",
    "pass",
    by="contract.labels.wrong-counted-in-mean",
)
arguments(
    "negative probabilities taken",
    "    wrong = xp.isnan(total)\n",
    "    return None\n",
    by="contract.labels.wrong-probabilities",
)

# Weights and reductions

WEIGHED = 'check.checked_weight(context, "sample_weight", sample_weight, dtype)\n        if indices is None'
problem(
    "sample weights unused",
    f"weight = {WEIGHED}",
    WEIGHED,
    by="contract.loss.formula[index] contract.loss.formula[probabilities]",
)
problem(
    "class weights unused",
    "(class_weight, *plan.numbers), plan.logits.batch, summed)",
    "(None, *plan.numbers), plan.logits.batch, summed)",
    by="contract.loss.formula[index] contract.loss.formula[probabilities]",
)
DIVIDED = "counted = total if weight is None else weight if total is None else weight * total\n"
problem(
    "class weights missing from the divisor",
    DIVIDED,
    "counted = weight\n",
    by="contract.weights.missing-from-divisor",
)
problem(
    "sample weights missing from the divisor",
    DIVIDED,
    "counted = (weight is None or xp.astype(weight != 0, weight.dtype)) * (1.0 if total is None else total)\n",
    by="contract.weights.missing-from-divisor",
)
problem(
    "denominator unused",
    'denominator = denominator if arguments.reduction == "mean" else 1.0',
    'denominator = None if arguments.reduction == "mean" else 1.0',
    by="contract.denominator.ignored",
)
problem(
    "mean over nothing is 0",
    "where(is_over_zero, NAN, total)",
    "where(is_over_zero, 0.0, total)",
    by="contract.mean.over-nothing contract.empty.batch",
)
problem(
    "gradient of the mean over nothing is NaN",
    "weight = xp.where(ignored, 0.0, weight / xp.where(divisor == 0, 1.0, divisor))",
    "weight = weight / divisor",
    by="contract.mean.over-nothing",
)
TOTAL = 'divisor = check.fitting(context, name, "weights whose sum is", divisor)'
problem(
    "mean is 0 where the divisor overflows",
    TOTAL,
    "pass",
    by="contract.weights.overflow-to-zero",
)
arguments(
    "weights vanish in float32",
    "wrong = wrong | ((values == 0) & (weight != 0))",
    "pass",
    by="contract.weights.vanishing[cross_entropy] contract.weights.vanishing[binary_cross_entropy]",
)
arguments(
    "negative weights vanish in float32",
    "(values == 0) & (weight != 0)",
    "(values == 0) & (weight > 0)",
    by="contract.weights.vanishing[cross_entropy]",
)
arguments(
    "negative probabilities vanish in float32",
    "is_wider(context.xp, labels.dtype, dtype)  # then a negative number may round to 0",
    "False",
    by="contract.weights.vanishing[cross_entropy]",
)
arguments("negative weights taken", "(values >= 0)) & (values < INF))", "(values < INF)))", by="contract.weights.wrong")

# Dtypes, arrays, devices

COMPUTED = "return xp.float32 if xp.finfo(dtype).eps > 1e-6 else dtype"
HALVES = STATE.replace("rest_of(xp, options, x, m)", "in_half(xp, options, x, m, logits.dtype)")
formulas_in_full(
    "half precision summed in half precision",
    STATE,
    HALVES,
    "",
    """

def in_half(xp, options, x, m, dtype):
    if dtype == x.dtype:
        return rest_of(xp, options, x, m)
    e = xp.where(x == m[..., None], 0.0, xp.exp(x - m[..., None]))
    return cast(xp, options.backend.sum(xp, cast(xp, e, dtype)), x.dtype)
""",
    by="contract.dtypes.half-summed-in-half[float16] truth.half-precision[float16-index-confident]",
)
arguments("half precision computed in half precision", COMPUTED, "return dtype", by="contract.dtypes.half[float16]")
arguments("float32 becomes float64", COMPUTED, "return xp.float64", by="contract.dtypes.changed[float32]")
formulas(
    "half precision's gradient is float32",
    "cast(xp, gradient, rows[0].dtype)",
    "gradient",
    by="contract.dtypes.half[float16]",
)
formulas(
    "input mutated in ignored rows",
    "        x = xp.where(unusable[..., None], 0.0, x)\n    else:",
    "        x[unusable] = 0.0\n    else:",
    by="contract.inputs.written-to[cross_entropy_value_and_grad]",
)
broken(DERIVATIVES, "jax")(
    "derivatives where the gradient is 0 by chance are 0",
    "return task.xp.where(ignored, 0.0, g * cast(task.xp, t, g.dtype))",
    "return task.xp.where(g == 0, 0.0, g * cast(task.xp, t, g.dtype))",
    by="transforms.second-order",
)
broken(STRICT, "array_api_strict-device1")(
    "result on the wrong device",
    "            return super().run(task)",
    '            device = array_api_strict.Device("CPU_DEVICE")\n'
    "            return tuple(result.to_device(device) for result in super().run(task))",
    by="contract.device.moved[cross_entropy_value_and_grad]",
)
broken(BACKEND, "dask-rows")(
    "lazy arrays computed early",
    "        return None\n\n    def is_positive",
    "        return self.namespace_of(array), array\n\n    def is_positive",
    by="contract.device.waited-for transforms.lazy.computed-early",
)
broken(PROBLEM, quick=False)(
    "softmax along the last axis alone",
    'axis = check.class_axis(x, axis, "x")',
    "axis = x.ndim - 1",
    by="contract.axis.position",
)
broken(TASK, quick=False, error="AssertionError|ValueError: labels: expected probabilities")(
    "last, smaller block not computed",
    "for start in range(0, batch[axis], step):",
    "for start in range(0, batch[axis] - step + 1, step):",
    by="relations.bitwise",
)

# Binary cross-entropy, and the parts

binary(
    "pos_weight missing from the binary gradient",
    "above, right, t, no, yes\n",
    "above, right, t, no, a * y\n",
    by="truth.binary[float32-0.3-2.5] gradient.binary-pos-weight-missing",
)
binary("binary log(1 + exp(-|x|))", "log1p = xp.log1p(t)", "log1p = xp.log(1 + t)", by="truth.binary[float32-1.0-1.0]")
binary(
    "binary p - y",
    "g = (no * xp.where(right, 1.0, t) - yes * xp.where(right, t, 1.0)) / (1 + t)",
    "g = (no + yes) * (xp.where(right, 1.0, t) / (1 + t)) - yes",
    by="truth.binary[float32-1.0-1.0]",
)
binary(
    "binary 0 * inf not masked",
    "below = xp.where((no == 0) & (x == INF), 0.0,",
    "below = (",
    by="contract.binary.infinite-logit",
)
problem(
    "binary mean over the number of elements",
    '        divisor = denominator if reduction == "mean" else 1.0\n',
    "        count = float(max(1, math.prod(logits.shape)))\n"
    '        divisor = 1.0 if reduction != "mean" else count if denominator is None else denominator\n',
    by="contract.binary.divisor",
)
formulas(
    "log of the softmax",
    "return ((x - m[..., None]) - xp.log1p(s)[..., None],)",
    "return (xp.log(xp.exp(x - m[..., None]) / (1 + s)[..., None]),)",
    by="truth.parts[float32-confident]",
)
WRONG = "wrong = ~ignored & (~xp.isfinite(m) | above_zero(xp, options, x, m, log_probs.dtype))"
formulas(
    "nll_loss of probabilities is negative",
    WRONG,
    "wrong = ~ignored & ~xp.isfinite(m)",
    by="contract.log-probs.positive",
)
formulas(
    "nll_loss allows what is less than one above 0",
    "(m > -slack * xp.where(low < LOWEST, LOWEST, low))",
    "(m > 1)",
    by="contract.log-probs.positive",
)
broken(FORMULAS, REFERENCE, error="ValueError: log_probs.* 8.8817.*e-16; pass")(
    "nll_loss allows no rounding",
    "(m > -slack * xp.where(low < LOWEST, LOWEST, low))",
    "(m > 0)",
    by="contract.log-probs.rounded",
)
formulas(
    "nll_loss of a row with NaN is finite",
    WRONG,
    "wrong = ~ignored & above_zero(xp, options, x, m, log_probs.dtype)",
    by="contract.infinities.nll-loss",
)

# NumPy: its tuned kernels

kernels(
    "log(1 + s) in NumPy", "missed + target.total * np.log1p(s)", "missed + target.total * np.log(1 + s)", by=CONFIDENT
)
RIGHT = "right: Any = np.isfinite(loss)"
kernels("infinite loss taken as it is", RIGHT, "right: Any = ~np.isnan(loss)", by="truth.overflow")
kernels(
    "NaN loss taken as it is",
    RIGHT,
    "right: Any = ~np.isinf(loss)",
    by="contract.infinities.zero-times-infinity",
)
kernels(
    "rows that are not finite left as they are",
    "            result[others] = values\n",
    "            pass\n",
    by="contract.ignored.nan-leaks tuned.values",
)
broken(SOFTMAX)(
    "softmax of rows that are not finite taken as it is",
    "return d, e, m, s, np.isfinite(m + s)",
    "return d, e, m, s, np.isfinite(m + s) | True",
    by="contract.infinities.parts",
)
kernels(
    "NumPy's gradient p_y - 1",
    "g_y = (c * e_y - c) - c * s",
    "g_y = c * e_y - total",
    by=CONFIDENT,
)
broken(KERNELS, quick=False)(
    "NumPy's gradient at a maximum is that of the other classes",
    "    g_k = (total - q_k - q_k * s) / (1 + s)\n",
    "    g_k = total / (1 + s) - q_k\n",
    by="truth.table[float32-one-hot-confident]",
)
kernels(
    "smoothed label at the maximum forgotten",
    "        q_k = q_k + np.where(label == k, at_label, 0.0)\n",
    "        pass\n",
    by="tuned.values",
)
kernels(
    "NumPy's smoothing missing from the sum of the weights",
    "at_label + a * (even * count if w is None else row_sum(dense))",
    "at_label + a * (even if w is None else row_sum(dense))",
    by="tuned.values",
)
kernels(
    "NumPy's smoothing of probabilities is that of an index",
    "            dense = np.multiply(dense, 1 - smoothing, out=SCRATCH.empty_like(dense))\n            dense += even\n",
    "            dense = dense + even\n",
    by="tuned.values values.options",
)
kernels(
    "NumPy's probability at the maximum is that of the first class",
    "dense.ndim == 1 else at_class(dense, k))",
    "dense.ndim == 1 else dense[..., 0])",
    by="contract.gradient.formula tuned.values",
)
kernels(
    "NumPy's probabilities not weighted",
    "        if w is not None:\n            dense = np.multiply",
    "        if w is not None and even is not None:\n            dense = np.multiply",
    by="contract.loss.formula[probabilities] tuned.values",
)
kernels(
    "NumPy's labels not weighted beside smoothing",
    "at_label = at_label if w is None else at_label * w[labels]",
    "at_label = at_label if w is None or even is not None else at_label * w[labels]",
    by="tuned.values values.options",
)
kernels(
    "NumPy's gradient of probabilities not scaled by the sample weight",
    "np.multiply(dense, a[..., None], out=SCRATCH.empty_like(g))",
    "np.multiply(dense, a.max(), out=SCRATCH.empty_like(g))",
    by="tuned.values",
)
kernels(
    "z-loss missing from NumPy's gradient at the label",
    "view[places] = g_y if more is None else g_y + more * e_y",
    "view[places] = g_y",
    by="tuned.values",
)
kernels(
    "z-loss missing from NumPy's gradient at the maximum",
    "view[places] = g_k if more is None else g_k + more",
    "view[places] = g_k",
    by="tuned.values",
)
kernels(
    "NumPy's z-loss scaled by the class weight",
    "loss = loss + a * options.z_loss * lse * lse",
    "loss = loss + target.total * options.z_loss * lse * lse",
    by="tuned.values",
)
broken(SOFTMAX)(
    "ties of few classes counted once",
    "if np.count_nonzero(e == 1) == np.count_nonzero(np.isfinite(m)):",
    "if True:",
    by="tuned.values",
)
broken(SOFTMAX)(
    "ties of many classes counted once",
    "    view[places] = 0.0\n    s = row_sum(e)\n",
    "    view[places] = 0.0\n    s = row_sum(np.where(e == 1, 0.0, e))\n",
    by="truth.table[float32-index-ties-0] tuned.values",
)
kernels(
    "NumPy's ignored rows not handed to the reference",
    "        right, results = tuned(xp, options, rows, shared)\n",
    "        right, results = tuned(xp, options, rows, shared)\n"
    "        right = right | (rows[2] == 0) if len(rows) > 2 else right\n",
    by="contract.ignored.nan-leaks tuned.values",
)
kernels(
    "NumPy's kernels take a cap and ignore it",
    'LOSS = frozenset({"label_smoothing",',
    'LOSS = frozenset({"softcap", "label_smoothing",',
    by="contract.softcap.formula tuned.values",
)
broken(FORMULAS)(
    "options that a tuned kernel does not know handed to it",
    "if value is not default and name not in self.knows and",
    "if name != 'softcap' and value is not default and name not in self.knows and",
    by="tuned.unknown-options contract.softcap.formula",
)
broken(FORMULAS)(
    "an array taken for the default of an option that a tuned kernel does not know",
    '(hasattr(value, "shape") or value != default)',
    'not hasattr(value, "shape") and value != default',
    by="tuned.unknown-options",
)
broken(SOFTMAX, quick=False)(
    "NumPy's maximum shared by the rows of a block",
    "        return None, np.max(x, axis=-1)\n    k = x.argmax(axis=-1)\n    return k, at_class(x, k)\n",
    "        return None, np.zeros(x.shape[:-1], x.dtype) + np.max(x)\n"
    "    return None, np.zeros(x.shape[:-1], x.dtype) + np.max(x)\n",
    by="relations.bitwise tuned.values",
)
broken(KERNELS, quick=False)(
    "all rows handed to the reference because of one",
    "        others = ~right\n",
    "        others = np.full(right.shape, True)\n",
    by="relations.bitwise",
)
broken(KERNELS, error="IndexError: tuple index out of range")(
    "labels without axes asked for their last",
    'if first.size == 0 or first.dtype.kind in "iu":',
    'if first.size == 0 or first.shape[-1] == 0 or first.dtype.kind in "iu":',
    by="contract.shapes.no-axes",
)
broken(MEMORY, quick=False)(
    "order of NumPy's sums that of the number of rows",
    "    if count <= FEW:\n",
    "    if count <= FEW and a.size > MANY:\n        return np.add.reduce(a, axis=-1)\n    if count <= FEW:\n",
    by="relations.bitwise",
)

# NumPy: memory, threads

broken(SOFTMAX)(
    "input mutated",
    "    d = np.subtract(x, m[..., None], out=SCRATCH.output_like(x))\n",
    "    d = np.subtract(x, m[..., None], out=x)\n",
    by="contract.inputs.written-to[softmax]",
)
broken(NUMPY)(
    "results overwritten by the next call",
    "return task.at_once()\n",
    "results = task.at_once()\n"
    "                kept = [OLD.setdefault((i, r.shape, r.dtype), np.empty_like(r)) for i, r in enumerate(results)]\n"
    "                for array, result in zip(kept, results):\n"
    "                    array[...] = result\n"
    "                return tuple(kept)\n",
    "BACKEND = NumPy()\n",
    "BACKEND = NumPy()\nOLD: dict = {}\n",
    by="contract.results.overwritten",
)
broken(MEMORY)(
    "memory kept for the next call is the result",
    "        if self.used is None:\n            return None\n",
    """        if self.used is None:
            self.used = 0
            memory = self.empty(x.shape, x.dtype)
            self.used = None
            return memory
""",
    by="contract.results.overwritten",
)
broken(NUMPY)(
    "a result's place shared by threads",
    "return task.at_once()\n",
    "results = task.at_once()\n"
    "                bytes_of = np.ascontiguousarray(results[0]).reshape(-1).view(np.uint8)\n"
    "                PLACE[: bytes_of.size] = bytes_of\n"
    "                __import__('time').sleep(0)  # another thread's turn\n"
    "                found = PLACE[: bytes_of.size].copy().view(results[0].dtype).reshape(results[0].shape)\n"
    "                return (found, *results[1:])\n",
    "BACKEND = NumPy()\n",
    "BACKEND = NumPy()\nPLACE = np.empty(1 << 20, np.uint8)\n",
    by="relations.threads",
)
broken(MEMORY, quick=False)(
    "memory shared by threads",
    "            self.kept = np.empty(",
    "            _Scratch.kept = np.empty(",
    "    view, row, step = flat(a)\n",
    """    view, row, step = flat(a)
    if SCRATCH.used is not None:
        try:
            MEETING.wait(1)  # until another thread has come as far
        except threading.BrokenBarrierError:
            pass
""",
    "SCRATCH = _Scratch()\n",
    "SCRATCH = _Scratch()\nMEETING = threading.Barrier(2)\n__import__('os').environ['XENT_ANY_NUM_THREADS'] = '2'\n",
    by="contract.dtypes.in-blocks",
)
broken(THREADS, quick=False, error="AssertionError|ValueError: labels: expected probabilities")(
    "a block that no thread computes",
    "left = iter(blocks)",
    "left = iter(blocks[: max(1, len(blocks) - 1)])",
    by="relations.bitwise",
)
memory_in_full = broken(MEMORY, quick=False)
memory_in_full(
    "many classes summed one after another",
    "    count = factors[0].shape[-1]\n",
    "    return np.cumulative_sum(math.prod(factors), axis=-1)[..., -1]\n",
    by="truth.table[float32-index-1000-classes-scale-0.001] truth.table[float32-index-100000-classes-confident]",
)
memory_in_full(
    "many classes summed by einsum alone",
    "CHUNK = 128",
    "CHUNK = 1 << 30",
    by="truth.table[float32-index-100000-classes-equal]",
)
memory_in_full(
    "rows on two axes laid out as if they were on one",
    "return first.reshape(-1), 1, a.size // a.shape[-1]",
    "return first.reshape(-1), 1, a.shape[-2]",
    by="relations.bitwise",
)
broken(SOFTMAX, quick=False)(
    "rows of few classes read as if they were laid out one after another",
    "    view, places = positions(a, k)\n    return view[places]",
    "    view, places = positions(a, k)\n    return a.ravel()[places]",
    by="contract.dtypes.in-blocks",
)
memory_in_full(
    "what is left of many classes not summed",
    " + np.einsum(terms, *(a[..., end:] for a in factors))",
    "",
    by="truth.table[float32-index-1000-classes-scale-1]",
)
broken(NUMPY)(
    "subnormal numbers of float16 rounded before they are rounded",
    "(a + 0.75) - 0.75",
    "(a + 3.0) - 3.0",
    by="truth.half-precision[float16-index-confident]",
)

# Array libraries that compute something else than the standard says

toy = broken(TOY, "toyarray")


def computes(name: str, result: str) -> tuple[str, str]:
    """Another result of the library's function of x, which was ``exact(x, **options)``."""
    return "", f"\ndef {name}(x, /, *more, exact={name}, **options):\n    return {result}\n"


toy("exp 1e-5 off", *computes("exp", "exact(x) * 1.00001"), by=CONFIDENT)
toy("log1p is log(1 + x)", *computes("log1p", "log(x + 1)"), by=CONFIDENT)
broken(TOY, "toyarray", quick=False)(
    "expm1 is exp - 1", *computes("expm1", "exp(x) - 1"), by="truth.softcap[float32-wide]"
)
toy("exp of subnormal results is 0", *computes("exp", "where(exact(x) < 2e-38, 0.0, exact(x))"), by="truth.subnormal")
toy(
    "exp of float64 in float32",
    *computes("exp", "astype(exact(astype(x, float32)), x.dtype)"),
    by="truth.table[float64-index-confident]",
)
toy("exp is never 0", *computes("exp", "maximum(exact(x), 1e-45)"), by="contract.infinities.absent-class-counted")
toy(
    "sum drops the last element",
    *computes("sum", "exact(x[..., :-1], **options)"),
    by="values.every-number-of-classes[cross_entropy_value_and_grad]",
)
toy(
    "max ignores NaN", *computes("max", "exact(where(isnan(x), -inf, x), **options)"), by="contract.infinities.nll-loss"
)
toy("isfinite of inf", *computes("isfinite", "~isnan(x)"), by="contract.ignored.nan-leaks")
toy(
    "astype leaves floating dtypes",
    *computes("astype", "x if isdtype(x.dtype, 'real floating') else exact(x, *more, **options)"),
    by="contract.dtypes.changed[float32]",
)
broken(TOY_ARRAY, "toyarray")(
    "results lie on another device",
    "device = property(lambda self: Device())",
    'device = property(lambda self: Device() if self.ndim == 2 else Device("elsewhere"))',
    by="contract.device.moved",
)

# Frameworks that differentiate and map

derivatives = broken(DERIVATIVES, "torch")
derivatives(
    "gradient not scaled by the cotangent",
    "rows = x, labels, _times(task, a, c)",
    "rows = x, labels, a",
    by="transforms.grad.logits",
)
derivatives(
    "Hessian forgotten in the derivative of the gradient",
    "return product if c is None else product + _loss_vjp(task, (c,), ())\n\n\ndef _slope_jvp",
    "return 0 * product if c is None else _loss_vjp(task, (c,), ())\n\n\ndef _slope_jvp",
    by="transforms.grad.of-the-gradient",
)
derivatives(
    "Hessian forgotten in the tangent of the gradient",
    "(_dot(task, g, t), *task.run(_formulas.hessian, (*task.rows, t)))",
    "(_dot(task, g, t), 0 * t)",
    by="transforms.second-order truth.autodiff",
)
jax_kernels = broken(JAX_KERNELS, "jax")
jax_kernels(
    "JAX's gradient p_y - 1",
    "at_label = (c * e_y - c) - c * s",
    "at_label = c * e_y - target.total",
    by=CONFIDENT,
)
jax_kernels(
    "JAX's ties of few classes counted once",
    "return jnp.squeeze(rest + (ones - 1), axis)",
    "return jnp.squeeze(rest, axis)",
    by="truth.table[float32-index-ties-0]",
)
jax_kernels(
    "z-loss missing from JAX's gradient of probabilities at the maximum",
    "at_maximum = at_maximum if more is None else at_maximum + spread(more)",
    "at_maximum = at_maximum + 0.0",
    by="tuned.values",
)
broken(JAX_KERNELS, "jax-jit", quick=False)(
    "JAX's probabilities scaled before they are subtracted",
    "at_maximum = ((spread(target.total) - q) - q * spread(s)) * spread(a / (1 + s))",
    "at_maximum = spread(scale) - (spread(a) * q) / spread(1 + s) - (spread(a) * q) * spread(s / (1 + s))",
    by="truth.options[float32-one-hot-sample-weight]",
)
jax_kernels(
    "JAX's kernels take a cap and ignore it",
    '_KNOWN = frozenset({"label_smoothing",',
    '_KNOWN = frozenset({"softcap", "label_smoothing",',
    by="contract.softcap.formula",
)
torch_kernels = broken(TORCH_KERNELS, "torch")
torch_kernels(
    "the compiler's gradient p_y - 1",
    "g = torch.where(r.x == m, at_maximum, scale * torch.exp(r.x - m) - q)",
    "g = scale * torch.exp(r.x - m) - q",
    by="tuned.values",
)
torch_kernels(
    "the compiler's ties counted once",
    " + (sum_of(xp, highest.to(r.x.dtype)) - 1)",
    "",
    by="tuned.values",
)
torch_kernels(
    "z-loss missing from the compiler's gradient",
    "total = total if r.z is None else total + 2 * r.z * (r.found + torch.log1p(s))",
    "total = total + 0.0",
    by="tuned.values",
)
torch_kernels(
    "NaN of ignored rows in the compiler's loss",
    "m, rest, missed = (torch.where(r.unusable, 0.0, part) for part in parts)",
    "m, rest, missed = parts",
    by="tuned.values",
)
torch_kernels(
    "NaN of ignored rows in the compiler's gradient",
    "return torch.where(r.unusable[..., None], 0.0, g)",
    "return g",
    by="tuned.values",
)
torch_kernels(
    "absent rows of the compiler not NaN",
    "parts = usable, rest + 0 * usable, missed_of(",
    "parts = torch.where(r.found < -1e38, 0.0, usable), rest, missed_of(",
    by="tuned.values",
)
torch_kernels(
    "the compiler's gradient reads the total of the labels, not that of the state",
    "(known[0], target._replace(total=known[1]))",
    "(known[0], target._replace(total=a))",
    by="tuned.values",
)
torch_kernels(
    "the compiler's kernels take a cap and ignore it",
    'frozenset({"label_smoothing",',
    'frozenset({"softcap", "label_smoothing",',
    by="tuned.values",
)
torch_kernels(
    "half precision not rounded by the compiler's gradient",
    "return (gradient_of(xp, options, r, s).to(rows[0].dtype),)",
    "return (gradient_of(xp, options, r, s),)",
    by="tuned.values",
)
broken(KERNELS, error="ValueError: assignment destination is read-only")(
    "NumPy's total of a state is the rows' scale itself",
    "(loss, f.m, f.s, target.total.copy())",
    "(loss, f.m, f.s, target.total)",
    by="tuned.values",
)
broken(TORCH, "torch")(
    "autodiff through the formulas",
    "if not task.has_derivative or not may_attach():",
    "if True:",
    by="truth.autodiff",
)
broken(AUTOGRAD, "torch")(
    "no derivative by labels and weights",
    "others = [i for i in range(1, len(arrays)) if ctx.needs_input_grad[i + 1]]",
    "others = []",
    by="transforms.grad.probabilities transforms.grad.weights",
)
broken(BINARY, "torch")(
    "binary derivative by a label of 1 is 0",
    "below = xp.where((no == 0) & (x == INF), 0.0,",
    "below = xp.where(no == 0, 0.0,",
    by="transforms.grad.binary-labels",
)
broken(FORMULAS, "torch")(
    "derivative of a tangent's derivative by a weight of 0 is 0",
    "[..., None] & ~usable",
    "[..., None]",
    by="transforms.grad.weight-of-a-derivative",
)
broken(FORMULAS, "torch")(
    "derivative by a weight of 0 is 0",
    UNUSABLE,
    "unusable = is_ignored(xp, options, target, z)",
    by="transforms.grad.weights",
)
broken(BINARY, "torch")(
    "derivative of |x| at 0",
    "t = xp.exp(xp.where(right, -x, x))",
    "t = xp.exp(-xp.abs(x))",
    by="transforms.grad.binary",
)
broken(PROBLEM, "torch")(
    "divisor is a constant",
    TOTAL,
    f"{TOTAL}.detach()",
    by="transforms.grad.probabilities transforms.grad.weights",
)
broken(TORCH, "torch", error="RuntimeError: Cannot access data pointer")(
    "labels read while mapped over rows",
    "if not array.is_cpu or not are_plain((array,)):",
    "if not array.is_cpu:",
    by="transforms.vmap.rows",
)
broken(TORCH, "torch")(
    "bfloat16 is not read",
    "return (torch_namespace, array) if array.dtype == torch.bfloat16",
    "return None if array.dtype == torch.bfloat16",
    by="contract.weights.wrong-in-each-dtype",
)
bridge = broken(BRIDGE, "torch")
bridge(
    "bfloat16 truncated",
    "    if a.dtype in HALF or dtype in HALF:\n",
    "    if dtype == BFLOAT16:\n"
    "        return np.ascontiguousarray(a).view(np.uint16).reshape(*a.shape, 2)[..., 1].view(BFLOAT16)\n"
    "    if a.dtype in HALF or dtype in HALF:\n",
    by="truth.half-precision[bfloat16-index-confident]",
)
bridge(
    "bits of bfloat16 taken for those of float16",
    "a = np.left_shift(bits, 16, out=bits).view(np.float32)",
    "a = bits.astype(np.uint16).view(np.float16).astype(np.float32)",
    by="truth.half-precision[bfloat16-index-confident]",
)

# The linear layer

linear, layer = broken(LINEAR), broken(LAYER)
linear(
    "bias forgotten in the gradient",
    "d_bias + products.sum_of_rows(xp, gradient)",
    "d_bias + 0 * products.sum_of_rows(xp, gradient)",
    by="gradient.linear contract.linear.half",
)
linear(
    "bias forgotten in the logits",
    "options.backend.products.affine(self.xp, hidden, *part[1:], options.dtype)",
    "options.backend.products.affine(self.xp, hidden, part[1], None, options.dtype)",
    by="gradient.linear",
)
broken(LINEAR, "array_api_strict")(  # NumPy leaves ignored rows out
    "ignored rows that are not finite spoil the gradient of the weight",
    "return self._usable(self.options.backend.products.loaded(self.xp, rows[0], self.options.dtype), rows)",
    "return rows[0]",
    by="contract.linear.ignored",
)
layer(
    "gradient of a layer's weight without the last block of rows",
    "        totals, parts = step(totals, tuple(a[block] for a in task.rows))\n",
    """        before = [None if weight is None else weight.copy() for weight, _ in totals]
        totals, parts = step(totals, tuple(a[block] for a in task.rows))
        if start and start + size >= (count if used is None else len(used)):
            for (weight, _), old in zip(totals, before):
                if weight is not None:
                    weight[...] = old
""",
    by="gradient.linear contract.linear.ignored",
)
formulas(
    "maximum of a block of a layer's classes not merged",
    "missed + distance(xp, total, top[..., None], m)",
    "missed",
    by="gradient.linear contract.linear.ignored",
)
formulas(
    "sum of a block of a layer's classes not moved to the common maximum",
    "(1 + rest) * xp.exp(m - top[..., None])",
    "1 + rest",
    by="gradient.linear",
)
formulas(
    "maximum of a layer's row looked for in every block of classes",
    "m = known[0] if known else options.backend.max(xp, x)",
    "m = options.backend.max(xp, x)",
    by="gradient.linear contract.linear.ignored",
)
formulas(
    "blocks of a layer's classes that tie counted once",
    "sum_of(xp, terms) + (sum_of(xp, xp.astype(highest, m.dtype)) - 1)",
    "sum_of(xp, terms)",
    by="contract.linear.ties",
)
layer(
    "gradient of a layer's weight is that of the last block of rows",
    "place += np.matmul(g[:, part].T, hidden, out=",
    "place[...] = np.matmul(g[:, part].T, hidden, out=",
    by="gradient.linear",
)
layer(
    "results of a layer's rows are those of its counted rows, in their order",
    "            result[block] = part\n",
    "            result[start : start + len(part)] = part\n",
    by="gradient.linear contract.linear.ignored",
)

# Kinds of slips in values: sizes, options beside options, numbers with all their bits, derivatives by each array


def values_of(file: str, subject: str = "numpy", **more: object) -> Callable[..., None]:
    """Declare defects that a check of the values, `by`, must notice."""
    declare = broken(file, subject, **more)
    return lambda name, *texts, by: declare(name, *texts, by=" ".join(f"values.{check}" for check in by.split()))


slip, slip_in_layer = values_of(FORMULAS, REFERENCE), values_of(LINEAR)
slip_in_arguments, slip_in_problem = values_of(ARGUMENTS), values_of(PROBLEM)
slip_in_memory, slip_in_numpys_layer = values_of(MEMORY), values_of(LAYER)
slip_on_toy = values_of(TOY, "toyarray")

values_of(LONG_ROWS, quick=False)(
    "gradient of a row longer than a block without its last block of classes",
    "    for start in range(0, count, step):\n        gradient[",
    "    for start in range(0, count - step, step):\n        gradient[",
    by="long-rows[1048583]",
)
slip_in_memory(
    "NumPy's sum without its odd elements",
    "return total if odd is None else total + odd",
    "return total",
    by="every-number-of-classes[cross_entropy_value_and_grad] every-number-of-classes[softmax]",
)
slip_in_memory(
    "NumPy's long sum without its last chunk",
    "return row_sum(np.einsum(terms, *chunks)) + np.einsum(terms, *(a[..., end:] for a in factors))",
    "return row_sum(np.einsum(terms, *chunks))",
    by="long-rows[5000]",
)
slip_in_numpys_layer(
    "rows of a block beyond 32 added up in part",
    " + np.add.reduce(g[end:], axis=0)\n",
    "\n",
    by="linear",
)
values_of(BACKEND, "toyarray")(
    "portable sum without its odd elements",
    "return a[..., 0] if odd is None else a[..., 0] + odd",
    "return a[..., 0]",
    by="every-number-of-classes[cross_entropy_value_and_grad] every-number-of-rows",
)
slip_in_layer(
    "bias gradient of the last block of rows alone",
    "b = None if d_bias is None else d_bias + products.sum_of_rows(xp, gradient)",
    "b = None if d_bias is None else products.sum_of_rows(xp, gradient)",
    by="linear",
)
slip_in_layer(
    "hidden gradient of the last block of classes alone",
    "d = more if d is None else d + more",
    "d = more",
    by="linear",
)
slip(
    "labels of a block of classes not counted from its first",
    "labels - start, stop - start)",
    "labels, stop - start)",
    by="linear",
)
slip_in_layer(
    "every row unused where one is",
    "xp.where((~usable & ignored)[..., None], 0.0, values)",
    "xp.where((~usable | xp.any(ignored))[..., None], 0.0, values)",
    by="linear",
)
slip_in_layer(
    "class weights of the first block of classes for all",
    "shared = None if w is None else w[part[0]], *numbers",
    "shared = None if w is None else w[: part[1].shape[0]], *numbers",
    by="linear",
)
slip_in_numpys_layer(
    "products of a float64 layer in float32",
    "np.matmul(hidden, self.in_dtype(weight[part], dtype).T, out=x[:, part])",
    "x[:, part] = hidden.astype(np.float32) @ weight[part].astype(np.float32).T",
    by="linear",
)
slip(
    "no class weights in smoothing of 1",
    "return Target(labels, at_label, times(even[..., None], w),",
    "w = w if not isinstance(smoothing, float) or smoothing < 1 else 1 + 0 * w\n"
    "    return Target(labels, at_label, times(even[..., None], w),",
    by="options",
)
slip(
    "no smoothing of probabilities with class weights",
    "q = q if even is None else",
    "q = q if even is None or w is not None else",
    by="options",
)
slip(
    "z-loss forgotten under a cap where the loss alone is asked for",
    "return (loss_from(xp, row.state, row.z),)",
    "return (loss_from(xp, row.state, row.z if options.softcap is None else None),)",
    by="options",
)
slip(
    "curvature of the cap forgotten with a z-loss",
    "if row.curvature is not None:",
    "if row.curvature is not None and row.z is None:",
    by="options",
)
slip(
    "mean of the vector forgotten in the Hessian's z-loss",
    "(origin + mean)",
    "origin",
    by="options",
)
slip_in_arguments(
    "weights rounded to float32",
    "    is_narrower = is_wider(xp, weight.dtype, dtype)  # then one",
    "    values = xp.astype(xp.astype(values, xp.float32), values.dtype)\n"
    "    is_narrower = is_wider(xp, weight.dtype, dtype)  # then one",
    by="options nll-loss binary",
)
slip_in_arguments(
    "a number's denominator rounded to float32",
    'return number("denominator", denominator) if isinstance(',
    'return float(__import__("numpy").float32(number("denominator", denominator))) if isinstance(',
    by="options binary",
)
slip(
    "loss in half precision",
    "return loss_from(xp, row.state, row.z), cast(xp, gradient, rows[0].dtype)",
    "return [cast(xp, a, rows[0].dtype) for a in (loss_from(xp, row.state, row.z), gradient)]",
    by="options",
)
slip_in_memory(
    "rows laid out without their last strip",
    "for start in range(0, len(a), step):",
    "for start in range(0, max(1, len(a) - step + 1), step):",
    by="many-rows",
)
slip_in_problem(
    "kept axis is the last",
    "xp.expand_dims(result, axis=axis)",
    "xp.expand_dims(result, axis=-1)",
    by="layouts[logsumexp]",
)
for name, old, new, by in (
    (
        "Jacobian of the softmax without its mean",
        "p * (v - _mean(task, p, v)[..., None])",
        "p * v",
        "derivative[grad-softmax] derivative[jvp-softmax] derivative[backward-softmax]",
    ),
    (
        "log_softmax's cotangents not summed",
        "v - p * task.options.backend.sum(task.xp, v)[..., None]",
        "v - p",
        "derivative[grad-log_softmax]",
    ),
    (
        "log_softmax's tangent not centred",
        "(t - _mean(task, p, t)[..., None],)",
        "(t,)",
        "derivative[jvp-log_softmax]",
    ),
    (
        "logsumexp's cotangent forgotten",
        "p) * cotangents[0][..., None]",
        "p) + 0 * cotangents[0][..., None]",
        "derivative[grad-logsumexp]",
    ),
    (
        "binary cotangent forgotten",
        "(*rows, _times(task, a, cotangents[0])))[1]",
        "(*rows, a))[1]",
        "derivative[grad-binary_cross_entropy]",
    ),
    (
        "loss forgotten beside its slope",
        "product if c is None else product + _loss_vjp(task, (c,), ())\n\n\ndef _probabilities",
        "product\n\n\ndef _probabilities",
        "derivative[grad-cross_entropy_jvp]",
    ),
    (
        "loss forgotten beside its gradient",
        "product if c is None else product + _loss_vjp(task, (c,), ())\n\n\ndef _slope_jvp",
        "product\n\n\ndef _slope_jvp",
        "derivative[grad-cross_entropy_value_and_grad]",
    ),
):
    values_of(DERIVATIVES, "torch")(name, old, new, by=by)
derivative = values_of(DERIVATIVES, "torch")
derivative(
    "sum of the weights not scaled by the cotangent",
    "(*rows, m, s, _times(task, total, c))",
    "(*rows, m, s, total)",
    by="derivative[backward-cross_entropy]",
)
values_of(KERNELS, "torch")(
    "NumPy's gradient of a state without its sum of exponentials",
    "Forward(x, None, m, np.exp(e, out=e), s)",
    "Forward(x, None, m, np.exp(e, out=e), 0 * s)",
    by="derivative[backward-cross_entropy]",
)
slip_in_torch = values_of(AUTOGRAD, "torch")
slip_in_torch(
    "kept gradient not scaled",
    "found = _times(residuals[0], first) if ctx.has_gradient else None",
    "found = residuals[0].clone() if ctx.has_gradient else None",
    by="derivative[backward-cross_entropy]",
)
slip_in_torch(
    "negated tangent",
    "found = None if tangents[0] is None else task.jvp(tangents[0])[1]",
    "found = None if tangents[0] is None else tuple(-t for t in task.jvp(tangents[0])[1])",
    by="derivative[jvp-cross_entropy]",
)
values_of(AUTOGRAD, "torch", error="RuntimeError: one of the variables")(
    "a layer's kept gradients written to by the first of two backward passes",
    "layer, is_kept = [arrays[i] for i in LinearTask.LAYER], _is_graph_kept()",
    "layer, is_kept = [arrays[i] for i in LinearTask.LAYER], False",
    by="derivative[backward-linear_cross_entropy]",
)
values_of(AUTOGRAD, "torch", error="RuntimeError: element 0")(
    "results that do not depend on what is differentiated",
    "if c is not None and r.requires_grad",
    "if c is not None",
    by="derivative[backward-cross_entropy_jvp]",
)
values_of(KERNELS)(
    "a result in memory that is used again",
    "e, missed = np.subtract(x, m[..., None], out=SCRATCH.output_like(x)), None",
    "e = USED.setdefault((x.shape, x.dtype), np.empty_like(x))\n"
    "    e, missed = np.subtract(x, m[..., None], out=e), None",
    "",
    "\nUSED: dict = {}\n",
    by="kept[cross_entropy_value_and_grad]",
)

slip_on_toy("sum stops at 2048", *computes("sum", "exact(x[..., :2048], **options)"), by="long-rows[5000]")
slip_on_toy(
    "matmul stops at 64",
    "",
    "\ndef matmul(a, b, /, exact=matmul):\n    return exact(a[:, :64], b[:64, :])\n",
    by="linear",
)
slip_on_toy(
    "log1p 1e-5 off above 1e5",
    *computes("log1p", "exact(x) * where(x > 1e5, 1.00001, 1.0)"),
    by="long-rows[200001]",
)
slip_on_toy(
    "max loses NaN in the last place",
    *computes("max", "exact(where(isnan(x) & (arange(x.shape[-1]) == x.shape[-1] - 1), -inf, x), **options)"),
    by="nan-anywhere",
)
values_of(TOY, "toyarray", error="ValueError: operands could not be broadcast")(
    "permute_dims of four axes swaps two",
    *computes("permute_dims", "exact(x, (more[0][0], more[0][2], more[0][1], more[0][3]) if x.ndim == 4 else more[0])"),
    by="layouts[cross_entropy_value_and_grad]",
)
slip_on_toy(
    "expand_dims at the front",
    *computes("expand_dims", "exact(x, axis=0)"),
    by="layouts[logsumexp]",
)
