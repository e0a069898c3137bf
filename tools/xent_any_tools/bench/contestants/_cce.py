"""cut-cross-entropy: the loss of a linear layer, which never has logits; there is nothing here to compare it with."""

from . import Contestant

CONTESTANTS: list[Contestant] = []

raise NotImplementedError("it takes a linear layer's inputs and weights, and never has logits")
