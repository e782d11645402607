"""What all lessons are."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback


class Lesson(Callback):
    """What a run teaches: once it has ended, in one process."""

    teach: Callable[[Any, Any], None]  # by trainer and model, what a subclass adds

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self.teach(trainer, pl_module)
