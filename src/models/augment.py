"""Augmentations of whole training batches, on their device, pure in (seed, epoch, row).

Each draws from a hash of these and not from a generator. So no order or size of batches, number of
devices or earlier draw changes a row (only Mixup's partner is of its batch), and a resumed run sees
what an unbroken one would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Crop", "Cutout", "Flip", "Mixup", "Noise"]

MIX = [value - 2**64 for value in (0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)]


def scramble(bits: int) -> int:
    """Hashes 32 bits one to one.

    Source: https://stackoverflow.com/a/12996028
    """
    for _ in range(2):
        bits = (bits >> 16 ^ bits) * 0x45D9F3B & 0xFFFFFFFF
    return bits >> 16 ^ bits


def uniforms(rows: Tensor, key: int, n: int) -> Tensor:
    """Draws `n` numbers in the open interval (0, 1) for each row: `(B,)` -> `(B, n)` float32.

    In few operations, as each is a launch on a GPU; the products are meant to overflow.

    Source: the constants of SplitMix64 (doi 10.1145/2660193.2660195, fig. 17) and of MurmurHash3's
    64-bit finalizer.
    """
    bits = rows[:, None] * n + torch.arange(n, device=rows.device)
    bits.mul_(MIX[0]).add_(key)
    for factor in MIX[1:]:
        bits.bitwise_xor_(bits >> 32).mul_(factor)
    return (bits >> 41).float().add_(2**22 + 0.5).div_(2**23)  # exact: 24 significant bits


class Augmentation:
    """A random change of normalised rows, in which 0 is the mean. One of your own is a subclass."""

    least_axes = 1  # of a row: 2 for signals and images, 3 for images

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        """`(B, *in_shape)` -> the same, each row changed by its own `uniforms(rows, key, n)`."""
        raise NotImplementedError


class Flip(Augmentation):
    """Mirrors half of the images left to right."""

    least_axes = 3

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        return torch.where(uniforms(rows, key, 1)[..., None, None] < 0.5, x.flip(-1), x)


class Crop(Augmentation):
    """Shifts images or signals: pads every side with 0, then crops (arXiv:1512.03385, 4.2).

    Args:
        pad: Longest shift, in pixels or time steps; at least 1.
    """

    least_axes = 2

    def __init__(self, pad: int = 4) -> None:
        require(pad >= 1, f"Crop.pad is {pad}: it must be at least 1")
        self.pad = pad

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        sides = x.shape[2:]
        starts = (uniforms(rows, key, len(sides)) * (2 * self.pad + 1)).long()
        x = F.pad(x, [self.pad] * 2 * len(sides))
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

    least_axes = 2

    def __init__(self, size: int = 8) -> None:
        require(size >= 1, f"Cutout.size is {size}: it must be at least 1")
        self.size = size

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        cut = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        for side, draw in zip(x.shape[2:], uniforms(rows, key, x.ndim - 2).unbind(1), strict=True):
            first = (draw[:, None] * side).long() - self.size // 2
            offset = torch.arange(side, device=x.device) - first
            span = (offset >= 0) & (offset < self.size)
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
    """Averages each row with the one before it in its batch (arXiv:1710.09412, 2).

    The loss is averaged alike, by the same weights.

    Args:
        alpha: A row's own weight is drawn from Beta(alpha, alpha); above 0.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        require(0 < alpha < math.inf, f"Mixup.alpha is {alpha:g}: it must be above 0")
        from scipy.special import betaincinv  # takes 0.1 s, of every start

        self.quantiles = torch.from_numpy(betaincinv(alpha, alpha, (np.arange(4096) + 0.5) / 4096))

    def weights(self, rows: Tensor, key: int) -> Tensor:
        """Each row's own weight: `(B,)` float32."""
        self.quantiles = self.quantiles.to(rows.device, torch.float32)
        return self.quantiles[(uniforms(rows, key, 1)[:, 0] * 4096).long()]

    def __call__(self, x: Tensor, rows: Tensor, key: int) -> Tensor:
        weights = self.weights(rows, key).to(x.dtype)
        return x.roll(1, 0).lerp(x, weights.view(-1, *[1] * (x.ndim - 1)))


def augment(
    x: Tensor, rows: Tensor, seed: int, epoch: int, augmentations: Sequence[Augmentation]
) -> tuple[Tensor, Tensor | None]:
    """Changes normalised rows, `(B, *in_shape)`, of these int64 numbers in the source, `(B,)`.

    Returns:
        `(B, *in_shape)`, and `Mixup.weights`, `(B,)`; `None` without `Mixup`.
    """
    weights = None
    for place, augmentation in enumerate(augmentations):
        key = scramble(scramble(scramble(seed) + epoch) + place)
        x = augmentation(x, rows, key)
        if isinstance(augmentation, Mixup):
            weights = augmentation.weights(rows, key)
    return x, weights


def check(
    augmentations: Sequence[Augmentation], in_shape: tuple[int, ...], num_categories: Sequence[int]
) -> None:
    """Raises ValueError if rows of this shape and these categories can't take an augmentation."""
    for a in augmentations:
        name, fits = type(a).__name__, len(in_shape) >= a.least_axes
        require(fits, f"{name} takes no rows of shape {in_shape}: drop it")
        pad, side = getattr(a, "pad", 0), min(in_shape[1:], default=0)
        require(pad <= side, f"{name}.pad is {pad}: it must be at most {side}, a side")
        require(not any(num_categories), f"{name} would change the codes of categories: drop it")
    require(sum(isinstance(a, Mixup) for a in augmentations) < 2, "Mixup is there twice: keep one")


def require(fine: bool, otherwise: str) -> None:
    if not fine:
        raise ValueError(f"`model.augment`: {otherwise}")
