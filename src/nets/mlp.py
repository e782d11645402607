"""A multi-layer perceptron, for tables, vectors and anything small."""

import math
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nets import pulses
from src.nets.net import HEAD_SCALE, Net, activation_of, each, init_

NORMS = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class Columns(nn.Module):
    """Encodes the codes of a table: `(B, D) -> (B, dim)`, the numeric columns first.

    Each categorical column becomes an embedding, or one column of 0 and 1 for each of its codes.
    What is no code of the column counts as 0, the unknown value.
    """

    def __init__(self, num_categories: tuple[int, ...], embed: bool) -> None:
        super().__init__()
        num = torch.tensor(num_categories)
        self.numeric = nn.Buffer((num == 0).nonzero()[:, 0], persistent=False)
        self.coded = nn.Buffer(num.nonzero()[:, 0], persistent=False)
        self.counts = nn.Buffer(num[num > 0], persistent=False)
        counts = self.counts.tolist()
        dims = [min(50, round(1.6 * k**0.56)) for k in counts]  # fastai's rule of thumb
        self.encoders: Any = [partial(F.one_hot, num_classes=k) for k in counts]
        if embed:
            self.encoders = nn.ModuleList(map(nn.Embedding, counts, dims))
        for table in self.parameters():
            nn.init.zeros_(table[0])  # a value never seen starts, and may stay, in the middle
        self.dim = len(self.numeric) + sum(dims if embed else counts)

    def forward(self, x: Tensor) -> Tensor:
        codes = x[:, self.coded]
        codes = torch.where((codes >= 0) & (codes < self.counts), codes, 0).long()
        parts = [f(code) for f, code in zip(self.encoders, codes.unbind(1), strict=True)]
        return torch.cat([x[:, self.numeric], *parts], 1)


class MLP(Net):
    """A multi-layer perceptron, `(B, *in_shape) -> (B, out_dim)`: linear without hidden layers.

    Args:
        hidden_dims: Width of each hidden layer.
        activation: One name for all hidden layers, or a list with one for each.
        dropout: Share of each hidden layer's values set to 0 in training, in [0, 1).
        norm: What normalizes a hidden layer, before its activation.
        categorical: What a categorical column becomes.
        init: First weights: `random`; `pulses` that add up to the target of the train rows, made of
            two sigmoids or four ReLUs each; or `hats`, pulses of ReLUs whose walls meet. These are
            of one numeric feature, one target and one hidden layer without a norm.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_dim: int,
        num_categories: tuple[int, ...] = (),
        hidden_dims: tuple[int, ...] = (128, 64),
        activation: str | tuple[str, ...] = "relu",
        dropout: float = 0.0,
        norm: Literal["none", "batch", "layer"] = "none",
        categorical: Literal["embedding", "onehot"] = "embedding",
        init: Literal["random", "pulses", "hats"] = "random",
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"`model.net.dropout` is {dropout:g}, not in [0, 1)")
        widths = each("hidden_dims", hidden_dims, len(hidden_dims))
        names = each("activation", activation, len(hidden_dims))
        self.inputs: nn.Module = nn.Flatten()
        dim, after = math.prod(in_shape), "identity"
        if any(num_categories):
            self.inputs = Columns(num_categories, embed=categorical == "embedding")
            dim = self.inputs.dim
        self.hidden = nn.Sequential()
        for width, name in zip(widths, names, strict=True):
            linear = init_(nn.Linear(dim, width, bias=norm == "none"), after)
            drop = nn.Dropout(dropout) if dropout else nn.Identity()
            layers = (linear, NORMS[norm](width), activation_of(name), drop)
            self.hidden.extend(layers)
            dim, after = width, name
        self.head = init_(nn.Linear(dim, out_dim), after, HEAD_SCALE)
        self.init, self.activation = init, after
        if init != "random":
            kinds = {k: len(v) for k, v in pulses.UNITS.items() if (init, k) != ("hats", "sigmoid")}
            parts, rest = divmod(dim, kinds.get(after, dim + 1))
            one = len(widths) == math.prod(in_shape) == out_dim == 1 and not any(num_categories)
            if not one or norm != "none" or parts < 2 or rest:
                raise ValueError(
                    f"`model.net.init` {init} is for one numeric feature, one target and one "
                    f"hidden layer without `norm`, of 2 or more times as many units as {kinds}"
                )

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(x).to(self.head.weight.dtype)
        out: Tensor = self.head(self.hidden(x))
        return out

    def construct(self, x: Tensor, y: Tensor) -> None:
        pulses.construct(self.hidden[0], self.head, self.activation, self.init, x, y)
