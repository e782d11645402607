"""A convolutional net for signals and images: from three layers to a ResNet."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from src.nets.net import HEAD_SCALE, Net, activation_of, each, init_

Block = Literal["residual", "plain"]
LAYERS = ("Conv", "MaxPool", "BatchNorm")


def conv_norm(
    axes: int, down: str, norm: str, after: str, in_dim: int, dim: int, kernel: int, stride: int
) -> nn.Sequential:
    """Convolution and norm. Sizes are divided by the stride and rounded up, so none gets to 0."""
    conv, pool, batch_norm = (getattr(nn, f"{name}{axes}d") for name in LAYERS)
    pools = down == "max" and stride > 1
    step = 1 if pools else stride
    layer = init_(conv(in_dim, dim, kernel, step, padding=kernel // 2, bias=False), after)
    layers = [layer, pool(stride, ceil_mode=True)] if pools else [layer]
    if norm == "batch":
        return nn.Sequential(*layers, batch_norm(dim))
    # Groups of 16 channels or somewhat more: Wu and He 2018, arXiv:1803.08494, table 3.
    groups = max(n for n in range(1, max(16, dim) // 16 + 1) if dim % n == 0)
    return nn.Sequential(*layers, nn.GroupNorm(groups, dim))


class Residual(nn.Module):
    """Two convolutions around which the input passes: as it is, or through a 1x1 one if it must.

    Source:
        He et al. 2015, arXiv:1512.03385, section 3.3. The branch starts at 0: Goyal et al. 2017,
        arXiv:1706.02677, section 5.1.
    """

    def __init__(
        self, conv: Callable, after: str, in_dim: int, dim: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        first, last = conv(after, in_dim, dim, kernel, stride), conv(after, dim, dim, kernel, 1)
        nn.init.zeros_(last[-1].weight)
        self.branch = nn.Sequential(first, activation_of(after), last)
        same = stride == 1 and in_dim == dim
        self.shortcut = nn.Identity() if same else conv(after, in_dim, dim, 1, stride)
        self.activation = activation_of(after)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.branch(x) + self.shortcut(x))
        return out


class ConvNet(Net):
    """Stem, stages, mean over all positions, linear: `(B, C, L)` or `(B, C, H, W) -> (B, out_dim)`.

    Where a stage has an option of its own, a list has one value for each, a number is for all.

    Args:
        widths: Channels of each stage.
        depths: Number of blocks of a stage.
        kernel: Size of the convolutions of a stage, odd.
        strides: Stride of the first block of a stage.
        down: How a stride makes images smaller: by a convolution of that `stride`, or by the `max`
            of that many pixels after one of stride 1, which costs more and often finds more.
        block: `residual` is two convolutions with a shortcut, `plain` is one convolution.
        stem_width: Channels of the first convolution.
        stem_kernel: Size of the first convolution, odd.
        stem_stride: Stride of the first convolution.
        norm: What normalizes each convolution, before its activation.
        activation: Name of the activation.
        channels_last: Whether all channels of a pixel are neighbours in memory, which most
            hardware convolves sooner: try it, above all with `trainer.precision` bf16-mixed.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_dim: int,
        num_categories: tuple[int, ...] = (),
        widths: tuple[int, ...] = (32, 64, 128),
        depths: int | tuple[int, ...] = 1,
        kernel: int | tuple[int, ...] = 3,
        strides: int | tuple[int, ...] = 2,
        down: Literal["stride", "max"] = "stride",
        block: Block | tuple[Block, ...] = "residual",
        stem_width: int = 32,
        stem_kernel: int = 3,
        stem_stride: int = 1,
        norm: Literal["batch", "group"] = "batch",
        activation: str = "relu",
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        axes, count = len(in_shape) - 1, len(widths)
        if axes not in (1, 2):
            what = "`model.net` ConvNet takes signals (C, L) and images (C, H, W)"
            raise ValueError(f"{what}, not rows of shape {tuple(in_shape)}: use MLP")
        stages = zip(  # the stem is the first
            each("stem_width", stem_width, 1) + each("widths", widths, count),
            [1, *each("depths", depths, count)],
            each("stem_kernel", stem_kernel, 1, odd=True) + each("kernel", kernel, count, odd=True),
            each("stem_stride", stem_stride, 1) + each("strides", strides, count),
            ["plain", *each("block", block, count)],
            strict=True,
        )
        conv, in_dim, after = partial(conv_norm, axes, down, norm), in_shape[0], "identity"
        self.stages = nn.Sequential()
        for dim, depth, size, first_stride, kind in stages:
            for stride in [first_stride] + [1] * (depth - 1):
                shape = (after, in_dim, dim, size, stride)
                if kind == "residual":
                    self.stages.append(Residual(conv, *shape))
                else:
                    self.stages.append(nn.Sequential(conv(*shape), activation_of(activation)))
                in_dim, after = dim, activation
        self.head = init_(nn.Linear(in_dim, out_dim), activation, HEAD_SCALE)
        self.layout = torch.channels_last if channels_last and axes == 2 else torch.preserve_format
        self.to(memory_format=self.layout)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x.to(self.head.weight.dtype, memory_format=self.layout))
        out: Tensor = self.head(x.flatten(2).mean(2))
        return out
