"""A CSV or Parquet file: numeric and categorical columns, with missing values."""

from pathlib import Path
from typing import Literal

import numpy as np

from src.data.content import hash_names, mix
from src.data.rows import Rows, Signature, Source
from src.data.sources.cells import Cells, read_cells
from src.data.sources.rules import are_classes, as_targets, fits_float32


class Table(Source):
    """A CSV (UTF-8, with a header; split by `,`, `;`, tab or `|`) or a Parquet file.

    A column is numeric if at least half of its values are numbers or dates (YYYY-MM-DD, counted in
    seconds since 1970), else categorical. Missing: an empty cell, NA, N/A, NaN, null, ?. Where `;`
    splits, a comma is a decimal point. Rows without any value are left out.

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
        cells.need_values(self.target, "data.source.target")
        signature = signature or self._infer(cells)
        x, ids = _encode(cells, signature)
        rows = Rows(x, self._labels(cells, signature), signature, ids=ids)
        if self.group_by:
            rows.groups = cells.need_values(self.group_by, "data.partition.group_by").to_numpy()
        if self.time_by:
            cells.need_values(self.time_by, "data.partition.time_by")
            rows.times = cells.numbers(self.time_by)
        return rows

    def keep_path(self) -> Path:
        return Path(f"{self.path}.partition.json")

    def _infer(self, cells: Cells) -> Signature:
        """Finds the features, their types and categories, and the classes."""
        cells.need(self.drop, "data.source.drop")
        apart = {self.target, self.group_by, self.time_by, *self.drop}
        names = [name for name in cells.frame.columns if name not in apart]
        cells.need(self.types, "data.source.types", names)
        if not names:
            raise ValueError(f"{self.path}: `{self.target}` is the only column: there's no feature")
        if "" in names:
            raise ValueError(
                f"{self.path}: a column has no name (row numbers?): name it, or leave it out with "
                "`data.source.drop: ['']`"
            )
        categories = {n: cells.values(n) for n in names if not self._is_numeric(cells, n)}
        numeric = [n for n in names if n not in categories]
        narrow = all(fits_float32(cells.numbers(n, self._as_categorical(n))) for n in numeric)
        dtype = "float32" if narrow else "float64"
        classes = self._class_names(cells)
        return Signature((len(names),), dtype, classes, (self.target,), tuple(names), categories)

    def _is_numeric(self, cells: Cells, name: str) -> bool:
        num_values = cells.frame[name].count()
        if not num_values:
            raise ValueError(
                f"{self.path}: column `{name}` has no values: leave it out with `data.source.drop`"
            )
        if name in self.types:
            return self.types[name] == "numeric"
        if cells.is_numeric(name):
            return True
        num_texts = len(cells.values(name))
        if num_texts > max(20, 0.9 * num_values):
            raise ValueError(
                f"{self.path}: column `{name}` has {num_texts} texts in {num_values} rows: drop "
                f"it with `data.source.drop`, or keep it by `{self._as_categorical(name)}`"
            )
        return False

    @staticmethod
    def _as_categorical(name: str) -> str:
        return f"data.source.types.{name}: categorical"

    def _class_names(self, cells: Cells) -> tuple[str, ...]:
        """Names of the classes; empty for a regression."""
        if self.task == "regression":
            return ()
        if self.task == "auto" and cells.is_numeric(self.target):
            numbers = cells.numbers(self.target, "data.source.task: classification")
            if not are_classes(np.unique(numbers), len(numbers)):
                return ()
        names = cells.values(self.target)
        if len(names) == 1:
            raise ValueError(
                f"{self.path}: the target `{self.target}` is `{names[0]}` in every row: a "
                "classification needs two classes or more"
            )
        return names

    def _labels(self, cells: Cells, signature: Signature) -> np.ndarray:
        """`(N,)` int64 classes or float32 targets."""
        if not signature.class_names:
            y = cells.numbers(self.target, "data.source.task: classification")
            return as_targets(y, f"{self.path}: the target `{self.target}`")
        y = cells.codes(self.target, signature.class_names) - 1
        if (y < 0).any():
            first = int(np.argmax(y < 0))
            name, known = cells.frame[self.target][first], ", ".join(signature.class_names)
            raise ValueError(
                f"{cells.at(first)}: the model doesn't know class `{name}` of `{self.target}`, "
                f"only {known}"
            )
        return y


def read_table(path: Path | str, signature: Signature) -> np.ndarray:
    """Reads the features of new rows, `(N, D)`: columns by name in any order, others are ignored.

    Raises:
        ValueError: A column isn't there, or a numeric one holds text.
        FileNotFoundError: The file isn't there.
    """
    if not signature.feature_names:
        raise ValueError(
            f"{path}: the model takes arrays of shape {signature.in_shape}, not a table: give them "
            "as .npy or .npz"
        )
    return _encode(read_cells(Path(path)), signature)[0]


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
            numbers = cells.numbers(name)
            x[:, i] = numbers
            words = numbers.view(np.uint64)
        ids += mix(words ^ key)
    return x, mix(ids)
