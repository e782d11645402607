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

import optuna
from matplotlib import pyplot as plt
from optuna.trial import TrialState

from src.cli import run
from src.search.compare import COLUMNS, fingerprint, read_search
from src.search.study import LABELS, Study, name_of

ALONE = ("--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto")
PICTURES = {
    "history": "plot_optimization_history",
    "parallel_coordinates": "plot_parallel_coordinate",
    "importance": "plot_param_importances",
    "learning_curves": "plot_intermediate_values",
}


def save(study: Study, folder: Path) -> None:
    """Writes the leaderboard, and the best trial's config and checkpoint beside it."""
    trials = sorted(study.trials(), key=study.order)
    keys = dict.fromkeys(k for t in trials for k in t.user_attrs.get("chosen", {}))
    rows = []
    for trial in trials:
        attrs, name = trial.user_attrs, name_of(trial)
        best = study.best_value(trial)
        values = attrs["values"] if trial.state == TrialState.COMPLETE else [best]
        rows.append({
            "trial": name,
            "state": LABELS[trial.state],
            "metric": study.space.metric,
            "values": json.dumps([v for v in values if v is not None]),
            "epochs": len(trial.intermediate_values),
            "seconds": f"{attrs.get('seconds', 0):.1f}",
            "num_weights": attrs.get("num_weights", ""),
            "data": fingerprint(folder / "trials" / name),
            "note": attrs.get("note", ""),
            **attrs.get("chosen", {}),
        })  # fmt: skip
    text = io.StringIO()
    out = csv.DictWriter(text, [*COLUMNS, *keys], lineterminator="\n")
    out.writeheader()
    out.writerows(rows)
    replace(folder / "leaderboard.csv", text.getvalue())
    if trials and trials[0].state == TrialState.COMPLETE:
        trial = folder / "trials" / name_of(trials[0])
        command = f"# python -m src fit --config {folder / 'best.yaml'}\n"
        about = f"# trial {trial.name}: {study.space.metric} {trials[0].user_attrs['values'][0]!r}\n"
        replace(folder / "best.yaml", command + about + (trial / "config.yaml").read_text("utf-8"))


def replace(path: Path, text: str) -> None:
    """Writes a file whole, or not at all; several workers may do so at a time."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def test_best(study: Study, folder: Path) -> None:
    """Tests the best trial's checkpoint, once, and prints how to go on."""
    best = min(study.trials(), key=study.order, default=None)
    if best is None or best.state != TrialState.COMPLETE:
        print("no trial was trained to its end")
        return
    path = folder / "trials" / name_of(best) / "checkpoints" / "best.ckpt"
    shutil.copyfile(path, folder / "best.ckpt")
    tested = folder / "test.json"
    known = json.loads(tested.read_text("utf-8")) if tested.is_file() else {}
    if known.get("trial") != path.parts[-3]:
        with redirect_stdout(io.StringIO()):
            known = {"trial": path.parts[-3], **run("test", ["--ckpt_path", str(path), *ALONE])}
        replace(tested, json.dumps(known))
    [row, *_] = read_search(folder)
    print(f"best: trial {known.pop('trial')}  {row.metric} {row.shown}")
    for name, value in known.items():
        print(f"{name} {value:.6g}")


def draw(study: Study, folder: Path) -> None:
    """Draws the search; what needs more trials than there are is left out."""
    folder.mkdir(exist_ok=True)
    shown = optuna.create_study(direction=study.study.direction)
    shown.add_trials([t for t in study.trials() if t.state.is_finished()])
    for name, function in PICTURES.items():
        with suppress(ValueError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of functions that may change some day
            axes = getattr(optuna.visualization.matplotlib, function)(shown)
            axes.figure.savefig(folder / f"{name}.png", bbox_inches="tight")
            plt.close(axes.figure)
