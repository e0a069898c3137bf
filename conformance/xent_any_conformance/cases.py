"""The rows that are hard, and their truth."""

import functools
import hashlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import truth
from .truth import Options, Row

KINDS = ("index", "one-hot", "probabilities")
BIG = {"float32": 0.9 * 2.0**128, "float64": 0.9 * 2.0**1023 * 2}
TINY = {"float32": 2.0**-149, "float64": 2.0**-1074}
MARGINS = [5, 10, 15, 17, 30, 59, 61, 67, 80, 84.5, 87, 88, 95, 100, 103, 104, 150, 690, 700, 740, 760]
"""How far the maximum is ahead: 67 and 690 are the last whose results have digits promised in float32 and float64."""
LAST = {"float32": 68, "float64": 692}
"""The same of an event's logit."""


class Case(NamedTuple):
    """Rows of logits, all with the same label, and the options of all of them."""

    name: str
    dtype: str
    kind: str
    x: Any  # (N, C)
    label: int
    options: Options = Options()
    peak: float = 0.0  # of the direction, at each row's maximum

    @property
    def probabilities(self) -> Any:
        """The labels as class probabilities, (N, C)."""
        if self.kind == "probabilities":
            return np.random.default_rng(1).dirichlet(np.ones(self.x.shape[1]), size=len(self.x)).astype(self.dtype)
        one_hot = np.zeros(self.x.shape, self.dtype)
        one_hot[:, self.label] = 1
        return one_hot

    @property
    def labels(self) -> Any:
        """The labels as the functions are given them."""
        return np.full(len(self.x), self.label) if self.kind == "index" else self.probabilities

    @property
    def direction(self) -> Any:
        """What the derivatives are multiplied by, (N, C)."""
        v = np.random.default_rng(2).normal(size=self.x.shape).astype(self.dtype)
        if self.peak:
            v = np.rint(4 * v)  # whose differences from the peak are exact
            v[np.arange(len(v)), self.x.argmax(-1)] = self.peak
        return v


def tables(dtype: str) -> Iterator[tuple[str, Any, int]]:
    """Rows that are hard, each with index labels: name, logits, label."""
    rng = np.random.default_rng(7)
    big, tiny = BIG[dtype], TINY[dtype]
    yield "confident", [[m, 0, 0, 0] for m in MARGINS], 0
    yield "not-the-label", [[m, 0, 0, 0] for m in MARGINS], 1
    yield "offset", [[o + 1, o, o - 2] for o in (1e3, 1e4, 1e6, -1e6)], 0
    for label in (0, 1, 3):
        yield f"ties-{label}", [[3, 3, 3, 1], [3, 1, 3, 3], [0, 0, 0, 0], [3, 9, 9, 9], [7, 7, -60, -60]], label
        yield f"subnormal-logits-{label}", [[7 * tiny, 0, 3 * tiny, -tiny], [1e-40, 0, 2e-42, 0]], label
        yield f"huge-{label}", [[big, -big, 0, 1], [big, big, 0, -big], [-big] * 4, [0, 1, 2, big]], label
        yield f"masked-{label}", [[-np.inf if j not in (label, 2) else j for j in range(4)]], label
    for label in (0, 1):
        far = [[100, *[0] * 299], [61, *[1] * 299], [526.9, *rng.normal(size=299)]]
        yield f"far-runner-up-{label}", far, label
        yield f"two-classes-{label}", rng.normal(size=(20, 2)) * 10, label
    yield "one-class", [[3.0], [-big]], 0
    for scale in (1e-3, 1, 5, 20, 100):
        x = rng.normal(size=(2, 1000)) * scale
        yield f"1000-classes-scale-{scale}", x, 5
        yield f"1000-classes-scale-{scale}-largest", x[:1], int(x[0].argmax())
    x = rng.normal(size=(1, 100_000))
    yield "100000-classes", x, 3
    yield "100000-classes-equal", [[2.3, *[0] * 99_999]], 3
    yield "100000-classes-confident", np.concatenate([[[25.0]], x[:, 1:]], axis=1), 0


@functools.cache
def plain(dtype: str, kind: str) -> dict[str, Case]:
    """The cases without options, by name; of probabilities those with up to 1000 classes that are all there."""
    cases = (Case(name, dtype, kind, np.asarray(x, dtype), label) for name, x, label in tables(dtype))
    return {
        case.name: case
        for case in cases
        if kind != "probabilities" or (case.x.shape[1] <= 1000 and np.isfinite(case.x).all())
    }


@functools.cache
def with_options(dtype: str, kind: str) -> dict[str, Case]:
    """Rows that are confident, tied and neither, with no option, with each and with all of them, by name."""
    rng = np.random.default_rng(11)
    x = np.concatenate([[[17, 0, 1, -2, 0], [3, 3, 1, 0, 3], [0, 0, 0, 30, 0]], 4 * rng.normal(size=(5, 5))]).astype(
        dtype
    )
    weights = np.asarray([0.5, 2, 0.7, 1, 3], dtype)
    given = {
        "none": Options(),
        "class-weight": Options(weights=weights),
        "sample-weight": Options(scale=0.3),
        "smoothing": Options(smoothing=0.1),
        "z-loss": Options(z_loss=0.01),
        "softcap": Options(softcap=20.0),
        "all": Options(weights, 0.3, 0.1, 0.01, 20.0),
    }
    return {name: Case(name, dtype, kind, x, 0, options) for name, options in given.items()}


def outlier(dtype: str) -> Case:
    """Rows of nearly equal logits, whose direction is an outlier at the maximum."""
    x = np.random.default_rng(13).normal(size=(8, 64)) / 1024
    return Case("outlier", dtype, "index", x.astype(dtype), 0, peak=300001.0)


def events(dtype: str) -> Any:
    """Logits of events that are hard, as far as exp(-|z|) is a normal number."""
    edges = [0, 1e-3, 10, -10, 17, -17, 50, -50, LAST[dtype], -LAST[dtype], 85, -85]
    return np.concatenate([edges, 10 * np.random.default_rng(3).normal(size=20)]).astype(dtype)


def rows(case: Case) -> list[Row]:
    """The truth of each row of a case."""
    soft = case.kind == "probabilities" or case.options.smoothing != 0
    # A one-hot row and its index have the same truth.
    return _rows(case._replace(kind=case.kind if case.kind == "probabilities" else "index"), soft)


def _rows(case: Case, soft: bool) -> list[Row]:
    def compute() -> list[Row]:
        each = zip(case.x, case.probabilities, case.direction, strict=True)
        return [truth.row(x, q, v, case.dtype, case.options, soft=soft) for x, q, v in each]

    found: list[Row] = _kept(pickle.dumps((case, soft)), compute)
    return found


@functools.cache
def _memory() -> dict[str, Any]:
    return {}


def _kept(key: bytes, compute: Any) -> Any:
    """What `compute` returns; kept in the folder XENT_ANY_TRUTHS, where there is one, for the processes of a run."""
    name = hashlib.sha256(key).hexdigest()
    if name not in _memory():
        folder = os.environ.get("XENT_ANY_TRUTHS")
        path = Path(folder or ".", name)
        if folder and path.exists():
            _memory()[name] = pickle.loads(path.read_bytes())
        else:
            _memory()[name] = compute()
            if folder:
                part = path.with_suffix(f".{os.getpid()}")
                part.write_bytes(pickle.dumps(_memory()[name]))
                part.replace(path)
    return _memory()[name]
