"""A folder for each run: its name, what is in it, and how a checkpoint leads back to it."""

from __future__ import annotations

import csv
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only

from src.data.module import DataModule
from src.models.model import Model

RUN_DIR = "FULGURITE_RUN_DIR"  # tells the ranks that a run starts which folder is theirs


def choose(root: Path, run: str | None, config: str, checkpoint: Path | None) -> Path:
    """The run folder: `run`'s, or the checkpoint's, or a new `CONFIG-STAMP`. Makes a new one.

    Args:
        root: Where run folders are.
        run: Name that the person gave.
        config: Name of the config, for a new folder.
        checkpoint: The checkpoint that is gone on with.

    Raises:
        ValueError: There is a run of that name already.
        OSError: The folder can't be made.
    """
    if run is not None and (not run or Path(run).name != run):
        raise ValueError(f"--run {run!r} is not the name of a folder below {root}/")
    if RUN_DIR in os.environ:
        return Path(os.environ[RUN_DIR])
    if checkpoint and run is None and (checkpoint.parent.parent / "config.yaml").is_file():
        return checkpoint.parent.parent
    job = os.environ.get("SLURM_JOB_ID")
    if "TORCHELASTIC_RUN_ID" in os.environ and run is None:
        raise ValueError(
            "torchrun starts each rank by itself: name their run folder with --run NAME"
        )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = root / (run or f"{config}-{f'job{job}' if job else stamp}")
    shared = job or "TORCHELASTIC_RUN_ID" in os.environ
    if run and checkpoint is None and not shared and (folder / "config.yaml").exists():
        raise ValueError(
            f"run folder {folder} exists: choose another --run NAME, or go on with "
            f"--ckpt_path {folder / 'checkpoints' / 'last.ckpt'}"
        )
    number = 1
    while not run and not shared and folder.exists():
        number += 1
        folder = root / f"{config}-{stamp}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"run folder {folder} can't be written to: choose another --run NAME")
    os.environ[RUN_DIR] = str(folder)
    return folder


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of this project; no code in it can run.

    Raises:
        ValueError: It is damaged, or not of this project.
        FileNotFoundError: It isn't there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, KeyError) as e:
        raise ValueError(f"checkpoint {path} is damaged, or no checkpoint") from e
    if not isinstance(checkpoint, dict) or not {"config", "DataModule"} <= checkpoint.keys():
        raise ValueError(f"checkpoint {path} was not written by this project: it has no config")
    return checkpoint


class RunFolder(L.Callback):
    """Writes what a run needs to be understood and repeated; adds the config to each checkpoint.

    Args:
        config: The complete config, without what belongs to this one run.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.written: list[Path] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder, data = Path(trainer.default_root_dir), trainer.datamodule  # type: ignore[attr-defined]
        counts = ", ".join(f"{n:,} {split}" for split, n in data.split.report["counts"].items())
        size = sum(p.numel() for p in pl_module.parameters())
        names = type(data.source).__name__, type(pl_module.net).__name__
        print(f"{names[0]}: {counts} rows; {names[1]}: {size:,} parameters", flush=True)
        for name, text in {
            "config.yaml": yaml.safe_dump(self.config, sort_keys=False),
            "partition.json": json.dumps(data.split.report, indent=1),
            "statistics.json": json.dumps(vars(data.statistics), indent=1),
        }.items():
            self.written.append(_new(folder / name))
            self.written[-1].write_text(text)

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        """A run that took no step leaves nothing."""
        while trainer.global_step == 0 and self.written:
            self.written.pop().unlink()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = json.dumps(self.config)


def _new(path: Path) -> Path:
    """`path`, or `path` with a number if a run that is gone on with has it already."""
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")
    return free


@rank_zero_only
def write_predictions(folder: Path, model: Model, data: DataModule) -> None:
    """Writes a CSV: the row, then the class and its probabilities, or the values."""
    path = folder / f"predictions_{Path(data.predict_path or 'test').stem}.csv"
    scores, _, rows = model.results["predict"]
    signature, names = data.signature, data.names
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        if signature.class_names:
            out.writerow(["row", "predicted", *signature.class_names])
            best = [[signature.class_names[c]] for c in scores.argmax(1).tolist()]
        else:
            out.writerow(["row", *signature.target_names])
            best = [[]] * len(scores)
        for row, label, values in zip(rows.tolist(), best, scores.tolist(), strict=True):
            out.writerow([names[row], *label, *(f"{v:.9g}" for v in values)])
    print(f"predictions: {path}")
