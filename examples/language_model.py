"""A small transformer learns Python's documentation character by character: an ordinary PyTorch script.

``python examples/language_model.py`` trains it and prints the loss. To train it with xent_any's cross-entropy, change
one line, the import of it; `one_import.py` does so, and compares the curves.

The text is what ``help()`` shows: `pydoc_data.topics`, under Python's own licence. It is read from the Python that runs
this, so that other versions give other numbers. CPython has it, and Debian's ``python3``; where somebody has left it
out, as Windows' embeddable package does, the import fails with its name.
"""

import argparse
from collections.abc import Iterator
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 2, 4, 64, 32, 32


class Block(nn.Module):
    """Causal self-attention, then two linear layers; each is added to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.next_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.network = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.query_key_value(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.network(self.next_norm(x))


class LanguageModel(nn.Module):
    """Logits of the next character at each place: from (N, T) to (N, T, C)."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.character = nn.Embedding(characters, WIDTH)
        self.place = nn.Parameter(torch.randn(CONTEXT, WIDTH))
        blocks = (Block() for _ in range(LAYERS))
        self.layers = nn.Sequential(*blocks, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters))

    def forward(self, text: Tensor) -> Tensor:
        return self.layers(self.character(text) + self.place)


def load_text() -> Tensor:
    """Python's documentation, each character as its number."""
    text = "\n".join(topics[name] for name in sorted(topics))
    numbers = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([numbers[character] for character in text])


def train(steps: int) -> Iterator[tuple[float, float]]:
    """Yield the loss and the norm of its gradient at each step."""
    text = load_text()
    torch.manual_seed(0)
    model = LanguageModel(int(text.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for _ in range(steps):
        places = torch.randint(len(text) - CONTEXT, (BATCH, 1)) + torch.arange(CONTEXT + 1)
        batch = text[places]
        loss = cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield loss.item(), norm.item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="default: %(default)s")
    for step, (loss, _) in enumerate(train(parser.parse_args().steps), start=1):
        if step == 1 or step % 50 == 0:
            print(f"step {step:3}: {loss:.4f}")  # noqa: T201  (what the script is for)
