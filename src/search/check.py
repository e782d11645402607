"""`check`: whether a changed config is better than a baseline, by pairs of runs with one seed."""

from __future__ import annotations

import csv
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from scipy.special import stdtrit

from src.cli import merged, pairs
from src.config import SECTIONS, Config, Tree, load, options
from src.errors import WORSE, hint
from src.many import fits
from src.run_folder import root_of
from src.search.compare import SAME, flat, over_seeds, read_run, read_table, table

OWN = {"baseline": "", "seeds": "5", "metric": "", "demand": "not worse", "run": ""}
BUDGET = ("max_epochs", "max_steps", "max_time", "limit_train_batches", "limit_val_batches")
# What flags say of the trainer that is no change: where runs are trained, and for how long.
BOTH = (*BUDGET, "accelerator", "default_root_dir", "devices", "limit_test_batches", "logger")
LEVEL = 0.95  # of the interval


def check(argv: list[str]) -> None:
    """Trains both with several seeds, and prints the verdict.

    Raises:
        ValueError: A flag is wrong, or the two can't be compared.
        KeyboardInterrupt: It can be gone on with.
        SystemExit: With `WORSE`: the change is worse, or not better and that is demanded.
    """
    start, given = time.perf_counter(), [*pairs(argv, OWN)]
    own = OWN | {name: value for name, value in given if name in OWN}
    _refuse(own)
    path = Path(own["baseline"])
    path = path / "config.yaml" if path.is_dir() else path
    files = [value for name, value in given if name == "config"] or [str(path)]
    flags = [flag for flag in given if flag[0] not in (*OWN, "config")]
    both = [flag for flag in flags if flag[0] in {f"trainer.{key}" for key in BOTH}]
    sides = {"baseline": ([str(path)], both), "changed": (files, flags)}
    trees = {side: merged(Config(), *of).checked() for side, of in sides.items()}
    file = Path(files[0])
    name = own["run"] or (file.parent.name if file.stem == "config" else file.stem)
    folder = root_of(trees["changed"]) / "check" / name
    if Path(name).name != name:
        raise ValueError(f"--run {name!r} is not the name of a folder below {folder.parent}/")
    first, num = trees["changed"]["seed_everything"], int(own["seeds"])
    print(f"{folder}: {num} runs of each, {_budget(trees)}", flush=True)
    marks = {side: digest(tree) for side, tree in trees.items()}
    seeds = range(first, first + num)
    runs = {(s, seed): folder / f"{s}-{marks[s]}-{seed}" for seed in seeds for s in sides}
    todo = [key for key in runs if read_run(runs[key], "").state != "done"]
    try:
        for part in (todo[:2], todo[2:]):  # what can't be compared is known after two runs
            if part:
                fits([words(*sides[key[0]], runs[key], key[1]) for key in part])
            metric = comparable(runs["baseline", first], runs["changed", first], own["metric"])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"python -m src check {shlex.join(argv)}") from None
    rows = {side: [read_run(runs[side, seed], metric) for seed in seeds] for side in sides}
    old, new = ([row.values[0] for row in rows[side]] for side in sides)
    is_less = rows["baseline"][0].is_less(metric)
    mean, half = interval([b - a for a, b in zip(old, new, strict=True)])
    verdict = "better" if (mean < 0) == is_less else "worse"
    verdict = verdict if abs(mean) > half else "no difference"
    shown = []
    for side in sides:
        for row in rows[side]:
            row.name = str(folder / side)
            kept = {k: v for k, v in row.more.items() if metric[:5] == "test/" or k[:5] != "test/"}
            row.more = kept
        shown += over_seeds(rows[side])
    print(table(shown, len(shown)))
    with (folder / "check.csv").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerow(["seed", "baseline", "changed", "metric"])
        csv.writer(out).writerows(zip(seeds, old, new, [metric] * num, strict=True))
    print(
        f"{metric}, {'less' if is_less else 'more'} is better: changed {fmean(new):.6g} - baseline "
        f"{fmean(old):.6g} = {mean:+.3g}, {LEVEL:.0%} interval {mean - half:+.3g} to "
        f"{mean + half:+.3g} (paired t over {num} seeds, {num - 1} degrees of freedom)"
    )
    print(f"{verdict}  ({time.perf_counter() - start:.1f} s, {folder / 'check.csv'})")
    if verdict == "worse" or own["demand"] not in (OWN["demand"], verdict):
        sys.exit(WORSE)


def _refuse(own: dict[str, str]) -> None:
    if not own["baseline"]:
        raise ValueError("check needs a baseline: give --baseline, a run folder or a config")
    if not own["seeds"].isdecimal() or int(own["seeds"]) < 2:
        raise ValueError(f"--seeds {own['seeds']} is not 2 or more: a single pair has no spread")
    if own["demand"] not in (OWN["demand"], "better"):
        raise ValueError(f"--demand {own['demand']} is not known: give --demand better")
    if own["metric"] and not own["metric"].startswith(("val/", "test/")):
        raise ValueError(f"--metric {own['metric']} is of no val or test rows: give val/loss, say")


def _budget(trees: dict[str, Tree]) -> str:
    """How long both are trained, in words.

    Raises:
        ValueError: One longer than the other.
    """
    there, found = options(load(SECTIONS["trainer"])), []
    for key in BUDGET:
        default = there[key].default
        old, new = (tree["trainer"].get(key, default) for tree in trees.values())
        if old != new:
            what = f"`trainer.{key}` is {new}, and {old} in the baseline"
            raise ValueError(f"{what}: give --trainer.{key} VALUE, which is for both")
        found += [f"{key} {new}"] * (new != default)
    return ", ".join(found) or "as long as the trainer's defaults say"


def digest(tree: Tree) -> str:
    """Of a config, the code, and the files of data that it names: another has runs of its own."""
    code = [path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py"))]
    named = [path for path in flat(tree["data"]).values() if os.path.exists(path)]  # noqa: PTH110
    texts = repr((tree, [Path(path).stat().st_mtime_ns for path in named])).encode(), *code
    return sha256(b"".join(texts)).hexdigest()[:6]


def words(files: list[str], flags: list[tuple[str, str]], run: Path, seed: int) -> list[str]:
    """The words of `fit` for a run, or to go on with it, on one core."""
    own = {"trainer.default_root_dir": run.parent, "run": run.name, "seed_everything": seed}
    given = [("config", file) for file in files]
    given += [("trainer.devices", "1"), ("callbacks.threads", "Threads"), *flags]
    return [f"--{key}={value}" for key, value in (*given, *own.items(), ("resume", "auto"))]


def comparable(old: Path, new: Path, metric: str) -> str:
    """The metric that judges a run and another: if none is asked for, the first's own.

    Raises:
        ValueError: There is no verdict for these.
    """
    base = read_run(old, metric)
    metric, changed = base.metric, read_run(new, base.metric)
    both = base.config, changed.config
    keys = [k for k in {**both[0], **both[1]} if not k.startswith(SAME)]
    if all(both[0].get(key) == both[1].get(key) for key in keys):
        raise ValueError("the change changes nothing: give --config FILE or --KEY VALUE")
    split = metric.partition("/")[0]
    reports = [json.loads((run / "partition.json").read_text("utf-8")) for run in (old, new)]
    marks = [report["evaluated"][split] for report in reports]
    if marks[0] != marks[1]:
        what = f"no verdict: the {split} rows of the change are not those of the baseline"
        raise ValueError(f"{what}: change the train rows alone, or compare it by hand")
    for row, run in (base, old), (changed, new):
        if not row.values:
            names = [name for line in read_table(run / "metrics.csv")[:1] for name in line]
            raise ValueError(f"no {metric} in {run}{hint(metric, names)}")
    if base.is_less(metric) != changed.is_less(metric):
        raise ValueError(
            f"less {metric} is better for one, more for the other: see callbacks.checkpoint"
        )
    return metric


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Their mean, and how far the ends of its interval by Student's t are from it."""
    num = len(differences)
    spread = stdev(differences) / sqrt(num)
    return fmean(differences), float(stdtrit(num - 1, (1 + LEVEL) / 2)) * spread
