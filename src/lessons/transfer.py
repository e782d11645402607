"""What a net that has learned one task brings to another, by how much of that one it sees."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from src.lessons.again import again
from src.lessons.figure import figure
from src.lessons.lesson import Lesson


class Transfer(Lesson):
    """Trains on another task from scratch and from the weights of this run, with few rows and many.

    Each seed has other rows, and the fewer of them are among the more.

    Args:
        task: Options of `fit` that make the other task of this one, and their values.
        fracs: Shares of the other task's train rows, ascending.
        seeds: Runs of each.
    """

    def __init__(self, task: dict[str, Any], fracs: tuple[float, ...], seeds: int = 5) -> None:
        self.task, self.fracs, self.seeds = task, fracs, seeds

    def teach(self, trainer: Any, pl_module: Any) -> None:
        folder, first = Path(trainer.default_root_dir), trainer.datamodule.seed
        weights: dict[str, Any] = {"model.init_from": str(folder / "checkpoints" / "last.ckpt")}
        frozen = {**weights, "model.freeze": ["stages"]}
        kinds = {"scratch": {}, "fine-tuned": weights, "frozen": frozen}
        found = again(trainer, self, {
            f"{kind}-{frac}-{seed}": {**self.task, **changes, "seed_everything": seed,
                "data.partition.seed": seed, "data.partition.train_frac": frac}
            for kind, changes in kinds.items()
            for frac in self.fracs
            for seed in range(first, first + self.seeds)
        }, 1)  # fmt: skip
        accs = np.reshape([run["test/acc"] for [run] in found.values()], (3, -1, self.seeds))
        reports = folder.glob(f"runs/scratch-*-{first}-{first}/partition.json")
        rows = sorted(json.loads(path.read_text("utf-8"))["counts"]["train"] for path in reports)
        means = accs.mean(2)
        i = (means[1] - means[0]).argmax()
        title = f"{rows[i]} rows: {means[1, i]:.2f} fine-tuned, {means[0, i]:.2f} from scratch; "
        title += f"frozen stages end at {means[2, -1]:.2f} of {means[1, -1]:.2f}"
        with figure(trainer, "transfer", title, 7.2) as [ax]:
            for kind, mean, runs in zip(kinds, means, accs, strict=True):
                ax.plot(rows, mean, label=kind)
                ax.fill_between(rows, runs.min(1), runs.max(1), alpha=0.2, lw=0)
                for num, acc in zip(rows, mean, strict=True):
                    print(f"lesson/{kind}_{num} {acc:.4g}")
            ax.set(xscale="log", xlabel="train rows of the new task", ylabel="test accuracy")
            ax.set_xticks(rows, [f"{num:,}" for num in rows])
            ax.minorticks_off()
            ax.legend(title=f"mean and range of {self.seeds} seeds", loc="lower right")
