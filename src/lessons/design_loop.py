"""The design loop: change one thing of the net, look at validation rows, keep what is best."""

from pathlib import Path
from statistics import fmean
from typing import Any

from src.callbacks.report import read_history
from src.lessons.again import again
from src.lessons.figure import figure
from src.lessons.lesson import Lesson

RESULTS = ("first", "chosen", "test")


class DesignLoop(Lesson):
    """Designs an MLP in three rounds, by validation rows, and tests what it has chosen once.

    A round tries each value of one option, beside the best of the others so far; at first these are
    the first of each. What is best says the callback Checkpoint: its `monitor`, of the best epoch.

    Args:
        layers: Numbers of hidden layers.
        units: Units of each layer.
        activations: Names for the first layers, in a text such as `tanh relu`, the last of which is
            that of all others too.
        seeds: Runs of each net, which is judged by their mean.
    """

    def __init__(
        self, layers: list[int], units: list[int], activations: list[str], seeds: int = 3
    ) -> None:
        self.options: Any = {"layers": layers, "units": units, "activations": activations}
        self.seeds = seeds

    def teach(self, trainer: Any, pl_module: Any) -> None:
        metric, mode = trainer.checkpoint_callback.monitor, trainer.checkpoint_callback.mode
        best, runs = {"min": min, "max": max}[mode], Path(trainer.default_root_dir, "runs")
        seen: dict[str, list[float]] = {}
        net, kept = tuple(values[0] for values in self.options.values()), {}
        for i, (option, values) in enumerate(self.options.items()):
            nets = {named(n): n for n in ((*net[:i], v, *net[i + 1 :]) for v in values)}
            new = {name: changes(*n) for name, n in nets.items() if name not in seen}
            again(trainer, self, new, self.seeds)
            for name in new:
                folders = (runs / f"{name}-{pl_module.seed + i}" for i in range(self.seeds))
                histories = (read_history(folder / "metrics.csv") for folder in folders)
                seen[name] = [best(row[metric] for row in history) for history in histories]
            net = nets[best(nets, key=lambda name: fmean(seen[name]))]
            kept[named(net), option] = len(new)
        name, means = named(net), {name: fmean(values) for name, values in seen.items()}
        final = {name: {**changes(*net), "trainer.limit_test_batches": 1.0}}
        test, tried = metric.replace("val/", "test/"), [*seen]
        tested = fmean(run[test] for run in again(trainer, self, final, self.seeds)[name])
        title = f"{len(tried)} nets tried, one thing changed at a time: {name} is chosen"
        with figure(trainer, "design_loop", title, 8.6) as [ax]:
            for i, values in enumerate(seen.values()):
                ax.plot([i] * len(values), values, "C5o", ms=4, label=None if i else "a run")
            ax.plot([*means.values()], "C0_", ms=16, mew=2, label="mean of its runs")
            end, style = -0.5, {"ms": 18, "mfc": "none", "mew": 2}
            for (winner, option), count in kept.items():
                label = "kept for the next round" if end < 0 else None
                ax.plot(tried.index(winner), means[winner], "C1s", label=label, **style)
                ax.text(end + 0.1, 1.02, option, transform=ax.get_xaxis_transform())
                ax.axvline(end := end + count, color="0.6", lw=1)
            ax.plot(len(tried), tested, "C2^", ms=10, label=f"{test} of the choice, looked at once")
            ax.set_xticks(range(len(tried) + 1), [*tried, name], rotation=30, ha="right")
            ax.set(xlabel="nets, in the order of trial", ylabel=f"{metric} of the best epoch")
            ax.legend(fontsize=8, loc="lower right", markerscale=0.5)
        for what, value in zip(RESULTS, (means[tried[0]], means[name], tested), strict=True):
            print(f"lesson/{what} {value:.4g}")


def changes(layers: int, units: int, activations: str) -> dict[str, Any]:
    """The options of a net."""
    names = activations.split()
    names += names[-1:] * layers
    return {"model.net.hidden_dims": [units] * layers, "model.net.activation": names[:layers]}


def named(net: tuple) -> str:
    """What a net is called: layers, units and activations."""
    return f"{net[0]}x{net[1]}-{net[2].replace(' ', '-')}"
