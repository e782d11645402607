"""Universal approximation: how good a net of one hidden layer can be, and what training finds."""

from typing import Any

import numpy as np
import torch

from src.lessons.again import again
from src.lessons.figure import figure
from src.lessons.lesson import Lesson
from src.nets import MLP

STILL = {"model.optimizer.lr": 0.0, "trainer.max_epochs": 1}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {  # activation, init, changes
    "sigmoid_pulses": ("sigmoid", "pulses", STILL),
    "relu_pulses": ("relu", "pulses", STILL),
    "relu_hats": ("relu", "hats", STILL),
    "trained_from_random": ("relu", "random", {}),
    "trained_from_hats": ("relu", "hats", {}),
}


class Approximation(Lesson):
    """Draws pulses that add up to a `Function` of x, and the largest error against the width.

    Args:
        widths: Units of the hidden layer, multiples of 4, from 8 on.
        seeds: Runs of each width.
        num_pulses: Pulses in the pictures of them.
    """

    def __init__(self, widths: list[int], seeds: int = 3, num_pulses: int = 8) -> None:
        self.widths, self.seeds, self.num_pulses = widths, seeds, num_pulses

    def teach(self, trainer: Any, pl_module: Any) -> None:
        names = "model.net.activation", "model.net.init", "model.net.hidden_dims"
        found = again(trainer, self, {
            f"{kind}-{width}": {**dict(zip(names, (*net, [width]), strict=True)), **changes}
            for kind, (*net, changes) in KINDS.items()
            for width in self.widths
        }, self.seeds)  # fmt: skip
        title = "A good net exists, the better the wider; training from random weights misses it"
        with figure(trainer, "approximation", title, 2.8, 2.8, 3.8) as (*lefts, right):
            for ax, init in zip(lefts, ("pulses", "hats"), strict=True):
                self._pulses(ax, init, trainer.datamodule, pl_module)
            slopes = {}
            for kind in KINDS:
                runs = [[r["test/max"] for r in found[f"{kind}-{width}"]] for width in self.widths]
                means = np.mean(runs, 1)
                slopes[kind] = np.polyfit(np.log(self.widths), np.log(means), 1)[0]
                label = f"{kind.replace('_', ' ')}: slope {slopes[kind]:.2f}"
                right.loglog(self.widths, means, label=label)
            right.set(xlabel="hidden units", ylabel="largest error on test rows")
            right.set_xticks(self.widths, self.widths)
            right.minorticks_off()
            right.legend(fontsize=8, loc="lower left")
            right.set_ylim(bottom=right.get_ylim()[0] / 12)  # room for the legend
        for kind, slope in slopes.items():
            print(f"lesson/slope_{kind} {slope:.4g}")

    def _pulses(self, ax: Any, init: Any, data: Any, model: Any) -> None:
        """Draws the pulses of a net, their sum and the function."""
        net = MLP((1,), 1, (), (4 * self.num_pulses,), "relu", init=init)
        x, y = (torch.from_numpy(v[data.split.train]) for v in (data.rows.x, data.rows.y))
        net.construct(model.normalize(x), (y - model.target_mean) / model.target_std)
        at = torch.linspace(x.min().item(), x.max().item(), 2000)[:, None]
        with torch.no_grad():
            units = net.hidden(model.normalize(at)) * net.head.weight
            pulses = model.scores(units.unflatten(1, (-1, 4)).sum(2)).T
        for pulse in pulses:
            area = ax.fill_between(at[:, 0], pulse, color="C5", alpha=0.4, lw=0)
        area.set_label(f"{self.num_pulses} {init}")
        ax.plot(at, data.source(at.numpy()), "k-", marker="", lw=3, alpha=0.3, label="the function")
        ax.plot(at, pulses.sum(0), "C1-", marker="", label=f"sum of the {init}")
        ax.set(xlabel="x", ylabel="value", title=f"{len(net.head.weight[0])} ReLUs, four each")
        ax.legend(fontsize=8)
