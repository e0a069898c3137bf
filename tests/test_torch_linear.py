"""The drop-ins `linear_cross_entropy` and `LinearCrossEntropyLoss` against PyTorch's reference path.

The samples, and how results are compared, are those of `test_torch_dropin`. `options` must change nothing, where
PyTorch's chunked path has no derivative either.
"""

import copy
import inspect
import math
import subprocess
import sys
import traceback
import warnings
from itertools import product
from pathlib import Path

import pytest
from test_torch_dropin import INF, NAN, REDUCTIONS, RTOL, _one_thread, indices, normal, outcome, run, uniform  # noqa: F401

torch = pytest.importorskip("torch", reason="torch: not installed")
F = torch.nn.functional

import xent_any  # noqa: E402
import xent_any_backends.torch as ours  # noqa: E402  (it needs torch)
from xent_any_backends.torch import _arguments, _functional  # noqa: E402

NAME = "linear_cross_entropy"
HAS = hasattr(F, NAME)
needs_theirs = pytest.mark.skipif(not HAS, reason=f"torch {torch.__version__} has no {NAME}")
H, L, B, W = (normal(3, 4), normal(5, 4, seed=7), normal(5, seed=8), uniform(5))
Y, P = torch.tensor([0, 3, 2]), uniform(3, 5)


def chunked(**options):
    return torch.nn.LinearCrossEntropyOptions(**options)


OPTIONS = [{}, {"batch_chunk_size": 2}, {"chunking_method": "aspect_ratio:2"}, {"acc_policy": "accurate"}]
MODES = [None, *OPTIONS] if HAS else [None]


def reference(x, linear_weight, target, *, linear_bias=None, ignore_index=None, options=None, **kwargs):
    """What PyTorch documents its function to be; here without it too."""
    lead = linear_weight.shape[:-1]
    bias = None if linear_bias is None else linear_bias.flatten()
    logits = F.linear(x, linear_weight.flatten(0, -2), bias).reshape(*x.shape[:-1], *lead)
    return F.cross_entropy(logits, target, ignore_index=-100 if ignore_index is None else ignore_index, **kwargs)


THEIRS = getattr(F, NAME, reference)


def check_same(*args, **kwargs):
    """Compare with PyTorch's, which is computed in float64; gradients with respect to whatever requires one."""
    # Logits of several positions are rounded to half precision, as PyTorch's are; others are computed in float32.
    dtype = args[0].dtype
    rounded = 8 * RTOL[dtype] if args[1].ndim > 2 else RTOL[torch.promote_types(dtype, torch.float32)]
    theirs = THEIRS(*args, **kwargs)
    result, grads = run(ours.linear_cross_entropy, args, kwargs)
    exact, exact_grads = run(THEIRS, args, kwargs, torch.float64)
    assert (result.dtype, result.shape) == (theirs.dtype, theirs.shape)
    assert result.requires_grad == theirs.requires_grad
    # Logits are sums of products with rounding errors of their own size, not of the loss's.
    rtol = max(RTOL[result.dtype], rounded)
    torch.testing.assert_close(result, exact.to(result.dtype), rtol=2 * rtol, atol=2 * rtol, equal_nan=True)
    for grad, expected in zip(grads, exact_grads, strict=True):
        if result.ndim == 0 and result.isnan():  # the mean over nothing
            expected = torch.zeros_like(expected)  # noqa: PLW2901
        largest = expected.abs().amax().item() if expected.numel() else 0.0
        rtol = max(RTOL[grad.dtype], rounded)
        torch.testing.assert_close(grad, expected.to(grad.dtype), rtol=4 * rtol, atol=4 * rtol * largest)


# (N, D) without the rows, of one row and of none; then one and two dimensions more, of several sizes and of none.
SHAPES = [((4,), ()), ((1, 4), ()), ((0, 4), ()), ((3, 0), ()), ((3, 4), (1,)), ((3, 4), (3, 2)), ((3, 4), (0,))]
CASES = [*product([((3, 4), ()), ((3, 4), (2,))], RTOL), *((shape, torch.float64) for shape in SHAPES)]


def layer(shapes, dtype):
    """Its inputs, weight, and no bias or one."""
    lead, more = shapes
    x, weight, bias = normal(*lead), normal(5, *more, lead[-1], seed=7), normal(5, *more, seed=8)
    x, weight, bias = ((a / 3).to(dtype).requires_grad_() for a in (x, weight, bias))
    return x, weight, (None, bias)


@pytest.mark.parametrize(("shapes", "dtype"), CASES, ids=str)
def test_class_indices(shapes, dtype):
    x, weight, biases = layer(shapes, dtype)
    y = indices(*x.shape[:-1], *weight.shape[1:-1])
    some, none = torch.where(y == 1, -100, y), torch.full_like(y, -7)
    labels = [(y, None), (y, 1), (some, None), (some, -100), (none, -7)]
    options = product(labels, biases, (None, uniform(5, dtype=dtype)), REDUCTIONS, (0.0, 0.1))
    for (target, ignored), bias, classes, reduction, smoothing in options:
        given = {"ignore_index": ignored, "weight": classes, "reduction": reduction, "label_smoothing": smoothing}
        check_same(x, weight, target, linear_bias=bias, **given)


@pytest.mark.parametrize(("shapes", "dtype"), CASES, ids=str)
def test_class_probabilities(shapes, dtype):
    x, weight, biases = layer(shapes, dtype)
    shape = (*x.shape[:-1], *weight.shape[:-1])
    targets = [uniform(*shape, dtype=other).requires_grad_() for other in {dtype, torch.float32}]
    weights = (None, uniform(5, dtype=dtype), uniform(5).requires_grad_(), torch.arange(5), torch.zeros(5).double())
    options = product(targets, biases, weights, REDUCTIONS, (0.0, 0.2))
    for target, bias, classes, reduction, smoothing in options:
        given = {"weight": classes, "reduction": reduction, "label_smoothing": smoothing}
        check_same(x, weight, target, linear_bias=bias, **given)


def test_the_mean_of_positions_has_one_divisor():
    """By hand: the sum over all rows and positions, over the sum of the weights of all that is not ignored."""
    layers, y = normal(5, 2, 4, seed=7), torch.tensor([[0, 1], [-100, 3], [4, -100]])
    parts = [reference(H, layers[:, i], y[:, i], weight=W, reduction="sum") for i in range(2)]
    expected = sum(parts) / W[y[y >= 0]].sum()
    torch.testing.assert_close(ours.linear_cross_entropy(H, layers, y, weight=W), expected, rtol=1e-13, atol=0)


def test_half_precision_logits_are_not_rounded():
    """2049 is no float16: PyTorch's logits are 2048 twice."""
    x, weight = torch.tensor([[1.0, 1.0]]).half(), torch.tensor([[2048.0, 1.0], [2048.0, 0.0]]).half()
    assert ours.linear_cross_entropy(x, weight, Y[:1]).item() == pytest.approx(math.log1p(math.exp(-1)), rel=1e-3)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("target", [Y, P, Y.to(torch.int16)], ids=["indices", "probabilities", "int16"])
def test_options_change_nothing(mode, target):
    """And nothing is warned of, as all of them apply to everything but several positions."""
    options = None if mode is None else chunked(**mode)
    for smoothing, reduction in product((0.0, 0.1), REDUCTIONS):
        given = {"linear_bias": B, "weight": W, "label_smoothing": smoothing, "reduction": reduction}
        expected = reference(H, L, target if target is P else Y, **given)
        result = ours.linear_cross_entropy(H, L, target, **given, options=options)
        torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-14)


@needs_theirs
@pytest.mark.parametrize("dtype", RTOL, ids=str)
def test_options_say_how_many_rows(monkeypatch, dtype):
    """Or as much memory, in blocks of classes of more rows."""
    rows, whole = [], type(_arguments.IN_NUMPY.products).memory
    row = (50 + 4 * 4) * (8 if dtype == torch.float64 else 4)

    def memory(self, max_bytes):
        rows.append(whole(self, max_bytes) // row)
        return whole(self, max_bytes)

    monkeypatch.setattr(type(_arguments.IN_NUMPY.products), "memory", memory)
    x, weight, y = normal(64, 4, dtype=dtype), normal(50, 4, dtype=dtype), indices(64)
    for mode, most in ((None, None), ({}, None), ({"batch_chunk_size": 10}, 10), ({"batch_chunk_size": 100}, 64)):
        ours.linear_cross_entropy(x, weight, y, options=None if mode is None else chunked(**mode))
        assert rows[-1] > 1000 if most is None else most // 2 <= rows[-1] <= most
    ours.linear_cross_entropy(x, weight, y, options=chunked(chunking_method="aspect_ratio:2"))
    assert rows[-1] <= 4  # 64 * 4 / 50, the next power of two, over 2
    both = chunked(chunking_method="aspect_ratio:2", batch_chunk_size=10)
    for function in (THEIRS, ours.linear_cross_entropy):
        with pytest.raises(ValueError, match="give different chunk sizes"):
            function(x, weight, y, options=both)


def loss_of(function, target=Y, mode=None, **given):
    options = {} if mode is None or function is reference else {"options": chunked(**mode)}
    return lambda x, weight: function(x, weight, target, linear_bias=B, weight=W, **given, **options).sum().sin()


def twice_backward(f):
    x, weight = H.clone().requires_grad_(), L.clone().requires_grad_()
    loss = f(x, weight)
    first = torch.autograd.grad(loss, (x, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (x, weight))
    torch.testing.assert_close(first, second, rtol=1e-13, atol=1e-15)
    return second


def second_order(f):
    x, weight = H.clone().requires_grad_(), L.clone().requires_grad_()
    grads = torch.autograd.grad(f(x, weight), (x, weight), create_graph=True)
    return torch.autograd.grad(sum((g * normal(*g.shape, seed=6)).sum() for g in grads), (x, weight))


TANGENTS = (normal(3, 4, seed=5), normal(5, 4, seed=6))
DERIVATIVES = {
    "backward twice": twice_backward,
    "backward twice over": second_order,
    "gradgradcheck": lambda f: (
        torch.autograd.gradgradcheck(  # the first backward pass has what was kept; later ones round otherwise
            f, (H.clone().requires_grad_(), L.clone().requires_grad_()), nondet_tol=1e-12
        )
    ),
    "grad": lambda f: torch.func.grad(f, (0, 1))(H, L),
    "vmap": lambda f: torch.func.vmap(f, (0, None))(torch.stack([H, 2 * H]), L),
    "vmap of grad": lambda f: torch.func.vmap(torch.func.grad(f, (0, 1)), (None, 0))(H, torch.stack([L, 2 * L])),
    "jvp": lambda f: torch.func.jvp(f, (H, L), TANGENTS),
    "jacfwd": lambda f: torch.func.jacfwd(f, (0, 1))(H, L),
    "hessian": lambda f: torch.func.hessian(f)(H, L),
}
PROBLEMS = {
    "mean": {},
    "none": {"reduction": "none"},
    "sum, probabilities": {"target": P, "label_smoothing": 0.1, "reduction": "sum"},
}


@pytest.mark.filterwarnings("ignore:.*vmap.*performance drop:UserWarning")
@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("mode", [None, {"batch_chunk_size": 2}] if HAS else [None], ids=str)
def test_derivatives(derivative, problem, mode):
    """PyTorch's chunked path has none of them but, where it is told so, the first."""
    given = PROBLEMS[problem]
    expected = DERIVATIVES[derivative](loss_of(reference, **given))
    result = DERIVATIVES[derivative](loss_of(ours.linear_cross_entropy, mode=mode, **given))
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch.compile itself
@pytest.mark.parametrize("mode", [None, {"batch_chunk_size": 2}] if HAS else [None], ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_compiled(problem, mode):
    f = loss_of(ours.linear_cross_entropy, mode=mode, **PROBLEMS[problem])
    expected = twice_backward(loss_of(reference, **PROBLEMS[problem]))
    torch.testing.assert_close(twice_backward(torch.compile(f, fullgraph=True, backend="aot_eager")), expected)


@pytest.mark.parametrize("positions", [(), (2,)], ids=str)
def test_autocast(positions):
    """The layer in the dtype of autocast, the loss in float32; the tolerance is for PyTorch's rounded logits."""
    y = indices(3, *positions)
    for dtypes, soft, reduction in product(product(RTOL, repeat=2), (False, True), REDUCTIONS):
        x, weight = (
            normal(3, 4, dtype=dtypes[0]).requires_grad_(),
            normal(5, *positions, 4, dtype=dtypes[1], seed=7).requires_grad_(),
        )
        target = uniform(3, 5, *positions).float() if soft else y
        results = []
        for function in (THEIRS, ours.linear_cross_entropy):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                if len(set(dtypes)) > 1 and torch.float64 in dtypes:
                    with pytest.raises(RuntimeError):
                        function(x, weight, target, reduction=reduction)
                    continue
                loss = function(x, weight, target, reduction=reduction)
                results.append((loss, *torch.autograd.grad(loss.sum(), (x, weight))))
        for expected, result in zip(*results, strict=True) if results else ():
            assert result.dtype == expected.dtype
            scale = expected.abs().max().item()
            torch.testing.assert_close(result, expected, rtol=0.03, atol=0.03 * scale)


S = (H.float(), L.float(), Y)
REFUSED = [
    ((H[None], L, Y), {}),
    ((H[0, 0], L, Y[0]), {}),
    ((H, L[0], Y), {}),
    ((H, L[:, :3], Y), {}),
    ((H[0], normal(5, 2, 4), indices(2)), {}),
    ((H, L, Y), {"linear_bias": B[:3]}),
    ((H, L, Y), {"linear_bias": B[None]}),
    ((H, normal(5, 2, 4), indices(3, 2)), {"linear_bias": B}),
    ((H, normal(5, 2, 4), Y), {}),
    ((H, normal(5, 2, 3, 4), indices(3, 2)), {}),
    ((H, L, Y[:2]), {}),
    ((H, L, P[:, :3]), {}),
    ((H, L, Y), {"weight": W[:3]}),
    ((H, L, P), {"ignore_index": -100}),
    ((H, L, P), {"label_smoothing": 1.2}),
    ((H, L, Y), {"label_smoothing": 1.2}),
    ((H, L, Y), {"reduction": "median"}),
    ((H, L, Y), {"weight": W.float()}),
    ((H, L, Y.bool()), {}),
    ((H, L, Y.double()), {}),
    ((H, L, indices(3, 5)), {}),
    ((H, L.float(), Y), {}),
    ((H.half(), L, Y), {}),
    ((H, L, Y), {"linear_bias": B.float()}),
    ((H.long(), L.long(), Y), {}),
    ((H, L.tolist(), Y), {}),
    ((H, L, Y.tolist()), {}),
    ((H, L, Y.to("meta")), {}),
]


@needs_theirs
@pytest.mark.parametrize(("args", "kwargs"), REFUSED)
def test_refused_in_the_same_words(args, kwargs):
    with pytest.raises(Exception) as theirs:  # noqa: PT011  (whatever PyTorch raises)
        THEIRS(*args, **kwargs)
    with pytest.raises(theirs.type) as info:
        ours.linear_cross_entropy(*args, **kwargs)
    assert info.type is theirs.type
    assert str(info.value) == str(theirs.value)


@pytest.mark.parametrize(("args", "kwargs"), REFUSED)
def test_refused_without_pytorch(monkeypatch, args, kwargs):
    """Where PyTorch has no such function, nothing that it would refuse is answered either."""
    monkeypatch.delattr(F, NAME, raising=False)
    with pytest.raises(Exception) as info:  # noqa: PT011  (where it comes from is looked at)
        ours.linear_cross_entropy(*args, **kwargs)
    # Refused on purpose, by ours or by PyTorch, and nowhere by a crash of ours.
    last = traceback.extract_tb(info.tb)[-1]
    assert last.line.startswith("raise ") or Path(torch.__file__).parent in Path(last.filename).parents


def test_declared_differences():
    nan = NAN * H[:1]
    for given, mine in (((nan, L, Y[:1]), 0.0), ((INF * H[:1], L, Y[:1]), 0.0)):
        assert outcome(ours.linear_cross_entropy, *given, weight=0 * W, reduction="sum") == mine
        assert math.isnan(outcome(THEIRS, *given, weight=0 * W, reduction="sum"))
    with pytest.raises(IndexError, match=r"expected class indices in \[0, 5\) or the ignore_index -100"):
        ours.linear_cross_entropy(H, L, Y + 3)
    mixed = torch.cat([nan, H[:2]]).requires_grad_()
    loss = ours.linear_cross_entropy(mixed, L, torch.tensor([-100, 3, 2]))
    (grad,) = torch.autograd.grad(loss, mixed)
    assert grad[0].tolist() == [0.0] * 4
    torch.testing.assert_close(loss, reference(H[:2], L, Y[1:]))


@pytest.mark.parametrize("max_bytes", [None, 1000], ids=["whole", "blocks"])
def test_any_number(monkeypatch, max_bytes):
    """Weights and probabilities of any sign and any sum, NaN as well; the classes in blocks, too."""
    monkeypatch.setattr(_functional, "chunk_bytes", lambda *_: max_bytes)
    layers, y = normal(400, 4, seed=7), torch.tensor([0, 399, 7])
    w, q = normal(400, seed=9), normal(3, 400, seed=10)
    q[0] = 0
    q[0, :2] = torch.tensor([1.0, -1.0])  # with a sum of 0
    some = torch.where(torch.arange(400) == 7, NAN, w)
    for target, weight, smoothing, reduction in product((y, q), (None, w, -w.abs(), some), (0.0, 0.1), REDUCTIONS):
        given = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        results = []
        for function in (reference, ours.linear_cross_entropy):
            x, a = H.clone().requires_grad_(), layers.clone().requires_grad_()
            loss = function(x, a, target, **given)
            results.append((loss, *(() if loss.isnan().any() else torch.autograd.grad(loss.sum(), (x, a)))))
        for expected, result in zip(*results, strict=True):
            close = {"rtol": 1e-11, "atol": 1e-12 * expected.detach().abs().nan_to_num(0).max().item()}
            torch.testing.assert_close(result, expected, **close, equal_nan=True)


def test_a_row_of_nan_whose_target_only_sums_to_0():
    for max_bytes in (None, 1000):
        x = torch.cat([NAN * H[:1], H[1:]])
        q = torch.zeros(3, 400).double()
        q[:, :2] = torch.tensor([1.0, -1.0])
        for target, first in ((q, NAN), (0 * q, 0.0)):
            layers = normal(400, 4, seed=7)
            arguments = _functional.Arguments(reduction="none", unrestricted=True)
            problem = _functional._problem.linear_problem(x, layers, target, None, arguments, max_bytes, None)
            torch.testing.assert_close(problem.loss()[0].item(), first, equal_nan=True)


@needs_theirs
@pytest.mark.parametrize("name", [NAME, "LinearCrossEntropyLoss"])
def test_signature(name):
    theirs = getattr(F, name, None) or getattr(torch.nn, name)
    own, expected = (list(inspect.signature(f).parameters.values()) for f in (getattr(ours, name), theirs))
    extra = own[len(expected) :]
    assert [(p.name, p.kind, p.default) for p in own[: len(expected)]] == [
        (p.name, p.kind, p.default) for p in expected
    ]
    assert {p.name for p in extra} == ({"z_loss", "softcap", "denominator", "max_bytes"} if name == NAME else set())
    assert {p.kind for p in extra} <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", [NAME, "LinearCrossEntropyLoss"])
def test_exported(name):
    assert name in ours.__all__


CONSTRUCTED = [
    {},
    {"bias": True, "weight": W.float(), "ignore_index": 3, "reduction": "sum", "label_smoothing": 0.1},
    {"out_features": (2, 3), "bias": True, "reduction": "none"},
]


@needs_theirs
@pytest.mark.parametrize("options", CONSTRUCTED)
def test_module(options):
    for chosen in (None, chunked(batch_chunk_size=2)):
        given = {**options, "options": chosen}
        theirs, mine = (c(4, 5, **given) for c in (torch.nn.LinearCrossEntropyLoss, ours.LinearCrossEntropyLoss))
        assert isinstance(mine, torch.nn.LinearCrossEntropyLoss)
        assert repr(mine) == repr(theirs)
        assert mine.extra_repr() == theirs.extra_repr()
        assert mine.state_dict().keys() == theirs.state_dict().keys()
        assert mine.load_state_dict(theirs.state_dict()).missing_keys == []
        y = indices(3, *options.get("out_features", ()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, about options that it ignores
            expected = theirs(H.float(), y)
        for module in (mine, copy.deepcopy(mine)):
            result = module(H.float(), y)
            torch.testing.assert_close(result, expected)
            result.sum().backward()
        expected.sum().backward()
        for own, parameter in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(own.grad, parameter.grad)


def test_arguments_that_override():
    class Labelled(torch.Tensor):
        pass

    result = ours.linear_cross_entropy(H.as_subclass(Labelled), L, Y)
    assert type(result) is Labelled
    torch.testing.assert_close(result.as_subclass(torch.Tensor), reference(H, L, Y))


def test_tensors_without_numbers():
    for dtype, target in product(RTOL, (Y, P.float())):
        x, weight, y = (a.to("meta") for a in (H.to(dtype), L.to(dtype), target))
        result = ours.linear_cross_entropy(x, weight, y)
        assert (result.device, result.dtype, result.shape) == (x.device, torch.result_type(x, y), ())


OLDER = """
import torch
for place in (torch.nn.functional, torch.nn, torch.nn.modules):
    for name in ("linear_cross_entropy", "LinearCrossEntropyLoss", "LinearCrossEntropyOptions"):
        if name in vars(place):
            delattr(place, name)
import xent_any_backends.torch as ours
x, y = torch.eye(3), torch.tensor([0, 1, 2])
for layer, labels in ((2 * x, y), (2 * x[:, None], y[:, None])):
    torch.testing.assert_close(
        ours.linear_cross_entropy(x, layer, labels), torch.nn.functional.cross_entropy(2 * x, y)
    )
try:
    ours.LinearCrossEntropyLoss(3, 3)
except NotImplementedError as error:
    print(error)
"""


def test_older_pytorch():
    """All of it that comes with PyTorch 2.13 is taken away before the import."""
    done = subprocess.run([sys.executable, "-c", OLDER], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("LinearCrossEntropyLoss: needs PyTorch 2.13 or newer, got ")


def small_layer(dtype):
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 3).to(dtype), torch.randn(4, 3).to(dtype)
    return hidden, weight, torch.zeros(4).to(dtype), torch.tensor([0, 1])


HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@HALF
@pytest.mark.parametrize("which", ["hidden", "bias"])
def test_half_layer_under_torch_func_where_the_weight_is_plain(dtype, which):
    hidden, weight, bias, labels = small_layer(dtype)

    def loss(a):
        given = (a, bias) if which == "hidden" else (hidden, a)
        return xent_any.linear_cross_entropy(given[0], weight, labels, bias=given[1])

    def wide(a):
        given = (a, bias.double()) if which == "hidden" else (hidden.double(), a)
        return xent_any.linear_cross_entropy(given[0], weight.double(), labels, bias=given[1])

    at = hidden if which == "hidden" else bias
    torch.testing.assert_close(
        torch.func.grad(loss)(at), torch.func.grad(wide)(at.double()), rtol=0.02, atol=0.02, check_dtype=False
    )


@HALF
def test_half_layer_second_derivative_where_only_hidden_is_differentiated(dtype):
    hidden, weight, _, labels = small_layer(dtype)
    hidden.requires_grad_()
    loss = xent_any.linear_cross_entropy(hidden, weight, labels)
    (first,) = torch.autograd.grad(loss, hidden, create_graph=True)
    torch.autograd.grad(first.float().square().sum(), hidden)


@HALF
def test_half_layer_under_vmap(dtype):
    hidden, weight, _, labels = small_layer(dtype)
    torch.vmap(lambda a: xent_any.linear_cross_entropy(a, weight, labels))(torch.stack([hidden, hidden]))


@HALF
@pytest.mark.parametrize("recompute", [None, True])
def test_half_layer_batched_gradients(dtype, recompute):
    hidden, weight, bias, labels = small_layer(dtype)
    hidden.requires_grad_()
    loss = xent_any.linear_cross_entropy(hidden, weight, labels, bias=bias.requires_grad_(), recompute=recompute)
    (found,) = torch.autograd.grad(loss, hidden, torch.ones(3), is_grads_batched=True, retain_graph=True)
    (one,) = torch.autograd.grad(loss, hidden)
    torch.testing.assert_close(found, one.expand(3, 2, 3), rtol=0.02, atol=0.02)


POSITIONS = (2, 3)
EXTRAS = {"none": {}, "all": {"z_loss": 0.1, "softcap": 2.0, "max_bytes": 4096}}


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
def test_positions(soft, extras):
    """Inputs (B, T, D) with a target of each position, and what PyTorch has not: as the core computes it."""
    x, target = normal(*POSITIONS, 4), uniform(*POSITIONS, 5) if soft else indices(*POSITIONS)
    if not soft:
        target[0, 1] = -100
    for reduction, denominator in (*product(REDUCTIONS, [None]), ("mean", 7.0), ("mean", torch.tensor(7))):
        given = {"reduction": reduction, "label_smoothing": 0.1, "denominator": denominator, **EXTRAS[extras]}
        results = []
        for function in (ours.linear_cross_entropy, xent_any.linear_cross_entropy):
            h, w, b = (a.clone().requires_grad_() for a in (x, L, B))
            bias = {"linear_bias" if function is ours.linear_cross_entropy else "bias": b}
            if function is xent_any.linear_cross_entropy and soft and reduction == "mean" and denominator is None:
                given["denominator"] = math.prod(POSITIONS)  # PyTorch's mean divides by the number of rows
            loss = function(h, w, target, **bias, **given)
            results.append([loss, *torch.autograd.grad(loss.sum(), (h, w, b))])
        assert results[0][0].shape == (POSITIONS if reduction == "none" else ())
        torch.testing.assert_close(*results, rtol=1e-13, atol=1e-14)


def test_step_of_a_language_model_under_autocast():
    """Inputs of half precision (B, T, D), a float32 parameter, a denominator: gradients in each argument's dtype."""
    x, weight, target = (
        normal(*POSITIONS, 4).bfloat16().requires_grad_(),
        L.float().requires_grad_(),
        indices(*POSITIONS),
    )
    exact = (reference(x.double().flatten(0, 1), weight.double(), target.flatten(), reduction="sum") / 7).detach()
    for function in (ours.linear_cross_entropy, xent_any.linear_cross_entropy):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = function(x, weight, target, denominator=torch.tensor(7))
        grads = torch.autograd.grad(loss, (x, weight))
        assert [a.dtype for a in (loss, *grads)] == [torch.float32, torch.bfloat16, torch.float32]
        # The drop-in, as PyTorch's, takes the parameter in the dtype of autocast; the core never does.
        rtol = 0.02 if function is ours.linear_cross_entropy else 1e-6
        torch.testing.assert_close(loss.double(), exact, rtol=rtol, atol=0)


@pytest.mark.parametrize(
    "extra", [{"z_loss": 0.1}, {"softcap": 2.0}, {"denominator": 3.0}, {"max_bytes": 4096}], ids=str
)
def test_extras_without_such_a_layer(extra):
    with pytest.raises(ValueError, match=f"{next(iter(extra))}: expected none"):
        ours.linear_cross_entropy(H, normal(5, 2, 4), indices(3, 2), **extra)
