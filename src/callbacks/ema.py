"""An average of the weights beside those that are trained."""

from itertools import chain
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging


class EMA(WeightAveraging):
    """Keeps an exponential moving average of the weights, which is validated, kept and tested.

    Args:
        decay: Share of the average that each step leaves, in [0, 1); less in the first steps, of
            which step n leaves n / (9 + n).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` of the callback EMA is {decay:g}, not in [0, 1)")
        super().__init__()
        self.decay = decay

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if trainer.strategy.restore_checkpoint_after_setup:
            raise ValueError("the callback EMA needs whole weights: train with ddp, or without it")
        self._device = trainer.strategy.root_device  # the model itself gets there later
        super().setup(trainer, pl_module, stage)

    on_train_end = Callback.on_train_end  # the last checkpoint has both, to go on from

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        average: Any = self._average_model
        self._num_averaged = int(average.n_averaged)
        both = (chain(m.parameters(), m.buffers()) for m in (average.module, pl_module))
        pairs = [(mean.detach(), value.detach()) for mean, value in zip(*both, strict=True)]
        self._averaged: Any = [*zip(*(p for p in pairs if p[0].is_floating_point()), strict=True)]
        self._copied: Any = [*zip(*(p for p in pairs if not p[0].is_floating_point()), strict=True)]

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """All weights at once, where Lightning has the host wait for the GPU at each."""
        if (step := trainer.global_step) == self._latest_update_step:  # gradients are accumulated
            return
        self._latest_update_step = step
        share = max(9 / (9 + self._num_averaged), 1 - self.decay)
        means, values = self._averaged
        torch._foreach_lerp_(means, values, share)
        if self._copied:
            torch._foreach_copy_(*self._copied)
        self._num_averaged += 1
        self._average_model.n_averaged += 1  # type: ignore[union-attr]

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        if trainer.state.fn == "fit":  # a test takes the average, which `state_dict` holds
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
