"""Experiments that show why nets are built as they are: each a callback and a config."""

from src.lessons.approximation import Approximation
from src.lessons.depth import Depth

__all__: list[str] = ["Approximation", "Depth"]
