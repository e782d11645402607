"""Universal approximation: how good a net of one hidden layer can be, and what training finds."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback

from src.lessons.again import again
from src.lessons.figure import figure
from src.nets import MLP

STILL = {"model.optimizer.lr": 0.0, "trainer.max_epochs": 1}
KINDS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "sigmoid": ("sigmoid", "pulses", STILL, "pulses of two sigmoids"),
    "relu": ("relu", "pulses", STILL, "pulses of four ReLUs"),
    "hats": ("relu", "hats", STILL, "hats of four ReLUs"),
    "random": ("relu", "random", {}, "trained from random weights"),
    "trained_hats": ("relu", "hats", {}, "trained from the hats"),
}


class Approximation(Callback):
    """Draws pulses that add up to a `Function` of x, and the largest error against the width.

    Args:
        widths: Units of the hidden layer, multiples of 8.
        seeds: Runs of each width.
        num_pulses: Pulses in the pictures of them.
    """

    def __init__(self, widths: tuple[int, ...], seeds: int = 3, num_pulses: int = 8) -> None:
        self.widths, self.seeds, self.num_pulses = widths, seeds, num_pulses

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        found = again(trainer, self, {
            f"{kind}-{width}": {
                "model.net.activation": activation,
                "model.net.init": init,
                "model.net.hidden_dims": [width],
                **changes,
            }
            for kind, (activation, init, changes, _) in KINDS.items()
            for width in self.widths
        }, self.seeds)  # fmt: skip
        title = "A good net exists, the better the wider: training from random weights misses it"
        with figure(trainer, "approximation", title, 2.7, 2.7, 4.2) as axes:
            for ax, init in zip(axes, ("pulses", "hats"), strict=False):
                self._pulses(ax, init, trainer.datamodule, pl_module)
            slopes = {kind: self._errors(axes[2], kind, found) for kind in KINDS}
            axes[2].set(xlabel="hidden units", ylabel="largest error on test rows")
            axes[2].set_xticks(self.widths, self.widths, minor=False)
            axes[2].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        for kind, slope in slopes.items():
            print(f"lesson/slope_{kind} {slope:.4g}")

    def _errors(self, ax: Any, kind: str, found: dict[str, list[dict[str, float]]]) -> float:
        """Draws the error against the width; its slope."""
        runs = [[run["test/max"] for run in found[f"{kind}-{width}"]] for width in self.widths]
        means = np.mean(runs, 1)
        slope: float = np.polyfit(np.log(self.widths), np.log(means), 1)[0]
        [line] = ax.loglog(self.widths, means, label=f"{KINDS[kind][3]}: slope {slope:.2f}")
        ax.fill_between(self.widths, np.min(runs, 1), np.max(runs, 1), alpha=0.2, lw=0)
        return slope

    def _pulses(self, ax: Any, init: Any, data: Any, model: Any) -> None:
        """Draws the pulses of a net, their sum and the function."""
        net = MLP((1,), 1, (), (4 * self.num_pulses,), "relu", init=init)
        x, y = (torch.from_numpy(v[data.split.train]) for v in (data.rows.x, data.rows.y))
        net.construct(model.normalize(x), (y - model.target_mean) / model.target_std)
        at = np.linspace(x.min().item(), x.max().item(), 2000)[:, None]
        with torch.no_grad():
            parts = net.hidden(model.normalize(torch.from_numpy(at))) * net.head.weight
            pulses = model.scores(parts.unflatten(1, (-1, 4)).sum(2)).numpy()
            whole = model.scores(net(model.normalize(torch.from_numpy(at)))).numpy()
        for pulse in pulses.T:
            [area] = [ax.fill_between(at[:, 0], pulse, color="C5", alpha=0.4, lw=0)]
        area.set_label(f"{self.num_pulses} {init}")
        ax.plot(at, data.source(at), "C0-", marker="", lw=3, alpha=0.5, label="the function")
        ax.plot(at, whole, "C1-", marker="", label=f"sum of the {init}")
        ax.set(xlabel="x", ylabel="value", title=f"{4 * self.num_pulses} ReLUs as {self.num_pulses} {init}")
        ax.legend(fontsize=8)
