"""First weights that need no training: pulses, which one hidden layer adds up to a function."""

from typing import Any

import torch
from torch import Tensor

# Of each unit of a pulse: the wall that it is of, the corner of that wall, and its sign.
UNITS = {
    "sigmoid": ((0, 0, 1), (1, 0, -1)),
    "relu": ((0, -1, 1), (0, 1, -1), (1, -1, -1), (1, 1, 1)),
}
STEEP = 0.05  # half the width of a wall, as a share of the pulse's


@torch.no_grad()
def construct(hidden: Any, head: Any, activation: str, init: str, x: Tensor, y: Tensor) -> None:
    """Sets the weights of a hidden layer and of its head, so that they give `y` at `x`, about.

    The range of `x` is cut into as many equal parts as there are pulses, each as high as `y` in
    its middle. `hats` are pulses of ReLUs whose walls are so wide that they meet: with their
    neighbours, which they overlap, they add up to straight lines from one middle to the next.

    Args:
        hidden: The layer, of one input.
        head: The layer behind it, of one output.
        activation: `sigmoid` or `relu`, in between.
        init: `pulses`, whose walls are steep, or `hats`.
        x: `(N, 1)`.
        y: `(N, 1)`.

    Source:
        M. Nielsen, Neural Networks and Deep Learning, 2015, chapter 4.
    """
    x, order = x[:, 0].double().sort()
    wall, corner, sign = torch.tensor(UNITS[activation]).T
    count, is_hat = len(hidden.bias) // len(sign), init == "hats"
    step = (x[-1] - x[0]) / (count - is_hat)
    half = step * (0.5 if is_hat else STEEP)
    middles = x[0] + step * (torch.arange(count) + (0 if is_hat else 0.5))
    right = torch.searchsorted(x, middles).clamp(1, len(x) - 1)
    left_y, right_y = y[order[right - 1], 0].double(), y[order[right], 0].double()
    shares = (middles - x[right - 1]) / (x[right] - x[right - 1])
    heights = left_y.lerp(right_y, shares.nan_to_num(0))  # 0 / 0 where two rows are at one x
    walls = torch.stack([middles - step / 2, middles + step / 2], 1)
    walls[0, 0] -= step  # nothing falls at the ends
    walls[-1, 1] += step
    slope = (1 if activation == "sigmoid" else 0.5) / half
    hidden.weight.fill_(slope)
    hidden.bias.copy_(-slope * (walls[:, wall] + half * corner).flatten())
    head.weight.copy_((heights[:, None] * sign).flatten())
    head.bias.zero_()
