"""Augmentations of whole training batches, on their device, pure in (seed, epoch, row): each draws
from a hash of these and not from a generator. So no order or size of batches, number of devices or
earlier draw changes a row, and a resumed run sees what an unbroken one would have seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

__all__ = ["Crop", "Cutout", "Flip", "Mixup", "Noise"]

Bits = TypeVar("Bits", int, Tensor)


def scramble(bits: Bits) -> Bits:
    """Hashes 32 bits one to one, no product over int64 (https://stackoverflow.com/a/12996028)."""
    for _ in range(2):
        bits = (bits >> 16 ^ bits) * 0x45D9F3B & 0xFFFFFFFF
    return bits >> 16 ^ bits


def uniforms(rows: Tensor, key: int, n: int) -> Tensor:
    """Draws `n` numbers in the open interval (0, 1) for each row: `(B,)` -> `(B, n)` float32."""
    columns = scramble(scramble(key) + torch.arange(n, device=rows.device))
    bits = scramble(scramble(rows ^ key)[:, None] ^ columns)
    return ((bits >> 9) + 0.5) / 2**23  # 24 significant bits: exact in float32


class Augmentation:
    """A random change of normalised rows, in which 0 is the mean. One of your own is a subclass."""

    takes: tuple[str, ...] = ()  # of `signals` and `images`; any rows if empty
    reach = 0  # the sides of an image or a signal must be longer

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        """`(B, *in_shape)` -> the same, each row changed by its own `uniforms(rows, key, n)`."""
        raise NotImplementedError


class Flip(Augmentation):
    """Mirrors images left to right.

    Args:
        prob: Probability for each row, in [0, 1].
    """

    takes = ("images",)

    def __init__(self, prob: float = 0.5) -> None:
        require(0 <= prob <= 1, f"Flip.prob is {prob:g}: it must be from 0 to 1")
        self.prob = prob

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        return torch.where(uniforms(rows, key, 1)[..., None, None] < self.prob, x.flip(-1), x)


class Crop(Augmentation):
    """Shifts images or signals: pads every side, then crops to the size (arXiv:1512.03385, 4.2).

    Args:
        pad: Longest shift, in pixels or time steps; at least 1.
        mode: What comes in at the edge: `zero` (the mean) or `reflect`.
    """

    takes = ("signals", "images")

    def __init__(self, pad: int = 4, mode: Literal["zero", "reflect"] = "zero") -> None:
        require(pad >= 1, f"Crop.pad is {pad}: it must be at least 1")
        self.reach, self.mode = pad, "constant" if mode == "zero" else mode

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        sides = x.shape[2:]
        starts = (uniforms(rows, key, len(sides)) * (2 * self.reach + 1)).long()
        x = F.pad(x, [self.reach] * 2 * len(sides), self.mode)
        for side, start in zip(sides, starts.unbind(1), strict=True):
            # Axis 2 -> all its windows -> one for each row, which becomes the last axis.
            x = x.unfold(2, side, 1)[torch.arange(len(x), device=x.device), :, start]
        return x


class Cutout(Augmentation):
    """Sets a square of an image, or a span of a signal, to 0, the mean (arXiv:1708.04552, 3.2).

    Args:
        size: Side of the square, in pixels or time steps; at least 1. Its centre is anywhere in the
            image, so a part may fall outside.
    """

    takes = ("signals", "images")

    def __init__(self, size: int = 8) -> None:
        require(size >= 1, f"Cutout.size is {size}: it must be at least 1")
        self.reach = size

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        cut = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        for side, draw in zip(x.shape[2:], uniforms(rows, key, x.ndim - 2).unbind(1), strict=True):
            first = (draw[:, None] * side).long() - self.reach // 2
            offset = torch.arange(side, device=x.device) - first
            span = (offset >= 0) & (offset < self.reach)
            cut = cut[..., None] & span.view(len(x), *[1] * (cut.ndim - 1), side)
        return x.masked_fill(cut, 0)


class Noise(Augmentation):
    """Adds Gaussian noise.

    Args:
        std: Standard deviation in units of the normalised input; above 0.
    """

    def __init__(self, std: float = 0.1) -> None:
        require(0 < std < math.inf, f"Noise.std is {std:g}: it must be above 0")
        self.std = std

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        draws = uniforms(rows, key, x[0].numel()).view(x.shape)
        return x + (draws * 2 - 1).erfinv().mul(self.std * math.sqrt(2)).to(x.dtype)


class Mixup(Augmentation):
    """Averages each row with another of its batch, and their losses alike (arXiv:1710.09412, 2).

    Partners are pure in (seed, epoch, rows of the batch): in any order, but not at any batch size.

    Args:
        alpha: A row's own weight is drawn from Beta(alpha, alpha); above 0.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        require(0 < alpha < math.inf, f"Mixup.alpha is {alpha:g}: it must be above 0")
        self.quantiles = torch.from_numpy(betaincinv(alpha, alpha, (np.arange(4096) + 0.5) / 4096))

    def pairs(self, rows: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Partners' places in the batch, `(B,)` int64, and rows' own weights, `(B,)` float32."""
        circle = scramble(rows ^ key).argsort()
        partner = torch.empty_like(circle).scatter(0, circle, circle.roll(1))
        self.quantiles = self.quantiles.to(rows.device, torch.float32)
        return partner, self.quantiles[(uniforms(rows, key, 1)[:, 0] * 4096).long()]

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        partner, weight = self.pairs(rows, key)
        return x[partner].lerp(x, weight.to(x.dtype).view(-1, *[1] * (x.ndim - 1)))


def augment(
    x: Tensor, rows: Tensor, seed: int, epoch: int, augmentations: Sequence[Augmentation]
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Changes normalised rows, `(B, *in_shape)`, of these int64 numbers in the source, `(B,)`.

    Returns:
        `(B, *in_shape)`, and `Mixup.pairs` for the loss, `None` without `Mixup`.
    """
    mixed = None
    for place, augmentation in enumerate(augmentations):
        key = scramble(scramble(scramble(seed) + epoch) + place)
        x = augmentation(x, rows, key)
        if isinstance(augmentation, Mixup):
            mixed = augmentation.pairs(rows, key)
    return x, mixed


def check(
    augmentations: Sequence[Augmentation], in_shape: tuple[int, ...], num_categories: Sequence[int]
) -> None:
    """Raises ValueError if rows of this shape and these categories can't take an augmentation."""
    kind, shortest = {2: "signals", 3: "images"}.get(len(in_shape)), min(in_shape[1:], default=1e9)
    for a in augmentations:
        name, needs = type(a).__name__, " or ".join(a.takes)
        require(not needs or kind in a.takes, f"{name} takes {needs}, not rows of shape {in_shape}")
        require(a.reach < shortest, f"{name} has {a.reach}, but a row has a side of {shortest}")
        require(not any(num_categories), f"{name} would change the codes of categories: drop it")
    require(sum(isinstance(a, Mixup) for a in augmentations) < 2, "Mixup is there twice: keep one")


def require(fine: bool, otherwise: str) -> None:
    if not fine:
        raise ValueError(f"`model.augment`: {otherwise}")
