"""What the config of a checkpoint may have imported: a checkpoint may be a stranger's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Any, Literal, get_args, get_origin

TRUSTED = ("src", "torch", "lightning")  # a project adds its own packages
IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
PLAIN = (int, float, bool, str, dict, list, tuple, Path, timedelta, NoneType, ...)


def foreign(value: Any) -> Iterator[str]:
    """All in a value that reads like an import path, and is of no package that is trusted."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from foreign(item)
    elif isinstance(value, str) and IMPORT_PATH.fullmatch(value) and home(value) not in TRUSTED:
        yield value


def home(path: str) -> str:
    """The package that has made what a path names, as `torch.os._exit` is not torch's."""
    package = path.partition(".")[0]
    if package in TRUSTED:
        with suppress(ImportError, AttributeError):
            module = getattr(resolve_name(path), "__module__", None)
            return module.partition(".")[0] if module else package
    return package


def imports(kind: Any) -> bool:
    """Whether the parser may import by a text that is given for an option of this type."""
    if get_origin(kind) is Literal:
        return False
    return any(map(imports, get_args(kind))) if get_args(kind) else kind not in PLAIN


def is_class(name: str) -> bool:
    """Whether it is written as a class is: `Name`, or `package.Name`."""
    return name.rpartition(".")[2][:1].isupper()
