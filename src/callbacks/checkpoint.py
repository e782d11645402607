"""What is kept of a run: the best model and the newest."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import ModelCheckpoint


class Checkpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, chosen by a metric, and `last.ckpt`, the newest.

    Without validation rows the newest is the best.

    Args:
        monitor: Metric that chooses, `split/name`.
        mode: Whether the least or the greatest value is the best.
        every_n_epochs: Epochs between two checkpoints, 1 or more.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        every_n_epochs: int = 1,
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(
                f"`callbacks.checkpoint.every_n_epochs` is {every_n_epochs}, not 1 or more"
            )
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        data = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and (not len(data.split.val) or trainer.limit_val_batches == 0):
            self.monitor = None
        super().setup(trainer, pl_module, stage)


class EarlyStopping(LightningEarlyStopping):
    """Stops when a metric no longer gets better.

    Args:
        monitor: Metric that is watched, `split/name`.
        mode: Whether less or more is better.
        patience: Validations without a better value before it stops, 1 or more.
        min_delta: How much better counts as better.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        patience: int = 10,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(monitor, min_delta, patience, mode=mode)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The patience of the config holds, not that of the checkpoint."""
        super().load_state_dict({**state_dict, "patience": self.patience})
