"""Tuned kernels against the kernels of the reference in whose place they are."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from xent_any import Task
from xent_any import _formulas as reference
from xent_any._registry import GENERIC, backend_of

from ..compare import same, within
from ..plugin import check
from ..subjects import HALF, Subject
from ._contract import UNIT
from .test_values import COLUMNS, Case, converted, numbers, options_of, problems, target

ARCHITECTURE = "docs/architecture.md, To tune a kernel"


def tasks(subject: Subject, cases: Iterator[Case]) -> Iterator[Task]:
    """Hand on what the backend is asked to run for each case: whole problems, before they are cut into blocks.

    And the loss in two parts, as it is split where its derivative may be asked for.
    """
    backend = backend_of(type(subject([0.0])))  # that of a subject may only make its arrays in another way
    run = backend.run
    for case in cases:
        asked: list[Task] = []

        def seen(task: Task, asked: list[Task] = asked) -> Any:
            asked.append(task)
            return run(task)

        arguments = {
            name: converted(subject, a, case.dtype, case.reversed) if isinstance(a, np.ndarray) else a
            for name, a in {**case.arrays, **case.options}.items()
        }
        backend.run = seen  # type: ignore[method-assign]
        try:
            getattr(subject.functions, case.function)(**arguments)
        finally:
            del backend.run
        for task in asked:
            yield task
            if task.kernel is reference.loss and not task.summed:
                split = replace(task, kernel=reference.loss_and_state)
                yield split
                yield replace(task, kernel=reference.gradient, rows=(*task.rows, *split.reference()[1:]))


def require_tuned(subject: Subject) -> None:
    if not subject.backend.kernels:
        pytest.skip("no tuned kernels here")
    if subject.compiled:
        pytest.skip("traced arrays cannot be compared")


def bounds(subject: Subject, task: Task) -> list[Any]:
    """Twice the error that either of two kernels may make in each component of each result."""
    dtype = str(np.dtype(subject.numpy(task.xp.zeros((), dtype=task.options.dtype)).dtype))
    given = [None if a is None else subject.numpy(a) for a in task.arrays]
    exact = [None if a is None else a.astype(int if a.dtype.kind == "i" else "f8") for a in given]
    options, shared = reference.with_numbers(task.options, tuple(exact[len(task.rows) :]))
    options = options._replace(dtype=np.dtype("f8"), backend=GENERIC)
    rows, kernel = tuple(exact[: len(task.rows)]), task.kernel
    with np.errstate(all="ignore"):
        if kernel is reference.label_weight:
            return [8 * UNIT[dtype] * reference.label_weight(np, options, rows, shared)[0]]
        x = reference.capped(np, options, rows[0])[0]
        m = x.max(-1)
        far = np.where(np.isfinite(x), m[..., None] - x, 0.0)
        d = np.max(np.where(far < 40, far, 0.0), axis=-1)
        u = 2 * (8 + d) * UNIT[dtype]
        if kernel in (reference.softmax, reference.log_softmax, reference.logsumexp):
            (found,) = kernel(np, options, rows, shared)
            if kernel is reference.logsumexp:
                return [u * (np.abs(m) + np.abs(found))]
            return [(u[..., None] + 2 * far * UNIT[dtype]) * np.abs(found) + TINY[dtype]]
        row = reference.read(np, options, rows[:3], shared)
        total, s = row.state.total, row.state.rest
        losses = reference.loss_from(np, row.state, row.z)
        lse = 0 * m if row.z is None else np.abs(row.z) * (np.abs(m) + np.log1p(s)) * 4
        loss = u * (np.abs(losses) + lse * (np.abs(m) + np.log1p(s))) + TINY[dtype]
        p = np.exp(x - m[..., None]) / (1 + s)[..., None]
        q = np.abs(reference.dense_of(np, options, row.target, x))
        size = (total + lse)[..., None] * p + q
        if row.target.dense is None:  # T - Q is exactly 0 at the label
            at_label = lse[..., None] * p + (total * s / (1 + s))[..., None]
            size = np.where((x == m[..., None]) & (q > 0), at_label, size)
        gradient = (u[..., None] + 2 * far * UNIT[dtype]) * size + TINY[dtype]
    kind = subject.dtype(task.rows[0])
    gradient = gradient + (2 * UNIT[kind] * np.abs(size) + 2.0**-24 if kind in HALF else 0.0)
    if kernel is reference.gradient:
        return [gradient]
    if kernel is reference.loss_and_grad:
        return [loss, gradient]
    return [loss, u * np.abs(m), u * s + TINY[dtype], u * total][: 1 if kernel is reference.loss else 4]


TINY = {"float32": 2.0**-126, "float64": 2.0**-1022}
"""The smallest normal numbers: a library may compute with less as if it were 0."""


FUNCTIONS = "cross_entropy", "cross_entropy_value_and_grad"
"""Those whose kernels a backend may tune."""


def cases(subject: Subject, quick: bool, rng: np.random.Generator) -> Iterator[Case]:
    """Every pair of options on few rows, and shapes that kernels may lay out or cut in ways of their own."""
    if not subject.costly:
        yield from problems(subject, quick, rng, COLUMNS)
    yield from problems(subject, quick, rng, {**COLUMNS, "function": FUNCTIONS, "softcap": (None,)})  # few know a cap
    shapes = [(600, 10), (9, 300)] if quick or subject.costly else [(5000, 10), (700, 33), (90, 300), (3, 20000)]
    for number, (count, classes) in enumerate(shapes):
        for kind in ("index", "probabilities"):
            x, labels = numbers(rng, count, classes, scale=4.0), target(rng, kind, (count,), classes)
            x[0, 1], x[1, 0], x[-1, :2] = np.nan, np.inf, x[-1].max() + 1
            x[3 % count, 2] += 30
            x[2 % count] = -np.inf if count > 3 else x[2]
            row: dict[str, Any] = {
                "labels": kind,
                "class_weight": None,
                "sample_weight": "one is 0",
                "reduction": "none",
            }
            row |= {"label_smoothing": 0.1 * (number % 2), "z_loss": 0.01 * (number % 3)}
            given = options_of(rng, row, labels, (count,), classes)
            yield Case("cross_entropy_value_and_grad", {"logits": x, "labels": labels}, given, subject.precisions[0])
            yield Case("cross_entropy", {"logits": x, "labels": labels}, given, subject.dtypes[-1])
        for function in ("softmax", "log_softmax", "logsumexp"):
            yield Case(function, {"x": numbers(rng, count, classes, scale=4.0)}, {}, subject.dtypes[0])


@check(
    "tuned.values",
    "A tuned kernel returns what the reference's does, within the bound of both; what it declines, bit for bit.",
    source=ARCHITECTURE,
)
def test_values(subject: Subject, quick: bool, rng: np.random.Generator) -> None:
    require_tuned(subject)
    kernels, seen = subject.backend.kernels, set()
    for task in tasks(subject, cases(subject, quick, rng)):
        tuned, results = kernels.get(task.kernel), None
        with subject.backend.quiet():
            expected = task.reference()
            if tuned is not None and tuned.takes(task.options):
                options, shared = reference.with_numbers(task.options, task.shared)
                with subject.compiling():
                    results = tuned.kernel(task.xp, options, task.rows, shared)
            found = task.at_once() if results is None else task.reduced(results)
        same(len(found), len(expected), "number of results")
        if results is not None:
            seen.add(task.kernel)
            limits = bounds(subject, task)
            if task.summed:
                limits[0] = 2 * np.sum(np.where(np.isfinite(limits[0]), limits[0], 0.0))
        else:
            limits = [0.0] * len(found)
        for got, true in zip(found, expected, strict=True):
            same(subject.dtype(got), subject.dtype(true), "dtype")
        values = [[subject.numpy(a).astype(float) for a in results] for results in (found, expected)]
        if task.kernel is reference.loss_and_state:  # nobody reads the maximum and s of ignored rows
            ignored = values[1][3] == 0
            values = [[loss, *(np.where(ignored, 0.0, a) for a in (m, s)), total] for loss, m, s, total in values]
        for got, true, limit in zip(*values, limits, strict=True):
            within(got, true, np.where(np.isfinite(limit), limit, 0.0), task.kernel.__name__)
    same(seen, set(kernels), "tuned kernels that have run")


@check(
    "tuned.unknown-options",
    "A tuned kernel is not handed an option that it does not know, if that is not the default.",
    source=ARCHITECTURE,
)
def test_unknown_options(subject: Subject) -> None:
    require_tuned(subject)
    options = reference.Options(None, subject.backend)
    values: dict[str, Any] = {"label_smoothing": 0.5, "z_loss": 0.5, "softcap": 2.0, "given": ("z_loss",), "classes": 3}
    values |= {"axis": 0, "unrestricted": True}
    same(set(values), set(reference.Options._field_defaults), "options")
    for kernel, tuned in subject.backend.kernels.items():
        same(tuned.takes(options), True, f"{kernel.__name__} without options")
        for name, value in values.items():
            known = name in tuned.knows
            same(tuned.takes(options._replace(**{name: value})), known, f"{kernel.__name__} with {name}")
            same(tuned.takes(options._replace(**{name: subject([1.0])})), known, f"{kernel.__name__} with {name}")
