"""Starts in half the time: without what Lightning and torch import for what few runs use.

These are scipy.signal and matplotlib, which torchmetrics wants for audio and for plots of its own,
and the compiler of torch, which Lightning wants so as to know a compiled model when it sees one,
and each optimizer so as to hide from it. All of them can still be imported. With other versions
than those that this was tried with, everything is imported as ever.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from types import ModuleType
from typing import Any
from unittest.mock import patch

TRIED = {"lightning": "2.6.6", "torch": "2.13.0", "torchmetrics": "1.9.0"}
SLOW = ("scipy", "matplotlib")
COMPILER = "torch._dynamo"


def import_lightning() -> None:
    """Imports Lightning quickly, if nothing has imported it yet."""
    tried = all(version(name).partition("+")[0] == number for name, number in TRIED.items())
    if not tried or "lightning" in sys.modules:
        return
    gc.disable()
    import torch
    from lightning_utilities.core import imports

    def is_there(name: str) -> bool:
        return name not in SLOW and is_installed(name)

    def is_met(check: Any) -> bool:
        return re.split(r"\W", str(check.requirement))[0] not in SLOW and was_met(check)

    is_installed, was_met = imports.package_available, imports.RequirementCache.__bool__
    sys.modules[COMPILER] = stand_in()
    try:
        with (
            patch.object(imports, "package_available", is_there),
            patch.object(imports.RequirementCache, "__bool__", is_met),
        ):
            import lightning.pytorch  # noqa: F401
    finally:
        del sys.modules[COMPILER]
    for cls in {*torch.optim.Optimizer.__subclasses__(), torch.optim.Optimizer}:
        free(cls)
    gc.freeze()  # no collection looks at what was imported: 0.5 s of a run of 4.5
    gc.enable()


def stand_in() -> ModuleType:
    """All that Lightning asks of the compiler while it is imported."""

    class Kind(type):
        def __instancecheck__(cls, thing: object) -> bool:
            real = sys.modules.get(COMPILER)
            return real is not None and isinstance(thing, real.OptimizedModule)

    module = ModuleType(COMPILER)
    vars(module)["OptimizedModule"] = Kind("OptimizedModule", (), {})
    vars(module)["disable"] = lambda fn, *_, **__: fn
    return module


def free(cls: type) -> None:
    """Takes from the methods of an optimizer what hides them from the compiler."""
    for name, method in [*vars(cls).items()]:
        inner, code = getattr(method, "__wrapped__", None), getattr(method, "__code__", None)
        kind = code.co_qualname if code else ""
        if kind == "_disable_dynamo.<locals>.inner":
            vars(inner)["__dynamo_disable"] = inner  # where it keeps what the compiler gave it
        elif kind == "_use_grad_for_differentiable.<locals>._use_grad":
            setattr(cls, name, plain(inner))  # type: ignore[arg-type]


def plain(step: Callable) -> Callable:
    """The same step, without the two breaks in a graph that no compiler records."""
    import torch

    @wraps(step)
    def whole(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return whole
