"""What ends a run early without losing anything: signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback

from src.callbacks.checkpoint import Checkpoint

SIGNALS = [getattr(signal, name, None) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")]
AGREE_EVERY_N_STEPS = 8  # several processes, which wait for each other to do so


class Signals(Callback):
    """Ends a run by SIGTERM, SIGINT, SIGUSR1 or SIGHUP: after the step, with a checkpoint.

    While nothing trains, and at the second SIGINT, it ends at once.
    """

    def __init__(self) -> None:
        self._heard = self._trains = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hears them within, and leaves them afterwards to whoever did before."""
        before = {number: signal.getsignal(number) for number in SIGNALS if number}
        self._listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self) -> None:
        for number in SIGNALS:
            if number:
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
