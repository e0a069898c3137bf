"""What people hand to PyTorch's functions: numbers that are 0-d tensors, and sizes that a compiler does not know."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
from conftest import LOSSES, require, some

import xent_any

torch = pytest.importorskip("torch")
require("torch")

N, C, D = 3, 4, 2
PARTS = [xent_any.logsumexp, xent_any.log_softmax, xent_any.softmax]
NUMBERS = {"label_smoothing": 0.2, "z_loss": 0.1, "softcap": 2.0, "denominator": 1.7}
WRONG = {"label_smoothing": 1.5, "z_loss": -0.1, "softcap": 0.0, "denominator": 0.0}
OF_ROWS = {"logits", "log_probs", "x", "hidden", "labels", "sample_weight", "tangent", "vector"}


def given(f, *, weights=True):
    """A tensor for each parameter of a function that may be one, and numbers of no dimensions."""
    rng = np.random.default_rng(7)
    is_binary = f.__name__.startswith("binary")
    arrays = {
        "logits": rng.normal(size=(N, C)),
        "log_probs": -rng.random((N, C)),
        "x": rng.normal(size=(N, C)),
        "hidden": rng.normal(size=(N, D)),
        "weight": rng.normal(size=(C, D)),
        "bias": rng.normal(size=C),
        "tangent": rng.normal(size=(N, C)),
        "vector": rng.normal(size=(N, C)),
        "labels": rng.integers(0, 2, (N, C)) if is_binary else np.asarray([1, -100, 3]),
        "class_weight": rng.random(C),
        "sample_weight": rng.random((N, C) if is_binary else N),
        "pos_weight": rng.random(C),
        **{name: np.asarray(value) for name, value in NUMBERS.items()},
    }
    names = [name for name in inspect.signature(f).parameters if weights or not name.endswith("_weight")]
    return {name: torch.as_tensor(arrays[name]) for name in names if name in arrays}


def tensors(results):
    return [results] if isinstance(results, torch.Tensor) else [t for r in results for t in tensors(r)]


def total(results):
    return sum(t.sum() for t in tensors(results))


@pytest.mark.parametrize("f", LOSSES)
def test_derivatives_with_respect_to_numbers(f):
    """As if they were Python's in value; in both modes and to second order against differences."""
    arrays = given(f)
    first, names = next(iter(arrays)), [name for name in NUMBERS if name in arrays]
    expected = f(**{**arrays, **{name: NUMBERS[name] for name in names}})
    torch.testing.assert_close(tensors(f(**arrays)), tensors(expected))

    def value(x, *numbers):
        return total(f(**{**arrays, first: x, **dict(zip(names, numbers, strict=True))}))

    inputs = [arrays[name].clone().requires_grad_() for name in (first, *names)]
    assert torch.autograd.gradcheck(value, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(value, inputs)


@pytest.mark.parametrize("f", LOSSES)
def test_numbers_out_of_range(f):
    """An error where they can be read, elsewhere NaN; compiled, they are read when the program runs."""
    arrays = given(f)
    names = [name for name in NUMBERS if name in arrays]
    torch._dynamo.reset()  # all functions are wrapped by the same code, which is compiled eight times at most
    compiled = torch.compile(f, fullgraph=True, backend="eager")
    torch.testing.assert_close(tensors(compiled(**arrays)), tensors(f(**arrays)))
    for name in names:
        wrong = {**arrays, name: torch.as_tensor(WRONG[name], dtype=torch.float64)}
        with pytest.raises(ValueError, match=f"{name}: expected .* is "):
            f(**wrong)
        assert all(t.isnan().any() for t in tensors(compiled(**wrong)))


@pytest.mark.parametrize("f", some(LOSSES + PARTS, 3, 2))
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch.compile itself
def test_rows_chosen_by_a_mask(f):
    """The compiler does not know how many there are, nor that there is one."""
    arrays = {name: a for name, a in given(f, weights=False).items() if name not in NUMBERS}
    first = next(iter(arrays))

    def of(x, mask):
        return total(f(**{name: a[mask] if name in OF_ROWS else a for name, a in {**arrays, first: x}.items()}))

    x = arrays[first].clone().requires_grad_()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(of, fullgraph=True, backend="eager")
        for mask in (torch.tensor([True, False, True]), torch.tensor([False, False, True])):
            results = [g(x, mask) for g in (of, compiled)]
            torch.testing.assert_close(*results)
            torch.testing.assert_close(*(torch.autograd.grad(result, x)[0] for result in results))


WITHOUT_NUMPY = """
import sys
sys.modules["numpy"] = None
import warnings
warnings.simplefilter("ignore")
import torch, xent_any
(info,) = [info for info in xent_any.backends() if info.name == "torch"]
print(info.reason)
try:
    xent_any.cross_entropy(torch.zeros(1, 2), torch.zeros(1, dtype=int))
except ImportError as error:
    print(error)
"""


def test_without_numpy():
    """PyTorch does not need it, its adapter does, and says so."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMPY], capture_output=True, text=True, check=False)
    reason, error = done.stdout.splitlines()
    assert error == "xent_any computes PyTorch's tensors with NumPy: pip install 'xent-any[torch]'", done.stderr
    assert reason == f"cannot be imported ({error})"
