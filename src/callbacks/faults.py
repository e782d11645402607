"""What goes wrong with a run, survived or ended without loss: signals, numbers that are none."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only

from src.callbacks.checkpoint import Checkpoint, own_share
from src.errors import SIGNALS

MOST_IN_A_ROW = 3  # bad steps
HALVINGS = 16  # more of them, with which a gradient scaler of 16-bit floats comes down to 1
LOOK_EVERY_N_STEPS = 16  # where the host would have to wait for a GPU
AGREE_EVERY_N_STEPS = 8  # several processes, which wait for each other to do so


class Signals(Callback):
    """Ends a run by SIGTERM, SIGINT, SIGUSR1 or SIGHUP: after the step, with a checkpoint.

    While nothing trains, and at the second SIGINT, it ends at once.
    """

    def __init__(self) -> None:
        self._heard = self._trains = False
        self._numbers: list[signal.Signals] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hears them within, and leaves them afterwards to whoever did before."""
        main = threading.current_thread() is threading.main_thread()  # no other may ask for them
        self._numbers = SIGNALS if main else []
        before = self._listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self) -> dict[signal.Signals, Any]:
        """Begins to; gives who did before."""
        return {number: signal.signal(number, self._hear) for number in self._numbers}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        self._heard = True
        if not self._trains:
            raise KeyboardInterrupt

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        self._listen()  # Lightning, too, has begun to
        self._trains, self._is_alone = True, trainer.world_size == 1

    def between_steps(self, trainer: Any, *_: Any) -> None:
        """Saves and ends the run, if any process was told to."""
        ends = self._heard
        if not self._is_alone:
            agrees = trainer.global_step % AGREE_EVERY_N_STEPS == 0
            ends = agrees and trainer.strategy.reduce_boolean_decision(ends, all=False)
        if ends:
            for callback in trainer.callbacks:
                if isinstance(callback, Checkpoint):
                    callback.on_train_end(trainer)
            raise KeyboardInterrupt

    def on_train_end(self, *_: Any) -> None:
        self._trains = False

    on_exception = on_train_end  # type: ignore[assignment]


class BadSteps(Callback):
    """Skips a step whose loss or gradients are not finite; the fourth in a row ends the run.

    On a GPU a fused optimizer skips it by itself, and the host hears of it some steps later. With
    16-mixed precision the gradient scaler skips it, and as it looks for its scale in this way, it
    may be the twentieth.
    """

    def __init__(self) -> None:
        self._bad: list[int] = []  # the newest in a row
        self._unheard: list[tuple[int, Any]] = []  # steps that are not looked at yet, their rows

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._parameters = [p for p in pl_module.parameters() if p.requires_grad]
        self._buffers = [b for b in pl_module.net.buffers() if b.is_floating_point()]
        device = pl_module.device
        none = torch.zeros(0, device=device)
        self._all_kept = torch.cat([none, *map(torch.flatten, self._buffers)])
        parts = torch.split(self._all_kept, [b.numel() for b in self._buffers])
        self._kept = [part.view_as(b) for part, b in zip(parts, self._buffers, strict=True)]
        self._flags = torch.zeros(LOOK_EVERY_N_STEPS, device=device)
        self._slots = self._flags.unbind()
        self._one = torch.ones(1, device=device)
        self._shares = trainer.strategy.restore_checkpoint_after_setup  # each rank has some weights
        self._is_alone = trainer.world_size == 1
        [optimizer] = trainer.optimizers
        self._waits = self._shares or device.type == "cpu" or not optimizer.defaults.get("fused")
        self._scales = getattr(trainer.precision_plugin, "scaler", None) is not None

    def between_steps(self, trainer: Any, pl_module: Any) -> None:
        self._sums = vars(pl_module.sums).copy()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [grad for p in self._parameters if (grad := p.grad) is not None]
        if self._shares:
            grads = [own_share(grad) for grad in grads]
        flag = self._slots[len(self._unheard)]
        torch._amp_foreach_non_finite_check_and_unscale_(grads, flag, self._one)
        if not self._waits:
            optimizer.found_inf = flag
            if self._buffers:  # all at once, and here: an average may take them next
                now = torch.cat([*map(torch.flatten, self._buffers)])
                torch.where(flag > 0, self._all_kept, now, out=self._all_kept)
                torch._foreach_copy_(self._buffers, self._kept)
            self._unheard.append((trainer.global_step + 1, trainer._results.batch.row))
            if len(self._unheard) == LOOK_EVERY_N_STEPS:
                self._look(trainer, pl_module)
            return
        is_bad = flag.item() > 0
        if self._shares:
            is_bad = trainer.strategy.reduce_boolean_decision(is_bad, all=False)
        elif self._is_alone:  # else each has its own loss, but all the same gradients
            is_bad = is_bad or not math.isfinite(pl_module.sums.loss.item())
        if is_bad:
            self._count(pl_module, trainer.global_step + 1, trainer._results.batch.row)
            flag.zero_()
            if not self._scales:
                optimizer.zero_grad(set_to_none=True)  # so it has nothing to do
            vars(pl_module.sums).update(self._sums)
        else:
            self._bad.clear()
        if self._buffers:
            pair = (self._buffers, self._kept) if is_bad else (self._kept, self._buffers)
            torch._foreach_copy_(*pair)

    def _look(self, trainer: Any, pl_module: Any) -> None:
        """Hears of the steps since the last look."""
        if steps := self._unheard:
            self._unheard, flags = [], self._flags.tolist()
            self._flags = torch.zeros_like(self._flags)  # others: an optimizer may yet read these
            self._slots = self._flags.unbind()
            for (step, rows), flag in zip(steps, flags, strict=False):
                if flag:
                    self._count(pl_module, step, rows)
                else:
                    self._bad.clear()

    on_validation_start = on_train_epoch_end = _look

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._look(trainer, pl_module)
        checkpoint["bad_steps"] = self._bad

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._bad = checkpoint.get("bad_steps", [])

    def _count(self, pl_module: Any, step: int, rows: Any) -> None:
        """Counts a bad step.

        Raises:
            FloatingPointError: There were too many in a row.
        """
        self._bad.append(step)
        if len(self._bad) <= MOST_IN_A_ROW + HALVINGS * self._scales:
            if not self._scales:
                text = f"warning: step {step} is skipped: its loss or gradients are not finite"
                rank_zero_only(print)(text, file=sys.stderr, flush=True)
            return
        grads = {n: p.grad for n, p in pl_module.named_parameters() if p.grad is not None}
        names = [name for name, grad in grads.items() if not grad.isfinite().all()]
        shown = ", ".join(map(str, rows[:8].tolist())) + ", ..." * (len(rows) > 8)
        raise FloatingPointError(
            f"steps {self._bad[0]} to {step} were skipped: their loss or gradients are not finite; "
            f"rows of the last: {shown}; parameters: {', '.join(names[:4]) or 'not known'}; lower "
            "`model.optimizer.lr`, or look for infinite values in the rows"
        )
