"""`metrics.csv`: what a run logged, as a table that any program reads."""

from __future__ import annotations

import csv
import io
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
        self._offset = 0  # where in the file the first of them goes
        self._stuck = False

    @property
    def save_dir(self) -> str:
        return str(self.run_dir)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder has the whole config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {"epoch": metrics.get("epoch"), "step": step}
        last = self._rows[-1] if self._rows else {}
        if row.items() <= last.items() and last.keys() & metrics.keys() <= {"epoch"}:
            last.update(metrics)
        else:
            self._rows.append({**row, **metrics})
        self._flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._stuck:
            self._flush()

    def _flush(self) -> None:
        try:
            self._write()
            self._stuck = False
        except OSError as error:
            if not self._stuck:
                line = f"warning: metrics wait in memory: {error.strerror}: {self._path}"
                print(line, file=sys.stderr, flush=True)
            self._stuck = True

    def _write(self) -> None:
        self._path = self.run_dir / "metrics.csv"
        if not self._columns:
            self._open()
        new = [name for row in self._rows for name in row if name not in self._columns]
        if new:
            self._widen(new)
        lines = [self._line([row.get(name) for name in self._columns]) for row in self._rows]
        with self._path.open("r+b") as file:
            file.seek(self._offset)
            file.truncate()
            file.write(b"".join(lines))
        self._offset += sum(map(len, lines[:-1]))
        del self._rows[:-1]

    def _open(self) -> None:
        """Finds the end of what an earlier run wrote; half a line of a killed one is dropped."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        text = self._path.read_bytes() if self._path.exists() else b""
        self._offset = text.rfind(b"\n") + 1
        if self._offset:
            self._columns = next(csv.reader([text[: self._offset].decode().splitlines()[0]]))

    def _widen(self, names: list[str]) -> None:
        """Adds columns: the file is written anew beside the old one, then takes its place."""
        columns = list(dict.fromkeys(self._columns + names))
        old = self._path.read_bytes()[: self._offset].decode() if self._offset else ""
        rows = list(csv.reader(old.splitlines()))[1:]
        padded = [row + [""] * (len(columns) - len(row)) for row in rows]
        text = b"".join(map(self._line, [columns, *padded]))
        part = self._path.with_suffix(".part")
        part.write_bytes(text)
        part.replace(self._path)
        self._columns, self._offset = columns, len(text)

    @staticmethod
    def _line(values: list[Any]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue().encode()
