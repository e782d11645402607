"""Why rows are normalized: the shape of the cost, and whose numbers test rows are scaled by."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback

from src.data.rows import Rows, Signature, Source
from src.lessons.again import again
from src.lessons.figure import dots, figure
from src.lessons.lesson import Lesson

NUM_ROWS, NUM_DRAWN = 1000, 40
# The best learning rates, times the greatest curvature of the cost: from 2 on they diverge.
RATES = {"none": 1.95, "standard": 1.0}
DRIFTS: dict[str, Any] = {  # label, rows, how many come at a time
    "same": ("no drift", {}, NUM_ROWS),
    "grows": ("x1 itself grows by 60", {"span": (-0.4, 1.6)}, NUM_ROWS),
    "part": ("only x1 > 50 comes", {"span": (0.5, 1)}, NUM_ROWS),
    "few": ("5 rows come at a time", {}, 5),
    "sensor": ("its sensor adds 60 to x1", {"adds": 0.6}, NUM_ROWS),
}


class TwoScales(Source):
    """1,000 rows of x1 in [-100, 100] and x2 in [-1, 1], with y = x1 / 100 + x2 + noise.

    Args:
        wide: What stands for the 100, above 0.
        span: Least and greatest x1, in units of `wide`.
        adds: What is added to x1 after y is made of it, in units of `wide`.
        seed: Another seed draws other rows.
    """

    def __init__(
        self, wide: float = 100, span: tuple[float, float] = (-1, 1), adds: float = 0, seed: int = 0
    ) -> None:
        self.wide, self.span, self.adds, self.seed = wide, span, adds, seed

    def load(self, signature: Signature | None = None) -> Rows:
        rng = np.random.default_rng(self.seed)
        low, high = self.span
        x = rng.uniform((low, -1), (high, 1), (NUM_ROWS, 2))
        y = x.sum(1) + rng.normal(0, 0.1, NUM_ROWS)
        x = (x + np.array((self.adds, 0))) * (self.wide, 1)
        return Rows(x.astype("f4"), y.astype("f4"), signature or Signature((2,), "float32"))


class Descent(Callback):
    """Keeps the weights before each step, `(steps, P)`, in `descent.npy` of the run folder."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.file = Path(trainer.default_root_dir) / "descent.npy"
        self.path = [*np.load(self.file)] if trainer.ckpt_path else []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        parts = [weights.detach().numpy().ravel() for weights in pl_module.net.parameters()]
        self.path.append(np.concatenate(parts))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.fast_dev_run:
            np.save(self.file, self.path)


class Bowl:
    """Mean squared error over the weights and the bias of a linear net: quadratic, known exactly.

    Args:
        z: `(N, D)` what the net gets.
        y: `(N,)` what it should give.
    """

    def __init__(self, z: np.ndarray, y: np.ndarray) -> None:
        ones = np.column_stack([z, np.ones(len(z))]).astype(float)
        self.best, self.hessian = np.linalg.lstsq(ones, y)[0], 2 / len(z) * ones.T @ ones
        self.least = np.square(ones @ self.best - y).mean()
        self.curvatures = np.linalg.eigvalsh(self.hessian).tolist()
        self.condition = self.curvatures[-1] / self.curvatures[0]

    def cost(self, weights: np.ndarray) -> np.ndarray:
        """`(..., D + 1) -> (...)`."""
        off = weights - self.best
        return np.asarray(self.least + ((off @ self.hessian) * off).sum(-1) / 2)

    def draw(self, ax: Any, path: np.ndarray) -> None:
        """Contours over the first two weights, and the path of a descent."""
        ends = np.vstack([path, self.best])
        room = 0.3 * np.ptp(ends, 0)
        lines = np.linspace(ends.min(0) - room, ends.max(0) + room, 100).T
        grid = np.stack(np.meshgrid(*lines[:2], self.best[2:]), -1)[:, :, 0]
        costs = self.cost(grid)
        levels = np.geomspace(self.least + 0.02, costs.max(), 10)
        ax.contour(*lines[:2], costs, levels, colors="0.6", linewidths=0.8)
        ax.plot(*path[:, :2].T, ms=3, lw=1, label=f"{len(path)} steps")
        ax.plot(*self.best[:2], ls="", marker="*", ms=13, label="least cost")
        ax.set(xlabel="weight of x1 (std of y per unit)", ylabel="weight of x2 (std of y per unit)")


class Normalization(Lesson):
    """Descends on raw and on normalized rows, each at its best rate, and scales drifted rows.

    For rows of `TwoScales`, a net without hidden layers, and `Descent` beside it.

    Args:
        until: The cost to get to, as a share of the variance of y.
        seeds: Runs of each, 1 or more.
    """

    def __init__(self, until: float = 0.2, seeds: int = 5) -> None:
        self.until, self.seeds = until, seeds

    def teach(self, trainer: Any, pl_module: Any) -> None:
        data, runs = trainer.datamodule, Path(trainer.default_root_dir) / "runs"
        x, y = data.rows.x[data.split.train], data.rows.y[data.split.train, 0]
        scales = x.mean(0), x.std(0), y.mean(), y.std()
        z, y = (x - scales[0]) / scales[1], (y - scales[2]) / scales[3]
        bowls, changes = {"none": Bowl(x, y), "standard": Bowl(z, y)}, {}
        for how, bowl in bowls.items():
            lr = RATES[how] / bowl.curvatures[-1]
            changes[how] = {"data.normalize": how, "model.optimizer.lr": lr}
        again(trainer, self, changes, self.seeds)
        paths = {h: [np.load(p) for p in sorted(runs.glob(f"{h}-*/descent.npy"))] for h in bowls}
        counts = {h: [(b.cost(p) > self.until).sum() for p in paths[h]] for h, b in bowls.items()}
        raw, normalized = (np.mean(counts[how]) for how in bowls)
        ends, wide = [path[-1] for path in paths["standard"]], data.source.wide
        errors = np.array([errors_of(ends, wide, scales, *drift) for _, *drift in DRIFTS.values()])
        title = f"Steps of gradient descent to R² {1 - self.until:.2g}: {raw:,.0f} on raw rows, "
        title += f"{normalized:.2g} on normalized ones"
        with figure(trainer, "normalization", title, 3, 3, 2.4) as (*axes, last):
            for ax, (how, bowl) in zip(axes, bowls.items(), strict=True):
                bowl.draw(ax, paths[how][-1][:NUM_DRAWN])
                ax.set_title(f"normalize {how}: condition {float(f'{bowl.condition:.2g}'):,g}")
            axes[1].legend(loc="lower right")
            series = {"by train statistics": errors[..., 0], "by their own": errors[..., 1]}
            dots(last, [label for label, *_ in DRIFTS.values()], series)
            last.set(xlabel="RMSE (units of y)", title="drifted rows, scaled")
        for how, bowl in bowls.items():
            print(f"lesson/{how}_condition {bowl.condition:.4g}")
            print(f"lesson/{how}_steps {np.mean(counts[how]):.4g}")
        for name, (train, own) in zip(DRIFTS, errors.mean(1), strict=True):
            print(f"lesson/{name}_train {train:.4g}\nlesson/{name}_own {own:.4g}")


def errors_of(ends: list[Any], wide: float, scales: Any, drift: Any, num: int) -> list[list[float]]:
    """RMSE of weights on rows scaled by the train rows' statistics, and by their own, `num` a time.

    Args:
        ends: Weights of each net.
        wide: That of the train rows.
        scales: Mean and standard deviation of x, and of y.
        drift: Options of `TwoScales`.
        num: Rows that come at a time.
    """
    found = []
    for seed, weights in enumerate(ends, 1):
        rows = TwoScales(wide, seed=seed, **drift).load()
        x, y = rows.x.reshape(-1, num, 2), rows.y.reshape(-1, num)
        own = x.mean(1, keepdims=True), x.std(1, keepdims=True)
        outs = [(x - mean) / std @ weights[:2] + weights[2] for mean, std in (scales[:2], own)]
        found.append([np.sqrt(np.mean((o * scales[3] + scales[2] - y) ** 2)) for o in outs])
    return found
