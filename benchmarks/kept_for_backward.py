"""Bytes that are kept from the loss for its gradient, over the bytes of the logits.

``python benchmarks/kept_for_backward.py benchmarks/records/kept_for_backward.json`` measures, prints the table of
docs/differentiation.md and writes the record. PyTorch's are those of the distinct storages that autograd saves, and of
what NumPy has allocated meanwhile; JAX's are the residuals of ``jax.vjp`` of the compiled function. Needs the extras
``torch`` and ``jax``, and optax.
"""

import json
import platform
import sys
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import optax
import torch

import xent_any
import xent_any_backends.jax
import xent_any_backends.torch
from xent_any_conformance.records import table

N, C = 4096, 10000
DTYPES = ("float32", "bfloat16")
LABELS = ("index", "probability")


def of_torch(loss: Callable[[Any, Any], Any], dtype: str, labels: str) -> float:
    torch.manual_seed(0)
    x = torch.randn(N, C).to(getattr(torch, dtype)).requires_grad_()
    y = torch.randint(0, C, (N,)) if labels == "index" else torch.softmax(torch.randn(N, C), -1).to(x.dtype)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    loss(x, y)  # what threads keep from call to call is allocated
    tracemalloc.start()
    # Like a linear layer's, the logits are kept by nobody else.
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(x * 1, y)
    in_numpy, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    value.backward()
    own = {y.untyped_storage().data_ptr()}  # the caller's
    return (in_numpy + sum(size for pointer, size in kept.items() if pointer not in own)) / x.nbytes


def of_jax(loss: Callable[[Any, Any], Any], dtype: str, labels: str) -> float:
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (N, C)).astype(dtype)
    if labels == "index":
        y = jax.random.randint(keys[1], (N,), 0, C)
    else:
        y = jax.nn.softmax(jax.random.normal(keys[1], (N, C))).astype(dtype)
    compiled = jax.jit(loss)
    _, pull = jax.vjp(lambda x: compiled(x, y), x)
    own = {y.unsafe_buffer_pointer()}
    kept = {a.unsafe_buffer_pointer(): a.nbytes for a in jax.tree.leaves(pull)}
    return sum(size for pointer, size in kept.items() if pointer not in own) / x.nbytes


def through_the_formulas(adapter: type) -> Callable[[Any, Any], Any]:
    """Our loss without its derivative attached: autodiff goes through the formulas."""

    def loss(x: Any, y: Any) -> Any:
        with patch.object(adapter, "run", lambda self, task: task.reference()):
            return xent_any.cross_entropy(x, y)

    return loss


def of_optax(x: Any, y: Any) -> Any:
    f = optax.softmax_cross_entropy if y.ndim == 2 else optax.softmax_cross_entropy_with_integer_labels
    return f(x, y).mean()


LOSSES = {
    ("PyTorch", "xent_any"): (of_torch, xent_any.cross_entropy),
    ("PyTorch", "F.cross_entropy"): (of_torch, torch.nn.functional.cross_entropy),
    ("PyTorch", "autodiff through the formulas"): (
        of_torch,
        through_the_formulas(type(xent_any_backends.torch.BACKEND)),
    ),
    ("JAX", "xent_any"): (of_jax, xent_any.cross_entropy),
    ("JAX", "optax"): (of_jax, of_optax),
    ("JAX", "autodiff through the formulas"): (of_jax, through_the_formulas(type(xent_any_backends.jax.BACKEND))),
}


def measured() -> list[dict[str, Any]]:
    return [
        {
            "library": library,
            "loss": name,
            **{f"{dtype}, {labels}": round(f(loss, dtype, labels), 3) for dtype in DTYPES for labels in LABELS},
        }
        for (library, name), (f, loss) in LOSSES.items()
    ]


def main() -> None:
    rows = measured()
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in ("xent-any", "torch", "jax", "optax")},
        "shape": [N, C],
        "rows": rows,
    }
    Path(sys.argv[1]).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    cells = ([f"{v:.3f}" if isinstance(v, float) else v for v in row.values()] for row in rows)
    sys.stdout.write(table(list(rows[0]), cells))


if __name__ == "__main__":
    main()
