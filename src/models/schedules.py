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
        self.load_state_dict(self.state_dict())

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
        self.last_epoch = state_dict["last_epoch"] - 1
        self._initial_step()  # a step that sets the rates and expects no optimizer step before it


PER_STEP = (WarmupCosine, OneCycleLR, CyclicLR)  # the others step once an epoch


def resume(scheduler: LRScheduler, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """State of a new schedule that is as far as a checkpoint; sets the rates of its optimizer.

    So a schedule goes by what the config says of it now, whatever it was before.
    """
    if isinstance(scheduler, WarmupCosine):
        return {"last_epoch": checkpoint["global_step"]}
    if isinstance(scheduler, ReduceLROnPlateau):
        [old] = checkpoint["lr_schedulers"] or [{}]
        if "num_bad_epochs" in old:
            rate = checkpoint["optimizer_states"][0]["param_groups"][0]["lr"]
            scheduler.optimizer.param_groups[0]["lr"] *= rate / checkpoint["optimizer"][1]
        seen = ("best", "num_bad_epochs", "cooldown_counter")
        return scheduler.state_dict() | {name: old[name] for name in seen if name in old}
    loop = checkpoint["loops"]["fit_loop"]
    amid_epoch = not loop["epoch_loop.batch_progress"]["is_last_batch"]
    num_steps = loop["epoch_progress"]["current"]["ready"] - amid_epoch
    if isinstance(scheduler, PER_STEP):
        num_steps = checkpoint["global_step"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no step of the optimizer comes between
        for _ in range(num_steps):
            scheduler.step()
    return scheduler.state_dict()
