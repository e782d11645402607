"""One or more values for each row."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.module import DataModule
from src.data.statistics import Statistics, fit
from src.models.model import Model

LOSSES: dict[str, Any] = {"mse": F.mse_loss, "huber": F.huber_loss, "mae": F.l1_loss}


class Regressor(Model):
    """A loss on targets scaled by the train rows; RMSE, MAE, greatest error, R2 in original units.

    Args:
        loss: `mse`, `huber` (quadratic within one standard deviation) or `mae`.
    """

    modes = {**Model.modes, "rmse": "min", "mae": "min", "max": "min", "r2": "max"}

    def __init__(self, loss: Literal["mse", "huber", "mae"] = "mse", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss = LOSSES[loss]

    def build(self, data: DataModule) -> None:
        if names := data.signature.class_names:
            raise ValueError(
                f"Regressor needs targets, and the data has {len(names)} classes: "
                "set `model` to Classifier, or `data.source.task` of a Table or Arrays to "
                "regression"
            )
        found = Statistics.identity(data.signature.out_dim)
        if data.rows is not None:
            found = fit(data.rows.y, data.split.train)
        self.target_mean: Tensor = nn.Buffer(torch.tensor(found.mean))
        self.target_std: Tensor = nn.Buffer(torch.tensor(found.std))
        if self.net.init != "random" and data.rows is not None:
            x, y = (torch.from_numpy(v[data.split.train]) for v in (data.rows.x, data.rows.y))
            self.net.construct(self.normalize(x), (y - self.target_mean) / self.target_std)

    def losses(self, out: Tensor, y: Tensor) -> Tensor:
        scaled = (y - self.target_mean) / self.target_std
        losses: Tensor = self.loss(out, scaled, reduction="none")
        return losses.mean(1)

    def hits(self, out: Tensor, y: Tensor) -> Tensor:
        return (self.scores(out) - y).square().mean(1)

    def running(self, mean_hit: Tensor) -> dict[str, Tensor]:
        return {"rmse": mean_hit.sqrt()}

    def scores(self, out: Tensor) -> Tensor:
        return out * self.target_std + self.target_mean

    def metrics(self, scores: Tensor, y: Tensor) -> dict[str, Tensor]:
        error = scores.double() - y
        spread = (y - y.double().mean(0)).square().sum(0)
        return {
            "rmse": error.square().mean((-2, -1)).sqrt(),
            "mae": error.abs().mean((-2, -1)),
            "max": error.abs().amax((-2, -1)),
            "r2": (1 - error.square().sum(-2) / spread).mean(-1),
        }
