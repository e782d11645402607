"""`python -m scripts.chaos.rank ...` is `python -m src ...`, and something happens to one rank.

What, is in the environment: CHAOS="WHAT RANK STEP", and CHAOS_HAPPENED, a file that it makes then.
With torchrun it happens before the first restart only.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("OMP_NUM_THREADS", "1")

from src.startup import import_lightning

import_lightning()

import torch  # noqa: E402

from scripts.chaos.lab import at, kill  # noqa: E402
from src.__main__ import main  # noqa: E402
from src.callbacks import Report  # noqa: E402
from src.models.model import Model  # noqa: E402


def fail() -> None:
    """As a mistake in a net does."""
    raise RuntimeError("a rank that raises")


WHAT: dict[str, Any] = {"killed": kill, "raising": fail, "asleep": partial(time.sleep, 3600)}


def arm() -> None:
    """Has it happen to this process, if this is the rank."""
    torch.set_num_threads(1)
    Report._write = lambda *_: None  # type: ignore[method-assign]
    what, rank, step = os.environ.get("CHAOS", "none 0 1").split()
    is_first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if what in WHAT and rank == os.environ.get("LOCAL_RANK", "0") and is_first:
        happened = Path(os.environ["CHAOS_HAPPENED"])
        at(Model, "training_step", int(step), WHAT[what])
        at(Model, "training_step", int(step), happened.touch)  # which is called before that


if __name__ == "__main__":
    arm()
    sys.exit(main(sys.argv[1:]))
