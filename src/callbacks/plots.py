"""The pictures of a run, each drawn into one PNG file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

COLORS = {"train": "#0072B2", "val": "#D55E00"}  # told apart by the colour-blind too
MOST_LABELS = 30  # classes, up to which a confusion matrix is labelled
MOST_POINTS = 5000
DPI = 110
GAP = 0.85  # inches between axes, for ticks and titles


@contextmanager
def sheet(
    path: Path, count: int, most: int, width: float, height: float, margin: float = GAP
) -> Iterator[list[Any]]:
    """`count` axes, `most` in a row, of `width` x `height` inches each; saved in the end.

    What is drawn may be up to `margin` inches left of the axes and below. Nothing measures texts
    for a layout, which would take as long as the drawing: the white around it is cut off instead.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image, ImageOps  # comes with matplotlib

    rows, columns = -(-count // most), min(count, most)
    wide, high = columns * (width + GAP) + margin, rows * (height + GAP) + margin
    edges = margin / wide, margin / high, 1 - GAP / wide, 1 - GAP / high
    with rc_context({"text.parse_math": False}):  # a `$` in a name is a `$`
        figure = Figure((wide, high), dpi=DPI)
        figure.subplots_adjust(*edges, GAP / width, GAP / height)
        yield [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    ink = image.crop(ImageOps.invert(image).getbbox())
    ImageOps.expand(ink, DPI // 12, "white").save(path)


def curves(history: list[dict[str, float]], best: float | None, path: Path) -> None:
    """Each metric of train and val over the epochs, and which of these is the `best`."""
    names = dict.fromkeys(key.partition("/")[2] for row in history for key in row if "/" in key)
    with sheet(path, len(names), 2, 3.8, 2.6) as axes:
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
    size, margin = np.clip(0.4 * len(names), 3.5, 12), GAP + 0.14 * max(map(len, names))  # of a W
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with sheet(path, 1, 1, 1.25 * size, size, margin) as [ax]:
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
    """Images `(N, C, H, W)`, or signals `(N, C, L)` as lines: in one axes, as 24 cost 0.3 s."""
    images, columns, rows = x.ndim == 4, min(len(x), 6), -(-len(x) // 6)
    step = x.shape[-1] // 200 + 1  # 1.8 inches are 198 pixels
    x = (x[..., ::step, ::step] if images else x).astype(float)
    height, width = x.shape[2:] if images else (100, 100)
    high, wide = height + -(-width // 4), width + -(-width // 16)  # with room for its caption
    top, left = np.divmod(np.arange(len(x)), 6) * np.array([[high], [wide]])
    axes = None if images else (1, 2)  # signals fill their height
    low, most = (f.reduce(x, axis=axes, keepdims=True) for f in (np.fmin, np.fmax))
    x = (x - low) / np.where(most > low, most - low, 1)
    with sheet(path, 1, 1, 1.8 * columns, min(1.8 * rows * high / wide, 20)) as [ax]:
        if images:  # colours, or the first channel in grey
            x = x[:, [0, 1, 2] if x.shape[1] >= 3 else [0, 0, 0]].transpose(0, 2, 3, 1)
            for image, i, j in zip(np.nan_to_num(x, nan=1), left, top, strict=True):
                ax.imshow(image, extent=(i, i + width, j + high, j + high - height))
        else:  # one line a channel, with a gap after each signal
            y = top[:, None, None] + high - height * x
            y = np.pad(y, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
            t = left[:, None] + np.linspace(0, width, y.shape[2])
            ax.plot(t.ravel(), y.swapaxes(1, 2).reshape(t.size, -1), lw=1)
        longest = max(len(line) for caption in captions for line in caption.splitlines())
        size = np.clip(220 / longest, 5, 8)  # 28 letters of size 8 are as wide as a picture
        for caption, i, j in zip(captions, left, top, strict=True):
            at = i + width / 2, j + high - 1.03 * height
            ax.text(*at, caption, size=size, ha="center", va="bottom")
        ax.set(xlim=(0, columns * wide), ylim=(rows * high, 0))
        ax.set_axis_off()


def predicted(y: np.ndarray, preds: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Predicted against true values of each target, both `(N, K)`."""
    y, preds = (values[:: len(y) // MOST_POINTS + 1].T for values in (y, preds))
    with sheet(path, len(names), 3, 3.6, 3.2) as axes:
        for ax, name, true, pred in zip(axes, names, y, preds, strict=True):
            ax.axline((true.mean(), true.mean()), slope=1, color="0.5", lw=1)
            ax.scatter(true, pred, s=10, alpha=0.5, color=COLORS["train"], lw=0)
            ax.ticklabel_format(scilimits=(-3, 4))  # or the ticks need more room than GAP
            ax.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
