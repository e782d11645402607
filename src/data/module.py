"""The LightningDataModule: source, partition, statistics, batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from src.data.batches import Batches
from src.data.partition import Partition, Stratified, load_kept, save_kept
from src.data.reading import read_rows
from src.data.rows import Rows, Signature, Source
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
        predict_path: New rows for `predict`: a CSV, Parquet, `.npz` or `.npy` file, an image, or a
            folder of images or `.npy` files. Without it `predict` takes the test rows.
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
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ValueError(f"`data.{name}` is {value}, not 1 or more")
        self.source, self.partition = source, partition or Stratified()
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.normalize, self.device, self.predict_path = normalize, device, predict_path
        self.seed = 0  # of the order of the train rows; the CLI gives it `seed_everything`
        self.trained_on: dict[str, Any] = {}  # `state_dict` of the checkpoint that is gone on with
        self.rows: Rows | None = None
        self.names: Sequence[Any] | np.ndarray = ()  # of the rows, or of the new rows

    @property
    def _reads_new_rows(self) -> bool:
        return self.trainer is not None and self.trainer.predicting and bool(self.predict_path)

    def prepare_data(self) -> None:
        if not self._reads_new_rows:
            self.source.prepare()

    def setup(self, stage: str) -> None:
        if self.trained_on:
            self.signature = Signature.from_json(self.trained_on["signature"])
        if self._reads_new_rows:
            assert self.predict_path
            self.new_rows, self.names = read_rows(Path(self.predict_path), self.signature)
        elif self.rows is None:
            self._load()

    def _load(self) -> None:
        self.source.group_by, self.source.time_by = self.partition.group_by, self.partition.time_by
        rows = self.source.load(self.signature if self.trained_on else None)
        if not rows.signature.class_names:
            rows.y = rows.y.reshape(len(rows), -1)
        for option, found in (("group_by", rows.groups), ("time_by", rows.times)):
            if getattr(self.partition, option) and found is None:
                raise ValueError(
                    f"`data.partition.{option}` names a column, and {type(self.source).__name__} "
                    "has none: leave it out"
                )
        path = self.partition.keep_path(self.source)
        kept = load_kept(path) if path else {}
        self.split = self.partition.split(rows, kept | self.trained_on.get("kept", {}))
        if path and not self.trained_on and self.split.kept != kept:
            rank_zero_only(save_kept)(path, self.split.kept)
        if self.trained_on:
            self._compare(self.split.report)
        self.signature, self.statistics = rows.signature, self._measure(rows)
        self.x = torch.from_numpy(rows.x) if isinstance(rows.x, np.ndarray) else rows.x
        self.y, self.rows = torch.from_numpy(rows.y), rows
        self.names = range(len(rows)) if rows.names is None else rows.names

    def _compare(self, report: dict[str, Any]) -> None:
        """Warns of what makes the test rows other than those that the model never saw."""
        if self.trained_on["fingerprint"] != report["fingerprint"]:
            rank_zero_warn("the data is not that of the checkpoint: its fingerprint differs")
        if report["key"] not in self.trained_on["kept"]:
            rank_zero_warn(
                "the partition is not that of the checkpoint: test rows may be rows that it was "
                "trained on"
            )

    def _measure(self, rows: Rows) -> Statistics:
        signature = rows.signature
        if self.normalize == "none":
            return Statistics.identity(signature.in_shape[0])
        categorical = [i for i, codes in enumerate(signature.num_categories) if codes]
        return fit(rows.x, self.split.train, categorical, signature.feature_names)

    def _fits(self, device: torch.device) -> bool:
        """Whether all rows can live on the device; those of `Arrays` that stay on disk can't."""
        if self.device != "auto" or device.type != "cuda" or type(self.rows.x) is not np.ndarray:  # type: ignore[union-attr]
            return False
        return bool(self.x.is_cuda or self.x.nbytes < torch.cuda.mem_get_info(device)[0] / 3)

    def _batches(self, split: str) -> Batches:
        assert self.trainer is not None
        train, device = split == "train", self.trainer.strategy.root_device
        if self._fits(device):
            self.x, self.y = self.x.to(device), self.y.to(device)
        return Batches(
            self.x,
            self.y,
            getattr(self.split, split),
            self.batch_size if train else self.eval_batch_size,
            self.seed if train else None,
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
        if not self._reads_new_rows:
            if not len(self.split.test):
                raise ValueError("there are no test rows to predict: give --data.predict_path")
            return self._batches("test")
        assert self.trainer is not None
        x, index = self.new_rows, np.arange(len(self.new_rows))
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return Batches(x, None, index, self.eval_batch_size, None, rank, world)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to read new rows, and to split grown data as before."""
        if self.rows is None:
            return self.trained_on
        report = self.split.report
        return {
            "signature": self.signature.to_json(),
            "fingerprint": report["fingerprint"],
            "kept": {report["key"]: report["boundaries"]},
        }
