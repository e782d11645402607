"""One class for each row."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.data.module import DataModule
from src.models.model import Model

MAX_AUROC_CLASSES = 1000  # one sort of the whole split for each class: beyond, it costs seconds


class Classifier(Model):
    """Cross-entropy; accuracy, macro F1, AUROC (one class against the rest, averaged).

    Args:
        label_smoothing: Share of each target spread evenly over all classes, in [0, 1).
        class_weights: `balanced` weighs each class by the inverse of its share of the train rows,
            so that all classes weigh the same; `none` weighs rows the same.
    """

    modes = {**Model.modes, "acc": "max", "f1": "max", "auroc": "max"}

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Literal["none", "balanced"] = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`model.label_smoothing` is {label_smoothing:g}, not in [0, 1)")
        self.label_smoothing, self.class_weights = label_smoothing, class_weights

    def build(self, data: DataModule) -> None:
        num_classes = len(data.signature.class_names)
        if not num_classes:
            raise ValueError(
                "Classifier needs classes, and the data has targets to regress: set `model` to "
                "Regressor, or `data.source.task` of a Table or Arrays to classification"
            )
        self.weight: Tensor = nn.Buffer(torch.ones(num_classes))
        if self.class_weights == "balanced" and data.rows is not None:
            counts = torch.bincount(data.y[data.split.train], minlength=num_classes)
            self.weight.copy_(counts.sum() / (num_classes * counts.clamp(1)))

    def losses(self, out: Tensor, y: Tensor) -> Tensor:
        out = out.to(torch.promote_types(out.dtype, torch.float32))  # bfloat16 has 3 digits
        weight, smoothing = self.weight.to(out.dtype), self.label_smoothing
        return F.cross_entropy(out, y, weight, reduction="none", label_smoothing=smoothing)

    def hits(self, out: Tensor, y: Tensor) -> Tensor:
        return out.argmax(1) == y

    def running(self, mean_hit: Tensor) -> dict[str, Tensor]:
        return {"acc": mean_hit}

    def scores(self, out: Tensor) -> Tensor:
        return out.softmax(-1)

    def metrics(self, scores: Tensor, y: Tensor) -> dict[str, Tensor]:
        preds, num_classes = scores.argmax(-1), scores.shape[-1]
        hits = preds == y
        found = {"acc": hits.float().mean(-1), "f1": f1(preds, y, hits, num_classes)}
        there = torch.bincount(y).nonzero().flatten().tolist()  # a class without a row has no curve
        if len(there) > 1 and num_classes <= MAX_AUROC_CLASSES:
            each = [auroc(scores[..., c].numpy(), (y == c).numpy()) for c in there]
            found["auroc"] = torch.tensor(np.stack(each, -1).mean(-1))
        return found


def f1(preds: Tensor, y: Tensor, hits: Tensor, num_classes: int) -> Tensor:
    """Mean over the classes that there are of the harmonic mean of precision and recall.

    `(..., N)` classes, `(N,)`, `(..., N)` whether they are the same -> `(...)`.
    """
    rows = preds.view(-1, len(y))
    size = len(rows) * num_classes
    start = num_classes * torch.arange(len(rows))[:, None]  # a range of classes for each model
    each = rows + start, y + start
    given, true = (torch.bincount(c.flatten(), minlength=size) for c in each)
    both = torch.bincount(each[0][hits.view(rows.shape)], minlength=size)
    return (2 * both / (given + true)).view(*preds.shape[:-1], num_classes).nanmean(-1)


def auroc(scores: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
    """Share of the pairs of a positive and another row in order; a tie counts half.

    `(..., N)` scores of the rows, `(N,)` -> `(...)`.
    """
    ordered, positive = np.sort(scores), np.sort(scores[..., is_positive])  # 20 times torch's pace
    size, num = len(is_positive), positive.shape[-1]
    ranks = [
        sum(np.searchsorted(one, its, side).sum() for side in ("left", "right"))
        for one, its in zip(ordered.reshape(-1, size), positive.reshape(-1, num), strict=True)
    ]
    shares = (np.array(ranks) - num**2) / (2 * num * (size - num))
    return np.reshape(shares, scores.shape[:-1])
