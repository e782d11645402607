"""How the training goes: rates, gradients, speed."""

import math
import time
from typing import Any

import torch
from lightning.pytorch import Callback

EVERY_N_STEPS = 16


class Monitor(Callback):
    """Logs once an epoch `lr`, `grad_norm` (before clipping) and `samples_per_s`.

    The gradient norm is the mean of that of every 16th step of the optimizer.
    """

    _started = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._norms: list[torch.Tensor] = []
        self._steps = 0
        self._started = time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        self.on_train_epoch_start()  # an epoch that is gone on with starts no more

    def on_validation_start(self, *_: Any) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        self._started += time.perf_counter() - self._paused

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._steps % EVERY_N_STEPS == 0:
            whole = getattr(trainer.strategy.model, "clip_grad_norm_", None)  # of FSDP's shards
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._norms.append(whole(math.inf) if whole else torch.nn.utils.get_total_norm(grads))
        self._steps += 1
        self._lr = optimizer.param_groups[0]["lr"]  # at the epoch's end it is that of the next

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        seconds = time.perf_counter() - self._started
        values = {"samples_per_s": pl_module.num_seen * trainer.world_size / seconds}
        if self._norms:
            norm = torch.stack(self._norms).mean()
            values |= {"lr": float(self._lr), "grad_norm": float(norm)}  # waits for the device
        pl_module.log_dict(values)
