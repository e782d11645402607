"""What a net takes over from another run, and what of it is left as it is."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from src.data.rows import Signature
from src.errors import hint, short
from src.nets.net import Net


def take(net: Net, path: str, checkpoint: dict[str, Any], signature: Signature) -> None:
    """Gives a net those weights of a checkpoint that have a name and a shape of its own.

    The head, by that name, is left as it is if it was of other classes or targets.
    Says what was taken.

    Raises:
        ValueError: There is none.
    """
    state, own = checkpoint["state_dict"], net.state_dict()
    old = checkpoint["DataModule"]["signature"]
    same = all([*old[k]] == [*getattr(signature, k)] for k in ("class_names", "target_names"))
    shapes = {k: v.shape for k, v in state.items() if same or not k.startswith("net.head.")}
    found = {k: state[f"net.{k}"] for k, v in own.items() if shapes.get(f"net.{k}") == v.shape}
    if not found:
        there = hint("", (name for name in state if name.startswith("net.")))
        raise ValueError(f"`model.init_from` {path} has no weight for this `model.net`{there}")
    net.load_state_dict(found, strict=False)
    left = short(", ".join(name for name in own if name not in found) or "none", 100)
    rank_zero_only(print)(f"{path}: {len(found)} of {len(own)} tensors taken; not taken: {left}")
    checkpoint.clear()  # its memory


def freeze(net: Net, patterns: Sequence[str]) -> list[nn.Module]:
    """Keeps from training what is named by a pattern, as `stages.0` or `*.weight`, or below it.

    Returns:
        The layers whose parameters are all kept: batch norm in them is to keep its averages, too.

    Raises:
        ValueError: A pattern names nothing, or nothing is left to train.
    """
    parameters = dict(net.named_parameters())
    for pattern in patterns:
        named = [n for n in parameters if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
        if not named:
            raise ValueError(f"`model.freeze` {pattern!r} names nothing{hint(pattern, parameters)}")
        for name in named:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError("`model.freeze` leaves nothing to train: leave the head out")
    layers = [(layer, [*layer.parameters(recurse=False)]) for layer in net.modules()]
    return [layer for layer, own in layers if own and not any(p.requires_grad for p in own)]
