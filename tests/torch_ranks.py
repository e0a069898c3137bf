"""Train on one of two gloo ranks, with FSDP2 and with DDP, by PyTorch's losses and by ours.

``python torch_ranks.py RANK STORE RESULTS``: what rank 0 found is saved as {(sharding, loss, library): numbers}.
"""

import sys
import warnings
from itertools import product

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import xent_any_backends.torch as ours

RANKS, N, D, C, STEPS = 2, 8, 6, 5, 3
LIBRARIES = {"torch": nn, "ours": ours}
SHARDINGS = ("none", "FSDP2", "DDP")
LOSSES = ("CrossEntropyLoss", "LinearCrossEntropyLoss")


class Model(nn.Module):
    """A model with its criterion, which has parameters of its own if it is that of a linear layer."""

    def __init__(self, library, loss):
        super().__init__()
        is_linear = loss == "LinearCrossEntropyLoss"
        self.body = nn.Sequential(nn.Linear(D, D), nn.Tanh())
        self.head = nn.Identity() if is_linear else nn.Linear(D, C)
        self.criterion = getattr(library, loss)(*((D, C) if is_linear else ()))

    def forward(self, x, y):
        return self.criterion(self.head(self.body(x)), y)


def train(mesh, rank, sharding, loss, library):
    """The losses, and the parameters after a few steps, whole; without sharding, of all rows."""
    torch.manual_seed(0)
    model = Model(library, loss)
    trained = model
    if sharding == "FSDP2":
        for module in (model.body, model.criterion):
            fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif sharding == "DDP":
        trained = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    x, y = torch.randn(STEPS, N, D), torch.randint(C, (STEPS, N))
    rows = slice(None) if sharding == "none" else slice(rank, None, RANKS)
    losses = []
    for step in range(STEPS):
        value = trained(x[step, rows], y[step, rows])
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = value.detach()
        if sharding != "none":
            distributed.all_reduce(value)
            value /= RANKS
        losses.append(value)
    parameters = [p.full_tensor() if sharding == "FSDP2" else p for p in model.parameters()]
    return torch.cat([a.detach().flatten() for a in (*losses, *parameters)])


def main(rank, store, results):
    warnings.simplefilter("error")  # a criterion that returns a view is warned of
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    found = {
        (sharding, loss, name): train(mesh, rank, sharding, loss, LIBRARIES[name])
        for sharding, loss, name in product(SHARDINGS, LOSSES, LIBRARIES)
        if hasattr(nn, loss)
    }
    distributed.destroy_process_group()
    if rank == 0:
        torch.save(found, results)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
