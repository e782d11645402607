"""First weights that need no training: pulses, which one hidden layer adds up to a function."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

UNITS = {"sigmoid": 2, "relu": 4}  # of a pulse: one for each wall, or for each corner
STEEP = 0.05  # half the width of a wall, as a share of the pulse's


@torch.no_grad()
def construct(
    hidden: Any, head: Any, activation: str, kind: Literal["pulses", "hats"], x: Tensor, y: Tensor
) -> None:
    """Sets the weights of a hidden layer and of its head, so that they give `y` at `x`, about.

    The range of `x` is cut into as many equal parts as there are pulses, each as high as `y` in
    its middle. `hats` are pulses of four ReLUs whose walls are as wide as to meet: they overlap
    with their neighbours, and their sum is straight from one middle to the next.

    Args:
        hidden: The layer, of one input.
        head: The layer behind it, of one output.
        activation: `sigmoid` or `relu`, in between.
        kind: `pulses` with steep walls, or `hats`.
        x: `(N, 1)`.
        y: `(N, 1)`.

    Source:
        M. Nielsen, Neural Networks and Deep Learning, 2015, chapter 4.
    """
    x, order = x[:, 0].double().sort()
    y, (low, high) = y[order, 0].double(), x.aminmax()
    count, is_hat = hidden.out_features // UNITS[activation], kind == "hats"
    step = (high - low) / (count - is_hat)
    middles = low + step * (torch.arange(count) + (0 if is_hat else 0.5))
    right = torch.searchsorted(x, middles).clamp(1, len(x) - 1)
    share = (middles - x[right - 1]) / (x[right] - x[right - 1])
    heights = y[right - 1].lerp(y[right], share)
    walls = middles[:, None] + step * torch.tensor([-0.5, 0.5])
    walls[0, 0] -= step  # nothing falls at the ends
    walls[-1, 1] += step
    half = step * (0.5 if is_hat else STEEP)
    if activation == "sigmoid":
        corners, signs, slope = walls, torch.tensor([1.0, -1.0]), 1 / half
    else:
        corners = (walls[..., None] + half * torch.tensor([-1.0, 1.0])).flatten(1)
        signs, slope = torch.tensor([1.0, -1.0, -1.0, 1.0]), 0.5 / half
    hidden.weight.fill_(slope)
    hidden.bias.copy_(-slope * corners.flatten())
    head.weight.copy_((heights[:, None] * signs).flatten())
    head.bias.zero_()
