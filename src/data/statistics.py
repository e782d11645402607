"""Mean and standard deviation of each feature, from the train rows only, the same on any ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# Of each feature: count, mean and summed squared deviations; of bytes: count, sum, summed squares.
Moments = tuple[np.ndarray, np.ndarray, np.ndarray]


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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Statistics:
        return cls(**{name: tuple(values) for name, values in fields.items()})


def fit(
    x: np.ndarray, index: np.ndarray, categorical: Sequence[int] = (), names: Sequence[str] = ()
) -> Statistics:
    """Measures the rows in `index` a chunk at a time and reads no other.

    Args:
        x: `(N, D)` or, measured by channel, `(N, C, ...)`; uint8, float32 or float64.
        index: Rows to measure, in any order.
        categorical: Features that hold codes, to be left as they are.
        names: Name of each feature, for messages.

    Raises:
        ValueError: There is no row, a feature has no value, or a value or its square is infinite.
    """
    if not len(index):
        raise ValueError("train has no rows to measure: give it some with `data.partition`")
    count, first, second = merge(moments(x, rows, names) for rows in chunks(x, index))
    if not count.all():
        raise ValueError(f"{_name(count.argmin(), names)} has no value in train: drop it")
    if not (finite := np.isfinite(second)).all():
        raise ValueError(f"{_name(finite.argmin(), names)} has squares that overflow: rescale it")
    if x.dtype == np.uint8:  # Python divides integers of any size with a single rounding
        sums = np.stack((count, first, second), axis=1).tolist()
        pairs = [(s / n, math.sqrt((n * q - s * s) / n**2)) for n, s, q in sums]
        (mean, std), noise = np.array(pairs).T, 0.0
    else:
        mean, std, noise = first, np.sqrt(second / count), np.finfo(x.dtype).eps
    std[std <= noise * np.abs(mean)] = 1  # constant, or varies by less than its rounding
    mean[list(categorical)], std[list(categorical)] = 0, 1
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), tuple(count.tolist()))


def chunks(x: np.ndarray, index: np.ndarray) -> list[np.ndarray]:
    """Sorts `index` and cuts it every 4,096 rows, or sooner where they pass 4M values."""
    step = max(1, min(4096, 2**22 // math.prod(x.shape[1:])))
    return np.split(np.sort(index), range(step, len(index), step))


@np.errstate(over="ignore", invalid="ignore")  # `fit` says what overflowed
def moments(x: np.ndarray, rows: np.ndarray, names: Sequence[str] = ()) -> Moments:
    """Measures one chunk: `(D,)` each, or `(C,)`."""
    values = np.asarray(x[rows]).reshape(len(rows), x.shape[1], -1)
    if values.dtype == np.uint8:  # 4,096 squares of bytes fit into uint32
        count = np.full(x.shape[1], len(rows) * values.shape[2], np.int64)
        sums = (v.sum(0, dtype=np.uint32) for v in (values, np.square(values, dtype=np.uint16)))
        return count, *(s.sum(1, dtype=np.int64) for s in sums)
    values = np.ascontiguousarray(values, np.float64)
    valid = ~np.isnan(values)
    count = valid.sum(0).sum(1)
    some = np.maximum(count, 1)
    mean = np.where(valid, values, 0).sum(0).sum(1) / some
    if not np.isfinite(mean).all() and np.isinf(values).any():
        row, feature, _ = np.argwhere(np.isinf(values))[0]
        raise ValueError(f"row {rows[row]}: {_name(feature, names)} is infinite: mend it")
    off = np.where(valid, values - mean[:, None], 0)
    bias = off.sum(0).sum(1) / some  # what rounding left in the mean
    return count, mean + bias, np.maximum(np.square(off).sum(0).sum(1) - count * bias**2, 0)


@np.errstate(over="ignore", invalid="ignore")
def merge(parts: Iterable[Moments]) -> Moments:
    """Adds up the moments of all chunks, which must come in the order of the chunks.

    Source: Chan, Golub and LeVeque, Stanford report STAN-CS-79-773, 1979.
    """
    rest = iter(parts)
    count, first, second = next(rest)
    for n, f, s in rest:
        count = count + n
        if first.dtype == np.int64:
            first, second = first + f, second + s
        else:
            shift, share = f - first, n / np.maximum(count, 1)
            second = second + s + shift * ((count - n) * share) * shift
            first = first + shift * share
    return count, first, second


def _name(feature: Any, names: Sequence[str]) -> str:
    return f"feature {names[feature]!r}" if names else f"feature {feature}"
