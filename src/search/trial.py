"""The run of one trial: reported as it goes, without a test."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L

from src.callbacks import Report
from src.cli import CLI
from src.errors import hint
from src.tracking import Wandb

DATA = ("rows", "x", "y", "names", "split", "signature", "statistics")
BATCHING = ("batch_size", "eval_batch_size", "device", "predict_path")  # leaves the rows alone


class Watch(L.Callback):
    """Reports each validation, and stops the run, on all ranks, if that is the answer.

    Args:
        metric: Name of the metric, `val/name`.
        report: Gets epoch, value and whether it is the last; answers why the run stops, or nothing.
    """

    def __init__(self, metric: str, report: Callable[[int, float, bool], str]) -> None:
        self.metric, self.report, self.answer = metric, report, ""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found, epoch = trainer.callback_metrics, trainer.current_epoch + 1
        if self.metric not in found:
            listed = hint(self.metric, [name for name in found if name.startswith("val/")])
            raise ValueError(f"`metric.name`: no {self.metric} is logged{listed}")
        value, answer = found[self.metric].item(), ""
        if not math.isfinite(value):
            raise FloatingPointError(f"{self.metric} is {value} after epoch {epoch}")
        if trainer.is_global_zero:
            answer = self.report(epoch, value, epoch == trainer.max_epochs)
        self.answer = trainer.strategy.broadcast(answer)
        trainer.should_stop = trainer.should_stop or bool(self.answer)


class TrialCLI(CLI):
    """Trains without a test and without pictures; keeps the rows for the next trial."""

    watch: Watch
    kept: tuple[str, Any] = ("", None)  # the data section, and its LightningDataModule

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        section = self.config["data"].as_dict()
        key = repr({name: value for name, value in section.items() if name not in BATCHING})
        if key == TrialCLI.kept[0] and TrialCLI.kept[1].rows is not None:
            vars(self.datamodule).update({k: getattr(TrialCLI.kept[1], k) for k in DATA})
        TrialCLI.kept = key, self.datamodule

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        callbacks = vars(trainer)["callbacks"]
        callbacks[:] = [self.watch, *(c for c in callbacks if not isinstance(c, Report))]
        return trainer

    def _fit(self, what: dict[str, Any], ckpt_path: Path | None) -> None:
        self.trainer.fit(**what, ckpt_path=ckpt_path)
        for logger in self.trainer.loggers:
            if isinstance(logger, Wandb):
                logger.finish()
