"""Rows 4, 5 and 6: a file is damaged, a disk loses its power, is full or takes nothing."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from itertools import permutations, product
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from scripts.chaos.lab import (
    STEPS,
    Done,
    Lab,
    Outcome,
    at,
    fields,
    is_of_a_save,
    kill,
    last_line,
    read,
    watch_disk,
)
from src import durable
from src.models.model import Model

ENOUGH = 20  # states of a disk from which nothing can be loaded
TIMES = 10  # that the checkpoint of one run is damaged
DAMAGES: list[tuple[str, Callable[[Path, Random], Any]]] = [
    ("flipped", lambda path, rng: flip(path, rng.randrange(8 * path.stat().st_size))),
    ("truncated", lambda path, rng: os.truncate(path, rng.randrange(1, path.stat().st_size))),
    ("flipped", lambda path, rng: flip(path, rng.randrange(8 * path.stat().st_size))),
    ("emptied", lambda path, _: os.truncate(path, 0)),
    ("deleted", lambda path, _: path.unlink()),
]


def flip(path: Path, bit: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def damaged(lab: Lab, rng: Random, number: int) -> Outcome:
    """The newest checkpoint of a killed run is damaged: it is found out, and another is taken."""
    variant, step = "everything", rng.randint(7, STEPS)
    lab.fit(variant, lambda: at(Model, "training_step", step, kill))
    kept = lab.folder.with_suffix(".kept")
    shutil.copytree(lab.folder, kept)
    before, cases = read(durable.previous(lab.last)), []
    for count in range(TIMES):
        shutil.rmtree(lab.folder)
        shutil.copytree(kept, lab.folder)
        how, damage = DAMAGES[(number + count) % len(DAMAGES)]
        damage(lab.last, rng)
        said = StringIO()
        with redirect_stderr(said):
            loaded = durable.load(lab.last)
        lost = [f"{how}: another {field} was loaded" for field in fields(before, loaded)]
        cases.append(lost + [f"{how}: nothing was said"] * (str(lab.last) not in said.getvalue()))
    cases[-1] += [f"{how}: {what}" for what in lab.go_on(variant)]
    shutil.rmtree(kept)
    return Outcome(cases)


class Disk:
    """What a power loss may leave of files, after changes that `watch_disk` has seen.

    What the disk has confirmed stays: of a file its data, of a folder its names. Of what came
    later, any names may be there, as if they were given in any order, and of a file that was not
    confirmed what was confirmed before, a part, zeros, or all.
    """

    def __init__(self) -> None:
        self.data: list[bytes] = []  # of each file
        self.confirmed: list[bytes] = []
        self.names: dict[str, int] = {}
        self.sure: dict[str, int] = {}  # names that are confirmed
        self.since: list[dict[str, int | None]] = []  # what each change since then did to names
        self.generations: dict[str, list[bytes]] = {}  # that a name has had
        self.reached: dict[str, int] = {}  # and the newest of them that is confirmed

    def change(self, what: str, name: str, *more: Any) -> None:
        if what == "open" and name not in self.names:
            self.data.append(b"")
            self.confirmed.append(b"")
            self._rename({name: len(self.data) - 1})
        elif what == "open":
            self.data[self.names[name]] = b""
        elif what == "write":
            self.data[self.names[name]] += more[0]
        elif what == "fsync" and name:
            self.confirmed[self.names[name]] = self.data[self.names[name]]
        elif what == "fsync":
            self.sure, self.since = dict(self.names), []
            self.reached = {name: len(had) - 1 for name, had in self.generations.items()}
        elif what == "link":
            self._rename({more[0]: self.names[name]})
        elif what == "unlink":
            self._rename({name: None})
        elif what == "replace":
            number = self.names[name]
            self._rename({more[0]: number, name: None})
            self.generations.setdefault(more[0], []).append(self.data[number])

    def _rename(self, change: dict[str, int | None]) -> None:
        self.since.append(change)
        for name, number in change.items():
            if number is None:
                del self.names[name]
            else:
                self.names[name] = number

    def left(self) -> Iterator[dict[str, bytes]]:
        """Each state of the files that there may be after a loss of power now."""
        for count in range(len(self.since) + 1):
            for some in permutations(self.since, count):
                names: dict[str, int | None] = dict(self.sure)
                for change in some:
                    names |= change
                there = {name: number for name, number in names.items() if number is not None}
                numbers = sorted({*there.values()})
                for contents in product(*map(self._contents, numbers)):
                    found = dict(zip(numbers, contents, strict=True))
                    yield {name: found[number] for name, number in there.items()}

    def _contents(self, number: int) -> list[bytes]:
        data, confirmed = self.data[number], self.confirmed[number]
        if data == confirmed:
            return [data]
        return [*{confirmed, data[: len(data) // 2], bytes(len(data)), data}]


def power_lost(lab: Lab, rng: Random, number: int) -> Outcome:
    """At each moment of all saves of a run, what was confirmed, or a newer one, can be loaded."""
    file = lab.root / f"{lab.name}.changes"
    with file.open("wb", buffering=0) as changes:

        def see(what: str, path: str, *more: Any) -> None:
            if is_of_a_save(what, path):
                told = [bytes(m) if what == "write" else Path(m).name for m in more[:1]]
                changes.write(pickle.dumps((what, Path(path).name, *told)))
            if what == "link" and number:  # a disk that knows no second name for a file
                raise OSError(errno.EPERM, "no links")

        done = lab.fit("everything", lambda: watch_disk(see))
    disk, seen = Disk(), set()
    cases: list[list[str]] = []
    folder = lab.root / f"{lab.name}.left"
    with file.open("rb") as told:
        while told.peek(1):
            what, *rest = pickle.load(told)
            if not (what == "link" and number):
                disk.change(what, *rest)
            for files in disk.left():
                state = tuple(sorted((n, hash(data)) for n, data in files.items()))
                key = state, tuple(disk.reached.items())
                if key not in seen and sum(map(bool, cases)) < ENOUGH:
                    seen.add(key)
                    cases.append(lost_of(disk, files, folder))
    return Outcome(cases or [[f"no save was seen: {last_line(done)}"]])


def lost_of(disk: Disk, files: dict[str, bytes], folder: Path) -> list[str]:
    """What of the confirmed checkpoints can't be loaded from these files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    lost = []
    for name, reached in disk.reached.items():
        try:
            with redirect_stderr(StringIO()), patch("torch.load", read_bytes):
                found = durable.load(folder / name)
        except (OSError, ValueError) as error:
            lost.append(f"{name}: {error}".replace(str(folder), ""))
            continue
        if found not in disk.generations[name][reached:]:
            lost.append(f"{name}: another one than was confirmed")
    return lost


def read_bytes(path: Path, **_: Any) -> bytes:
    """What `torch.load`, at 10 ms a file, would read."""
    return path.read_bytes()


FULL = {  # what fails, with which error; `limit`: files can't be larger than some
    "full": ("write", errno.ENOSPC),
    "full for a while": ("write", errno.ENOSPC),
    "read-only": ("open", errno.EROFS),
    "broken": ("fsync", errno.EIO),
    "limit": ("", errno.EFBIG),
}


def full(lab: Lab, rng: Random, number: int) -> Outcome:
    """From some step on no checkpoint can be saved: the old one stays, and it is said, loudly."""
    how = [*FULL][number % len(FULL)]
    variant, step = "everything", rng.randint(1, STEPS - 8)
    before = lab.root / f"{lab.name}.before"

    def begin() -> None:
        if lab.last.is_file():
            shutil.copy(lab.last, before)
        if how == "limit":
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, most))
            return
        fails, code = FULL[how]

        def see(what: str, path: str, *_: Any) -> None:
            if what == fails and is_of_a_save(what, path) and not is_over:
                raise OSError(code, os.strerror(code), path)

        watch_disk(see)

    def fault() -> None:
        at(Model, "training_step", step, begin)
        if how == "full for a while":
            at(Model, "training_step", step + 4, lambda: is_over.append(True))

    is_over: list[bool] = []
    done = lab.fit(variant, fault)
    lost = [f"{how}: {what}" for what in unharmed(lab, before, done)]
    if "was not saved" not in done.said:
        lost.append(f"{how}: nothing was said of it")
    if (done.code == 0) != (how == "full for a while"):
        lost.append(f"{how}: exit {done.code}, {last_line(done)}")
    return Outcome([lost or lab.go_on(variant)])


def unharmed(lab: Lab, before: Path, done: Done) -> list[str]:
    """Whether training went on, and the checkpoint of before is there, or a newer one."""
    lost = ["it did not go on to its end"] * ("epoch 3/3" not in done.said)
    if not before.is_file():
        return lost
    if not durable.is_whole(lab.last):
        return [*lost, "the old checkpoint is gone"]
    old, new = (read(path)["global_step"] for path in (before, lab.last))
    return [*lost, f"the checkpoint went back from step {old} to {new}"] if new < old else lost
