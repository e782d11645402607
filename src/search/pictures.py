"""The picture of a comparison: the metric of each run and of its seeds."""

from pathlib import Path
from statistics import fmean, stdev
from textwrap import fill

from matplotlib import rc_context
from matplotlib.figure import Figure

from src.errors import short
from src.search.compare import Row, brief, differing, spread

MOST = 40  # runs of a table


def draw(tables: dict[str, list[Row]], path: Path) -> None:
    """Draws each table below the one before: dots are seeds, bars their standard deviation."""
    shown = {title: [row for row in rows if row.values][:MOST] for title, rows in tables.items()}
    shown = {title: rows for title, rows in shown.items() if rows}
    heights = [len(rows) + 3 for rows in shown.values()]
    with rc_context({"text.parse_math": False}):  # a `$` in a name is a `$`
        figure = Figure((11, 0.26 * sum(heights)), dpi=110, layout="constrained")
        axes = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, (title, rows) in zip(axes, shown.items(), strict=True):
            for i, row in enumerate(rows):
                color = "#0072B2" if row.state == "done" else "0.6"
                bar = stdev(row.values) if len(row.values) > 1 else 0
                ax.errorbar(fmean(row.values), i, xerr=bar, fmt="o", color=color, capsize=3)
                ax.plot(row.values, [i] * len(row.values), "k.", ms=3)
            better = "less" if rows[0].is_less(rows[0].metric) else "more"
            ax.set_yticks(range(len(rows)), labels(rows), size=8)
            ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"{rows[0].metric}: {better} is better")
            ax.set_title(fill(title, 75), loc="left", size=9)
            ax.grid(alpha=0.25)
        figure.savefig(path)
    print(f"picture: {path}")


def labels(rows: list[Row]) -> list[str]:
    """A run's value and name, and the options in which it differs from the others."""
    names = differing(rows, [row.cells() for row in rows])
    names.sort(key=lambda name: name.startswith("trainer."))
    texts = []
    for row in rows:
        own = [f"{k.rpartition('.')[2]} {brief(row.config[k])}" for k in names if k in row.config]
        texts.append(short(", ".join([f"{spread(row.values)}: {Path(row.name).name}", *own]), 75))
    return texts
