"""Why depth: as many parameters in one layer and in several, on a function that folds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.lessons.again import again
from src.lessons.figure import COLORS, figure
from src.lessons.lesson import Lesson
from src.nets import MLP


class Depth(Lesson):
    """Draws the error of nets of one size but other depths, on a `Function` of ever more folds.

    Args:
        nets: Widths of the hidden layers of each net, of ReLUs: from the shallowest to the deepest.
        folds: Values of `data.source.high`, that of the run among them.
        seeds: Runs of each.
    """

    def __init__(self, nets: list[list[int]], folds: list[int], seeds: int = 5) -> None:
        self.nets, self.folds, self.seeds = nets, folds, seeds

    def teach(self, trainer: Any, pl_module: Any) -> None:
        names = {(len(net), fold): f"{len(net)}-{fold}" for net in self.nets for fold in self.folds}
        found = again(trainer, self, {
            names[len(net), fold]: {"model.net.hidden_dims": net, "data.source.high": fold}
            for net in self.nets
            for fold in self.folds
        }, self.seeds)  # fmt: skip
        source, lines = trainer.datamodule.source, {}
        at = torch.linspace(source.low, source.high, 2000)[:, None]
        title = (
            f"Of one size, the deeper net learns {source.high:g} folds, the shallow one does not"
        )
        with figure(trainer, "depth", title, 5.2, 3.8) as (left, right):
            left.plot(
                at, source(at.numpy()), "k-", marker="", lw=5, alpha=0.2, label="the function"
            )
            for dims, color in zip(self.nets, COLORS, strict=False):
                layers, net = len(dims), MLP((1,), 1, (), tuple(dims))
                size = sum(p.numel() for p in net.parameters())
                label = f"{layers} hidden, {size} parameters"
                runs = [[r["test/rmse"] for r in found[names[layers, f]]] for f in self.folds]
                lines[layers] = dict(zip(self.folds, np.median(runs, 1), strict=True))
                right.loglog(self.folds, lines[layers].values(), label=label)
                right.loglog(self.folds, runs, "_", color=color, ms=10)
                run = f"{names[layers, int(source.high)]}-{pl_module.seed}"
                path = Path(trainer.default_root_dir, "runs", run, "checkpoints", "best.ckpt")
                state = torch.load(path, weights_only=True)["state_dict"]
                net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
                with torch.no_grad():
                    out = pl_module.scores(net(pl_module.normalize(at)))
                left.plot(at, out, label=label, markevery=150)
            left.set(xlabel="x", ylabel="value", ylim=(-0.1, 1.6))
            right.set(xlabel="folds of the function", ylabel="test/rmse: median, and each run")
            right.set_xticks(self.folds, self.folds)
            right.minorticks_off()
            left.legend(fontsize=8, loc="upper left")
        errors = {layers: line[source.high] for layers, line in lines.items()}
        for layers, error in errors.items():
            print(f"lesson/rmse_{layers} {error:.4g}")
        print(f"lesson/ratio {max(errors.values()) / errors[layers]:.4g}")
