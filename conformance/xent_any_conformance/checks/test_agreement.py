"""Solutions of large problems; ``xent-any conformance`` compares those of all subjects."""

import pickle

import pytest

from .. import agreement
from ..compare import is_finite, same
from ..plugin import check
from ..subjects import Subject


@check(
    "agreement.solutions",
    "Every backend agrees with every other on large random problems with all options.",
    source="docs/contract.md, Accuracy",
)
def test_solutions(subject: Subject, quick, request):
    if not subject.has_values:
        pytest.skip("arrays without values: only shapes, dtypes and errors can be checked")
    solved = {}
    for problem in agreement.problems(quick=quick):
        if problem.dtype in subject.dtypes:
            solution = agreement.solve(subject, problem)
            for values in solution:
                is_finite(values)
            solved[problem.name] = solution
    same(bool(solved), True, "solved any")
    path = request.config.option.solutions
    if path:
        path.write_bytes(pickle.dumps(solved))
