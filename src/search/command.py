"""`search`: starts the workers, and says at the end what came of it."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from src.cli import pairs
from src.errors import INTERRUPTED, report
from src.search.compare import read_search, table
from src.search.results import draw, save, test_best
from src.search.worker import Plan, Worker

OWN = ("config", "run", "storage", "workers", "epochs", "minutes", "one")
RENAMED = {"trials": "run_cap"}  # a flag that is a key of the search file
RANKS = ("SLURM_", "TORCHELASTIC_", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE")
MOST_DEAD = 50  # workers in a row, without a trial done
SHOWN = 20  # trials in the table


def search(argv: list[str]) -> None:
    """Runs a search, or goes on with it.

    Raises:
        ValueError: The search file or a flag is wrong, or most trials failed.
        KeyboardInterrupt: It can be gone on with.
    """
    flags = [(RENAMED.get(name, name), value) for name, value in pairs(argv)]
    own = {name: value for name, value in flags if name in OWN}
    if "config" not in own:
        raise ValueError("search needs a file: give --config configs/search/digits_mlp.yaml, say")
    path, started = Path(own["config"]), time.time()
    root = dict(flags).get("trainer.default_root_dir", "runs")
    folder = Path(root, "search", own.get("run", path.stem))
    plan = Plan(
        path=path,
        flags=[flag for flag in flags if flag[0] not in OWN],
        folder=folder,
        storage=own.get("storage", str(folder / "study.journal")),
        epochs=int(positive(own, "epochs")),
        deadline=started + 60 * (positive(own, "minutes") or math.inf),
        started=started,
        argv=argv,
    )
    num = int(positive(own, "workers"))
    if "one" in own:  # one rank of a trial in processes of its own
        worker = Worker(plan, "LOCAL_RANK" not in os.environ)
        share(worker, num)
        worker.fit(*map(int, own["one"].split(".")))
        return
    for name in [name for name in os.environ if name.startswith(RANKS)]:
        del os.environ[name]  # each node searches by itself
    rank_zero_only.rank = 0
    worker = Worker(plan, is_child=False)
    study = worker.study
    if not (study.cap or plan.epochs or "minutes" in own):
        raise ValueError(f"{path} has no end: give --trials, --epochs or --minutes")
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        begin(worker, share(worker, num))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"python -m src search {' '.join(argv)}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
        save(study, folder)
        if rows := read_search(folder):
            print(table(rows, SHOWN))
    why = worker.stop(study.trials())
    if "trials failed" in why:
        raise ValueError(why)
    test_best(study, folder)
    draw(study, folder / "plots")
    print(f"search folder: {folder}{f' ({why})' * bool(why)}")


def positive(flags: dict[str, str], name: str) -> float:
    """A flag's number, whole but for minutes; 0 without the flag."""
    text = flags.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if name in flags and not (0 < value < math.inf and (name == "minutes" or value % 1 == 0)):
        raise ValueError(f"--{name} is {text}, not a number above 0")
    return value


def share(worker: Worker, num: int) -> int:
    """Shares cores and GPUs among `num` workers, or as many as have a core or a GPU of their own."""
    plan, devices = worker.plan, worker.space.tree["trainer"].get("devices")
    plan.devices = devices if isinstance(devices, int) else 1
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    num = num or max((torch.cuda.device_count() or num_cores or 1) // plan.devices, 1)
    plan.threads = max((num_cores or 1) // (num * plan.devices), 1)
    return num


def interrupt(*_: Any) -> None:
    """What SIGTERM does."""
    raise KeyboardInterrupt


def begin(worker: Worker, num: int) -> None:
    """Runs the workers, and replaces those that are killed, until there is nothing left to do."""
    study, plan = worker.study, worker.plan
    done = study.num_done()
    if study.cap and done >= study.cap:
        print(f"all {done} trials are done")
        return
    of = f" of {study.cap}" if study.cap else ""
    num = min(num, study.cap - done) if study.cap else num
    how = f"{num} workers, {plan.threads} threads each" if num > 1 else f"{plan.threads} threads"
    print(f"{plan.folder}: {done}{of} trials done; {how}", flush=True)
    if num == 1:
        worker.work()
        return
    forks = sys.platform == "linux" and not torch.cuda.device_count()
    context: Any = multiprocessing.get_context("fork" if forks else "spawn")

    def start(index: int) -> Any:
        process = context.Process(target=child, args=(plan, index))
        process.start()
        return process

    running, dead = {i: start(i) for i in range(num)}, 0
    try:
        while running:
            wait([process.sentinel for process in running.values()])
            for i, process in [*running.items()]:
                if process.is_alive():
                    continue
                del running[i]
                if (code := process.exitcode) > 0:
                    sys.exit(code)
                elif code < 0:
                    dead, done = 0 if study.num_done() > done else dead + 1, study.num_done()
                    if dead > MOST_DEAD:
                        raise MemoryError(f"{dead} workers were killed, the last by signal {-code}")
                    running[i] = start(i)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def child(plan: Plan, index: int) -> None:
    """One worker, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command tells it to end
    signal.signal(signal.SIGTERM, interrupt)
    if num := torch.cuda.device_count():
        there = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(num)))).split(",")
        own = range(index * plan.devices, (index + 1) * plan.devices)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(there[i % num] for i in own)
    try:
        Worker(plan, is_child=True).work()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        sys.exit(report(error, debug=False))
