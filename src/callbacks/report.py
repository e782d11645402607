"""What a run leaves for a person to look at."""

from __future__ import annotations

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
    """Puts into `plots/` of the run folder, and shows to W&B, what a run has come to.

    After `fit` these are curves (from `metrics.csv`) and what became of the validation rows, after
    `test` of the test rows: a confusion matrix, or predicted against true values; and the worst
    mistakes, as pictures and as a table.
    """

    def on_fit_start(self, trainer: Any, *_: Any) -> None:
        for logger in watchers(trainer):
            logger.log_config({"partition": trainer.datamodule.split.report})

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: Any, pl_module: Any, split: str) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        run = Path(trainer.default_root_dir)
        try:
            (run / "plots").mkdir(parents=True, exist_ok=True)
            if split == "val" and (run / "metrics.csv").exists():
                write_curves(trainer, run)
            if split in pl_module.results:
                Page(trainer, run / "plots", split).write(*pl_module.results[split])
        except Exception as error:  # days of training don't end on a picture
            print(f"warning: no plots of {split}: {error!r}", file=sys.stderr, flush=True)


def watchers(trainer: Any) -> list[Any]:
    """The loggers that show more than numbers."""
    return [logger for logger in trainer.loggers if hasattr(logger, "log_summary")]


def write_curves(trainer: Any, run: Path) -> None:
    """Draws the curves, and sums up the epoch of the best checkpoint as `best/split/name`."""
    history = read_history(run / "metrics.csv")
    best, monitor = None, getattr(trainer.checkpoint_callback, "monitor", None)
    if scores := {e: row[monitor] for e, row in history.items() if monitor and monitor in row}:
        pick = min if trainer.checkpoint_callback.mode == "min" else max
        best = pick(scores, key=scores.__getitem__)
        summary = {f"best/{key}": value for key, value in history[best].items()}
        for logger in watchers(trainer):
            logger.log_summary({**summary, "best/epoch": best})
    if history:
        plots.curves(history, best, run / "plots" / "curves.png")


def read_history(path: Path) -> dict[int, dict[str, float]]:
    """Metrics of train and val by epoch; where a run was gone on with, those logged last."""
    history: dict[int, dict[str, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            values = {k: float(v) for k, v in row.items() if v and k.startswith(("train/", "val/"))}
            if values:
                epoch = int(row["epoch"])
                history = {e: old for e, old in history.items() if e <= epoch}
                history[epoch] = {**history.get(epoch, {}), **values}
    return history


class Page:
    """What became of the rows of one split."""

    def __init__(self, trainer: Any, folder: Path, split: str) -> None:
        self.data, self.signature = trainer.datamodule, trainer.datamodule.signature
        self.watchers, self.folder, self.split = watchers(trainer), folder, split
        self.title = "val after the last epoch" if split == "val" else split

    def write(self, scores: Any, y: Any, row: Any) -> None:
        """Draws all rows of the split, then the worst mistakes."""
        scores, y = scores.numpy(), y.numpy()
        write = self._classes if self.signature.class_names else self._values
        worst, lines = write(scores, y)
        self._mistakes(row.numpy()[worst], lines)

    def _classes(self, scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, list[list[Any]]]:
        names, preds = self.signature.class_names, scores.argmax(1)
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (y, preds), 1)
        self._draw("confusion", plots.confusion, counts, names, f"{self.title}: {len(y):,} rows")
        cells = [[names[t], names[p], int(counts[t, p])] for t, p in np.argwhere(counts)]
        self._show("confusion_table", ["true", "predicted", "rows"], cells)
        sure, wrong = scores.max(1), np.flatnonzero(preds != y)
        worst = wrong[(-sure[wrong]).argsort(kind="stable")][:NUM_MISTAKES]
        return worst, [[names[y[i]], names[preds[i]], float(str(sure[i]))] for i in worst]

    def _values(self, scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, list[list[Any]]]:
        self._draw("predicted", plots.predicted, y, scores, self.signature.target_names)
        error = np.abs(scores - y).mean(1)
        worst = (-error).argsort(kind="stable")[:NUM_MISTAKES]
        texts = [[", ".join(f"{v:.4g}" for v in both[i]) for both in (y, scores)] for i in worst]
        return worst, [[*text, float(str(error[i]))] for text, i in zip(texts, worst, strict=True)]

    def _mistakes(self, row: np.ndarray, lines: list[list[Any]]) -> None:
        """`lines` say true, predicted, and the probability of the prediction or the error."""
        signature, x = self.signature, self.data.rows.x[row]
        columns = ["row", "true", "predicted", "probability" if signature.class_names else "error"]
        lines = [[str(self.data.names[i]), *line] for i, line in zip(row, lines, strict=True)]
        if len(signature.in_shape) == 1:
            columns += signature.feature_names or [f"x{i}" for i in range(signature.in_shape[0])]
            lines = [
                [*line, *raw(values, signature)] for line, values in zip(lines, x, strict=True)
            ]
        elif lines:
            captions = [f"{true} → {pred}\n{value:.3g}" for _, true, pred, value in lines]
            self._draw("mistakes", plots.pictures, x, captions, f"{self.title}: true → predicted")
        path = self.folder / f"mistakes_{self.split}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *lines])
        self._show("mistakes_table", columns, lines)

    def _draw(self, name: str, plot: Callable, *args: Any) -> None:
        path = self.folder / f"{name}_{self.split}.png"
        plot(*args, path)
        for logger in self.watchers:
            logger.log_image(f"{self.split}/{name}", [str(path)])

    def _show(self, name: str, columns: list[str], lines: list[list[Any]]) -> None:
        for logger in self.watchers:
            logger.log_table(f"{self.split}/{name}", columns, lines)


def raw(row: np.ndarray, signature: Signature) -> list[Any]:
    """A row of a table as it was before its categories were coded."""
    values: list[Any] = [float(str(value)) for value in row]  # the shortest, 13.24 in float32 too
    for name, kinds in signature.categories.items():
        i = signature.feature_names.index(name)
        values[i] = ("", *kinds)[int(values[i])]
    return values
