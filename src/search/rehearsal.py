"""What only a class itself refuses, heard before the first trial: it is built, of no data."""

from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.optim import SGD

from src.config import GIVEN, Tree, load
from src.errors import explain

SHAPES = (64,), (1, 4096), (3, 4096, 4096)  # rows, signals, images; of any size, as on `meta`
QUIET = {"Checkpoint", "EarlyStopping", "EMA", "Threads"}  # callbacks that log no metric


def refusal(tree: Tree) -> tuple[str, dict[str, str]]:
    """Why the classes of a checked config don't take their options, for rows of no shape.

    Returns:
        The reason, empty if there is none; the metrics of validation, if they
        are certain, with whether the least (`min`) or the greatest is the best.
    """
    why = ""
    for shape in SHAPES:
        try:
            model = built(tree, shape)
            nodes = filter(None, tree["callbacks"].values())
            if not {node["class_path"].rpartition(".")[2] for node in nodes} <= QUIET:
                return "", {}
            return "", {f"val/{name}": mode for name, mode in model.modes.items()}
        except ValueError as error:
            why = explain(error)[0]
        except Exception:  # it may be the stand-ins' fault
            return "", {}
    return why, {}


def built(tree: Tree, shape: tuple[int, ...]) -> Any:
    """The model of a config, with net and optimizer; its partition is built, too."""
    params = [nn.Parameter(torch.zeros(1))]
    given: Tree = {"in_shape": shape, "out_dim": 2, "num_categories": (), "params": params}
    given["optimizer"] = SGD(params, momentum=0.9)

    def make(node: Any, key: str) -> Any:
        if isinstance(node, list):
            return [make(item, key) for item in node]
        if not isinstance(node, dict) or "class_path" not in node:
            return node
        args = {name: make(value, f"{key}.{name}") for name, value in node["init_args"].items()}
        own = {name: given[name] for name in GIVEN.get(key, ())}
        return load(node["class_path"])(**own, **args)

    # Random weights on `meta` would import the compiler: 1 s.
    with torch.device("meta"), patch.object(torch.Tensor, "normal_", lambda self, *_, **__: self):
        make(tree["data"]["partition"], "data.partition")
        return make(tree["model"], "model")
