"""The conformance kit rejects every broken implementation and every broken array library, and none that is right."""

import broken
import pytest
from conftest import some

CASES = [*some(broken.DEFECTS, 4), *broken.controls()]


@pytest.fixture(scope="module")
def outcomes(request):
    """What the kit found of all cases that are to be tested, some at a time."""
    wanted = [item for item in request.session.items if getattr(item, "function", None) is test_kit]
    return dict(broken.run([item.callspec.params["case"] for item in wanted]))


@pytest.mark.parametrize("case", CASES, ids=[f"{case.name}, {case.subject}" for case in CASES])
def test_kit(case, outcomes):
    outcome = outcomes[case]
    if outcome.unusable:
        pytest.skip(outcome.unusable)
    assert not outcome.wrong
    assert outcome.failed or isinstance(case, broken.Control)


def test_a_defect_that_no_check_notices_survives():
    survivor = broken.Defect("a comment", "xent_any/_formulas.py", (("", "# nothing\n"),), ("contract.loss.formula",))
    ((_, outcome),) = broken.run([survivor])
    assert not outcome.failed
    assert outcome.wrong


def test_an_error_everywhere_is_not_noticing():
    survivor = broken.Defect(
        "an error", "xent_any/_formulas.py", (("", "del rest_of\n"),), ("contract.loss.formula",), "numpy-reference"
    )
    ((_, outcome),) = broken.run([survivor])
    assert not outcome.failed
    assert "NameError" in outcome.wrong[0]
