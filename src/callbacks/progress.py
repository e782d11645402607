"""What a person sees while a model trains."""

import time
from typing import Any

from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


class Progress(ProgressBar):
    """Prints a line an epoch: what train logs, and the same of val. In a terminal, a live bar."""

    def __init__(self) -> None:
        super().__init__()
        self._hidden: bool | None = None  # unless it is a terminal
        self._bar = tqdm(disable=True)
        self._epoch = ""  # whose line is still to be printed

    def disable(self) -> None:
        self._hidden = True

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._open(stage)

    def _open(self, what: str, total: float | None = None) -> None:
        self._bar = tqdm(desc=what, total=total, leave=False, disable=self._hidden)

    def _advance(self, *_: Any, **__: Any) -> None:
        self._bar.update()

    def _close(self, *_: Any, **__: Any) -> None:
        self._bar.close()

    on_train_batch_end = on_validation_batch_end = _advance
    on_test_batch_end = on_predict_batch_end = _advance
    on_train_epoch_end = on_exception = teardown = _close

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        self._close()
        self._print(trainer)
        last = f"/{trainer.max_epochs}" if trainer.max_epochs > 0 else ""
        self._epoch, self._splits = f"epoch {trainer.current_epoch + 1}{last}", ["train"]
        self._started = time.perf_counter()
        self._open(self._epoch, self.total_train_batches + self.total_val_batches)

    def on_validation_start(self, *_: Any) -> None:
        self._splits = ["train", "val"]

    def _print(self, trainer: Any, *_: Any, **__: Any) -> None:
        """Comes after the model's own `on_train_epoch_end`, which runs after ours and logs."""
        if self._epoch and not self._hidden:
            found = trainer.callback_metrics
            names = [key.removeprefix("train/") for key in found if key.startswith("train/")]
            keys = [f"{split}/{name}" for split in self._splits for name in names]
            words = [self._epoch, *(f"{key} {found[key]:.4g}" for key in keys if key in found)]
            if "samples_per_s" in found:
                words.append(f"{found['samples_per_s']:,.0f} rows/s")
            print("  ".join([*words, f"{time.perf_counter() - self._started:.1f} s"]), flush=True)
        self._epoch = ""

    on_train_end = _print
