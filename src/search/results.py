"""What a search leaves: `leaderboard.csv`, `best.yaml`, `best.ckpt`, pictures, one test."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import warnings
from contextlib import redirect_stdout, suppress
from copy import copy
from pathlib import Path

import optuna
from matplotlib import pyplot as plt
from optuna.trial import TrialState

from src.cli import run
from src.search.compare import COLUMNS, spread
from src.search.study import HOST, LABELS, Study, name_of, seconds

ALONE = ("--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto")
MOST_NAMED = 10  # trials in a legend
PICTURES = "optimization_history parallel_coordinate param_importances intermediate_values"


def save(study: Study, folder: Path) -> None:
    """Writes the leaderboard, and the best trial's config beside it."""
    trials = sorted(study.trials(), key=study.order)
    chosen = dict.fromkeys(k for t in trials for k in t.user_attrs.get("chosen", {}))
    text = io.StringIO()
    out = csv.DictWriter(text, [*COLUMNS, *chosen], lineterminator="\n")
    out.writeheader()
    for trial in trials:
        attrs, about = trial.user_attrs, trial.user_attrs.get("about", {})
        best = study.best_value(trial)
        values = [] if best is None else [best]
        cells = (
            name_of(trial), LABELS[trial.state], study.space.metric,
            json.dumps(attrs["values"] if trial.state == TrialState.COMPLETE else values),
            len(trial.intermediate_values), f"{seconds(trial):.1f}",
            about.get("num_weights"), about.get("data"), attrs.get("note"),
        )  # fmt: skip
        out.writerow(dict(zip(COLUMNS, cells, strict=True)) | attrs.get("chosen", {}))
    replace(folder / "leaderboard.csv", text.getvalue())
    if trials and trials[0].state == TrialState.COMPLETE:
        config = folder / "trials" / name_of(trials[0]) / "config.yaml"
        if config.is_file():  # trained on this machine
            value = trials[0].user_attrs["values"][0]
            head = f"# python -m src fit --config {folder / 'best.yaml'}\n"
            head += f"# {study.space.metric} {value!r} as {config.parent}\n"
            replace(folder / "best.yaml", head + config.read_text("utf-8"))


def replace(path: Path, text: str) -> None:
    """Writes a file whole, or not at all; several workers may do so at a time."""
    part = path.with_suffix(f".{HOST}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def test_best(study: Study, folder: Path) -> None:
    """Tests the best trial's checkpoint, once, and prints what it reaches.

    Raises:
        ValueError: All trials failed.
    """
    best = min(study.trials(), key=study.order, default=None)
    if best is not None and best.state == TrialState.FAIL:
        raise ValueError(f"all trials failed, the first by: {best.user_attrs['note']}")
    if best is None or best.state != TrialState.COMPLETE:
        print("no trial was trained to its end")
        return
    name, tested = name_of(best), folder / "test.json"
    path = folder / "trials" / name / "checkpoints" / "best.ckpt"
    print(f"best: trial {name}  {study.space.metric} {spread(best.user_attrs['values'])}")
    if not path.is_file():
        print(f"its checkpoint is on {best.user_attrs['owner'].rpartition(':')[0]}")
        return
    known = json.loads(tested.read_text("utf-8")) if tested.is_file() else {}
    if known.pop("trial", "") != name:
        shutil.copyfile(path, folder / "best.ckpt")
        with redirect_stdout(io.StringIO()):
            known = run("test", ["--ckpt_path", str(path), *ALONE])
        replace(tested, json.dumps({"trial": name, **known}))
    for metric, value in known.items():
        print(f"{metric} {value:.6g}")


def draw(study: Study, folder: Path) -> None:
    """Draws the search, pruned trials with their best value; leaves out what needs more trials."""
    folder.mkdir(exist_ok=True)
    shown = optuna.create_study(direction=study.study.direction)
    for trial in map(copy, study.trials()):
        if trial.state.is_finished() and (value := study.best_value(trial)) is not None:
            trial.state, trial.value = TrialState.COMPLETE, value
            shown.add_trial(trial)
    for name in PICTURES.split():
        with suppress(ValueError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of functions that may change some day
            axes = getattr(optuna.visualization.matplotlib, f"plot_{name}")(shown)
            if name == "intermediate_values":
                axes.set(xlabel="epoch", ylabel=study.space.metric, title="each trial")
                if len(shown.trials) > MOST_NAMED:
                    axes.get_legend().remove()
            axes.figure.savefig(folder / f"{name}.png", bbox_inches="tight")
            plt.close(axes.figure)
