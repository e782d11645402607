"""Experiments that show why nets are built as they are: each a callback and a config."""

from src.lessons.leaks import Leaks
from src.lessons.normalization import Descent, Normalization, TwoScales
from src.lessons.transfer import Transfer

__all__ = ["Descent", "Leaks", "Normalization", "Transfer", "TwoScales"]
