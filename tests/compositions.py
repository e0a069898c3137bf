"""Compositions of PyTorch's transforms, of each public function, beside the same of PyTorch's own functions.

``python tests/compositions.py --order 2 --backend eager`` tries all pairs, compiled, and names what is wrong; without
``--backend`` nothing is compiled. `test_compositions.py` tries some of them.
"""

import argparse
import itertools
import sys
import time
import traceback

import torch
import torch.nn.functional as F  # noqa: N812
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import xent_any

N, C, D = 2, 3, 2

FAILURES = ("expected device cpu but got meta", "INTERNAL ASSERT FAILED")
"""How PyTorch 2.13 fails in some third derivatives that are compiled.

That is at any product with a number, as ``0.5 * x``, and at views, depending on what has been compiled before.
"""


def numbers(*shape):
    """Numbers of both signs, none of them round, the same for each shape."""
    count = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64)
    return (torch.cos(count * count) + 0.1 * count.sqrt()).reshape(shape)


W, BIAS = numbers(C, D), numbers(C)
WEIGHT = numbers(C).abs() + 0.5


# Each function of (x, labels, probabilities), ours and the same by PyTorch; x has the shape (N, C) or (C,).
def capped(x):
    return 3 * torch.tanh(x / 3)


def with_options(x, y, q):
    z = capped(x)
    lse = torch.logsumexp(z, -1)
    return F.cross_entropy(z, y, weight=WEIGHT, label_smoothing=0.1, reduction="sum") + 0.2 * lse.square().sum()


def ours_linear(x, y, q):
    return xent_any.linear_cross_entropy(x[..., :D], W, y, bias=BIAS)


def gradient(x, y, q):
    """PyTorch's, by a formula, so that it can be differentiated by any transform."""
    return (torch.softmax(x, -1) - F.one_hot(y, C)) / max(1, y.numel())


FUNCTIONS = {
    "cross_entropy": (lambda x, y, q: xent_any.cross_entropy(x, y), lambda x, y, q: F.cross_entropy(x, y)),
    "cross_entropy none": (
        lambda x, y, q: xent_any.cross_entropy(x, y, reduction="none"),
        lambda x, y, q: F.cross_entropy(x, y, reduction="none"),
    ),
    "cross_entropy of probabilities": (
        lambda x, y, q: xent_any.cross_entropy(x, q, reduction="sum"),
        lambda x, y, q: F.cross_entropy(x, q, reduction="sum"),
    ),
    "cross_entropy with options": (
        lambda x, y, q: xent_any.cross_entropy(
            x, y, class_weight=WEIGHT, label_smoothing=0.1, z_loss=0.2, softcap=3.0, reduction="sum"
        ),
        with_options,
    ),
    "cross_entropy by labels": (
        lambda x, y, q: xent_any.cross_entropy(numbers(*x.shape), torch.exp(x), reduction="sum"),
        lambda x, y, q: F.cross_entropy(numbers(*x.shape), torch.exp(x), reduction="sum"),
    ),
    "cross_entropy_value_and_grad": (
        lambda x, y, q: xent_any.cross_entropy_value_and_grad(x, y)[1],
        gradient,
    ),
    "cross_entropy_jvp": (
        lambda x, y, q: xent_any.cross_entropy_jvp(x, numbers(*x.shape), y)[1],
        lambda x, y, q: (gradient(x, y, q) * numbers(*x.shape)).sum(),
    ),
    "cross_entropy_hvp": (
        lambda x, y, q: xent_any.cross_entropy_hvp(x, numbers(*x.shape), y),
        lambda x, y, q: jvp(lambda a: gradient(a, y, q), (x,), (numbers(*x.shape),))[1],
    ),
    "nll_loss of log_softmax": (
        lambda x, y, q: xent_any.nll_loss(xent_any.log_softmax(x), y),
        lambda x, y, q: F.nll_loss(torch.log_softmax(x, -1), y),
    ),
    "log_softmax": (lambda x, y, q: xent_any.log_softmax(x), lambda x, y, q: torch.log_softmax(x, -1)),
    "softmax": (lambda x, y, q: xent_any.softmax(x), lambda x, y, q: torch.softmax(x, -1)),
    "logsumexp": (lambda x, y, q: xent_any.logsumexp(x), lambda x, y, q: torch.logsumexp(x, -1)),
    "binary_cross_entropy": (
        lambda x, y, q: xent_any.binary_cross_entropy(x, q),
        lambda x, y, q: (torch.log1p(torch.exp(x)) - q * x).mean(),  # PyTorch's own lacks some second derivatives
    ),
    "linear_cross_entropy": (ours_linear, lambda x, y, q: F.cross_entropy(x[..., :D] @ W.T + BIAS, y)),
}


def weighed(f):
    """A scalar function: f's results, each with a weight of its own."""
    return lambda a: ((result := f(a)) * numbers(*result.shape)).sum()


TRANSFORMS = {
    "grad": lambda f: grad(weighed(f)),
    "vjp": lambda f: lambda a: vjp(weighed(f), a)[1](torch.ones((), dtype=a.dtype))[0],
    "jvp": lambda f: lambda a: jvp(f, (a,), (numbers(*a.shape),))[1],
    "jacrev": jacrev,
    "jacfwd": jacfwd,
    "hessian": hessian,
    "vmap": lambda f: lambda a: vmap(f)(torch.stack([a, 0.5 * a])),
}


def composed(names, f):
    """The transforms of f, the first one outermost."""
    for name in reversed(names):
        f = TRANSFORMS[name](f)
    return f


def problem(batched):
    x = 2 * numbers(N, C)
    y, q = torch.tensor([1, 2]), torch.softmax(-1.3 * numbers(N, C), -1)
    return (x, y, q) if batched else (x[0], y[0], q[0])


def outcome(names, f, batched, backend):
    """What a composition returns, or the exception that it raises."""
    x, y, q = problem(batched)
    transformed = composed(names, lambda a: f(a, y, q))
    if backend is not None:
        torch._dynamo.reset()
        transformed = torch.compile(transformed, backend=backend)
    try:
        return transformed(x)
    except Exception as error:  # noqa: BLE001  (of whatever the compiler raises)
        return error


def wrong(function, names, *, batched, backend=None):
    """What is wrong with ours: None where it is right, or raises what is not our fault."""
    ours, theirs = FUNCTIONS[function]
    found = outcome(names, ours, batched, backend)
    expected = outcome(names, theirs, batched, None)
    if isinstance(expected, Exception):
        raise RuntimeError(f"no reference for {names} of {function}") from expected
    if isinstance(found, Exception):
        if any(text in str(found) for text in FAILURES) or isinstance(
            outcome(names, theirs, batched, backend), Exception
        ):
            return None
        return f"raises {type(found).__name__}: {(str(found).splitlines() or [''])[0]}"
    if found.shape != expected.shape:
        return f"has the shape {tuple(found.shape)}, should have {tuple(expected.shape)}"
    scale = expected.abs().max().item() or 1.0
    error = (found - expected).abs().max().item() / scale
    return None if error <= 1e-11 else f"is off by {error:.1e}"


def compositions(order):
    """The names of all compositions of so many transforms."""
    return itertools.product(TRANSFORMS, repeat=order)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--order", type=int, default=2, help="so many transforms, one in another")
    parser.add_argument("--backend", help="compile with it: eager, aot_eager, inductor")
    parser.add_argument("--functions", default=",".join(FUNCTIONS), help="names, separated by commas")
    parser.add_argument("--skip", type=int, default=1, help="take each so many-th composition alone")
    given = parser.parse_args()
    start, count, failures = time.time(), 0, 0
    for function in given.functions.split(","):
        for names in itertools.islice(compositions(given.order), None, None, given.skip):
            for batched in (False, True):
                count += 1
                try:
                    reason = wrong(function, names, batched=batched, backend=given.backend)
                except RuntimeError as error:
                    reason = str(error)
                    traceback.print_exc(limit=1)
                if reason is not None:
                    failures += 1
                    rows = "a batch" if batched else "one row"
                    print(f"{' of '.join((*names, function))}, {rows}: {reason}", flush=True)  # noqa: T201
        print(f"{function}: {count} so far, {failures} wrong, {time.time() - start:.0f} s", flush=True)  # noqa: T201
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
