"""Schedules of the learning rate, beside those of `torch.optim.lr_scheduler`."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

__all__ = ["WarmupCosine"]


class WarmupCosine(LRScheduler):
    """Raises the learning rate linearly to that of the optimizer, then lowers it along a cosine.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup_frac: Share of the run's steps that lead up to the peak, at least 0 and under 1.
        final_frac: Share of the peak that is left when training ends, 0 to 1.
    """

    total_steps: float = 1

    def __init__(self, optimizer: Optimizer, warmup_frac: float = 0.05, final_frac: float = 0.0):
        if not 0 <= warmup_frac < 1:
            raise ValueError(f"`model.scheduler.warmup_frac` is {warmup_frac:g}, not in [0, 1)")
        if not 0 <= final_frac <= 1:
            raise ValueError(f"`model.scheduler.final_frac` is {final_frac:g}, not in [0, 1]")
        self.warmup_frac, self.final_frac = warmup_frac, final_frac
        super().__init__(optimizer)

    def plan(self, total_steps: float) -> None:
        """Sets how many optimizer steps the run has; before the first of them."""
        if total_steps == math.inf:
            raise ValueError("WarmupCosine needs an end: set `trainer.max_epochs` or `max_steps`")
        self.total_steps = total_steps
        self.last_epoch = -1
        self._initial_step()

    def get_lr(self) -> list[float | Tensor]:
        warmup = int(self.warmup_frac * self.total_steps)
        if self.last_epoch < warmup:
            factor = (self.last_epoch + 1) / (warmup + 1)
        else:
            done = min(1, (self.last_epoch - warmup) / max(1, self.total_steps - warmup))
            factor = self.final_frac + (1 - self.final_frac) * (1 + math.cos(math.pi * done)) / 2
        return [base_lr * factor for base_lr in self.base_lrs]


PER_STEP = (WarmupCosine, OneCycleLR, CyclicLR)  # the others step once an epoch


def resume(scheduler: LRScheduler, num_steps: int, saved: list[dict[str, Any]]) -> None:
    """Brings a new schedule to where the run is; it goes by its own options, not those `saved`."""
    if isinstance(scheduler, ReduceLROnPlateau):
        [group] = scheduler.optimizer.param_groups
        scheduler.base_lrs = [group["lr"]]
        for old in saved:
            if "num_bad_epochs" in old:
                last, base = old["_last_lr"][0], old["base_lrs"][0]
                group["lr"] = last if base == group["lr"] else group["lr"] * last / base
                scheduler._last_lr = [group["lr"]]
                for name in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch"):
                    setattr(scheduler, name, old[name])
        return
    with warnings.catch_warnings(action="ignore"):  # no step of the optimizer comes between
        for _ in range(num_steps):
            scheduler.step()
