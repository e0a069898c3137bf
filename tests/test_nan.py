"""Every comparison of the conformance kit fails on NaN, and each is one of `xent_any_conformance.compare`."""

import ast
from pathlib import Path

import nan_injection
import numpy as np
import pytest
from conftest import install_example, require

import xent_any_conformance
from xent_any_conformance import agreement, cases, compare, truth

NAN = np.nan
KIT = Path(xent_any_conformance.__file__).parent
ONE, TWO, GONE = np.ones(2), np.asarray([1.0, 2.0]), np.asarray([1.0, NAN])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (lambda: compare.equal(ONE, ONE), lambda: compare.equal(GONE, ONE)),
        (lambda: compare.equal(GONE, GONE), lambda: compare.equal(ONE, GONE)),
        (lambda: compare.within(TWO, ONE, 1), lambda: compare.within(GONE, ONE, 1)),
        (lambda: compare.within(GONE, GONE, 1), lambda: compare.within(ONE, GONE, 1)),
        (lambda: compare.within(ONE, ONE, 0), lambda: compare.within(ONE, ONE, NAN)),
        (lambda: compare.within(TWO, ONE, 1), lambda: compare.within(TWO, ONE, np.inf)),
        (lambda: compare.at_least(TWO, ONE), lambda: compare.at_least(GONE, ONE)),
        (lambda: compare.at_least(TWO, ONE), lambda: compare.at_least(TWO, GONE)),
        (lambda: compare.at_most(ONE, TWO), lambda: compare.at_most(GONE, TWO)),
        (lambda: compare.at_most(ONE, TWO), lambda: compare.at_most(ONE, GONE)),
        (lambda: compare.is_finite(TWO), lambda: compare.is_finite(GONE)),
        (lambda: compare.is_nan(GONE, np.isnan(GONE)), lambda: compare.is_nan(GONE, False)),
        (lambda: compare.is_nan(GONE, np.isnan(GONE)), lambda: compare.is_nan(GONE, True)),
        (lambda: compare.equal(ONE, ONE), lambda: compare.equal(np.ones(1), ONE)),
        (lambda: compare.same(ONE.shape, (2,)), lambda: compare.same(NAN, NAN)),
    ],
)
def test_each_comparison(right, wrong):
    before = compare.MADE.total()
    right()
    assert compare.MADE.total() > before
    with pytest.raises(AssertionError):
        wrong()


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_truth_has_a_bound_everywhere(dtype, kind):
    """So that no result is right because nothing can be said of it."""
    for case in cases.plain(dtype, kind).values():
        if case.x.shape[1] > 5:
            continue
        for row in cases.rows(case):
            for quantity, true in row._asdict().items():
                if not (quantity in ("slope", "product") and np.isinf(case.x).any()):
                    assert np.isfinite(true.high).all()
                    assert np.isfinite(true.bound).all(), f"{case.name} {quantity}"
                    assert np.isinf(truth.errors(true.high * NAN, true, dtype)[1]).all()


@pytest.mark.parametrize("part", ["values", "high", "bound"])
def test_a_share_that_is_not_finite_fails(part):
    true = truth.Expected(np.asarray([0.5]), np.zeros(1), np.zeros(1, int), np.asarray([1e-7]))
    values = np.asarray([0.5])
    assert truth.errors(values, true, "float32")[1] == 0
    if part == "values":
        values = values * NAN
    else:
        true = true._replace(**{part: np.asarray([NAN])})
    assert truth.errors(values, true, "float32")[1] == np.inf


@pytest.mark.parametrize("part", ["one", "bound"])
def test_solutions_that_are_nan_disagree(part, monkeypatch):
    problem = next(agreement.problems(quick=True))
    one = agreement.Solution(*(np.ones(2) for _ in agreement.Solution._fields))
    bound = one._replace(grad=GONE) if part == "bound" else one
    monkeypatch.setattr(agreement, "allowed", lambda problem, got: bound)
    other = one._replace(grad=GONE) if part == "one" else one
    shares = {pair["quantity"]: pair["share"] for pair in agreement.compare(problem, {"a": other, "b": one})}
    assert shares.pop("grad") == agreement.LARGEST
    assert set(shares.values()) == {0.0}


def test_no_check_compares_in_another_way():
    for path in (KIT / "checks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            assert not isinstance(node, ast.Assert), f"{where}: an assert, which nothing counts"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("testing", "allclose", "array_equal", "approx", "raises"), where


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return install_example("toyarray", tmp_path_factory)


@pytest.mark.parametrize(("subject", "checks"), [("numpy", ""), ("toyarray", "contract."), ("torch", "transforms.")])
def test_nan_in_any_one_comparison_fails(subject, checks, toy, monkeypatch, capfd):
    """Toyarray does not read labels, so that more is NaN there."""
    if subject == "torch":
        require("torch")
    monkeypatch.syspath_prepend(toy)
    assert nan_injection.main(subject, "--quick", "--checks", checks) == 0, capfd.readouterr().out


def test_a_comparison_that_takes_nan_is_noticed(tmp_path, monkeypatch, capfd):
    (tmp_path / "blind.py").write_text(
        "from xent_any_conformance import compare\ncompare._require = lambda *_: compare.MADE.update(['numbers'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arguments = "numpy", "--quick", "--checks", "contract.loss.formula", "-p", "blind"
    assert nan_injection.main(*arguments) == 1
    assert "wrong numbers are taken for right" in capfd.readouterr().out
