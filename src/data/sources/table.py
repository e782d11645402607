"""A CSV or Parquet file: numeric and categorical columns, with missing values."""

from pathlib import Path
from typing import Literal

import numpy as np

from src.data.content import hash_names, mix
from src.data.rows import Rows, Signature, Source
from src.data.sources.cells import Cells, read_cells
from src.data.sources.rules import fits_float32, read_labels


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
        y, classes = self._labels(cells, signature)
        signature = signature or self._infer(cells, classes)
        x, ids = _encode(cells, signature)
        rows = Rows(x, y, signature, ids=ids)
        if self.group_by:
            cells.need([self.group_by], "data.partition.group_by")
            groups = cells.frame[self.group_by]
            if groups.null_count():
                raise ValueError(
                    f"{cells.at(groups.is_null())}: `{self.group_by}` (data.partition.group_by) "
                    "has no value: fill it in"
                )
            rows.groups = groups.to_numpy()
        if self.time_by:
            cells.need([self.time_by], "data.partition.time_by")
            rows.times = cells.numbers(self.time_by)
        return rows

    def _labels(
        self, cells: Cells, signature: Signature | None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        cells.need([self.target], "data.source.target")
        y, what = cells.frame[self.target], f"the target `{self.target}`"
        if num_missing := y.null_count():
            raise ValueError(
                f"{cells.at(y.is_null())}: {what} has no value, the first of {num_missing} such "
                "rows: fill the cells or delete the rows"
            )
        if self.task == "regression" or (self.task == "auto" and cells.is_numeric(self.target)):
            values = cells.numbers(self.target)
        else:
            values = y.to_numpy().astype(str)
        return read_labels(values, self.task, signature, f"{self.path}: {what}")

    def _infer(self, cells: Cells, classes: tuple[str, ...]) -> Signature:
        """Finds the features, their types and categories."""
        cells.need(self.drop, "data.source.drop")
        apart = {"", self.target, self.group_by, self.time_by, *self.drop}
        names = [name for name in cells.frame.columns if name not in apart]
        if not names:
            raise ValueError(f"{self.path} has no feature: `{self.target}` is the only column")
        cells.need(self.types, "data.source.types", names)
        categories = {n: cells.values(n) for n in names if not self._is_numeric(cells, n)}
        numeric = (n for n in names if n not in categories)
        narrow = all(fits_float32(cells.numbers(n)) for n in numeric)
        dtype = "float32" if narrow else "float64"
        return Signature((len(names),), dtype, classes, (self.target,), tuple(names), categories)

    def _is_numeric(self, cells: Cells, name: str) -> bool:
        if name in self.types:
            return self.types[name] == "numeric"
        if cells.is_numeric(name):
            return True
        num_values, num_texts = cells.frame[name].count(), len(cells.values(name))
        if not num_values:
            raise ValueError(
                f"{self.path}: column `{name}` is empty: leave it out, --data.source.drop [{name}]"
            )
        if num_texts > max(20, 0.9 * num_values):
            raise ValueError(
                f"{self.path}: column `{name}` has {num_values} values, {num_texts} different "
                f"texts: leave it out, --data.source.drop [{name}], or keep it, "
                f"--data.source.types.{name} categorical"
            )
        return False


def read_table(path: Path, signature: Signature) -> np.ndarray:
    """Reads the features of new rows, `(N, D)`: columns by name in any order, others are ignored.

    Raises:
        ValueError: A column isn't there, or a numeric one holds text.
    """
    if not signature.feature_names:
        raise ValueError(
            f"{path}: the model takes rows of shape {signature.in_shape}, not of a table: give it "
            ".npz, .npy or images"
        )
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
