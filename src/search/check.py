"""`check`: whether a changed config is better than a baseline, by pairs of runs with one seed."""

from __future__ import annotations

import csv
import json
import os
import shlex
import sys
import time
from hashlib import sha256
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from scipy.special import stdtrit

from src.cli import merged, pairs
from src.config import Config, Tree
from src.errors import WORSE, hint
from src.many import fits
from src.run_folder import check_name, root_of
from src.search.compare import SAME, Row, flat, over_seeds, read_run, read_table, table

OWN = {"baseline": "", "seeds": "5", "metric": "", "demand": "", "run": ""}
BUDGET = ("max_epochs", "max_steps", "max_time", "limit_train_batches", "limit_val_batches")
# What flags say of the trainer that is no change: for how long, and where runs are trained.
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
    if not own["baseline"] or own["demand"] not in ("", "better"):
        raise ValueError("check takes --baseline RUN or CONFIG, and perhaps --demand better")
    if not own["seeds"].isdecimal() or (num := int(own["seeds"])) < 2:
        raise ValueError(f"--seeds {own['seeds']} is not 2 or more: one pair has no spread")
    base = Path(own["baseline"])
    base = base / "config.yaml" if base.is_dir() else base
    files = [value for name, value in given if name == "config"] or [str(base)]
    flags = [flag for flag in given if flag[0] not in (*OWN, "config")]
    both = [flag for flag in flags if flag[0] in {f"trainer.{key}" for key in BOTH}]
    sides = {"baseline": ([str(base)], both), "changed": (files, flags)}
    trees = [merged(Config(), *side).checked() for side in sides.values()]
    options = [{k: v for k, v in flat(tree).items() if k not in SAME} for tree in trees]
    if options[0] == options[1]:
        raise ValueError("the change changes nothing: give --config FILE or --KEY VALUE")
    budgets = [
        ", ".join(f"{k} {v}" for k in BUDGET if (v := tree["trainer"].get(k)) not in (None, -1))
        for tree in trees
    ]
    if budgets[0] != budgets[1]:
        what = f"the baseline is trained for {budgets[0]}, the change for {budgets[1]}"
        raise ValueError(f"{what}: give --trainer.max_epochs N, say, which is for both")
    name = base.parent.name if base.name == "config.yaml" else Path(files[0]).stem
    if own["run"]:
        check_name(own["run"], "runs/check/")
    folder = root_of(trees[1]) / "check" / (own["run"] or name)
    seeds = range(first := trees[1]["seed_everything"], first + num)
    print(f"{folder}: {num} seeds, each trained for {budgets[0]}", flush=True)
    marks = dict(zip(sides, map(digest, trees), strict=True))
    runs = {(seed, s): folder / f"{s}-{marks[s]}-{seed}" for seed in seeds for s in sides}
    todo = [key for key, run in runs.items() if read_run(run, "").state != "done"]
    try:
        for is_first in (True, False):  # what can't be compared is known after two runs
            if part := [key for key in todo if (key[0] == first) == is_first]:
                fits([words(*sides[s], runs[seed, s], seed) for seed, s in part])
            metric = comparable(runs[first, "baseline"], runs[first, "changed"], own["metric"])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"python -m src check {shlex.join(argv)}") from None
    rows = {s: [read_run(runs[seed, s], metric) for seed in seeds] for s in sides}
    verdict = judged(rows, metric, folder / "check.csv")
    print(f"{verdict}  ({time.perf_counter() - start:.1f} s, {folder / 'check.csv'})")
    if verdict == "worse" or own["demand"] not in ("", verdict):
        sys.exit(WORSE)


def judged(sides: dict[str, list[Row]], metric: str, path: Path) -> str:
    """Prints both sides and their paired difference, and writes each seed's; the verdict.

    Args:
        sides: Of `baseline` and of `changed`: a run for each seed.
        metric: Its name.
        path: The CSV file.
    """
    first = sides["baseline"][0]
    old, new = ([row.values[0] for row in side] for side in sides.values())
    differences = [b - a for a, b in zip(old, new, strict=True)]
    mean, num, is_less = fmean(differences), len(differences), first.is_less(metric)
    half = float(stdtrit(num - 1, (1 + LEVEL) / 2)) * stdev(differences) / sqrt(num)  # Student's
    for name, side in sides.items():
        for row in side:  # without other metrics, of test rows above all
            row.name, row.more = name, {k: v for k, v in row.more.items() if "/" not in k}
    print(table(over_seeds([row for side in sides.values() for row in side]), 2))
    seeds = [row.config["seed_everything"] for row in sides["baseline"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("seed", *sides), *zip(seeds, old, new, strict=True)])
    print(
        f"{metric}, {'less' if is_less else 'more'} is better: changed - baseline = {mean:+.4g}, "
        f"{LEVEL:.0%} interval {mean - half:+.4g} to {mean + half:+.4g} (paired t, {num} seeds)"
    )
    better = "better" if (mean < 0) == is_less else "worse"
    return better if abs(mean) > half else "no difference"


def digest(tree: Tree) -> str:
    """Of a config, the code, and the files of data that it names: another has runs of its own."""
    code = [path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py"))]
    values = [*flat(tree["data"]).values(), *flat(tree["model"]).values()]
    named = [Path(text) for text in values if os.path.exists(text)]  # noqa: PTH110
    files = sorted(file for path in named for file in [path, *path.rglob("*")])
    texts = repr((tree, [(str(f), f.stat().st_mtime_ns) for f in files])).encode(), *code
    return sha256(b"".join(texts)).hexdigest()[:6]


def words(files: list[str], flags: list[tuple[str, str]], run: Path, seed: int) -> list[str]:
    """The words of `fit` for a run, or to go on with it, on one core."""
    how = [("trainer.devices", "1"), ("callbacks.threads", "Threads"), *flags]
    own = {"trainer.default_root_dir": run.parent, "run": run.name, "seed_everything": seed}
    pairs = [*(("config", file) for file in files), *how, *own.items(), ("resume", "auto")]
    return [f"--{key}={value}" for key, value in pairs]


def comparable(old: Path, new: Path, metric: str) -> str:
    """The metric that judges a run and another: if none is asked for, the first's own.

    Raises:
        ValueError: There is no verdict for these.
    """
    base = read_run(old, metric)
    metric, changed = base.metric, read_run(new, base.metric)
    if not base.values or not changed.values:
        names = [name for line in read_table(old / "metrics.csv")[:1] for name in line]
        raise ValueError(f"no {metric} in {old} or {new}{hint(metric, names)}")
    split, reports = metric.partition("/")[0], [old / "partition.json", new / "partition.json"]
    marks = [json.loads(path.read_text("utf-8"))["evaluated"].get(split) for path in reports]
    if marks[0] != marks[1]:
        what = f"no verdict: the {split} rows of the change are not those of the baseline"
        raise ValueError(f"{what}, so other rows judge it: change the train rows alone")
    return metric
