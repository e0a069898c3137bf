"""The promised error bounds, against many digits."""

import mparray
import mpmath
import numpy as np
import pytest
from conftest import library
from truth_old import MP, excess, truth

import xent_any

BIG = {dtype: 0.9 * float(np.finfo(dtype).max) for dtype in (np.float32, np.float64)}
TINY = {dtype: float(np.finfo(dtype).smallest_subnormal) for dtype in (np.float32, np.float64)}


def tables(dtype):
    """Rows that are hard, each with index labels: (name, logits, labels)."""
    rng = np.random.default_rng(7)
    big, tiny = BIG[dtype], TINY[dtype]
    margins = [5, 10, 15, 17, 30, 59, 61, 80, 84.5, 87, 88, 95, 100, 103, 104, 150, 700, 740, 760]
    yield "confident", [[m, 0, 0, 0] for m in margins], 0
    yield "dominant class is not the label", [[m, 0, 0, 0] for m in margins], 1
    yield "common offset", [[o + 1, o, o - 2] for o in (1e3, 1e4, 1e6, -1e6)], 0
    for label in (0, 1, 3):
        yield f"ties, label {label}", [[3, 3, 3, 1], [3, 1, 3, 3], [0, 0, 0, 0], [3, 9, 9, 9]], label
        yield f"subnormal logits, label {label}", [[7 * tiny, 0, 3 * tiny, -tiny], [1e-40, 0, 2e-42, 0]], label
        yield f"huge, label {label}", [[big, -big, 0, 1], [big, big, 0, -big], [-big] * 4, [0, 1, 2, big]], label
        yield f"masked, label {label}", [[-np.inf if j not in (label, 2) else j for j in range(4)]], label
    for label in (0, 1):
        yield (
            f"far runner-up, label {label}",
            [[100, *[0] * 299], [61, *[1] * 299], [526.9, *rng.normal(size=299)]],
            label,
        )
        yield f"two classes, label {label}", rng.normal(size=(20, 2)) * 10, label
    yield "one class", [[3.0], [-big]], 0
    for scale in (1e-3, 1, 5, 20, 100):
        x = rng.normal(size=(2, 1000)) * scale
        yield f"1000 classes, scale {scale}", x, 5
        yield f"1000 classes, scale {scale}, the largest", x[:1], int(x[0].argmax())
    x = rng.normal(size=(1, 100_000))
    yield "100000 classes", x, 3
    yield "100000 classes, confident", np.concatenate([[[25.0]], x[:, 1:]], axis=1), 0


CASES = [
    pytest.param(dtype, np.asarray(x, dtype), label, id=f"{dtype.__name__}: {name}")
    for dtype in (np.float32, np.float64)
    for name, x, label in tables(dtype)
]
KINDS = ["index", "one-hot", "probabilities"]


def flushed(lib, true, dtype):
    """Whether a result is one that the backend declares it flushes to 0."""
    return "truth.subnormal" in lib.backend.deviations and abs(true) < float(np.finfo(dtype).tiny)


def check(lib, name, values, trues, bounds, dtype):
    """Every value is within its bound; or not above the smallest normal number, where the backend flushes to 0."""
    worst, where = 0.0, None
    for i, (value, true, bound) in enumerate(zip(values, trues, bounds, strict=True)):
        if flushed(lib, true, dtype):
            assert abs(value) <= np.finfo(dtype).tiny
            continue
        off = excess(value, true, bound)
        if not off <= worst:
            worst, where = off, f"{name}[{i}] is {value!r}, should be {MP.nstr(true, 20)}"
    assert worst <= 1, f"{where}: {worst:.3g} times the promised error"


_TRUTHS = {}


def row_truth(x, q, dtype, probabilities):
    """The truth of a row, computed once for all backends."""
    key = (x.tobytes(), q.tobytes(), dtype, probabilities)
    if key not in _TRUTHS:
        _TRUTHS[key] = truth(x, q, dtype, probabilities=probabilities)
    return _TRUTHS[key]


@pytest.mark.parametrize(("dtype", "x", "label"), CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_keep_the_bound(exact, dtype, x, label, kind):
    n, count = x.shape
    if kind == "probabilities":
        if count > 1000 or not np.isfinite(x).all():
            pytest.skip("probability labels: checked up to 1000 classes that are all there")
        q = np.random.default_rng(1).dirichlet(np.ones(count), size=n).astype(dtype)
    else:
        q = np.zeros(x.shape, dtype)
        q[:, label] = 1
    labels = exact(np.full(n, label)) if kind == "index" else exact(q)
    loss, grad = xent_any.cross_entropy_value_and_grad(exact(x), labels, reduction="none")
    loss, grad = exact.numpy(loss), exact.numpy(grad)
    assert loss.dtype == grad.dtype == dtype
    assert (loss >= 0).all()
    truths = [
        row_truth(row, t, dtype, "hard" if kind != "probabilities" else kind) for row, t in zip(x, q, strict=True)
    ]
    check(exact, "loss", loss, [t.loss for t in truths], [t.loss_bound for t in truths], dtype)
    for row, true in zip(grad, truths, strict=True):
        check(exact, "grad", row, true.grad, true.grad_bound, dtype)


@pytest.mark.parametrize("margin", [5.0, 17.0, 40.0, 80.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hvp_keeps_the_digits_of_confident_rows(exact, dtype, margin, rng):
    x = np.asarray([[margin, 0, 0, 0], [0, 1, margin, margin + 1], [1000, 0, 0, 0]], dtype)
    v = rng.normal(size=x.shape).astype(dtype)
    v[2] = [1000, 0, 0, 0]
    x[2] = [0.01, 0, 0, 0]  # an outlier at the maximum
    h = exact.numpy(xent_any.cross_entropy_hvp(exact(x), exact(v), exact(np.asarray([0, 2, 1])), reduction="sum"))
    u = np.finfo(dtype).eps / 2
    for row, t, product in zip(x, v, h, strict=True):
        distance = [MP.mpf(float(row.max())) - MP.mpf(float(a)) for a in row]
        e = [MP.exp(-d) for d in distance]
        p = [a / MP.fsum(e) for a in e]
        w = [MP.mpf(float(a)) for a in t]
        true = [p[j] * MP.fsum(p[k] * (w[j] - w[k]) for k in range(4)) for j in range(4)]
        size = [p[j] * MP.fsum(p[k] * abs(w[j] - w[k]) for k in range(4)) for j in range(4)]
        # Beyond the gradient's: p enters twice, and each of the two centrings adds the roundings of a short sum.
        bounds = [(24 + 2 * max(distance)) * u * s for s in size]
        check(exact, "hvp", product, true, bounds, dtype)
        assert (product != 0).all()


def test_a_confident_float32_row_has_a_loss(exact):
    x, y = exact(np.asarray([17, 0, 0, 0], np.float32)), exact(np.asarray(0))
    loss, grad = xent_any.cross_entropy_value_and_grad(x, y)
    assert float(loss) == pytest.approx(3 * np.exp(-17.0), rel=1e-6)
    assert float(grad[0]) == pytest.approx(-3 * np.exp(-17.0), rel=1e-6)
    assert float(xent_any.cross_entropy_hvp(x, exact(np.asarray([1, 0, 0, 0], np.float32)), y)[0]) > 0


def test_an_offset_costs_nothing(lib):
    x = np.asarray([[0.25, -1, 3], [2, 2, -7.5]], np.float32)
    results = [
        xent_any.cross_entropy_value_and_grad(lib(x + np.float32(offset)), lib(np.asarray([0, 2])))
        for offset in (0, 1e6)
    ]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(lib.numpy(a), lib.numpy(b))


def test_a_large_weight_does_not_amplify_the_underflow_of_the_rest(exact):
    x = np.asarray([[98, 0]], np.float32)
    loss, grad = xent_any.cross_entropy_value_and_grad(
        exact(x), exact(np.asarray([0])), sample_weight=exact(np.asarray([1e6], np.float32)), reduction="sum"
    )
    if exact.backend.deviations.get("truth.subnormal"):
        pytest.skip("numbers below the smallest normal one are flushed to 0 here")
    true = 1e6 * np.exp(-98.0)
    assert float(loss) == pytest.approx(true, rel=106 * 2**-24)
    np.testing.assert_allclose(exact.numpy(grad), [[-true, true]], rtol=(106 + 98) * 2**-24)


SMALL = [
    pytest.param(lambda lib, x: lib(x.astype(np.float16)), "numpy", id="numpy float16"),
    pytest.param(lambda lib, x: lib(x).to(lib.xp.float16), "torch", id="torch float16"),
    pytest.param(lambda lib, x: lib(x).to(lib.xp.bfloat16), "torch", id="torch bfloat16"),
    pytest.param(lambda lib, x: lib(x).astype("float16"), "jax", id="jax float16"),
    pytest.param(lambda lib, x: lib(x).astype("bfloat16"), "jax", id="jax bfloat16"),
]


@pytest.mark.parametrize(("make", "name"), SMALL)
@pytest.mark.parametrize("shape", [(5, 7), (300, 5000)])
def test_half_precision_is_computed_in_float32_and_rounded_once(make, name, shape, rng):
    lib = library(name)
    x = make(lib, rng.normal(size=shape).astype(np.float32) * 4)
    cast = (lambda a: a.float()) if name == "torch" else (lambda a: a.astype("float32"))
    y = lib(rng.integers(0, shape[1], shape[0]))
    loss, grad = xent_any.cross_entropy_value_and_grad(x, y, reduction="none")
    loss32, grad32 = xent_any.cross_entropy_value_and_grad(cast(x), y, reduction="none")
    assert loss.dtype == loss32.dtype
    assert grad.dtype == x.dtype
    np.testing.assert_allclose(lib.numpy(loss), lib.numpy(loss32), rtol=1e-6)
    rounded = grad32.to(x.dtype) if name == "torch" else grad32.astype(x.dtype)
    one_ulp = 2.0**-7 if "bfloat" in str(x.dtype) else 2.0**-10
    # XLA may fuse the two differently by a rounding in float32, which may fall on either side of a tie
    np.testing.assert_allclose(lib.numpy(cast(grad)), lib.numpy(cast(rounded)), rtol=one_ulp, atol=1e-7)
    assert (lib.numpy(cast(grad)) != lib.numpy(cast(rounded))).mean() < 1e-3
    dtypes = {f.__name__: f(x).dtype for f in (xent_any.softmax, xent_any.log_softmax, xent_any.logsumexp)}
    assert dtypes == {"softmax": x.dtype, "log_softmax": loss.dtype, "logsumexp": loss.dtype}


def test_fifty_digits(rng):
    """The same code on 50-digit arrays, against mpmath: 45 digits, with every option."""
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


def binary_truth(z, y, pi):
    z, y, pi = (MP.mpf(float(a)) for a in (z, y, pi))
    below, above = MP.log1p(MP.exp(z)), MP.log1p(MP.exp(-z))
    sigma = 1 / (1 + MP.exp(-z))
    other = 1 / (1 + MP.exp(z))
    return (1 - y) * below + pi * y * above, (1 - y) * sigma - pi * y * other, (1 - y) * sigma + pi * y * other


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("y", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("pi", [1.0, 2.5])
def test_binary_keeps_the_bound(exact, dtype, y, pi, rng):
    # As far as exp(-|z|) is normal: beyond, JAX's flush to 0 would show through the weight.
    edges = [
        0,
        1e-3,
        10,
        -10,
        17,
        -17,
        50,
        -50,
        85,
        -85,
        *([] if "truth.subnormal" in exact.backend.deviations else [88, -88]),
    ]
    z = np.concatenate([edges, rng.normal(size=20) * 10]).astype(dtype)
    labels = np.full(z.shape, y, dtype)
    loss, grad = xent_any.binary_cross_entropy_value_and_grad(exact(z), exact(labels), pos_weight=pi, reduction="none")
    u, tiny = np.finfo(dtype).eps / 2, np.finfo(dtype).tiny
    truths = [binary_truth(a, b, pi) for a, b in zip(z, labels, strict=True)]
    for k, values in ((0, loss), (1, grad)):
        sizes = [t[0] if k == 0 else t[2] for t in truths]
        bounds = [
            max((8 + abs(float(a))) * u * s, 2 * TINY[dtype] * pi if s < tiny else 0)
            for a, s in zip(z, sizes, strict=True)
        ]
        check(exact, "loss" if k == 0 else "grad", exact.numpy(values), [t[k] for t in truths], bounds, dtype)
