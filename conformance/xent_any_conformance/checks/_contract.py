"""Rows that many checks look at, computed in one call; their truth, and how near to it a result must be.

Rows are independent, and on libraries that compile or are lazy a call costs up to half a second.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from .. import oracle
from ..compare import same, within
from ..subjects import Subject

INF, NAN = np.inf, np.nan
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# 8 rows of 5 classes; even half precision holds the numbers.
RNG = np.random.default_rng(20240229)
X = np.clip(np.round(RNG.normal(size=(8, 5)) * 16) / 8, -4, 4)
Y = np.asarray([1, 3, 0, 2, 1, 1, 0, 4])
Q = np.where(np.arange(5) == Y[:, None], 9, RNG.integers(0, 4, (8, 5))) / 16  # of sums other than 1
V = np.round(RNG.normal(size=(8, 5)) * 8) / 4
S = np.asarray([1, 0.5, 2.5, 0.25, 1, 4, 0.5, 2])
W = np.asarray([0.5, 2, 1, 3, 0])
WEIGHTED: dict[str, Any] = {"class_weight": W, "sample_weight": S}

BROKEN = np.asarray(
    [[NAN, 0, 1, 2, 3], [0, NAN, -INF, 1, 2], [INF, 0, 1, 2, 3], [0, 1, 2, 3, INF], [INF, -INF, 0, 1, 2], [-INF] * 5]
)
ANYTHING = np.concatenate([BROKEN, X[:1]])
ABSENT = np.asarray([[0.5, -INF, 2, -1, 1], [-INF, 3, -INF, -INF, -INF], [-INF, 0, 1, 2, -INF]])
FAR = np.asarray([[0.0, 300, 270, 299, -50]])
SURE = np.asarray([[60.0, 0, 0, 0, 0]])
WRONG = {"wrapped": [-1, -2, -5], "clamped": [5, -6, 2**31 - 1], "modulo": [6, 13, 5002]}


class Group(NamedTuple):
    """Rows that are alike."""

    x: Any
    labels: Any
    weight: Any = 1.0
    direction: Any = 1.0


def groups(subject: Subject, labels: str) -> dict[str, Group]:
    """The rows computed in one call, with index labels or with probabilities; or events of binary cross-entropy."""
    huge = 0.99 * float(np.finfo(subject.dtype(subject(X))).max)
    unusable = np.resize([[NAN] * 5, [INF] * 5, [huge, -huge, huge, -huge, 1]], ANYTHING.shape)
    if labels == "index":
        found = {
            "finite": Group(X, Y, S, V),
            "absent": Group(ABSENT, [2, 1, 3]),
            "on absent": Group(ABSENT[[0, 2]], [1, 0]),
            "far": Group(FAR, [0]),
            "sure": Group(SURE, [0]),
            "broken": Group(BROKEN, [1] * 6),
            "ignored": Group(ANYTHING, [-100] * 7, 1.0, unusable),
            "weightless": Group(ANYTHING, [1] * 7, 0.0, unusable),
            "class of weight 0": Group(ANYTHING, [4] * 7, 1.0, unusable),
        }
        if not subject.reads(subject(Y)):  # where they are, they raise
            found |= {name: Group(X[:3], wrong) for name, wrong in WRONG.items()}
            found["wrong and weightless"] = Group(X[:2], [-1, 5], 0.0)
    elif labels == "events":
        found = {
            "finite": Group(X[:, 0], np.arange(8) / 8, S),
            "far": Group([-300, 300, 60, -60], [1, 0, 1, 0]),
            "sure": Group([INF, -INF], [1, 0]),
            "surprised": Group([INF, -INF, INF, -INF], [0, 1, 0.25, 0.25]),
            "broken": Group([NAN, NAN], [1, 0]),
            "weightless": Group([NAN, INF, -INF, INF, 3], [1, 0, 1, 0.5, 1], 0.0),
        }
        if not subject.reads(subject(S)):
            found["wrong"] = Group([1, 1, 1, 1], [-0.5, 1.5, NAN, INF])
    else:
        found = {
            "finite": Group(X, Q, S, V),
            "one-hot": Group(X, np.eye(5)[Y], S, V),
            "absent": Group(ABSENT, [[0.25, 0, 0.75, 0, 0], [0, 1, 0, 0, 0], [0, 0.5, 0, 0.5, 0]]),
            "on absent": Group(ABSENT[[0, 2]], [[0.5, 0.5, 0, 0, 0], [0.25, 0.25, 0.25, 0.25, 0]]),
            "far": Group(FAR, np.eye(5)[[0]]),
            "sure": Group(SURE, np.eye(5)[[0]]),
            "broken": Group(BROKEN, [[0.25, 0.25, 0.25, 0.25, 0]] * 6),
            "weightless": Group(ANYTHING, [[0.25, 0.25, 0.25, 0.25, 0]] * 7, 0.0, unusable),
            "class of weight 0": Group(ANYTHING, [[0, 0, 0, 0, 1]] * 7, 1.0, unusable),
            "no target": Group(ANYTHING, [[0] * 5] * 7, 1.0, unusable),
        }
        if not subject.reads(subject(Q)):
            found["wrong"] = Group(X[:3], [[0.5, -0.5, 1, 0, 0], [NAN, 1, 0, 0, 0], [0, INF, 0, 0, 0]])
    if not subject.reads(subject(S)):
        found["wrong weight"] = Group(found["finite"].x[:3], found["finite"].labels[:3], [-1.0, NAN, INF])
    more = 64 - sum(len(group.x) for group in found.values())  # always of one shape, for which a library may compile
    first = found["finite"]
    found["more"] = Group(*(np.repeat(np.asarray(a)[:1], more, axis=0) for a in (first.x, first.labels, first.weight)))
    return {
        name: Group(
            np.asarray(group.x, float),
            np.asarray(group.labels),
            np.broadcast_to(np.asarray(group.weight, float), len(group.x)),
            np.broadcast_to(group.direction, np.shape(group.x)),
        )
        for name, group in found.items()
    }


ARGUMENTS = {
    "cross_entropy": ("x", "labels"),
    "cross_entropy_value_and_grad": ("x", "labels"),
    "cross_entropy_jvp": ("x", "direction", "labels"),
    "cross_entropy_hvp": ("x", "direction", "labels"),
    "nll_loss": ("x", "labels"),
    "softmax": ("x",),
    "log_softmax": ("x",),
    "logsumexp": ("x",),
    "binary_cross_entropy": ("x", "labels"),
    "binary_cross_entropy_value_and_grad": ("x", "labels"),
}


def not_positive(x: Any) -> Any:
    """What may be log-probabilities, but for infinities and NaN."""
    return np.where(np.isinf(x), x, -np.abs(x))


class Computed:
    """What one call returns for all rows of all groups: ``self[name]`` are the results of one group."""

    def __init__(self, subject: Subject, function: str, labels: str, options: dict[str, Any]) -> None:
        self.subject, self.groups, self.options = subject, groups(subject, labels), options
        x, goal, weight, direction = map(np.concatenate, zip(*self.groups.values(), strict=True))
        x = not_positive(x) if function == "nll_loss" else x
        shared = {"pos_weight": np.asarray([2.0])} if labels == "events" else {"class_weight": W}
        self.inputs = {"x": x, "labels": goal, "direction": direction, "sample_weight": weight, **shared}
        self.arrays = {name: subject(values) for name, values in self.inputs.items()}
        names = ARGUMENTS[function]
        if "labels" in names:
            weights = {name: self.arrays[name] for name in (*shared, "sample_weight")}
            options = {**weights, "reduction": "none", **options}
        found = getattr(subject.functions, function)(*(self.arrays[name] for name in names), **options)
        self.results = found if isinstance(found, tuple) else (found,)

    @functools.cached_property
    def values(self) -> list[Any]:
        """The results in NumPy."""
        return [self.subject.numpy(result) for result in self.results]

    def __getitem__(self, group: str) -> list[Any]:
        """The results of one group, in NumPy."""
        names = list(self.groups)
        start = sum(len(self.groups[name].x) for name in names[: names.index(group)])
        return [values[start : start + len(self.groups[group].x)] for values in self.values]

    def formula(self, group: str) -> tuple[Any, Any]:
        """Loss and gradient of the group's rows, from their definition."""
        x, labels, weight, _ = self.groups[group]
        if x.ndim == 1:
            return binary_formula(x, labels, 2.0, weight)
        return formula(x, labels, class_weight=W, sample_weight=weight, reduction="none", **self.options)

    def close(self, group: str, *expected: Any, roundings: float = 64, relative: bool = False) -> None:
        """Compare each result with what is expected of it."""
        for result, got, true in zip(self.results, self[group], expected[: len(self.results)], strict=True):
            if true is not None:
                near(got, self.subject.dtype(result), true, roundings, relative)

    def agrees(self, group: str, *, loss: bool = True, grad: bool = True) -> None:
        """Compare the loss and the gradient, or one of both, with the formula."""
        expected = self.formula(group)
        self.close(group, expected[0] if loss else None, expected[1] if grad else None)


COMPUTED: dict[Any, Computed] = {}


def rows(
    subject: Subject, function: str = "cross_entropy_value_and_grad", labels: str = "index", **options: Any
) -> Computed:
    """What a function returns for all rows, computed once; `labels` is index or probabilities."""
    if function.startswith("binary"):
        labels = "events"
    key = (id(subject), function, labels, *options.items())
    if key not in COMPUTED:
        COMPUTED[key] = Computed(subject, function, labels, options)
    return COMPUTED[key]


def few(subject: Subject, quick: bool) -> bool:
    """Whether fewer options will do: also where a library compiles each combination, which takes it half a second."""
    return quick or "jit" in subject.backend.transforms


def formula(x: Any, labels: Any, **options: Any) -> tuple[Any, Any]:
    """Loss and gradient from their definition: of rows that can be computed, or do not count."""
    with np.errstate(all="ignore"):  # infinities, and the mean over nothing
        return oracle.cross_entropy_value_and_grad(x, labels, **options)


def binary_formula(x: Any, labels: Any, pos_weight: Any = 1.0, sample_weight: Any = 1.0) -> tuple[Any, Any]:
    """Loss and gradient of each event from their definition."""
    options = {"pos_weight": pos_weight, "sample_weight": sample_weight, "reduction": "none"}
    with np.errstate(all="ignore"):
        return oracle.binary_cross_entropy_value_and_grad(x, labels, **options)


def near(got: Any, dtype: str, expected: Any, roundings: float = 64, relative: bool = False) -> None:
    """Compare NumPy arrays of results computed in `dtype` with the truth.

    The promised error is (8 + d) u, where d, the spread of the logits, is at most 16 here, and a few u for weights and
    sums of 8 rows: 64 u leave a factor of 2. Unless `relative`, it is of the largest expected value: where
    probabilities and labels cancel, the promise is one for their sizes.
    """
    expected = np.asarray(expected, float)
    size = np.abs(expected) if relative else np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0)
    within(got, expected, roundings * UNIT[dtype] * size)


def close(subject: Subject, got: Any, expected: Any, roundings: float = 64, *, relative: bool = False) -> None:
    """Compare the subject's array with the truth, and its shape."""
    same(got.shape, np.shape(expected), "shape")
    near(subject.numpy(got), subject.dtype(got), expected, roundings, relative)


def value_and_grad(subject: Subject, x: Any, labels: Any, **options: Any) -> Any:
    """Loss and gradient of NumPy arrays, as the subject's arrays."""
    options = {name: subject(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    return subject.functions.cross_entropy_value_and_grad(subject(x), subject(labels), **options)


def agrees(subject: Subject, x: Any, labels: Any, **options: Any) -> None:
    """Compare loss and gradient with the formula."""
    for got, expected in zip(value_and_grad(subject, x, labels, **options), formula(x, labels, **options), strict=True):
        close(subject, got, expected)
