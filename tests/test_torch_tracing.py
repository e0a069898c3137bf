"""torch.jit.trace and both exporters to ONNX record the computation, for any number of rows, and never a value."""

import io

import pytest
from conftest import require, some

torch = pytest.importorskip("torch")
require("torch")

import torch.nn.functional as F  # noqa: E402, N812

import xent_any  # noqa: E402
import xent_any_backends.torch as ours  # noqa: E402

WEIGHT = torch.tensor([0.5, 2.0, 1.0])
LAYER = torch.arange(12.0).reshape(4, 3).sin()


def gradient(x, y):
    return (torch.softmax(x, -1) - F.one_hot(y, x.shape[-1])) / len(y)


def product(x, y):
    p = torch.softmax(x, -1)
    return p * (x - (p * x).sum(-1, keepdim=True)) / len(y)


# Each function of logits and labels, and the same by PyTorch.
FUNCTIONS = {
    "cross_entropy": (ours.cross_entropy, F.cross_entropy),
    "options": (
        lambda x, y: ours.cross_entropy(x, y, weight=WEIGHT, label_smoothing=0.2),
        lambda x, y: F.cross_entropy(x, y, weight=WEIGHT, label_smoothing=0.2),
    ),
    "probabilities": (lambda x, y: ours.cross_entropy(x, x.exp()), lambda x, y: F.cross_entropy(x, x.exp())),
    "none": (
        lambda x, y: xent_any.cross_entropy(x, y, reduction="none"),
        lambda x, y: F.cross_entropy(x, y, reduction="none"),
    ),
    "value_and_grad": (lambda x, y: xent_any.cross_entropy_value_and_grad(x, y)[1], gradient),
    "jvp": (
        lambda x, y: xent_any.cross_entropy_jvp(x, x, y)[1],
        lambda x, y: (gradient(x, y) * x).sum(),
    ),
    "hvp": (lambda x, y: xent_any.cross_entropy_hvp(x, x, y), product),
    "nll_loss": (
        lambda x, y: ours.nll_loss(ours.log_softmax(x, 1), y),
        lambda x, y: F.nll_loss(F.log_softmax(x, 1), y),
    ),
    "softmax": (lambda x, y: ours.softmax(x, 1), lambda x, y: F.softmax(x, 1)),
    "logsumexp": (lambda x, y: xent_any.logsumexp(x), lambda x, y: torch.logsumexp(x, -1)),
    "binary": (
        lambda x, y: ours.binary_cross_entropy_with_logits(x, F.one_hot(y, 3).to(x.dtype)),
        lambda x, y: F.binary_cross_entropy_with_logits(x, F.one_hot(y, 3).to(x.dtype)),
    ),
    "linear of probabilities": (
        lambda x, y: ours.linear_cross_entropy(x, LAYER, x @ LAYER.T),
        lambda x, y: F.cross_entropy(x @ LAYER.T, x @ LAYER.T),
    ),
    "linear": (
        lambda x, y: ours.linear_cross_entropy(x, LAYER, y),
        lambda x, y: F.cross_entropy(x @ LAYER.T, y),
    ),
}
# What a trace is made with, and what it is run with: other values, and another number of rows.
MADE_WITH = torch.zeros(2, 3), torch.tensor([0, 1])
RUN_WITH = {
    rows: (3 * torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows)), torch.arange(rows) % 3)
    for rows in (2, 1, 700)
}


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y):
        return self.function(x, y)


ignore_warnings = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),  # of sizes that are compared
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of everything that begins with torch.jit, and of ONNX's
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.onnx"),
]


def marked(function):
    for mark in ignore_warnings:
        function = mark(function)
    return function


@marked
@pytest.mark.parametrize("differentiated", [None, "logits", "weight"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_trace(name, differentiated):
    """Traced on zeros, with nothing, the logits or a weight to be differentiated, and saved."""
    f, reference = FUNCTIONS[name]
    x, y = MADE_WITH
    w = torch.ones((), requires_grad=differentiated == "weight")
    x = x.clone().requires_grad_(differentiated == "logits")
    traced = torch.jit.trace(lambda x, y, w: f(x * w, y), (x, y, w))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    for run in (traced, torch.jit.load(file)):
        for logits, y in RUN_WITH.values():
            x = logits.clone().requires_grad_()
            expected = reference(x, y)
            found = run(x, y, w)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
            cotangent = torch.linspace(-1, 1, expected.numel()).reshape(expected.shape) + 1
            (slope,) = torch.autograd.grad(expected, x, cotangent)
            torch.testing.assert_close(torch.autograd.grad(found, x, cotangent)[0], slope, rtol=1e-4, atol=1e-5)


@marked
def test_a_traced_label_that_is_no_class():
    """A row of its own is NaN; a trace cannot raise."""
    traced = torch.jit.trace(lambda x, y: xent_any.cross_entropy(x, y, reduction="none"), MADE_WITH)
    x, _ = RUN_WITH[2]
    loss = traced(x, torch.tensor([3, 1]))
    assert loss[0].isnan()
    torch.testing.assert_close(loss[1], F.cross_entropy(x[1], torch.tensor(1)))


@marked
@pytest.mark.parametrize("name", some(FUNCTIONS, 2))
def test_export(name):
    """By `torch.export`: no size but that of the classes becomes a constant."""
    f, reference = FUNCTIONS[name]
    rows = {0: torch.export.Dim("rows", min=2)}
    program = torch.export.export(Module(f), MADE_WITH, dynamic_shapes=(rows, rows)).module()
    for count in (2, 700):
        x, y = RUN_WITH[count]
        torch.testing.assert_close(program(x, y), reference(x, y), rtol=1e-5, atol=2e-6)


@marked
@pytest.mark.parametrize("dynamo", [True, False], ids=["torch.export", "torch.jit.trace"])
@pytest.mark.parametrize("name", ["options", "nll_loss", "binary", "linear"])
def test_onnx(name, dynamo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    f, reference = FUNCTIONS[name]
    module, file = Module(f).eval(), str(tmp_path / "model.onnx")
    if dynamo:
        rows = {0: torch.export.Dim("rows")}
        torch.onnx.export(module, MADE_WITH, dynamo=True, dynamic_shapes=(rows, rows), verbose=False).save(file)
    else:
        axes = {"x": {0: "rows"}, "y": {0: "rows"}}
        torch.onnx.export(module, MADE_WITH, file, dynamo=False, input_names=["x", "y"], dynamic_axes=axes)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    for x, y in RUN_WITH.values():
        (found,) = session.run(None, dict(zip(names, (x.numpy(), y.numpy()), strict=False)))
        torch.testing.assert_close(torch.from_numpy(found), reference(x, y), rtol=1e-5, atol=2e-6)
