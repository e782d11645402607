"""What a net takes over from another run, and what of it is left as it is."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from src.errors import hint, short
from src.nets.net import Net


def take(net: Net, checkpoint: dict[str, Any], class_names: Sequence[str]) -> str:
    """Gives a net those weights of a checkpoint that have a name and a shape of its own.

    The head, by that name, is left as it is if it was of other classes.

    Returns:
        What was taken and what was not.

    Raises:
        ValueError: There is none.
    """
    same = [*checkpoint["DataModule"]["signature"]["class_names"]] == [*class_names]
    own = {f"net.{name}": value for name, value in net.state_dict().items()}
    found = {
        name: value
        for name, value in checkpoint["state_dict"].items()
        if name in own
        and value.shape == own[name].shape
        and (same or not name.startswith("net.head."))
    }
    if not found:
        there = (name for name in checkpoint["state_dict"] if name.startswith("net."))
        what = "`model.init_from` has no weight that has a name and a shape of this net"
        raise ValueError(f"{what}: take the `model.net` of its config{hint('', there)}")
    net.load_state_dict({name[4:]: value for name, value in found.items()}, strict=False)
    left = short(", ".join(name[4:] for name in own if name not in found) or "none", 100)
    return f"{len(found)} of {len(own)} tensors taken; not taken: {left}"


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
