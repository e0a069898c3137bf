"""What implementations of cross-entropy and array libraries get wrong, each with the checks that must notice.

A defect is a change of the source: of a text that occurs once in one file, and of what takes its place.
"""

from collections.abc import Callable
from typing import NamedTuple

ROWS, CHECK, FUNCTIONS, BACKEND, LINEAR = (
    f"xent_any/_{name}.py" for name in ("rows", "check", "functions", "backend", "linear")
)
NUMPY, STRICT, TORCH, JAX = (
    f"backends/xent_any_backends/{name}.py" for name in ("numpy", "array_api_strict", "torch/_backend", "jax")
)
DERIVATIVES = "xent_any/_derivatives.py"
TOY, TOY_ARRAY = (f"examples/toyarray/src/toyarray/{name}.py" for name in ("__init__", "_array"))


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


rows, rows_in_full = broken(ROWS), broken(ROWS, quick=False)
checked, checked_on_toy = broken(CHECK), broken(CHECK, "toyarray")

# The loss

LOSS = "        loss = _added(xp, options, a, goal.total, missed, state, lse)\n"
CONFIDENT = "truth.table[float32-index-confident]"


def loss_is(formula: str) -> tuple[str, str]:
    """Another formula for the loss of a row of weight ``w`` and index label ``y``."""
    return (
        LOSS,
        f"""        if goal.spread is None:
            w, y, pick = times(a, goal.total), goal.label, options.backend.pick
            x, lse = unbroken(xp, options, x, masked), state.m + xp.log1p(state.s)
            loss = {formula}
        else:
            loss = _added(xp, options, a, goal.total, missed, state, lse)
""",
    )


rows("lse - x_y", *loss_is("w * (lse - pick(xp, x, y))"), by=CONFIDENT)
rows_in_full(
    "no maximum subtracted",
    *loss_is("w * (xp.log(xp.sum(xp.exp(x), axis=-1)) - pick(xp, x, y))"),
    by="truth.table[float32-index-offset]",
)
rows(
    "epsilon inside the log",
    *loss_is("-w * xp.log(pick(xp, xp.exp(x - lse[..., None]), y) + 1e-12)"),
    by="contract.infinities.epsilon-in-log[index]",
)
rows(
    "probabilities clamped",
    *loss_is("-w * xp.log(xp.clip(pick(xp, xp.exp(x - lse[..., None]), y), 1e-7, 1 - 1e-7))"),
    by="contract.infinities.probabilities-clamped",
)
USUAL = "        e, s = backend.others(xp, d, k, m, keep=keep)\n"
FAR_STATE = "        return _state(k, m, e, others, root)._replace(top=highest), masked\n"


def others_are(change: str) -> tuple[str, str, str, str]:
    """Another sum of a row's classes but for the maximum, for all rows."""
    far = f"        e = backend.exp(xp, x, m)\n{change}        return Softmax(k, m, e, s, s, None, highest), masked\n"
    return USUAL, f"{USUAL}        m = highest\n{change}", FAR_STATE, far


rows(
    "s + n - 1 with n maxima",
    *others_are(
        "        tied = x == m[..., None]\n"
        "        s = backend.sum(xp, xp.where(tied, 0.0, e)) + xp.sum(xp.astype(tied, e.dtype), axis=-1) - 1\n"
    ),
    by=CONFIDENT,
)
rows(
    "ties counted once",
    *others_are("        e = xp.where(x == m[..., None], 0.0, e)\n        s = backend.sum(xp, e)\n"),
    by="truth.table[float32-index-ties-0] truth.table[float32-index-ties-1]",
)
rows("log(1 + s)", "near = c * xp.log1p(self.s)", "near = c * xp.log(1 + self.s)", by=CONFIDENT)
rows_in_full("sum of subnormal terms", "LIFT = 2.0**32", "LIFT = 1.0", by="truth.subnormal")
rows_in_full(
    "sum of subnormal terms where none was expected",
    "NEGLIGIBLE = 2.0**-100",
    "NEGLIGIBLE = 0.0",
    by="truth.subnormal",
)
rows("difference of logits overflows", "0.5 * m - 0.5 * x)", "0.5 * (m - x))", by="truth.overflow")
rows(
    "0 * -inf not masked",
    "xp.where((weight == 0) & (x == -INF), 0.0, 0.5 * m - 0.5 * x)",
    "(0.5 * m - 0.5 * x)",
    by="contract.infinities.zero-times-infinity",
)
SURE = "xp.isfinite(loss), loss, careful"
rows("infinite loss taken as it is", SURE, "~xp.isnan(loss), loss, careful", by="truth.overflow")
rows(
    "NaN loss taken as it is",
    SURE,
    "~xp.isinf(loss), loss, careful",
    by="contract.infinities.zero-times-infinity",
)
rows(
    "-inf maximum not guarded",
    "xp.where(xp.abs(top) == INF, top, state.m + xp.log1p(state.s))",
    "state.m + xp.log1p(state.s)",
    by="contract.infinities.maximum-not-guarded",
)
rows(
    "inf maximum subtracted",
    "        m, others = lost(xp, m, broken, masked), lost(xp, others, broken, masked)\n",
    "",
    by="contract.infinities.finite-number[index]",
)
rows_in_full(
    "maximum shared by the rows of a block",
    USUAL,
    "        base = xp.zeros_like(highest) + xp.max(highest)\n"
    "        e, s = backend.others(xp, x, k, base, keep=True)\n"
    "        root = xp.exp(0.5 * (base - highest))\n"
    "        return (Softmax(k, highest, e, s, root * s * root, root), None), ~xp.isnan(s)\n",
    by="relations.bitwise",
)

# The gradient and the Hessian

AT_LABEL = "at_label = (c * e_y - c) - state.s_times(xp, c)"
rows("p_y - 1", AT_LABEL, "at_label = c * e_y - f.a * goal.peak", by=CONFIDENT)
rows("label forgotten", AT_LABEL, "at_label = c * e_y", by="contract.gradient")
rows(
    "at a tie the label has the gradient of the others",
    AT_LABEL,
    f"{AT_LABEL}\n        at_label = xp.where((e_y == 1) & (state.s >= 1), c * e_y, at_label)",
    by="contract.gradient.formula gradient.ties",
)
SOFT_AT_K = "at_k = 0.0 - state.s_times(xp, scale * q_k) + scale * (goal.total - q_k)"
rows_in_full("Q p - q", SOFT_AT_K, "at_k = c - f.a * q_k", by="truth.table[float32-one-hot-confident]")
rows(
    "smoothed label at the maximum forgotten",
    "q_k = q_k + xp.where(label == k, goal.peak, xp.zeros_like(scale))",
    "pass",
    by="contract.smoothing.spread-over-others truth.options[float32-index-all]",
)
rows_in_full(
    "exp(x - lse)",
    "        g = backend.scaled(xp, g, factor)\n",
    "        pass\n"
    "    g = (with_extra * (1 + state.s))[..., None] * xp.exp(f.x - (state.m + xp.log1p(state.s))[..., None])\n",
    by="truth.table[float32-index-offset]",
)
LABEL = "times(a, goal.peak), label)"
rows(
    "smoothing missing from the gradient at the label",
    LABEL,
    "a * (goal.peak - goal.spread_at(xp, options, label)), label)",
    by="gradient.smoothing-missing",
)
rows(
    "z-loss missing from the gradient at the maximum",
    "at_k if extra is None else at_k + extra",
    "at_k",
    "at_label + extra * e_y",
    "at_label + xp.where(e_y == 1, xp.zeros_like(extra), extra * e_y)",
    by="contract.z-loss.formula",
)
rows(
    "z-loss missing from the gradient at the label",
    LABEL,
    "a * goal.peak + backend.pick(xp, g, label) * (0.0 if extra is None else extra / with_extra), label)",
    "at_label + extra * e_y",
    "at_label + xp.where(e_y == 1, extra, xp.zeros_like(extra))",
    by="contract.z-loss.formula gradient.z-loss-missing",
)
SCALED = "    scale = a / (1 + state.s)\n    c = "
rows(
    "gradient not scaled by the class weight",
    SCALED,
    "    goal = goal._replace(peak=1.0, total=1.0) if goal.spread is None else goal\n" + SCALED,
    by="contract.gradient.not-scaled-by-weight gradient.not-scaled-by-class-weight",
)
rows(
    "gradient not scaled by the sample weight",
    SCALED,
    "    a = xp.where(f.a == 0, f.a, 1.0)\n    f = f._replace(a=a)\n" + SCALED,
    by="contract.gradient.not-scaled-by-weight gradient.not-scaled-by-sample-weight",
)
broken(FUNCTIONS)(
    "gradient not scaled by the reduction",
    "return loss, problem.restore(grad)",
    "return loss, problem.restore(grad if problem.divisor is None else grad * problem.divisor)",
    by="contract.gradient.not-scaled-by-reduction gradient.not-scaled-by-reduction",
)
GRADIENT = "    return loss, problem.restore(grad)\n"
broken(FUNCTIONS)(
    "gradient of rows with an absent class",
    GRADIENT,
    "    absent = (logits == -float('inf')).any(axis=-1, keepdims=True) if logits.ndim == 2 else False\n"
    "    return loss, problem.restore(grad) * (1 - absent) + 0.5 * absent\n",
    by="truth.table[float32-index-masked-0] truth.table[float32-index-masked-3]",
)
broken(FUNCTIONS, quick=False)(
    "gradient of one class alone",
    GRADIENT,
    "    return loss, problem.restore(grad) + 7 * (logits.shape[-1] == 1)\n",
    by="truth.table[float32-probabilities-one-class] truth.table[float64-probabilities-one-class]",
)
rows(
    "softcap's chain rule missing along a tangent",
    "    g = f.uncapped(_gradient(xp, options, f))\n",
    "    g = _gradient(xp, options, f)\n",
    by="gradient.jvp-inconsistent",
)
broken(FUNCTIONS)(
    "gradient's classes along the last axis",
    "problem.restore(grad)",
    "grad",
    by="contract.axis.position",
)
rows(
    "Hessian not scaled by the weight",
    "scale = f.a / (1 + state.s)\n    outer",
    "scale = xp.where(f.a == 0, f.a, 1.0) / (1 + state.s)\n    outer",
    by="contract.gradient.not-scaled-by-weight",
)
HESSIAN = "h = state.exp_times(xp, outer) * centred"
rows("Hessian of the wrong sign", HESSIAN, f"{HESSIAN} * -1.0", by="relations.hessian-semidefinite")
rows(
    "Hessian's diagonal alone",
    HESSIAN,
    "h = state.exp_times(xp, outer) * u * (1 - p)",
    by="relations.hessian-of-a-shift",
)
rows_in_full(
    "Hessian as p (v - <p, v>)",
    "origin = options.backend.pick(xp, u, k)",
    "origin = xp.zeros_like(state.m)",
    by="truth.derivatives-of-far-rows",
)
rows(
    "smoothing's weights missing from the Hessian of an index label",
    "outer = scale * f.target.total if f.lse is None",
    "outer = scale * (f.target.total if f.target.spread is None else f.target.peak) if f.lse is None",
    by="values.options",
)
rows(
    "Hessian of ties counted once",
    "p = state.exp() / (1 + state.s)[..., None]",
    "p = xp.where(state.exp() == 1, 0.0, state.exp() / (1 + state.s)[..., None])",
    by="gradient.ties",
)

# Options

rows(
    "smoothing e / (C - 1)",
    "even, rest = smoothing if is_zero(smoothing) else _part(xp, options, a, count), 1 - smoothing\n",
    "even = smoothing / max(1, count - 1)\n    rest = 1 - smoothing - even\n",
    by="contract.smoothing.spread-over-others",
)
rows(
    "smoothing missing from the gradient",
    SCALED,
    "    if label is not None and goal.spread is not None:\n"
    "        peak = goal.peak / (1 - options.label_smoothing)\n"
    "        goal = goal._replace(peak=peak, spread=None, total=peak)\n" + SCALED,
    by="gradient.smoothing-missing",
)
checked(
    "smoothing in the divisor",
    "                (total,) = backend.run(task)\n        elif",
    "                (total,) = backend.run(task)\n"
    "                e = options.label_smoothing\n"
    "                total = (1 - e) * total + e * xp.mean(class_weight)\n"
    "        elif",
    by="contract.smoothing.divisor",
)
rows(
    "z-loss missing from the gradient",
    "extra = None if f.lse is None else 2 * (scale * options.z_loss * f.lse)",
    "extra = None",
    by="contract.z-loss.formula gradient.z-loss-missing",
)
rows_in_full(
    "z-loss missing from the Hessian",
    "state, z, k = f.softmax, options.z_loss, ",
    "state, z, k = f.softmax, 0, ",
    by="gradient.z-loss-missing",
)
rows(
    "z-loss scaled by the class weight",
    "loss + a * options.z_loss * lse * lse",
    "loss + a * total * options.z_loss * lse * lse",
    by="contract.z-loss.formula",
)
rows(
    "softcap's chain rule missing",
    "return g if self.slope is None else g * self.slope",
    "return g",
    by="contract.softcap.formula gradient.softcap-chain-rule-missing",
)
rows_in_full(
    "softcap's curvature missing",
    "if f.curvature is not None:",
    "if False:",
    by="gradient.softcap-chain-rule-missing",
)
rows_in_full(
    "softcap's slope as 1 - tanh**2",
    "4 * t / ((1 + t) * (1 + t))",
    "1 - tanh * tanh",
    by="truth.softcap[float32-saturated]",
)
rows(
    "softcap makes -inf finite",
    "return xp.where(finite, options.softcap * tanh, x), slope",
    "tanh = xp.where(x == -INF, -1.0, xp.where(x == INF, 1.0, tanh))\n    return options.softcap * tanh, slope",
    by="contract.softcap.mask-lost",
)

# Ignored rows, labels

rows(
    "NaN of an ignored row leaks",
    "else broken & uncounted",
    "else xp.zeros_like(broken)",
    by="contract.ignored.nan-leaks contract.ignored.sample-weight-0 contract.ignored.class-weight-0",
)
rows(
    "NaN in the vector of an ignored row leaks",
    "return xp.where(unused[..., None] & ~usable, 0.0, v)",
    "return v",
    by="contract.ignored.nan-leaks[cross_entropy_jvp] contract.ignored.nan-leaks[cross_entropy_hvp]",
)
rows(
    "NaN in the vector of a counted row lost",
    "unused[..., None] & ~usable",
    "unused[..., None] | ~usable",
    by="contract.ignored.counted-vector",
)
rows(
    "z-loss of a row without class weight lost",
    "return (a == 0) | is_zero if z == 0 else a == 0",
    "return (a == 0) | is_zero",
    by="contract.z-loss.uncounted",
)
checked(
    "ignored rows counted in the mean",
    "weight = xp.where(ignored, 0.0, backend.share(xp, like, dtype, (), 1.0) if weight is None else weight)",
    "pass",
    "    total = wrong = None  # each row's share",
    "    ignored = total = wrong = None  # each row's share",
    "    return labels, class_weight, scale, divisor\n",
    "    scale = scale if ignored is None else xp.where(ignored, 0.0, scale)\n"
    "    return labels, class_weight, scale, divisor\n",
    by="contract.ignored.counted-in-mean",
)
checked(
    "ignored label that is a class counted",
    "(value is None or not 0 <= value < count or backend.holds(xp, y != value))",
    "True",
    by="contract.labels.ignore-index",
)
checked(
    "ignored label that is the first class counted",
    "not 0 <= value < count",
    "not 0 < value < count",
    by="contract.labels.ignore-index",
)
broken(NUMPY)("label C is a class", "a.argmax()) < stop)", "a.argmax()) <= stop)", by="contract.labels.clamped")
broken(NUMPY)("label -1 is a class", "a.view(np.uintp)", "a", by="contract.labels.wrapped")


def labels_are(y: str) -> tuple[str, str]:
    """What takes the place of the labels ``y`` of C classes; -100 stays ignored."""
    old = "    y, value = _rows.cast(xp, labels, indices.dtype), indices.ignored\n"
    return old, f"{old}    y = {y}\n"


for declare, where in (checked, ""), (checked_on_toy, ", unread"):
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
checked(
    "labels truncated to int32",
    "if info.max < size else labels",
    "if info.max < 2**32 else xp.astype(labels, xp.int32)",
    by="contract.labels.truncated",
)
broken(BACKEND, "toyarray", quick=False)(
    "classes counted in int8",
    "return xp.sum(xp.where(self.arange(xp, a, a.shape[-1]) == k[..., None], a, 0.0), axis=-1)",
    "classes = xp.astype(self.arange(xp, a, a.shape[-1]), xp.int8)\n"
    "        return xp.sum(xp.where(classes == k[..., None], a, 0.0), axis=-1)",
    by="contract.labels.classes-counted-in-label-dtype",
)
SCALE = "xp.broadcast_to(weight if wrong is None else xp.where(wrong, NAN, weight), shape)"
checked_on_toy(
    "wrong labels are class 0, unread",
    SCALE,
    "xp.broadcast_to(weight, shape)",
    by="contract.labels.wrapped contract.labels.clamped contract.labels.modulo",
)
broken(CHECK, "dask-rows")(
    "wrong labels are class 0, lazy", SCALE, "xp.broadcast_to(weight, shape)", by="contract.labels.clamped"
)
broken(CHECK, "jax-jit")(
    "wrong labels are class 0, traced", SCALE, "xp.broadcast_to(weight, shape)", by="contract.labels.clamped"
)
checked_on_toy(
    "wrong labels of weight 0 are right",
    SCALE,
    "xp.broadcast_to(xp.where(wrong & (weight != 0), NAN, weight), shape)",
    by="contract.labels.wrong-but-weightless",
)
checked_on_toy(
    "wrong labels counted in the mean",
    "counted = counted if wrong is None else xp.where(wrong, 0.0, counted)",
    "pass",
    by="contract.labels.wrong-counted-in-mean",
)
checked(
    "negative probabilities taken",
    "else xp.isnan(total)",
    "else None",
    by="contract.labels.wrong-probabilities",
)

# Weights and reductions

checked(
    "sample weights unused",
    'weight = checked_weight(context, "sample_weight", sample_weight, dtype)\n\n',
    'checked_weight(context, "sample_weight", sample_weight, dtype)\n\n',
    by="contract.loss.formula[index] contract.loss.formula[probabilities]",
)
checked(
    "class weights unused",
    "shared = (class_weight, *plan.numbers)",
    "shared = (None, *plan.numbers)",
    by="contract.loss.formula[index] contract.loss.formula[probabilities]",
)
DIVIDED = "counted = xp.broadcast_to(counted, shape)"
checked(
    "class weights missing from the divisor",
    DIVIDED,
    "counted = xp.broadcast_to(weight, shape)",
    by="contract.weights.missing-from-divisor",
)
checked(
    "sample weights missing from the divisor",
    DIVIDED,
    "counted = xp.astype(weight != 0, weight.dtype) * (xp.ones(shape) if total is None else total)",
    by="contract.weights.missing-from-divisor",
)
checked(
    "denominator unused",
    'denominator if reduction == "mean" else 1.0)',
    'None if reduction == "mean" else 1.0)',
    by="contract.denominator.ignored",
)
checked(
    "mean over nothing is 0",
    "where(is_over_zero, NAN, total)",
    "where(is_over_zero, 0.0, total)",
    by="contract.mean.over-nothing contract.empty.batch",
)
checked(
    "gradient of the mean over nothing is NaN",
    "weight = xp.where(ignored, 0.0, weight / xp.where(divisor == 0, 1.0, divisor))",
    "weight = weight / divisor",
    by="contract.mean.over-nothing",
)
TOTAL = 'divisor = fitting(context, name, "weights whose sum is", backend.total(xp, counted))'
checked(
    "mean is 0 where the divisor overflows",
    TOTAL,
    "divisor = backend.total(xp, counted)",
    by="contract.weights.overflow-to-zero",
)
checked(
    "weights vanish in float32",
    "wrong = wrong | ((values == 0) & (weight != 0))",
    "pass",
    by="contract.weights.vanishing[cross_entropy] contract.weights.vanishing[binary_cross_entropy]",
)
checked(
    "negative weights vanish in float32",
    "(values == 0) & (weight != 0)",
    "(values == 0) & (weight > 0)",
    by="contract.weights.vanishing[cross_entropy]",
)
checked(
    "negative probabilities vanish in float32",
    "if is_wider(xp, labels.dtype, dtype):  # a negative number may round to 0",
    "if False:",
    by="contract.weights.vanishing[cross_entropy]",
)
checked("negative weights taken", "(values >= 0)) & (values < INF))", "(values < INF)))", by="contract.weights.wrong")

# Dtypes, arrays, devices

COMPUTED = "return xp.float32 if xp.finfo(dtype).eps > 1e-6 else dtype"
rows_in_full(
    "half precision summed in half precision",
    "unused, keep=keep, spread=goal.spread)\n",
    "unused, spread=goal.spread)\n"
    "        if logits.dtype != x.dtype:\n"
    "            e = options.backend.put(xp, state.e, state.k, 0.0)\n"
    "            state = state._replace(s=cast(xp, pairwise_sum(xp, cast(xp, e, logits.dtype)), x.dtype))\n",
    by="contract.dtypes.half-summed-in-half[float16] truth.half-precision[float16-index-confident]",
)
checked("half precision computed in half precision", COMPUTED, "return dtype", by="contract.dtypes.half[float16]")
checked("float32 becomes float64", COMPUTED, "return xp.float64", by="contract.dtypes.changed[float32]")
rows(
    "half precision's gradient is float32",
    "options.backend.store(xp, f.uncapped(_gradient(xp, options, f)), rows[0].dtype)",
    "f.uncapped(_gradient(xp, options, f))",
    by="contract.dtypes.half[float16]",
)
broken(NUMPY, quick=False)(
    "input mutated",
    "e = MEMORY.result_like(x) if times == 1 else MEMORY.empty_like(x)",
    "e = x",
    by="contract.inputs.written-to[softmax]",
)
broken(BACKEND)(
    "input mutated in ignored rows",
    "x = x if zeros is None else self.zeroed(xp, x, zeros)",
    "if zeros is not None:\n            x[zeros] = 0.0",
    by="contract.inputs.written-to[cross_entropy_value_and_grad]",
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
broken(NUMPY)(
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
broken(NUMPY, quick=False)(
    "memory shared by threads",
    "            self.kept = np.empty(",
    "            _Memory.kept = np.empty(",
    "        return np.subtract(x, m[..., None], out=MEMORY.empty_like(x))\n",
    "        rest = np.subtract(x, m[..., None], out=MEMORY.empty_like(x))\n"
    "        if MEMORY.used is not None:\n"
    "            with suppress(threading.BrokenBarrierError):\n"
    "                MEETING.wait(1)  # until another thread has come as far\n"
    "        return rest\n",
    "MEMORY = _Memory()\n",
    "MEMORY = _Memory()\nMEETING = threading.Barrier(2)\n",
    "len(_cpus()) or",
    "2 or",
    by="relations.bitwise",
)
broken(NUMPY, quick=False)(
    "many classes summed one after another",
    "        count = factors[0].shape[-1]\n",
    "        return np.cumulative_sum(math.prod(factors), axis=-1)[..., -1]\n",
    by="truth.table[float32-index-1000-classes-scale-0.001] truth.table[float32-index-100000-classes-confident]",
)
broken(NUMPY, quick=False)(
    "many classes summed by einsum alone",
    "CHUNK = 128",
    "CHUNK = 1 << 30",
    by="truth.table[float32-index-100000-classes-equal]",
)
broken(NUMPY, quick=False)(
    "rows on two axes laid out as if they were on one",
    "k * k.size",
    "k * k.shape[-1]",
    by="relations.bitwise",
)
broken(DERIVATIVES, "jax")(
    "derivatives where the gradient is 0 by chance are 0",
    "product = backend.zeroed(task.xp, g * _rows.cast(task.xp, t, g.dtype), task.rows[2] == 0)",
    "product = task.xp.where(g == 0, 0.0, g * _rows.cast(task.xp, t, g.dtype))",
    by="transforms.second-order",
)
broken(NUMPY, quick=False)(
    "rows of few classes read as if they were laid out one after another",
    "return flat[positions]",
    "return a.ravel()[positions]",
    by="contract.dtypes.in-blocks",
)
broken(NUMPY, quick=False)(
    "what is left of many classes not summed",
    " + np.einsum(terms, *(a[..., end:] for a in factors))",
    "",
    by="truth.table[float32-index-1000-classes-scale-1]",
)
broken(TORCH, "torch")(
    "bfloat16 truncated",
    "return _to_numpy(torch.from_numpy(a).to(torch.float16 if dtype == np.float16 else torch.bfloat16))",
    "return np.ascontiguousarray(a).view(np.uint16).reshape(*a.shape, 2)[..., 1].view(BFLOAT16)",
    by="truth.half-precision[bfloat16-index-confident]",
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
    "        return False\n\n    def no_waiting",
    "        return True\n\n    def no_waiting",
    by="contract.device.waited-for transforms.lazy.computed-early",
)
broken(CHECK, quick=False)(
    "softmax along the last axis alone",
    'axis = class_axis(x, axis, "x")',
    "axis = x.ndim - 1",
    by="contract.axis.position",
)
broken(BACKEND, quick=False, error="AssertionError|ValueError: labels: expected probabilities")(
    "last, smaller block not computed",
    "for start in range(0, lead[axis], step):",
    "for start in range(0, lead[axis] - step + 1, step):",
    by="relations.bitwise",
)

# Binary cross-entropy, and the parts

rows(
    "pos_weight missing from the binary gradient",
    "above, x, t, no, yes\n",
    "above, x, t, no, a * y\n",
    by="truth.binary[float32-0.3-2.5] gradient.binary-pos-weight-missing",
)
rows("binary log(1 + exp(-|x|))", "log1p = xp.log1p(t)", "log1p = xp.log(1 + t)", by="truth.binary[float32-1.0-1.0]")
rows(
    "binary p - y",
    "g = (no * xp.where(x >= 0, 1.0, t) - yes * xp.where(x >= 0, t, 1.0)) / (1 + t)",
    "g = (no + yes) * (xp.where(x >= 0, 1.0, t) / (1 + t)) - yes",
    by="truth.binary[float32-1.0-1.0]",
)
rows(
    "binary 0 * inf not masked",
    "below = xp.where((no == 0) & (x == INF), 0.0,",
    "below = (",
    by="contract.binary.infinite-logit",
)
checked(
    "binary mean over the number of elements",
    '        divisor = denominator if reduction == "mean" else 1.0\n',
    "        count = float(max(1, math.prod(logits.shape)))\n"
    '        divisor = 1.0 if reduction != "mean" else count if denominator is None else denominator\n',
    by="contract.binary.divisor",
)
rows(
    "log of the softmax",
    "return ((x - state.m[..., None]) - xp.log1p(state.s)[..., None],)",
    "return (xp.log(state.exp() / (1 + state.s)[..., None]),)",
    by="truth.parts[float32-confident]",
)
rows(
    "nll_loss of probabilities is negative",
    "if not options.backend.holds(xp, m <= 0):",
    "if False:",
    by="contract.log-probs.positive",
)
rows(
    "nll_loss allows what is less than one above 0",
    "(m > -slack * xp.where(low < LOWEST, LOWEST, low))",
    "(m > 1)",
    by="contract.log-probs.positive",
)
broken(ROWS, error="ValueError: log_probs.* 8.8817.*e-16; pass")(
    "nll_loss allows no rounding",
    "(m > -slack * xp.where(low < LOWEST, LOWEST, low))",
    "(m > 0)",
    by="contract.log-probs.rounded",
)
broken(NUMPY, error="IndexError: tuple index out of range")(
    "events without axes are not loaded",
    "if a.size >= MANY and a.shape[-1] <= FEW:",
    "if a.shape[-1] <= FEW and a.size >= MANY:",
    by="contract.shapes.no-axes",
)
rows(
    "nll_loss of a row with NaN is finite",
    "a = lost(xp, a, broken, masked)",
    "a = a",
    by="contract.infinities.nll-loss",
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
toy("sum drops the last element", *computes("sum", "exact(x[..., :-1], **options)"), by="contract.loss.formula[index]")
toy(
    "max ignores NaN", *computes("max", "exact(where(isnan(x), -inf, x), **options)"), by="contract.infinities.nll-loss"
)
toy("isfinite of inf", *computes("isfinite", "~isnan(x)"), by="contract.infinities.finite-number[index]")
toy("astype changes nothing", *computes("astype", "x"), by="contract.dtypes.changed[float32]")
broken(TOY_ARRAY, "toyarray")(
    "results lie on another device",
    "device = property(lambda self: Device())",
    'device = property(lambda self: Device() if self.ndim == 2 else Device("elsewhere"))',
    by="contract.device.moved",
)

# Frameworks that differentiate and map

broken(DERIVATIVES, "torch")(
    "gradient not scaled by the cotangent",
    "rows = x, labels, _times(task, a, cotangents[0])",
    "rows = x, labels, a",
    by="transforms.grad.logits",
)
broken(DERIVATIVES, "torch")(
    "Hessian forgotten in the derivative of the gradient",
    "return product if c is None else product + _loss_vjp(task, (c,), ())\n\n\ndef _slope_jvp",
    "return 0 * product if c is None else _loss_vjp(task, (c,), ())\n\n\ndef _slope_jvp",
    by="transforms.grad.of-the-gradient",
)
broken(DERIVATIVES, "torch")(
    "Hessian forgotten in the tangent of the gradient",
    "(_dot(task, g, t), *task.run(_rows.hessian, (*task.rows, t)))",
    "(_dot(task, g, t), 0 * t)",
    by="transforms.second-order truth.autodiff",
)
broken(JAX, "jax")(
    "Hessian transposed operation by operation",
    "if task.is_symmetric and SOLVES:",
    "if False:",
    by="truth.autodiff",
)
broken(TORCH, "torch")(
    "autodiff through the formulas",
    "if not task.has_derivative or not _may_attach():",
    "if True:",
    by="truth.autodiff",
)
broken(TORCH, "torch")(
    "no derivative by labels and weights",
    "others = [i for i in range(1, len(arrays)) if ctx.needs_input_grad[i + 2]]",
    "others = []",
    by="transforms.grad.probabilities transforms.grad.weights",
)
broken(ROWS, "torch")(
    "binary derivative by a label of 1 is 0",
    "below = xp.where((no == 0) & (x == INF), 0.0,",
    "below = xp.where(no == 0, 0.0,",
    by="transforms.grad.binary-labels",
)
broken(ROWS, "torch")(
    "derivative of a tangent's derivative by a weight of 0 is 0",
    "unused[..., None] & ~usable",
    "unused[..., None]",
    by="transforms.grad.weight-of-a-derivative",
)
broken(ROWS, "torch")(
    "derivative by a weight of 0 is 0",
    "else broken & uncounted",
    "else uncounted",
    by="transforms.grad.weights",
)
broken(ROWS, "torch")(
    "derivative of |x| at 0",
    "t = xp.exp(xp.where(right, -x, x))",
    "t = xp.exp(-xp.abs(x))",
    by="transforms.grad.binary",
)
broken(CHECK, "torch")(
    "divisor is a constant",
    TOTAL,
    f"{TOTAL}.detach()",
    by="transforms.grad.probabilities transforms.grad.weights",
)
broken(TORCH, "torch", error="RuntimeError: vmap")(
    "labels read while mapped over rows",
    "return array.is_cpu and _are_plain((array,))",
    "return array.is_cpu",
    by="transforms.vmap.rows",
)

# The linear layer

linear = broken(LINEAR)
linear(
    "bias forgotten in the gradient",
    "d_bias + backend.sum_of_rows(xp, gradient)",
    "d_bias + 0 * backend.sum_of_rows(xp, gradient)",
    by="gradient.linear contract.linear.half",
)
linear(
    "bias forgotten in the logits",
    "options.backend.affine(self.xp, hidden, *part[1:], options.dtype)",
    "options.backend.affine(self.xp, hidden, part[1], None, options.dtype)",
    by="gradient.linear",
)
broken(LINEAR, "array_api_strict")(  # NumPy leaves ignored rows out
    "ignored rows that are not finite spoil the gradient of the weight",
    "return self._usable(self.options.backend.load(self.xp, rows[0], self.options.dtype), rows)",
    "return rows[0]",
    by="contract.linear.ignored",
)
broken(NUMPY)(
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
rows(
    "maximum of a block of a layer's classes not merged",
    "missed + distance(xp, a[..., None] * totals, top[..., None], m)",
    "missed",
    by="gradient.linear contract.linear.ignored",
)
rows(
    "sum of a block of a layer's classes not moved to the common maximum",
    "lifted * roots * roots) + maxima",
    "lifted) + maxima",
    by="gradient.linear",
)
rows(
    "maximum of a layer's row looked for in every block of classes",
    "_state(k, m, e, others, root)._replace(has_k=has_k)",
    "_state(k, m, e, others, root)._replace(has_k=has_k | True)",
    by="gradient.linear contract.linear.ignored",
)
broken(NUMPY)(
    "gradient of a layer's weight is that of the last block of rows",
    "place += np.matmul(g[:, part].T, hidden, out=",
    "place[...] = np.matmul(g[:, part].T, hidden, out=",
    by="gradient.linear",
)
broken(NUMPY)(
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


slip, slip_in_numpy, slip_in_layer = values_of(ROWS), values_of(NUMPY), values_of(LINEAR)
slip_in_check, slip_on_toy = values_of(CHECK), values_of(TOY, "toyarray")

slip_in_numpy(
    "NumPy's sum without its odd elements",
    "return total if odd is None else total + odd",
    "return total",
    by="every-number-of-classes[cross_entropy_value_and_grad] every-number-of-classes[softmax]",
)
slip_in_numpy(
    "NumPy's long sum without its last chunk",
    "return self.sum(np, np.einsum(terms, *chunks)) + np.einsum(terms, *(a[..., end:] for a in factors))",
    "return self.sum(np, np.einsum(terms, *chunks))",
    by="long-rows[5000]",
)
values_of(NUMPY, quick=False)(
    "maximum at the first class of a row longer than a block",
    "is_here = 0 <= (at",
    "is_here = 0 < (at",
    by="long-rows[1048583]",
)
slip_in_numpy(
    "rows of a block beyond 32 added up in part",
    " + np.add.reduce(a[end:], axis=0)\n",
    "\n",
    by="linear",
)
values_of(ROWS, "toyarray")(
    "portable sum without its odd elements",
    "return a[..., 0] if odd is None else a[..., 0] + odd",
    "return a[..., 0]",
    by="every-number-of-classes[cross_entropy_value_and_grad] every-number-of-rows",
)
slip_in_layer(
    "bias gradient of the last block of rows alone",
    "b = None if d_bias is None else d_bias + backend.sum_of_rows(xp, gradient)",
    "b = None if d_bias is None else backend.sum_of_rows(xp, gradient)",
    by="linear",
)
slip_in_layer(
    "hidden gradient of the last block of classes alone",
    "d = more if d is None else d + more",
    "d = more",
    by="linear",
)
slip_in_layer(
    "labels of a block of classes not counted from its first",
    "labels - start, stop - start)",
    "labels, stop - start)",
    by="linear",
)
slip_in_layer(
    "every row unused where one is",
    "xp.logical_and(~usable, unused))",
    "xp.logical_or(~usable, xp.any(unused)))",
    by="linear",
)
slip_in_layer(
    "class weights of the first block of classes for all",
    "return None if w is None else w[part[0]], *numbers",
    "return None if w is None else w[: part[1].shape[0]], *numbers",
    by="linear",
)
slip_in_numpy(
    "products of a float64 layer in float32",
    "np.matmul(hidden, self.in_dtype(weight[part], dtype).T, out=x[:, part])",
    "x[:, part] = hidden.astype(np.float32) @ weight[part].astype(np.float32).T",
    by="linear",
)
slip(
    "no class weights in smoothing of 1",
    "spread = even * w\n",
    "spread = even * (w if not isinstance(rest, float) or rest else 1 + 0 * w)\n",
    by="options",
)
slip(
    "no smoothing of probabilities with class weights",
    "if not is_zero(even):\n            q =",
    "if not is_zero(even) and w is None:\n            q =",
    by="options",
)
slip(
    "z-loss of an index label forgotten under a cap",
    "return loss if lse is None else loss + a * options.z_loss * lse * lse",
    "return loss if lse is None or options.softcap else loss + a * options.z_loss * lse * lse",
    by="options",
)
slip(
    "curvature of the cap forgotten with a z-loss",
    "if f.curvature is not None:\n        h =",
    "if f.curvature is not None and f.lse is None:\n        h =",
    by="options",
)
slip(
    "mean of the vector forgotten in the Hessian's z-loss",
    "(origin + shift)))",
    "origin))",
    by="options",
)
slip_in_check(
    "weights rounded to float32",
    "    wrong = ~(((values > 0) if positive",
    "    values = xp.astype(xp.astype(values, xp.float32), values.dtype)\n    wrong = ~(((values > 0) if positive",
    by="options nll-loss binary",
)
slip_in_check(
    "a number's denominator rounded to float32",
    'return positive_number("denominator", denominator, DENOMINATOR)',
    'return float(__import__("numpy").float32(positive_number("denominator", denominator, DENOMINATOR)))',
    by="options binary",
)
slip(
    "loss in half precision",
    "return f.loss, options.backend.store(xp, f.uncapped(_gradient(xp, options, f)), rows[0].dtype)",
    "dtype = rows[0].dtype\n"
    "    return cast(xp, f.loss, dtype), options.backend.store(xp, f.uncapped(_gradient(xp, options, f)), dtype)",
    by="options",
)
slip_in_numpy(
    "rows laid out without their last strip",
    "for start in range(0, len(a), step):",
    "for start in range(0, max(1, len(a) - step + 1), step):",
    by="many-rows",
)
values_of(FUNCTIONS)(
    "kept axis is the last",
    "expand_dims(result, axis=operator.index(axis))",
    "expand_dims(result, axis=-1)",
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
slip_in_torch = values_of(TORCH, "torch")
slip_in_torch(
    "kept gradient not scaled",
    "found = _times(kept[0], first) if ctx.has_gradient else None",
    "found = kept[0].clone() if ctx.has_gradient else None",
    by="derivative[backward-cross_entropy]",
)
slip_in_torch(
    "negated tangent",
    "found = None if tangents[0] is None else task.jvp(tangents[0])[1]",
    "found = None if tangents[0] is None else tuple(-t for t in task.jvp(tangents[0])[1])",
    by="derivative[jvp-cross_entropy]",
)
values_of(TORCH, "torch", error="RuntimeError: one of the variables")(
    "a layer's kept gradients written to by the first of two backward passes",
    "layer, is_kept = [arrays[i] for i in LinearTask.LAYER], _is_graph_kept()",
    "layer, is_kept = [arrays[i] for i in LinearTask.LAYER], False",
    by="derivative[backward-linear_cross_entropy]",
)
values_of(TORCH, "torch", error="RuntimeError: element 0")(
    "results that do not depend on what is differentiated",
    "if c is not None and r.requires_grad",
    "if c is not None",
    by="derivative[backward-cross_entropy_jvp]",
)
slip_in_numpy(
    "a result in memory that is used again",
    "e = MEMORY.result_like(x) if times == 1 else MEMORY.empty_like(x)",
    "e = LAYER_MEMORY.setdefault((x.shape, x.dtype), np.empty_like(x)) if times == 1 else MEMORY.empty_like(x)",
    "\nclass _Memory(threading.local):",
    "\nLAYER_MEMORY: dict[Any, Any] = {}\n\n\nclass _Memory(threading.local):",
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
    "expand_dims counts from the front",
    *computes("expand_dims", "exact(x, axis=options['axis'] * (options['axis'] > 0))"),
    by="layouts[logsumexp]",
)
