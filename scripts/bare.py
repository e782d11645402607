"""What the benchmark compares with: the plainest training in PyTorch, without Lightning.

A program takes rows, labels, a net, a clock that its batches go through, and a number of epochs.
To compare with another one, write it here, or in scripts/usual.py if it needs Lightning, and name
it in scripts/bench.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Arrays = tuple[Tensor, Tensor]
Clock = Callable[[Iterable], Iterator]
BATCH_SIZE = 128


def mlp(in_dim: int = 784, dims: Iterable[int] = (64, 128, 64)) -> nn.Module:
    """For each of `dims` a linear layer, batch norm and ReLU; then 10 outputs."""
    layers: list[nn.Module] = [nn.Flatten()]
    for dim in dims:
        layers += [nn.Linear(in_dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU()]
        in_dim = dim
    return nn.Sequential(*layers, nn.Linear(in_dim, 10))


def scale(x: Tensor) -> Arrays:
    """Mean and standard deviation of each channel, `(C, 1, 1)`."""
    values = x[:5000].transpose(0, 1).flatten(1).double()
    return values.mean(1).float()[:, None, None], values.std(1).float()[:, None, None]


def floor(x: Tensor, y: Tensor, net: nn.Module, clock: Clock, num_epochs: int) -> None:
    """Forward, backward and a fused optimizer, always on the same batch."""
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    mean, std = scale(x)
    batch, label = (x[:BATCH_SIZE].float() - mean) / std, y[:BATCH_SIZE]
    for _ in clock(range(num_epochs * len(x) // BATCH_SIZE)):
        F.cross_entropy(net(batch), label).backward()
        optimizer.step()
        optimizer.zero_grad()


def loop(
    x: Tensor, y: Tensor, net: nn.Module, clock: Clock, num_epochs: int, fused: bool = True
) -> None:
    """The data in one tensor, indexed batch by batch; loss and accuracy of each epoch."""
    optimizer = torch.optim.AdamW(net.parameters(), fused=fused)
    mean, std = scale(x)
    for _ in range(num_epochs):
        total = torch.zeros(2)
        for row in clock(torch.randperm(len(x)).split(BATCH_SIZE)):
            batch, label = x[row], y[row]
            out = net((batch.float() - mean) / std)
            loss = F.cross_entropy(out, label)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                hits = (out.argmax(1) == label).sum()
                total += torch.stack((loss * len(row), hits))
        print((total / len(x)).tolist())


def tuned(x: Tensor, y: Tensor, net: nn.Module, clock: Clock, num_epochs: int) -> None:
    """The same with every trick that was found here: other indexing, nothing allocated twice."""
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    mean, std = scale(x)
    for _ in range(num_epochs):
        loss_sum, hits = torch.zeros(2)
        for row in clock(torch.randperm(len(x)).split(BATCH_SIZE)):
            batch, label = x.index_select(0, row), y.index_select(0, row)
            out = net(batch.float().sub_(mean).div_(std))
            loss = F.cross_entropy(out, label)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss_sum.add_(loss.detach(), alpha=len(row))
            hits.add_((out.detach().argmax(1) == label).sum())
        print(loss_sum.item() / len(x), hits.item() / len(x))


def load(path: Path) -> Arrays:
    """Train rows and labels of a `.npz`."""
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
