"""What a leak between splits does to the measured accuracy."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.callbacks.report import read_history
from src.data.statistics import fit
from src.lessons.again import again
from src.lessons.figure import dots, figure
from src.lessons.lesson import Lesson
from src.nets.normalize import Normalize

LEAKS = {  # label; recordings of each row, and their noise in standard deviations of all values
    "people": ("five recordings of each person,\nsplit by recording", 5, 0.5),
    "tails": ("normalized before the split:\n60 rows, 100 heavy-tailed features", 1, 0.0),
    "twice": ("each row is there twice,\nsplit by copy", 2, 0.0),
    "chosen": ("the best epoch, chosen by\nthe rows that measure it", 1, 0.0),
    "scaled": ("normalized before the split:\nimages", 1, 0.0),
}
KINDS = {"fair": "without the leak", "leak": "with it"}
CHECKPOINT = {"every_n_epochs": 1, "monitor": "val/acc"}
HOW: dict[str, dict[str, Any]] = {  # options of the runs that leak
    "tails": {"data.normalize": "none"},  # they are normalized already
    "scaled": {"data.normalize": "none"},
    "chosen": {f"callbacks.checkpoint.{option}": value for option, value in CHECKPOINT.items()},
}


class Leaks(Lesson):
    """Measures nets on rows that have leaked and on new ones, and again without the leak.

    Half of the recordings at hand train, the others measure, and all other rows of the run's source
    are new. They are written into `rows/` as published splits, since a partition would not leak.

    Args:
        num_rows: Recordings at hand.
        seeds: Draws of the rows, 1 or more.
    """

    def __init__(self, num_rows: int = 400, seeds: int = 10) -> None:
        self.num_rows, self.seeds = num_rows, seeds

    def teach(self, trainer: Any, pl_module: Any) -> None:
        folder, data = Path(trainer.default_root_dir), trainer.datamodule
        (folder / "rows").mkdir(exist_ok=True)
        changes, gaps = {}, []
        for kind, leak, seed in product(KINDS, LEAKS, range(self.seeds)):
            path, leaks = folder / f"rows/{leak}_{kind}_{seed}.npz", kind == "leak"
            rng = np.random.default_rng((data.seed, seed))
            np.savez(path, **recorded(data.rows.x, data.rows.y, self.num_rows, leak, leaks, rng))
            change = {"data.source": "Arrays", "data.source.path": str(path)}
            change["data.partition.duplicates"] = "allow"
            changes[path.stem] = change | (HOW.get(leak, {}) if leaks else {})
        for name, [metrics] in again(trainer, self, changes, 1).items():
            [log] = (folder / "runs").glob(f"{name}-*/metrics.csv")
            seen = [row["val/acc"] for row in read_history(log) if "val/acc" in row]
            measured = max(seen) if name.startswith("chosen_leak") else seen[-1]
            gaps.append(100 * (measured - metrics["test/acc"]))
        points = np.reshape(gaps, (len(KINDS), len(LEAKS), self.seeds))
        title = f"Leaks make a net look up to {points.mean(2).max():.0f} points better than it is"
        with figure(trainer, "leaks", title, 7) as [ax]:
            series = dict(zip(KINDS.values(), points, strict=True))
            dots(ax, [label for label, *_ in LEAKS.values()], series)
            ax.axvline(0, color="0.3", lw=1)
            ax.set_xlabel("accuracy as measured, minus accuracy on new rows (points)")
        for (kind, leak), mean in zip(product(KINDS, LEAKS), points.mean(2).flat, strict=True):
            print(f"lesson/{leak}_{kind} {mean:.4g}")


def recorded(
    x: Any, y: Any, num: int, leak: str, leaks: bool, rng: np.random.Generator
) -> dict[str, Any]:
    """What `Arrays` reads: `num` recordings of rows, half of them for val, and new ones for test.

    Args:
        x: `(N, ...)` rows.
        y: `(N,)` classes.
        num: Recordings at hand.
        leak: One of `LEAKS`.
        leaks: Whether it is there.
        rng: Draws the rows, and the noise.
    """
    _, copies, noise = LEAKS[leak]
    if leak == "tails":
        num, y = 60, rng.integers(0, 2, 1060)
        x = rng.standard_cauchy((len(y), 100)) + 4 * y[:, None]
    order = rng.permutation(len(x))
    own = np.repeat(order[: num // copies], copies)
    if leaks and copies > 1:
        own = rng.permutation(own)
    if leaks and leak in ("tails", "scaled"):
        seen = fit(x, own)
        x = Normalize(x.shape[1:], seen.mean, seen.std)(torch.from_numpy(x)).numpy()
    parts = (*np.split(own, [num // 2 // copies * copies]), order[num // copies :])
    found = {}
    for suffix, rows in zip(("", "_val", "_test"), parts, strict=True):
        found[f"x{suffix}"] = x[rows] + noise * x.std() * rng.normal(size=x[rows].shape)
        found[f"y{suffix}"] = y[rows]
    return found
