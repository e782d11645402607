"""Checkpoint files that nothing leaves half written, and that are read only if they are whole.

A save goes to a file beside the old one, with a checksum at its end, reaches the disk, and only
then takes the old one's name, which is kept as `NAME.prev`. It is written by a thread of its own:
the disk takes some milliseconds to confirm, in which a small net trains for a whole epoch.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch.utils.serialization import config

MARK = b"\nsha256 "  # then the digest in hex: the end of each file, which torch doesn't look at
TRAILER = len(MARK) + 64
CHUNK = 1 << 20


def previous(path: Path) -> Path:
    """Where the checkpoint is kept that `path` was before its last save."""
    return path.with_name(f"{path.name}.prev")


def load(path: Path) -> Any:
    """Reads a checkpoint, or, where it is damaged or gone, the one before it, and says so loudly.

    No code in it can run.

    Raises:
        ValueError: It is damaged, and so is the one before it.
        FileNotFoundError: There is neither.
    """
    guard()
    file = whole(path)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:  # whole, but not of a kind that may be read
        raise ValueError(f"checkpoint {file} holds more than numbers and texts") from e


def whole(path: Path, is_loud: bool = True) -> Path:
    """The checkpoint, or the one before it, as `load` takes it, with the same errors."""
    for file in (path, previous(path)):
        if is_whole(file):
            if file is not path and is_loud:
                what = "is damaged" if path.exists() else "is gone"
                text = f"WARNING: {path} {what}: {file.name} is taken instead"
                rank_zero_only(print)(text, file=sys.stderr)
            return file
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    raise ValueError(f"checkpoint {path} is damaged, or no checkpoint")


def guard() -> None:
    """Raises a ValueError where torch is told to run what is in a checkpoint."""
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        raise ValueError("unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD: a checkpoint could run code")


def is_whole(path: Path) -> bool:
    """Whether a file is there and its checksum is right."""
    if not path.is_file() or (left := path.stat().st_size - TRAILER) < 0:
        return False
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(min(CHUNK, left)):
            digest.update(chunk)
            left -= len(chunk)
        return file.read() == MARK + digest.hexdigest().encode()


def put(part: Path, path: Path, keep: bool) -> None:
    """Gives `part` the name `path`; with `keep` the file that had it becomes `.prev`."""
    if keep:
        kept = part.with_suffix(".kept")
        kept.unlink(missing_ok=True)
        share(path, kept)
        kept.replace(previous(path))
    part.replace(path)
    sync(path.parent)  # the names, too, reach the disk


def share(path: Path, other: Path) -> None:
    """A second name for a file, or a copy where a disk knows no such thing."""
    try:
        other.hardlink_to(path)
    except OSError:
        write(other, path.read_bytes())


def write(path: Path, data: bytes | memoryview, end: Callable[[], bytes] = bytes) -> None:
    """Writes a file, then its end, which is made meanwhile, and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.write(end())
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sweep(folder: Path) -> None:
    """Removes what saves that were cut short have left."""
    for file in folder.glob(".*.ckpt.*"):
        file.unlink()


class DurableIO(CheckpointIO):
    """Saves and loads the checkpoints of a trainer.

    A save that fails, say on a full disk, leaves the old checkpoint as it was: a line says so,
    training goes on, and `failure` is why until a later save succeeds.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None
        self._thread, self._beside = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._saving: Future[None] | None = None
        self.log: Path | None = None  # whose rows a checkpoint counts
        self.held: list[dict[str, Any]] = []  # a checkpoint that is read already, loaded first
        self._known: set[Path] = set()  # files that were whole when this process last looked

    def put_into(self, strategy: Any) -> None:
        """Has a strategy load by this alone, even where processes share the weights.

        Raises:
            ValueError: It would save several files, and some of them could be damaged or older.
        """
        of_each = getattr(strategy, "_save_distributed_checkpoint", False)  # FSDP2
        of_each |= getattr(strategy, "_state_dict_type", "full") != "full"  # FSDP
        if of_each or isinstance(strategy, DeepSpeedStrategy):
            what = f"`trainer.strategy` {type(strategy).__name__} saves a file a process, not one"
            raise ValueError(f"{what}: take it as configs/trainer/fsdp.yaml does, or ddp")
        if strategy.restore_checkpoint_after_setup:  # it reads the file by itself
            load = strategy.load_checkpoint
            strategy.load_checkpoint = lambda path, **how: load(self._whole(path), **how)

    def _whole(self, path: str | Path) -> Path:
        self.wait()
        held, self.held = self.held, []  # of one that was read already, it is said
        return whole(Path(path), is_loud=not held)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        self.wait()
        buffer = io.BytesIO()
        # half the time, for numbers at which torch doesn't look
        with config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
            torch.save(checkpoint, buffer)
        data = buffer.getbuffer()
        end = self._beside.submit(seal, data).result  # takes as long as the disk does
        self._begin(Path(path), lambda part: write(part, data, end))

    def copy(self, path: Path, other: Path) -> None:
        """Makes `other` what `path` is, as soon as that is saved, and if it is."""
        self._begin(other, lambda part: None if self.failure else share(path, part))

    def _begin(self, path: Path, make: Callable[[Path], None]) -> None:
        self._saving = self._thread.submit(self._save, path, make)

    def _save(self, path: Path, make: Callable[[Path], None]) -> None:
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            if self.log and self.log.exists():
                sync(self.log)
            make(part)
            if part.exists():
                put(part, path, keep=path.exists() and (path in self._known or is_whole(path)))
                self._known.add(path)
                self.failure = None
        except OSError as error:
            self.failure = error
            with suppress(OSError):
                part.unlink(missing_ok=True)
            text = f"WARNING: {path} was not saved ({error.strerror}): the one before it stays"
            print(text, file=sys.stderr, flush=True)

    def wait(self) -> None:
        """Returns when the last save has ended."""
        if self._saving:
            self._saving.result()

    def check(self) -> None:
        """Raises an OSError if the newest checkpoint could not be saved."""
        self.wait()
        if self.failure:
            raise OSError(f"the newest checkpoint was not saved ({self.failure.strerror})")

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        self.wait()
        return self.held.pop() if self.held else load(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)

    def teardown(self) -> None:
        self.wait()


def seal(data: bytes | memoryview) -> bytes:
    """What a file ends with that holds `data`."""
    return MARK + sha256(data).hexdigest().encode()
