"""Several fits at a time, each on one core, in processes of their own that stay warm."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

from src.errors import explain
from src.run_folder import RUN_DIR
from src.startup import import_lightning

LIMIT = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds in how many


def fits(jobs: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Runs `fit` with the words of each job, silently; without W&B unless a word says so.

    A job that names its folder (`--run NAME --resume auto`) is not trained twice.

    Returns:
        The metrics each ended with, by `split/name`: of the test rows, those of its best epoch.

    Raises:
        ValueError: One failed.
    """
    num, own = min(num_cores(), len(jobs)), {"OMP_NUM_THREADS": "1"}
    context = multiprocessing.get_context("spawn")
    with patch.dict(os.environ, own), ProcessPoolExecutor(num, context, _begin) as pool:
        os.environ.pop(RUN_DIR, None)  # of the run that asks
        answers = [*pool.map(_fit, jobs)]
    for job, answer in zip(jobs, answers, strict=True):
        if isinstance(answer, str):
            raise ValueError(f"{answer} (in: fit {' '.join(job)})")
    return [answer for answer in answers if isinstance(answer, dict)]


def _begin() -> None:
    import_lightning()
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _fit(words: Sequence[str]) -> dict[str, float] | str:
    from src.cli import run

    try:
        return run("fit", ["--trainer.logger", "[MetricsCsv]", *words])
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return explain(error)[0]


def num_cores() -> int:
    """How many cores of this machine, or of its container, this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # there is no such file, or it says `max`
        quota, period = map(int, LIMIT.read_text("utf-8").split())
        cores = min(cores, max(quota // period, 1))
    return cores
