"""`metrics.csv`: what a run logged, as a table that any program reads."""

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsCsv(Logger):
    """Writes `metrics.csv` into the run folder: a row a step, on disk as soon as it is logged.

    What is logged for one step in several calls shares a row. A resumed run appends. Rows that
    can't be written, say on a full disk, wait in memory for the next one.
    """

    name = version = ""
    run_dir = Path("runs") / "unnamed"

    def __init__(self) -> None:
        super().__init__()
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []  # not on disk, and the last, which may still grow
        self._end: int | None = None  # of the file without these rows
        self._warned = False

    @property
    def save_dir(self) -> str:
        return str(self.run_dir)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder has the whole config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {"epoch": None, "step": step, **metrics}
        last = self._rows[-1] if self._rows else {}
        if last and all(last[name] == row[name] for name in last.keys() & row.keys()):
            last.update(row)
        else:
            self._rows.append(row)
        path = self.run_dir / "metrics.csv"
        try:
            self._write(path)
        except OSError as error:
            if not self._warned:
                print(f"warning: metrics wait in memory: {path}: {error.strerror}", file=sys.stderr)
            self._warned = True

    def _write(self, path: Path) -> None:
        names = [name for row in self._rows for name in row]
        if not set(names) <= set(self._columns):
            self._widen(path, names)
        with path.open("r+", newline="", encoding="utf-8") as file:
            file.seek(self._end or 0)
            file.truncate()
            table = csv.DictWriter(file, self._columns, lineterminator="\n")
            table.writerows(self._rows[:-1])
            end = file.tell()
            table.writerow(self._rows[-1])
        self._end, self._rows = end, self._rows[-1:]

    def _widen(self, path: Path, names: list[str]) -> None:
        """Writes the file anew, with more columns and without the half line of a killed run."""
        old = path.read_bytes()[: self._end] if path.exists() else b""
        table = csv.DictReader(old[: old.rfind(b"\n") + 1].decode().splitlines())
        columns = list(dict.fromkeys([*(table.fieldnames or []), *names]))
        part = path.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            wide = csv.DictWriter(file, columns, lineterminator="\n")
            wide.writeheader()
            wide.writerows(table)
            end = file.tell()
        part.replace(path)
        self._columns, self._end = columns, end
