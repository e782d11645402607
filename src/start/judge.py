"""Is the net any better than no knowledge, or than a linear model, on the same test rows?"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score

from src.data.module import DataModule
from src.nets.mlp import MLP
from src.nets.normalize import Normalize

MOST_VALUES = 10**7  # that a linear model is fitted on: fewer train rows, if there are more
PENALTIES = (1.0, 30.0, 1000.0)
TIMES = 500  # that test rows are drawn anew, with replacement
METRICS: dict[str, Any] = {
    "acc": lambda y, preds: np.mean(y == preds),
    "f1": lambda y, preds: f1_score(y, preds, average="macro", zero_division=0),
    "rmse": lambda y, preds: np.sqrt(np.square(y - preds).mean()),
    "mae": lambda y, preds: np.abs(y - preds).mean(),
}


def judge(path: Path, data: DataModule, is_rare: bool) -> None:
    """Prints how good the predictions of a file and the baselines are, and what differs."""
    classes, y = data.signature.class_names, data.y.numpy()
    names = ["f1", "acc"] if is_rare else ["acc", "f1"] if classes else ["rmse", "mae"]
    metric, sign = METRICS[names[0]], 1 if classes else -1
    with path.open(newline="", encoding="utf-8") as file:
        cells = np.array([*csv.reader(file)][1:])[:, -data.signature.out_dim :].astype(np.float32)
    linear = by_linear(data, y, names[0])
    known, y = y[data.split.train], y[data.split.test]
    usual = np.bincount(known).argmax() if classes else known.mean(0)
    preds = {
        "the most frequent class" if classes else "the mean": np.zeros_like(y) + usual,
        "a linear model": linear,
        "this net": cells.argmax(1) if classes else cells,
    }
    print(f"{f'{len(y):,} test rows':<26}" + "".join(f"test/{name:<10}" for name in names))
    for label, found in preds.items():
        values = "".join(f"{METRICS[name](y, found):<15.4g}" for name in names)
        print(f"{label:<26}{values}".rstrip())
    draws = np.random.default_rng(0).integers(0, len(y), (TIMES, len(y)))
    net = preds.pop("this net")
    for label, found in preds.items():
        gains = [sign * (metric(y[i], net[i]) - metric(y[i], found[i])) for i in draws]
        low, high = np.quantile(gains, [0.025, 0.975])
        how = "better than" if low > 0 else "worse than" if high < 0 else "not clearly better than"
        by = f"test/{names[0]} by {low:.3g} to {high:.3g} (95 % interval)"
        print(f"The net is {how} {label}: {by}")


def by_linear(data: DataModule, y: np.ndarray, metric: str) -> np.ndarray:
    """Test rows as a linear model predicts them, from what the net sees; val chooses its penalty."""
    signature, split = data.signature, data.split
    normalize = Normalize(signature.in_shape, data.statistics.mean, data.statistics.std)
    shapes = signature.in_shape, signature.out_dim, signature.num_categories
    columns = MLP(*shapes, hidden_dims=(), categorical="onehot").inputs

    def inputs(rows: np.ndarray) -> np.ndarray:
        x: np.ndarray = columns(normalize(torch.from_numpy(data.x[rows]))).numpy()
        return x

    most = max(1000, MOST_VALUES // inputs(split.test[:1]).size)
    train = np.random.default_rng(0).permutation(split.train)[:most]
    best, least, x, x_val = None, np.inf, inputs(train), inputs(split.val)
    for penalty in PENALTIES:
        model: Any = Ridge(penalty, solver="lsqr")
        if signature.class_names:
            weight = "balanced" if metric == "f1" else None
            model = LogisticRegression(C=1 / penalty, class_weight=weight, max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 200 steps show how good it is
            model.fit(x, y[train])
        preds = model.predict(x_val).reshape(y[split.val].shape)
        error = METRICS[metric](y[split.val], preds) * (-1 if signature.class_names else 1)
        if error < least:
            best, least = model, error
    preds: np.ndarray = best.predict(inputs(split.test)).reshape(y[split.test].shape)
    return preds
