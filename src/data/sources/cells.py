"""The cells of a CSV or Parquet file, all as text: what a table reads its columns from."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "?", "na", "n/a", "#n/a", "<na>", "nan", "null")  # in lower case


@dataclass
class Cells:
    """All cells of a file as stripped text, null where missing.

    Args:
        path: The file.
        frame: A column of strings for each column of the file.
        index: `(N,)` place of each row among the records of the file, without the header.
        separator: Of a CSV; empty for Parquet.
    """

    path: Path
    frame: pl.DataFrame
    index: np.ndarray
    separator: str

    def at(self, i: int) -> str:
        """Where row `i` is: as an editor numbers the lines of a CSV, from 1 in Parquet."""
        record = int(self.index[i]) + 1
        if self.separator:
            record, _ = next(islice(_records(self.path, self.separator), record, None))
        return f"{self.path}, row {record}"

    def need(self, names: Iterable[str], key: str, columns: list[str] | None = None) -> None:
        """Raises `ValueError` for the first of the names that isn't a column."""
        columns = columns or self.frame.columns
        for name in names:
            if name not in columns:
                close = difflib.get_close_matches(name, columns, 1)
                hint = f", did you mean `{close[0]}`?" if close else "."
                shown = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
                raise ValueError(f"{self.path}: no column `{name}` ({key}){hint} Columns: {shown}")

    def need_values(self, name: str, key: str) -> pl.Series:
        """A column that must be there and may not miss a value, or `ValueError`."""
        self.need([name], key)
        column = self.frame[name]
        if num_missing := column.null_count():
            first = int(np.argmax(column.is_null().to_numpy()))
            raise ValueError(
                f"{self.at(first)}: no value of `{name}` ({key}), the first of {num_missing} such "
                "rows: fill the cells or delete the rows"
            )
        return column

    def values(self, name: str) -> tuple[str, ...]:
        """The distinct values, sorted: by number if all of them are numbers, else as text."""
        values = sorted(self.frame[name].drop_nulls().unique())
        try:
            return tuple(sorted(values, key=float))
        except ValueError:
            return tuple(values)

    def codes(self, name: str, values: tuple[str, ...]) -> np.ndarray:
        """`(N,)` int64: 1 + the place among the values; 0 if missing or not among them."""
        codes = {value: i + 1 for i, value in enumerate(values)}
        return self.frame[name].replace_strict(codes, default=0).cast(int).to_numpy()

    def is_numeric(self, name: str) -> bool:
        """Whether at least half of the values are numbers or dates."""
        return 2 * int(self._parse(name)[1].sum()) <= self.frame[name].count()

    def numbers(self, name: str, remedy: str = "") -> np.ndarray:
        """`(N,)` float64, NaN where missing; raises `ValueError` for text and infinite numbers.

        Args:
            name: The column.
            remedy: What else than mending the cell the message advises.
        """
        numbers, is_text = self._parse(name)
        bad = is_text | np.isinf(numbers)
        if bad.any():
            first = int(np.argmax(bad))
            what = "neither a number nor a date" if is_text[first] else "infinite"
            value = " ".join(self.frame[name][first].split())[:60]
            raise ValueError(
                f"{self.at(first)}: `{value}` in the numeric column `{name}` is "
                f"{what}: mend or empty the cell" + (f", or set `{remedy}`" if remedy else "")
            )
        return numbers

    def _parse(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """`(N,)` numbers, NaN where there is none, and `(N,)` whether a cell is text."""
        column = self.frame[name]
        if self.separator == ";":
            column = column.str.replace(",", ".", literal=True)
        numbers = column.cast(float, strict=False)
        rest = column.filter(numbers.is_null()).drop_nulls().unique()
        dates = {text: s for text in rest if (s := _seconds(text)) is not None}
        if dates:
            numbers = numbers.fill_null(column.replace_strict(dates, default=None))
        is_text = (column.is_not_null() & numbers.is_null()).to_numpy()
        values = numbers.to_numpy()
        return np.where(np.isnan(values), np.nan, values) + 0.0, is_text  # one NaN, and no -0.0


def _seconds(text: str) -> float | None:
    """An ISO date as seconds since 1970, in UTC if it names no time zone."""
    if text[4:5] != "-":
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_cells(path: Path) -> Cells:
    """Reads a file whole; rows without any value are left out.

    Raises:
        ValueError: The file can't be read, or has no rows, names or equal lengths of rows.
        FileNotFoundError: The file isn't there.
    """
    try:
        import polars as pl
    except ImportError as error:
        raise ValueError(
            f"{path} needs polars: pip install 'polars>=1.20'  (the extra `table`)"
        ) from error

    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    separator = "" if path.suffix.lower() in (".parquet", ".pq") else _separator(path)
    try:
        if separator:
            header = _header(path, separator)
            frame = pl.read_csv(path, separator=separator, infer_schema=False, glob=False)
            if frame[:, -1].null_count():  # polars fills a short row with nulls
                _check_lengths(path, separator)
            frame.columns = header
        else:
            frame = pl.read_parquet(path, glob=False).cast(pl.String)
    except pl.exceptions.PolarsError as error:
        if separator:
            _check_lengths(path, separator)
        kind, reason = "CSV in UTF-8" if separator else "Parquet", str(error).splitlines()[0]
        raise ValueError(f"{path} can't be read as {kind}: {reason}") from error

    index = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series().arg_true()
    if not len(index):
        raise ValueError(f"{path} has no rows")
    text = pl.all().str.strip_chars().str.replace(r"^([+-]?\d+)\.0+$", "${1}")
    missing = pl.all().str.to_lowercase().is_in(MISSING)
    frame = frame[index].select(text).select(pl.when(~missing).then(pl.all()))
    return Cells(path, frame, index.to_numpy(), separator)


def _separator(path: Path) -> str:
    """The one of `,`, `;`, tab and `|` that the header holds most of, outside of quotes."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = re.sub('"[^"]*"', "", file.readline())
    return max(",;\t|", key=header.count)


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV, the header first, each with the line of the file that it begins on."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=separator)
        line = 1
        try:
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}, row {line}: {error}: a quote has no end") from error


def _header(path: Path, separator: str) -> list[str]:
    _, names = next(_records(path, separator), (1, []))
    names = [name.strip() for name in names]
    if not names:
        raise ValueError(f"{path} is empty, or has no header in row 1")
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(f"{path}: two columns are named `{name}`: rename one")
    return names


def _check_lengths(path: Path, separator: str) -> None:
    """Raises `ValueError` for the first record that has more or fewer cells than the header."""
    records = _records(path, separator)
    width = len(next(records)[1])
    for line, cells in records:
        if cells and len(cells) != width:
            raise ValueError(f"{path}, row {line}: {len(cells)} cells, but the header has {width}")
