"""Experiments that show why nets are built as they are: each a callback and a config."""

from src.lessons.approximation import Approximation
from src.lessons.depth import Depth
from src.lessons.design_loop import DesignLoop
from src.lessons.leaks import Leaks
from src.lessons.normalization import Descent, Normalization, TwoScales
from src.lessons.transfer import Transfer

__all__ = [
    "Approximation",
    "Depth",
    "Descent",
    "DesignLoop",
    "Leaks",
    "Normalization",
    "Transfer",
    "TwoScales",
]
