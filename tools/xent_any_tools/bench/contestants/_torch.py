"""PyTorch, eager and compiled: its own functions and ours."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import xent_any
import xent_any_backends.torch as drop_in

from .._problems import SMOOTHING, Array, Inputs, Values
from . import BACKWARD, GRADIENT, LOSS, Bound, Contestant, Prepare, in_turn, our

OURS, OURS_BOTH = our(xent_any.cross_entropy), our(xent_any.cross_entropy_value_and_grad)


def arrays(inputs: Inputs) -> tuple[list[Array], list[Array], Array]:
    """The inputs as tensors; on the CPU they share NumPy's memory, where the dtype is NumPy's."""
    dtype, device = getattr(torch, inputs.problem.dtype), inputs.problem.device

    def convert(values: Values) -> Array:
        tensor = torch.from_numpy(values).to(device)
        return tensor if values.dtype == np.int64 else tensor.to(dtype)

    return inputs.converted("torch", convert)


def _torch_options(inputs: Inputs, weight: Array) -> dict[str, Any]:
    options = {} if weight is None else {"weight": weight}
    return options | ({"label_smoothing": SMOOTHING} if inputs.problem.option == "smoothing" else {})


def _own(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
    options = _torch_options(inputs, weight)
    return lambda x, y: functional.cross_entropy(x, y, **options)


def _own_parts(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
    if inputs.problem.option in ("probability", "smoothing"):
        raise NotImplementedError(f"nll_loss has no {inputs.problem.option}")
    return lambda x, y: functional.nll_loss(functional.log_softmax(x, dim=1), y, weight)


def _drop_in(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
    options = _torch_options(inputs, weight)
    return lambda x, y: drop_in.cross_entropy(x, y, **options)


def without_graph(bind: Bound) -> Prepare:
    """The function under `torch.no_grad`."""
    return in_turn(arrays, lambda inputs, weight: torch.no_grad()(bind(inputs, weight)))


def then_backward(bind: Bound, own_logits: bool = False) -> Prepare:
    """Loss, then its gradient; with logits of its own for a function that writes into them."""

    def prepare(inputs: Inputs) -> Callable[[int], Any]:
        (x, y, weight), n = arrays(inputs), len(inputs)
        function = bind(inputs, weight)
        leaves = [(a.clone() if own_logits else a.detach()).requires_grad_() for a in x]

        def call(i: int) -> Any:
            leaf = leaves[i % n]
            loss = function(leaf, y[i % n])
            loss.backward()
            gradient, leaf.grad = leaf.grad, None
            return loss, gradient

        return call

    return prepare


def peers(library: str, name: str, bind: Bound, computes: Sequence[str] = (LOSS, BACKWARD)) -> list[Contestant]:
    """A function of tensors, its loss alone and with the gradient that autograd gives."""
    prepare = {LOSS: without_graph, GRADIENT: without_graph, BACKWARD: then_backward}
    return [Contestant(name, library, "torch", kind, prepare[kind](bind)) for kind in computes]


def _compiled(library: str, name: str, bind: Bound, computes: Sequence[str] = (LOSS, BACKWARD)) -> list[Contestant]:
    """The same under `torch.compile`."""

    def bound(inputs: Inputs, weight: Array) -> Callable[[Array, Array], Any]:
        return torch.compile(bind(inputs, weight), dynamic=False)

    return [c._replace(group="torch compiled") for c in peers(library, name, bound, computes)]


CONTESTANTS = [
    *peers("xent-any", "cross_entropy", OURS),
    *peers("xent-any", "cross_entropy_value_and_grad", OURS_BOTH, [GRADIENT]),
    *peers("xent-any", "drop-in cross_entropy", _drop_in),
    *peers("torch", "F.cross_entropy", _own),
    *peers("torch", "F.log_softmax, F.nll_loss", _own_parts),
    *_compiled("xent-any", "cross_entropy", OURS),
    *_compiled("xent-any", "cross_entropy_value_and_grad", OURS_BOTH, [GRADIENT]),
    *_compiled("torch", "F.cross_entropy", _own),
]
