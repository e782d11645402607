"""Schedules of the learning rate, beside those of `torch.optim.lr_scheduler`."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["WarmupCosine"]


class WarmupCosine(LRScheduler):
    """Raises the learning rate linearly to that of the optimizer, then lowers it along a cosine.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup_frac: Share of the run's steps that lead up to the peak, at least 0 and under 1.
        final_frac: Share of the peak that is left when training ends, 0 to 1.
    """

    interval = "step"
    total_steps: float = 1

    def __init__(self, optimizer: Optimizer, warmup_frac: float = 0.05, final_frac: float = 0.0):
        if not 0 <= warmup_frac < 1:
            raise ValueError(f"warmup_frac is {warmup_frac:g}: it must be at least 0 and under 1")
        if not 0 <= final_frac <= 1:
            raise ValueError(f"final_frac is {final_frac:g}: it must be from 0 to 1")
        self.warmup_frac, self.final_frac = warmup_frac, final_frac
        super().__init__(optimizer)

    def plan(self, total_steps: float) -> None:
        """Sets how many optimizer steps the run has; before the first of them."""
        if total_steps == math.inf:
            raise ValueError("WarmupCosine needs an end: set trainer.max_epochs or max_steps")
        self.total_steps = total_steps
        self._move_to(self.last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        warmup = int(self.warmup_frac * self.total_steps)
        if self.last_epoch < warmup:
            factor = (self.last_epoch + 1) / (warmup + 1)
        else:
            done = min(1, (self.last_epoch - warmup) / max(1, self.total_steps - warmup))
            factor = self.final_frac + (1 - self.final_frac) * (1 + math.cos(math.pi * done)) / 2
        return [base_lr * factor for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, int]:
        """Where the run is, and not how long it is or how high the peak: the config says that."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._move_to(state_dict["last_epoch"])

    def _move_to(self, step: int) -> None:
        self.last_epoch = step - 1
        self._initial_step()  # a step that sets the rates and expects no optimizer step before it
