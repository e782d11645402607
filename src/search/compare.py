"""`compare`: runs and searches in one table, read from their folders, without torch."""

from __future__ import annotations

import csv
import json
import operator
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from math import inf, isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from src.errors import hint, short

SAME = ("seed_everything", "trainer.default_root_dir", "callbacks.threads")  # say nothing of a run
COLUMNS = ("trial", "state", "metric", "values", "epochs", "seconds", "num_weights", "data", "note")
STATES = ("done", "pruned", "unfinished", "failed")
WIDEST, LONGEST = 28, 75  # characters of a cell, and of a label
FLAGS = {
    "--metric": "NAME", "--sort": "KEY", "--where": "KEY=VALUE", "--csv": "FILE", "--plot": "FILE"
}  # fmt: skip
SIGNS: dict[str, Any] = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt}
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Row:
    """A run, or several that differ in their seed alone."""

    name: str  # its folder
    state: str
    metric: str  # what it is judged by
    values: list[float]  # of each seed, at the best epoch
    config: dict[str, str]  # options by their whole key
    data: str  # which rows, and how they were split
    more: dict[str, str]  # other columns
    modes: dict[str, str] = field(default_factory=dict)  # of each metric: is the least the best?

    def is_less(self, name: str) -> bool:
        """Whether less comes first, as it does of all that is no metric."""
        mode = self.modes.get(last := name.rpartition("/")[2])
        if self.config.get("callbacks.checkpoint.monitor") == name:
            mode = mode or self.config["callbacks.checkpoint.mode"]
        return mode == "min" if mode else last == "loss" or "/" not in name

    @property
    def order(self) -> tuple:
        """To sort by: what is comparable together, and there the best first."""
        mean = fmean(self.values) if self.values else inf
        turned = -mean if self.values and not self.is_less(self.metric) else mean
        return self.data, self.metric, STATES.index(self.state), turned

    def cells(self) -> dict[str, str]:
        own = {"run": self.name, "state": self.state, self.metric: spread(self.values)}
        return {**own, **self.more, **self.config, "data": self.data}

    def at(self, key: str) -> tuple[bool, Any]:
        """Where the row is when sorted by `key`: texts after numbers, and last what has none."""
        value = number(self.cells().get(key, ""))
        if isinstance(value, str):
            return True, value
        return False, value if self.is_less(key) else -value


def spread(values: list[float]) -> str:
    """The mean, with the standard deviation over the seeds."""
    differ = f" ± {stdev(values):.2g}" if len({*values}) > 1 else ""
    return f"{fmean(values):.6g}{differ}" if values else ""


def flat(tree: Any, key: str = "") -> dict[str, str]:
    """A config's options by their whole key; a class by its name, its options below it."""
    if isinstance(tree, dict) and "class_path" in tree:
        below = flat(tree.get("init_args") or {}, key)
        return {**below, key: tree["class_path"].rpartition(".")[2]}
    if isinstance(tree, dict) and tree:
        dot = f"{key}." if key else ""
        return {k: v for name, below in tree.items() for k, v in flat(below, dot + name).items()}
    if isinstance(tree, list):
        return {key: str([flat(i).get("", str(i)) if isinstance(i, dict) else i for i in tree])}
    return {key: str(tree)}


def read_config(path: Path) -> dict[str, str]:
    """A saved config, flat; nothing if there is none."""
    return flat(yaml.load(path.read_text("utf-8"), Loader) or {}) if path.is_file() else {}


def read_table(path: Path) -> list[dict[str, str]]:
    """A CSV file with a header; nothing if there is none."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [*csv.DictReader(lines)]


def read_model(folder: Path) -> dict[str, Any]:
    """What a run says of its model; nothing if it has not begun."""
    path = folder / "model.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def read_run(folder: Path, metric: str) -> Row:
    """A run folder; judged by what chose its best checkpoint, unless there is a metric."""
    config, path = read_config(folder / "config.yaml"), folder / "metrics.csv"
    metric = metric or config.get("callbacks.checkpoint.monitor", "val/loss")
    lines = read_table(path)
    values = [float(line[metric]) for line in lines if line.get(metric)]
    more = {k: v for line in lines for k, v in line.items() if k.startswith("test/") and v}
    state = "done" if more else "unfinished"
    if lines:
        seconds = path.stat().st_mtime - (folder / "config.yaml").stat().st_mtime
        epochs = sum(bool(line.get("train/loss")) for line in lines)
        more |= {"epochs": str(epochs), "seconds": f"{seconds:.1f}"}
    if model := read_model(folder):
        more["num_weights"] = str(model["num_weights"])
    what = state, metric, values, config, fingerprint(folder), more
    row = Row(str(folder), *what, model.get("modes", {}))
    finite = [value for value in values if isfinite(value)]
    row.values = [(min if row.is_less(metric) else max)(finite)] if finite else []
    return row


def read_search(folder: Path) -> list[Row]:
    """Every trial of a search: its config, as far as it is here, with what it chose."""
    rows = []
    for line in read_table(folder / "leaderboard.csv"):
        config = read_config(folder / "trials" / line["trial"] / "config.yaml")
        config |= {k: v for k, v in line.items() if k not in COLUMNS and v}
        more = {k: line[k] for k in ("epochs", "seconds", "num_weights", "note")}
        what = line["state"], line["metric"], json.loads(line["values"]), config, line["data"]
        trial = folder / "trials" / line["trial"]
        rows.append(Row(str(trial), *what, more, read_model(trial).get("modes", {})))
    return rows


def read(path: Path, metric: str) -> list[Row]:
    """The runs of a run folder, of a search, or of a folder of either.

    Raises:
        ValueError: There are none.
    """
    rows = []
    names = ("leaderboard.csv", "config.yaml")
    found = [file for name in names for file in path.glob(name)]
    found = found or [file for name in names for file in path.glob(f"*/{name}")]
    for folder in sorted({file.parent for file in found}):
        is_search = (folder / names[0]).is_file()
        try:
            rows += read_search(folder) if is_search else [read_run(folder, metric)]
        except Exception as error:  # whatever a person or another program has put there
            print(f"warning: {folder} is left out: {short(repr(error))}", file=sys.stderr)
    if not rows:
        raise ValueError(f"{path} holds no runs: give run folders, or what `search` left in runs/")
    return rows


def fingerprint(folder: Path) -> str:
    """Which rows a run has seen, and how they were split."""
    path = folder / "partition.json"
    report = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    key = report.get("key", "").rpartition(", (")[0]  # without the names of the targets
    return f"{report.get('fingerprint', 'unknown')[:8]}, {key}"


def over_seeds(rows: list[Row]) -> list[Row]:
    """Puts runs that differ in their seed alone into one row, with the means of all columns."""
    groups: dict[Any, list[Row]] = {}
    seen: Counter = Counter()
    for row in rows:
        config = sorted((k, v) for k, v in row.config.items() if not k.startswith(SAME))
        same = row.state, row.metric, row.data, *config
        seed = same, row.config.get("seed_everything")
        seen[seed] += 1  # the same seed again is another run
        groups.setdefault((same, seen[seed]), []).append(row)
    for first, *others in filter(lambda group: len(group) > 1, groups.values()):
        for row in others:
            first.values = first.values + row.values
        for name in first.more.keys() - {"note"}:
            texts = [row.more.get(name) for row in (first, *others)]
            first.more[name] = spread([float(text) for text in texts if text])
    return [group[0] for group in groups.values()]


def differing(rows: list[Row], cells: list[dict[str, str]]) -> list[str]:
    """The names of the cells to show: options that are all alike left out."""
    keys = dict.fromkeys(k for row in rows for k in row.config)
    alike = {k for k in keys if len({c[k] for c in cells if k in c}) == 1 or k.startswith(SAME)}
    alike |= {"data", "note"}
    return [k for k in dict.fromkeys(k for c in cells for k in c) if k not in alike]


def table(rows: list[Row], num: int) -> str:
    """A line for each row, aligned, under short names."""
    cells = [row.cells() for row in rows]
    names = differing(rows, cells)
    shorts = [k.rpartition(".")[2] for k in names]
    head = [s if shorts.count(s) == 1 else k for s, k in zip(shorts, names, strict=True)]
    above = os.path.commonpath([Path(row.name).absolute().parent for row in rows])
    body = [
        [str(i) if row.state == "done" else "", os.path.relpath(row.name, above)]
        + [c[k] if k == row.metric else brief(c.get(k, "")) for k in names[1:]]
        + [row.more.get("note", "")]
        for i, (row, c) in enumerate(zip(rows[:num], cells, strict=False), 1)
    ]
    columns = [column for column in zip(["", *head, "note"], *body, strict=True) if any(column[1:])]
    aligned = ([cell.ljust(max(map(len, column))) for cell in column] for column in columns)
    lines = ["  ".join(line).rstrip() for line in zip(*aligned, strict=True)]
    return "\n".join([*lines, *[f"and {len(rows) - num} more"] * (len(rows) > num)])


def brief(cell: str) -> str:
    """A number with four digits, a long text with its end."""
    mean, sign, differ = cell.partition(" ± ")
    try:
        return f"{float(mean):.4g}{sign}{differ}" if set(cell) & set(".e") else cell
    except ValueError:
        return cell if len(cell) <= WIDEST else f"...{cell[3 - WIDEST :]}"


def number(cell: str) -> float | str:
    """A cell as a number, of a mean with its spread the mean; or as the text that it is."""
    try:
        return float(cell.partition(" ± ")[0])
    except ValueError:
        return cell


def key_of(name: str, rows: list[Row]) -> str:
    """The whole key of what is named by it or, as in a table, by its end.

    Raises:
        ValueError: There is none, or there are several.
    """
    keys = {k: k.rpartition(".")[2] for row in rows for k in row.cells() if k not in SAME}
    found = [k for k, end in keys.items() if name in (k, end)]
    if name in keys or len(found) == 1:
        return name if name in keys else found[0]
    if found:
        raise ValueError(f"{name} may be {' or '.join(found)}: give one of these")
    names = dict.fromkeys([*keys, *keys.values()])
    raise ValueError(f"no run here has {name}{hint(name, names)}")


def chosen(rows: list[Row], text: str) -> list[Row]:
    """The rows of which `KEY=VALUE` is true, or the same with another sign.

    Raises:
        ValueError: It is no such text, or true of none.
    """
    if not (parts := re.fullmatch("([^!=<>]+)(!=|[=<>])(.+)", text)):
        raise ValueError(f"--where {text!r} is none of KEY=VALUE, KEY!=VALUE, 'KEY<N', 'KEY>N'")
    key, sign, wanted = key_of(parts[1], rows), parts[2], number(parts[3])
    found = []
    for row in rows:
        value = number(row.cells().get(key, ""))
        alike = type(value) is type(wanted)
        found += [row] * (SIGNS[sign](value, wanted) if alike else sign == "!=")
    if not found:
        raise ValueError(f"--where {text}: true of no run here")
    return found


def labelled(rows: list[Row]) -> list[tuple[str, bool, list[float]]]:
    """Each row as a picture shows it, with the options in which it differs from the others."""
    names = differing(rows, [row.cells() for row in rows])
    names.sort(key=lambda name: name.startswith("trainer."))
    found = []
    for row in rows:
        own = [f"{k.rpartition('.')[2]} {brief(row.config[k])}" for k in names if k in row.config]
        head = f"{Path(row.name).name}: {brief(spread(row.values))}"
        label = short(", ".join([head, *own]), LONGEST)
        found.append((label, row.state == "done", row.values))
    return found


def compare(argv: list[str]) -> None:
    """Prints a table for each set of rows, split and metric: others aren't comparable.

    Raises:
        ValueError: A word is no folder of runs, or a flag is wrong.
    """
    num = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
    given = [*zip(argv[num::2], argv[num + 1 :: 2], strict=False)]
    flags = dict(given)
    if not num or {*argv[num::2]} - FLAGS.keys() or len(argv[num:]) % 2:
        takes = " ".join(f"[{flag} {value}]" for flag, value in FLAGS.items())
        raise ValueError(f"compare takes runs/NAME ... {takes}")
    asked = flags.get("--metric", "")
    found = [row for word in argv[:num] for row in read(Path(word), asked)]
    if asked and not any(row.values for row in found if row.metric == asked):
        raise ValueError(f"--metric {asked}: no run here has it")
    rows = sorted(over_seeds(found), key=lambda row: row.order)
    for text in [value for flag, value in given if flag == "--where"]:
        rows = chosen(rows, text)
    if name := flags.get("--sort"):
        key = key_of(name, rows)
        rows.sort(key=lambda row: (*row.order[:2], *row.at(key)))
    groups = groupby(rows, lambda row: row.order[:2])
    tables = {f"{metric}, data {data}": [*group] for (data, metric), group in groups}
    for i, (title, group) in enumerate(tables.items()):
        print(f"{chr(10) * (i > 0)}{title}\n{table(group, len(rows))}")
    if path := flags.get("--csv"):
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, dict.fromkeys(k for row in rows for k in row.cells()))
            out.writeheader()
            out.writerows(row.cells() for row in rows)
    if path := flags.get("--plot"):
        from src.search.pictures import draw

        drawn = {
            title: labelled([row for row in group if row.values]) for title, group in tables.items()
        }
        if not any(drawn.values()):
            raise ValueError(f"--plot {path}: no run here has a value to draw")
        draw({title: rows for title, rows in drawn.items() if rows}, Path(path))
