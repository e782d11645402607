"""Nets: what turns normalized rows into outputs. One in `__all__` can be named in a config."""

from src.nets.convnet import ConvNet
from src.nets.mlp import MLP

__all__ = ["MLP", "ConvNet"]
