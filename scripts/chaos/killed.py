"""Rows 1, 2, 3 and 7: a process that is killed, or told to end."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from scripts.chaos.lab import (
    STEPS,
    VARIANTS,
    Done,
    Lab,
    Outcome,
    at,
    is_of_a_save,
    kill,
    last_line,
    watch_disk,
)
from src.callbacks import Checkpoint, Monitor
from src.loop import DirectLoop
from src.models.model import Model
from src.tracking import MetricsCsv

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
Place = tuple[Any, str]
IN_A_STEP: list[Place] = [
    (DirectLoop, "advance"),
    (Model, "training_step"),
    (torch.Tensor, "backward"),
    (torch.optim.AdamW, "step"),
    (DirectLoop, "on_advance_end"),
]
AFTER_AN_EPOCH: list[Place] = [
    (Model, "on_validation_epoch_end"),
    (Checkpoint, "on_validation_end"),
    (Model, "on_train_epoch_end"),
    (Monitor, "on_train_epoch_end"),
    (Checkpoint, "on_train_epoch_end"),
    (MetricsCsv, "log_metrics"),
]


def broken(done: Done, fault: str) -> list[str]:
    """A trial whose fault did not happen shows nothing, and counts as lost."""
    if done.code == -signal.SIGKILL:
        return []
    return [f"the run was not killed {fault}: exit {done.code}, {last_line(done)}"]


def in_training(lab: Lab, rng: Random, number: int) -> Outcome:
    """Killed in any part of any step, and now and then again while it goes on."""
    variant, step = rng.choice([*VARIANTS]), rng.randint(1, STEPS)
    thing, name = rng.choice(IN_A_STEP)
    done = lab.fit(variant, lambda: at(thing, name, step, kill, after=bool(step % 2)))
    lost = broken(done, f"in {name} of step {step}")
    if rng.random() < 0.2:
        again = rng.randint(1, STEPS)
        lab.fit(variant, lambda: at(thing, name, again, kill))
    return Outcome([lost or lab.go_on(variant)])


def after_an_epoch(lab: Lab, rng: Random, number: int) -> Outcome:
    """Killed in validation, or in what follows it; the best must say the same of the test rows."""
    variant = rng.choice([*VARIANTS])
    if number % 2:
        (thing, name), nth = (Model, "validation_step"), rng.randint(1, 3 * 4)
    else:
        (thing, name), nth = rng.choice(AFTER_AN_EPOCH), rng.randint(1, 3)
    after = rng.random() < 0.5
    done = lab.fit(variant, lambda: at(thing, name, nth, kill, after))
    lost = broken(done, f"in {name}, call {nth}") or lab.go_on(variant)
    if not lost and (lab.predict().code or lab.predictions != lab.whole(variant).predictions):
        lost = ["predictions"]
    return Outcome([lost])


def in_a_save(lab: Lab, rng: Random, number: int) -> Outcome:
    """Killed before any change that a save makes on the disk, or with half of it written."""
    variant = rng.choice([*VARIANTS])
    nth, share = rng.randint(1, lab.whole(variant).num_changes()), rng.random()
    count = 0

    def see(what: str, path: str, *more: Any) -> None:
        nonlocal count
        if not is_of_a_save(what, path):
            return
        count += 1
        if count == nth:
            if what == "write":
                data, file = more
                file.write(data[: int(share * len(data))])
                file.flush()
            kill()

    def fault() -> None:
        elsewhere()
        watch_disk(see)

    done = lab.fit(variant, fault)
    return Outcome([broken(done, f"at change {nth} of its saves") or lab.go_on(variant)])


def elsewhere() -> None:
    """Has temporary files made on another disk, if there is one that may be used."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK):
        os.environ["TMPDIR"], tempfile.tempdir = str(memory), None


def told_to_end(lab: Lab, rng: Random, number: int) -> Outcome:
    """Told by a signal at any place: it saves what it has reached, and says so by exit code 75."""
    sent = SIGNALS[number % 4]
    variant = rng.choice([*VARIANTS])
    if rng.random() < 0.75:
        (thing, name), nth = rng.choice(IN_A_STEP), rng.randint(1, STEPS - 1)
    else:
        (thing, name), nth = (Model, "validation_step"), rng.randint(1, 2 * 4)
    after = rng.random() < 0.5
    reached = lab.root / f"{lab.name}.reached"

    def fault() -> None:
        count_calls(torch.optim.AdamW, "step", reached)
        at(thing, name, nth, lambda: kill(sent), after)

    done = lab.fit(variant, fault)
    where = f"after {sent.name} in {name}, call {nth}:"
    if done.code != 75:
        return Outcome([[f"{where} exit {done.code}, not 75: {last_line(done)}"]])
    if "go on with" not in done.said:
        return Outcome([[f"{where} not said how to go on: {last_line(done)}"]])
    saved = torch.load(lab.last, weights_only=True)["global_step"]
    if saved != int(reached.read_text()):
        return Outcome([[f"{where} step {reached.read_text()} reached, {saved} saved"]])
    return Outcome([lab.go_on(variant)])


def count_calls(thing: Any, name: str, path: Path) -> None:
    """Keeps in a file how often a method has returned."""
    method: Callable[..., Any] = getattr(thing, name)
    count = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        result = method(*args, **kwargs)
        count += 1
        path.write_text(str(count))
        return result

    path.write_text("0")
    setattr(thing, name, counted)
