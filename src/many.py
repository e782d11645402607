"""Several fits at a time, each on one core, in processes of their own that stay warm."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from src.errors import BAD_NUMBERS, INTERRUPTED, explain
from src.startup import import_lightning

# What a launcher tells each of its processes: LOCAL_RANK, GROUP_WORLD_SIZE ...
TOLD = re.compile("(SLURM|TORCHELASTIC)_|(.+_)?(RANK|WORLD_SIZE)$")
LIMIT = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds in how many


def fits(jobs: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Runs `fit` with the words of each job, silently; without W&B unless a word says so.

    A job that names its folder (`--run NAME --resume auto`) is not trained twice.

    Returns:
        The metrics each ended with, by `split/name`: of the test rows, those of its best epoch.

    Raises:
        ValueError: One failed.
        FloatingPointError: The numbers of one went wrong.
    """
    import torch

    from src.run_folder import RUN_DIR

    num = min(torch.cuda.device_count() or num_cores(), len(jobs))
    context = multiprocessing.get_context("spawn")
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        leave_launcher()
        os.environ.pop(RUN_DIR, None)  # of the run that asks
        try:
            with ProcessPoolExecutor(num, context, _begin, (context.Value("i"),)) as pool:
                try:
                    answers = [*pool.map(_fit, jobs)]
                except KeyboardInterrupt:
                    for child in multiprocessing.active_children():
                        child.terminate()
                    raise
        except BrokenProcessPool:
            what = "a run was killed, of too little memory perhaps: the same command goes on"
            raise ValueError(what) from None
    for job, (_, why, code) in zip(jobs, answers, strict=True):
        if why:
            kind = FloatingPointError if code == BAD_NUMBERS else ValueError
            raise kind(f"{why} (in: fit {' '.join(job)})")
    return [metrics for metrics, *_ in answers]


def _begin(count: Any) -> None:
    """One GPU for each process, if there are any."""
    import_lightning()
    import torch

    if num := torch.cuda.device_count():
        with count.get_lock():
            take_gpus([count.value], num)
            count.value += 1
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(INTERRUPTED)  # a run is killed at any instant and gone on with


def _fit(words: Sequence[str]) -> tuple[dict[str, float], str, int]:
    """The metrics, and why there are none."""
    from src.cli import run

    try:
        return run("fit", ["--trainer.logger", "[MetricsCsv]", *words]), "", 0
    except KeyboardInterrupt:  # else it would take the next job
        os._exit(INTERRUPTED)
    except (Exception, SystemExit) as error:
        return {}, *explain(error)


def leave_launcher() -> None:
    """Forgets what a launcher has told this process: what it starts is no rank of that."""
    for name in filter(TOLD.match, [*os.environ]):
        del os.environ[name]


def take_gpus(own: Iterable[int], num: int) -> None:
    """Leaves only some of `num` GPUs to this process, which has used none yet; they go round."""
    there = os.environ.get("CUDA_VISIBLE_DEVICES", "") or ",".join(map(str, range(num)))
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(there.split(",")[i % num] for i in own)


def num_cores() -> int:
    """How many cores of this machine, or of its container, this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # there is no such file, or it says `max`
        quota, period = map(int, LIMIT.read_text("utf-8").split())
        cores = min(cores, max(quota // period, 1))
    return cores
