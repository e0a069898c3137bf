"""A language model of 50257 words, its last layer and the loss in one call: the same curve, in less memory.

``python examples/word_model.py`` takes about a minute, and 4 GiB of memory. It trains the transformer of
`language_model.py` on words instead of characters: with PyTorch's layer and loss, with xent_any's, and with the control
of `one_import.py`. Before, it measures the memory that a step needs. Needs the extras ``demo`` and ``torch``.

The text is the source of those modules of the standard library that are one file; it is read from the Python that runs
this, so that other versions give other numbers. As in GPT-2, a word is one with the space before it, and there are
50257: the 50256 most frequent, and one for all others.
"""

import argparse
import multiprocessing
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from language_model import CONTEXT, LanguageModel
from one_import import moved, report
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from xent_any_backends.torch import linear_cross_entropy
from xent_any_tools.bench import _memory

WORDS, BATCH = 50257, 8

LayerAndLoss: TypeAlias = Callable[[Tensor, nn.Linear, Tensor], Tensor]


def of_pytorch(hidden: Tensor, layer: nn.Linear, targets: Tensor) -> Tensor:
    return cross_entropy(layer(hidden), targets)


def of_xent_any(hidden: Tensor, layer: nn.Linear, targets: Tensor) -> Tensor:
    return linear_cross_entropy(hidden, layer.weight, targets, linear_bias=layer.bias)


def of_control() -> LayerAndLoss:
    loss = moved(cross_entropy)
    return lambda hidden, layer, targets: loss(layer(hidden), targets)


LOSSES: dict[str, LayerAndLoss] = {"PyTorch": of_pytorch, "xent_any": of_xent_any}


def load_text() -> Tensor:
    """The standard library's modules, each word as its number."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    words = re.findall(r"\s*\w+|\s*[^\w\s]+|\s+", "\n".join(path.read_text(encoding="utf-8") for path in modules))
    numbers = {word: i for i, (word, _) in enumerate(Counter(words).most_common(WORDS - 1))}
    return torch.tensor([numbers.get(word, WORDS - 1) for word in words])


class Training:
    """A model, its optimiser, and the loss that it is trained with."""

    def __init__(self, loss: LayerAndLoss) -> None:
        torch.manual_seed(0)
        self.loss, self.model = loss, LanguageModel(WORDS)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)

    def step(self, batch: Tensor) -> tuple[float, float]:
        """The loss and the norm of its gradient."""
        last: Any = self.model.layers[-1]
        hidden = self.model.layers[:-1](self.model.character(batch[:, :-1]) + self.model.place)
        loss = self.loss(hidden.flatten(0, 1), last, batch[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item(), norm.item()


def train(text: Tensor, loss: LayerAndLoss, steps: int) -> Iterator[tuple[float, float]]:
    """Yield the loss and the norm of its gradient at each step."""
    training = Training(loss)
    for _ in range(steps):
        yield training.step(text[torch.randint(len(text) - CONTEXT, (BATCH, 1)) + torch.arange(CONTEXT + 1)])


def peak(name: str, rows: int) -> int:
    """Bytes that a step needs at its peak, beyond the model's and the optimiser's own."""
    training = Training(LOSSES[name])
    training.step(torch.randint(WORDS, (1, CONTEXT + 1)))
    training.optimizer.zero_grad()
    batch = torch.randint(WORDS, (rows // CONTEXT, CONTEXT + 1))
    return int(_memory.of_call(lambda: training.step(batch))["peak_bytes"])


def memory(rows: int) -> str:
    """What a step of each needs, measured in fresh processes, in words."""
    peaks = {}
    for name in LOSSES:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            peaks[name] = fresh.submit(peak, name, rows).result()
    sizes = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in peaks.items())
    return (
        f"Peak memory of a step of {rows} words, whose logits are {rows * WORDS * 4 / 2**20:.0f} MiB: {sizes}. "
        f"That is {100 * peaks['xent_any'] / peaks['PyTorch']:.0f} %."
    )


def compared(steps: int, figure: Path) -> int:
    """Train three times, and report; 1 where the curves disagree, otherwise 0."""
    text = load_text()
    runs = {
        name: np.asarray(list(track(train(text, loss, steps), total=steps, description=f"{name:8}"))).T
        for name, loss in (LOSSES | {"control": of_control()}).items()
    }
    title = f"Language model of {WORDS} words, {steps} steps of AdamW in float32"
    return report(runs, title, figure, "Linear, cross_entropy", "linear_cross_entropy")


def main(argv: list[str] | None = None) -> int:
    """Measure the memory of a step, and compare the curves."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--steps", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=4096, help="words of the step that is measured; %(default)s")
    parser.add_argument("--figure", type=Path, default=Path("word-model.png"), help="default: %(default)s")
    options = parser.parse_args(argv)
    Console().print(memory(options.rows), highlight=False)
    return compared(options.steps, options.figure)


if __name__ == "__main__":
    sys.exit(main())
