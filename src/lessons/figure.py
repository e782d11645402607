"""The one style of the lessons' pictures: for print, and told apart by the colour-blind."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from src.callbacks.report import tell

# Source: Okabe and Ito, Color Universal Design, 2008. With a mark of its own for each.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "figure.dpi": 110,
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "fulgurite",  # the same file for the same picture
}


def dots(ax: Any, labels: Sequence[str], series: Mapping[str, Any]) -> None:
    """Mean and standard deviation of `(labels, seeds)` values of each series, a line a label."""
    for k, (name, values) in enumerate(series.items()):
        at = np.arange(len(labels)) + 0.2 * k - 0.1
        ax.errorbar(np.mean(values, 1), at, xerr=np.std(values, 1), ls="", capsize=3, label=name)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -1.4)  # the first on top, below the legend
    ax.legend(loc="upper right")


@contextmanager
def figure(trainer: Any, name: str, title: str, *sizes: float) -> Iterator[list[Any]]:
    """Axes side by side, each of a width in inches, saved as `plots/NAME.png` and `.svg`.

    Args:
        trainer: Whose run folder and loggers get the picture.
        name: Of the files.
        title: What the picture has found, in a sentence.
        sizes: Width of each of the axes; they are 3.2 inches high.
    """
    from cycler import cycler  # comes with matplotlib
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cycle = cycler(color=COLORS) + cycler(marker=MARKERS)
    style: Any = {**STYLE, "axes.prop_cycle": cycle}
    with rc_context(style):
        sheet = Figure((sum(sizes) + 0.8, 3.9), layout="constrained")
        FigureCanvasAgg(sheet)
        sheet.suptitle(title, x=0.01, ha="left", weight="bold")
        yield list(sheet.subplots(1, len(sizes), squeeze=False, width_ratios=sizes)[0])
        folder = Path(trainer.default_root_dir) / "plots"
        folder.mkdir(exist_ok=True)
        sheet.savefig(folder / f"{name}.png")
        sheet.savefig(folder / f"{name}.svg", metadata={"Date": None})
    tell(trainer, "log_image", f"lesson/{name}", [str(folder / f"{name}.png")])
    print(f"picture: {folder / name}.png: {title}")
