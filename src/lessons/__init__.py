"""Experiments that show why nets are built as they are: each a callback and a config."""

from src.lessons.transfer import Transfer

__all__ = ["Transfer"]
