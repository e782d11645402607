"""`metrics.csv`: what a run logged, as a table that any program reads."""

import csv
import io
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsCsv(Logger):
    """Writes `metrics.csv` into the run folder: a row a step, on disk as soon as it is logged.

    What is logged for one step in several calls shares a row. A resumed run appends. While the
    file can't be written, say on a full disk, the rows wait in memory.
    """

    name = version = ""
    run_dir: Path

    def __init__(self) -> None:
        super().__init__()
        self._columns: list[str] = []
        self._lines: list[str] = []
        self._row: dict[str, Any] = {}  # of the last line, which may still grow
        self._warned = False

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder has the whole config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        path = self.run_dir / "metrics.csv"
        if not self._columns and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            self._columns, self._lines = next(csv.reader(lines), []), lines[1:]
        row = {"epoch": None, "step": step, **metrics}
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._lines = [line + "," * len(new) for line in self._lines]
        if self._row and all(self._row.get(name, row[name]) == row[name] for name in row):
            row = self._row | row
            self._lines.pop()
        self._row = row
        self._lines.append(line_of(row.get(name) for name in self._columns))
        try:
            part = path.with_suffix(".part")
            text = "\n".join([line_of(self._columns), *self._lines, ""])
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        except OSError as error:
            if not self._warned:
                print(f"warning: metrics wait in memory: {path}: {error.strerror}", file=sys.stderr)
            self._warned = True


def line_of(cells: Iterable[Any]) -> str:
    """One line of a CSV file, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
