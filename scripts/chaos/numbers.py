"""Rows 8 and 9: numbers that are none, and memory that runs out."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import torch

from scripts.chaos.lab import STEPS, Done, Lab, Outcome, is_finite, last_line, read
from src.models.model import Model
from src.nets import MLP

WHAT = [("loss", math.nan), ("gradient", math.inf), ("rows", math.inf)]
NO_NORM = (
    "--model.net.norm none --model.net.dropout 0 --callbacks.checkpoint.every_n_steps 1 "
    "--model.augment [Noise]"
)
MOST_ROWS = 5  # that there is memory for


def not_finite(lab: Lab, rng: Random, number: int) -> Outcome:
    """One step goes wrong, or all after it: it is skipped, or exit 76; nothing of it is saved."""
    kind, value = WHAT[number % 3]
    for_ever, step = number // 3 % 2 == 1, rng.randint(2, STEPS - 5)
    variant = rng.choice(["everything", "each-step"])

    def is_bad(count: int) -> bool:
        return count >= step if for_ever else count == step

    done = lab.fit(variant, lambda: spoil(kind, value, is_bad, step))
    name = f"{kind} {value} {'for ever' if for_ever else 'once'}:"
    lost = said_of(done, for_ever, step)
    files = [lab.folder / "checkpoints" / f"{f}.ckpt" for f in ("last", "best", "last.ckpt.prev")]
    lost += [f"{f.name} has such weights" for f in files if f.is_file() and not is_finite(read(f))]
    if for_ever and not lost:
        again = lab.fit(variant)
        lost += [f"afterwards exit {again.code}, {last_line(again)}"] * (again.code != 0)
    return Outcome([[f"{name} {what}" for what in lost]])


def said_of(done: Done, for_ever: bool, step: int) -> list[str]:
    """Whether a run ended as it should, and said why."""
    if done.code != (76 if for_ever else 0):
        return [f"exit {done.code}, {last_line(done)}"]
    if for_ever and f"{step}" not in last_line(done):
        return [f"the step is not named: {last_line(done)}"]
    lost = [] if for_ever or f"step {step} is skipped" in done.said else ["nothing was said"]
    return lost if "weights stayed" in done.said else [*lost, "the weights of that step changed"]


def spoil(kind: str, value: float, is_bad: Callable[[int], bool], step: int) -> None:
    """Puts a value into what a step computes; says whether step `step` left the weights as is."""
    count, before = 0, b""
    models: list[Model] = []
    training_step, backward = Model.training_step, torch.Tensor.backward

    def stepped(self: Model, batch: Any, index: int) -> Any:
        nonlocal count, before
        count += 1
        models[:] = [self]
        weights = torch.cat([p.detach().flatten() for p in self.parameters()]).numpy().tobytes()
        if count == step:
            before = weights
        if count == step + 1 and weights == before:
            print("weights stayed")
        if kind == "rows" and is_bad(count):
            batch = batch._replace(x=torch.full_like(batch.x, value))
        loss: Any = training_step(self, batch, index)
        return loss * value if kind == "loss" and is_bad(count) else loss

    def backwarded(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        backward(self, *args, **kwargs)
        if kind == "gradient" and is_bad(count):
            grads = [p.grad for p in models[0].parameters() if p.grad is not None]
            grads[-1].view(-1)[0] = value

    Model.training_step = stepped  # type: ignore[assignment,method-assign]
    torch.Tensor.backward = backwarded  # type: ignore[method-assign]


def out_of_memory(lab: Lab, rng: Random, number: int) -> Outcome:
    """More rows than some have no memory: the same training in smaller parts, to rounding."""
    whole = Lab(lab.root, f"{lab.name}-whole")
    whole.fit("plain", None, NO_NORM)
    step = rng.randint(1, STEPS)
    done = lab.fit("plain", lambda: starve(step), NO_NORM)
    if done.code:
        return Outcome([[f"exit {done.code}, {last_line(done)}"]])
    states = [read(run.last)["state_dict"] for run in (whole, lab)]
    pairs = [(value, states[1][name]) for name, value in states[0].items()]
    same = all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in pairs)
    said = "out of memory" in done.said
    return Outcome([["nothing was said"] * (not said) + ["weights"] * (not same)])


def starve(step: int) -> None:
    """From a step on there is memory for a few rows only, as a GPU says it."""
    forward, count = MLP.forward, 0

    def hungry(self: MLP, x: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += self.training and len(x) > MOST_ROWS
        if self.training and len(x) > MOST_ROWS and count >= step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return forward(self, x)

    MLP.forward = hungry  # type: ignore[method-assign]
