"""What is in a file: its columns, classes and copies, and what would spoil a result."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from src.data.content import hash_rows
from src.data.rows import Rows
from src.data.sources import Arrays, Images, Table
from src.data.sources.cells import Cells, read_cells
from src.data.sources.images import need_pillow
from src.errors import short

IDS = re.compile(r"(?i:(^|[\W_])(id|uuid|guid|key|index)$)|[a-z]I[dD]$")
TARGETS = re.compile(r"(?i)(target|label|class|outcome|y|price|churn|survived|diagnosis|quality)$")
OUT = "left out"
SHOWN = 12  # columns, classes
SAMPLE = 5000  # rows that slow questions look at
LEAK = 0.99  # of 1: what a column alone may tell of the target
AXES = ("values", "channels and length", "channels, height and width")


@dataclass
class Seen:
    """What a file holds: lines for a person, and values for the template of a config."""

    rows: Rows
    says: list[str]
    values: dict[str, Any]


def look(path: Path, target: str | None) -> Seen:
    """Reads a file or a folder by the source that fits.

    Raises:
        ValueError: It can't be used, or a table needs a target.
        FileNotFoundError: It isn't there.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    is_arrays = path.suffix in (".npz", ".npy") or any(path.glob("*.npy"))
    if not is_arrays and path.is_file():
        seen = look_at_table(path, target)
    elif target:
        raise ValueError(
            f"--target {target} is for a table: {path} has `y` or folders, leave it out"
        )
    else:
        seen = look_at_arrays(path) if is_arrays else look_at_images(path)
    seen.values["path"] = plain(str(path))
    look_at_target(seen, f"target `{target or 'y'}`")
    ids = hash_rows(seen.rows.x) if seen.rows.ids is None else seen.rows.ids
    num = len(np.unique(ids))
    if copies := len(seen.rows) - num:
        both = np.column_stack([ids, np.unique(seen.rows.y, axis=0, return_inverse=True)[1]])
        torn = len(np.unique(both, axis=0)) - num
        seen.says.append(f"{copies:,} rows are copies of others, {torn:,} with another target")
        are_cases = "group_by" in seen.values and copies > num / 10
        seen.values |= {"duplicates": "allow" if are_cases else "drop", "copies": f"{copies:,}"}
    return seen


def look_at_table(path: Path, target: str | None) -> Seen:
    cells = read_cells(path)
    columns = {name: look_at_column(cells, name) for name in cells.frame.columns if name}
    if target is None:
        print("\n".join(lines_of(columns)))
        likely = [*columns, *filter(TARGETS.search, columns)][-1]
        what = (
            f"give --target COLUMN, perhaps {likely}; there are: {short(', '.join(columns), 200)}"
        )
        raise ValueError(f"{path}: {what}")
    cells.need([target], "--target")
    del columns[target]
    kinds = {kind: [n for n in columns if columns[n][0] == kind] for kind in ("group", "date")}
    group = next(iter(kinds["group"]), None)
    types = {n: "categorical" for n, (k, _) in columns.items() if k == "categorical"}
    types = {n: kind for n, kind in types.items() if cells.is_numeric(n)}
    for name in kinds["group"][1:]:
        columns[name] = OUT, "an id: there are groups already"

    def rows() -> Rows:
        drop = [name for name, (kind, _) in columns.items() if kind == OUT]
        source = Table(str(path), target, types=types, drop=drop)
        source.group_by = group
        return source.load()

    read = rows()
    names = read.signature.feature_names
    leaks = {names[i]: score for i, score in leaking(read).items()}
    if 0 < len(leaks) < len(names):
        for name, score in leaks.items():
            columns[name] = OUT, f"a leak: alone it tells {target} ({score:.3f} of 1)"
        read = rows()
    below = "\n        "
    dropped = [f"{below}- {plain(n)}  # {why}" for n, (kind, why) in columns.items() if kind == OUT]
    typed = [f"{below}{plain(n)}: {kind}  # {columns[n][1]}" for n, kind in types.items()]
    values = {"source": "Table", "target": plain(target)}
    values |= {"drop": "".join(dropped) or " []", "types": "".join(typed) or " {}"}
    if group or kinds["date"]:
        values |= {"group_by": plain(group)} if group else {"time_by": plain(kinds["date"][0])}
    says = [f"{path}: {len(read):,} rows, {len(columns) + 1} columns", *lines_of(columns)]
    return Seen(read, says, values)


def look_at_column(cells: Cells, name: str) -> tuple[str, str]:
    """Its kind, or `OUT`, and more about it."""
    texts, num, is_numeric = cells.frame[name], len(cells.frame), cells.is_numeric(name)
    there, kinds = texts.count(), texts.drop_nulls().n_unique()
    missing = f", {num - there:,} missing" * (there < num)
    about = f"{kinds:,} values{missing}"
    num_floats = texts.cast(float, strict=False).count()
    if there < max(1, num / 100):
        return OUT, f"empty but for {there} rows"
    if kinds == 1 and not missing:
        return OUT, f"constant: {short(texts[0], 30)} in every row"
    if is_numeric and 0 < num_floats < there and kinds <= 50:
        return "categorical", f"{about}, numbers and text"
    numbers = cells.numbers(name) if is_numeric else np.full(num, np.nan)
    if is_numeric and not num_floats:
        first, *_, last = cells.values(name)
        return "date", f"{first} to {last}{missing}"
    is_whole = not (numbers % 1).any()  # NaN isn't
    if is_whole and kinds == num and ((np.diff(numbers) > 0).all() or np.ptp(numbers) < num):
        return OUT, "an id: it counts the rows"
    if not is_numeric and kinds > max(20, there / 2):
        return OUT, f"an id or free text: {kinds:,} different ones{missing}"
    if IDS.search(name) and (is_whole or not is_numeric):
        if kinds > num / 2:
            return OUT, f"an id: {kinds:,} different ones"
        is_group = kinds > max(20, num / 50) and not missing
        return "group" if is_group else "categorical", about
    if not is_numeric:
        return "categorical", about
    low, middle, high = np.nanquantile(numbers, [0, 0.5, 1])
    return "numeric", f"{low:g} to {high:g}, median {middle:g}{missing}"


def lines_of(columns: dict[str, tuple[str, str]]) -> list[str]:
    """A line for each column; where there are many, for those that aren't plain."""
    plain = [n for n, (kind, why) in columns.items() if kind == "numeric" and "missing" not in why]
    more = plain[max(0, len(plain) + SHOWN - len(columns)) :] if len(columns) > SHOWN else []
    lines = [
        f"  {short(n, 30):<20}  {k:<11}  {why}" for n, (k, why) in columns.items() if n not in more
    ]
    return [*lines[: 2 * SHOWN], *[f"  and {len(more)} more numeric columns"] * bool(more)]


def leaking(rows: Rows) -> dict[int, float]:
    """Columns that tell the target nearly without an error, each by itself, and how well.

    That is balanced accuracy, or R2 of the ranks, of a small tree on rows it wasn't fitted on.
    """
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    num_classes, found = len(rows.signature.class_names), {}
    if rows.x.ndim > 2 or rows.y.ndim > 1 or rows.x.shape[1] > 500:
        return {}
    some = np.random.default_rng(0).permutation(len(rows))[:SAMPLE]
    y = np.unique(rows.y[some], return_inverse=True)[1]
    tree: Any = DecisionTreeClassifier if num_classes else DecisionTreeRegressor
    score = "balanced_accuracy" if num_classes else "r2"
    for i, column in enumerate(rows.x[some].T):
        codes = np.unique(column, return_inverse=True)[1].reshape(-1, 1)  # NaN is the last
        learner = tree(max_leaf_nodes=max(64, 2 * num_classes), random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class with a single row
            scores = cross_val_score(learner, codes, y, cv=2, scoring=score)
        if scores.min() >= LEAK:
            found[i] = float(scores.min())
    return found


def look_at_arrays(path: Path) -> Seen:
    rows = Arrays(str(path)).load()
    some, size = rows.x[np.arange(min(SAMPLE, len(rows)))], " x ".join(map(str, rows.x.shape[1:]))
    says = [f"{path}: {len(rows):,} rows of {AXES[rows.x.ndim - 2]} {size}, {some.dtype}"]
    if missing := np.count_nonzero(some != some):
        says.append(f"{missing / some.size:.2%} of the values are missing (NaN)")
    if constant := np.count_nonzero((some == some[0]).all(0)):
        says.append(f"{constant} of {some[0].size} values are the same in every row")
    leaks = [f"x[:, {i}] alone tells y ({v:.3f} of 1): a leak?" for i, v in leaking(rows).items()]
    return Seen(rows, says + leaks[:SHOWN], {"source": "Arrays"})


def look_at_images(path: Path) -> Seen:
    need_pillow()
    from PIL import Image

    sizes, modes, broken = set(), Counter[str](), []
    for name in Images(str(path)).files():
        try:
            with Image.open(path / name) as image:
                sizes.add((image.height, image.width))
                modes[image.mode] += 1
        except Exception:  # Pillow raises many kinds
            broken.append(name)
    if not sizes:
        raise ValueError(f"{path}: none of {len(broken)} images can be decoded, {broken[0]} say")
    stored = " to ".join(f"{h} x {w}" for h, w in sorted({min(sizes), max(sizes)}))
    values: dict[str, Any] = {"source": "Images", "stored": stored}
    if len(sizes) > 1 or max(max(sizes)) > 96:
        values["resize"] = min(64, *map(min, sizes))
    if {*modes} <= {"1", "L", "LA"}:
        values["channels"] = "grey"
    says = [f"{path}: {modes.total():,} images of {stored} pixels, {', '.join(modes)}"]
    if broken:
        values["broken"] = f"{len(broken)} can't be decoded, {broken[0]} say"
        says.append(f"{values['broken']}: left out")
    form = {k: values[k] for k in ("resize", "channels") if k in values}
    return Seen(Images(str(path), **form, skip_broken=bool(broken)).load(), says, values)


def look_at_target(seen: Seen, what: str) -> None:
    """Says what is to be predicted, and how many rows each class has; refuses what isn't."""
    y, names, num = seen.rows.y, seen.rows.signature.class_names, len(seen.rows)
    if not names:
        low, middle, high = np.quantile(y, [0, 0.5, 1])
        if low == high:
            raise ValueError(f"the {what} is {low:g} in every row: there is nothing to predict")
        about = f"a quantity, {low:g} to {high:g}, median {middle:g}"
        is_skewed = low > 0 and ((y - y.mean()) ** 3).mean() > 2 * y.std() ** 3
        seen.says.append(f"{what}: {about}" + ", skewed: try its logarithm" * is_skewed)
        seen.values |= {"model": "Regressor", "task": "regression", "about": about}
    elif len(names) > num / 2:
        text = f"{len(names):,} different values in {num:,} rows"
        raise ValueError(f"the {what} has {text}: these are no classes, choose another")
    else:
        counts = np.bincount(y, minlength=len(names))
        order = np.argsort(-counts, kind="stable")
        shares = [f"{names[i]} {counts[i]:,} ({counts[i] / num:.1%})" for i in order]
        shares[SHOWN:-1] = ["..."] * (len(shares) > SHOWN + 1)
        seen.says.append(f"{what}: {len(names)} classes: {', '.join(shares)}")
        about = f"{len(names)} classes, the rarest is {shares[-1]}"
        seen.values |= {"model": "Classifier", "task": "classification", "about": about}
        if counts.min() * len(names) < 0.3 * num:
            seen.values["class_weights"] = "balanced"
            seen.says[-1] += ": a class is rare, all will weigh the same"
    if seen.values["source"] == "Images":
        del seen.values["task"]


def plain(value: Any) -> str:
    """A value as YAML writes it, also within `[]` and `{}`."""
    text = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**9)
    return text.strip()[1:-1]
