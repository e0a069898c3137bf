"""Some of PyTorch's transforms composed, compiled and not; ``python tests/compositions.py`` tries them all."""

import pytest
from conftest import require, some

torch = pytest.importorskip("torch")
require("torch")

import compositions  # noqa: E402

# Dynamo warns of what it hands back to Python.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "UserWarning")]
NAMES = list(compositions.FUNCTIONS)


def composed(order, step):
    """Each `step`-th composition of each function, other ones of each, of one row and of a batch in turn."""
    for offset, function in enumerate(NAMES):
        for i, names in enumerate(some(compositions.compositions(order), step, offset % step)):
            yield pytest.param(function, names, (i + offset) % 2 == 0, id=f"{'-'.join(names)}-{function}")


@pytest.mark.parametrize(("function", "names", "batched"), [*composed(1, 1), *composed(2, 8), *composed(3, 120)])
def test_eager(function, names, batched):
    assert compositions.wrong(function, names, batched=batched) is None


# Of one row, compiled, reverse mode in reverse mode was 0.
REVERSE = [("cross_entropy", (outer, "grad"), False) for outer in ("grad", "jacrev")]


@pytest.mark.parametrize(("function", "names", "batched"), [*REVERSE, *composed(2, 48), *composed(3, 680)])
def test_compiled(function, names, batched):
    assert compositions.wrong(function, names, batched=batched, backend="eager") is None


@pytest.mark.parametrize("function", NAMES)
def test_gradient_of_a_compiled_function_is_differentiated(function):
    """With ``create_graph``, among other terms: a second derivative that is forgotten there would raise nothing."""
    ours, theirs = compositions.FUNCTIONS[function]
    x, y, q = compositions.problem(True)
    x.requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(compositions.weighed(lambda a: ours(a, y, q)), backend="eager")

    def second(f):
        (g,) = torch.autograd.grad(f(x) + x.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), x)[0]

    expected = second(compositions.weighed(lambda a: theirs(a, y, q)))
    torch.testing.assert_close(second(compiled), expected, rtol=1e-12, atol=1e-14)
