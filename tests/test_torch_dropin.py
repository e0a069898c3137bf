"""The drop-in functions and modules of `xent_any_backends.torch` against PyTorch's own.

What both take must come out the same: the value within rounding of PyTorch's in float64, the derivatives, dtype, shape
and `requires_grad`. What PyTorch refuses must be refused in the same words. `DIFFERENCES` is everything else.
"""

import copy
import doctest
import inspect
import io
import math
import pickle
import warnings
from itertools import product

import pytest

torch = pytest.importorskip("torch", reason="torch: not installed")
F = torch.nn.functional

import xent_any_backends.torch as ours  # noqa: E402  (it needs torch)
from xent_any_backends.torch import _arguments, _functional, _modules, _softmax  # noqa: E402

FUNCTIONS = ["binary_cross_entropy_with_logits", "cross_entropy", "log_softmax", "nll_loss", "softmax"]
MODULES = ["BCEWithLogitsLoss", "CrossEntropyLoss", "NLLLoss"]
LINEAR = ["LinearCrossEntropyLoss"] if hasattr(torch.nn, "LinearCrossEntropyLoss") else []  # see test_torch_linear
REDUCTIONS = ["none", "mean", "sum"]
# A few roundings to the dtype; in float64 the reference has them as well.
RTOL = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 2e-6, torch.float64: 1e-13}
INF, NAN = math.inf, math.nan


def normal(*shape, dtype=torch.float64, seed=0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3).to(dtype)


def uniform(*shape, dtype=torch.float64, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def indices(*shape, high=5, seed=2):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


X, Y, P, W = normal(3, 5, dtype=torch.float32), torch.tensor([0, 3, 2]), uniform(3, 5).float(), uniform(5).float()


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The arrays are tiny: on a busy machine, threads that wait for each other took 100 seconds instead of 10."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def outcome(function, *args, **kwargs):
    """The type of the error, or the sum of what is returned."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **kwargs).sum(dtype=torch.float64).item()
    except Exception as error:  # noqa: BLE001  (its type is what is compared)
        return type(error)


def run(function, args, kwargs, dtype=None, *, least=0):
    """The result, and the gradients with respect to all floating arguments, from a fixed direction of small integers.

    With a `dtype`, everything is converted to it first.
    """

    def leaf(a):
        if isinstance(a, torch.dtype):
            return dtype or a
        if not isinstance(a, torch.Tensor) or not a.dtype.is_floating_point:
            return a
        return a.detach().to(dtype or a.dtype).requires_grad_(a.requires_grad)

    args, kwargs = [leaf(a) for a in args], {name: leaf(a) for name, a in kwargs.items()}
    result = function(*args, **kwargs)
    leaves = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor) and a.requires_grad]
    direction = (least + indices(*result.shape, high=8, seed=3)).to(result.dtype)  # exact in every dtype
    return result, torch.autograd.grad(result, leaves, direction, allow_unused=True) if leaves else ()


def computed(dtype):
    """The relative tolerance for what is computed of such an input."""
    return RTOL[torch.promote_types(dtype, torch.float32)]


def cancelled(name, args, kwargs):
    """By how much a sum or a mean of losses of both signs is smaller than that of their sizes, which round."""
    losses = run(getattr(F, name), args, {**kwargs, "reduction": "none"}, torch.float64)[0].detach()
    difference = losses.abs().sum() - losses.sum().abs()
    reduction = kwargs.get("reduction", "mean")
    return 0.0 if reduction == "none" else difference.item() / (max(losses.numel(), 1) if reduction == "mean" else 1)


def check_same(name, *args, **kwargs):
    """Compare `name` with PyTorch's; arguments that require a gradient are differentiated with respect to."""
    theirs = getattr(F, name)(*args, **kwargs)
    result, grads = run(getattr(ours, name), args, kwargs)
    exact, exact_grads = run(getattr(F, name), args, kwargs, torch.float64)
    assert (result.dtype, result.shape) == (theirs.dtype, theirs.shape)
    assert result.requires_grad == theirs.requires_grad
    rtol = max(RTOL[result.dtype], computed(args[0].dtype))
    atol = (0.05 + (cancelled(name, args, kwargs) if name == BCE else 0.0)) * rtol
    torch.testing.assert_close(result, exact.to(result.dtype), rtol=rtol, atol=atol, equal_nan=True)
    for grad, expected in zip(grads, exact_grads, strict=True):
        if result.ndim == 0 and result.isnan():  # the mean over nothing
            expected = torch.zeros_like(expected)  # noqa: PLW2901
        rtol = max(RTOL[grad.dtype], computed(args[0].dtype))
        close = {"rtol": 4 * rtol, "atol": rtol * expected.abs().amax().item() if expected.numel() else 0.0}
        torch.testing.assert_close(grad, expected.to(grad.dtype), **close)


# Every number of dimensions has a branch of its own in PyTorch; a dtype matters no more in one shape than in another.
SHAPES = [(5,), (1, 5), (2, 5, 3, 2), (2, 5, 2, 1, 2), (0, 5), (0, 5, 3), (3, 5, 0), (3, 5, 0, 2)]
CASES = [*product([(3, 5), (2, 5, 4)], RTOL), *((shape, torch.float64) for shape in SHAPES)]


def rows(shape):
    return shape[:1] + shape[2:] if len(shape) > 1 else ()


@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_class_indices(shape, dtype):
    x = normal(*shape, dtype=dtype).requires_grad_()
    y = indices(*rows(shape))
    some, none = torch.where(y == 1, -7, y), torch.full_like(y, -7)
    labels = [(y, -100), (y, 1), (some, -7), (none, -7)]
    for (target, ignored), weight, reduction in product(labels, (None, uniform(5, dtype=dtype)), REDUCTIONS):
        options = {"weight": weight, "ignore_index": ignored, "reduction": reduction}
        check_same("nll_loss", F.log_softmax(x.detach(), -1).requires_grad_(), target, **options)
        for smoothing in (0.0, 0.1):
            check_same("cross_entropy", x, target, **options, label_smoothing=smoothing)


@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_class_probabilities(shape, dtype):
    x = normal(*shape, dtype=dtype).requires_grad_()
    targets = (uniform(*shape, dtype=other).requires_grad_() for other in {dtype, torch.float32})
    weights = (None, uniform(5, dtype=dtype), uniform(5).requires_grad_(), torch.arange(5), torch.zeros(5).double())
    for target, weight, reduction, smoothing in product(targets, weights, REDUCTIONS, (0.0, 0.2)):
        check_same("cross_entropy", x, target, weight, reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("shape", [(), (3, 5), (2, 3, 5), (0, 5)], ids=str)
def test_binary(shape, dtype):
    x = normal(*shape, dtype=dtype).requires_grad_()
    last = shape[-1:]
    weights = [
        (None, None),
        (None, uniform(*last)),
        (torch.tensor(2.0), torch.tensor(3.0)),
        (uniform(*shape, dtype=dtype), None),
        (-uniform(*last, dtype=dtype), torch.full(last, 2)),
        (torch.ones(last) > 0, uniform(*shape, dtype=dtype)),
    ]
    # A marker outside [0, 1] is what a weight, or the caller, masks later.
    mixed = torch.where(uniform(*shape, seed=4) < 0.5, uniform(*shape), 2 * normal(*shape, seed=5)).to(dtype)
    targets = [uniform(*shape, dtype=dtype).requires_grad_(), uniform(*shape).round().float(), mixed.requires_grad_()]
    for target, (weight, pos_weight), reduction in product(targets, weights, REDUCTIONS):
        options = {"reduction": reduction, "pos_weight": pos_weight}
        check_same("binary_cross_entropy_with_logits", x, target, weight, **options)


def test_binary_derivative_with_respect_to_the_weights():
    """PyTorch has none; by its formula."""

    def formula(x, y, weight, pos_weight):
        return -weight * (pos_weight * y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x))

    x, shapes = normal(3, 5), [(), (5,), (3, 1), (3, 5)]
    for y, shape, reduction in product((uniform(3, 5), 2 * normal(3, 5, seed=5)), shapes, REDUCTIONS):
        weights = [uniform(*shape).requires_grad_(), uniform(*shape, seed=4).requires_grad_()]
        expected = formula(x, y, *weights)
        expected = expected.mean() if reduction == "mean" else expected.sum()
        result = ours.binary_cross_entropy_with_logits(x, y, weights[0], reduction=reduction, pos_weight=weights[1])
        grads = torch.autograd.grad(result.sum(), weights)
        torch.testing.assert_close(grads, torch.autograd.grad(expected, weights), rtol=1e-12, atol=1e-14)


def test_binary_markers_where_they_cannot_be_read():
    """In a transform, as on a GPU, targets outside [0, 1] are not known to be absent."""
    x = torch.tensor([1.0, -2.0, INF, -INF, 3.0], dtype=torch.float64)
    y = torch.tensor([-1.0, 255.0, 1.0, 0.0, 0.5], dtype=torch.float64)
    for pos_weight in (None, torch.tensor(3.0)):

        def loss(x, y, pos_weight=pos_weight):
            return ours.binary_cross_entropy_with_logits(x, y, pos_weight=pos_weight, reduction="none")

        torch.testing.assert_close(torch.func.vmap(loss)(x, y), loss(x, y), rtol=1e-13, atol=0)
        assert loss(x, y)[2:4].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["log_softmax", "softmax"])
@pytest.mark.parametrize("dtype", RTOL, ids=str)
def test_softmax(name, dtype):
    for shape in [(), (5,), (3, 5), (2, 5, 4), (0, 5), (3, 0), (2, 5, 3, 2)]:
        for dim in range(-max(1, len(shape)), max(1, len(shape))):
            check_same(name, normal(*shape, dtype=dtype).requires_grad_(), dim)
            check_same(name, normal(*shape, dtype=dtype), torch.tensor(dim))
            for wanted in RTOL:
                converted = normal(*shape, dtype=dtype).to(torch.promote_types(dtype, wanted))
                assert getattr(ours, name)(converted, dim, dtype=wanted).dtype == wanted
    check_same(name, indices(3, 5), 1, dtype=dtype)
    check_same(name, torch.tensor([[INF, 0.0], [-INF, -INF], [NAN, 1.0], [-INF, 1.0]], dtype=dtype), 1)


@pytest.mark.parametrize("name", ["log_softmax", "softmax"])
def test_softmax_converts_first(name):
    x = normal(3, 5).requires_grad_()
    for dtype, rtol in RTOL.items():
        theirs, (expected,) = run(lambda x, to: getattr(F, name)(x.to(to).double(), 1).to(to), [x, dtype], {})
        result, (grad,) = run(lambda x, to: getattr(ours, name)(x, 1, dtype=to), [x, dtype], {})
        assert (result.dtype, grad.dtype) == (dtype, torch.float64)
        torch.testing.assert_close(result, theirs, rtol=rtol, atol=1e-7)
        torch.testing.assert_close(grad, expected, rtol=4 * rtol, atol=rtol)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("cross_entropy", (normal(3, 5), Y), {"weight": W.double(), "label_smoothing": 0.1}),
        ("cross_entropy", (normal(2, 5, 3), indices(2, 3)), {"reduction": "none", "ignore_index": 1}),
        ("cross_entropy", (normal(3, 5), uniform(3, 5)), {"weight": W.double()}),
        ("nll_loss", (normal(3, 5), Y), {"weight": W.double()}),
        ("binary_cross_entropy_with_logits", (normal(3, 5), 2 * uniform(3, 5)), {"pos_weight": W.double()}),
        ("log_softmax", (normal(3, 5), 1), {}),
        ("softmax", (normal(3, 5), 0), {}),
    ],
)
def test_second_derivative(name, args, kwargs):
    def hvp(function):
        x = args[0].clone().requires_grad_()
        (grad,) = torch.autograd.grad((function(x, *args[1:], **kwargs).sin()).sum(), x, create_graph=True)
        return torch.autograd.grad((grad * normal(*x.shape, seed=6)).sum(), x)[0]

    torch.testing.assert_close(hvp(getattr(ours, name)), hvp(getattr(F, name)), rtol=1e-11, atol=1e-13)


REFUSED = [
    # Shapes, of which PyTorch has a message for every number of dimensions
    ("cross_entropy", (X, Y[:2]), {}),
    ("cross_entropy", (X, Y[0]), {}),
    ("cross_entropy", (X, indices(3, 2)), {}),
    ("cross_entropy", (X, P[:, :2]), {}),
    ("cross_entropy", (X, indices(3, 5)), {}),
    ("cross_entropy", (X[0], Y), {}),
    ("cross_entropy", (X[0, :1], Y[:1]), {}),
    ("cross_entropy", (X[:1], Y[0]), {}),
    ("cross_entropy", (X[0, 0], Y[0]), {}),
    ("cross_entropy", (X[0, 0], P[0, 0]), {}),
    ("cross_entropy", (normal(2, 5, 4), indices(2, 3)), {}),
    ("cross_entropy", (normal(2, 5, 4, 4), indices(2, 5, 4)), {}),
    ("cross_entropy", (normal(2, 5, 4, 4), indices(2)), {}),
    ("cross_entropy", (normal(2, 5, 4, 4, 4), indices(2, 4, 4)), {}),
    ("cross_entropy", (X, Y, W[:3]), {}),
    ("cross_entropy", (X, Y, W[None]), {}),
    ("cross_entropy", (X, P, W[:3]), {}),
    ("nll_loss", (X, Y[:2]), {}),
    ("nll_loss", (X, P), {}),
    ("nll_loss", (X, indices(3, 5)), {}),
    ("nll_loss", (X[0, 0], Y[0]), {}),
    ("nll_loss", (normal(2, 5, 4, 4), indices(2)), {}),
    ("nll_loss", (normal(2, 5, 4), indices(2, 3)), {}),
    ("nll_loss", (X, Y, W[:3]), {}),
    ("binary_cross_entropy_with_logits", (X, P[0]), {}),
    ("binary_cross_entropy_with_logits", (X, P, W[:3]), {}),
    ("binary_cross_entropy_with_logits", (X, P, uniform(2, 3, 5)), {}),
    ("binary_cross_entropy_with_logits", (X[0, 0], P[0, 0], uniform(1)), {}),
    ("binary_cross_entropy_with_logits", (X, P), {"pos_weight": W[:3]}),
    ("binary_cross_entropy_with_logits", (X, P), {"pos_weight": uniform(2, 3, 5)}),
    ("binary_cross_entropy_with_logits", (X, P), {"pos_weight": uniform(0)}),
    # Dtypes
    ("cross_entropy", (X, Y.float()), {}),
    ("cross_entropy", (X, Y.bool()), {}),
    ("cross_entropy", (X, P > 0.5), {}),
    ("cross_entropy", (X, P + 0j), {}),
    ("cross_entropy", (X.long(), Y), {}),
    ("cross_entropy", (X + 0j, Y), {}),
    ("cross_entropy", (X > 0, Y), {}),
    ("cross_entropy", (X, Y, W.double()), {}),
    ("cross_entropy", (X.half(), Y, W), {}),
    ("cross_entropy", (X, Y, W.double()), {"label_smoothing": 0.1}),
    ("cross_entropy", (X, Y, torch.ones(5, dtype=torch.int64)), {}),
    ("nll_loss", (X, Y.float()), {}),
    ("nll_loss", (X, Y.bool()), {}),
    ("nll_loss", (X.long(), Y), {}),
    ("nll_loss", (X + 0j, Y), {}),
    ("nll_loss", (X, Y, W.double()), {}),
    ("nll_loss", (X[:0], Y[:0], W.double()), {}),
    ("binary_cross_entropy_with_logits", (X, P.long()), {}),
    ("binary_cross_entropy_with_logits", (X, P > 0.5), {}),
    ("binary_cross_entropy_with_logits", (X.long(), P), {}),
    ("binary_cross_entropy_with_logits", (X + 0j, P), {}),
    ("binary_cross_entropy_with_logits", (X, P, W + 0j), {}),
    ("binary_cross_entropy_with_logits", (X, P), {"pos_weight": W + 0j}),
    *[(name, (X.long(), 1), {}) for name in ("softmax", "log_softmax")],
    *[(name, (X + 0j, 1), {}) for name in ("softmax", "log_softmax")],
    *[(name, (X, 1), {"dtype": torch.int64}) for name in ("softmax", "log_softmax")],
    *[(name, (X, 1), {"dtype": "float32"}) for name in ("softmax", "log_softmax")],
    # Options
    ("cross_entropy", (X, Y), {"label_smoothing": 1.2}),
    ("cross_entropy", (X, P), {"label_smoothing": 1.2}),
    ("cross_entropy", (X, Y), {"label_smoothing": torch.tensor(1.2)}),
    ("cross_entropy", (X, Y), {"label_smoothing": torch.tensor([0.1])}),
    ("cross_entropy", (X, Y), {"label_smoothing": torch.tensor(0.1, requires_grad=True)}),
    ("cross_entropy", (X, Y), {"label_smoothing": "0.1"}),
    ("cross_entropy", (X, Y), {"label_smoothing": None}),
    ("cross_entropy", (X, P), {"ignore_index": 1}),
    *[(name, (X, Y), {"reduction": "median"}) for name in ("cross_entropy", "nll_loss")],
    *[(name, (X, Y), {"reduction": None}) for name in ("cross_entropy", "nll_loss")],
    ("binary_cross_entropy_with_logits", (X, P[0]), {"reduction": "median"}),
    *[(name, (X, dim), {}) for name in ("softmax", "log_softmax") for dim in (2, -3, 1.0, True)],
    *[(name, (X[0, 0], 1), {}) for name in ("softmax", "log_softmax")],
    *[(name, (X.to_sparse(), 1), {}) for name in ("softmax", "log_softmax")],
    # What is no tensor, or not on that device
    *[(name, (X.tolist(), Y), {}) for name in FUNCTIONS],
    *[(name, (X, Y.tolist()), {}) for name in FUNCTIONS if "softmax" not in name],
    *[(name, (X, None), {}) for name in FUNCTIONS if "softmax" not in name],
    *[(name, (X, Y, W.tolist()), {}) for name in ("cross_entropy", "nll_loss")],
    ("binary_cross_entropy_with_logits", (X, P, 2.0), {}),
    ("binary_cross_entropy_with_logits", (X, P), {"pos_weight": 2.0}),
    *[(name, (X, Y.to("meta")), {}) for name in ("cross_entropy", "nll_loss")],
    *[(name, (X, Y, W.to("meta")), {}) for name in ("cross_entropy", "nll_loss")],
    ("binary_cross_entropy_with_logits", (X, P.to("meta")), {}),
    ("binary_cross_entropy_with_logits", (X, P, P.to("meta")), {}),
    ("binary_cross_entropy_with_logits", (X, P), {"pos_weight": P.to("meta")}),
]


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize(("name", "args", "kwargs"), REFUSED)
def test_refused_in_the_same_words(name, args, kwargs):
    with pytest.raises(Exception) as theirs:  # noqa: PT011  (whatever PyTorch raises)
        getattr(F, name)(*args, **kwargs)
    with pytest.raises(theirs.type) as info:
        getattr(ours, name)(*args, **kwargs)
    assert info.type is theirs.type
    assert str(info.value) == str(theirs.value)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("label", [5, -1, 2**40, -(2**40)])
def test_an_index_out_of_range(label, smoothing):
    """PyTorch's type of error, and this library's message, which says where."""
    target = torch.tensor([0, label, 2])
    assert outcome(F.cross_entropy, X, target, label_smoothing=smoothing) is IndexError
    message = rf"expected class indices in \[0, 5\) or the ignore_index -100, but labels\[1\] is {label}"
    with pytest.raises(IndexError, match=message):
        ours.cross_entropy(X, target, label_smoothing=smoothing)
    with pytest.raises(IndexError, match=message):
        ours.nll_loss(X, target)


CE, NLL, BCE = "cross_entropy", "nll_loss", "binary_cross_entropy_with_logits"
SURE = torch.tensor([[17.0, 0.0, 0.0, 0.0]])
FIRST = torch.tensor([0])
MASKED = torch.tensor([[0.0, -INF, 0.0]])
VALUE = F.cross_entropy(X.double(), Y).item()
NLL_VALUE = F.nll_loss(X.double(), Y).item()

# What PyTorch and this library do with the same call: raise such an error, or return numbers with such a sum. The
# docstrings say why.
DIFFERENCES = {
    # More accurate
    "a confident row": (CE, (SURE, FIRST), {}, 0.0, 1.24198123e-07),
    "a confident row, log_softmax": ("log_softmax", (SURE[0], 0), {}, -51.0, -51.0 - 4 * 1.24198123e-07),
    # What counts nothing costs nothing
    "probability 0 at -inf": (CE, (MASKED, torch.tensor([[1.0, 0.0, 0.0]])), {}, NAN, math.log(2)),
    "class weight 0 in a row of NaN": (CE, (NAN * X, Y, 0 * W), {"reduction": "sum"}, NAN, 0.0),
    "class weight 0 in a row of NaN, nll": (NLL, (NAN * X, Y, 0 * W), {"reduction": "sum"}, NAN, 0.0),
    "class weight 0 in a row of NaN, soft": (CE, (NAN * X, P, 0 * W), {}, NAN, 0.0),
    "an infinite logit that is right": (BCE, (torch.tensor([INF]), torch.tensor([1.0])), {}, NAN, 0.0),
    "an infinite negative logit that is right": (BCE, (torch.tensor([-INF]), torch.tensor([0.0])), {}, NAN, 0.0),
    "an infinite logit that is wrong": (BCE, (torch.tensor([-INF]), torch.tensor([1.0])), {}, NAN, INF),
    # Any integer dtype, and arguments that PyTorch does not take with each other
    **{
        f"indices of {dtype}": (name, (X, Y.to(dtype)), {}, RuntimeError, value)
        for dtype in (torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64)
        for name, value in ((CE, VALUE), (NLL, NLL_VALUE))
    },
    "uint8 in three dimensions": (CE, (X[..., None], Y[:, None].byte()), {}, RuntimeError, VALUE),
    "class weights that require a gradient": (CE, (X, Y, torch.ones(5).requires_grad_()), {}, RuntimeError, VALUE),
    "weights that require a gradient": (
        *(BCE, (X, P, torch.ones(5).requires_grad_()), {"pos_weight": torch.ones(5).requires_grad_()}),
        *(RuntimeError, F.binary_cross_entropy_with_logits(X.double(), P.double()).item()),
    ),
    "the index of one row as (1,), smoothed": (
        *(CE, (X[0], Y[:1]), {"label_smoothing": 1.0}),
        *(RuntimeError, F.cross_entropy(X[0].double(), Y[0], label_smoothing=1.0).item()),
    ),
    "no ignore_index": (CE, (X, Y), {"ignore_index": None}, TypeError, VALUE),
    "a mask as pos_weight": (
        *(BCE, (X, P), {"pos_weight": torch.ones(5) > 0}),
        *(RuntimeError, F.binary_cross_entropy_with_logits(X.double(), P.double()).item()),
    ),
    # Not a number that a weight can be
    "a complex class weight": (
        CE,
        (torch.zeros(1, 3), torch.ones(1, 3), torch.ones(3) + 0j),
        {},
        3 * math.log(3),
        TypeError,
    ),
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_declared_difference(what):
    name, args, kwargs, theirs, mine = DIFFERENCES[what]
    for library, expected in ((F, theirs), (ours, mine)):
        result = outcome(getattr(library, name), *args, **kwargs)
        assert result is expected or result == pytest.approx(expected, rel=1e-6, nan_ok=True)


def weights_of_any_sign():
    """By name: of negative ones, of NaN and inf at a class, and some whose sum over labels is 0."""
    w, at = uniform(5), torch.arange(5)
    one = {value: torch.where(at == 1, value, w) for value in (NAN, INF, -INF)}
    found = {"negative": -w, "mixed": normal(5), "sum 0": torch.tensor([1.0, -1, 0, 1, -1]).double()}
    return found | {str(value): weight for value, weight in one.items()} | {"0": 0 * w, "NaN at 4": one[NAN].roll(3)}


ANY_SIGN = weights_of_any_sign()


def check_any_number(name, *args, **kwargs):
    """Compare with PyTorch in float64, infinite and NaN numbers as well; but for gradients of what is NaN."""
    theirs = getattr(F, name)(*args, **kwargs)
    result, grads = run(getattr(ours, name), args, kwargs, least=1)  # 0 times inf is what each makes of it
    exact, exact_grads = run(getattr(F, name), args, kwargs, torch.float64, least=1)
    assert (result.dtype, result.shape) == (theirs.dtype, theirs.shape)
    rtol = 8 * max(RTOL[result.dtype], computed(args[0].dtype))
    torch.testing.assert_close(result, exact.to(result.dtype), rtol=rtol, atol=rtol, equal_nan=True)
    for grad, expected in zip(grads, exact_grads, strict=True) if result.ndim or not result.isnan() else ():
        is_finite = expected.isfinite()
        assert torch.equal(grad.isfinite(), is_finite)
        numbers = expected[is_finite].to(grad.dtype)
        largest = numbers.abs().max().item() if numbers.numel() else 0.0
        torch.testing.assert_close(grad[is_finite], numbers, rtol=rtol, atol=rtol * (1 + largest))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weight", [None, *ANY_SIGN])
def test_any_number(weight, dtype):
    """Weights and probabilities of any sign and any sum, infinite or NaN, are computed with, as by PyTorch."""
    x = normal(4, 5, dtype=dtype).requires_grad_()
    w = None if weight is None else ANY_SIGN[weight].to(dtype)
    indices = [torch.tensor(y) for y in ([0, 1, 3, 1], [0, 2, 3, -100], [2, 2, 3, -100], [-100] * 4)]
    some = uniform(4, 5) > 0.8
    mixed, zero = normal(4, 5, seed=9), torch.tensor([[1.0, -1, 0, 0, 0]] * 4)
    soft = [q.to(dtype).requires_grad_() for q in (mixed, zero, *(torch.where(some, a, mixed) for a in (NAN, INF)))]
    for reduction, smoothing in product(REDUCTIONS, (0.0, 0.1)):
        for target in (*indices, *soft):
            check_any_number(CE, x, target, w, reduction=reduction, label_smoothing=smoothing)
        for target in indices if smoothing == 0 else ():
            check_any_number(NLL, x, target, w, reduction=reduction)
    for target, reduction in product(soft, REDUCTIONS):
        check_any_number(BCE, x, target, reduction=reduction, pos_weight=w)
        check_any_number(BCE, x, target, w, reduction=reduction)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch.compile itself
@pytest.mark.parametrize("weight", ["negative", "mixed", "nan", "NaN at 4"])
def test_any_number_where_it_cannot_be_read(weight):
    x, w, mixed = normal(4, 5), ANY_SIGN[weight], normal(4, 5, seed=9)
    for target, smoothing in product((torch.tensor([0, 1, 3, -100]), mixed), (0.0, 0.1)):

        def loss(x, w, target=target, smoothing=smoothing):
            return ours.cross_entropy(x, target, w, label_smoothing=smoothing)

        expected = F.cross_entropy(x, target, w, label_smoothing=smoothing)
        close = {"rtol": 1e-12, "atol": 1e-13, "equal_nan": True}
        torch.testing.assert_close(torch.func.vmap(loss, (0, None))(x[None], w)[0], expected, **close)
        torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(x, w), expected, **close)
        grads = torch.func.vmap(torch.func.grad(loss), (0, None))(x[None], w)[0]
        torch.testing.assert_close(grads, torch.func.grad(loss)(x, w), **close)


def test_derivatives_with_respect_to_weights_and_probabilities_of_any_sign():
    """PyTorch has none with respect to weights; by its formula."""
    x, w = normal(4, 5).requires_grad_(), normal(5, seed=8).requires_grad_()
    y, q = torch.tensor([0, 1, 3, -100]), normal(4, 5, seed=9).requires_grad_()
    counted = (y >= 0).double()[:, None]
    one_hot = F.one_hot(y.clamp(min=0), 5) * counted
    for smoothing, target in product((0.0, 0.1), (y, q)):
        p = one_hot if target is y else q
        shares = ((1 - smoothing) * p + smoothing / 5) * (counted if target is y else 1)
        expected = -(shares * w * x.log_softmax(1)).sum() / ((w * one_hot).sum() if target is y else 4)
        leaves = (x, w) if target is y else (x, w, q)
        result = ours.cross_entropy(x, target, w, label_smoothing=smoothing)
        torch.testing.assert_close(
            torch.autograd.grad(result, leaves), torch.autograd.grad(expected, leaves), rtol=1e-11, atol=1e-13
        )
        assert torch.autograd.gradgradcheck(
            lambda x, w, q, target=target, smoothing=smoothing: ours.cross_entropy(
                x, y if target is y else q, w, label_smoothing=smoothing
            ),
            (x, w, q),
        )


@pytest.mark.parametrize("size", [1e300, 1e-300, -1e-300])
def test_a_float64_target_keeps_its_range(size):
    """Beside float32 logits: float32 holds no such number."""
    x, q, w = X.double(), size * P.double(), size * W.double()
    for name, target, weight in ((CE, q, None), (CE, P.double(), w), (CE, P, w), (BCE, q, None)):
        expected = getattr(F, name)(x, target, weight) / size
        result, (grad,) = run(getattr(ours, name), (X.clone().requires_grad_(), target, weight), {})
        torch.testing.assert_close(result.double() / size, expected, rtol=1e-6, atol=0)
        assert (result.dtype, grad.dtype) == (torch.float64, torch.float32)
    hidden, layer = normal(3, 4, dtype=torch.float32), normal(5, 4, dtype=torch.float32, seed=7)
    result = ours.linear_cross_entropy(hidden, layer, q)
    expected = F.cross_entropy(hidden.double() @ layer.double().T, q) / size
    torch.testing.assert_close(result / size, expected, rtol=1e-13, atol=0)


SMOOTHINGS = [torch.tensor(0.1), torch.tensor(1), torch.tensor(-0.5), -0.1, NAN, True, 0, torch.tensor(NAN)]


@pytest.mark.parametrize("smoothing", SMOOTHINGS, ids=str)
def test_label_smoothing_is_what_pytorch_takes_it_for(smoothing):
    for target, reduction in product((Y, P), REDUCTIONS):
        check_same(CE, X.clone().requires_grad_(), target, label_smoothing=smoothing, reduction=reduction)


def test_gradients_where_pytorch_has_nan():
    x = torch.tensor([[NAN, 1.0, 2.0], [0.0, 1.0, 2.0]]).requires_grad_()
    target, nothing = torch.tensor([-100, 2]), torch.zeros(3)
    cases = [({}, False), ({"label_smoothing": 0.1}, False), ({"weight": nothing, "ignore_index": 2}, True)]
    for options, over_nothing in cases:
        gradients = []
        for library in (F, ours):
            loss = library.cross_entropy(
                x[1:] if over_nothing else x, target[1:] if over_nothing else target, **options
            )
            assert loss.isnan() == over_nothing
            gradients.append(torch.autograd.grad(loss, x)[0])
        if not over_nothing:
            assert gradients[0][0].isnan().all()
            assert not gradients[1].isnan().any()
        assert gradients[1][0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_classes(reduction):
    """Nothing to compute: PyTorch's own answer."""
    for target in (torch.full((3,), -100), torch.zeros(3, 0)):
        expected = F.cross_entropy(torch.zeros(3, 0), target, reduction=reduction)
        torch.testing.assert_close(
            ours.cross_entropy(torch.zeros(3, 0), target, reduction=reduction), expected, equal_nan=True
        )
    with pytest.raises(RuntimeError, match=r"expected scalar type \w+ but found \w+"):
        ours.nll_loss(torch.zeros(0, 0), Y[:0], torch.zeros(0).half(), reduction=reduction)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 5, 4), (0, 5)], ids=str)
def test_sample_weight(shape):
    x, y, q, w = normal(*shape), indices(*rows(shape)), uniform(*shape), uniform(5, seed=7)
    s = uniform(*rows(shape), seed=8)
    for function, target, weight in product((ours.cross_entropy, ours.nll_loss), (y, q), (None, w)):
        if function is ours.nll_loss and target is q:
            continue
        losses = getattr(F, function.__name__)(x, target, weight, reduction="none")
        counts = torch.ones_like(s) if weight is None or target is q else w[y]
        for given in (s, s.float(), (60000 * s).half(), s > 0.5, torch.ones_like(s), torch.zeros_like(s)):
            close = {"rtol": 1e-6 if given.dtype == torch.float32 else 1e-13, "atol": 0, "equal_nan": True}
            expected = {"none": losses * given, "sum": (losses * given).sum()}
            expected["mean"] = expected["sum"] / (counts * given).sum()
            for reduction in REDUCTIONS:
                result = function(x, target, weight, reduction=reduction, sample_weight=given)
                torch.testing.assert_close(result, expected[reduction], **close)


def test_sample_weight_of_nothing():
    s = torch.zeros(3, requires_grad=True)
    for target in (Y, P):
        x = X.clone().requires_grad_()
        loss = ours.cross_entropy(x, target, sample_weight=s)
        assert loss.isnan()
        assert not torch.autograd.grad(loss, x)[0].any()
    for target in (Y, P):
        with pytest.raises(ValueError, match=r"sample_weight: expected shape \(3,\)"):
            ours.cross_entropy(X, target, sample_weight=torch.ones(2))
        with pytest.raises(TypeError):
            ours.cross_entropy(X, target, sample_weight=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="sample_weight"):
        ours.nll_loss(X, Y, sample_weight=-torch.ones(3))


@pytest.mark.parametrize("name", [*FUNCTIONS, *MODULES])
def test_signature(name):
    theirs = getattr(F, name, None) or getattr(torch.nn, name)
    own, expected = (list(inspect.signature(f).parameters.values()) for f in (getattr(ours, name), theirs))
    extra = own[len(expected) :]
    assert [(p.name, p.kind, p.default) for p in own[: len(expected)]] == [
        (p.name, p.kind, p.default) for p in expected
    ]
    assert [(p.name, p.kind, p.default) for p in extra] == (
        [("sample_weight", inspect.Parameter.KEYWORD_ONLY, None)] if name in ("cross_entropy", "nll_loss") else []
    )
    assert name in ours.__all__


def heard(function, *args, **kwargs):
    """The result, and the category, text and file of each warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*args, **kwargs)
    return result, [(w.category, str(w.message), w.filename == __file__) for w in caught]


@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "elementwise_mean"])
def test_deprecated_reductions(size_average, reduce, reduction):
    options = {"size_average": size_average, "reduce": reduce, "reduction": reduction}
    for name, module, target in ((CE, "CrossEntropyLoss", Y), (NLL, "NLLLoss", Y), (BCE, "BCEWithLogitsLoss", P)):
        theirs, expected = heard(getattr(F, name), X, target, **options)
        result, warned = heard(getattr(ours, name), X, target, **options)
        torch.testing.assert_close(result, theirs)
        assert warned == expected
        theirs, expected = heard(getattr(torch.nn, module), **options)
        result, warned = heard(getattr(ours, module), **options)
        assert result.reduction == theirs.reduction
        assert warned == expected


@pytest.mark.parametrize("name", ["log_softmax", "softmax"])
@pytest.mark.parametrize("stacklevel", [2, 3])
def test_implicit_dimension(name, stacklevel):
    for shape in [(), (5,), (3, 5), (2, 5, 4), (2, 5, 3, 2)]:
        theirs, expected = heard(lambda x: getattr(F, name)(x, _stacklevel=stacklevel), normal(*shape))
        result, warned = heard(lambda x: getattr(ours, name)(x, _stacklevel=stacklevel), normal(*shape))
        torch.testing.assert_close(result, theirs)
        assert warned == expected
        assert len(warned) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    calls = [(name, (Y,), {"reduction": reduction}) for name in (CE, NLL) for reduction in REDUCTIONS]
    calls += [(name, (Y, W.to(other)), {}) for name in (CE, NLL) for other in RTOL]
    calls += [(name, (P.to(other),), {}) for name in (CE, BCE) for other in RTOL]
    calls += [(CE, (P.to(other), W.to(other)), {"label_smoothing": 0.1}) for other in RTOL]
    calls += [(BCE, (P.to(other), W.to(other)), {"pos_weight": W.to(other)}) for other in RTOL]
    calls += [(name, (1,), {"dtype": given}) for name in ("softmax", "log_softmax") for given in (None, *RTOL)]
    with torch.autocast("cpu", dtype=dtype):
        for (name, args, kwargs), given in product(calls, RTOL):
            x = X.to(given)
            expected = outcome(getattr(F, name), x, *args, **kwargs)
            if isinstance(expected, type):
                assert outcome(getattr(ours, name), x, *args, **kwargs) is expected
            else:
                theirs, result = getattr(F, name)(x, *args, **kwargs), getattr(ours, name)(x, *args, **kwargs)
                assert result.dtype == theirs.dtype
                rtol = max(RTOL[result.dtype], RTOL[kwargs.get("dtype") or given], RTOL[torch.float32])
                torch.testing.assert_close(result, theirs, rtol=rtol, atol=rtol)


def test_autocast_on_a_gpu():
    """PyTorch's rules there are others than on the CPU. Fake tensors tell them without a GPU."""
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    enabled = torch.is_autocast_enabled("cuda")
    with fake.FakeTensorMode():
        torch.set_autocast_enabled("cuda", True)
        try:
            for dtype, other in product(RTOL, RTOL):
                x = torch.empty(3, 5, dtype=dtype, device="cuda")
                p = torch.empty(3, 5, dtype=other, device="cuda")
                y = torch.empty(3, dtype=torch.int64, device="cuda")
                assert _arguments.result_dtype(x) == F.cross_entropy(x, y).dtype == F.nll_loss(x, y).dtype
                assert _arguments.result_dtype(x, p) == F.cross_entropy(x, p).dtype
                assert _arguments.result_dtype(p) == F.binary_cross_entropy_with_logits(x, p).dtype
                for theirs, given in product((F.softmax, F.log_softmax), (None, other)):
                    result = _softmax._transform(lambda x, axis: x, theirs, x, 1, 3, given)
                    assert result.dtype == theirs(x, 1, dtype=given).dtype
        finally:
            torch.set_autocast_enabled("cuda", enabled)


CONSTRUCTED = [
    ("CrossEntropyLoss", {}),
    ("CrossEntropyLoss", {"weight": W, "ignore_index": 3, "reduction": "sum", "label_smoothing": 0.1}),
    ("NLLLoss", {}),
    ("NLLLoss", {"weight": W, "ignore_index": 3, "reduction": "none"}),
    ("BCEWithLogitsLoss", {}),
    ("BCEWithLogitsLoss", {"weight": W, "pos_weight": 2 * W, "reduction": "sum"}),
]


@pytest.mark.parametrize(("name", "options"), CONSTRUCTED)
def test_modules(name, options):
    theirs, mine = getattr(torch.nn, name)(**options), getattr(ours, name)(**options)
    target = P if name == "BCEWithLogitsLoss" else Y
    assert isinstance(mine, getattr(torch.nn, name))
    assert repr(mine) == repr(theirs)
    assert mine.state_dict().keys() == theirs.state_dict().keys() == (options.keys() & {"weight", "pos_weight"})
    torch.testing.assert_close(mine(X, target), theirs(X, target))
    file = io.BytesIO()
    torch.save(mine, file)
    file.seek(0)
    copies = [copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)), torch.load(file, weights_only=False)]
    blank = getattr(ours, name)(**{k: torch.zeros_like(v) if torch.is_tensor(v) else v for k, v in options.items()})
    assert blank.load_state_dict(theirs.state_dict()).missing_keys == []
    for other in (*copies, blank):
        assert type(other) is type(mine)
        torch.testing.assert_close(other(X, target), theirs(X, target))
    assert [b.dtype for b in mine.to(torch.float64).buffers()] == [torch.float64] * len(mine.state_dict())
    torch.testing.assert_close(mine(X.double(), target), theirs.double()(X.double(), target))


class Model(torch.nn.Module):
    """A module with a loss in it."""

    def __init__(self, loss):
        super().__init__()
        self.linear = torch.nn.Linear(5, 5)
        self.loss = loss

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.loss(self.linear(x), target)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("name", "options"), CONSTRUCTED)
def test_scripted_modules(name, options):
    """Alone and in another module, saved and loaded: values, gradients and errors are those of this library."""
    target = P if name == "BCEWithLogitsLoss" else Y
    module = getattr(ours, name)(**options)
    for whole in (module, Model(module)):
        scripted, file = torch.jit.script(whole), io.BytesIO()
        torch.jit.save(scripted, file)
        file.seek(0)
        results = []
        for called in (whole, scripted, torch.jit.load(file)):
            x = (17 * X).requires_grad_()
            loss = called(x, target)
            results.append((loss, *torch.autograd.grad(loss.sum(), x)))
        assert all(map(torch.equal, results[0] * 2, results[1] + results[2]))
        if target is Y:
            with pytest.raises(Exception, match=r"labels\[1\] is 7"):
                scripted(X, torch.tensor([0, 7, 2]))
    if name != "BCEWithLogitsLoss":
        weighted = torch.jit.script(module)(X, Y, sample_weight=W[:3])
        assert torch.equal(weighted, module(X, Y, sample_weight=W[:3]))


def test_modules_pass_sample_weight_on():
    s = uniform(3).float()
    for name, function in (("CrossEntropyLoss", ours.cross_entropy), ("NLLLoss", ours.nll_loss)):
        result = getattr(ours, name)(W)(X, Y, sample_weight=s)
        assert torch.equal(result, function(X, Y, W, sample_weight=s))
        assert not torch.isclose(result, function(X, Y, W))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch.compile itself
@pytest.mark.parametrize(
    ("function", "args"),
    [
        (lambda x, y: ours.cross_entropy(x, y, W, ignore_index=3, label_smoothing=0.1), (X, Y)),
        (lambda x, q, s: ours.cross_entropy(x, q, sample_weight=s), (X.half(), P, W[:3])),
        (ours.NLLLoss(W), (X, Y)),
        (lambda x, y: ours.binary_cross_entropy_with_logits(x, y, W, pos_weight=W), (X, 3 * P - 1)),
        (lambda x: ours.softmax(x, 1), (X,)),
    ],
    ids=["indices", "probabilities", "module", "binary", "softmax"],
)
def test_compiled(function, args):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected, gradients = run(function, [args[0].clone().requires_grad_(), *args[1:]], {})
    torch.testing.assert_close(run(compiled, [args[0].clone().requires_grad_(), *args[1:]], {}), (expected, gradients))


def test_arguments_that_override():
    """Subclasses of tensors, whose results are of the subclass, and the proxies of `torch.fx`."""

    class Labelled(torch.Tensor):
        pass

    x = X.as_subclass(Labelled)
    for name, args in ((CE, (Y,)), (CE, (P,)), (NLL, (Y,)), (BCE, (P,)), ("softmax", (1,)), ("log_softmax", (1,))):
        result, theirs = getattr(ours, name)(x, *args), getattr(F, name)(x, *args)
        assert type(result) is type(theirs) is Labelled
        torch.testing.assert_close(result, theirs)
    traced = torch.fx.symbolic_trace(ours.CrossEntropyLoss())
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [ours.cross_entropy]
    assert torch.equal(traced(SURE, FIRST), ours.cross_entropy(SURE, FIRST))


def test_tensors_without_numbers(monkeypatch):
    """On the device "meta" there are only shapes and dtypes."""
    x, y, p = (a.to("meta") for a in (X.half(), Y, P.half()))
    for name, args in ((CE, (y,)), (CE, (p,)), (NLL, (y,)), (BCE, (p,)), ("softmax", (1,)), ("log_softmax", (1,))):
        result, theirs = getattr(ours, name)(x, *args), getattr(F, name)(x, *args)
        assert (result.device, result.dtype, result.shape) == (theirs.device, theirs.dtype, theirs.shape)
    monkeypatch.setattr(F, BCE, None)  # nothing of this is left to PyTorch
    for weight in (torch.tensor(2.0), W.to("meta")):  # a number may lie on the CPU
        assert ours.binary_cross_entropy_with_logits(x, p, weight, pos_weight=weight).device == x.device


def test_nested_tensors():
    """A softmax of each: PyTorch's own answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a prototype
        jagged, strided = (torch.nested.nested_tensor([X, X[:2]], layout=a) for a in (torch.jagged, torch.strided))
    for name, nested in (("softmax", jagged), ("log_softmax", jagged), ("softmax", strided)):
        expected = [getattr(F, name)(x, -1) for x in (X, X[:2])]
        torch.testing.assert_close(list(getattr(ours, name)(nested, -1).unbind()), expected)


@pytest.mark.parametrize("module", [_functional, _modules, _softmax])
def test_examples(module):
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    expected = {"linear_cross_entropy", *FUNCTIONS} - {"softmax", "log_softmax"}
    expected = {_functional: expected, _modules: {*MODULES, *LINEAR}, _softmax: {"softmax", "log_softmax"}}[module]
    assert {test.name.rpartition(".")[2] for test in tests} == expected
    for test in tests:
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0
