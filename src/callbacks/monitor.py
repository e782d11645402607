"""What is seen of a run while it trains: rate, gradients and speed, a line an epoch, a live bar."""

import math
import time
from typing import Any

import torch
from lightning.pytorch import Callback
from tqdm import tqdm

EVERY_N_STEPS = 16


class Monitor(Callback):
    """Logs once an epoch `lr`, `grad_norm` (before clipping) and `samples_per_s`; prints a line.

    The gradient norm is the mean of that of every 16th step of the optimizer. The line has what
    train logs, and the same of val. In a terminal there is a live bar, too.

    Args:
        show: Whether it prints lines and shows the bar.
    """

    def __init__(self, show: bool = True) -> None:
        self.show = show
        self._bar = tqdm(disable=True)
        self._norms: list[torch.Tensor] = []
        self._steps, self._lr = 0, 0.0
        self._seconds = 0.0  # that the epoch before took
        self._started, self._val_s = 0.0, 0.0  # the latter of validation in this epoch
        self._found: dict[str, Any] = {}  # in the checkpoint that is gone on with

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.show = self.show and trainer.is_global_zero
        if stage != "fit":  # which opens one an epoch
            self._open(stage)

    def _open(self, what: str, total: float | None = None) -> None:
        self._bar.close()
        hidden = None if self.show else True  # None: unless it is a terminal
        self._bar = tqdm(desc=what, total=total, leave=False, disable=hidden)

    def _advance(self, *_: Any, **__: Any) -> None:
        self._bar.update()

    def _close(self, *_: Any, **__: Any) -> None:
        self._bar.close()

    on_train_batch_end = on_validation_batch_end = _advance
    on_test_batch_end = on_predict_batch_end = _advance
    on_exception = teardown = _close

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        self.on_train_end(trainer)
        self.on_train_start(trainer)

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        """Begins an epoch, be it one that is gone on with, whose start has been."""
        self._norms, self._steps, self._val_s, seconds = [], 0, 0.0, 0.0
        if self._found and trainer.fit_loop.restarted_mid_epoch:
            norms, self._steps, self._val_s, seconds, self._lr = self._found["epoch"]
            self._norms = list(norms.to(trainer.strategy.root_device))
        self._found = {}
        last = f"/{trainer.max_epochs}" if trainer.max_epochs > 0 else ""
        self._epoch = f"epoch {trainer.current_epoch + 1}{last}"
        self._open(self._epoch, trainer.num_training_batches + sum(trainer.num_val_batches))
        self._started = now(trainer) - seconds

    def state_dict(self) -> dict[str, Any]:
        norms = torch.stack(self._norms).cpu() if self._norms else torch.zeros(0)
        seconds = time.perf_counter() - self._started
        return {"epoch": [norms, self._steps, self._val_s, seconds, self._lr]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._found = state_dict

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        self._paused = now(trainer)

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        self._val_s += now(trainer) - self._paused

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._steps % EVERY_N_STEPS == 0:
            whole = getattr(trainer.strategy.model, "clip_grad_norm_", None)  # of FSDP's shards
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:  # else it is skipped
                norm = whole(math.inf) if whole else torch.nn.utils.get_total_norm(grads)
                self._norms.append(getattr(norm, "full_tensor", norm.detach)())
        self._steps += 1
        self._lr = optimizer.param_groups[0]["lr"]  # at the epoch's end it is that of the next

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._seconds = now(trainer) - self._started
        num_seen = pl_module.sums.num_rows * trainer.world_size
        values = {"samples_per_s": num_seen / (self._seconds - self._val_s)}
        if self._norms:
            values |= {"lr": self._lr, "grad_norm": torch.stack(self._norms).nanmean()}
        pl_module.log_dict(values)
        self._bar.close()

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        """Prints the line of an epoch, after the model's `on_train_epoch_end`, which logs it."""
        found = trainer.callback_metrics
        names = [key.removeprefix("train/") for key in found if key.startswith("train/")]
        if not (names and self.show and self._seconds):
            return
        splits = ["train", "val"] if self._val_s else ["train"]
        keys = [f"{split}/{name}" for split in splits for name in names]
        words = [f"{key} {found[key]:.4g}" for key in keys if key in found]
        speed = f"{found['samples_per_s']:,.0f} rows/s"
        print(self._epoch, *words, speed, f"{self._seconds:.1f} s", sep="  ", flush=True)
        self._seconds = 0.0


def now(trainer: Any) -> float:
    """Seconds, once a GPU has done all that it was given."""
    if trainer.strategy.root_device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()
