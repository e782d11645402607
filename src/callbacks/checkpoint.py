"""What is kept of a run, the best model and the newest, and when it stops."""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping


class Checkpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, chosen by a metric, and `last.ckpt`, the newest.

    Without validation rows the newest is the best.

    Args:
        monitor: Metric that chooses, `split/name`.
        mode: Whether the least or the greatest value is the best.
        every_n_epochs: Epochs between two checkpoints; 0 keeps only the newest, at the end.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        every_n_epochs: int = 1,
    ) -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )

    on_train_batch_end = Callback.on_train_batch_end  # no checkpoint amid an epoch

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        if stage == "fit" and not (trainer.limit_val_batches and len(trainer.datamodule.split.val)):
            self.monitor = None
        super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Saves the newest, too: Lightning renews `last.ckpt` only where there is a better best."""
        super().on_train_epoch_end(trainer, pl_module)
        is_due = self._every_n_epochs and (trainer.current_epoch + 1) % self._every_n_epochs == 0
        if is_due and not self._should_skip_saving_checkpoint(trainer):  # if not saved just now
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


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
