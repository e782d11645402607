"""`compare`: runs and searches in one table, read from their folders, without torch."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from math import nan
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

SAME = ("seed_everything", "trainer.default_root_dir", "callbacks.threads")  # say nothing of a run
COLUMNS = ("trial", "state", "metric", "values", "epochs", "seconds", "num_weights", "data", "note")
FLAGS = ("--metric", "--sort", "--where", "--top", "--csv", "--plot")
STATES = ("done", "pruned", "unfinished", "failed")  # in this order
WIDEST = 28  # characters of a cell
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Row:
    """A run, or several that differ in their seed alone.

    Args:
        name: Its folder.
        state: One of `STATES`.
        metric: What it is judged by.
        values: Of each seed, at the best epoch.
        config: Options by their whole key.
        data: Fingerprint of the rows, and how they were split.
        more: Other columns: epochs, seconds, weights, test metrics.
        note: Why it has no better state.
    """

    name: str
    state: str
    metric: str
    values: list[float]
    config: dict[str, str]
    data: str
    more: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def score(self) -> float:
        """The mean over the seeds; turned so that less is better."""
        mean = fmean(self.values) if self.values else nan
        return mean if is_less(self.metric, self.config) else -mean

    @property
    def shown(self) -> str:
        """The mean, with the standard deviation over the seeds."""
        spread = f" ± {stdev(self.values):.2g}" if len(self.values) > 1 else ""
        return f"{fmean(self.values):.6g}{spread}" if self.values else ""

    def cells(self) -> dict[str, str]:
        """All that can be sorted by, filtered or written."""
        own = {"run": self.name, "state": self.state, self.metric: self.shown}
        return {**own, **self.more, **self.config, "data": self.data, "note": self.note}


def flat(tree: Any, key: str = "") -> dict[str, str]:
    """A config's options by their whole key; a class by its name, its options below it."""
    if isinstance(tree, dict) and "class_path" in tree:
        below = flat(tree.get("init_args") or {}, key)
        return {**below, key: tree["class_path"].rpartition(".")[2]}
    if isinstance(tree, dict) and tree:
        dot = f"{key}." if key else ""
        return {k: v for name, below in tree.items() for k, v in flat(below, dot + name).items()}
    if isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        return {key: ", ".join(flat(item).get("", str(item)) for item in tree)}
    return {key: str(tree)}


def read_config(path: Path) -> dict[str, str]:
    """A saved config, flat."""
    return flat(yaml.load(path.read_text("utf-8"), Loader))


def read_table(path: Path) -> list[dict[str, str]]:
    """A CSV file with a header."""
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def read_run(folder: Path, metric: str) -> Row:
    """One run folder; it is judged by what chose its best checkpoint, unless there is a metric."""
    config, path = read_config(folder / "config.yaml"), folder / "metrics.csv"
    metric = metric or config.get("callbacks.checkpoint.monitor", "val/loss")
    lines = read_table(path) if path.is_file() else []
    values = [float(line[metric]) for line in lines if line.get(metric)]
    more = {k: v for line in lines for k, v in line.items() if k.startswith("test/") and v}
    state = "done" if more else "unfinished"
    seconds = path.stat().st_mtime - (folder / "config.yaml").stat().st_mtime if lines else 0.0
    more |= {"epochs": str(len(values)), "seconds": f"{seconds:.1f}"}
    best = [(min if is_less(metric, config) else max)(values)] if values else []
    return Row(str(folder), state, metric, best, config, fingerprint(folder), more)


def read_search(folder: Path) -> list[Row]:
    """Every trial of a search: the config of the best, with what the trial chose."""
    path, rows = folder / "best.yaml", []
    base = read_config(path) if path.is_file() else {}
    for line in read_table(folder / "leaderboard.csv"):
        chosen = {k: v for k, v in line.items() if k not in COLUMNS and v}
        others = tuple(
            f"{k}." for k, v in chosen.items() if base.get(k, v) != v
        )  # of other classes
        config = {k: v for k, v in base.items() if not k.startswith(others)} | chosen
        more = {k: line[k] for k in ("epochs", "seconds", "num_weights")}
        what = line["state"], line["metric"], json.loads(line["values"]), config, line["data"]
        rows.append(Row(str(folder / "trials" / line["trial"]), *what, more, line["note"]))
    return rows


def read(path: Path, metric: str) -> list[Row]:
    """The runs of a run folder, of a search, or of a folder of either.

    Raises:
        ValueError: There are none.
    """
    if (path / "leaderboard.csv").is_file():
        return read_search(path)
    if (path / "config.yaml").is_file():
        return [read_run(path, metric)]
    below = sorted({*path.glob("*/config.yaml"), *path.glob("*/leaderboard.csv")})
    if not below:
        raise ValueError(f"{path} holds no runs: give run folders, or what `search` left in runs/")
    return [row for file in below for row in read(file.parent, metric)]


def is_less(metric: str, config: dict[str, str]) -> bool:
    """Whether less of a metric is better."""
    if config.get("callbacks.checkpoint.monitor") == metric:
        return config["callbacks.checkpoint.mode"] == "min"
    return metric.endswith(("loss", "rmse", "mae"))


def fingerprint(folder: Path) -> str:
    """Which rows a run has seen, and how they were split."""
    path = folder / "partition.json"
    report = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return f"{report.get('fingerprint', 'unknown')[:8]}, {report.get('key', '')}"


def over_seeds(rows: list[Row]) -> list[Row]:
    """Puts runs that differ in their seed alone into one row."""
    found: dict[Any, Row] = {}
    seen = Counter[Any]()
    for row in rows:
        same = row.state, row.metric, row.data, *sorted(differing(row.config).items())
        again = same, row.config.get("seed_everything")
        seen[again] += 1
        first = found.setdefault((same, seen[again]), row)
        if first is not row:
            first.values = first.values + row.values
    return [*found.values()]


def differing(config: dict[str, str]) -> dict[str, str]:
    """The options that say something about a run."""
    return {k: v for k, v in config.items() if not k.startswith(SAME)}


def table(rows: list[Row], num: int) -> str:
    """A line for each row, aligned, under short names; columns that are all alike left out."""
    cells = [row.cells() for row in rows]
    keys = dict.fromkeys(k for row in rows for k in row.config)
    alike = {k for k in keys if len({c[k] for c in cells if k in c}) == 1 or k.startswith(SAME)}
    hidden = {*alike, "data", "note"}
    names = [*(k for k in dict.fromkeys(k for c in cells for k in c) if k not in hidden), "note"]
    above = os.path.commonpath([Path(row.name).parent for row in rows])
    shorts = [k.rpartition(".")[2] for k in names]
    head = ["", *(s if shorts.count(s) == 1 else k for s, k in zip(shorts, names, strict=True))]
    done = iter(range(1, len(rows) + 1))
    body = [
        [str(next(done)) if row.state == "done" else "", os.path.relpath(row.name, above)]
        + [c[k] if k in ("note", row.metric) else brief(c.get(k, "")) for k in names[1:]]
        for row, c in zip(rows[:num], cells, strict=False)
    ]
    columns = [c for c in zip(head, *body, strict=True) if any(c[1:])]
    wide = [max(map(len, column)) for column in columns]
    lines = zip(
        *([c.ljust(w) for c in col] for col, w in zip(columns, wide, strict=True)), strict=True
    )
    rest = [f"and {len(rows) - num} more"] if len(rows) > num else []
    return "\n".join(["  ".join(line).rstrip() for line in lines] + rest)


def brief(cell: str) -> str:
    """A number with four digits, a long text with its end."""
    try:
        return f"{float(cell):.4g}" if set(cell) & set(".e") else cell
    except ValueError:
        return cell if len(cell) <= WIDEST else f"...{cell[3 - WIDEST :]}"


def compare(argv: list[str]) -> None:
    """Prints a table for each set of rows, split and metric: others aren't comparable.

    Raises:
        ValueError: A word is no folder of runs and no flag.
    """
    num = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
    paths, words = [Path(word) for word in argv[:num]], argv[num:]
    flags = dict(zip(words[::2], words[1::2], strict=False))
    if wrong := [word for word in words[::2] if word not in FLAGS or word not in flags]:
        raise ValueError(f"compare {wrong[0]}: give RUN ... and {' VALUE, '.join(FLAGS)} VALUE")
    if not paths:
        raise ValueError("compare needs folders: runs/NAME ..., or runs/search/NAME")
    if not flags.get("--top", "1").isdigit():
        raise ValueError(f"--top is {flags['--top']}, not a number of lines")
    rows = over_seeds([row for path in paths for row in read(path, flags.get("--metric", ""))])
    key, _, value = flags.get("--where", "").partition("=")
    if key:
        rows = [row for row in rows if row.cells().get(key) == value]
    rows.sort(
        key=lambda row: (row.data, row.metric, STATES.index(row.state), not row.values, row.score)
    )
    if by := flags.get("--sort"):
        rows.sort(key=lambda row: (row.data, row.metric, number(row.cells().get(by, ""))))
    for i, ((data, metric), group) in enumerate(groupby(rows, lambda row: (row.data, row.metric))):
        print("\n" * bool(i) + f"{metric}, data {data}")
        print(table([*group], int(flags.get("--top", "30"))))
    if path := flags.get("--csv"):
        names = dict.fromkeys(k for row in rows for k in row.cells())
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, [*names])
            out.writeheader()
            out.writerows(row.cells() for row in rows)
    if path := flags.get("--plot"):
        plot([row for row in rows if row.values], Path(path))


def number(cell: str) -> tuple[bool, float, str]:
    """A cell to sort by: numbers, then texts."""
    try:
        return False, float(cell.partition(" ")[0]), ""
    except ValueError:
        return True, 0.0, cell


def plot(rows: list[Row], path: Path) -> None:
    """Draws the value of each row, the spread over its seeds as a bar."""
    from matplotlib.figure import Figure

    figure = Figure((8, 1.5 + 0.25 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlabel=", ".join({row.metric: 0 for row in rows}))
    names = [row.name for row in rows]
    spreads = [stdev(row.values) if len(row.values) > 1 else 0.0 for row in rows]
    axes.errorbar([fmean(row.values) for row in rows], names, xerr=spreads, fmt="o")
    axes.invert_yaxis()
    figure.savefig(path)
