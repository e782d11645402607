"""What is in a file: its columns, classes and copies, and what would spoil a result."""

import re
from contextlib import suppress
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

IDS = re.compile(r"(?i:(^|[\W_])(id|uuid|guid|key)$)|[a-z]I[dD]$")
TARGETS = re.compile(r"(?i)(^|[\W_])(target|label|class|outcome|y|price|churn|survived|quality)$")
OUT = "left out"
SHOWN = 15  # columns, classes
SAMPLE = 5000  # rows that slow questions look at
LEAK = 0.98  # of the target, told by one column alone
Columns = dict[str, tuple[str, str]]  # by name: its kind, or `OUT`, and more about it
Seen = tuple[Rows, list[str], dict[str, Any]]  # lines for a person, values for the config.yaml here


def look(path: Path, target: str | None) -> Seen:
    """Reads a file or a folder by the source that fits.

    Raises:
        ValueError: It can't be used, or a table needs a target.
        FileNotFoundError: It isn't there.
    """
    is_arrays = path.suffix.lower() in (".npz", ".npy") or any(path.glob("*.npy"))
    is_table = not (is_arrays or path.is_dir())
    if target and not is_table:
        raise ValueError(f"--target {target} is for a table, and {path} is none: leave it out")
    seen = table(path, target) if is_table else arrays(path) if is_arrays else images(path)
    rows, says, values = seen
    look_at_target(seen, f"target `{target or 'y'}`")
    ids = hash_rows(rows.x) if rows.ids is None else rows.ids
    num, codes = len(np.unique(ids)), np.unique(rows.y, axis=0, return_inverse=True)[1]
    if copies := len(rows) - num:
        torn = len(np.unique(np.column_stack([ids, codes.astype(np.uint64)]), axis=0)) - num
        says.append(f"copies of other rows: {copies:,}, {torn:,} of them with another target")
        are_cases = values.get("group_by") or copies > num  # rows that few values tell apart
        values["duplicates"] = "allow" if are_cases else "drop"
    values |= {"path": plain(path), "copies": f"{copies:,}"}
    return seen


def table(path: Path, target: str | None) -> Seen:
    """Looks at each column of a CSV or Parquet file, and leaves out those that would do harm."""
    cells = read_cells(path)
    columns = {name: look_at_column(cells, name) for name in cells.frame.columns if name}
    if target is None:
        print("\n".join(lines_of(columns)))
        likely = [*columns, *filter(TARGETS.search, columns)][-1]
        raise ValueError(f"{path}: which column is to be predicted? give --target {likely}, say")
    cells.need([target], "--target")
    del columns[target]

    def of(*kinds: str) -> list[str]:
        return [name for name, (kind, _) in columns.items() if kind in kinds]

    group, names = of("group")[:1], of("categorical", "group")
    types: Any = {n: "categorical" for n in names if cells.is_numeric(n) and n not in group}
    rows = Table(str(path), target, types=types, drop=of(OUT) + group).load()
    leaks = {rows.signature.feature_names[i]: share for i, share in leaking(rows).items()}
    if 0 < len(leaks) < rows.x.shape[1]:
        for name, share in leaks.items():
            columns[name] = OUT, f"a leak? alone it predicts {target} (R2 {share:.3f})"
        rows = Table(str(path), target, types=types, drop=of(OUT) + group).load()
    below, why = "\n        ", {name: about for name, (_, about) in columns.items()}
    values = {"source": "Table", "target": plain(target), "group_by": "".join(map(plain, group))}
    values["drop"] = "".join(f"{below}- {plain(name)}  # {why[name]}" for name in of(OUT))
    values["types"] = "".join(f"{below}{plain(n)}: {kind}  # {why[n]}" for n, kind in types.items())
    values["time_by"] = "".join(map(plain, of("date")[:1]))
    values["task"] = "classification" if rows.signature.class_names else "regression"
    says = [f"{path}: {len(rows):,} rows, {len(columns) + 1} columns", *lines_of(columns)]
    return rows, says, values


def look_at_column(cells: Cells, name: str) -> tuple[str, str]:
    """Its kind, or `OUT`, and more about it."""
    texts, num, is_numeric = cells.frame[name], len(cells.frame), cells.is_numeric(name)
    there, kinds = texts.count(), texts.drop_nulls().n_unique()
    num_floats = texts.cast(float, strict=False).count()
    missing = f", {num - there:,} missing" * (there < num)
    about = f"{kinds:,} different{missing}"
    if there < max(1, num / 100) or (kinds == 1 and not missing):
        return OUT, f"empty or constant: {about}"
    if is_numeric and 0 < num_floats < there and kinds <= 50:
        return "categorical", f"numbers and text: {about}"
    numbers = cells.numbers(name) if is_numeric else np.full(num, np.nan)
    is_whole = not (numbers % 1).any()  # NaN isn't
    if is_numeric and not num_floats:
        return "date", f"{cells.values(name)[0]} to {cells.values(name)[-1]}{missing}"
    if is_whole and kinds == num and ((np.diff(numbers) > 0).all() or np.ptp(numbers) < num):
        return OUT, "an id: it counts the rows"
    if not is_numeric and kinds > max(20, there / 2):
        return OUT, f"an id or free text: {about}"
    if is_numeric and not (IDS.search(name) and is_whole):
        low, middle, high = np.nanquantile(numbers, [0, 0.5, 1])
        return "numeric", f"{low:g} to {high:g}, median {middle:g}{missing}"
    if IDS.search(name) and kinds > max(20, num / 50) and not missing:
        return ("group", about) if kinds < num / 2 else (OUT, f"an id: {about}")
    return "categorical", about


def lines_of(columns: Columns) -> list[str]:
    """A line for each column, numeric ones at the end, as far as there is room."""
    names = sorted(columns, key=lambda name: columns[name][0] == "numeric")
    lines = [f"  {short(n, 24):<24}  {columns[n][0]:<11}  {columns[n][1]}" for n in names[:SHOWN]]
    return lines + [f"  and {len(names) - SHOWN} more"] * (len(names) > SHOWN)


def leaking(rows: Rows) -> dict[int, float]:
    """Columns that tell the target nearly without an error, each by itself, and how much of it.

    That is R2 of a small tree on rows it wasn't fitted on: of the classes, each as 0 and 1, or of
    the ranks of a quantity.
    """
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeRegressor

    some = np.random.default_rng(0).permutation(len(rows))[:SAMPLE]
    y, num_classes = rows.y[some], len(rows.signature.class_names)
    y = np.eye(num_classes)[y] if num_classes else np.unique(y, return_inverse=True)[1]
    tree = DecisionTreeRegressor(max_leaf_nodes=max(64, 2 * num_classes), random_state=0)
    ranks = (np.unique(column, return_inverse=True)[1] for column in rows.x[some].T)  # NaN: last
    shares = [cross_val_score(tree, x[:, None], y, cv=2, scoring="r2").min() for x in ranks]
    return {i: float(share) for i, share in enumerate(shares) if share >= LEAK}


def arrays(path: Path) -> Seen:
    """Looks at the shapes and values of a `.npz` or of a folder of `.npy`."""
    rows = Arrays(str(path)).load()
    some = rows.x[: max(1, 10**7 // rows.x[:1].size)]
    axes = ("features", "channels x length", "channels x height x width")[some.ndim - 2]
    size, same = " x ".join(map(str, some.shape[1:])), int((some == some[0]).all(0).sum())
    says = [f"{path}: {len(rows):,} rows of {size} ({axes}), {some.dtype}"]
    says.append(
        f"missing: {(some != some).mean():.1%}; alike in all rows: {same} of {some[0].size}"
    )
    return rows, says, {"source": "Arrays"}


def images(path: Path) -> Seen:
    """Looks at the headers of images, and chooses a size for all."""
    need_pillow()
    from PIL import Image

    found = set()
    for name in Images(str(path)).files():
        with suppress(Exception), Image.open(path / name) as image:  # `load` names the broken
            found.add((image.height, image.width, image.mode))
    heights, widths, modes = map(set, zip(*found or {(1, 1, "RGB")}, strict=True))
    channels: Any = "grey" if modes <= {"1", "L", "LA"} else "rgb"
    is_small = len(heights) == len(widths) == 1 and max(heights | widths) <= 96
    resize = None if is_small else min(64, *heights, *widths)
    rows = Images(str(path), resize, channels, skip_broken=True).load()
    sizes = sorted({min(found)[:2], max(found)[:2]})
    values = {"source": "Images", "resize": resize, "channels": channels, "skip_broken": "true"}
    values["stored"] = " to ".join(f"{height} x {width}" for height, width in sizes)
    return rows, [f"{path}: {len(rows):,} {channels} images of {values['stored']} pixels"], values


def look_at_target(seen: Seen, what: str) -> None:
    """Adds what there is to predict; refuses what can't be."""
    rows, says, values = seen
    y, names, num = rows.y, rows.signature.class_names, len(rows)
    low, middle, high = np.quantile(y, [0, 0.5, 1])
    if len(names) > num / 2 or low == high:
        kinds = f"{len(np.unique(y)):,} different values in {num:,} rows"
        raise ValueError(f"{what} has {kinds}: there is nothing to learn")
    if not names:
        values |= {
            "model": "Regressor",
            "about": f"{low:,.6g} to {high:,.6g}, median {middle:,.6g}",
        }
        is_skewed = bool(low > 0 and ((y - y.mean()) ** 3).mean() > 2 * y.std() ** 3)
        more = "; it is skewed: its logarithm may be easier to predict" * is_skewed
        says.append(f"{what}: {values['about']}{more}")
        return
    counts = np.bincount(y, minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    shares = [f"{short(names[i], 30)} {counts[i]:,} ({counts[i] / num:.1%})" for i in order]
    is_rare = bool(counts[order[-1]] * len(names) < 0.3 * num)
    values |= {"model": "Classifier", "about": f"{len(names)} classes, the rarest {shares[-1]}"}
    values["class_weights"] = "balanced" * is_rare
    more = " ..." * (len(names) > SHOWN) + "; one is rare: all will weigh the same" * is_rare
    says.append(f"{what}: {len(names)} classes, {', '.join(shares[:SHOWN])}{more}")


def plain(value: Any) -> str:
    """A text as YAML writes it, also within `[]` and `{}`."""
    text = yaml.safe_dump([str(value)], default_flow_style=True, allow_unicode=True, width=10**9)
    return text.strip()[1:-1]
