"""Mean and standard deviation of each feature, from the train rows only, the same on any ranks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

NUM_THREADS = min(4, os.cpu_count() or 1)  # each holds a chunk: 32 MB or less
Moments = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Statistics:
    """What each feature of a table or vector, or each channel of an image or signal, looks like.

    Args:
        mean: Mean of each feature; 0 for a categorical one.
        std: Population standard deviation of each; 1 for a constant or categorical one.
        count: Values that each was measured on: missing ones (NaN) don't count.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    count: tuple[int, ...]

    @classmethod
    def identity(cls, num_features: int) -> Statistics:
        """The statistics that change nothing, measured on no value."""
        return cls((0.0,) * num_features, (1.0,) * num_features, (0,) * num_features)


def fit(
    x: np.ndarray, index: np.ndarray, categorical: Sequence[int] = (), names: Sequence[str] = ()
) -> Statistics:
    """Measures the rows in `index` a chunk at a time and reads no other.

    Args:
        x: `(N, D)` or, measured by channel, `(N, C, ...)`; uint8, float32 or float64.
        index: Rows to measure, in any order, at least one.
        categorical: Features that hold codes, to be left as they are.
        names: Name of each feature, for messages.

    Raises:
        ValueError: A feature has no value, or a value or its square is infinite.
    """

    def measure(rows: np.ndarray) -> Moments:
        is_run = (np.diff(rows) == 1).all()  # a slice of x is no copy
        return moments(x[rows[0] : rows[-1] + 1] if is_run else x[rows])

    with np.errstate(over="ignore", invalid="ignore"), ThreadPoolExecutor(NUM_THREADS) as pool:
        count, mean, squares = merge(pool.map(measure, chunks(x, index)))
    if (bad := (count == 0) | ~np.isfinite(squares)).any():
        name = repr(names[bad.argmax()]) if names else bad.argmax()
        what = "infinite or huge values" if count[bad.argmax()] else "no value"
        raise ValueError(f"feature {name} has {what} in train: mend or drop it")
    std = np.sqrt(squares / count)
    noise = np.finfo(x.dtype if x.dtype.kind == "f" else float).eps * np.abs(mean)
    std[std <= noise] = 1  # constant, or varies by less than its rounding
    mean[list(categorical)], std[list(categorical)] = 0, 1
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), tuple(count.tolist()))


def chunks(x: np.ndarray, index: np.ndarray) -> list[np.ndarray]:
    """Sorts `index` and cuts it every 32,768 rows, or sooner where they pass 4M values.

    Threads wait for each other between two calls of numpy, so each is of many values. What is left
    over by 256 is a chunk of its own: rows of the others fit side by side.
    """
    step = min(2**15, max(1, 2**22 >> math.prod(x.shape[1:]).bit_length()))
    ordered = index if (index[1:] >= index[:-1]).all() else np.sort(index)
    num = len(ordered)
    cuts = sorted({*range(0, num, step), num // 256 * 256, num})
    return [ordered[start:end] for start, end in pairwise(cuts)]


@np.errstate(over="ignore", invalid="ignore")
def moments(rows: np.ndarray, near: np.ndarray | None = None) -> Moments:
    """Measures one chunk: count, shift, and the sums of values less shift and of their squares.

    All are `(D,)`, or `(C,)`. The shift is `near`, also in place of missing values, or if there is
    none the mean of some rows: so the sums of squares are small, and lose no digits.
    """
    size, axes = math.prod(rows.shape[1:]), (0, *range(2, rows.ndim))
    fold = math.gcd(len(rows), max(1, 2**14 >> size.bit_length()))
    lanes = (fold, rows.shape[1], size // rows.shape[1])  # side by side: numpy adds long rows fast
    wide, count = rows.reshape(-1, math.prod(lanes)), np.full(lanes[1], len(rows) * lanes[2])
    if rows.dtype == np.uint8:
        some = wide.astype(np.uint16)  # sums of 256 fit into it, so that all is exact
        total = some.sum(0, dtype=np.uint16).reshape(lanes).sum((0, 2), dtype=np.int64)
        some *= some
        squares = some.sum(0, dtype=np.uint32).reshape(lanes).sum((0, 2), dtype=np.int64)
        shift = np.round(total / count).astype(np.int64)
        rest = total - shift * count
        return count, shift, rest, squares - shift * (total + rest)
    wide = wide.astype(np.float64)
    shift = wide[len(wide) // 2].reshape(lanes).mean((0, 2)) if near is None else near
    wide -= np.broadcast_to(shift[:, None], lanes).reshape(-1)
    total = wide.sum(0).reshape(lanes).sum((0, 2))
    if near is None and np.isnan(total).any():
        missing = np.isnan(rows)
        count -= missing.sum(axes)
        near = np.nansum(rows, axes, np.float64) / np.maximum(count, 1)
        filled = np.where(missing, near.reshape(-1, *[1] * (rows.ndim - 2)), rows)
        return count, *moments(filled, near)[1:]
    squares = np.einsum("ij,ij->j", wide, wide).reshape(lanes).sum((0, 2))
    return count, shift, total, squares


def merge(parts: Iterable[Moments]) -> Moments:
    """Count, mean and summed squared deviations of all chunks, given in the order of the chunks."""
    count, shift, total, squares = (np.array(each) for each in zip(*parts, strict=True))
    whole, rest = np.maximum(count.sum(0), 1), total / np.maximum(count, 1)
    middle = (count * (shift + rest)).sum(0) / whole
    away = shift - middle + rest  # not `shift + rest`, which is rounded
    step = (count * away).sum(0) / whole
    squares = (squares - total * rest + count * away**2).sum(0) - whole * step**2
    return count.sum(0), middle + step, np.maximum(squares, 0)
