"""A folder for each run: its name, what is in it, and how a checkpoint leads back to it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from lightning.pytorch.utilities import rank_zero_only

from src import durable
from src.callbacks.report import tell
from src.config import Config
from src.data.module import DataModule
from src.models.model import Model

RUN_DIR = "FULGURITE_RUN_DIR"  # tells the ranks that a run starts which folder is theirs
STATED = ("config.yaml", "partition.json", "statistics.json", "model.json")


def root_of(tree: dict[str, Any]) -> Path:
    """The folder of all runs, by the config."""
    return Path(tree["trainer"]["default_root_dir"] or "runs")


def find(
    config: Config, run: str | None = None, ckpt_path: str | None = None, resume: str | None = None
) -> Path | None:
    """The checkpoint that a run goes on with, if any.

    Args:
        config: All but what the checkpoint says.
        run: Name of its folder.
        ckpt_path: A file, or `last` or `best` of `run`.
        resume: `auto` goes on with `run` if it has begun.
    """
    if resume not in (None, "auto"):
        raise ValueError(f"--resume {resume!r} is not known: give --resume auto")
    if resume and (not run or ckpt_path):
        raise ValueError("--resume auto goes by the name of the run: give --run NAME alone")
    if not resume and ckpt_path not in ("last", "best"):
        return Path(ckpt_path) if ckpt_path else None
    if not run:
        raise ValueError(f"--ckpt_path {ckpt_path} is of a run: give --run NAME, too")
    path = root_of(config.tree) / run / "checkpoints" / f"{ckpt_path or 'last'}.ckpt"
    began = path.is_file() or durable.previous(path).is_file()
    return path if began or not resume else None


@contextmanager
def opened(
    root: Path, run: str | None, config: str, checkpoint: Path | None, resumes: bool = False
) -> Iterator[Path]:
    """A folder below `root` for a run; taken away again if nothing came of it.

    It is `run`'s, or that of the checkpoint that is gone on with, or a new `CONFIG-STAMP`.

    Raises:
        ValueError: There is a run of that name already.
        OSError: The folder can't be made.
    """
    if RUN_DIR in os.environ:
        yield Path(os.environ[RUN_DIR])
        return
    folder = _choose(root, run, config, checkpoint, resumes)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[RUN_DIR] = str(folder)
    try:
        yield folder
    finally:
        del os.environ[RUN_DIR]
        with suppress(OSError):  # another rank was faster
            if is_new and {path.name for path in folder.iterdir()} <= {*STATED, "wandb_run_id"}:
                shutil.rmtree(folder)


def _choose(
    root: Path, run: str | None, config: str, checkpoint: Path | None, resumes: bool
) -> Path:
    job, is_torchrun = os.environ.get("SLURM_JOB_ID"), "TORCHELASTIC_RUN_ID" in os.environ
    if run is not None:
        folder = root / run
        check_name(run, f"{root}/", "wandb")
        same = checkpoint and checkpoint.resolve().parent.parent == folder.resolve()
        if not (same or resumes or job or is_torchrun) and (folder / "config.yaml").exists():
            raise ValueError(
                f"run folder {folder} exists: choose another --run NAME, or go on with "
                f"--ckpt_path {folder / 'checkpoints' / 'last.ckpt'}"
            )
        return folder
    if checkpoint and (checkpoint.parent.parent / "config.yaml").is_file():
        return checkpoint.parent.parent
    if is_torchrun:
        raise ValueError("torchrun starts each rank by itself: -m -- src fit ... --run NAME")
    if job:
        return root / f"{config}-job{job}"
    folder = root / f"{config}-{time.strftime('%Y%m%d-%H%M%S')}"
    while folder.exists():  # another run of this second
        folder = folder.with_name(f"{folder.name}-2")
    return folder


def check_name(run: str, below: str, *others: str) -> None:
    """Raises a ValueError if `--run` is no name of a folder of its own, or that of others."""
    if Path(run).name != run or run in ("", "..", *others):
        raise ValueError(f"--run {run!r} is not the name of a folder below {below}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of this project; no code in it can run.

    Raises:
        ValueError: It is damaged, or not of this project.
        FileNotFoundError: It isn't there.
    """
    if path.is_dir():
        inside = ", ".join(map(str, sorted([*path.glob("*.ckpt"), *path.glob("*/*.ckpt")])))
        raise FileNotFoundError(f"checkpoint {path} is a folder: give {inside or 'a file'}")
    checkpoint: dict[str, Any] = durable.load(path)
    keys = ("config", "DataModule", "state_dict")
    lacks = [k for k in keys if not isinstance(checkpoint, dict) or not checkpoint.get(k)]
    if lacks or not isinstance(checkpoint["config"], str):
        what = f"it has no {lacks[0]}" if lacks else "its config is no text"
        raise ValueError(f"checkpoint {path} was not written by this project: {what}")
    return checkpoint


class RunFolder(L.Callback):
    """Writes what a run needs to be understood and repeated; adds the config to each checkpoint.

    Args:
        config: The complete config as YAML.
        files: Saves and loads its checkpoints.
    """

    def __init__(self, config: str, files: durable.DurableIO) -> None:
        self.config, self.files = config, files

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = self.files
        self.files.log = Path(trainer.default_root_dir) / "metrics.csv"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder, data = Path(trainer.default_root_dir), trainer.datamodule  # type: ignore[attr-defined]
        counts = ", ".join(f"{n:,} {split}" for split, n in data.split.report["counts"].items())
        size = sum(p.numel() for p in pl_module.parameters())
        still = sum(p.numel() for p in pl_module.parameters() if not p.requires_grad)
        frozen = f", {still:,} of them frozen" if still else ""
        names = [type(each).__name__.removeprefix("FSDP") for each in (data.source, pl_module.net)]
        print(f"{names[0]}: {counts} rows; {names[1]}: {size:,} parameters{frozen}", flush=True)
        model = {"net": names[1], "num_weights": size, "modes": pl_module.modes}
        stated = data.split.report, vars(data.statistics), model
        texts = [self.config, *(json.dumps(each, indent=1) for each in stated)]
        for name, text in zip(STATED, texts, strict=True):
            if not (trainer.ckpt_path and (folder / name).exists()):  # of a run that goes on
                (folder / name).write_text(text, "utf-8")
        known = {**yaml.safe_load(self.config), "partition": data.split.report}
        tell(trainer, "log_config", known)  # the first word to loggers: all input is right

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config


@rank_zero_only
def write_predictions(folder: Path, model: Model, data: DataModule) -> None:
    """Writes a CSV: the row, then the class and its probabilities, or the values."""
    path = folder / f"predictions_{Path(data.predict_path or 'test').stem}.csv"
    scores, _, rows = model.results["predict"]
    classes = data.signature.class_names
    names = ["predicted", *classes] if classes else data.signature.target_names
    if (bad := ~scores.isfinite().all(1)).any():
        name = data.names[rows[bad.int().argmax()].item()]
        raise ValueError(f"row {name} has no finite prediction: is a value in it infinite?")
    tops = scores.argmax(1).tolist()
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["row", *names])
        for row, top, values in zip(rows.tolist(), tops, scores.tolist(), strict=True):
            best = [classes[top]] if classes else []
            out.writerow([data.names[row], *best, *(f"{v:.9g}" for v in values)])
    print(f"predictions: {path}")
