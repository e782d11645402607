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


class Net(nn.Sequential):
    """As it is, with a `forward` of its own: `torch.compile` would take torch's one apart."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


def mlp(in_dim: int = 784, dims: Iterable[int] = (64, 128, 64)) -> nn.Module:
    """For each of `dims` a linear layer, batch norm and ReLU; then 10 outputs."""
    layers: list[nn.Module] = [nn.Flatten()]
    for dim in dims:
        layers += [nn.Linear(in_dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU()]
        in_dim = dim
    return Net(*layers, nn.Linear(in_dim, 10))


class Block(nn.Module):
    """Two convolutions with a shortcut around them."""

    def __init__(self, in_dim: int, dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(dim), nn.BatchNorm2d(dim)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_dim != dim:
            conv = nn.Conv2d(in_dim, dim, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


def resnet() -> nn.Module:
    """ResNet-18 for images of 32x32."""
    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    in_dim = 64
    for dim, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(in_dim, dim, stride), Block(dim, dim, 1)]
        in_dim = dim
    return Net(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


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


def images(
    x: Tensor,
    y: Tensor,
    net: nn.Module,
    clock: Clock,
    num_epochs: int,
    size: int,
    device: str,
    changes: bool = True,
    compiled: str = "",
) -> None:
    """All data on the GPU; batches of `size`, flipped and shifted there; bf16, channels last.

    `compiled` is a mode of `torch.compile`, or none.
    """
    mean, std = (values.to(device) for values in scale(x))
    x, y, net = x.to(device), y.to(device), net.to(device)
    if x.shape[1] == 3:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        net.compile(mode=compiled)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, nesterov=True, fused=True)
    side, pad = torch.arange(x.shape[-1], device=device), 4
    for _ in range(num_epochs):
        total = torch.zeros(2, device=device)
        for row in clock(torch.randperm(len(x), device=device).split(size)):
            batch, label, n = (x[row].float() - mean) / std, y[row], len(row)
            if changes:
                flips = torch.rand(n, 1, 1, 1, device=device) < 0.5
                batch = F.pad(torch.where(flips, batch.flip(-1), batch), [pad] * 4)
                i, j = torch.randint(0, 2 * pad + 1, (2, n, 1), device=device) + side
                rows = torch.arange(n, device=device)[:, None, None]
                batch = batch[rows, :, i[:, :, None], j[:, None]].permute(0, 3, 1, 2)
            with torch.autocast(device, torch.bfloat16):
                out = net(batch)
                loss = F.cross_entropy(out, label)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                total += torch.stack((loss * n, (out.argmax(1) == label).sum()))
        print((total / len(x)).tolist())


def load(path: Path) -> Arrays:
    """Train rows and labels of a `.npz`."""
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
