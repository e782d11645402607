"""Mean and standard deviation of each feature, from the train rows only, the same on any ranks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

NUM_THREADS = min(4, os.cpu_count() or 1)  # each holds a chunk: 32 MB or less
Moments = tuple[np.ndarray, np.ndarray, np.ndarray]  # count, mean, summed squared deviations


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
    todo = chunks(x, index)
    done: list[Any] = [None] * len(todo)

    def measure(first: int) -> None:
        for i in range(first, len(todo), NUM_THREADS):
            rows = todo[i]
            is_run = (np.diff(rows) == 1).all()  # a slice of x is no copy
            done[i] = moments(x[rows[0] : rows[-1] + 1] if is_run else x[rows])

    with np.errstate(over="ignore", invalid="ignore"), ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(measure, range(NUM_THREADS)))  # raises what a thread did
        count, mean, squares = merge(done)
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
    """Sorts `index` and cuts it every 4,096 rows, or sooner where they pass 4M values."""
    step = max(1, min(4096, 2**22 // math.prod(x.shape[1:])))
    ordered = index if (index[1:] >= index[:-1]).all() else np.sort(index)
    return [ordered[i : i + step] for i in range(0, len(ordered), step)]


@np.errstate(over="ignore", invalid="ignore")
def moments(rows: np.ndarray) -> Moments:
    """Measures one chunk: `(D,)` each, or `(C,)`."""
    fold = math.gcd(len(rows), 32)  # rows side by side: numpy adds up long ones fastest
    values = rows.reshape(-1, fold, rows.shape[1], math.prod(rows.shape[2:]))
    count = np.full(rows.shape[1], len(rows) * values.shape[3])
    if rows.dtype == np.uint8:
        total = squares = np.zeros(rows.shape[1], np.int64)
        for i in range(0, len(values), 256):  # whose sums fit into uint16, so that all is exact
            some = values[i : i + 256].astype(np.uint16)
            total = total + some.sum(0, dtype=np.uint16).sum((0, 2), dtype=np.int64)
            some *= some
            squares = squares + some.sum(0, dtype=np.uint32).sum((0, 2), dtype=np.int64)
        near = np.round(total / count).astype(np.int64)
        rest = total - near * count
        return count, total / count, squares - near * (total + rest) - rest**2 / count
    values = np.array(values, np.float64, order="C")
    total, missing = values.sum(0).sum((0, 2)), slice(0)  # none, as nearly always
    if np.isnan(total).any():
        missing = np.isnan(values)
        count = count - missing.sum(0).sum((0, 2))
        values[missing] = 0
        total = values.sum(0).sum((0, 2))
    num = np.maximum(count, 1)
    mean = total / num
    values -= np.broadcast_to(mean[:, None], values.shape[1:]).copy()
    values[missing] = 0
    bias = values.sum(0).sum((0, 2)) / num  # what rounding left in the mean
    squares = np.square(values, out=values).sum(0).sum((0, 2))
    return count, mean + bias, np.maximum(squares - count * bias**2, 0)


def merge(parts: Iterable[Moments]) -> Moments:
    """Adds up the moments of all chunks, which must come in the order of the chunks.

    Source: Chan, Golub and LeVeque, Stanford report STAN-CS-79-773, 1979.
    """

    def add(a: Moments, b: Moments) -> Moments:
        count, shift = a[0] + b[0], b[1] - a[1]
        step = shift * (b[0] / np.maximum(count, 1))
        return count, a[1] + step, a[2] + b[2] + shift * step * a[0]

    return reduce(add, parts)
