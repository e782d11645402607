"""What only a class itself refuses, heard before the first trial: it is built, of no data."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.optim import SGD

from src.config import GIVEN, Tree, load
from src.errors import explain

SHAPES = (64,), (1, 4096), (3, 4096, 4096)  # rows, signals, images; of any size, as on `meta`
QUIET = {"Checkpoint", "EarlyStopping", "EMA", "Threads"}  # callbacks that log no metric


def refusals(tree: Tree, shapes: Iterable[tuple[int, ...]] = SHAPES) -> dict[tuple[int, ...], str]:
    """Why the classes of a checked config don't take their options, for each shape of a row."""
    found = {}
    for shape in shapes:
        found[shape] = ""
        try:
            built(tree, shape)
        except Exception as error:  # of what isn't wrong input, who knows
            found[shape] = explain(error)[0] if isinstance(error, ValueError) else ""
    return found


def built(tree: Tree, shape: tuple[int, ...]) -> Any:
    """The model of a config, with net and optimizer; its partition is built, too."""
    params = [nn.Parameter(torch.zeros(1))]
    given: Tree = {"in_shape": shape, "out_dim": 2, "num_categories": (), "params": params}
    given["optimizer"] = SGD(params, momentum=0.9)
    with torch.device("meta"), patch.object(torch.Tensor, "normal_", same):
        _built(tree["data"]["partition"], "data.partition", given)
        return _built(tree["model"], "model", given)


def _built(node: Any, key: str, given: Tree) -> Any:
    if isinstance(node, list):
        return [_built(item, key, given) for item in node]
    if not isinstance(node, dict) or "class_path" not in node:
        return node
    args = {k: _built(value, f"{key}.{k}", given) for k, value in node["init_args"].items()}
    own = {name: given[name] for name in GIVEN.get(key, ())}
    return load(node["class_path"])(**own, **args)


def same(weight: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """In the place of random weights, for which `meta` would import the compiler: 1 s."""
    return weight


def logged(tree: Tree) -> list[str]:
    """The metrics of the validation rows, if it is certain that there are no others."""
    nodes = filter(None, tree["callbacks"].values())
    if {node["class_path"].rpartition(".")[2] for node in nodes} <= QUIET:
        for shape in SHAPES:
            with suppress(Exception):
                model = built(tree, shape)
                names = model.metrics(torch.eye(2), torch.tensor([0, 1]))
                return [f"val/{name}" for name in ("loss", *names)]
    return []
