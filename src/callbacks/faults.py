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

from src.callbacks.checkpoint import Checkpoint

SIGNALS = [getattr(signal, name, None) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")]
MOST_IN_A_ROW = 3  # bad steps
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
        self._numbers = [number for number in SIGNALS if number and main]
        before = {number: signal.getsignal(number) for number in self._numbers}
        self._listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self) -> None:
        for number in self._numbers:
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        self._heard = True
        if not self._trains:
            raise KeyboardInterrupt

    def on_train_start(self, *_: Any) -> None:
        self._listen()  # Lightning, too, has begun to
        self._trains = True

    def between_steps(self, trainer: Any, *_: Any) -> None:
        """Saves and ends the run, if any process was told to."""
        ends = self._heard
        if trainer.world_size > 1:
            agrees = trainer.fit_loop.total_batch_idx % AGREE_EVERY_N_STEPS == 0
            ends = agrees and trainer.strategy.reduce_boolean_decision(ends, all=False)
        if ends:
            for callback in trainer.callbacks:
                if isinstance(callback, Checkpoint):
                    callback.on_train_end(trainer)
            raise KeyboardInterrupt

    def on_train_end(self, *_: Any) -> None:
        self._trains = False

    def on_exception(self, *_: Any) -> None:
        self._trains = False


class BadSteps(Callback):
    """Skips a step whose loss or gradients are not finite; the fourth in a row ends the run.

    On a GPU a fused optimizer skips it by itself, and the host hears of it some steps later.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[int, Any]] = []  # that are not looked at yet, with their rows

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._parameters = [p for p in pl_module.parameters() if p.requires_grad]
        self._buffers = [b for b in pl_module.net.buffers() if b.is_floating_point()]
        self._kept = [b.clone() for b in self._buffers]
        device = pl_module.device
        self._flags = torch.zeros(LOOK_EVERY_N_STEPS, device=device)
        self._slots = self._flags.unbind()
        self._one = torch.ones(1, device=device)
        self._names = ["not known"]
        self._bad: list[int] = []  # the newest in a row
        [optimizer] = trainer.optimizers
        self._waits = device.type == "cpu" or not optimizer.defaults.get("fused")
        self._shares = trainer.strategy.restore_checkpoint_after_setup  # each rank has some weights
        self._off = getattr(trainer.precision_plugin, "scaler", None) is not None  # skips them

    def between_steps(self, trainer: Any, pl_module: Any) -> None:
        self._sums = vars(pl_module.sums).copy()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, index: int) -> None:
        self._rows = batch.row

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._off:
            return
        flag = self._slots[len(self._steps)]
        grads = [p.grad for p in self._parameters if p.grad is not None]
        if self._shares:
            grads = [grad.to_local() for grad in grads]
        torch._amp_foreach_non_finite_check_and_unscale_(grads, flag, self._one)
        here = (trainer.global_step + 1, self._rows)
        if not self._waits:
            optimizer.found_inf = flag
            self._steps.append(here)
            if len(self._steps) == LOOK_EVERY_N_STEPS:
                self._look()
            return
        is_bad = bool(flag.item())
        if self._shares:
            is_bad = trainer.strategy.reduce_boolean_decision(is_bad, all=False)
        elif trainer.world_size == 1:  # else each has its own loss, but all the same gradients
            is_bad = is_bad or not math.isfinite(pl_module.sums.loss.item())
        if is_bad:
            flag.zero_()
            self._names = [
                name
                for name, p in pl_module.named_parameters()
                if p.grad is not None and not p.grad.isfinite().all()
            ]
            optimizer.zero_grad(set_to_none=True)  # so it has nothing to do
            vars(pl_module.sums).update(self._sums)
        self._count([here], [is_bad])

    def on_validation_start(self, *_: Any) -> None:
        self._look()

    def on_train_epoch_end(self, *_: Any) -> None:
        self._look()

    def _look(self) -> None:
        """Hears of the steps since the last look."""
        if steps := self._steps:
            self._steps, flags = [], self._flags.tolist()
            self._flags.zero_()
            self._count(steps, flags[: len(steps)])

    def _count(self, steps: list[tuple[int, Any]], flags: list[Any]) -> None:
        """Counts the bad ones, and takes back what they did to batch norm.

        Raises:
            FloatingPointError: There were too many in a row.
        """
        if self._buffers:
            pair = (self._buffers, self._kept) if any(flags) else (self._kept, self._buffers)
            torch._foreach_copy_(*pair)
        for (step, rows), flag in zip(steps, flags, strict=True):
            self._bad = [*self._bad, step] if flag else []
            if len(self._bad) > MOST_IN_A_ROW:
                first, last = self._bad[0], self._bad[-1]
                shown = ", ".join(map(str, rows[:8].tolist())) + ", ..." * (len(rows) > 8)
                raise FloatingPointError(
                    f"steps {first} to {last} were skipped: their loss or gradients are not finite"
                    f"; rows of the last: {shown}; parameters: {', '.join(self._names[:4])}; lower "
                    "`model.optimizer.lr`, or look for infinite values in the rows"
                )
            if flag:
                say(f"step {step} is skipped: its loss or gradients are not finite")


@rank_zero_only
def say(text: str) -> None:
    """Prints a line beside what the run prints."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
