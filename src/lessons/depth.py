"""Why depth: nets of as many parameters in one layer and in several, on a function that folds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback

from src.lessons.again import again
from src.lessons.figure import figure


class Depth(Callback):
    """Draws how far nets of one size, with ever more layers, are from a `Function` of ever more folds.

    Args:
        nets: Widths of the hidden layers of each net.
        folds: Values of `data.source.high`.
        seeds: Runs of each.
    """

    def __init__(self, nets: list[list[int]], folds: list[float], seeds: int = 5) -> None:
        self.nets, self.folds, self.seeds = nets, folds, seeds

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        found = again(trainer, self, {
            f"{len(net)}x{net[0]}-{fold:g}": {"model.net.hidden_dims": net, "data.source.high": fold}
            for net in self.nets for fold in self.folds
        }, self.seeds)  # fmt: skip
        for k, v in found.items(): print(k, [round(r["test/rmse"],4) for r in v])
