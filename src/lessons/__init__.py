"""Experiments that show why nets are built as they are: each a callback and a config."""

from src.lessons.approximation import Approximation
from src.lessons.depth import Depth
from src.lessons.design_loop import DesignLoop

__all__: list[str] = ["Approximation", "Depth", "DesignLoop"]
