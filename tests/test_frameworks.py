"""What is particular to one framework, or to all of xent_any and no check of a backend."""

import subprocess
import sys

import mparray
import mpmath
import numpy as np
import pytest

import xent_any

X = np.asarray([[0.5, 1, 2, 3], [1, 1, 1, 1], [3, 2, 1, 0]])
Y = np.asarray([0, 1, 2])


def rejects(error, message, f, *args, **options):
    with pytest.raises(error) as info:
        f(*args, **options)
    assert message in str(info.value)


def test_errors_survive_optimisation():
    """`python -O` removes assert statements: no check may be one."""
    code = (
        "import numpy as np, xent_any\n"
        "try: xent_any.cross_entropy(np.zeros((1, 2)), np.asarray([2]))\n"
        "except IndexError: print('raised')"
    )
    output = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "raised"


def test_numpy_arrays_of_another_arithmetic():
    masked = np.ma.masked_array(X, mask=X > 1)
    message = "logits: expected a plain array, got MaskedArray"
    rejects(TypeError, message, xent_any.cross_entropy, masked, Y)
    rejects(TypeError, "labels: expected a plain array, got MaskedArray", xent_any.cross_entropy, X, np.ma.array(Y))


def test_fifty_digits():
    """The same code on 50-digit arrays, against mpmath: 45 digits, with every option."""
    rng = np.random.default_rng(20240229)
    x, v = rng.normal(size=(2, 4, 6)) * 5
    x[0, 0], x[1] = 200, [9, 9, 9, 1, 2, 3]
    y, w, s = np.asarray([0, 3, 5, 2]), rng.random(6), rng.random(4)
    epsilon, z, c = 0.1, 0.01, 30.0
    with mpmath.workdps(50):  # arrays are rounded to the digits at hand whenever they are touched
        options = {"class_weight": mparray.asarray(w), "sample_weight": mparray.asarray(s)}
        options |= {"label_smoothing": epsilon, "z_loss": z, "softcap": c}
        logits, labels = mparray.asarray(x), mparray.asarray(y)
        loss, grad = xent_any.cross_entropy_value_and_grad(logits, labels, **options)
        _, slope = xent_any.cross_entropy_jvp(logits, mparray.asarray(v), labels, **options)
        loss, slope = digits(loss), digits(slope)
        grad = [[digits(grad[i, j]) for j in range(6)] for i in range(4)]
    mp = mpmath.MPContext()
    mp.dps = 160
    # 1 - epsilon and epsilon / C are double-precision numbers; taken as they are, they are exact
    kept, share = mp.mpf(1 - epsilon), mp.mpf(epsilon / 6)

    def formula(rows):
        total = divisor = mp.mpf(0)
        for row, label, si in zip(rows, y, s, strict=True):
            capped = [c * mp.tanh(b / c) for b in row]
            lse = mp.log(mp.fsum(map(mp.exp, capped)))
            q = [kept * int(j == label) + share for j in range(6)]
            parts = (mp.mpf(wj) * qj * (lse - b) for wj, qj, b in zip(w, q, capped, strict=True))
            total += mp.mpf(si) * (mp.fsum(parts) + mp.mpf(z) * lse**2)
            divisor += mp.mpf(si) * mp.mpf(w[label])
        return total / divisor

    exact = [[mp.mpf(float(b)) for b in row] for row in x]
    small = mp.mpf(10) ** -45
    assert abs(mp.mpf(loss) / formula(exact) - 1) < small
    h = mp.mpf(10) ** -20

    def difference(direction):
        """The derivative along `direction` by a central difference of fourth order, its error of the order of h**4."""

        def f(t):
            return formula(
                [[b + t * d for b, d in zip(*rows, strict=True)] for rows in zip(exact, direction, strict=True)]
            )

        return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)

    for i in range(4):
        for j in range(6):
            unit = [[int((k, m) == (i, j)) for m in range(6)] for k in range(4)]
            assert abs(mp.mpf(grad[i][j]) - difference(unit)) < small
    assert abs(mp.mpf(slope) - difference([[mp.mpf(float(b)) for b in row] for row in v])) < small


def digits(value):
    """A 0-d mparray as text."""
    return mpmath.nstr(value._data.item(), 50)


def test_two_devices_of_one_framework():
    torch = pytest.importorskip("torch")
    message = "labels: expected an array on the device of logits, cpu, got one on meta"
    rejects(ValueError, message, xent_any.cross_entropy, torch.tensor(X), torch.tensor(Y, device="meta"))


@pytest.mark.parametrize(
    "layout", [lambda a: a[::-1, ::-1], np.asfortranarray, lambda a: np.broadcast_to(a[0], a.shape)]
)
def test_numpy_results_are_new_and_writable(layout):
    x = layout(X)
    before = x.copy()
    _, grad = xent_any.cross_entropy_value_and_grad(x, Y)
    np.testing.assert_array_equal(grad, xent_any.cross_entropy_value_and_grad(before, Y)[1])
    assert grad.flags.writeable
    assert not np.shares_memory(grad, x)


def test_labels_closed_over_by_a_jitted_function():
    jax = pytest.importorskip("jax")
    closed = jax.jit(lambda a: xent_any.cross_entropy(a, jax.numpy.asarray([0, 7]), reduction="none"))
    np.testing.assert_array_equal(np.isnan(closed(jax.numpy.zeros((2, 3)))), [False, True])


def test_torch_leaves():
    """`backward` of a leaf that needs a gradient; the kit differentiates functions."""
    torch = pytest.importorskip("torch")
    leaf = torch.asarray(X, requires_grad=True)
    xent_any.cross_entropy(leaf, torch.asarray(Y), label_smoothing=0.1).backward()
    _, grad = xent_any.cross_entropy_value_and_grad(X, Y, label_smoothing=0.1)
    np.testing.assert_allclose(leaf.grad.numpy(), grad, rtol=1e-13, atol=1e-16)
