"""What every net is, and what nets share: activations, their initialisation, lists of options."""

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

L = TypeVar("L", bound=nn.Module)

HEAD_SCALE = 0.1  # outputs start near 0: MSE on diabetes 0.56 ± 0.02 over 6 seeds, 0.62 with 1

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


class Net(nn.Module):
    """A function of normalized rows, `(B, *in_shape) -> (B, out_dim)`, that knows of no training.

    A subclass is built as `net(in_shape, out_dim, num_categories)` and adds options of its own:
    `in_shape` has no batch axis, and a column of a table has that many codes, 0 if it is numeric.
    """

    init: str = "random"  # or another way, and then these are made of the train rows:

    def construct(self, x: Tensor, y: Tensor) -> None:
        """Sets the first weights by the train rows, normalized, and their targets, scaled."""


def activation_of(name: str) -> nn.Module:
    """The activation of that name."""
    if name not in ACTIVATIONS:
        allowed = ", ".join(ACTIVATIONS)
        raise ValueError(f"`model.net.activation` has {name!r}, which is none of {allowed}")
    return ACTIVATIONS[name]()


def init_(layer: L, after: str, scale: float = 1.0) -> L:
    """Initialises a layer that reads the activation `after`: its outputs have the scale `scale`.

    Weights are normal with variance `scale^2 / (fan_in * E[f(z)^2])`, where f is the activation
    and z standard normal: He's for ReLU, LeCun's for SELU and identity. Biases are 0.

    Source:
        He et al. 2015, arXiv:1502.01852, section 2.2, for any f.
    """
    weight, *biases = layer.parameters()
    z = torch.linspace(-10, 10, 2001, dtype=torch.float64, device="cpu")
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    second_moment = torch.trapezoid(activation_of(after)(z) ** 2 * density, z).item()
    nn.init.normal_(weight, std=scale * (weight[0].numel() * second_moment) ** -0.5)
    for bias in biases:
        nn.init.zeros_(bias)
    return layer


def each(option: str, value: Any, count: int, odd: bool = False) -> list[Any]:
    """The value of an option for each of `count` layers, given as one for all or one for each.

    Raises:
        ValueError: The list is too short or too long, or a number isn't positive, or isn't `odd`.
    """
    values = [value] * count if isinstance(value, int | str) else list(value)
    if len(values) != count:
        what = f"`model.net.{option}` is a list of {len(values)}, not of {count}"
        raise ValueError(f"{what}: give one value for all layers, or one for each")
    allowed = "a positive odd number" if odd else "a positive number"
    for item in values:
        if not isinstance(item, str) and (item < 1 or (odd and item % 2 == 0)):
            raise ValueError(f"`model.net.{option}` has {item}: it must be {allowed}")
    return values
