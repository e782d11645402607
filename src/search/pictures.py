"""The picture of a comparison: the metric of each run and of its seeds."""

from pathlib import Path
from statistics import fmean, stdev
from textwrap import fill

from matplotlib import rc_context
from matplotlib.figure import Figure

MOST = 40  # runs of a table


def draw(tables: dict[str, list[tuple[str, bool, list[float]]]], path: Path) -> None:
    """Draws each table below the one before: dots are seeds, bars their standard deviation.

    Args:
        tables: By title: of each run what to call it, whether it is done, the value of each seed.
        path: The file, of a format by its suffix.
    """
    heights = [min(len(rows), MOST) + 3 for rows in tables.values()]
    with rc_context({"text.parse_math": False}):  # a `$` in a name is a `$`
        figure = Figure((11, 0.26 * sum(heights)), dpi=110, layout="constrained")
        axes = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, (title, rows) in zip(axes, tables.items(), strict=True):
            for i, (_, is_done, values) in enumerate(rows[:MOST]):
                bar, color = (
                    stdev(values) if len(values) > 1 else 0,
                    "#0072B2" if is_done else "0.6",
                )
                ax.errorbar(fmean(values), i, xerr=bar, fmt="o", color=color, capsize=3)
                ax.plot(values, [i] * len(values), "k.", ms=3)
            names = [name for name, *_ in rows[:MOST]]
            ax.set_yticks(range(len(names)), names, size=8)
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.set_title(fill(title, 90), loc="left", size=9)
            if not all(is_done for _, is_done, _ in rows[:MOST]):
                ax.set_xlabel("grey is not trained to its end", size=8)
            ax.grid(alpha=0.25)
        figure.savefig(path)
    print(f"picture: {path}")
