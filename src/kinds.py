"""The types of options: which values fit one, and what it is called in a message."""

from __future__ import annotations

from inspect import Parameter
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser

WORDS = {
    int: "an integer", float: "a number", bool: "true or false", str: "a text",
    dict: "`key: value` pairs", list: "a list", tuple: "a list", NoneType: "null",
}  # fmt: skip


def fits(value: Any, kind: Any) -> bool:
    """Whether the parser takes `value` for an option of this type."""
    if kind in (Any, Parameter.empty) or isinstance(kind, str):
        return True
    if value is None:
        return NoneType in (kind, *get_args(kind))
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=kind)
        parsed = parser.parse_object({"value": value}).value
    except ArgumentError:
        return False
    except ValueError:  # a type the parser doesn't know
        return True
    parts = parsed if isinstance(parsed, list | tuple) else [parsed]
    return not any(isinstance(part, int) and abs(part) >= 2**63 for part in parts)


def readable(kind: Any) -> str:
    """A type in words: `an integer or null`, `one of a, b`, `a list (a number, ...)`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, UnionType):
        plain = [arg for arg in args if arg in WORDS or get_args(arg)]  # no Tensor: YAML holds none
        return " or ".join(dict.fromkeys(map(readable, plain or args)))
    if origin in (list, tuple, dict):
        args = (*args, ...) if origin is list else args
        inner = ", ".join("..." if arg is ... else readable(arg) for arg in args)
        return f"{WORDS[origin]} ({inner})"
    return WORDS.get(kind, getattr(kind, "__name__", str(kind)))
