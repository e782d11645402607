"""Row 13: what watches a run fails."""

from __future__ import annotations

import errno
import os
import signal
import socket
from pathlib import Path
from random import Random
from typing import Any

from scripts.chaos.lab import STEPS, Done, Lab, Outcome, at, last_line, watch_disk
from scripts.chaos.ranks import children
from src.models.model import Model

LONGEST_S = 5.0
KINDS = ("full log disk", "tracker unreachable", "tracker killed", "tracker that doesn't answer")
WITH_WANDB = "--trainer.logger [MetricsCsv,Wandb]"


def unwatched(lab: Lab, rng: Random, number: int) -> Outcome:
    """The run goes on, with each row of its own log, and is hardly late."""
    kind, step = KINDS[number % len(KINDS)], rng.randint(1, STEPS - 9)
    if kind == "full log disk":
        done = lab.fit("plain", lambda: fill(step))
        lost = ["nothing was said"] * ("metrics wait in memory" not in done.said)
    else:
        usual = Lab(lab.root, f"{lab.name}-usual").fit("plain", offline, WITH_WANDB)
        done, lost = without_tracker(lab, kind, step)
        late_s = done.wall_s - usual.wall_s
        lost += [f"{late_s:.1f} s late"] * (late_s > LONGEST_S)
    lost += [f"exit {done.code}, {last_line(done)}"] * (done.code != 0)
    lost += [
        what for what in lab.lost("plain") if not what.endswith(" config")
    ]  # has a logger more
    return Outcome([[f"{kind}: {what}" for what in lost]])


def without_tracker(lab: Lab, kind: str, step: int) -> tuple[Done, list[str]]:
    """A run whose tracker fails, and whether it did not."""
    if kind == "tracker killed":
        happened = lab.root / f"{lab.name}.happened"

        def fault() -> None:
            offline()
            at(Model, "training_step", step, lambda: end(happened))

        done = lab.fit("plain", fault, WITH_WANDB)
        return done, ["there was no tracker to kill"] * (not happened.is_file())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if kind == "tracker unreachable":
            server.close()
        done = lab.fit("plain", lambda: online(port), WITH_WANDB)
    return done, ["nothing was said"] * ("W&B: offline" not in done.said)


def fill(step: int) -> None:
    """For eight steps, an epoch's, the log can't be written."""
    is_full: list[bool] = []

    def see(what: str, path: str, *_: Any) -> None:
        if is_full and what == "write" and "metrics" in Path(path).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    watch_disk(see)
    at(Model, "training_step", step, lambda: is_full.append(True))
    at(Model, "training_step", step + 8, is_full.clear)


def offline() -> None:
    """A tracker of this machine."""
    os.environ["WANDB_MODE"] = "offline"


def online(port: int) -> None:
    """A key, and an address of this machine."""
    url = f"http://127.0.0.1:{port}"
    os.environ.update(WANDB_MODE="online", WANDB_API_KEY="0" * 40, WANDB_BASE_URL=url)


def end(happened: Path) -> None:
    """Kills the processes that the tracker has started."""
    for pid in children(os.getpid()):
        happened.touch()
        os.kill(pid, signal.SIGKILL)
