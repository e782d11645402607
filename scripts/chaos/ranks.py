"""Rows 10, 11, 12 and 14: several processes, of which one fails, and rows that they can't share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from scripts.chaos.lab import FIT, STEPS, Done, Lab, Outcome, at, last_line
from src.data.batches import Batches
from src.data.module import DataModule
from src.data.sources import Wine
from src.models import Classifier
from src.models.model import Model

STRATEGIES = ("ddp", "fsdp")  # whose processes have the weights whole, and in shares
TWO = f"{FIT} --trainer.devices 2 --data.batch_size 8 "
TWO += "--model.augment [Noise,Mixup] --callbacks.checkpoint.every_n_steps 2 --resume auto "
TWO += "--config configs/trainer"
TIMEOUT_S = 10.0  # for which ranks wait for each other
MORE_S = 30.0  # within which all have ended then
LONGEST_S = 300.0
FAULTS = ["killed 1", "asleep 1", "raising 0", "killed 0", "asleep 0", "raising 1"]
# `--`, or it takes --run for an option of its own
TORCHRUN = "torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1 -m --"


def start(lab: Lab, words: str, before: str = "", **environment: str) -> tuple[Done, float]:
    """Types a command in a new process; also for how many seconds processes of it were left."""
    line = f"{sys.executable} -m {before} scripts.chaos.rank {words} --trainer.default_root_dir "
    kept = {"FULGURITE_TIMEOUT_S": str(TIMEOUT_S), "WANDB_MODE": "disabled"}
    log, began = lab.root / f"{lab.name}.log", time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            [*line.split(), str(lab.root)], stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, **kept, **environment},
        )  # fmt: skip
        try:
            code = process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            code = 0  # it goes on as if nothing were wrong
        ended = time.monotonic()
        while is_left(process.pid) and time.monotonic() - ended < MORE_S:
            time.sleep(0.1)
        left_s = time.monotonic() - ended
        if is_left(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    return Done(code, log.read_text("utf-8", "replace"), 0, ended - began), left_s


def is_left(group: int) -> bool:
    """Whether a process group has a member."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def rank_fails(lab: Lab, rng: Random, number: int) -> Outcome:
    """One of two ranks fails: the job ends in time, and leaves no process."""
    happened = lab.root / f"{lab.name}.happened"
    fault = f"{FAULTS[number % len(FAULTS)]} {rng.randint(2, STEPS)}"
    words = f"{TWO}/ddp.yaml --run {lab.name}"
    done, left_s = start(lab, words, CHAOS=fault, CHAOS_HAPPENED=str(happened))
    if not happened.is_file():
        return Outcome([[f"{fault}: it did not happen: exit {done.code}, {last_line(done)}"]])
    took_s = time.time() - happened.stat().st_mtime
    lost = [f"{fault}: exit 0, {last_line(done)}"] * (done.code == 0)
    if took_s > TIMEOUT_S + MORE_S:
        lost.append(f"{fault}: after {took_s:.0f} s not all had ended")
    if left_s > MORE_S:
        lost.append(f"{fault}: a process was left")
    return Outcome([lost])


def make_whole(root: Path, strategy: str) -> Done:
    """Two ranks to which nothing happens."""
    lab = Lab(root, f"whole-{strategy}")
    return start(lab, f"{TWO}/{strategy}.yaml --run {lab.name}")[0]


def restarted(lab: Lab, rng: Random, number: int) -> Outcome:
    """A rank is killed, and torchrun starts both again: they go on with the same bits."""
    fault = f"killed {rng.randint(0, 1)} {rng.randint(2, STEPS)}"
    strategy = STRATEGIES[number % 2]
    store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # gloo's would be that of before
    happened = lab.root / f"{lab.name}.happened"
    more = {**store, "CHAOS": fault, "CHAOS_HAPPENED": str(happened)}
    done, left_s = start(lab, f"{TWO}/{strategy}.yaml --run {lab.name}", TORCHRUN, **more)
    if not happened.is_file():
        return Outcome([[f"{fault}: it did not happen: exit {done.code}, {last_line(done)}"]])
    if done.code:
        return Outcome([[f"{fault}: exit {done.code}, {last_line(done)}"]])
    return Outcome([lab.lost(strategy) + [f"{fault}: a process was left"] * (left_s > MORE_S)])


def worker_killed(lab: Lab, rng: Random, number: int) -> Outcome:
    """All processes are killed that a run has started to read its rows, if it has."""
    killed = lab.root / f"{lab.name}.killed"

    def kill_children() -> None:
        pids = children(os.getpid())
        killed.write_text(str(len(pids)))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    step = rng.randint(1, STEPS)
    done = lab.fit("everything", lambda: at(Model, "training_step", step, kill_children))
    if not killed.is_file():
        return Outcome([[f"step {step} was not reached: {last_line(done)}"]])
    note = "" if int(killed.read_text()) else "no worker processes: rows are read in the run's own"
    if done.code and not last_line(done).startswith("error: "):
        return Outcome([[f"exit {done.code}, {last_line(done)}"]], note)
    return Outcome([lab.go_on("everything") if done.code else lab.lost("everything")], note)


def children(parent: int) -> list[int]:
    """The processes that one has started, on Linux."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(words[1]) == parent:
            found.append(int(path.parent.name))
    return found


def in_shares(rng: Random) -> list[list[str]]:
    """What is another with 2 to 4 ranks than with one, for 1 to 64 rows."""
    cases, data = [], DataModule(Wine())
    data.setup("fit")
    model = Classifier(net=None, optimizer=None)
    model.build(data)
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    for num_rows in range(1, 65):
        logits = torch.randn(len(data.y), 3, generator=generator)
        index = torch.randperm(len(data.y), generator=generator)[:num_rows].numpy()
        for num_ranks in range(1, 5):
            size = rng.choice((1, 3, 8))
            cases.append(lost_of(data, model, logits, index, num_ranks, size))
    return cases


def uneven(lab: Lab, rng: Random, number: int) -> Outcome:
    """1 to 64 rows on 1 to 4 ranks, gathered as a run does; then real processes."""
    cases = in_shares(rng)
    best = lab.whole("plain").folder / "checkpoints" / "best.ckpt"
    alone = metrics_of(start(lab, f"test --ckpt_path {best}")[0])
    for num_ranks in (2, 4):  # of which neither divides the 27 test rows
        ddp = f"--trainer.devices {num_ranks} --trainer.strategy ddp"
        done, _ = start(lab, f"test --ckpt_path {best} {ddp}")
        same = bool(alone) and metrics_of(done) == alone
        cases.append([] if same else [f"test on {num_ranks} processes: {last_line(done)}"])
    return Outcome(cases)


def metrics_of(done: Done) -> list[str]:
    """The lines with test metrics that a process has printed."""
    return [line for line in done.said.splitlines() if line.startswith("test/")]


def lost_of(
    data: DataModule, model: Classifier, logits: torch.Tensor, index: Any, num_ranks: int, size: int
) -> list[str]:
    """What is another with `num_ranks` than with one, for the rows of `index`."""
    name = f"{len(index)} rows on {num_ranks} ranks"
    if len(index) < num_ranks:
        data.split = data.split._replace(val=index)
        data.trainer = SimpleNamespace(world_size=num_ranks, predicting=False)  # type: ignore[assignment]
        try:
            data.setup("fit")
        except ValueError:
            return []
        return [f"{name} are not refused"]
    found = [measure(data, model, logits, index, ranks, size) for ranks in (1, num_ranks)]
    lost = [f"{name}: metrics"] * (found[0] != found[1])
    shares = [Batches(data.x, data.y, index, size, 0, r, num_ranks) for r in range(num_ranks)]
    seen = np.concatenate([share.order().numpy() for share in shares])
    if len({len(share) for share in shares}) > 1:
        lost.append(f"{name}: not the same number of steps")
    if len({*seen.tolist()}) < len(seen) or len(seen) <= len(index) - 2 * num_ranks:
        lost.append(f"{name}: rows are trained on twice, or left out")
    return lost


def measure(
    data: DataModule, model: Classifier, logits: torch.Tensor, index: Any, num_ranks: int, size: int
) -> Any:
    """The metrics and rows that a model gathers from ranks that each have seen their share."""
    outputs = []
    for rank in range(num_ranks):
        share = Batches(data.x, data.y, index, size, None, rank, num_ranks)
        outputs.append([(logits[batch.row], batch.y, batch.row) for batch in share])

    def gather(ranks: list[Any], own: Any) -> None:
        ranks[:] = outputs

    model._trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=num_ranks, testing=False, predicting=False, current_epoch=0
    )
    model.outputs = outputs[0]
    with (
        patch("torch.distributed.all_gather_object", gather),
        patch.object(model, "log_dict") as logged,
    ):
        model.on_validation_epoch_end()
    scores, _, rows = model.results["val"]
    return logged.call_args.args, scores.tolist(), rows.tolist()
