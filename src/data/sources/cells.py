"""The cells of a CSV or Parquet file, all as text: what a table reads its columns from."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.errors import hint, short

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "?", "na", "n/a", "#n/a", "<na>", "nan", "null")  # in lower case


@dataclass
class Cells:
    """All cells of a file as stripped text, null where missing.

    Args:
        path: The file.
        frame: A column of strings for each column of the file.
    """

    path: Path
    frame: pl.DataFrame

    def at(self, rows: Any) -> str:
        """Where the first of the rows of a mask `(N,)` is: its line, or its row from 0."""
        row = int(np.argmax(rows))
        if self.path.suffix.lower() == ".parquet":
            return f"{self.path}, row {row}"
        return f"{self.path}, line {next(islice(_records(self.path), row + 1, None))[0]}"

    def need(self, names: Iterable[str], key: str) -> None:
        """Raises `ValueError` for the first of the names that is no column."""
        columns = self.frame.columns
        for name in names:
            if name not in columns:
                raise ValueError(f"{self.path} has no column `{name}` ({key}){hint(name, columns)}")

    def full(self, name: str, key: str) -> pl.Series:
        """A column that no row may miss."""
        self.need([name], key)
        column = self.frame[name]
        if column.has_nulls():
            what = f"`{name}` ({key}) has no value, the first of {column.null_count()} such rows"
            at = self.at(column.is_null())
            raise ValueError(f"{at}: {what}: fill the cells or delete the rows")
        return column

    def values(self, name: str) -> tuple[str, ...]:
        """The distinct values, sorted."""
        return tuple(sorted(self.frame[name].drop_nulls().unique()))

    def codes(self, name: str, values: tuple[str, ...]) -> np.ndarray:
        """`(N,)` int64: 1 + the place among the values; 0 if missing or not among them."""
        codes = {value: i + 1 for i, value in enumerate(values)}
        return self.frame[name].replace_strict(codes, default=0).cast(int).to_numpy()

    def is_numeric(self, name: str) -> bool:
        """Whether there are values, and at least half of them are numbers or dates."""
        return 0 < self.frame[name].count() <= 2 * int(np.isfinite(self._parse(name)).sum())

    def numbers(self, name: str) -> np.ndarray:
        """`(N,)` float64, NaN where missing; a `ValueError` for text and infinite numbers."""
        numbers, column = self._parse(name), self.frame[name]
        if (bad := ~np.isfinite(numbers) & column.is_not_null().to_numpy()).any():
            value = short(column[int(bad.argmax())], 60)
            raise ValueError(
                f"{self.at(bad)}: `{value}` in the numeric column `{name}` is no finite number and "
                "no date: mend or empty the cell, or train with the column as categorical "
                "(`data.source.types`; of the target, `data.source.task`)"
            )
        return numbers

    def _parse(self, name: str) -> np.ndarray:
        """`(N,)` float64, NaN where a cell is missing or text."""
        column = self.frame[name]
        numbers = column.cast(float, strict=False)
        rest = column.filter(numbers.is_null()).drop_nulls().unique()
        if dates := {text: s for text in rest if (s := _seconds(text)) is not None}:
            numbers = numbers.fill_null(column.replace_strict(dates, default=None))
        return numbers.to_numpy() + 0.0  # -0.0 is 0.0


def _seconds(text: str) -> float | None:
    """An ISO date as seconds since 1970, in UTC if it names no time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_cells(path: Path) -> Cells:
    """Reads a file whole, except for the blank lines of a CSV.

    Raises:
        ValueError: The file can't be read, or has no rows, names or equal lengths of rows.
        FileNotFoundError: The file isn't there.
    """
    try:
        import polars as pl
    except ImportError:
        raise ValueError(f"{path} needs polars: pip install polars  (the extra `table`)") from None

    text = pl.all().str.strip_chars().str.replace(r"^([+-]?\d+)\.0+$", "${1}")
    if path.suffix.lower() == ".parquet":
        try:
            frame = pl.read_parquet(path, glob=False).cast(pl.String)
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} can't be read as Parquet: {reason}") from error
    else:
        if _separator(path) == ";":
            text = text.str.replace(r"^([+-]?\d*),(\d+)$", "${1}.${2}")
        records = (cells for _, cells in _records(path))
        names = [name.strip() for name in next(records, [])]
        if not names:
            raise ValueError(f"{path} is empty")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{path}: two columns are named `{twice[0]}`: rename one")
        frame = pl.DataFrame(records, dict.fromkeys(names, pl.String), orient="row")
    if not len(frame):
        raise ValueError(f"{path} has no rows")
    lower = pl.all().str.to_lowercase()
    is_bool = lower.is_in(("true", "false"))  # True of pandas, TRUE of Excel, true of polars
    known = pl.when(is_bool).then(lower).when(~lower.is_in(MISSING)).then(pl.all())
    return Cells(path, frame.select(text).select(known))


def _separator(path: Path) -> str:
    """The one of `,`, `;`, tab and `|` that the header holds most of, outside of quotes."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = re.sub('"[^"]*"', "", next(filter(str.strip, file), ""))
    return max(",;\t|", key=header.count)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV that aren't blank, the header first, each with its first line."""
    line, width = 1, 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=_separator(path), strict=True)
        try:
            for cells in reader:
                width = width or len(cells)
                if cells and len(cells) != width:
                    what = f"{len(cells)} cells, but the header has {width}"
                    raise ValueError(f"{path}, line {line}: {what}")
                if cells:
                    yield line, cells
                line = reader.line_num + 1
        except UnicodeDecodeError as error:
            what = f"{path} is neither text in UTF-8 nor .parquet"
            raise ValueError(f"{what}: save it as one") from error
        except csv.Error as error:
            raise ValueError(f"{path}, line {line}: {error}: is a quote left open?") from error
