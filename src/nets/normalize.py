"""The first layer of every model: raw rows in, numbers of mean 0 and standard deviation 1 out."""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Scales raw rows by the statistics of the train rows, its float64 buffers `mean` and `std`.

    `(B, *in_shape)` of any dtype -> the same shape in float32, whatever the precision of the model.
    NaN becomes 0, the mean. Mean 0 and standard deviation 1 leave a column of codes as it is.

    Args:
        in_shape: Shape of one row: `(D,)` is scaled per feature, `(C, ...)` per channel.
        mean: Mean of each feature or channel.
        std: Standard deviation of each, above 0.
    """

    def __init__(
        self, in_shape: tuple[int, ...], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        shape = (in_shape[0],) + (1,) * (len(in_shape) - 1)
        values = torch.tensor([mean, std], dtype=torch.float64, device="cpu")  # MPS has no float64
        self.mean: Tensor = nn.Buffer(values[0].reshape(shape))
        self.std: Tensor = nn.Buffer(values[1].reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        # Eight bytes may need float64: times around 1e9 s that differ by 1 s, say.
        dtype = self.mean.dtype if x.dtype.itemsize == 8 else torch.float32
        mean, std = self.mean.to(dtype), self.std.to(dtype)
        if x.dtype == torch.uint8:
            return x.to(dtype).sub_(mean).div_(std)  # in place, and no byte is NaN
        scaled = (x.to(dtype) - mean).div_(std).float()
        return scaled.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The statistics change device, but no dtype, whatever the precision of the model.
        device = fn(self.mean.new_empty(0, dtype=torch.float32)).device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.mean, self.std = self.mean.to(device, dtype), self.std.to(device, dtype)
        return self
