"""Runs in processes of their own, what happens to them, and what is left of them afterwards."""

from __future__ import annotations

import builtins
import csv
import io
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from stat import S_ISDIR
from typing import Any, NamedTuple

import torch

from src import durable
from src.__main__ import main
from src.callbacks import Report

FIT = (
    "fit --config configs/wine_mlp.yaml --trainer.max_epochs 3 --trainer.accelerator cpu "
    "--trainer.devices 1 --trainer.logger [MetricsCsv] --data.eval_batch_size 8"
)
STEPS = 24  # eight an epoch
# Wine's MLP has dropout, batch norm and WarmupCosine.
VARIANTS = {
    "everything": "--model.augment [Noise,Mixup] --callbacks.ema EMA --callbacks.ema.decay 0.9 "
    "--callbacks.stop EarlyStopping --callbacks.checkpoint.every_n_steps 2",
    "plain": "",
    "each-step": "--callbacks.checkpoint.every_n_steps 1 --callbacks.checkpoint.monitor "
    "val/acc --callbacks.checkpoint.mode max --model.optimizer.lr 0.03 --callbacks.ema EMA",
    "exponential": "--model.scheduler ExponentialLR --model.scheduler.gamma 0.7 "
    "--model.augment [Mixup] --callbacks.checkpoint.every_n_steps 3",
}
NOISE = ("samples_per_s",)  # a speed; so are the seconds that Monitor keeps
DEEP = ("callbacks", "resume", "loops")  # keys of a checkpoint whose parts are told apart
LIMIT_S = 120.0


class Done(NamedTuple):
    """How a process ended: exit code (negative: signal), what it said, seconds of CPU and clock."""

    code: int
    said: str
    cpu_s: float
    wall_s: float


class Outcome(NamedTuple):
    """What came of a trial: for each case in it the names of what it lost, and a remark."""

    cases: list[list[str]]
    note: str = ""


class Process:
    """A fork of this process that calls something, and ends with the exit code that it gives.

    Args:
        call: What it does.
        log: File for all that it says.
        limit_s: Seconds until it is killed.
    """

    def __init__(self, call: Callable[[], int], log: Path, limit_s: float = LIMIT_S) -> None:
        self.log, self.limit_s, self.start = log, limit_s, time.monotonic()
        self.done: Done | None = None
        self.pid = os.fork()
        if not self.pid:
            self._run(call)

    def _run(self, call: Callable[[], int]) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            file = self.log.open("w", buffering=1, encoding="utf-8")
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            code = call()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def poll(self) -> Done | None:
        """How it ended, if it has."""
        late = time.monotonic() - self.start > self.limit_s
        if late and not self.done:
            os.killpg(self.pid, signal.SIGKILL)
        pid, status, usage = (0, 0, None) if self.done else os.wait4(self.pid, 0 if late else 1)
        if pid and usage:
            code, cpu_s = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
            said = self.log.read_text("utf-8", "replace") + "\nit hung" * late
            self.done = Done(code, said, cpu_s, time.monotonic() - self.start)
        return self.done

    def wait(self) -> Done:
        while not (done := self.poll()):
            time.sleep(0.005)
        return done


@dataclass
class Lab:
    """Where the runs of a trial are.

    Args:
        root: Folder of the whole runs, `whole-VARIANT`.
        name: Of the trial and of its run.
    """

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    def run(self, words: str, fault: Callable[[], Any] | None = None, **how: Any) -> Done:
        """Types `python -m src WORDS` in a fresh process, to which `fault` happens."""

        def call() -> int:
            os.environ.setdefault("WANDB_MODE", "disabled")
            Report._write = lambda *_: None  # type: ignore[method-assign] # pictures: half the time
            if fault:
                fault()
            line = f"{words} --trainer.default_root_dir {self.root}"
            return main(line.split())

        return Process(call, self.root / f"{self.name}.log", **how).wait()

    def fit(self, variant: str, fault: Callable[[], Any] | None = None, more: str = "") -> Done:
        """Starts the run, or goes on with it: as a scheduler does."""
        line = f"{FIT} {VARIANTS[variant]} {more} --run {self.name} --resume auto"
        return self.run(line, fault)

    def go_on(self, variant: str, more: str = "") -> list[str]:
        """Goes on until the run is finished; what it has lost."""
        done = self.fit(variant, None, more)
        if done.code:
            return [f"it did not go on: exit {done.code}, {last_line(done)}"]
        return self.lost(variant)

    def whole(self, variant: str) -> Lab:
        """The run of this kind that nothing happened to."""
        return Lab(self.root, f"whole-{variant}")

    def make_whole(self, variant: str) -> Done:
        """Trains it, and keeps how many changes its saves make on the disk."""
        lab = self.whole(variant)
        changes = os.open(lab.root / f"{lab.name}.changes", os.O_WRONLY | os.O_CREAT)
        mark = lambda what, path, *_: is_of_a_save(what, path) and os.write(changes, b".")  # noqa: E731
        done = lab.fit(variant, lambda: watch_disk(mark))
        return done if done.code else lab.predict()

    def num_changes(self) -> int:
        return (self.root / f"{self.name}.changes").stat().st_size

    def predict(self) -> Done:
        """Writes what the best model says of the test rows."""
        return self.run(f"predict --ckpt_path {self.folder}/checkpoints/best.ckpt")

    @property
    def predictions(self) -> bytes:
        return (self.folder / "predictions_test.csv").read_bytes()

    def lost(self, variant: str) -> list[str]:
        """Names of all that differs from the run that nothing happened to."""
        whole, found = self.whole(variant).folder, []
        for name in ("last.ckpt", "best.ckpt"):
            files = [folder / "checkpoints" / name for folder in (whole, self.folder)]
            found += [f"{name} {field}" for field in fields(*map(read, files))]
        return found + table_fields(whole / "metrics.csv", self.folder / "metrics.csv")


def last_line(done: Done) -> str:
    """The last that a process said."""
    return ["it said nothing", *done.said.strip().splitlines()][-1]


def read(path: Path) -> Any:
    """A checkpoint that must be whole."""
    return torch.load(path, weights_only=True) if durable.is_whole(path) else f"{path.name} is bad"


def fields(one: Any, other: Any) -> list[str]:
    """The fields of two checkpoints that differ, each once."""
    return [*dict.fromkeys(differences(one, other, ()))]


def differences(one: Any, other: Any, place: tuple[Any, ...]) -> Iterable[str]:
    """The field of each bit that differs, but for the time it took."""
    if place and place[-1] in NOISE:
        return ()
    if place[-2:] == ("Monitor", "epoch") and isinstance(one, list) and len(one) == 5:
        one, other = ([norms, steps, lr] for norms, steps, _, _, lr in (one, other))
    shown = "/".join(map(str, place[: 1 + (place[:1] != () and place[0] in DEEP)])) or "as a whole"
    if type(one) is not type(other):
        return [shown]
    if isinstance(one, torch.Tensor):
        return [] if one.dtype == other.dtype and equal(one, other) else [shown]
    if isinstance(one, dict):
        keys = {**one, **other}
        nothing = object()
        pairs = ((key, one.get(key, nothing), other.get(key, nothing)) for key in keys)
        return chain(*(differences(a, b, (*place, key)) for key, a, b in pairs))
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [shown]
        parts = enumerate(zip(one, other, strict=True))
        return chain(*(differences(a, b, (*place, i)) for i, (a, b) in parts))
    return [] if one == other or (one != one and other != other) else [shown]


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To the bit, so that a NaN is equal to itself."""
    return one.shape == other.shape and bool(
        torch.equal(one.contiguous().view(-1).view(torch.uint8) if one.numel() else one,
                    other.contiguous().view(-1).view(torch.uint8) if other.numel() else other)
    )  # fmt: skip


def table_fields(one: Path, other: Path) -> list[str]:
    """The columns of two logs that differ, and rows that only one of them has."""
    tables = []
    for path in (one, other):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        tables.append([*csv.DictReader(io.StringIO(text))])
    found = dict.fromkeys(
        f"metrics.csv {name}"
        for a, b in zip_longest(*tables, fillvalue={})
        for name in {**a, **b}
        if a.get(name) != b.get(name) and name not in NOISE
    )
    rows = [len(table) for table in tables]
    return [f"metrics.csv has {rows[1]} of {rows[0]} rows"] * (rows[0] != rows[1]) + [*found]


def is_finite(checkpoint: Any) -> bool:
    """Whether no weight in it is NaN or infinite."""
    values = [v for v in checkpoint["state_dict"].values() if v.is_floating_point()]
    return all(bool(value.isfinite().all()) for value in values)


def at(thing: Any, name: str, nth: int, act: Callable[[], Any], after: bool = False) -> None:
    """Has `act` happen at the `nth` call of a method, counted from 1; before it, or after."""
    method, num_calls = getattr(thing, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == nth and not after:
            act()
        result = method(*args, **kwargs)
        if num_calls == nth and after:
            act()
        return result

    setattr(thing, name, wrapped)


def kill(number: int = signal.SIGKILL) -> None:
    """Sends this process a signal; without warning, or by another than SIGKILL."""
    os.kill(os.getpid(), number)


class Written:
    """A file that is written, each write of which is seen before."""

    def __init__(self, file: Any, path: str, see: Callable[..., Any]) -> None:
        self._file, self._path, self._see = file, path, see

    def write(self, data: Any) -> Any:
        self._see("write", self._path, data, self._file)
        return self._file.write(data)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def watch_disk(see: Callable[..., Any]) -> None:
    """Has `see(what, path, ...)` called before each change that this process makes on a disk.

    What: `open` (to write), `write` (with data and file), `fsync`, `replace` and `link` (with the
    new path), `unlink`.
    """
    real_open = io.open

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(path, int) or not {*mode} & {*"wax+"}:
            return real_open(path, mode, *args, **kwargs)
        see("open", str(path), mode)
        file = real_open(path, mode, *args, **kwargs)
        paths[inode(file.fileno())] = str(path)
        return Written(file, str(path), see)

    def inode(file: int) -> tuple[int, int]:
        stat = os.fstat(file)
        return stat.st_dev, stat.st_ino

    paths: dict[tuple[int, int], str] = {}
    real_fsync, real_link = os.fsync, os.link
    real_replace, real_unlink = os.replace, os.unlink

    def fsync(file: int) -> None:
        is_folder = S_ISDIR(os.fstat(file).st_mode)  # may have the inode of a file that is gone
        see("fsync", "" if is_folder else paths.get(inode(file), ""))
        real_fsync(file)

    def link(old: Any, new: Any, **how: Any) -> None:
        see("link", str(old), str(new))
        real_link(old, new, **how)

    def replace(old: Any, new: Any, **how: Any) -> None:
        see("replace", str(old), str(new))
        real_replace(old, new, **how)

    def unlink(path: Any, **how: Any) -> None:
        if os.path.lexists(path):
            see("unlink", str(path))
        real_unlink(path, **how)

    vars(io)["open"] = vars(builtins)["open"] = opened
    vars(os).update(fsync=fsync, link=link, replace=replace, rename=replace)
    vars(os).update(unlink=unlink, remove=unlink)


def is_of_a_save(what: str, path: str) -> bool:
    """Whether a change of the disk is a save's; only a save has the disk confirm a folder."""
    return ".ckpt" in path or (what == "fsync" and not path)


def prepare() -> None:
    """Trains once here, so that what is forked from here has all imported and read."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        words = f"{FIT} --trainer.default_root_dir {folder}/runs --run warm"
        with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
            code = main(words.split())
        assert code == 0, log.read_text()
