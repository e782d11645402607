"""A layer of several nets at once, forward and backward by hand: two thirds of autograd's time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nets.net import ACTIVATIONS

# Identity stands for no norm and no dropout, too.
ACTIVATION = tuple({*ACTIVATIONS.values()} - {nn.Identity})


@dataclass(eq=False)
class Layer:
    """A linear layer of all copies, and what comes after it.

    Weights are `(K, out_dim, in_dim)`, biases `(K, 1, out_dim)`, and so are their gradients.
    """

    weight: Tensor
    weight_grad: Tensor
    bias: Tensor
    bias_grad: Tensor
    activation: nn.Module | None = None
    dropout: float = 0.0

    def forward(self, x: Tensor, trains: bool) -> Tensor:
        """`(K, B, in_dim) -> (K, B, out_dim)`; drops the same values of all copies."""
        self.x, self.mask = x, None
        self.before = self.out = torch.baddbmm(self.bias, x, self.weight.mT)
        if isinstance(self.activation, nn.ReLU):
            self.out.relu_()
        elif self.activation is not None:
            with torch.set_grad_enabled(trains):
                self.after = self.activation(self.before.requires_grad_(trains))
            self.out = self.after.detach()
        if trains and self.dropout:
            self.mask = F.dropout(torch.ones(x.shape[1], self.out.shape[2]), self.dropout)
            self.out = self.out.mul_(self.mask) if self.before is self.out else self.out * self.mask
        return self.out

    def backward(self, grad: Tensor, is_first: bool) -> Tensor:
        """Gradient of what came out to that of what went in, which the first layer needs not."""
        if self.mask is not None:
            grad = grad.mul_(self.mask)
        if isinstance(self.activation, nn.ReLU):
            torch.ops.aten.threshold_backward.grad_input(grad, self.out, 0, grad_input=grad)
        elif self.activation is not None:
            [grad] = torch.autograd.grad(self.after, self.before, grad)
        torch.bmm(grad.mT, self.x, out=self.weight_grad)
        torch.sum(grad, 1, keepdim=True, out=self.bias_grad)
        return grad if is_first else torch.bmm(grad, self.weight)
