"""Every function with every combination of its options: its derivatives against differences, of first and second order.

``python tests/gradients.py torch jax`` takes minutes, a process for each CPU; the tests have the options in pairs. In
PyTorch gradcheck and gradgradcheck, with forward mode and batched gradients; in JAX ``check_grads`` of order 2 in both
modes, compiled. The exit status is 1 if one fails.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import chain, combinations, product
from multiprocessing import get_context
from typing import Any, NamedTuple

os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when JAX is imported

import numpy as np
from rich.console import Console
from rich.progress import track

import xent_any
from xent_any_conformance._machine import cpus

N, C = 3, 4
RNG = np.random.default_rng(20240517)
X, V = RNG.normal(size=(2, N, C))
GIVEN = {"x": X, "v": V} | {
    name: RNG.uniform(0.1, 0.9, size=shape) for name, shape in {"q": (N, C), "w": (C,), "s": (N,)}.items()
}
"""Logits, a direction, probabilities, weights of classes and of rows."""
Y = np.asarray([1, -100, 3])
EVERY = {"label_smoothing": 0.2, "z_loss": 0.1, "softcap": 2.0}
WEIGHTS = {"w": "class_weight", "s": "sample_weight"}
REDUCTIONS = ("mean", "sum", "none")


class Case(NamedTuple):
    """A function of those of `GIVEN` whose letters are `names`, and index labels."""

    name: str
    names: str
    function: Callable[..., Any]
    order: int = 2


def subsets(of: Any) -> Iterator[tuple[Any, ...]]:
    return chain.from_iterable(combinations(of, n) for n in range(len(of) + 1))


def called(function: Callable[..., Any], names: str, options: dict[str, Any], y: Any, *arrays: Any) -> Any:
    given = dict(zip(names, arrays, strict=True))
    weights = {WEIGHTS[name]: given[name] for name in names if name in WEIGHTS}
    before = [given[name] for name in names if name in "xv"]
    return function(*before, given.get("q", y), **weights, **options)


def nll_loss(x: Any, *more: Any, **options: Any) -> Any:
    return xent_any.nll_loss(x - 9, *more, **options)  # which are not positive


def binary(names: str, reduction: str, y: Any, x: Any, q: Any, *weights: Any) -> Any:
    given = dict(zip(names[2:], weights, strict=True))
    more = {"pos_weight": given.get("w"), "sample_weight": None if "v" not in given else given["v"] * given["v"]}
    return xent_any.binary_cross_entropy(x, q, reduction=reduction, **more)


@cache
def cases() -> list[Case]:
    found = []
    for labels, weights, reduction in product(("", "q"), map("".join, subsets("ws")), REDUCTIONS):
        names = f"x{labels}{weights}"
        for options in subsets(EVERY):
            given = {"reduction": reduction} | {name: EVERY[name] for name in options}
            what = f"{names} {reduction} {' '.join(options)}"
            f = partial(called, xent_any.cross_entropy, names, given)
            found.append(Case(f"cross_entropy {what}", names, f))
            if set(options) <= {"label_smoothing"}:
                found.append(Case(f"nll_loss {what}", names, partial(called, nll_loss, names, given)))
        both = partial(called, xent_any.cross_entropy_value_and_grad, names, EVERY | {"reduction": reduction})
        found.append(Case(f"value_and_grad {names} {reduction}", names, both, 1))
        along = f"xv{names[1:]}"
        for function in (xent_any.cross_entropy_jvp, xent_any.cross_entropy_hvp):
            f = partial(called, function, along, EVERY | {"reduction": reduction})
            found.append(Case(f"{function.__name__} {along} {reduction}", along, f, 1))
    for function in (xent_any.logsumexp, xent_any.log_softmax, xent_any.softmax):
        for axis in (0, 1):
            found.append(Case(f"{function.__name__} {axis}", "x", lambda y, x, f=function, axis=axis: f(x, axis=axis)))
    for weights, reduction in product(map("".join, subsets("wv")), REDUCTIONS):
        names = f"xq{weights}"
        found.append(Case(f"binary_cross_entropy {names} {reduction}", names, partial(binary, names, reduction)))
    return found


def check_torch(case: Case) -> None:
    import torch  # noqa: PLC0415  (in the worker that needs it)

    torch.set_num_threads(1)
    y = torch.from_numpy(Y)
    given = [torch.from_numpy(GIVEN[name]).clone().requires_grad_() for name in case.names]
    function = partial(case.function, y)
    every = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    torch.autograd.gradcheck(function, given, **every)
    if case.order == 2:
        torch.autograd.gradgradcheck(function, given, check_batched_grad=True, check_fwd_over_rev=True)


def check_jax(case: Case) -> None:
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    from jax.test_util import check_grads  # noqa: PLC0415

    jax.config.update("jax_disable_most_optimizations", True)  # programs that run once, compiled in half of the time
    y, given = jnp.asarray(Y), [jnp.asarray(GIVEN[name]) for name in case.names]
    function = jax.jit(lambda *arrays: case.function(y, *map(jnp.asarray, arrays)))
    check_grads(function, given, case.order, ["fwd", "rev"], atol=1e-4, rtol=1e-4)
    jax.clear_caches()


CHECKS = {"torch": check_torch, "jax": check_jax}


def failure(library: str, index: int) -> str | None:
    """Why a case fails; None where it does not."""
    case = cases()[index]
    try:
        CHECKS[library](case)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is a failure)
        return f"{library}: {case.name}: {type(error).__name__}: {str(error)[:300]}"
    return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("libraries", nargs="+", choices=CHECKS)
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose names contain this")
    options = parser.parse_args(argv)
    wanted = [i for i, case in enumerate(cases()) if options.only in case.name]
    console, failed = Console(), 0
    # Not forked: the libraries have threads.
    with ProcessPoolExecutor(len(cpus()), get_context("spawn")) as pool:
        for library in options.libraries:
            reasons = pool.map(partial(failure, library), wanted)
            found = [r for r in track(reasons, library, len(wanted), console=console) if r]
            for reason in found:
                console.print(reason, markup=False, highlight=False)
            console.print(f"{library}: {len(wanted)} cases, {len(found)} failed", highlight=False)
            failed += len(found)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
