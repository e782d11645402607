"""How the training goes: rates, gradients, speed."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


class Monitor(Callback):
    """Logs once an epoch `lr`, `grad_norm` (a mean, before clipping) and `samples_per_s`.

    Args:
        every_n_steps: The gradient norm is taken at every n-th step of the optimizer.
    """

    def __init__(self, every_n_steps: int = 16) -> None:
        if every_n_steps < 1:
            raise ValueError(
                f"`every_n_steps` of the callback Monitor is {every_n_steps}, not 1 or more"
            )
        self.every_n_steps = every_n_steps
        self._started = self._paused = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._norms: list[Tensor] = []
        self._steps = self._samples = 0
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._samples += len(batch[0])

    def on_validation_start(self, *_: Any) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        self._started += time.perf_counter() - self._paused

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self._steps % self.every_n_steps == 0:
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(grads)
            self._norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        self._steps += 1
        self._lr = optimizer.param_groups[0]["lr"]  # at the epoch's end it is that of the next

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {}
        if self._norms:
            norm = torch.stack(self._norms).mean()
            values = {"lr": float(self._lr), "grad_norm": float(norm)}  # waits for the device
        seconds = time.perf_counter() - self._started
        values["samples_per_s"] = self._samples * trainer.world_size / seconds
        pl_module.log_dict(values)
