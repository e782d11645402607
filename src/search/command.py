"""`search`: starts the workers, and says at the end what came of it."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import sys
import time
from multiprocessing.connection import wait
from typing import Any
from unittest.mock import patch

from lightning.pytorch.utilities import rank_zero_only

from src.errors import INTERRUPTED, report
from src.many import leave_launcher, take_gpus
from src.search.compare import read_search, table
from src.search.results import draw, save, test_best
from src.search.study import hidden
from src.search.worker import Worker

SHOWN = 20  # trials in the table


@patch.dict(os.environ)  # which is as it was, afterwards
def search(argv: list[str]) -> None:
    """Runs a search, or goes on with it.

    Raises:
        ValueError: The search file or a flag is wrong, or most trials failed.
        KeyboardInterrupt: It can be gone on with.
    """
    is_rank = "LOCAL_RANK" in os.environ and "--one" in argv
    if not is_rank:  # each node searches by itself
        leave_launcher()
        vars(rank_zero_only)["rank"] = 0
    worker = Worker(argv, time.time(), is_child="--one" in argv and not is_rank)
    os.environ.setdefault("WANDB_RUN_GROUP", worker.folder.name)
    if worker.one:  # a trial in processes of its own
        worker.fit(*map(int, worker.one.split(".")))
        return
    study, sweep, folder = worker.study, worker.space.sweep, worker.folder
    if not (study.cap or sweep.epochs or sweep.minutes):
        raise ValueError(f"{worker.space.path} has no end: give --trials, --epochs or --minutes")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        begin(worker)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(hidden(f"python -m src search {shlex.join(argv)}")) from None
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


def begin(worker: Worker) -> None:
    """Runs the workers, and replaces those that are killed, until there is nothing left to do."""
    cap, trials = worker.study.cap, worker.study.trials()
    done = sum(trial.state.is_finished() for trial in trials)
    if cap and done >= cap:
        print(f"all {done} trials are done")
        return
    num = min(worker.num_workers, cap - done) if cap else worker.num_workers
    how = f"workers: {num}, threads of each: {worker.threads}, engine: {worker.engine}"
    print(f"{worker.folder}: {done}{f' of {cap}' * bool(cap)} trials done; {how}", flush=True)
    if num == 1:
        worker.work()
        return
    forks = sys.platform == "linux" and not worker.num_gpus
    context: Any = multiprocessing.get_context("fork" if forks else "spawn")

    def start(index: int) -> Any:
        process = context.Process(target=child, args=(worker.argv, worker.started, index))
        process.start()
        return process

    running = {i: start(i) for i in range(num)}
    try:
        while running:
            wait([process.sentinel for process in running.values()])
            for i, process in [*running.items()]:
                if process.exitcode is None:
                    continue
                del running[i]
                if process.exitcode < 0 or process.exitcode == INTERRUPTED:  # by a signal
                    running[i] = start(i)
                elif process.exitcode:
                    sys.exit(process.exitcode)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def child(argv: list[str], started: float, index: int) -> None:
    """One worker, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command tells it to end
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        worker = Worker(argv, started, is_child=True)
        if num := worker.num_gpus:
            take_gpus(range(index * worker.devices, (index + 1) * worker.devices), num)
        worker.work()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        sys.exit(report(error, debug=False))
