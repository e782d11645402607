"""The LightningDataModule: source, partition, statistics, batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from src.data.batches import Batches
from src.data.partition import Partition, Split, Stratified, load_kept, save_kept
from src.data.reading import read_rows
from src.data.rows import SPLITS, Rows, Signature, Source
from src.data.statistics import Statistics, fit


class DataModule(L.LightningDataModule):
    """Raw rows, split once, measured on train, handed out in whole batches.

    Args:
        source: Where raw rows come from; `python -m src list` names the sources.
        partition: How rows are split into train, val and test; stratified 70/15/15 if left out.
        batch_size: Rows a training batch and device, 1 or more.
        eval_batch_size: Rows a batch in validation, test and prediction, 1 or more.
        normalize: `standard` subtracts the mean and divides by the standard deviation of the train
            rows; `none` leaves rows as they are, to show what it is for.
        device: `auto` keeps all rows on the GPU if they take less than a third of its free memory.
        predict_path: New rows for `predict`: a CSV, Parquet, `.npz` or `.npy` file, an image, a
            folder of images, or one with an `x.npy`. Without it `predict` takes the test rows.
    """

    def __init__(
        self,
        source: Source,
        partition: Partition | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 1024,
        normalize: Literal["standard", "none"] = "standard",
        device: Literal["auto", "cpu"] = "auto",
        predict_path: str | None = None,
    ) -> None:
        super().__init__()
        self.source, self.partition = source, partition or Stratified()
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.normalize, self.device, self.predict_path = normalize, device, predict_path
        self.seed = 0  # of the order of the train rows; the CLI gives it `seed_everything`
        self.trained_on: dict[str, Any] = {}  # `state_dict` of the checkpoint that is gone on with
        self.rows: Rows | None = None  # none while new rows are predicted
        self.x: Any = None  # of `rows`, or new ones; on the GPU where they fit
        self.y: Any = None
        self.names: Any = None

    @property
    def _new_rows(self) -> str | None:
        """The file of them, while they are predicted."""
        return self.predict_path if self.trainer and self.trainer.predicting else None

    def prepare_data(self) -> None:
        if not self._new_rows:
            self.source.prepare()

    def setup(self, stage: str) -> None:
        if self.trained_on:
            self.signature = Signature(**self.trained_on["signature"])
            self.statistics = Statistics(**self.trained_on["statistics"])
        if self.predict_path and not self._new_rows:
            rank_zero_warn("`data.predict_path` is ignored: only predict reads it")
        if self._new_rows:
            self.x, self.names = read_rows(Path(self._new_rows), self.signature)
            none = np.arange(0)
            self.split = Split(none, none, np.arange(len(self.x)), {}, {})
            self.rows = self.y = None
        elif self.rows is None:
            self._load()
        for name, index in zip(SPLITS, self.split[:3], strict=True):
            if self.trainer and 0 < len(index) < self.trainer.world_size:
                what = f"{name} has {len(index)} of the {self.trainer.world_size} rows it needs"
                raise ValueError(f"{what}, one a process: add rows, or lower `trainer.devices`")

    def _load(self) -> None:
        source, trained_on = self.source, self.trained_on
        source.group_by, source.time_by = self.partition.group_by, self.partition.time_by
        rows = source.load(self.signature if trained_on else None)
        if not rows.signature.class_names:
            rows.y = rows.y.reshape(len(rows), -1)
        path = source.keep_path()
        kept = load_kept(path) if path else {}
        self.split = self.partition.split(rows, kept | trained_on.get("kept", {}))
        if trained_on:
            self._compare(rows)
        else:
            if path and self.split.kept != kept:
                rank_zero_only(save_kept)(path, self.split.kept)
            self.signature, self.statistics = rows.signature, self._measure(rows)
        self.rows, self.names, self.x, self.y = rows, rows.names, rows.x, torch.from_numpy(rows.y)

    def _compare(self, rows: Rows) -> None:
        """Refuses rows that the model can't take; warns of test rows that it may have seen."""
        if rows.signature != self.signature:
            raise ValueError(
                f"rows of {type(self.source).__name__} {rows.signature.in_shape} differ from those "
                f"of the checkpoint {self.signature.in_shape} in shape, classes or features: give "
                "its `data.source`"
            )
        if self.trained_on["fingerprint"] != self.split.report["fingerprint"]:
            rank_zero_warn("the data is not that of the checkpoint: its fingerprint differs")
        if self.split.report["key"] not in self.trained_on["kept"]:
            what = "the partition is not that of the checkpoint"
            rank_zero_warn(f"{what}: test rows may be rows that it was trained on")

    def _measure(self, rows: Rows) -> Statistics:
        signature = rows.signature
        if self.normalize == "none":
            return Statistics.identity(signature.in_shape[0])
        categorical = np.flatnonzero(signature.num_categories).tolist()
        return fit(rows.x, self.split.train, categorical, signature.feature_names)

    def _batches(self, split: str) -> Batches:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        # rows of `Arrays` that stay on disk are no plain array, and those on the GPU neither
        movable = self.device == "auto" and device.type == "cuda" and type(self.x) is np.ndarray
        if movable and self.x.nbytes < torch.cuda.mem_get_info(device)[0] / 3:
            self.x = torch.from_numpy(self.x).to(device)
            self.y = None if self.y is None else self.y.to(device)
        shuffles = split == "train" and not self.trainer.overfit_batches  # type: ignore[attr-defined]
        # torch takes rows faster than numpy, from what it can share as it is
        whole = type(self.x) is np.ndarray and self.x.flags.carray
        return Batches(
            torch.from_numpy(self.x) if whole else self.x,
            self.y,
            getattr(self.split, split),
            self.batch_size if split == "train" else self.eval_batch_size,
            self.seed if shuffles else None,
            self.trainer.global_rank,
            self.trainer.world_size,
        )

    def train_dataloader(self) -> Batches:
        return self._batches("train")

    def val_dataloader(self) -> Batches | list[Any]:
        return self._batches("val") if len(self.split.val) else []

    def test_dataloader(self) -> Batches | list[Any]:
        return self._batches("test") if len(self.split.test) else []

    def predict_dataloader(self) -> Batches:
        if not len(self.split.test):
            raise ValueError("there are no test rows to predict: give --data.predict_path")
        return self._batches("test")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to read new rows, and to split grown data as before."""
        report = self.split.report
        return {
            "signature": vars(self.signature),
            "statistics": vars(self.statistics),
            "fingerprint": report["fingerprint"],
            "kept": {report["key"]: report["boundaries"]},
        }
