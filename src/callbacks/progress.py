"""What a person sees while a model trains."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


class Progress(ProgressBar):
    """Prints a line an epoch: what train logs, and the same of val. In a terminal, live bars."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bars: list[tqdm] = []  # that of validation below that of training
        self._done: tuple[str, float] | None = None  # an epoch's name and seconds, to be printed
        self._validated = False

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        self._print_done(trainer)
        self._validated, self._started = False, time.perf_counter()
        last = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        self._epoch = f"epoch {trainer.current_epoch + 1}{last}"
        self._open(self._epoch, [trainer.num_training_batches])

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        self._validated = True
        self._open("val", trainer.num_val_batches)

    def on_test_start(self, trainer: Any, *_: Any) -> None:
        self._open("test", trainer.num_test_batches)

    def on_predict_start(self, trainer: Any, *_: Any) -> None:
        self._open("predict", trainer.num_predict_batches)

    def _open(self, what: str, batches: list[float]) -> None:
        if self._enabled and sys.stderr.isatty():
            total = None if float("inf") in batches else sum(batches)
            self._bars.append(tqdm(desc=what, total=total, leave=False, dynamic_ncols=True))

    def _advance(self, *args: Any, **kwargs: Any) -> None:
        if self._bars:
            self._bars[-1].update()

    def _close(self, *args: Any, **kwargs: Any) -> None:
        if self._bars:
            self._bars.pop().close()

    def on_exception(self, *_: Any) -> None:
        while self._bars:
            self._close()

    on_train_batch_end = on_validation_batch_end = _advance
    on_test_batch_end = on_predict_batch_end = _advance
    on_validation_end = on_test_end = on_predict_end = _close

    def on_train_epoch_end(self, *_: Any) -> None:
        self._close()
        self._done = (self._epoch, time.perf_counter() - self._started)

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        self._print_done(trainer)

    def _print_done(self, trainer: Any) -> None:
        """Comes after the model's own `on_train_epoch_end`, which runs after ours and logs."""
        if self._done is None or not self._enabled:
            return
        (epoch, seconds), self._done = self._done, None
        found = trainer.callback_metrics
        names = [key.removeprefix("train/") for key in found if key.startswith("train/")]
        splits = ("train", "val") if self._validated else ("train",)
        keys = [f"{split}/{name}" for split in splits for name in names]
        words = [epoch, *(f"{key} {found[key]:.4g}" for key in keys if key in found)]
        if "samples_per_s" in found:
            words.append(f"{found['samples_per_s']:,.0f} rows/s")
        print("  ".join([*words, f"{seconds:.1f} s"]), flush=True)
