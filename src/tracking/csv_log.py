"""`metrics.csv`: what a run logged, as a table that any program reads."""

import csv
import io
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from src.durable import sync


class MetricsCsv(Logger):
    """Adds to `metrics.csv` of the run folder: a row a step, on disk as soon as it is logged.

    What is logged for one step in several calls shares a row. Only a new column writes the file
    anew. A run that goes on drops the rows after its checkpoint, which it logs again. While the
    file can't be written, say on a full disk, the rows wait in memory and in the checkpoint.
    """

    name = version = ""
    run_dir: Path

    def __init__(self) -> None:
        super().__init__()
        self._columns: list[str] = []
        self._num_rows = 0  # in the file, up to byte `_end`
        self._end = 0
        self._waiting: list[dict[str, Any]] = []  # the last row, which may still grow, comes last
        self._warned = False

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder has the whole config."""

    def state_dict(self) -> dict[str, Any]:
        return {"num_rows": self._num_rows, "waiting": [dict(row) for row in self._waiting]}

    @rank_zero_only
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Drops the rows after those that there were at `state`."""
        path = self.run_dir / "metrics.csv"
        if path.is_file():
            lines = path.read_bytes().split(b"\n")[:-1]  # the last was cut short, or is none
            self._columns = next(csv.reader([line.decode() for line in lines[:1]]), [])
            self._num_rows = min(max(len(lines) - 1, 0), state.get("num_rows", 0))
            self._end = sum(len(line) + 1 for line in lines[: self._num_rows + 1])
            with path.open("r+b") as file:
                file.truncate(self._end)
        if waiting := state.get("waiting"):
            self._waiting = waiting[:-1]
            self.log_metrics(waiting[-1])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {"epoch": None, "step": step, **metrics}
        last = self._waiting[-1] if self._waiting else {}
        if last and all(last.get(name, row[name]) == row[name] for name in row):
            last |= row
        else:
            self._waiting.append(row)
        path = self.run_dir / "metrics.csv"
        try:
            self._write(path)
        except OSError as error:
            if not self._warned:
                print(f"warning: metrics wait in memory: {path}: {error.strerror}", file=sys.stderr)
            self._warned = True

    def _write(self, path: Path) -> None:
        """Writes the rows that wait over the last row, which waits on."""
        columns = [*dict.fromkeys(chain(self._columns, *self._waiting))]
        rows = [line_of(row.get(name) for name in columns) for row in self._waiting]
        if new := len(columns) - len(self._columns):
            old = path.read_bytes()[: self._end].decode().splitlines()[1:] if self._columns else []
            before = [line_of(columns), *(line + "," * new for line in old)]
            part = path.with_suffix(".part")
            part.write_text("\n".join([*before, *rows, ""]), encoding="utf-8")
            sync(part)  # a power loss would empty it, had it the name before
            part.replace(path)
            sync(path.parent)
            self._columns, self._end = columns, len("\n".join([*before, ""]).encode())
        else:
            with path.open("r+b") as file:
                file.seek(self._end)
                file.write("\n".join([*rows, ""]).encode())
        self._end += sum(len(row.encode()) + 1 for row in rows[:-1])
        self._num_rows += len(rows) - 1
        del self._waiting[:-1]


def line_of(cells: Iterable[Any]) -> str:
    """One line of a CSV file, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
