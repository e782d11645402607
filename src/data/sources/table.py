"""A CSV or Parquet file: numeric and categorical columns, with missing values."""

from pathlib import Path
from typing import Literal

import numpy as np

from src.data.content import hash_names, mix
from src.data.rows import Rows, Signature, Source
from src.data.sources.cells import Cells, read_cells
from src.data.sources.labels import fits_float32, read_labels


class Table(Source):
    """A CSV (UTF-8, with a header; split by `,`, `;`, tab or `|`) or a Parquet file.

    A column is numeric if at least half of its values are numbers or dates (YYYY-MM-DD, counted in
    seconds since 1970), else categorical. Missing: an empty cell, NA, N/A, NaN, null, ?. Where `;`
    splits, a comma is a decimal point. A column without a name (row numbers) is left out.

    Args:
        path: The file.
        target: Name of the column to predict; no row may miss it.
        task: `auto` takes text for classes, and whole numbers too if each is seen twice on average
            and they are at most 20 or exactly 0 to K - 1; other numbers are a regression.
        types: Column name -> `numeric` or `categorical`, where the rule above is wrong.
        drop: Names of columns to leave out, such as the number of a row.
    """

    def __init__(
        self,
        path: str,
        target: str,
        task: Literal["auto", "classification", "regression"] = "auto",
        types: dict[str, Literal["numeric", "categorical"]] | None = None,
        drop: list[str] | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self.target, self.task = target, task
        self.types, self.drop = types or {}, drop or []

    def load(self, signature: Signature | None = None) -> Rows:
        cells = read_cells(self.path)
        target = cells.full(self.target, "data.source.target").to_numpy().astype(str)
        if self.task == "regression" or (self.task == "auto" and cells.is_numeric(self.target)):
            target = cells.numbers(self.target)
        where = f"{self.path}: the target `{self.target}`"
        y, classes = read_labels(target, self.task, signature, where)
        signature = signature or self._infer(cells, classes)
        x, ids = _encode(cells, signature)
        rows = Rows(x, y, signature, ids=ids)
        if self.group_by:
            rows.groups = cells.full(self.group_by, "data.partition.group_by").to_numpy()
        if self.time_by:
            cells.full(self.time_by, "data.partition.time_by")
            rows.times = cells.numbers(self.time_by)
        return rows

    def _infer(self, cells: Cells, classes: tuple[str, ...]) -> Signature:
        """Finds the features, their types and categories."""
        cells.need(self.drop, "data.source.drop")
        cells.need(self.types, "data.source.types")
        apart = {"", self.target, self.group_by, self.time_by, *self.drop}
        names = [name for name in cells.frame.columns if name not in apart]
        if not names:
            what = f"no column to learn from beside the target `{self.target}`"
            raise ValueError(f"{self.path} has {what}")
        kinds = {name: self.types.get(name) or _kind(cells, name) for name in names}
        categories = {n: cells.values(n) for n in names if kinds[n] == "categorical"}
        narrow = all(fits_float32(cells.numbers(n)) for n in names if kinds[n] == "numeric")
        dtype = "float32" if narrow else "float64"
        return Signature((len(names),), dtype, classes, (self.target,), tuple(names), categories)


def _kind(cells: Cells, name: str) -> str:
    if cells.is_numeric(name):
        return "numeric"
    num_values, num_texts = cells.frame[name].count(), len(cells.values(name))
    if num_values and num_texts <= max(20, 0.9 * num_values):
        return "categorical"
    what = f"has {num_values} values, {num_texts} different texts" if num_values else "is empty"
    cure = f"--data.source.drop [{name}], or keep it, --data.source.types.{name} categorical"
    raise ValueError(f"{cells.path}: column `{name}` {what}: leave it out, {cure}")


def read_table(path: Path, signature: Signature) -> np.ndarray:
    """Reads the features of new rows, `(N, D)`: columns by name in any order, others are ignored.

    Raises:
        ValueError: A column isn't there, or a numeric one holds text.
    """
    if not signature.feature_names:
        what = f"the model takes rows of shape {signature.in_shape}, not of a table"
        raise ValueError(f"{path}: {what}: give it .npz, .npy or images")
    return _encode(read_cells(path), signature)[0]


def _encode(cells: Cells, signature: Signature) -> tuple[np.ndarray, np.ndarray]:
    """Features `(N, D)`, and a uint64 hash of each row's content: no code and no order counts."""
    names = signature.feature_names
    cells.need(names, "a feature")
    x = np.empty((len(cells.frame), len(names)), signature.dtype)
    ids = np.zeros(len(x), np.uint64)
    for i, (name, key) in enumerate(zip(names, hash_names(np.array(names)), strict=True)):
        if name in signature.categories:
            x[:, i] = cells.codes(name, signature.categories[name])
            texts = cells.values(name)
            words = hash_names(np.array(["", *texts], object))[cells.codes(name, texts)]
        else:
            x[:, i] = numbers = cells.numbers(name)
            words = numbers.view(np.uint64)
        ids += mix(words ^ key)
    return x, mix(ids)
