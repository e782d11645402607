"""One or more values for each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.module import DataModule
from src.data.rows import Signature
from src.data.statistics import fit
from src.models.model import Model, Results

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "huber": F.huber_loss,
    "mae": F.l1_loss,
}


class Regressor(Model):
    """A loss on targets scaled by the train rows; RMSE, MAE and R2 in original units.

    Args:
        loss: `mse`, `huber` (quadratic within one standard deviation) or `mae`.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, loss: Literal["mse", "huber", "mae"] = "mse", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss = LOSSES[loss]

    def build(self, signature: Signature, data: DataModule) -> None:
        if signature.class_names:
            raise ValueError(
                f"Regressor needs targets, and the data has {len(signature.class_names)} classes: "
                "set `model` to Classifier, or `data.source.task` to regression"
            )
        mean, std = torch.zeros(signature.out_dim), torch.ones(signature.out_dim)
        if data.rows is not None:
            found = fit(data.rows.y, data.split.train)
            mean, std = torch.tensor(found.mean), torch.tensor(found.std)
        self.register_buffer("target_mean", mean.float())
        self.register_buffer("target_std", std.float())

    def losses(self, out: Tensor, y: Tensor) -> Tensor:
        scaled = (y - self.target_mean) / self.target_std
        return self.loss(out, scaled, reduction="none").mean(1)

    def hits(self, out: Tensor, y: Tensor) -> Tensor:
        return (self.scores(out) - y).square().mean(1)

    def running(self, mean_hit: Tensor) -> dict[str, Tensor]:
        return {"rmse": mean_hit.sqrt()}

    def scores(self, out: Tensor) -> Tensor:
        return out * self.target_std + self.target_mean

    def metrics(self, results: Results) -> dict[str, Tensor]:
        scores, y = results.scores.double(), results.y
        assert y is not None
        error = scores - y
        spread = (y - y.double().mean(0)).square().sum(0)
        return {
            "rmse": error.square().mean().sqrt(),
            "mae": error.abs().mean(),
            "r2": (1 - error.square().sum(0) / spread).mean(),
        }
