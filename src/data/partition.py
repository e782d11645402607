"""Which rows train, which choose the model and which test it: a pure function of the rows."""

from __future__ import annotations

import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.data.content import fingerprint, hash_names, hash_rows, rekey
from src.data.rows import FREE, SPLITS, Rows, Source

__all__ = ["KFold", "Stratified"]

Kept = dict[str, dict[str, list[Any]]]  # what defines a partition -> class -> its boundaries
_INDIFFERENT = ("fold", "duplicates", "keep")  # options that draw no other boundaries
_ANEW = "restore the file, or delete it to divide the rows anew"


@dataclass(frozen=True)
class Split:
    """The rows of each split and what there is to say about them.

    Args:
        train: `(N,)` int64 row numbers, ascending; so are val and test.
        kept: Boundaries for the next time, with those of other partitions that came in.
        report: Options, counts, boundaries and fingerprint of the data, in JSON types.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    kept: Kept
    report: dict[str, Any]


class Partition(ABC):
    """Divides the rows that no published split holds, by a hash of the content of each.

    Each class has boundaries between hashes, drawn once and kept: so no row ever moves to another
    split, in whatever order the rows are, and however many are added. Rows with groups are divided
    by a hash of the group, and rows with times by the time, without regard to classes.

    Args:
        seed: Another seed divides the rows in another way.
        group_by: Column of groups: no group is in two splits.
        duplicates: For equal rows in two splits: `drop` takes them out of train, then val.
        keep: File that keeps the boundaries; `auto`: beside the data; null: none.
    """

    time_by: str | None = None

    def __init__(
        self,
        seed: int = 0,
        group_by: str | None = None,
        duplicates: Literal["error", "drop", "allow"] = "error",
        keep: str | None = "auto",
    ) -> None:
        self.seed = seed
        self.group_by = group_by
        self.duplicates = duplicates
        self.keep = keep

    def keep_path(self, source: Source) -> Path | None:
        """The file of kept boundaries, if there is to be one."""
        if self.keep == "auto":
            return source.keep_path()
        return Path(self.keep) if self.keep else None

    def split(self, rows: Rows, kept: Kept | None = None) -> Split:
        """Divides the rows.

        Args:
            rows: All rows of the source.
            kept: `Split.kept` of an earlier time: the rows it divided stay where they were.

        Raises:
            ValueError: The rows can't be divided like this.
        """
        ids = hash_rows(rows.x) if rows.ids is None else rows.ids
        where = np.full(len(rows), FREE, np.int8)
        if rows.published is not None:
            where[:] = rows.published
        key, boundaries = self._assign(rows, ids, where, kept or {})
        dropped = self._drop_duplicates(rows, ids, where)
        index = {name: np.flatnonzero(where == split) for split, name in enumerate(SPLITS)}
        if not len(index["train"]):
            raise ValueError(f"train has none of the {len(rows)} rows: change `data.partition`")
        classes = rows.signature.class_names
        by_class = {
            name: np.bincount(rows.y[i], minlength=len(classes)).tolist()
            for name, i in index.items()
            if classes
        }
        report = {
            "partition": type(self).__name__,
            "options": dict(vars(self)),
            "fingerprint": fingerprint(ids, rows.y),
            "counts": {name: len(i) for name, i in index.items()},
            "dropped": dropped,
            "class_counts": {k: dict(zip(classes, v, strict=True)) for k, v in by_class.items()},
            "key": key,
            "boundaries": boundaries,
        }
        new = {key: boundaries} if boundaries else {}
        return Split(**index, kept={**(kept or {}), **new}, report=report)

    @abstractmethod
    def _buckets(self, published: list[str]) -> tuple[list[float], list[str], str]:
        """Shares of the free rows, lowest hashes first, the split of each, and their name."""

    def _assign(
        self, rows: Rows, ids: np.ndarray, where: np.ndarray, kept: Kept
    ) -> tuple[str, dict[str, list[Any]]]:
        """Gives each free row its split in `where`; returns the key and the boundaries."""
        unit, values = _units(rows, ids, self.seed)
        published = [name for split, name in enumerate(SPLITS) if (where == split).any()]
        defining = (f"{k}={v}" for k, v in sorted(vars(self).items()) if k not in _INDIFFERENT)
        hashed = f" of {rows.x.dtype} {rows.x.shape[1:]}" * (unit == "row" and rows.ids is None)
        key = f"{type(self).__name__}({', '.join(defining)}) by {unit}{hashed}"
        key += f", targets: {list(rows.signature.target_names)}, published: {published}"
        boundaries = dict(kept.get(key, {}))
        free = np.flatnonzero(where == FREE)
        if len(free):
            shares, names, parts = self._buckets(published)
            splits = np.array([SPLITS.index(name) for name in names], np.int8)
            for owner, members in _strata(rows, unit, free):
                if owner not in boundaries:
                    ordered = np.sort(values[members])
                    boundaries[owner] = _draw(ordered, shares, unit, owner, parts)
                bounds = _read(boundaries[owner], len(shares) - 1, unit, values.dtype)
                where[members] = splits[np.searchsorted(bounds, values[members], side="right")]
        if unit == "group" and len(torn := _behind(values, where)):
            raise ValueError(
                f"the group of {_name(rows, torn[0])} is published in another split too: "
                "mend the data, or leave out the groups"
            )
        return key, boundaries

    def _drop_duplicates(self, rows: Rows, ids: np.ndarray, where: np.ndarray) -> dict[str, int]:
        """Takes a row out of `where` if a later split has it too; returns how many."""
        behind = _behind(ids, where) if self.duplicates != "allow" else np.array([], np.int64)
        if self.duplicates == "error" and len(behind):
            shown = behind[:3].tolist()
            twins = [np.flatnonzero((ids == ids[r]) & (where > where[r]))[0] for r in shown]
            placed = [f"{_name(rows, r)} in {SPLITS[where[r]]}" for r in (*shown, *twins)]
            pairs = map(" = ".join, zip(placed, placed[len(shown) :], strict=False))
            raise ValueError(
                f"rows with an exact duplicate in another split: {len(behind)} ({', '.join(pairs)}"
                f"{', ...' * (len(behind) > 3)}): set `data.partition.duplicates` to drop or allow"
            )
        counts = np.bincount(where[behind], minlength=len(SPLITS)).tolist()
        where[behind] = FREE
        return dict(zip(SPLITS, counts, strict=True))


class Stratified(Partition):
    """Divides each class by shares.

    Args:
        fracs: Shares of train, val and test, in [0, 1]; they sum to 1.
        time_by: Column of times: the past is train, the future test.
    """

    def __init__(
        self,
        fracs: tuple[float, float, float] = (0.7, 0.15, 0.15),
        time_by: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.fracs = [float(frac) for frac in fracs]
        self.time_by = time_by
        if not all(0 <= frac <= 1 for frac in self.fracs) or not self.fracs[0]:
            raise ValueError(
                f"`data.partition.fracs` are {self.fracs}: give shares from 0 to 1 for train, val "
                "and test, and train more than 0"
            )
        if abs(sum(self.fracs) - 1) > 1e-6:
            total = f"{sum(self.fracs):g}, not 1"
            raise ValueError(f"`data.partition.fracs` sum to {total}: change them so that they do")

    def _buckets(self, published: list[str]) -> tuple[list[float], list[str], str]:
        fracs = zip(SPLITS, self.fracs, strict=True)
        shares = {name: frac for name, frac in fracs if frac and name not in published}
        if not shares:
            raise ValueError(
                f"{' and '.join(published)} are published, and `data.partition.fracs` leave no "
                "split for the other rows: give val or test a share"
            )
        total = sum(shares.values())
        return [share / total for share in shares.values()], list(shares), ", ".join(shares)


class KFold(Partition):
    """Divides each class into equal folds: one is test, the next is val, the others are train.

    Args:
        num_folds: Number of folds: 3 or more, or 2 if val or test is published.
        fold: The fold that is test, or val if test is published: from 0 to `num_folds` - 1.
    """

    def __init__(self, num_folds: int = 5, fold: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.num_folds = num_folds
        self.fold = fold
        if num_folds < 2:
            raise ValueError(f"`data.partition.num_folds` is {num_folds}: give 3 or more")
        if not 0 <= fold < num_folds:
            raise ValueError(f"`data.partition.fold` is {fold}: give one of 0 to {num_folds - 1}")

    def split(self, rows: Rows, kept: Kept | None = None) -> Split:
        if rows.times is not None:
            raise ValueError("`KFold` can't divide rows that have times: take `Stratified`")
        return super().split(rows, kept)

    def _buckets(self, published: list[str]) -> tuple[list[float], list[str], str]:
        held_out = [name for name in ("test", "val") if name not in published]
        if not held_out:
            raise ValueError("val and test are published, so no fold can be: take `Stratified`")
        if self.num_folds == len(held_out):
            raise ValueError("`data.partition.num_folds` is 2, and none is left to train: give 3")
        splits = ["train"] * self.num_folds
        for i, name in enumerate(held_out):
            splits[(self.fold + i) % self.num_folds] = name
        return [1 / self.num_folds] * self.num_folds, splits, f"{self.num_folds} folds"


def load_kept(path: Path) -> Kept:
    """Reads the boundaries that a file keeps: none if there is no file.

    Raises:
        ValueError: The file can't be read.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {key: {**strata} for key, strata in kept.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        raise ValueError(f"{path} holds no boundaries of a partition: {_ANEW}") from None


def save_kept(path: Path, kept: Kept) -> None:
    """Writes the boundaries, or warns that it can't. For one process of a run."""
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temp.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        temp.replace(path)
    except OSError as error:
        message = f"{path} can't be written ({error.strerror}): rows may move when the data grows"
        warnings.warn(message, stacklevel=2)


def _units(rows: Rows, ids: np.ndarray, seed: int) -> tuple[str, np.ndarray]:
    """What is divided (rows, groups or times), and the value of each row that says where to."""
    if rows.groups is not None and rows.times is not None:
        raise ValueError(
            "the rows have groups and times, and only one can divide them: leave out "
            "`data.partition.group_by` or `data.partition.time_by`, or that array of the source"
        )
    if rows.groups is not None:
        return "group", rekey(hash_names(_known(rows, rows.groups, "group")), seed)
    if rows.times is not None:
        return "time", _known(rows, rows.times, "time")
    return "row", rekey(ids, seed)


def _known(rows: Rows, values: np.ndarray, unit: str) -> np.ndarray:
    """Refuses a missing value; makes text of objects, so that they sort."""
    missing = values != values  # as NaN and NaT are
    if values.dtype == object:
        missing = np.array([value is None or value != value for value in values])
    if missing.any():
        where = f"{_name(rows, missing.argmax())} has no {unit}"
        raise ValueError(f"{where}: fill it in, or leave out `data.partition.{unit}_by`")
    return values.astype(str) if values.dtype == object else values


def _strata(rows: Rows, unit: str, free: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The free rows: those of each class, or all where classes don't matter."""
    classes = rows.signature.class_names
    if unit != "row" or not classes:
        yield "the data", free
        return
    codes = rows.y[free].astype(np.uint16 if len(classes) < 2**16 else np.int64)
    order = np.argsort(codes, kind="stable")  # 4 times as fast for uint16, by radix
    ends = np.cumsum(np.bincount(codes, minlength=len(classes)))[:-1]
    for name, members in zip(classes, np.split(free[order], ends), strict=True):
        if len(members):
            yield f"class {name!r}", members


def _draw(values: np.ndarray, shares: list[float], unit: str, owner: str, parts: str) -> list[Any]:
    """Finds boundaries between sorted values, so that each bucket has its share of the rows as
    nearly as can be, and at least one value; a row at a boundary is above it.
    """
    starts = np.flatnonzero(values[1:] != values[:-1]) + 1
    cuts = np.arange(len(shares) - 1)
    if len(starts) < len(cuts):
        drop = ", drop the class" if owner.startswith("class") else ""
        raise ValueError(
            f"{owner} has {len(starts) + 1} distinct {unit}{'s' * (len(starts) > 0)}, but each of "
            f"{parts} needs one: add {unit}s{drop}, or change `data.partition`"
        )
    ideal = np.cumsum(shares)[:-1]
    nearest = np.searchsorted((starts[1:] + starts[:-1]) / 2, ideal * len(values))
    picks = np.clip(np.maximum.accumulate(nearest - cuts), 0, len(starts) - len(cuts)) + cuts
    first = starts[picks]
    if unit == "time":
        return [str(b) if b.dtype.kind == "M" else b.item() for b in values[first]]
    # all numbers of a gap divide these rows alike: the one nearest to the share suits those to come
    gaps = zip(ideal.tolist(), values[first - 1].tolist(), values[first].tolist(), strict=True)
    return [f"{min(max(int(q * 2**64), low + 1), high):016x}" for q, low, high in gaps]


def _read(bounds: list[Any], num: int, unit: str, dtype: np.dtype) -> np.ndarray:
    """Makes `num` kept boundaries comparable with values of this type."""
    try:
        if unit == "time":
            read = np.array(bounds, "M8" if dtype.kind == "M" else None)
        else:
            read = np.array([int(bound, 16) for bound in bounds], np.uint64)
        if len(read) == num and (read[1:] >= read[:-1]).all():
            return read
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"the kept boundaries of the partition are damaged ({bounds}): {_ANEW}")


def _behind(keys: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Rows whose key is in a later split too, ascending."""
    ordered = np.sort(keys)
    rows = np.flatnonzero(np.isin(keys, ordered[1:][ordered[1:] == ordered[:-1]]))
    _, codes = np.unique(keys[rows], return_inverse=True)
    last = np.full(len(rows), FREE, np.int8)
    np.maximum.at(last, codes, where[rows])
    return rows[where[rows] < last[codes]]


def _name(rows: Rows, row: Any) -> str:
    return f"row {row}" if rows.names is None else str(rows.names[row])
