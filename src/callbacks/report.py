"""What a run leaves for a person to look at."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback

from src.callbacks import plots
from src.data.rows import Signature

NUM_MISTAKES = 24


class Report(Callback):
    """Puts into `plots/` of the run folder, and shows to loggers, what a run has come to.

    After `fit` these are curves, from `metrics.csv`, and what became of the validation rows in the
    last epoch, after `test` of the test rows: a confusion matrix, or predicted against true values,
    and the worst mistakes.
    """

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: Any, pl_module: Any, split: str) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        self.trainer, self.split = trainer, split
        self.folder = Path(trainer.default_root_dir) / "plots"
        try:
            self.folder.mkdir(exist_ok=True)
            if split == "val":
                self._curves(trainer.checkpoint_callback)
            if split in pl_module.results:
                self._rows(trainer.datamodule, *(t.numpy() for t in pl_module.results[split]))
        except Exception as error:  # days of training don't end on a picture
            print(f"warning: no plots of {split}: {error!r}", file=sys.stderr)

    def _curves(self, checkpoint: Any) -> None:
        """Draws them, and sums up the step of the best checkpoint as `best/split/name`."""
        if history := read_history(self.folder.parent / "metrics.csv"):
            key = getattr(checkpoint, "monitor", None) or ""
            scored = (row for row in history if key in row)
            best = next((row for row in scored if row[key] == checkpoint.best_model_score), {})
            tell(self.trainer, "log_summary", {f"best/{name}": best[name] for name in best})
            plots.curves(history, best.get("epoch"), self.folder / "curves.png")

    def _rows(self, data: Any, scores: np.ndarray, y: np.ndarray, row: np.ndarray) -> None:
        signature = data.signature
        if names := signature.class_names:
            preds, kind = scores.argmax(1), "probability"
            error = scores.max(1) * (preds != y)
            self._confusion(y, preds, names)
        else:
            preds, kind, error = scores, "error", np.abs(scores - y).mean(1)
            self._draw("predicted", plots.predicted, y, preds, signature.target_names)

        def text(value: Any) -> str:
            return names[value] if names else ", ".join(f"{v:.4g}" for v in value)

        worst = (-error).argsort(kind="stable")[:NUM_MISTAKES]
        worst = worst[error[worst] > 0]
        x = data.rows.x[row[worst]]
        columns = ["row", "true", "predicted", kind, *signature.feature_names]
        lines = [
            [str(data.names[row[i]]), text(y[i]), text(preds[i]), float(f"{error[i]:.4g}")]
            for i in worst
        ]
        if 2 < x.ndim < 5 and lines:
            captions = [f"true {t}\npredicted {p}: {value:.3g}" for _, t, p, value in lines]
            self._draw("mistakes", plots.pictures, x, captions)
        lines = [line + named(values, signature) for line, values in zip(lines, x, strict=True)]
        path = self.folder / f"mistakes_{self.split}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *lines])
        tell(self.trainer, "log_table", f"{self.split}/mistakes_table", columns, lines)

    def _confusion(self, y: np.ndarray, preds: np.ndarray, names: tuple[str, ...]) -> None:
        size = len(names)
        counts = np.bincount(y * size + preds, minlength=size**2).reshape(size, size)
        self._draw("confusion", plots.confusion, counts, names, self.split)
        cells = [[names[t], names[p], int(counts[t, p])] for t, p in np.argwhere(counts)]
        key = f"{self.split}/confusion_table"
        tell(self.trainer, "log_table", key, ["true", "predicted", "rows"], cells)

    def _draw(self, name: str, plot: Callable, *args: Any) -> None:
        path = self.folder / f"{name}_{self.split}.png"
        plot(*args, path)
        tell(self.trainer, "log_image", f"{self.split}/{name}", [str(path)])


def tell(trainer: Any, method: str, *args: Any) -> None:
    """Calls a method of the loggers that have it: those that show more than numbers."""
    for logger in trainer.loggers:
        if hasattr(logger, method):
            getattr(logger, method)(*args)


def read_history(path: Path) -> list[dict[str, float]]:
    """What was logged of train and val, a step a row; a run that is gone on with overrules."""
    history: list[dict[str, float]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for cells in csv.DictReader(file):
                row = {key: float(value) for key, value in cells.items() if value}
                if {"train/loss", "val/loss"} & row.keys():
                    while history and history[-1]["step"] >= row["step"]:
                        history.pop()
                    history.append(row)
    return history


def named(row: np.ndarray, signature: Signature) -> list[Any]:
    """The features that have names, as they were before categories were coded."""
    values: list[Any] = [float(str(value)) for value in row.flat[: len(signature.feature_names)]]
    for name, kinds in signature.categories.items():
        i = signature.feature_names.index(name)
        values[i] = ("", *kinds)[int(values[i])]
    return values
