"""The peers: other libraries' own cross-entropies, under our names, run through the same truth tables.

Each is called as its users call it, with the gradient that it or its framework gives. What it lacks is skipped; a
gradient is that of the sum of the losses, as ours is for ``reduction="none"``.
"""

import copy
import importlib
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

from . import Subject

DEFAULTS = {"axis": -1, "ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0}


def _is_default(name: str, value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and value == DEFAULTS.get(name))


class Peer:
    """Brings rows into the form (N, C) and skips the options that `has` does not name."""

    library: str  # its distribution
    has: frozenset[str] = frozenset()
    parts: Any = None  # where log_softmax, softmax and logsumexp are found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: pytest.skip(f"{self.library} has no {name}")

    def given(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options that are not the defaults; skips where the peer lacks one."""
        given = {"reduction": "mean"} | {k: v for k, v in options.items() if not _is_default(k, v)}
        for name, value in given.items():
            if name not in self.has and (name, value) != ("reduction", "none"):
                pytest.skip(f"{self.library} has no {name.replace('_', ' ')}")
        return given

    def cross_entropy(self, logits: Any, labels: Any, **options: Any) -> Any:
        return self.cross_entropy_value_and_grad(logits, labels, **options)[0]

    def cross_entropy_value_and_grad(self, logits: Any, labels: Any, **options: Any) -> Any:
        options = self.given(options)
        lead, is_index = logits.shape[:-1], labels.ndim < logits.ndim
        y = labels.reshape(-1) if is_index else labels.reshape(-1, labels.shape[-1])
        options |= {k: v.reshape(-1) for k, v in options.items() if k == "sample_weight"}
        loss, grad = self.rows(logits.reshape(-1, logits.shape[-1]), y, is_index, **options)
        return loss.reshape(lead) if loss.ndim else loss, grad.reshape(logits.shape)

    def rows(self, x: Any, y: Any, is_index: bool, **options: Any) -> Any:
        raise NotImplementedError

    def binary_cross_entropy(self, logits: Any, labels: Any, **options: Any) -> Any:
        return self.binary_cross_entropy_value_and_grad(logits, labels, **options)[0]

    def part(self, name: str, *arguments: Any, **options: Any) -> Any:
        if self.parts is None:
            pytest.skip(f"{self.library} has no {name}")
        return getattr(self.parts, name)(*arguments, **options)

    def log_softmax(self, x: Any, axis: int = -1) -> Any:
        return self.part("log_softmax", x, axis=axis)

    def softmax(self, x: Any, axis: int = -1) -> Any:
        return self.part("softmax", x, axis=axis)

    def logsumexp(self, x: Any, axis: int = -1, keepdims: bool = False) -> Any:
        return self.part("logsumexp", x, axis=axis, keepdims=keepdims)


class Torch(Peer):
    library = "torch"
    has = frozenset({"class_weight", "ignore_index", "label_smoothing", "pos_weight", "reduction"})

    def __init__(self) -> None:
        import torch  # noqa: PLC0415  (each peer imports its own library alone)

        self.torch, self.f, self.parts = torch, torch.nn.functional, torch

    def with_gradient(self, function: Any, x: Any) -> Any:
        x = x.detach().requires_grad_()
        loss = function(x)
        return loss.detach(), self.torch.autograd.grad(loss.sum(), x)[0]

    def rows(self, x: Any, y: Any, is_index: bool, **options: Any) -> Any:
        y = y.to(self.torch.int64 if is_index else x.dtype)
        options = {"weight" if k == "class_weight" else k: v for k, v in options.items()}
        return self.with_gradient(lambda x: self.f.cross_entropy(x, y, **options), x)

    def binary_cross_entropy_value_and_grad(self, logits: Any, labels: Any, **options: Any) -> Any:
        options = self.given(options)
        if "pos_weight" in options:
            options["pos_weight"] = self.torch.as_tensor(options["pos_weight"], dtype=logits.dtype)
        labels = labels.to(logits.dtype)
        return self.with_gradient(lambda x: self.f.binary_cross_entropy_with_logits(x, labels, **options), logits)


class Optax(Peer):
    library = "optax"

    def __init__(self) -> None:
        import jax  # noqa: PLC0415
        import optax  # noqa: PLC0415

        jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]  # JAX's
        self.index, self.probabilities, self.binary = (
            self.with_gradient(jax, function)
            for function in (
                optax.softmax_cross_entropy_with_integer_labels,
                optax.softmax_cross_entropy,
                optax.sigmoid_binary_cross_entropy,
            )
        )
        self.parts = jax.nn  # to which Optax leaves them

    @staticmethod
    def with_gradient(jax: Any, function: Any) -> Any:
        def both(x: Any, y: Any) -> Any:
            loss, pullback = jax.vjp(lambda x: function(x, y), x)
            return loss, pullback(jax.numpy.ones_like(loss))[0]

        return jax.jit(both)

    def rows(self, x: Any, y: Any, is_index: bool, **_: Any) -> Any:
        return (self.index if is_index else self.probabilities)(x, y)

    def binary_cross_entropy_value_and_grad(self, logits: Any, labels: Any, **options: Any) -> Any:
        self.given(options)
        return self.binary(logits, labels)


class SciPy(Peer):
    """Cross-entropy as one writes it with `scipy.special`."""

    library = "scipy"

    def __init__(self) -> None:
        import scipy.special  # noqa: PLC0415

        self.parts = scipy.special

    def rows(self, x: Any, y: Any, is_index: bool, **_: Any) -> Any:
        if is_index:
            loss = -np.take_along_axis(self.log_softmax(x, axis=-1), y[:, None], axis=-1)[:, 0]
            y = np.eye(x.shape[-1], dtype=x.dtype)[y]
        else:
            loss = -np.sum(y * self.log_softmax(x, axis=-1), axis=-1)
        return loss, self.softmax(x, axis=-1) - y

    def binary_cross_entropy_value_and_grad(self, logits: Any, labels: Any, **options: Any) -> Any:
        self.given(options)
        log_p, log_q = self.parts.log_expit(logits), self.parts.log_expit(-logits)
        return -(labels * log_p + (1 - labels) * log_q), self.parts.expit(logits) - labels


class ScikitLearn(Peer):
    """The losses that its linear models and gradient boosting are trained with."""

    library = "scikit-learn"
    has = frozenset({"sample_weight"})

    def __init__(self) -> None:
        from sklearn import _loss  # noqa: PLC0415

        self.loss = _loss

    def rows(self, x: Any, y: Any, is_index: bool, **options: Any) -> Any:
        if not is_index:
            pytest.skip(f"{self.library} has no probability labels")
        if x.dtype == np.float16 or x.shape[-1] < 2:
            pytest.skip(f"{self.library} has no half precision, and takes two classes or more")
        return self.gradient_of(self.loss.HalfMultinomialLoss(n_classes=x.shape[-1]), x, y, options)

    def gradient_of(self, loss: Any, x: Any, y: Any, options: dict[str, Any]) -> Any:
        weight = options.get("sample_weight")
        weight = None if weight is None else np.array(weight, dtype=x.dtype)
        return loss.loss_gradient(np.array(y, dtype=x.dtype), np.array(x, order="C"), sample_weight=weight)

    def binary_cross_entropy_value_and_grad(self, logits: Any, labels: Any, **options: Any) -> Any:
        if logits.dtype == np.float16:
            pytest.skip(f"{self.library} has no half precision")
        options = {k: v.reshape(-1) for k, v in self.given(options).items() if k == "sample_weight"}
        binomial = self.loss.HalfBinomialLoss()
        results = self.gradient_of(binomial, logits.reshape(-1), labels.reshape(-1), options)
        return tuple(result.reshape(logits.shape) for result in results)


PEERS: dict[str, tuple[type[Peer], str]] = {
    "peer-torch": (Torch, "torch"),
    "peer-optax": (Optax, "jax"),
    "peer-scipy": (SciPy, "numpy"),
    "peer-sklearn": (ScikitLearn, "numpy"),
}
"""Each peer's functions, and the framework whose arrays they take."""


def load(name: str) -> Subject:
    functions, framework = PEERS[name]
    peer = functions()
    record = copy.copy(importlib.import_module(f"xent_any_backends.{framework}").BACKEND)
    record.name, record.version, record.deviations = peer.library, version(peer.library), {}
    return Subject(name, record, record.devices()[0], functions=peer, peer=True)
