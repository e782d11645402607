"""The pictures of a run, each drawn into one PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLORS = {"train": "#0072B2", "val": "#D55E00"}  # told apart by the colour-blind too
MOST_LABELS = 30  # classes, up to which a confusion matrix is labelled
MOST_POINTS = 5000


def sheet(rows: int, columns: int, width: float, height: float) -> tuple[Any, np.ndarray]:
    """A figure of axes of `width` x `height` inches each, apart from the state of pyplot."""
    from matplotlib.figure import Figure

    figure = Figure((columns * width, rows * height), dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def curves(history: dict[int, dict[str, float]], best: int | None, path: Path) -> None:
    """Each metric of train and val over the epochs, and which of these is the `best`."""
    keys = {key: None for row in history.values() for key in row}
    names = list(dict.fromkeys(key.partition("/")[2] for key in keys))
    names = sorted(names, key=lambda name: name != "loss")[:6]
    columns = 2 if len(names) == 4 else min(len(names), 3)
    figure, axes = sheet(-(-len(names) // columns), columns, 4.2, 3.2)
    for ax, name in zip(axes.flat, names, strict=False):
        for split, color in COLORS.items():
            key = f"{split}/{name}"
            if points := [(epoch + 1, row[key]) for epoch, row in history.items() if key in row]:
                ax.plot(*zip(*points, strict=True), color=color, label=split, marker=".")
        if best is not None:
            ax.axvline(best + 1, color="0.5", ls=":", label="best", zorder=0)
        ax.set(title=name, xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.grid(alpha=0.25)
        ax.legend(frameon=False)
    for ax in axes.flat[len(names) :]:
        ax.remove()
    figure.savefig(path)


def confusion(counts: np.ndarray, names: Sequence[str], title: str, path: Path) -> None:
    """The rows `(K, K)` by true and predicted class; the colour is their share of the true one."""
    size = float(np.clip(0.4 * len(names) + 2, 4, 14))
    figure, axes = sheet(1, 1, 1.15 * size, size)
    ax, shares = axes[0, 0], counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= MOST_LABELS:
        for true, pred in np.argwhere(counts):
            color = "white" if shares[true, pred] > 0.6 else "black"
            ax.text(pred, true, counts[true, pred], ha="center", va="center", color=color, size=8)
        ax.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
        ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="predicted", ylabel="true", title=title)
    figure.colorbar(image, label="share of the true class", fraction=0.046)
    figure.savefig(path)


def pictures(x: np.ndarray, captions: Sequence[str], title: str, path: Path) -> None:
    """Images `(N, C, H, W)`, or signals `(N, C, L)` as lines."""
    columns = int(np.clip(len(x), 3, 6))
    if x.ndim == 4:  # to [0, 1], of which the rows may use less than their dtype could
        low, high = min(0.0, float(np.nanmin(x))), float(np.nanmax(x))
        x = (x - low) / ((high - low) or 1)
    figure, axes = sheet(-(-len(x) // columns), columns, 1.8, 2.1)
    for ax, row, caption in zip(axes.flat, x, captions, strict=False):
        if row.ndim == 2:
            ax.plot(row.T, lw=1)
            ax.tick_params(labelsize=6)
        else:
            channels = 3 if len(row) >= 3 else 1
            ax.imshow(row.transpose(1, 2, 0)[..., :channels], cmap="gray", vmin=0, vmax=1)
            ax.set_axis_off()
        ax.set_title(caption, size=8)
    for ax in axes.flat[len(x) :]:
        ax.remove()
    figure.suptitle(title, size=10)
    figure.savefig(path)


def predicted(y: np.ndarray, preds: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Predicted against true values, both `(N, K)`, and how the residuals are spread."""
    names = names[:4]
    figure, axes = sheet(2, len(names), 4.2, 3.6)
    for (top, bottom), name, true, pred in zip(axes.T, names, y.T, preds.T, strict=False):
        ends = [min(true.min(), pred.min()), max(true.max(), pred.max())]
        top.plot(ends, ends, color="0.5", lw=1, label="predicted = true")
        some = slice(None, None, -(-len(true) // MOST_POINTS))
        top.scatter(true[some], pred[some], s=10, alpha=0.5, color=COLORS["train"], lw=0)
        top.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
        top.legend(frameon=False)
        bottom.hist(pred - true, bins=40, color=COLORS["train"])
        bottom.axvline(0, color="0.5", lw=1)
        bottom.set(xlabel=f"predicted - true {name}", ylabel="rows")
    figure.savefig(path)
