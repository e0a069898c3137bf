"""The derivatives that PyTorch takes of xent_any: autograd, torch.func, torch.compile and torch.export."""

import gc
import os
import shutil
import subprocess
import sys
import tracemalloc

import pytest
from conftest import require

import xent_any
from xent_any import binary_cross_entropy, cross_entropy, cross_entropy_value_and_grad

torch = pytest.importorskip("torch")
require("torch")

import torch.nn.functional as F  # noqa: E402, N812
from torch.autograd import forward_ad, functional  # noqa: E402
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap  # noqa: E402

from xent_any_backends.torch import _autograd  # noqa: E402

N, C = 3, 4
FLOATS = [torch.float32, torch.float64, torch.bfloat16]
NAN, INF = float("nan"), float("inf")
Y = torch.tensor([1, -100, 3])
ALL = torch.tensor([1, 0, 3])  # none of them ignored


def arguments(names, dtype=torch.float64):
    """Seeded leaves: x, v of (N, C) logits; q probabilities; w, s weights of classes and rows; d a denominator."""
    generator = torch.Generator().manual_seed(20240517)
    made = {"x": torch.randn(N, C, generator=generator, dtype=torch.float64) * 2}
    made["v"] = torch.randn(N, C, generator=generator, dtype=torch.float64)
    for name, shape in {"q": (N, C), "w": (C,), "s": (N,), "d": ()}.items():
        made[name] = torch.rand(shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    return tuple(made[name].to(dtype).requires_grad_() for name in names)


EVERY = {"label_smoothing": 0.2, "z_loss": 0.1, "softcap": 2.0}
# Each option and each function once, and each option with another in both kinds of labels.
LOSSES = {
    "index": ("x", lambda x: cross_entropy(x, Y)),
    "none": ("xs", lambda x, s: cross_entropy(x, Y, sample_weight=s, softcap=2.0, reduction="none")),
    "smooth": ("xwd", lambda x, w, d: cross_entropy(x, Y, class_weight=w, denominator=d, label_smoothing=0.2)),
    "axis": ("xq", lambda x, q: cross_entropy(x.T[None], q.T[None], axis=1, z_loss=0.1, reduction="sum")),
    "every": ("xqws", lambda x, q, w, s: cross_entropy(x, q, class_weight=w, sample_weight=s, **EVERY)),
    "row": ("x", lambda x: cross_entropy(x[0], Y[0], **EVERY)),
    "nll": ("xw", lambda x, w: xent_any.nll_loss(x - 9, Y, class_weight=w, label_smoothing=0.2)),
    "nll of probabilities": ("xqs", lambda x, q, s: xent_any.nll_loss(x - 9, q, sample_weight=s)),
    "logsumexp": ("x", lambda x: xent_any.logsumexp(x, axis=0, keepdims=True)),
    "log_softmax": ("x", xent_any.log_softmax),
    "softmax": ("x", lambda x: xent_any.softmax(x, axis=0)),
    "binary": ("xqw", lambda x, q, w: binary_cross_entropy(x, q, pos_weight=w)),
    "binary none": ("xqv", lambda x, q, v: binary_cross_entropy(x, q, sample_weight=v * v, reduction="none")),
}
DERIVATIVES = {
    "value_and_grad": ("xw", lambda x, w: cross_entropy_value_and_grad(x, Y, class_weight=w, z_loss=0.1)),
    "value_and_grad of probabilities": ("xqs", lambda x, q, s: cross_entropy_value_and_grad(x, q, sample_weight=s)),
    "jvp": ("xvw", lambda x, v, w: xent_any.cross_entropy_jvp(x, v, Y, class_weight=w, reduction="none")),
    "hvp": ("xvq", lambda x, v, q: xent_any.cross_entropy_hvp(x, v, q, z_loss=0.1, softcap=3.0)),
    "binary": ("xqw", lambda x, q, w: xent_any.binary_cross_entropy_value_and_grad(x, q, pos_weight=w)),
}


@pytest.mark.parametrize("case", LOSSES | {f"derivative: {name}": None for name in DERIVATIVES})
def test_against_differences(case):
    """In backward and forward mode, with respect to every argument, batched as well."""
    names, f = LOSSES[case] if case in LOSSES else DERIVATIVES[case.removeprefix("derivative: ")]
    torch.manual_seed(0)  # the directions that the fast mode draws
    every = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    torch.autograd.gradcheck(f, arguments(names), fast_mode=True, **every)


@pytest.mark.parametrize("case", LOSSES)
def test_second_derivatives_against_differences(case):
    """Backward and forward over backward."""
    names, f = LOSSES[case]
    torch.manual_seed(0)
    batched = case in {"none", "smooth", "every"}
    torch.autograd.gradgradcheck(
        f, arguments(names), fast_mode=True, check_batched_grad=batched, check_fwd_over_rev=True
    )


X, V = (a.detach() for a in arguments("xv"))
ONE = torch.ones((), dtype=torch.float64)


def dual(f):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(X, V))).tangent


def dual_of_backward(f):
    x = X.clone().requires_grad_()
    with forward_ad.dual_level():
        (g,) = torch.autograd.grad(f(forward_ad.make_dual(x, V)), x, create_graph=True)
        return forward_ad.unpack_dual(g).tangent


def backward_twice(f):
    x = X.clone().requires_grad_()
    loss = f(x)
    loss.backward(retain_graph=True)
    loss.backward()
    return x.grad


def checkpointed(f, reentrant):
    x = X.clone().requires_grad_()
    torch.utils.checkpoint.checkpoint(lambda x: f(x * 2), x, use_reentrant=reentrant).backward()
    return x.grad


def directional(f):
    return lambda x: jvp(f, (x,), (V,))[1]


def slope(f):
    return lambda x: (grad(f)(x) * V).sum()


# Results of a scalar function of X.
TRANSFORMS = {
    "grad": lambda f: grad(f)(X),
    "vjp": lambda f: vjp(f, X)[1](2 * ONE)[0],
    "jvp": lambda f: directional(f)(X),
    "linearize": lambda f: linearize(f, X)[1](V),
    "jacrev": lambda f: jacrev(f)(X),
    "jacfwd": lambda f: jacfwd(f)(X),
    "hessian": lambda f: hessian(f)(X),
    "jacrev of jacrev": lambda f: jacrev(jacrev(f))(X),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f))(X),
    # An autograd.Function under two levels of forward mode has silently a derivative of 0.
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(f))(X),
    "jvp of jvp": lambda f: directional(directional(f))(X),
    "jvp of grad": lambda f: jvp(grad(f), (X,), (V,))[1],
    "grad of jvp": lambda f: grad(directional(f))(X),
    "grad of grad of grad": lambda f: grad(slope(slope(f)))(X),
    "jacfwd of jacrev of jacfwd": lambda f: jacfwd(jacrev(jacfwd(f)))(X),
    "dual": dual,
    "dual of backward": dual_of_backward,
    "functional.hessian": lambda f: functional.hessian(f, X),
    "functional.hessian, forward": lambda f: functional.hessian(
        f, X, vectorize=True, outer_jacobian_strategy="forward-mode"
    ),
    "functional.vhp": lambda f: functional.vhp(f, X, V)[1],
    "functional.jvp": lambda f: functional.jvp(f, X, V)[1],
    "backward twice": backward_twice,
    "checkpoint": lambda f: checkpointed(f, False),
    "checkpoint, reentrant": lambda f: checkpointed(f, True),
}
# Results of a function of one row and its label.
MAPPED = {
    "vmap": lambda f: vmap(f)(X, ALL),
    "vmap of grad": lambda f: vmap(grad(f))(X, ALL),
    "vmap of hessian": lambda f: vmap(hessian(f))(X, ALL),
    "vmap of jacfwd of jacfwd": lambda f: vmap(jacfwd(jacfwd(f)))(X, ALL),
    "vmap of jvp of grad": lambda f: vmap(lambda x, y, v: jvp(lambda x: grad(f)(x, y), (x,), (v,)))(X, ALL, V)[1],
    "grad of vmap": lambda f: grad(lambda x: vmap(f)(x, ALL).square().sum())(X),
    "vmap of vmap": lambda f: vmap(vmap(f))(X[None], ALL[None]),
    "vmap of labels": lambda f: vmap(f, in_dims=(None, 0))(X[0], ALL),
    "in_dims": lambda f: vmap(grad(f), in_dims=(1, 0), out_dims=1)(X.T, ALL),
}


def equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)
    assert ours.any()


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")  # torch.func.linearize, of any f
@pytest.mark.parametrize("labels", ["index", "probabilities"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_against_torch(name, labels):
    y = Y if labels == "index" else arguments("q")[0].detach()
    options = {"class_weight": arguments("w")[0].detach(), "label_smoothing": 0.1}
    theirs = TRANSFORMS[name](lambda x: F.cross_entropy(x, y, weight=options["class_weight"], label_smoothing=0.1))
    if labels != "index":
        options |= {"denominator": float(N)}  # what torch divides by
    equal(TRANSFORMS[name](lambda x: cross_entropy(x, y, **options)), theirs)


@pytest.mark.parametrize("name", MAPPED)
def test_transforms_of_rows_against_torch(name):
    equal(MAPPED[name](cross_entropy), MAPPED[name](F.cross_entropy))


def test_gradients_of_each_sample():
    """functional_call with vmap, as for differentially private training, against one sample after the other."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(C, C, dtype=torch.float64)
    parameters = dict(layer.named_parameters())

    def loss(parameters, h, y):
        return cross_entropy(functional_call(layer, parameters, (h,)), y)

    each = vmap(grad(loss), in_dims=(None, 0, 0))({k: p.detach() for k, p in parameters.items()}, X, ALL)
    for i, (h, y) in enumerate(zip(X, ALL, strict=True)):
        singly = torch.autograd.grad(F.cross_entropy(layer(h), y), list(parameters.values()))
        for name, expected in zip(parameters, singly, strict=True):
            equal(each[name][i], expected)


CONFIDENT = [[17.0, 0, 0, 0], [0, -30, 25, 1], [90, 1, 2, 3], [-2, 70, 0, 1], [3, 2, 1, 0], [5, 5, 5, -INF]]
CONFIDENT_LABELS = torch.tensor([0, 2, 0, 1, 3, 0])
VECTORS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "options", [{}, {"z_loss": 0.01, "label_smoothing": 0.1, "softcap": 30.0}], ids=["", "options"]
)
def test_derivatives_are_those_of_the_functions(dtype, options):
    """Bitwise, for confident rows too: the same kernels compute them."""
    x = torch.tensor(CONFIDENT, dtype=dtype, requires_grad=True)
    x_, v, options = x.detach(), VECTORS.to(dtype), options | {"reduction": "sum"}
    loss = cross_entropy(x, CONFIDENT_LABELS, **options)
    (g,) = torch.autograd.grad(loss, x, create_graph=True)
    value, gradient = cross_entropy_value_and_grad(x_, CONFIDENT_LABELS, **options)
    assert torch.equal(loss, value)
    assert torch.equal(g, gradient)
    (h,) = torch.autograd.grad(g, x, v)
    assert torch.equal(h, xent_any.cross_entropy_hvp(x_, v, CONFIDENT_LABELS, **options))
    torch.testing.assert_close(
        jvp(lambda x: cross_entropy(x, CONFIDENT_LABELS, **options), (x_,), (v,))[1],
        xent_any.cross_entropy_jvp(x_, v, CONFIDENT_LABELS, **options)[1],
        rtol=1e-6,
        atol=0,
    )


def test_second_derivatives_in_blocks():
    """Of logits in half precision that take several blocks of rows."""
    x = torch.tensor(CONFIDENT, dtype=torch.bfloat16).repeat(60_000, 1).requires_grad_()
    v, labels = (a.repeat(60_000, *[1] * (a.ndim - 1)) for a in (VECTORS.to(x.dtype), CONFIDENT_LABELS))
    (g,) = torch.autograd.grad(cross_entropy(x, labels, reduction="sum"), x, create_graph=True)
    (h,) = torch.autograd.grad(g, x, v)
    few = xent_any.cross_entropy_hvp(x.detach()[:6], v[:6], labels[:6], reduction="sum")
    assert h.dtype == x.dtype
    assert torch.equal(h, few.repeat(60_000, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", ["backward of backward", "forward over backward", "nested forward"])
def test_second_derivatives_of_confident_rows_keep_their_digits(how, dtype):
    """Against ``p_j sum_k p_k (v_j - v_k)``, which cancels nowhere."""
    x, v, y = torch.tensor(CONFIDENT[:4], dtype=dtype), VECTORS[:4].to(dtype), CONFIDENT_LABELS[:4]

    def f(x):
        return cross_entropy(x, y, reduction="sum")

    if how == "backward of backward":
        product = vjp(grad(f), x)[1](v)[0]
    elif how == "forward over backward":
        product = jvp(grad(f), (x,), (v,))[1]
    else:  # v H v of each row
        product = jvp(lambda x: jvp(lambda x: cross_entropy(x, y, reduction="none"), (x,), (v,))[1], (x,), (v,))[1]
    wide = v.double()
    p = torch.softmax(x.double(), -1)
    expected = p * (p[:, None, :] * (wide[:, :, None] - wide[:, None, :])).sum(-1)
    if how == "nested forward":
        expected = 0.5 * (p[:, None] * p[:, :, None] * (wide[:, :, None] - wide[:, None]) ** 2).sum((1, 2))
    # the rows at a distance of up to 90 lose that many units
    torch.testing.assert_close(product.double(), expected, rtol=100 * torch.finfo(dtype).eps, atol=1e-44)


def test_the_gradient_of_a_row_won_by_far():
    x = torch.tensor([17.0, 0, 0, 0], requires_grad=True)
    cross_entropy(x, torch.tensor(0)).backward()
    torch.testing.assert_close(x.grad[0].item(), -1.2419810e-07, rtol=1e-6, atol=0)


# What is saved beside the logits, as so many arrays of their size: labels, and the gradient of a sum, if it is small.
SAVED = {
    "none": (lambda x, y, q: cross_entropy(x, y, reduction="none"), 0),
    "mean": (lambda x, y, q: cross_entropy(x, y), 1),
    "options": (lambda x, y, q: cross_entropy(x, y, **EVERY), 1),
    "axis": (lambda x, y, q: cross_entropy(x.T, y, axis=0), 1),
    "probabilities": (lambda x, y, q: cross_entropy(x, q), 2),
    "linear": (lambda x, y, q: xent_any.linear_cross_entropy(x, q, y), 3),
    "linear, recomputed": (lambda x, y, q: xent_any.linear_cross_entropy(x, q, y, recompute=True), 1),
    "logsumexp": (lambda x, y, q: xent_any.logsumexp(x), 0),
    "softmax": (lambda x, y, q: xent_any.softmax(x), 0),
    "log_softmax": (lambda x, y, q: xent_any.log_softmax(x), 0),
    "value_and_grad": (lambda x, y, q: cross_entropy_value_and_grad(x, y)[0], 0),
}


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float16])
@pytest.mark.parametrize("case", SAVED)
def test_saved_for_backward(case, dtype):
    """The logits, what `SAVED` says and a few numbers for each row: all where hooks see it, and take it away."""
    f, count = SAVED[case]
    n, c = 16, 4096
    x, q = (
        torch.randn(n, c).to(dtype).requires_grad_(),
        torch.ones((n, c), dtype=dtype).requires_grad_("linear" in case),
    )
    y = torch.arange(n)
    f(x, y, q)  # what threads keep from call to call is allocated
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()

    gc.collect()
    gc.freeze()  # `get_objects` lists what is made from here on
    tracemalloc.start()
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda _: None):
            result = f(x, y, q)
        in_numpy, _ = tracemalloc.get_traced_memory()
        gc.collect()
        in_torch = sum(found.nbytes for found in gc.get_objects() if type(found) is torch.Tensor)
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    logits = x.untyped_storage()
    assert saved.pop(logits.data_ptr()) == logits.nbytes()
    few = 64 * n
    # Of half precision, the gradients in a layer are kept in float32 until they have been multiplied by the cotangent.
    size = 4 if case == "linear" and dtype.itemsize == 2 else dtype.itemsize
    assert sum(saved.values()) <= count * n * c * size + few
    assert in_numpy + in_torch <= 2 * result.nbytes + few + 32 * 1024  # of Python's own objects


@pytest.mark.parametrize("scale", [1.0, 0.5, 4.0])
@pytest.mark.parametrize("linear", [False, True])
def test_gradients_of_a_graph_that_is_kept_are_nobodys_else(linear, scale):
    """A gradient that is written to does not change the next one, as with PyTorch's own loss."""
    x = X.clone().requires_grad_()
    loss = xent_any.linear_cross_entropy(x, V, Y.clamp(max=2)) if linear else cross_entropy(x, Y)
    loss = scale * loss
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(loss, x, retain_graph=True)
    equal(second, kept)
    second.zero_()
    equal(torch.autograd.grad(loss, x)[0], kept)


def formula(x, q, w, s, smoothing):
    """With gradients by torch's own autograd, but for ``0 log 0``, which does not occur here."""
    q = (1 - smoothing) * q + smoothing / q.shape[-1]
    return (s[:, None] * w * q * -torch.log_softmax(x, -1)).sum()


@pytest.mark.parametrize("needed", ["q", "w", "s", "qw", "xs", "xqws"])
def test_gradients_of_labels_and_weights(needed):
    """Each on its own: also where the logits need no gradient, and where weights and probabilities are 0."""
    given = dict(zip("xqws", (a.detach() for a in arguments("xqws")), strict=True))
    given["q"][0, 1] = given["q"][2, :3] = given["w"][2] = given["s"][1] = 0
    leaves = [given[name].requires_grad_() for name in needed]
    x, q, w, s = given.values()
    ours = cross_entropy(x, q, class_weight=w, sample_weight=s, label_smoothing=0.1, reduction="sum")
    expected = torch.autograd.grad(formula(x, q, w, s, 0.1), leaves)
    for found, wanted in zip(torch.autograd.grad(ours, leaves), expected, strict=True):
        equal(found, wanted)


def test_gradients_of_hard_probabilities():
    """``dL/dq_j = -log p_j``, at ``q_j = 0`` too."""
    q = F.one_hot(ALL, C).double().requires_grad_()
    (g,) = torch.autograd.grad(cross_entropy(X, q, reduction="sum"), q)
    equal(g, -torch.log_softmax(X, -1))
    w = torch.ones(C, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(cross_entropy(X, ALL, class_weight=w, reduction="sum"), w)
    equal(g, torch.zeros(C, dtype=torch.float64).index_add(0, ALL, F.cross_entropy(X, ALL, reduction="none")))


IGNORED = {
    "ignore_index": {},
    "sample_weight": {"sample_weight": torch.tensor([1.0, 0.0, 2.0])},
    "every": {"sample_weight": torch.tensor([1.0, 0.0, 2.0])} | EVERY,
}


@pytest.mark.parametrize("cotangent", [NAN, INF, -INF, 1.0])
@pytest.mark.parametrize("logit", [NAN, INF, -INF])
@pytest.mark.parametrize("options", IGNORED)
def test_ignored_rows(options, logit, cotangent):
    """Loss, gradient and second derivative are 0 whatever the row holds and whatever comes from behind."""
    x = X.clone()
    x[1, 0] = logit
    x.requires_grad_()
    y = Y if options == "ignore_index" else ALL
    c = torch.tensor([1.0, cotangent, 0.5], dtype=torch.float64)
    loss = cross_entropy(x, y, reduction="none", **IGNORED[options])
    assert loss[1] == 0
    (g,) = torch.autograd.grad(loss, x, c, create_graph=True)
    assert not g[1].any()
    (h,) = torch.autograd.grad(g, x, torch.ones_like(g) + X)
    assert not h[1].any()
    others = [0, 2]
    assert g[others].all()
    assert h[others].isfinite().all()
    v = torch.full_like(X, 1.0)
    v[1] = cotangent
    _, t = jvp(lambda x: cross_entropy(x, y, reduction="none", **IGNORED[options]), (x.detach(),), (v,))
    assert t[1] == 0


def test_mean_over_nothing():
    x = X.clone().requires_grad_()
    loss = cross_entropy(x, torch.full((N,), -100))
    loss.backward()
    assert loss.isnan()
    assert not x.grad.any()


@pytest.mark.parametrize("layout", ["expanded", "strided", "reversed", "batched"])
def test_cotangents_of_any_layout(layout):
    x = X.clone().requires_grad_()
    loss, reference = cross_entropy(x, Y, reduction="none"), F.cross_entropy(x, Y, reduction="none")
    c = {
        "expanded": ONE.expand(N),
        "strided": V.t()[1, :N],
        "reversed": V[:, 1].flip(0)[::1],
        "batched": torch.eye(N, dtype=torch.float64),
    }[layout]
    batched = layout == "batched"
    equal(*(torch.autograd.grad(f, x, c, is_grads_batched=batched)[0] for f in (loss, reference)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_are_rounded_once(dtype):
    """With the scale of a loss scaler; a gradient of 1e-6 is not 0 in float16 then."""
    x = (X * 4).to(dtype).requires_grad_()
    loss = cross_entropy(x, ALL)
    assert loss.dtype == torch.float32
    (loss * 65536).backward()
    assert x.grad.dtype == dtype
    wide = x.detach().double()
    _, g = cross_entropy_value_and_grad(wide, ALL)
    atol = 2.0**-25 if dtype == torch.float16 else 0.0  # half of the spacing of its subnormal numbers
    torch.testing.assert_close(x.grad.double(), g * 65536, rtol=0.51 * torch.finfo(dtype).eps, atol=atol)


def test_autocast():
    torch.manual_seed(0)
    h, layer = torch.randn(N, 8), torch.nn.Linear(8, C)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(h)
        loss = cross_entropy(logits, Y)
    assert (logits.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    (g,) = torch.autograd.grad(loss, logits, retain_graph=True)
    assert torch.equal(g, cross_entropy_value_and_grad(logits.detach(), Y)[1])
    loss.backward()
    assert layer.weight.grad.any()


def test_meta_and_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415

    def check():
        x = torch.randn(N, C, dtype=torch.bfloat16, requires_grad=True)
        loss = cross_entropy(x, torch.zeros(N, dtype=torch.int64), **EVERY)
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
        (h,) = torch.autograd.grad(g.sum(), x)
        assert (loss.shape, loss.dtype) == ((), torch.float32)
        assert g.shape == h.shape == x.shape
        assert g.dtype == h.dtype == x.dtype
        assert g.device == x.device

    with torch.device("meta"):
        check()
    with FakeTensorMode():
        check()


class Loss(torch.nn.Module):
    def forward(self, x, y):
        return cross_entropy(x, y, label_smoothing=0.1)


@pytest.mark.parametrize("strict", [True, False])
def test_export(strict):
    batch = {0: torch.export.Dim("batch", min=2)}
    shapes = {"x": batch, "y": batch}
    program = torch.export.export(Loss(), (X, Y), strict=strict, dynamic_shapes=shapes).module()
    for n in (2, 3, 1031):
        x, y = X.repeat(400, 1)[:n], Y.repeat(400)[:n]
        equal(program(x, y), F.cross_entropy(x, y, label_smoothing=0.1))


@pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"
)  # Dynamo
@pytest.mark.parametrize("how", ["dynamic", "mark_dynamic"])
def test_one_compiled_graph_for_all_batch_sizes(how):
    torch._dynamo.reset()
    f = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager", dynamic=True if how == "dynamic" else None)
    for n in (8, 3, 1031):
        x, y = X.repeat(400, 1)[:n].requires_grad_(), Y.repeat(400)[:n]
        if how == "mark_dynamic":
            torch._dynamo.mark_dynamic(x, 0)
            torch._dynamo.mark_dynamic(y, 0)
        with torch.compiler.set_stance("default" if n == 8 else "fail_on_recompile"):
            (g,) = torch.autograd.grad(f(x, y), x)
        equal(g, torch.autograd.grad(F.cross_entropy(x, y), x)[0])


@pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"
)  # Dynamo
def test_compiled_gradients_of_each_sample():
    torch._dynamo.reset()
    compiled = torch.compile(vmap(grad(cross_entropy)), fullgraph=True, backend="aot_eager")
    equal(compiled(X, ALL), vmap(grad(F.cross_entropy))(X, ALL))


def test_a_compiled_gradient_is_laid_out_like_the_logits():
    torch._dynamo.reset()
    x, y = torch.randn(2, 5, 3, 4), torch.randint(5, (2, 3, 4))
    compiled = torch.compile(cross_entropy_value_and_grad, fullgraph=True, backend="aot_eager")
    for option in ({}, {"label_smoothing": 0.1}):
        loss, g = compiled(x, y, axis=1, **option)
        assert g.stride() == x.stride()  # or whoever takes it copies it
        expected = cross_entropy_value_and_grad(x, y, axis=1, **option)
        torch.testing.assert_close((loss, g), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"
)  # Dynamo
def test_compiled_gradients_of_rows_that_are_not_finite():
    torch._dynamo.reset()
    x = torch.tensor([[0.0, NAN, 1.0], [-INF, -INF, -INF], [INF, 0.0, 0.0], [0.0, NAN, 0.0]])
    y = torch.tensor([0, 1, 1, -100])
    expected = torch.tensor([NAN, NAN, NAN, 0.0])[:, None].expand(4, 3)

    def batched(x, y):
        return vmap(grad(lambda x, y: cross_entropy(x, y, reduction="sum")))(x, y)

    def summed(x, y):
        return grad(lambda x: cross_entropy(x, y, reduction="sum"))(x)

    def returned(x, y):
        return cross_entropy_value_and_grad(x, y, reduction="sum")[1]

    for function in (batched, summed, returned):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, y), expected, equal_nan=True)


STEP = """
import torch, xent_any

torch.manual_seed(0)
h, y = torch.randn(16, 8), torch.randint(0, 5, (16,))
y[3] = -100
weight = torch.randn(5, 8)
x = torch.tensor([[17.0, 0, 0, 0], [1, 2, 3, 4], [float("nan")] * 4], requires_grad=True)
labels, c = torch.tensor([0, 2, -100]), torch.tensor([1.0, 2.0, float("inf")])

def loss(weight, h, y):
    return xent_any.cross_entropy(h @ weight.T, y, label_smoothing=0.1)

def step(weight, h, y, x):
    g, value = torch.func.grad_and_value(loss)(weight, h, y)
    return weight - 0.1 * g, value, xent_any.cross_entropy(x, labels, reduction="none")

compiled, eager = torch.compile(step, fullgraph=True), weight
for _ in range(3):
    weight, value, rows = compiled(weight, h, y, x)
    eager, expected, _ = step(eager, h, y, x)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(weight, eager, rtol=1e-5, atol=1e-6)

(g,) = torch.autograd.grad(rows, x, c)
expected = xent_any.cross_entropy_value_and_grad(x.detach(), labels, reduction="none")[1]
torch.testing.assert_close(g, expected * torch.tensor([[1.0], [2.0], [0.0]]), rtol=1e-6, atol=0)
print("as in eager mode")
"""


def test_compiled_in_a_fresh_process(tmp_path):
    """By Inductor, without its caches: a step of training in the graph, and a loss whose backward is another."""
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("Inductor needs a C++ compiler")
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "as in eager mode", done.stderr[-3000:]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1}, {"softcap": 3.0}], ids=str)
@pytest.mark.parametrize("limit", [0, 1 << 26])
def test_gradient_from_what_is_kept_of_rows_that_are_not_usual(options, reduction, limit, monkeypatch):
    monkeypatch.setattr(_autograd, "GRADIENT_BYTES", limit)
    logits = torch.randn(6, 5)
    logits[1] = float("nan")  # ignored
    logits[2, 1] = 200.0  # far above the others
    logits[3, 0] = -float("inf")
    labels = torch.tensor([0, -100, 1, 2, 3, 4])
    _, expected = xent_any.cross_entropy_value_and_grad(logits, labels, reduction=reduction, **options)
    logits.requires_grad_()
    loss = xent_any.cross_entropy(logits, labels, reduction=reduction, **options).sum()
    for _ in range(2):  # what is kept is not written to
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0, equal_nan=True)
    assert not gradient[1].any()
