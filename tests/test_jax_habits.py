"""What people hand to JAX's functions and how they run them: every public function takes and bears it as well."""

import inspect
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from conftest import FUNCTIONS, LOSSES, require, some

import xent_any

jax = pytest.importorskip("jax")
require("jax")

import jax.numpy as jnp  # noqa: E402
from jax import export  # noqa: E402

N, C, D = 3, 4, 2
RNG = np.random.default_rng(20261130)
PARTS = [xent_any.logsumexp, xent_any.log_softmax, xent_any.softmax]
NUMBERS = {"label_smoothing": 0.2, "z_loss": 0.1, "softcap": 2.0, "denominator": 1.7}
WRONG = {"label_smoothing": 1.5, "z_loss": -0.1, "softcap": 0.0, "denominator": 0.0}
DTYPE = np.float32


def test_every_function_is_here():
    assert {f.__name__ for f in [*LOSSES, *PARTS, xent_any.backends]} == {f.__name__ for f in FUNCTIONS}


def given(f, labels):
    """An array for each parameter of a function that may be one, labels of that kind, and numbers of no dimensions."""
    rng = np.random.default_rng(7)
    is_binary = f.__name__.startswith("binary")
    lead = (N, C) if is_binary else (N,)
    arrays = {
        "logits": rng.normal(size=(N, C)),
        "log_probs": -rng.random((N, C)),
        "x": rng.normal(size=(N, C)),
        "hidden": rng.normal(size=(N, D)),
        "weight": rng.normal(size=(C, D)),
        "bias": rng.normal(size=C),
        "tangent": rng.normal(size=(N, C)),
        "vector": rng.normal(size=(N, C)),
        "labels": rng.random((N, C)),
        "class_weight": rng.random(C),
        "sample_weight": rng.random(lead),
        "pos_weight": rng.random(C),
        **{name: np.asarray(value) for name, value in NUMBERS.items()},
    }
    arrays = {name: a.astype(DTYPE) for name, a in arrays.items() if name in inspect.signature(f).parameters}
    if labels == "index":
        arrays["labels"] = rng.integers(0, 2, (N, C)) if is_binary else np.asarray([1, -100, 3])
    return arrays


# Each function with index labels, some also with probabilities. A case takes seconds to compile: each test has some.
SOFT = [xent_any.cross_entropy, xent_any.linear_cross_entropy, xent_any.binary_cross_entropy]
CASES = [
    pytest.param(f, labels, id=f"{f.__name__}-{labels}")
    for labels, functions in {"index": LOSSES, "probability": SOFT}.items()
    for f in functions
]
ALL_CASES = [*CASES, *(pytest.param(f, None, id=f.__name__) for f in PARTS)]


@pytest.fixture(autouse=True)
def hurried():
    """Programs that run once, compiled in half of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def close(found, expected):
    def equal(a, b):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)

    jax.tree.map(equal, found, expected)


def scalar(results):
    """The sum of all results, as what is differentiated."""
    return sum(jnp.sum(a) for a in jax.tree.leaves(results))


def split(arrays):
    """The first array, which decides the library, as JAX's, and the others."""
    first, *others = arrays
    return first, jnp.asarray(arrays[first]), {name: arrays[name] for name in others}


@pytest.mark.parametrize(("f", "labels"), some(CASES, 4, 1))
def test_numpy_arrays_beside_jax_logits(f, labels):
    arrays = given(f, labels)
    first, x, others = split(arrays)
    ours = {name: jnp.asarray(a) for name, a in others.items()}
    expected = f(**{first: x}, **ours)

    def of(x, others=others):
        return f(**{first: x}, **others)

    close(of(x), expected)
    every = jax.jit(lambda x: (of(x), jax.vmap(of, (0, None))(x[None], others)))(x)
    close(every[0], expected)
    close(jax.tree.map(lambda a: a[0], every[1]), expected)
    slope = jax.grad(lambda x: scalar(of(x, ours)))(x)
    close(jax.grad(lambda x: scalar(of(x)))(x), slope)
    assert jax.eval_shape(jax.jit(of), x, others) == jax.eval_shape(of, x, ours)


@pytest.mark.parametrize(("f", "labels"), some(CASES, 4, 2))
def test_numpy_logits_with_jax_labels_are_an_error(f, labels):
    arrays = given(f, labels)
    arrays["labels"] = jnp.asarray(arrays["labels"])
    with pytest.raises(TypeError, match=r"labels: expected an array of the library of \w+, numpy, got one of jax"):
        f(**arrays)


@pytest.mark.parametrize("x64", [False, True])
def test_numpy_values_that_jax_does_not_hold(x64):
    """An int64 label is never cut to a class of int32, nor a float64 weight to 0."""
    with jax.enable_x64(x64):
        x, wide = jnp.zeros((2, C), DTYPE), np.asarray([0, 2**32 + 1])
        with pytest.raises(IndexError, match=r"labels\[1\] is 4294967297"):
            xent_any.cross_entropy(x, wide)
        with pytest.raises(IndexError, match=r"labels\[1\] is 4294967297"):
            jax.jit(lambda x: xent_any.cross_entropy(x, wide))(x)
        with pytest.raises(ValueError, match=r"class_weight\[0\] is 1e-60"):
            xent_any.cross_entropy(x, np.asarray([0, 1]), class_weight=np.asarray([1e-60, 1, 1, 1]))
        ignored = xent_any.cross_entropy(x, np.asarray([2**40, 1]), ignore_index=2**40, reduction="none")
        np.testing.assert_allclose(ignored, [0, np.log(C)], rtol=1e-6)


def numbers_of(f):
    return [name for name in NUMBERS if name in inspect.signature(f).parameters]


@pytest.mark.parametrize(("f", "labels"), some(CASES, 4, 3))
def test_numbers_that_are_traced(f, labels):
    """As if they were Python's, and NumPy's are, in value and derivative; also without weights."""
    every = {name: jnp.asarray(a) for name, a in given(f, labels).items()}
    first = next(iter(every))
    unweighted = {name: a for name, a in every.items() if not name.endswith("_weight")}

    def of(x, numbers, arrays):
        return f(**{**arrays, **numbers, first: x})

    def twice(numbers, x):
        """Results and derivatives, with weights and without."""
        return [
            (of(x, numbers, arrays), jax.grad(lambda x, arrays=arrays: scalar(of(x, numbers, arrays)))(x))
            for arrays in (every, unweighted)
        ]

    fixed = {name: float(every[name]) for name in numbers_of(f)}
    expected = jax.jit(lambda x: twice(fixed, x))(every[first])
    close(jax.jit(twice)({name: every[name] for name in fixed}, every[first]), expected)
    close(f(**every), expected[0][0])
    close(f(**{**every, **{name: np.float32(number) for name, number in fixed.items()}}), expected[0][0])


@pytest.mark.parametrize(("f", "labels"), some(CASES, 4, 0))
def test_derivatives_with_respect_to_numbers(f, labels):
    with jax.enable_x64(True):
        every = {name: jnp.asarray(a, float if a.dtype == DTYPE else int) for name, a in given(f, labels).items()}
        arrays = {name: a for name, a in every.items() if name not in NUMBERS}
        first = next(iter(arrays))

        def value(numbers, x):
            return scalar(f(**{**arrays, first: x}, **numbers))

        def slope(numbers):
            return jnp.vdot(jax.grad(value, 1)(numbers, arrays[first]), jnp.cos(jnp.arange(arrays[first].size)))

        numbers = {name: every[name] for name in numbers_of(f)}

        def both(numbers):
            return jnp.stack([value(numbers, arrays[first]), slope(numbers)])

        compiled, found = jax.jit(both), jax.jit(jax.jacrev(both))(numbers)
        forward = jax.jit(jax.jacfwd(both))(numbers)
        for name, number in numbers.items():
            h = 1e-5
            up, down = (compiled({**numbers, name: number + step}) for step in (h, -h))
            np.testing.assert_allclose(found[name], (up - down) / (2 * h), rtol=1e-7, atol=1e-7, err_msg=name)
            np.testing.assert_allclose(forward[name], (up - down) / (2 * h), rtol=1e-7, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(("f", "labels"), some(CASES, 4, 1))
def test_numbers_out_of_range(f, labels):
    """An error where they can be read, elsewhere NaN."""
    arrays = {name: jnp.asarray(a) for name, a in given(f, labels).items()}
    compiled = jax.jit(f)
    for name in numbers_of(f):
        for value in (WRONG[name], np.nan, np.inf):
            wrong = {**arrays, name: jnp.asarray(value, DTYPE)}
            with pytest.raises(ValueError, match=f"{name}: expected .* is "):
                f(**wrong)
            assert all(np.isnan(a).any() for a in jax.tree.leaves(compiled(**wrong))), (name, value)
    for shape in ((1,), (0,)):
        with pytest.raises(ValueError, match="got shape"):
            f(**{**arrays, numbers_of(f)[0]: jnp.ones(shape)})


@pytest.mark.parametrize("number", ["label_smoothing", "z_loss"])
def test_a_traced_number_of_zero_is_none(number):
    """Nothing of a masked class, and nothing of a row without weight, whatever it holds."""
    x = jnp.asarray([[1.0, 2.0, -np.inf], [np.nan, 1.0, 0.0]], DTYPE)
    y, w = jnp.asarray([1, 2]), jnp.asarray([1, 1, 0], DTYPE)

    def of(x, **numbers):
        return xent_any.cross_entropy_value_and_grad(x, y, class_weight=w, **numbers)

    close(jax.jit(of)(x, **{number: jnp.asarray(0.0)}), of(x))


@pytest.mark.parametrize(("f", "labels"), some(ALL_CASES, 9, 2))
def test_strict_configurations(f, labels):
    """No promotion of ranks or dtypes is left to JAX, nothing in between is not finite, and no tracer is kept."""
    arrays = {name: jnp.asarray(a) for name, a in given(f, labels).items()}
    first = next(iter(arrays))

    def slope(arrays):
        others = {name: a for name, a in arrays.items() if name != first}
        return jax.grad(lambda x: scalar(f(**{first: x}, **others)))(arrays[first])

    def product(arrays):
        x = arrays[first]
        return jax.jvp(lambda x: slope({**arrays, first: x}), (x,), (jnp.ones_like(x),))[1]

    with ExitStack() as strict:
        strict.enter_context(jax.numpy_rank_promotion("raise"))
        strict.enter_context(jax.numpy_dtype_promotion("strict"))
        strict.enter_context(jax.debug_nans(True))
        strict.enter_context(jax.debug_infs(True))
        strict.enter_context(jax.checking_leaks())
        f(**arrays)
        jax.eval_shape(product, arrays)
        jax.eval_shape(jax.vmap(lambda arrays: f(**arrays)), {name: a[None] for name, a in arrays.items()})
        compiled = jax.jit(slope)
        compiled(arrays)
        strict.enter_context(jax.transfer_guard("disallow"))
        compiled(arrays)
        if labels is None:  # of the losses, operation by operation, JAX would itself transfer numbers
            f(**arrays)


def symbolic(arrays, sizes):
    """The shapes of arrays, in which the numbers of rows and of classes are other ones."""
    names = dict(zip((N, C), sizes, strict=True))
    shapes = {name: tuple(names.get(size, size) for size in a.shape) for name, a in arrays.items()}
    return {name: jax.ShapeDtypeStruct(shapes[name], a.dtype) for name, a in arrays.items()}


@pytest.mark.parametrize(("f", "labels"), some(ALL_CASES, 4, 3))
def test_export_with_sizes_that_are_not_known(f, labels):
    arrays = {name: jnp.asarray(a) for name, a in given(f, labels).items()}
    for numbers in (NUMBERS, {}):  # without them, the mean's divisor is the number of rows
        some = {name: a for name, a in arrays.items() if name in numbers or name not in NUMBERS}
        if not numbers:
            some = {name: a for name, a in some.items() if not name.endswith("_weight")}
        first = next(iter(some))

        def both(arrays, first=first):
            def value(x):
                results = f(**{**arrays, first: x})
                return scalar(results), results

            return jax.value_and_grad(value, has_aux=True)(arrays[first])

        exported = export.export(jax.jit(both))(symbolic(some, export.symbolic_shape("n, c")))
        close(exported.call(some), jax.jit(both)(some))
    export.export(jax.jit(both))(symbolic(some, (*export.symbolic_shape("n"), C)))


@pytest.mark.parametrize("recompute", [False, True])
def test_export_of_blocks_of_rows(recompute):
    """As many rows at a time as fit, the last of which may be filled up."""
    two_rows = 2 * 4 * (8 * C + 4 * D)
    options = {"max_bytes": two_rows, "recompute": recompute}

    def f(h, w, y):
        return jax.value_and_grad(xent_any.linear_cross_entropy, (0, 1))(h, w, y, **options)

    w = jnp.asarray(RNG.normal(size=(C, D)), DTYPE)
    (n,) = export.symbolic_shape("n")
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (((n, D), DTYPE), (w.shape, DTYPE), ((n,), int))]
    exported = export.export(jax.jit(f))(*shapes)
    assert "while" in exported.mlir_module()
    for count in (1, 5):
        h, y = jnp.asarray(RNG.normal(size=(count, D)), DTYPE), jnp.arange(count) % C
        close(exported.call(h, w, y), f(h, w, y))


def sharded():
    """Each function and its derivative on two devices, inside of `jax.shard_map`: any array may be replicated."""
    from xent_any_backends.jax import _kernels  # noqa: PLC0415

    _kernels.SMALL = 0  # branches, as for many logits
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    along, whole = jax.sharding.PartitionSpec("d"), jax.sharding.PartitionSpec()
    rows = {"logits", "log_probs", "x", "hidden", "labels", "sample_weight", "tangent", "vector"}
    for case in ALL_CASES:
        f, labels = case.values
        is_run = f in {xent_any.cross_entropy, xent_any.linear_cross_entropy}
        if labels == "probability" and not is_run:
            continue
        arrays = {name: jnp.asarray(a) for name, a in given(f, labels).items() if name != "denominator"}
        options = {"reduction": "sum"} if labels else {}
        first = next(iter(arrays))

        def slope(arrays, f=f, first=first, options=options):
            return jax.grad(lambda x: scalar(f(**{**arrays, first: x}, **options)))(arrays[first])

        of_rows = arrays.keys() & rows
        for cut in (of_rows, of_rows - {first}, {first}, arrays.keys() & {"class_weight"}):
            other = {name: a[::-1] if name in cut else a for name, a in arrays.items()}
            both = {name: jnp.concat([a, other[name]]) if name in cut else a for name, a in arrays.items()}
            specs = {name: along if name in cut else whole for name in arrays}
            mapped = jax.shard_map(slope, mesh=mesh, in_specs=(specs,), out_specs=specs[first])
            if not is_run:
                jax.eval_shape(mapped, both)
                continue
            parts = slope(arrays), slope(other)
            close(jax.jit(mapped)(both), jnp.concat(parts) if first in cut else sum(parts if cut else parts[:1]))
    print("as on one device")  # noqa: T201


def test_shard_map():
    if not hasattr(jax, "shard_map"):
        pytest.skip("this JAX has an experimental one, which knows nothing of replicated arrays")
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", "import test_jax_habits; test_jax_habits.sharded()"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parent,
    )
    assert done.stdout.strip() == "as on one device", done.stderr[-3000:]


@pytest.fixture
def narrow_jax():
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield jax
    jax.config.update("jax_enable_x64", before)


LARGE = 1 << 32
"""Which JAX cuts to 0 where its integers have 32 bits."""


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", ["sample_weight", "class_weight", "denominator", "z_loss"])
@pytest.mark.parametrize("value", [LARGE + 1, 1 - LARGE])
def test_integers_of_numpy_beside_jax_logits_are_not_cut(narrow_jax, traced, name, value):
    jax = narrow_jax
    logits, labels = np.array([[0.0, 1.0], [2.0, 0.0]], np.float32), np.array([0, 1])
    option = {name: np.array([1, value]) if name.endswith("weight") else np.array(value)}

    def loss(x):
        return xent_any.cross_entropy(x, labels, **option)

    def answer(function, x):
        try:
            return float(function(x))
        except ValueError:
            return float("nan")

    found = answer(jax.jit(loss) if traced else loss, jax.numpy.asarray(logits))
    np.testing.assert_allclose(found, answer(loss, logits), rtol=1e-5)


@pytest.mark.parametrize("traced", [False, True])
def test_binary_integers_of_numpy_beside_jax_logits_are_not_cut(narrow_jax, traced):
    jax = narrow_jax
    labels = np.array([LARGE])

    def loss(x):
        return xent_any.binary_cross_entropy(x, labels)

    logits = jax.numpy.asarray([3.0])
    if traced:
        assert np.isnan(float(jax.jit(loss)(logits)))
    else:
        with pytest.raises(ValueError, match=r"^labels: "):
            loss(logits)


@pytest.mark.filterwarnings("error")
def test_float64_of_numpy_beside_jax_logits_does_not_warn(narrow_jax):
    jnp = narrow_jax.numpy
    with pytest.raises(ValueError, match=r"^sample_weight: "):
        xent_any.cross_entropy(jnp.zeros((2, 2)), np.array([0, 1]), sample_weight=np.array([1, 1e300]))


def test_numbers_out_of_range_are_nan_in_a_traced_hvp():
    jax = pytest.importorskip("jax")
    logits, labels = jax.numpy.asarray([[0.0, 1.0]]), jax.numpy.asarray([0])
    found = jax.jit(lambda e: xent_any.cross_entropy_hvp(logits, logits, labels, label_smoothing=e))(-0.5)
    assert np.isnan(np.asarray(found)).all()
