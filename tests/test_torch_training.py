"""Training steps as people write them on PyTorch, each beside the same steps with PyTorch's own loss."""

import functools
import inspect
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import require

import xent_any

torch = pytest.importorskip("torch")
require("torch")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch_ranks import C, D, Model, N  # noqa: E402

import xent_any_backends.torch as ours  # noqa: E402

F = nn.functional
STEPS = 4
IGNORED = -100
HAS_LINEAR = hasattr(nn, "LinearCrossEntropyLoss")
needs_linear = pytest.mark.skipif(not HAS_LINEAR, reason=f"torch {torch.__version__} has no LinearCrossEntropyLoss")
LOSSES = ["CrossEntropyLoss", pytest.param("LinearCrossEntropyLoss", marks=needs_linear)]


def batches(dtype, order=slice(None)):
    """Rows and labels, the same in each dtype, in another order; some are ignored."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x, y = torch.randn(N, D, generator=generator), torch.randint(C, (N,), generator=generator)
        y[generator.initial_seed()] = IGNORED
        yield x.to(dtype)[order], y[order]


ORDERS = [torch.randperm(N, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]


def trained(library, loss, dtype, order=slice(None), step=None):
    """The losses, and the parameters after the steps, as numbers."""
    torch.manual_seed(0)
    model = Model(library, loss).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    step = step or plain_step()
    losses = [step(model, optimizer, x, y) for x, y in batches(dtype, order)]
    return torch.cat([a.detach().double().flatten() for a in (*losses, *model.parameters())])


def plain_step(forward=lambda model: model):
    """The usual step, in which the model is run in some manner."""

    def step(model, optimizer, x, y):
        value = forward(model)(x, y)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value

    return step


def check_beside(train):
    """`train(library, dtype, order)` with our loss: in float64 the same, else as near to that as with PyTorch's.

    The order of the rows makes no difference but for rounding; errors are root mean squares over orders and numbers.
    """
    exact = train(nn, torch.float64)
    torch.testing.assert_close(train(ours, torch.float64), exact, rtol=1e-12, atol=1e-13)

    def error(library):
        found = torch.stack([train(library, torch.float32, order) for order in ORDERS])
        return (found - exact).square().mean().sqrt().item()

    theirs = error(nn)
    assert 0 < theirs < 0.03
    assert error(ours) <= 2 * theirs


@pytest.mark.parametrize("loss", LOSSES)
def test_plain(loss):
    check_beside(lambda library, dtype, order=slice(None): trained(library, loss, dtype, order))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch.compile itself
@pytest.mark.parametrize("loss", LOSSES)
def test_compiled(loss):
    """Model and loss in one graph, on which nothing of ours breaks it."""

    @functools.cache
    def step(library, dtype):
        compiled = torch.compile(lambda model, x, y: model(x, y), backend="aot_eager", fullgraph=True)
        return plain_step(lambda model: functools.partial(compiled, model))

    exact = trained(nn, loss, torch.float64)
    found = trained(ours, loss, torch.float64, step=step(ours, torch.float64))
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-13)


def scaled_step(scaler, dtype):
    """Of mixed precision, as PyTorch's documentation has it."""

    def step(model, optimizer, x, y):
        with torch.autocast("cpu", dtype=dtype):
            value = model(x, y)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return value

    return step


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_mixed_precision(loss, half):
    """Under autocast, in float16 with a scale, which is what PyTorch's loss makes of it."""
    scales = {}

    def train(library, dtype, order=slice(None)):
        if dtype == torch.float64:
            return trained(library, loss, dtype, order)
        scaler = torch.amp.GradScaler("cpu", enabled=half == torch.float16)
        found = trained(library, loss, dtype, order, scaled_step(scaler, half))
        scales.setdefault(library, set()).add(scaler.get_scale())
        return found

    check_beside(train)
    assert scales[ours] == scales[nn]


@pytest.mark.parametrize("loss", LOSSES)
def test_scale_that_overflows(loss):
    """Steps are left out until the scale fits; with our loss as many."""
    for exponent in (16, 30, 40):
        scales = []
        for library in (nn, ours):
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**exponent)
            trained(library, loss, torch.float32, step=scaled_step(scaler, torch.float16))
            scales.append(scaler.get_scale())
        assert scales[0] == scales[1]
    assert scales[0] < 2.0**40


def run_ranks(folder):
    """What both libraries make of the steps in `torch_ranks.py`, on two ranks."""
    script = str(Path(__file__).with_name("torch_ranks.py"))
    arguments = [str(folder / "store"), str(folder / "results.pt")]
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), *arguments], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return torch.load(folder / "results.pt")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch: built without gloo")
def test_two_ranks(tmp_path):
    """FSDP2 and DDP: the parameters of PyTorch's loss, and of all rows on one rank."""
    results = run_ranks(tmp_path)
    expected = {key: results["none", key[1], "torch"] for key in results}
    assert {key[0] for key in results} == {"none", "FSDP2", "DDP"}
    for key, found in results.items():
        torch.testing.assert_close(found, expected[key], rtol=1e-12, atol=1e-13, msg=lambda m, key=key: f"{key}: {m}")


X, H, W, B = (
    torch.randn(shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
    for i, shape in enumerate([(N, C), (N, D), (C, D), (C,)])
)
Y, P, Q = torch.tensor([1, IGNORED, 3, 0, 4, 2, 2, 0]), X.softmax(-1), X.sigmoid()
S, POSITIVE = H[:, 0].exp(), B.exp()
CALLS = {
    "cross_entropy": (ours.cross_entropy, {"input": X, "target": Y, "weight": POSITIVE, "sample_weight": S}),
    "cross_entropy, probabilities": (ours.cross_entropy, {"input": X, "target": P, "weight": POSITIVE}),
    "nll_loss": (ours.nll_loss, {"input": X, "target": Y, "weight": POSITIVE, "sample_weight": S}),
    "binary_cross_entropy_with_logits": (
        ours.binary_cross_entropy_with_logits,
        {"input": X, "target": P, "weight": Q, "pos_weight": POSITIVE},
    ),
    "linear_cross_entropy": (
        ours.linear_cross_entropy,
        {"input": H, "linear_weight": W, "target": Y, "linear_bias": B, "weight": POSITIVE},
    ),
    "linear_cross_entropy, probabilities": (
        ours.linear_cross_entropy,
        {"input": H, "linear_weight": W, "target": P, "linear_bias": B},
    ),
    "softmax": (ours.softmax, {"input": X, "dim": 1}),
    "log_softmax": (ours.log_softmax, {"input": X, "dim": 1}),
}
OF_THE_CORE = {
    **dict.fromkeys(("logits", "x"), X),
    **dict.fromkeys(("tangent", "vector"), Q),
    **dict.fromkeys(("class_weight", "pos_weight"), POSITIVE),
    "log_probs": X.log_softmax(-1),
    "hidden": H,
    "weight": W,
    "bias": B,
    "sample_weight": S,
}
for _name in xent_any.__all__:
    _parameters = inspect.signature(getattr(xent_any, _name)).parameters if _name[0].islower() else {}
    _arrays = {name: OF_THE_CORE[name] for name in _parameters if name in OF_THE_CORE}
    if "labels" in _parameters and _name.startswith("binary"):
        CALLS[f"xent_any.{_name}"] = (getattr(xent_any, _name), {**_arrays, "labels": P, "sample_weight": Q})
    elif "labels" in _parameters or "x" in _parameters:
        for _kind, _labels in {"": Y, ", probabilities": P}.items():
            _given = {**_arrays, "labels": _labels} if "labels" in _parameters else _arrays
            CALLS[f"xent_any.{_name}{_kind}"] = (getattr(xent_any, _name), _given)
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def fresh(arguments, dtype=torch.float64, *, requires_grad=False):
    """The arguments of a call, each tensor in memory of its own."""
    return {
        name: a.to(dtype).clone().requires_grad_(requires_grad)
        if isinstance(a, torch.Tensor) and a.is_floating_point()
        else a.clone()
        if isinstance(a, torch.Tensor)
        else a
        for name, a in arguments.items()
    }


def leaves(results):
    return [results] if isinstance(results, torch.Tensor) else [t for r in results for t in leaves(r)]


def total(results):
    return sum(t.sum() for t in leaves(results))


def test_every_function_is_called():
    names = {name.partition(",")[0] for name in CALLS}
    functions = {name for name in ours.__all__ if inspect.isfunction(getattr(ours, name))}
    assert names >= functions
    core = {f"xent_any.{name}" for name in xent_any.__all__ if inspect.isfunction(getattr(xent_any, name))}
    assert names >= core - {"xent_any.backends"}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_can_be_resized(name):
    """A call leaves no mark on its arguments' storages, nor does a backward pass."""
    f, arguments = CALLS[name]
    for dtype, requires_grad in product(DTYPES, (False, True)):
        given = fresh(arguments, dtype, requires_grad=requires_grad)
        loss = total(f(**given))
        if loss.requires_grad:
            loss.backward()
        tensors = {argument: a.detach() for argument, a in given.items() if isinstance(a, torch.Tensor)}
        for argument, a in tensors.items():
            assert a.untyped_storage().resizable(), argument
            a.resize_(2 * a.numel())


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_results_can_be_written_to(name, count):
    """As by ``loss /= steps``: each result is no view of what autograd has not seen."""
    f, arguments = CALLS[name]
    few = {k: a[:count] if isinstance(a, torch.Tensor) and a.shape[:1] == (N,) else a for k, a in arguments.items()}
    for reduction in ("mean", "sum", "none"):
        given = fresh(few, requires_grad=True)
        options = {"reduction": reduction} if "reduction" in inspect.signature(f).parameters else {}
        found, expected = (leaves(f(**given, **options)) for _ in range(2))
        for result, other in zip(found, expected, strict=True):
            result /= 2  # noqa: PLW2901  (in place)
            torch.testing.assert_close(result, other / 2)
        halves, wholes = (gradients(sum(a.sum() for a in leaves(r)), given) for r in (found, expected))
        torch.testing.assert_close([2 * g for g in halves], wholes)


def gradients(value, given):
    inputs = [a for a in given.values() if isinstance(a, torch.Tensor) and a.requires_grad]
    return [g for g in torch.autograd.grad(value, inputs, allow_unused=True) if g is not None]


def packed(disk):
    """A hook that keeps copies there."""

    def pack(tensor):
        disk.append(tensor.detach().clone())
        return len(disk) - 1

    return pack


@pytest.mark.parametrize("name", CALLS)
def test_saved_tensors_elsewhere(name):
    """Hooks that pack and offload, and checkpoints, change no bit of a gradient, around several losses."""
    f, arguments = CALLS[name]

    def found(run, dtype):
        given = fresh(arguments, dtype, requires_grad=True)
        return gradients(run(given), given)

    def twice(given):
        return total(f(**given)) + 2 * total(f(**given))

    def checkpointed(given):
        return checkpoint(twice, given, use_reentrant=False)

    for dtype in (torch.float64, torch.bfloat16):
        expected = found(twice, dtype)
        assert expected
        disk = []
        with torch.autograd.graph.saved_tensors_hooks(packed(disk), disk.__getitem__):
            result = found(twice, dtype)
        assert disk
        with torch.autograd.graph.save_on_cpu():
            others = found(twice, dtype)
        for other in (result, others, found(checkpointed, dtype)):
            torch.testing.assert_close(other, expected, rtol=0, atol=0)


VOCABULARY, BATCH, LENGTH = 11, 2, 7


def causal_loss(logits, labels, num_items_in_batch=None):
    """What Hugging Face's transformers compute by PyTorch's function: `ForCausalLMLoss`, `fixed_cross_entropy`."""
    logits = logits.float() if logits.dtype != torch.float64 else logits
    shifted = F.pad(labels, (0, 1), value=IGNORED)[..., 1:].contiguous()
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = F.cross_entropy(logits.view(-1, VOCABULARY), shifted.view(-1), ignore_index=IGNORED, reduction=reduction)
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def theirs_of(outputs, labels, num_items_in_batch=None):
    return causal_loss(outputs.logits, labels, num_items_in_batch)


def core_of(outputs, labels, num_items_in_batch=None):
    return xent_any.cross_entropy(outputs.logits[:, :-1], labels[:, 1:], denominator=num_items_in_batch)


def dropin_of(outputs, labels, num_items_in_batch=None):
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = ours.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction=reduction)
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def linear_of(outputs, labels, num_items_in_batch=None):
    """The logits of the last layer are never held."""
    hidden, layer = outputs.hidden[:, :-1], outputs.layer
    return xent_any.linear_cross_entropy(hidden, layer.weight, labels[:, 1:], denominator=num_items_in_batch)


class Trainer:
    """Hugging Face's, as far as the loss is concerned: `compute_loss_func` is handed what the model returns."""

    def __init__(self, compute_loss_func, dtype, *, counts):
        torch.manual_seed(0)
        self.compute_loss_func, self.counts = compute_loss_func, counts
        self.embedding = nn.Embedding(VOCABULARY, D, dtype=dtype)
        self.layer = nn.Linear(D, VOCABULARY, bias=False, dtype=dtype)
        self.parameters = [self.embedding.weight, self.layer.weight]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.05)

    def step(self, micro_batches):
        """One update, of the gradients of several batches, whose numbers of labels differ."""
        count = sum((labels[:, 1:] != IGNORED).sum() for _, labels in micro_batches)
        losses = []
        for ids, labels in micro_batches:
            hidden = self.embedding(ids).cumsum(1).tanh()
            outputs = SimpleNamespace(logits=self.layer(hidden), hidden=hidden, layer=self.layer)
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=count if self.counts else None)
            loss.backward()
            losses.append(loss.detach())
        self.optimizer.step()
        self.optimizer.zero_grad()
        return torch.stack(losses)

    def train(self):
        generator = torch.Generator().manual_seed(2)
        losses = []
        for _ in range(STEPS):
            ids = torch.randint(VOCABULARY, (2, BATCH, LENGTH), generator=generator)
            labels = ids.clone()
            labels[0, 1, 3:] = IGNORED
            losses.append(self.step(list(zip(ids, labels, strict=True))))
        return torch.cat([a.detach().double().flatten() for a in (*losses, *self.parameters)])


@pytest.mark.parametrize("compute_loss_func", [core_of, dropin_of, linear_of])
@pytest.mark.parametrize("counts", [True, False])
def test_hugging_face_step(compute_loss_func, counts):
    """Logits (B, T, V), shifted labels, -100 ignored, and the number of labels of all batches as the denominator."""
    expected = Trainer(theirs_of, torch.float64, counts=counts).train()
    found = Trainer(compute_loss_func, torch.float64, counts=counts).train()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    errors = [
        (Trainer(f, torch.float32, counts=counts).train() - expected).square().mean().sqrt().item()
        for f in (theirs_of, compute_loss_func)
    ]
    assert errors[1] <= 2 * errors[0]
