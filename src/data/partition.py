"""Which rows train, which choose the model and which test it: a pure function of the rows."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from src.data.content import blocks, fingerprints, hash_names, hash_rows, uniform
from src.data.rows import FREE, SPLITS, Rows

__all__ = ["KFold", "Stratified"]

TRAIN, VAL, TEST = range(len(SPLITS))
Kept = dict[str, dict[str, list[Any]]]  # what defines a partition -> class -> its boundaries


class Split(NamedTuple):
    """Row numbers of each split, `(N,)` int64, ascending, and what there is to say about them."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    kept: Kept  # boundaries for the next time, with those of other partitions that came in
    report: dict[str, Any]  # counts, boundaries and fingerprint of the data, in JSON types


class Partition:
    """Divides the rows that no published split holds, by a hash of the content of each.

    Each class has boundaries between hashes, drawn once and kept: so no row ever moves to another
    split, in whatever order the rows are, and however many are added. Rows with groups are divided
    by a hash of the group, and rows with times by the time, without regard to classes.

    Args:
        seed: Another seed divides the rows in another way.
        group_by: Column of groups: no group is in two splits.
        duplicates: For equal rows in two splits: `drop` takes them out of train, then val.
        train_frac: Share of each class's train rows that stay; a greater one has those of a lesser.
    """

    time_by: str | None = None
    units: tuple[str, ...] = ("row", "group")

    def __init__(
        self,
        seed: int = 0,
        group_by: str | None = None,
        duplicates: Literal["error", "drop", "allow"] = "error",
        train_frac: float = 1.0,
    ) -> None:
        self.seed, self.group_by, self.duplicates = seed, group_by, duplicates
        self.train_frac = train_frac
        if not 0 < train_frac <= 1:
            raise ValueError(f"`data.partition.train_frac` is {train_frac:g}, not in (0, 1]")

    def _parts(self, published: list[int]) -> list[tuple[int, float]]:
        """Split and share of each part of the other rows, from the lowest values to the highest."""
        raise NotImplementedError

    def split(self, rows: Rows, kept: Kept | None = None) -> Split:
        """Divides the rows; those that were there when `kept` was drawn stay where they were."""
        kept = kept or {}
        ids = hash_rows(rows.x) if rows.ids is None else rows.ids
        given = FREE if rows.published is None else rows.published
        where = np.full(len(rows), given, np.int8)
        published = [split for split in (VAL, TEST) if np.any(given == split)]
        splits, shares = zip(*self._parts(published), strict=True)
        unit, values = self._units(rows, ids)
        of = self.group_by or self.time_by or rows.x.shape[1:]
        key = f"{unit}s of {of}, shares {shares}, seed {self.seed}, {rows.signature.target_names}"
        free = slice(None) if rows.published is None else np.flatnonzero(where == FREE)
        owners, codes = _strata(rows, unit, free)
        divided, part = values[free], np.full(len(codes), splits[0], np.int8)
        boundaries = dict(kept.get(key, {}))
        if new := set(owners) - boundaries.keys():
            those = zip(owners, _ordered(divided, codes, len(owners)), strict=True)
            boundaries |= {o: _draw(v, shares, unit, o) for o, v in those if o in new and len(v)}
        lines = [boundaries.get(owner, shares[1:]) for owner in owners]  # or any, without rows
        bounds = np.array(lines, values.dtype.type)
        changes = np.diff(np.array(splits, np.int8))
        for block in blocks(len(codes)):
            for bound, change in zip(bounds.T, changes, strict=True):
                part[block] += (divided[block] >= bound[codes[block]]) * change
        where[free] = part
        if unit == "group" and published and len(torn := _behind(values, where)):
            raise ValueError(f"the group of row {rows.names[torn[0]]} is in a published split too")
        if self.duplicates != "allow" and len(behind := _behind(ids, where)):
            if self.duplicates == "error":
                raise ValueError(_duplicates(rows, ids, where, behind))
            where[behind] = FREE
        if self.train_frac < 1:
            where[self._left_out(rows, ids, where)] = FREE
        index = {name: np.flatnonzero(where == split) for split, name in enumerate(SPLITS)}
        if not len(index["train"]):
            raise ValueError(f"train has none of the {len(rows)} rows: change `data.partition`")
        masks, num_classes = (where == VAL, where == TEST), len(rows.signature.class_names)
        whole, *evaluated = fingerprints(ids, rows.y, num_classes, *masks)
        report = {
            "fingerprint": whole,
            "evaluated": dict(zip(SPLITS[1:], evaluated, strict=True)),
            "counts": {name: len(i) for name, i in index.items()},
            "class_counts": _count_classes(rows, where),
            "dropped": len(rows) - sum(map(len, index.values())),
            "key": key,
            "boundaries": boundaries,
        }
        drawn = {key: boundaries} if any(boundaries.values()) else {}
        return Split(**index, kept=kept | drawn, report=report)

    def _left_out(self, rows: Rows, ids: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Train rows beyond `train_frac`: those of each class with the highest hashes."""
        train = np.flatnonzero(where == TRAIN)
        codes = _strata(rows, "row", train)[1]
        counts = np.bincount(codes)
        ranks = np.arange(len(train)) - np.repeat(counts.cumsum() - counts, counts)
        beyond = ranks >= np.repeat(np.ceil(self.train_frac * counts), counts)
        return train[np.lexsort((uniform(ids[train], self.seed), codes))[beyond]]

    def _units(self, rows: Rows, ids: np.ndarray) -> tuple[str, np.ndarray]:
        """What is divided, and `(N,)` numbers or texts that say where each row goes."""
        given = {"group": rows.groups, "time": rows.times}
        for name in ("group", "time"):
            if getattr(self, f"{name}_by") and given[name] is None:
                what = f"`data.partition.{name}_by` names a column, and the source has none"
                raise ValueError(f"{what}: leave it out")
        unit = " and ".join(name for name in given if given[name] is not None) or "row"
        if unit not in self.units:
            can = " or ".join(self.units)
            out = f"leave {'one' if ' and ' in unit else 'it'} out, or take another partition"
            raise ValueError(f"`data.partition` divides by {can}, not {unit}: {out}")
        if (values := given.get(unit)) is None:
            return unit, uniform(ids, self.seed)
        if (missing := (values != values) | (values == None)).any():  # noqa: E711
            raise ValueError(f"row {rows.names[missing.argmax()]} has no {unit}: fill it in")
        if unit == "group":
            return unit, uniform(hash_names(values), self.seed)
        if values.dtype.kind == "M":
            values = (values - np.datetime64(0, "s")) / np.timedelta64(1, "s")
        return unit, values.astype(float if values.dtype.kind in "biuf" else str)


class Stratified(Partition):
    """Divides each class by shares.

    Args:
        fracs: Shares of train, val and test, in [0, 1]; they sum to 1.
        time_by: Column of times: the past is train, the future test.
    """

    units = ("row", "group", "time")

    def __init__(
        self,
        fracs: tuple[float, float, float] = (0.7, 0.15, 0.15),
        time_by: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.fracs, self.time_by = [float(frac) for frac in fracs], time_by
        if min(self.fracs) < 0 or not self.fracs[0] or not abs(sum(self.fracs) - 1) <= 1e-6:
            what = f"`data.partition.fracs` {self.fracs} sum to {sum(self.fracs):g}"
            raise ValueError(f"{what}: give positive ones that sum to 1; val and test may be 0")

    def _parts(self, published: list[int]) -> list[tuple[int, float]]:
        return [(i, frac) for i, frac in enumerate(self.fracs) if frac and i not in published]


class KFold(Partition):
    """Divides each class into equal folds: one is test, the next is val, the others are train.

    Args:
        num_folds: Number of folds: 3 or more, or 2 if val or test is published.
        fold: The fold that is test, or val if test is published: from 0 to `num_folds` - 1.
    """

    def __init__(self, num_folds: int = 5, fold: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.num_folds, self.fold = num_folds, fold

    def _parts(self, published: list[int]) -> list[tuple[int, float]]:
        held_out = [split for split in (TEST, VAL) if split not in published]
        if not 0 < len(held_out) < self.num_folds or not 0 <= self.fold < self.num_folds:
            rule = "count from 0; give 3 folds or more, or 2 if val or test, not both, is published"
            raise ValueError(f"`data.partition` is fold {self.fold} of {self.num_folds}: {rule}")
        splits = held_out + [TRAIN] * (self.num_folds - len(held_out))
        return [(splits[i - self.fold], 1 / self.num_folds) for i in range(self.num_folds)]


def load_kept(path: Path) -> Kept:
    """Reads the boundaries that a file keeps: none if there is no file."""
    if not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {key: {k: sorted(v) for k, v in strata.items()} for key, strata in kept.items()}
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"{path} keeps no boundaries: restore it, or delete it") from None


def save_kept(path: Path, kept: Kept) -> None:
    """Writes the boundaries, or warns that it can't. For one process of a run."""
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temp.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        temp.replace(path)
    except OSError as error:
        what = f"{path} can't be written ({error.strerror})"
        warnings.warn(f"{what}: rows may move when the data grows", stacklevel=2)


def _strata(rows: Rows, unit: str, free: Any) -> tuple[list[str], np.ndarray]:
    """The classes, or all rows where they don't matter; and of which of these each free row is."""
    classes = rows.signature.class_names
    if unit != "row" or not classes:
        return ["the data"], np.zeros(len(rows), np.int64)[free]
    return [f"class {name!r}" for name in classes], rows.y[free]


def _ordered(values: np.ndarray, codes: np.ndarray, num: int) -> list[np.ndarray]:
    """The values that have each code, ascending: hashes from `uniform`, if there are more codes."""
    if num == 1:
        return [np.sort(values)]
    if num <= 1024:  # hashes have 53 bits: with the code in the others, one quick sort is all
        keys = np.empty(len(values), np.int64)
        for block in blocks(len(values)):
            keys[block] = values[block] * 2.0**53
            keys[block] += codes[block] << 53
        keys.sort()
        return np.split(keys, keys.searchsorted(np.arange(1, num) << 53))
    pairs = np.sort(codes + 1j * values)  # complex numbers go by their real part first
    return np.split(pairs.imag, pairs.real.searchsorted(np.arange(1, num)))


def _draw(values: np.ndarray, shares: tuple[float, ...], unit: str, owner: str) -> list[Any]:
    """Boundaries between sorted values, for parts of their shares but of one value at least."""
    ends = np.flatnonzero(values[1:] != values[:-1])  # of the rows that share a value
    cuts = np.arange(len(shares) - 1)
    if len(ends) < len(cuts):
        what = f"{len(ends) + 1} of the {len(shares)} distinct {unit}s it needs: add {unit}s"
        raise ValueError(f"{owner} has {what}, leave it out, or change `data.partition`")
    ideal = np.cumsum(shares)[:-1] / sum(shares)
    wanted = ideal * len(values) - 1
    later = np.searchsorted(ends, wanted).clip(1, len(ends) - 1)
    nearest = later - ((ends[later] + ends[later - 1]) / 2 >= wanted)
    picks = np.clip(np.maximum.accumulate(nearest - cuts), 0, len(ends) - len(cuts)) + cuts
    above, below = values[ends[picks] + 1], values[ends[picks]]
    if values.dtype == np.int64:  # as `_ordered` makes them
        above, below = (2.0**-53 * (keys & (2**53 - 1)) for keys in (above, below))
    if unit != "time":  # all hashes of a gap divide these rows alike; new rows want the ideal one
        above = np.clip(ideal, np.nextafter(below, 1), above)
    return list(above.tolist())


def _behind(keys: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Rows whose key is in a later split too, ascending."""
    ordered = np.sort(keys)
    rows = np.flatnonzero(np.isin(keys, ordered[1:][ordered[1:] == ordered[:-1]]))
    later = [np.isin(keys[rows], keys[rows[where[rows] > split]]) for split in (TRAIN, VAL, TEST)]
    return rows[np.choose(where[rows], later)]


def _duplicates(rows: Rows, ids: np.ndarray, where: np.ndarray, behind: np.ndarray) -> str:
    """The error that counts rows which a later split has too, and shows three of them."""
    pairs = [(r, int(np.argmax((ids == ids[r]) & (where > where[r])))) for r in behind[:3]]
    shown = [f"row {rows.names[r]} = {rows.names[t]} of {SPLITS[where[t]]}" for r, t in pairs]
    what = f"{len(behind)} exact duplicates across splits, such as {', '.join(shown)}"
    return f"{what}: set `data.partition.duplicates` to drop or allow"


def _count_classes(rows: Rows, where: np.ndarray) -> dict[str, dict[str, int]]:
    """How many rows of each class each split has."""
    names, num = rows.signature.class_names, len(SPLITS) - FREE
    counts = np.zeros(num * len(names), np.int64)
    for block in blocks(len(rows) if names else 0):
        counts += np.bincount(rows.y[block] * num + where[block] - FREE, minlength=len(counts))
    table = counts.reshape(len(names), num).T[-FREE:].tolist()
    return {SPLITS[i]: dict(zip(names, row, strict=True)) for i, row in enumerate(table)}
