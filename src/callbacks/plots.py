"""The pictures of a run, each drawn into one PNG file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

COLORS = {"train": "#0072B2", "val": "#D55E00"}  # told apart by the colour-blind too
MOST_LABELS = 30  # classes, up to which a confusion matrix is labelled
MOST_POINTS = 5000


@contextmanager
def sheet(path: Path, count: int, most: int, width: float, height: float) -> Iterator[list[Any]]:
    """`count` axes, `most` in a row, of `width` x `height` inches each; saved in the end."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows, columns = -(-count // most), min(count, most)
    with rc_context({"text.parse_math": False}):  # a `$` in a name is a `$`
        figure = Figure((columns * width, rows * height), dpi=130, layout="constrained")
        yield [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
        figure.savefig(path)


def curves(history: list[dict[str, float]], best: float | None, path: Path) -> None:
    """Each metric of train and val over the epochs, and which of these is the `best`."""
    names = dict.fromkeys(key.partition("/")[2] for row in history for key in row if "/" in key)
    with sheet(path, len(names), 2, 4.2, 3.2) as axes:
        for ax, name in zip(axes, names, strict=True):
            for split, color in COLORS.items():
                key = f"{split}/{name}"
                points = {row["epoch"] + 1: row[key] for row in history if key in row}
                ax.plot(points.keys(), points.values(), color=color, label=split, marker=".")
            if best is not None:
                ax.axvline(best + 1, color="0.5", ls=":", label="best", zorder=0)
            ax.set(title=name, xlabel="epoch")
            ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            ax.grid(alpha=0.25)
        axes[0].legend()


def confusion(counts: np.ndarray, names: Sequence[str], title: str, path: Path) -> None:
    """The rows `(K, K)` by true and predicted class; the colour is their share of the true one."""
    size = float(np.clip(0.4 * len(names) + 2, 4, 14))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with sheet(path, 1, 1, 1.15 * size, size) as [ax]:
        image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if len(names) <= MOST_LABELS:
            for t, p in np.argwhere(counts):
                color = "white" if shares[t, p] > 0.6 else "black"
                ax.text(p, t, counts[t, p], color=color, size=8, ha="center", va="center")
            ax.set_xticks(range(len(names)), names, rotation=90)
            ax.set_yticks(range(len(names)), names)
        ax.set(xlabel="predicted", ylabel="true", title=f"{title}: {counts.sum():,} rows")
        ax.figure.colorbar(image, label="share of the true class")


def pictures(x: np.ndarray, captions: Sequence[str], path: Path) -> None:
    """Images `(N, C, H, W)`, or signals `(N, C, L)` as lines."""
    low, high = np.nanmin(x), np.nanmax(x)
    with sheet(path, len(x), 6, 1.8, 2.3) as axes:
        for ax, row, caption in zip(axes, (x - low) / (high - low or 1), captions, strict=True):
            if row.ndim == 2:
                ax.plot(row.T, lw=1)
            else:  # colours, or the first channel in grey
                channels = 3 if len(row) >= 3 else 1
                ax.imshow(row.transpose(1, 2, 0)[..., :channels], cmap="gray", vmin=0, vmax=1)
            ax.set_axis_off()
            ax.set_title(caption, size=8)


def predicted(y: np.ndarray, preds: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Predicted against true values of each target, both `(N, K)`."""
    y, preds = (values[:: len(y) // MOST_POINTS + 1].T for values in (y, preds))
    with sheet(path, len(names), 3, 4.2, 3.6) as axes:
        for ax, name, true, pred in zip(axes, names, y, preds, strict=True):
            ax.axline((true.mean(), true.mean()), slope=1, color="0.5", lw=1)
            ax.scatter(true, pred, s=10, alpha=0.5, color=COLORS["train"], lw=0)
            ax.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
