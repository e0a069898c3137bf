"""Half-precision logits are never upcast whole."""

import tracemalloc

import numpy as np
import pytest

import xent_any

N, C = 1600, 20_000
FUNCTIONS = [xent_any.cross_entropy, xent_any.cross_entropy_value_and_grad]


def peak_of(f, *args):
    """The most bytes that NumPy held at a time in the second of two calls, and the result."""
    f(*(a[:2] for a in args))
    tracemalloc.start()
    try:
        result = f(*args)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_numpy(f):
    x = np.zeros((N, C), np.float16)
    peak, result = peak_of(f, x, np.zeros(N, np.int64))
    assert peak < N * C * 4 / 4 + (x.nbytes if isinstance(result, tuple) else 0)


def test_one_row_of_very_many_classes():
    """The loss of a row that is longer than a block; its gradient, whose loss has the same bits."""
    x, y = np.random.default_rng(0).normal(size=(1, 10_000_000)).astype(np.float32), np.asarray([9_999_999])
    xent_any.cross_entropy(x[:, :9], y - 9_999_999)
    tracemalloc.start()
    try:
        loss = xent_any.cross_entropy(x, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20
    again, grad = xent_any.cross_entropy_value_and_grad(x, y)
    assert loss == again == xent_any.cross_entropy(x[0], y[0])
    p = np.exp(x[0].astype(float))
    p /= p.sum()
    np.testing.assert_allclose(loss, -np.log(p[-1]), rtol=1e-6)
    p[-1] -= 1
    np.testing.assert_allclose(grad[0], p, rtol=2e-6)


def test_binary_on_numpy():
    z = np.zeros((N, C), np.float16)
    tracemalloc.start()
    try:
        xent_any.binary_cross_entropy_value_and_grad(z, z)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The gradient, the loss of each element in float32 and the halves that sum it; and blocks.
    assert peak < z.nbytes + z.size * 4 * (1 + 1 / 2 + 1 / 4) + 2**21


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_torch(f, dtype):
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC0415

    class Largest(TorchDispatchMode):
        """The most elements of a float32 tensor that any operation returned."""

        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype == torch.float32:
                self.elements = max(self.elements, out.numel())
            return out

    x, y = torch.zeros((N, C), dtype=getattr(torch, dtype)), torch.zeros(N, dtype=torch.int64)
    with Largest() as largest:
        peak, result = peak_of(f, x, y)
    assert 0 < largest.elements < N * C / 4
    assert peak < N * C * 4 / 4 + (x.nbytes if isinstance(result, tuple) else 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_jax(dtype, monkeypatch):
    """XLA's own account of the memory that the compiled kernel needs beside its inputs and results."""
    pytest.importorskip("jax")
    from xent_any_backends import jax as adapter  # noqa: PLC0415

    used = []

    def measured(*args, compiled=adapter.compiled):
        used.append(compiled.lower(*args).compile().memory_analysis().temp_size_in_bytes)
        return compiled(*args)

    monkeypatch.setattr(adapter, "compiled", measured)
    x, y = adapter.jnp.zeros((N, C), dtype), adapter.jnp.zeros(N, int)
    xent_any.cross_entropy_value_and_grad(x, y)
    # bfloat16 is copied once, as its own 16 bits
    assert used[-1] < N * C * 4 / 3 + (x.nbytes if dtype == "bfloat16" else 0)
