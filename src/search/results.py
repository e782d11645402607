"""What a search leaves: `leaderboard.csv`, `best.yaml`, `best.ckpt`, pictures, one test."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import warnings
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import optuna
from matplotlib import pyplot as plt
from optuna.trial import TrialState, create_trial

from src.cli import run
from src.search.compare import COLUMNS, read_search
from src.search.study import LABELS, Study, name_of

ALONE = ("--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto")
PICTURES = "optimization_history parallel_coordinate param_importances intermediate_values"


def save(study: Study, folder: Path) -> None:
    """Writes the leaderboard, and the best trial's config and checkpoint beside it."""
    trials = sorted(study.trials(), key=study.order)
    chosen = dict.fromkeys(k for t in trials for k in t.user_attrs.get("chosen", {}))
    text = io.StringIO()
    out = csv.DictWriter(text, [*COLUMNS, *chosen], lineterminator="\n")
    out.writeheader()
    for trial in trials:
        attrs, about = trial.user_attrs, trial.user_attrs.get("about", {})
        is_done, best = trial.state == TrialState.COMPLETE, study.best_value(trial)
        values = attrs["values"] if is_done else [] if best is None else [best]
        cells = (
            name_of(trial), LABELS[trial.state], study.space.metric, json.dumps(values),
            len(trial.intermediate_values), f"{attrs.get('seconds', 0):.1f}",
            about.get("num_weights"), about.get("data"), attrs.get("note"),
        )  # fmt: skip
        out.writerow(dict(zip(COLUMNS, cells, strict=True)) | attrs.get("chosen", {}))
    replace(folder / "leaderboard.csv", text.getvalue())
    if not trials or trials[0].state != TrialState.COMPLETE:
        return
    config = folder / "trials" / name_of(trials[0]) / "config.yaml"
    if config.is_file():  # trained on this machine
        command = f"# python -m src fit --config {folder / 'best.yaml'}\n"
        about = f"# {study.space.metric} {trials[0].user_attrs['values'][0]!r} as {config.parent}\n"
        replace(folder / "best.yaml", command + about + config.read_text("utf-8"))


def replace(path: Path, text: str) -> None:
    """Writes a file whole, or not at all; several workers may do so at a time."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def test_best(study: Study, folder: Path) -> None:
    """Tests the best trial's checkpoint, once, and prints what it reaches."""
    best = min(study.trials(), key=study.order, default=None)
    if best is None or best.state != TrialState.COMPLETE:
        print("no trial was trained to its end")
        return
    name, tested = name_of(best), folder / "test.json"
    [row, *_] = read_search(folder)
    print(f"best: trial {name}  {row.metric} {row.shown}")
    path = folder / "trials" / name / "checkpoints" / "best.ckpt"
    if not path.is_file():
        print(f"its checkpoint is on {best.user_attrs['about']['host']}")
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
    for trial in study.trials():
        if (value := study.best_value(trial)) is not None:
            names = ("params", "distributions", "intermediate_values")
            what: dict[str, Any] = {name: getattr(trial, name) for name in names}
            shown.add_trial(create_trial(value=value, **what))
    for name in PICTURES.split():
        with suppress(ValueError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of functions that may change some day
            axes = getattr(optuna.visualization.matplotlib, f"plot_{name}")(shown)
            axes.figure.savefig(folder / f"{name}.png", bbox_inches="tight")
            plt.close(axes.figure)
