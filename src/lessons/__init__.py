"""Experiments that show why nets are built as they are: each a callback and a config."""

__all__: list[str] = []
