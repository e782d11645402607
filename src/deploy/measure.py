"""How good a model is on a split, and how well that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from src.models.model import Model

NUM_DRAWS, MAX_VALUES = 200, 20_000_000  # of an interval: draws, and scores in all of them


def measured(model: Model, split: str) -> dict[str, Any]:
    """Each metric of a split with its interval of 95 %: Wilson's for a share, else bootstrap."""
    scores, y, _ = model.results[split]
    assert y is not None
    rng, num_rows, found = torch.Generator().manual_seed(0), len(y), {}
    num_draws = max(20, min(NUM_DRAWS, MAX_VALUES // scores.numel()))
    draws = (torch.randint(num_rows, (num_rows,), generator=rng) for _ in range(num_draws))
    drawn = [model.metrics(scores[rows], y[rows]) for rows in draws]
    for name, metric in model.metrics(scores, y).items():
        value = metric.item()
        values = [draw[name].item() for draw in drawn if name in draw and draw[name].isfinite()]
        if math.isfinite(value):  # r2 of equal targets isn't
            ends = np.quantile(values or [value], [0.025, 0.975]).tolist()
            found[name] = [value, *(wilson(value, num_rows) if name == "acc" else ends)]
    return {"rows": num_rows, "values": found}


def classes(model: Model, split: str, names: Sequence[str]) -> dict[str, Any]:
    """Rows of each class in a split, recall with its interval, and precision."""
    scores, y, _ = model.results[split]
    assert y is not None
    found: dict[str, Any] = {}
    pairs = np.stack([y.numpy(), scores.argmax(1).numpy()]) if names else y.numpy()
    for code, name in enumerate(names):
        rows, said = (pairs == code).sum(1).tolist()
        hits = int((pairs == code).all(0).sum())
        recall = [hits / rows, *wilson(hits / rows, rows)] if rows else [0, 0, 1]
        found[name] = {"rows": rows, "recall": recall, "precision": hits / max(1, said)}
    return found


def wilson(share: float, count: int) -> tuple[float, float]:
    """The interval of 95 % of a share that was seen in `count` rows.

    Source: Wilson 1927, doi 10.1080/01621459.1927.10502953.
    """
    z2 = 1.959964**2 / count
    middle, width = share + z2 / 2, math.sqrt(z2 * share * (1 - share) + z2**2 / 4)
    return (middle - width) / (1 + z2), (middle + width) / (1 + z2)
