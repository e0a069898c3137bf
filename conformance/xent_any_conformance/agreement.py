"""Large random problems that every subject solves, and how far their solutions are apart."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from . import truth
from .compare import measured
from .subjects import Subject

LARGEST = float(np.finfo(float).max)


class Problem(NamedTuple):
    """Logits, labels and options, the same for every subject."""

    name: str
    dtype: str
    x: Any  # (N, C)
    labels: Any  # (N,) or (N, C)
    vector: Any  # (N, C)
    options: Mapping[str, Any]


class Solution(NamedTuple):
    """What a subject returned: NumPy arrays."""

    losses: Any  # (N,)
    mean: Any  # ()
    grad: Any  # (N, C), of the mean
    hvp: Any  # (N, C), of the mean


def problems(*, quick: bool) -> Iterator[Problem]:
    """Small ones in float32 with every option; unless `quick` also without options, and large ones in both dtypes."""
    yield from (problem for problem in _problems(32, 200, "float32") if problem.options or not quick)
    if not quick:
        for dtype in ("float32", "float64"):
            yield from (problem for problem in _problems(128, 2000, dtype) if problem.options)


def _problems(n: int, count: int, dtype: str) -> Iterator[Problem]:
    rng = np.random.default_rng(5)
    x, v = 5 * rng.normal(size=(2, n, count))
    index = np.where(rng.random(n) < 0.3, -100, rng.integers(0, count, n))
    q = rng.dirichlet(np.ones(count), size=n)
    w, s = rng.random(count) + 0.1, rng.random(n) * (rng.random(n) < 0.9)
    every = {"class_weight": w, "sample_weight": s, "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 30.0}
    for name, labels, options in (
        ("index", index, {}),
        ("index, every option", index, every),
        ("probabilities", q, {}),
        ("probabilities, every option", q, every),
    ):
        yield Problem(f"{dtype}, {n} x {count}, {name}", dtype, x.astype(dtype), labels, v.astype(dtype), options)


def solve(subject: Subject, problem: Problem) -> Solution:
    """One subject's solution of a problem."""
    f, dtype = subject.functions, problem.dtype
    x, v = subject(problem.x, dtype), subject(problem.vector, dtype)
    labels = subject(problem.labels, None if problem.labels.ndim == 1 else dtype)
    options = {k: a if isinstance(a, float) else subject(a, dtype) for k, a in problem.options.items()}
    losses = f.cross_entropy(x, labels, **options, reduction="none")
    mean, grad = f.cross_entropy_value_and_grad(x, labels, **options)
    hvp = f.cross_entropy_hvp(x, v, labels, **options)
    return Solution(*map(subject.numpy, (losses, mean, grad, hvp)))


def allowed(problem: Problem, got: Solution) -> Solution:
    """How far two right solutions may be apart: twice the promised error, with the options' own roundings.

    The sizes that errors are relative to are those of `xent_any_conformance.truth`; that of the Hessian is the sum
    ``p_j (|v_j - <p, v>| + sum_k p_k |v_k - <p, v>|)``, which is not smaller.
    """
    x, labels, options = problem.x.astype(np.float64), problem.labels, problem.options
    n, count = x.shape
    u = 2.0 ** -truth.DIGITS[problem.dtype]
    cap, smoothing, z = (options.get(name, 0.0) for name in ("softcap", "label_smoothing", "z_loss"))
    s, w = options.get("sample_weight", np.ones(n)), options.get("class_weight", np.ones(count))
    if labels.ndim == 1:
        s = s * (labels >= 0)
        labels = np.eye(count)[np.maximum(labels, 0)]
    divisor = np.sum(s * (labels @ w))
    a = s[:, None]
    q = w * ((1 - smoothing) * labels + smoothing / count)
    total = _rows(q)
    slope, bend, drift = np.ones_like(x), np.zeros_like(x), np.zeros_like(x)
    if cap:
        tanh = np.tanh(x / cap)
        x, slope, bend = cap * tanh, 1 - tanh**2, 2 * np.abs(tanh) / cap
        drift = 6 * u * np.abs(x)
    distance = x.max(-1, keepdims=True) - x
    e = np.exp(-distance)
    p = e / _rows(e)
    far = np.max(np.where(e >= u * (_rows(e) - 1), distance, 0), -1, keepdims=True)
    lse = np.abs(x).max(-1, keepdims=True) + np.log(count)
    # Every option's roundings of truth.Options, and the sums by halving of the divisor and of the mean: log2(N) each.
    steps = 8 + 3 + 3 + 2 + 1 + 2 * np.log2(n)
    moved = drift + _rows(p * drift)  # of the logarithm of p
    size = total * p + q + 2 * z * lse * p
    curve = total + 2 * z * (lse + 1)

    losses = a * (
        (steps + far) * u * (got.losses[:, None] / np.where(a == 0, 1, a) + 2 * z * lse**2) + _rows(size * drift)
    )
    mean = np.sum(losses) / divisor + steps * u * abs(got.mean)
    inner = a * ((steps + 8 + distance + far) * u * size + curve * p * moved)
    v = problem.vector * slope
    centred = np.abs(v - _rows(p * v))
    spread = curve * p * (centred + _rows(p * centred)) + 2 * z * p * _rows(p * np.abs(v))
    hvps = slope * a * ((steps + 24 + 2 * (distance + far)) * u + 2 * moved) * spread
    hvps += bend * np.abs(problem.vector) * slope * (inner + 16 * u * a * size)
    return Solution(2 * losses[:, 0], 2 * mean, 2 * slope * inner / divisor, 2 * hvps / divisor)


def _rows(values: Any) -> Any:
    return values.sum(-1, keepdims=True)


def compare(problem: Problem, solutions: Mapping[str, Solution]) -> Iterator[dict[str, Any]]:
    """For each pair of subjects and each quantity the largest difference, and the largest share of what is allowed."""
    if not solutions:
        return
    bounds = allowed(problem, next(iter(solutions.values())))
    for a, b in combinations(solutions, 2):
        for quantity, left, right, bound in zip(Solution._fields, solutions[a], solutions[b], bounds, strict=True):
            difference = np.abs(measured(left).astype(float) - right)
            with np.errstate(invalid="ignore", divide="ignore"):
                shares = np.where((difference == 0) & np.isfinite(bound), 0.0, difference / bound)
            # JSON has neither infinity nor NaN
            difference, shares = (np.where(np.isfinite(a), a, LARGEST) for a in (difference, shares))
            yield {
                "problem": problem.name,
                "quantity": quantity,
                "a": a,
                "b": b,
                "largest": float(np.max(difference)),
                "share": float(np.max(shares)),
            }
