"""The first layer of every model: raw rows in, numbers of mean 0 and standard deviation 1 out."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Scales raw rows by the statistics of the train rows, its float64 buffers `mean` and `std`.

    `(B, *in_shape)` of any dtype -> the same shape in float32, whatever the precision of the model.
    NaN becomes 0, the mean. Mean 0 and standard deviation 1 leave a column of codes as it is.

    Args:
        in_shape: Shape of one row: `(D,)` is scaled per feature, `(C, ...)` per channel.

    Raises:
        ValueError: It is called before it has statistics.
    """

    def __init__(self, in_shape: tuple[int, ...]) -> None:
        super().__init__()
        shape = (in_shape[0],) + (1,) * (len(in_shape) - 1)
        empty = torch.full(shape, torch.nan, dtype=torch.float64, device="cpu")  # MPS has none
        self.mean: Tensor = nn.Buffer(empty)
        self.std: Tensor = nn.Buffer(empty.clone())
        self.fitted = False  # no buffer: to read one, each step would wait for the GPU

    def set(self, mean: Any, std: Any) -> None:
        """Copies statistics in: arrays, tensors or lists of shape `(D,)` or `(C,)`."""
        for buffer, values in ((self.mean, mean), (self.std, std)):
            values = torch.asarray(values, dtype=torch.float64, device="cpu", copy=True)
            buffer.copy_(values.reshape(buffer.shape))
        self.fitted = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.fitted:
            raise ValueError("the model has no statistics yet: run `fit`, or give `--ckpt_path`")
        # Eight bytes may need float64: times around 1e9 s that differ by 1 s, say.
        dtype = self.mean.dtype if x.dtype.itemsize == 8 else torch.float32
        scaled = (x.to(dtype) - self.mean.to(dtype)) / self.std.to(dtype)
        return scaled.float().nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The statistics change device, but no dtype: "bf16-true" would round them to 3 digits.
        device = fn(self.mean.new_empty(0, dtype=torch.float32)).device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.mean, self.std = self.mean.to(device, dtype), self.std.to(device, dtype)
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.fitted = not bool(self.std.isnan().any())
