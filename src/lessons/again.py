"""A run's own config once more, with changes, over seeds."""

import json
from pathlib import Path
from typing import Any

import yaml

from src.many import fits


def again(
    trainer: Any, lesson: object, changes: dict[str, dict[str, Any]], seeds: int
) -> dict[str, list[dict[str, float]]]:
    """Trains the config of a run with each of the changes, several times, on all cores.

    The runs are in `runs/` of its run folder; those that are there are not trained twice.

    Args:
        trainer: That of the run.
        lesson: The callback that asks, which the others go without.
        changes: By name: options of `fit` and what they become.
        seeds: Runs of each, with the seeds from the run's own on.

    Returns:
        By name: what each of the runs ended with, by `split/name`.
    """
    folder = Path(trainer.default_root_dir)
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    kinds = {k: v["class_path"].rpartition(".")[2] for k, v in config["callbacks"].items() if v}
    own = [f"--callbacks.{k}=null" for k, kind in kinds.items() if kind == type(lesson).__name__]
    first = config["seed_everything"]
    names = [(name, seed) for name in changes for seed in range(first, first + seeds)]
    fixed = [f"--config={folder / 'config.yaml'}", f"--trainer.default_root_dir={folder / 'runs'}"]
    jobs = [
        [*fixed, *own, "--callbacks.threads=Threads", f"--seed_everything={seed}"]
        + [f"--{key}={json.dumps(value)}" for key, value in changes[name].items()]
        + [f"--run={name}-{seed}", "--resume=auto"]
        for name, seed in names
    ]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in changes}
    for (name, _), metrics in zip(names, fits(jobs), strict=True):
        found[name].append(metrics)
    return found
