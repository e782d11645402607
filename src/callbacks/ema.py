"""An average of the weights beside those that are trained."""

from typing import Any

from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Keeps an exponential moving average of the weights, which is validated, kept and tested.

    Args:
        decay: Share of the average that each step leaves, in [0, 1); less in the first steps, of
            which step n leaves n / (9 + n).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` of the callback EMA is {decay:g}, not in [0, 1)")

        def average(mean: Tensor, value: Tensor, num_averaged: Tensor) -> Tensor:
            if not mean.is_floating_point():
                return value
            share = (9 / (9 + num_averaged)).clamp(min=1 - decay)
            return mean.lerp(value, share.to(mean.dtype))

        super().__init__(avg_fn=average)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the model itself gets there later
        super().setup(trainer, pl_module, stage)

    on_train_end = Callback.on_train_end  # the last checkpoint has both, to go on from

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        if trainer.state.fn == "fit":  # a test takes the average, which `state_dict` holds
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
