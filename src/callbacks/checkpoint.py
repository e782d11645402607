"""What is kept of a run, the best model and the newest, and when it stops."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from torch import Tensor

from src.durable import DurableIO, previous, sweep
from src.errors import hint


class Checkpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, chosen by a metric, and `last.ckpt`, the newest.

    Without validation rows the newest is the best. Both are written between two steps, when all
    that the last one led to is validated, ranked and logged: so a run that goes on from either
    repeats nothing and skips nothing.

    Args:
        monitor: Metric that chooses, `split/name`.
        mode: Whether the least or the greatest value is the best; only for a metric that the
            model doesn't know.
        every_n_epochs: Epochs between two checkpoints; 0 keeps only the newest, at the end.
        every_n_steps: Steps of the optimizer between two renewals of `last.ckpt`; 0 for none amid
            an epoch.
    """

    state_key = "Checkpoint"

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] | None = None,
        every_n_epochs: int = 1,
        every_n_steps: int = 0,
    ) -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode or "min",
            save_last=True,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        self.asked, self.every_n_steps = mode, every_n_steps
        self._is_due = False  # both files, as far as they are another

    on_train_batch_end = Callback.on_train_batch_end

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        self.dirpath, self.last_model_path = str(folder), str(folder / "last.ckpt")
        if stage == "fit":
            if not (trainer.limit_val_batches and len(trainer.datamodule.split.val)):
                self.monitor = None
            if self.monitor:
                self.mode = best_is(pl_module, self)
            if trainer.is_global_zero:
                sweep(folder)
        super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        """What it led to is saved as soon as the step is over."""
        every = self._every_n_epochs
        if trainer.state.fn == "fit" and not trainer.sanity_checking and every:
            self._is_due |= (trainer.current_epoch + 1) % every == 0

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self.on_validation_end(trainer)

    def between_steps(self, trainer: Any, *_: Any) -> None:
        """Saves what is due."""
        every, saved = self.every_n_steps, self._last_global_step_saved
        if self._is_due or (every and saved < (step := trainer.global_step) and step % every == 0):
            self.save(trainer)

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        """Saves for the last time: when it returns, the files are on the disk."""
        self.save(trainer)
        if isinstance(files := trainer.strategy.checkpoint_io, DurableIO):
            files.wait()
        trainer.strategy.barrier()

    def save(self, trainer: Any) -> None:
        """Saves the newest, and the best if that is it."""
        if trainer.fast_dev_run:
            return
        check(trainer)
        is_due, self._is_due = self._is_due, False
        found, name = trainer.callback_metrics, self.monitor
        score = found.get(name) if name else None
        if is_due and name and score is None and trainer.fit_loop.epoch_loop.val_loop._has_run:
            what = f"`monitor` of the callback Checkpoint is {name}, which nothing logs"
            raise ValueError(f"{what}{hint(name, found)}")
        is_best = is_due and self._is_better(score)
        best, last = str(Path(self.last_model_path).with_name("best.ckpt")), self.last_model_path
        if is_best:
            self.best_model_path = best
            self.best_model_score = score if score is None else score.cpu()
        self._save_checkpoint(trainer, best if is_best else last)
        files = trainer.strategy.checkpoint_io
        if is_best and trainer.is_global_zero and isinstance(files, DurableIO):
            files.copy(Path(best), Path(last))

    def _is_better(self, score: Tensor | None) -> bool:
        if score is None:  # of what is monitored, there is none yet
            return not self.monitor
        old = self.best_model_score
        return old is None or bool(score < old if self.mode == "min" else score > old)

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "mode": self.mode, "best": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A best of another metric is none, and neither is one whose file is not there."""
        best = Path(self.last_model_path).with_name("best.ckpt")
        same = (state_dict["monitor"], state_dict["mode"]) == (self.monitor, self.mode)
        if same and (best.is_file() or previous(best).is_file()):
            self.best_model_score, self.best_model_path = state_dict["best"], str(best)


def best_is(model: Any, callback: Any) -> str:
    """Whether the least, `min`, or the greatest value of what a callback monitors is the best.

    Raises:
        ValueError: It is no metric of the model, or its mode is another than is asked for.
    """
    metric, asked = callback.monitor, callback.asked
    of = f"of the callback {type(callback).__name__} is"
    names = {f"val/{name}": mode for name, mode in model.modes.items()}
    known = (names | {"train/loss": "min"}).get(metric, asked)
    if known is None:
        what = f"`monitor` {of} {metric}, which the model does not log{hint(metric, names)}"
        raise ValueError(f"{what}; for a metric of your own give its `mode`, too")
    if asked not in (None, known):
        better = {"min": "less", "max": "more"}[known]
        raise ValueError(f"`mode` {of} {asked}, but {better} {metric} is better: leave it out")
    return str(known)


def check(trainer: Any) -> None:
    """Raises a FloatingPointError if a weight is not finite: such are not saved."""
    weights = [*trainer.lightning_module.named_parameters()]
    fine = torch.stack([own_share(p).isfinite().all() for _, p in weights]).tolist()
    if bad := [name for (name, _), is_fine in zip(weights, fine, strict=True) if not is_fine]:
        raise FloatingPointError(
            f"after step {trainer.global_step} weights are not finite: {', '.join(bad[:4])}; they "
            "are not saved, and the checkpoint before stays: lower `model.optimizer.lr`"
        )


def own_share(value: Tensor) -> Tensor:
    """What this process has of a tensor that several may share."""
    share: Tensor = getattr(value, "to_local", value.detach)()
    return share


class EarlyStopping(LightningEarlyStopping):
    """Stops when a metric no longer gets better.

    Args:
        monitor: Metric that is watched, `split/name`.
        mode: Whether the least or the greatest value is the best; only for a metric that the
            model doesn't know.
        patience: Validations without a better value before it stops, 1 or more.
        min_delta: How much better counts as better.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] | None = None,
        patience: int = 10,
        min_delta: float = 0.0,
    ) -> None:
        if patience < 1:
            raise ValueError("`patience` of the callback EarlyStopping is 0, not 1 or more")
        super().__init__(monitor, min_delta, patience, mode=mode or "min")
        self.asked, self.least_delta = mode, min_delta

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            mode = best_is(pl_module, self)
            super().__init__(self.monitor, self.least_delta, self.patience, mode=mode)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The patience of the config holds, not that of the checkpoint."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_fit_start(self, trainer: Any, *_: Any) -> None:
        """A run that has stopped stays so when it is gone on with."""
        trainer.should_stop |= self.wait_count >= self.patience

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        self.on_fit_start(trainer)  # where processes share the weights, it is known only now
