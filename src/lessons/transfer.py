"""What a net that has learned one task brings to another, by how much of that one it sees."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback

from src.lessons.again import again
from src.lessons.figure import figure

KINDS = {
    "scratch": "from random weights",
    "tuned": "from the other task's weights",
    "frozen": "the same, stages frozen",
}


class Transfer(Callback):
    """Trains on another task from scratch and from the weights of this run, with few rows and many.

    Each seed has other rows, and the fewer of them are among the more.

    Args:
        task: Options of `fit` that make the other task of this one, and their values.
        freeze: `model.freeze` of the runs that keep what they took.
        fracs: Shares of the other task's train rows, ascending.
        seeds: Runs of each.
    """

    def __init__(
        self,
        task: dict[str, Any],
        freeze: tuple[str, ...],
        fracs: tuple[float, ...],
        seeds: int = 5,
    ) -> None:
        self.task, self.freeze, self.fracs, self.seeds = task, freeze, fracs, seeds

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        folder, first = Path(trainer.default_root_dir), trainer.datamodule.seed
        weights = {"model.init_from": str(folder / "checkpoints" / "last.ckpt")}
        own: dict[str, dict[str, Any]] = {
            "scratch": {},
            "tuned": weights,
            "frozen": weights | {"model.freeze": self.freeze},
        }
        found = again(trainer, self, {
            f"{kind}-{frac}-{seed}": {
                **self.task,
                **own[kind],
                "seed_everything": seed,
                "data.partition.seed": seed,
                "data.partition.train_frac": frac,
            }
            for kind in KINDS
            for frac in self.fracs
            for seed in range(first, first + self.seeds)
        }, 1)  # fmt: skip
        accs = np.reshape([run["test/acc"] for [run] in found.values()], (3, -1, self.seeds))
        runs = [folder / "runs" / f"scratch-{frac}-{first}-{first}" for frac in self.fracs]
        reports = [json.loads((run / "partition.json").read_text("utf-8")) for run in runs]
        rows = [report["counts"]["train"] for report in reports]
        self._draw(trainer, rows, dict(zip(KINDS, accs, strict=True)))

    def _draw(self, trainer: Any, rows: list[int], accs: dict[str, np.ndarray]) -> None:
        """Accuracies `(fracs, seeds)` of each kind."""
        means = {kind: runs.mean(1) for kind, runs in accs.items()}
        most = (means["tuned"] - means["scratch"]).argmax()
        title = (
            f"{rows[most]} rows: {means['tuned'][most]:.2f} from another task's weights, "
            f"{means['scratch'][most]:.2f} without; frozen ones stop at {means['frozen'][-1]:.2f}"
        )
        with figure(trainer, "transfer", title, 7.2) as [ax]:
            for kind, label in KINDS.items():
                ax.plot(rows, means[kind], label=label)
                ax.fill_between(rows, accs[kind].min(1), accs[kind].max(1), alpha=0.2, lw=0)
            ax.set(xscale="log", xlabel="train rows", ylabel="accuracy on test rows")
            ax.set_xticks(rows, [f"{num:,}" for num in rows])
            ax.minorticks_off()
            ax.legend(title=f"mean and range of {self.seeds} seeds", loc="lower right")
        for kind, values in means.items():
            for num, value in zip(rows, values, strict=True):
                print(f"lesson/{kind}_{num} {value:.4g}")
