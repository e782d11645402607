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

NUMBERS = ("workers", "trials", "epochs", "minutes", "seeds")
OWN = ("config", "run", "storage", "one", *NUMBERS)
RANKS = ("SLURM_", "TORCHELASTIC_", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE")
MOST_DEAD = 50  # workers in a row, without a trial done
SHOWN = 20  # trials in the table


def search(argv: list[str]) -> None:
    """Runs a search, or goes on with it.

    Raises:
        ValueError: The search file or a flag is wrong, or most trials failed.
        KeyboardInterrupt: It can be gone on with.
    """
    flags = [*pairs(argv)]
    own = {name: value for name, value in flags if name in OWN}
    if "config" not in own:
        raise ValueError("search needs a file: give --config configs/search/digits_mlp.yaml, say")
    for name in NUMBERS:
        if name in own and not (own[name].replace(".", "", 1).isdigit() and float(own[name]) > 0):
            raise ValueError(f"--{name} is {own[name]}, not a number above 0")
    path, num_cores = Path(own["config"]), len(os.sched_getaffinity(0))
    num = int(own.get("workers", torch.cuda.device_count() or num_cores))
    others = [("run_cap" if k == "trials" else k, v) for k, v in flags if k not in OWN[:-5]]
    folder = Path(dict(flags).get("trainer.default_root_dir", "runs"), "search", own.get("run", path.stem))
    plan = Plan(
        path=path,
        flags=[flag for flag in others if flag[0] not in ("workers", "epochs", "minutes")],
        folder=folder,
        storage=own.get("storage", str(folder / "study.journal")),
        threads=max(num_cores // num, 1),
        epochs=int(own.get("epochs", 0)),
        deadline=time.time() + 60 * float(own.get("minutes", math.inf)),
        started=time.time(),
        argv=argv,
    )
    if "one" in own:  # one rank of a trial in processes of its own
        Worker(plan, "LOCAL_RANK" not in os.environ).fit(*map(int, own["one"].split(".")))
        return
    for name in [name for name in os.environ if name.startswith(RANKS)]:
        del os.environ[name]  # each node searches by itself
    rank_zero_only.rank = 0
    worker = Worker(plan, is_child=False)
    study = worker.study
    if not (study.cap or plan.epochs or "minutes" in own):
        raise ValueError(f"{path} has no end: give --trials, --epochs or --minutes, or run_cap in it")
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        begin(worker, num)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"python -m src search {' '.join(argv)}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
        save(study, folder)
        print(table(read_search(folder), SHOWN))
    why = worker.stop(study.trials())
    if "trials failed" in why:
        raise ValueError(why)
    test_best(study, folder)
    draw(study, folder / "plots")
    print(f"search folder: {folder}{f' ({why})' * bool(why)}")


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
    print(f"{done}{of} trials done; {num} workers with {plan.threads} threads; {plan.folder}", flush=True)
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
        os.environ["CUDA_VISIBLE_DEVICES"] = there[index % num]
    try:
        Worker(plan, is_child=True).work()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        sys.exit(report(error, debug=False))
