"""What a source gives: raw rows, and the signature that says what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = ("train", "val", "test")
FREE = -1  # in `Rows.published`: the partition may put this row where it likes


@dataclass(frozen=True)
class Signature:
    """The meaning of a row, fixed when training starts. It travels in the checkpoint, and new rows
    are read by it alone, without the source.

    Args:
        in_shape: Shape of one row of `x`, without a batch axis: `(D,)` for a table or a vector,
            `(C, L)` for signals, `(C, H, W)` for images.
        dtype: numpy name of the dtype of `x`: `uint8`, `float32` or `float64`.
        class_names: Name of each class, in the order of the codes of `y`; empty for regression.
        target_names: Name of each target column; one for a classification.
        feature_names: Name of each column of a table; empty where features have no names.
        categories: Feature name -> its values in the order of their codes. The value at position i
            has code i + 1 in `x`; code 0 stands for a missing value and for one never seen.
    """

    in_shape: tuple[int, ...]
    dtype: str
    class_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ("y",)
    feature_names: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def out_dim(self) -> int:
        """Outputs that a net needs: the number of classes, or of targets."""
        return len(self.class_names) or len(self.target_names)

    @property
    def num_categories(self) -> tuple[int, ...]:
        """Codes of each feature, the code 0 included; 0 for a numeric feature. Empty if none."""
        names = self.feature_names if self.categories else ()
        return tuple(len(self.categories[n]) + 1 if n in self.categories else 0 for n in names)


@dataclass
class Rows:
    """Raw rows, as stored: nothing is scaled, and bytes stay bytes.

    Args:
        x: `(N, *in_shape)`, an array or a memory map.
        y: `(N,)` int64 class codes, or `(N,)` or `(N, K)` float32 targets.
        signature: What they mean.
        groups: `(N,)` group of each row, any hashable dtype: no group is split.
        times: `(N,)` time of each row, sortable: past in train, future in test.
        published: `(N,)` int8 index into `SPLITS` for rows of a published split, else `FREE`.
        ids: `(N,)` uint64 hash of each row's content; computed from the bytes of `x` if `None`.
            A source whose codes change when the data grows (categories) gives its own.
        names: A name of each row for messages (a file, say); its number if empty.
    """

    x: np.ndarray
    y: np.ndarray
    signature: Signature
    groups: np.ndarray | None = None
    times: np.ndarray | None = None
    published: np.ndarray | None = None
    ids: np.ndarray | None = None
    names: Sequence[Any] | np.ndarray = ()

    def __post_init__(self) -> None:
        if not len(self.names):
            self.names = range(len(self))

    def __len__(self) -> int:
        return len(self.x)


class Source:
    """Where raw rows come from. A data set of your own is a subclass in `src/data/sources/`.

    `group_by` and `time_by` are set from `data.partition` before `load`: names of columns that give
    `Rows.groups` and `Rows.times` and are no features. A source without named columns refuses them.
    """

    group_by: str | None = None
    time_by: str | None = None

    def prepare(self) -> None:
        """Downloads or converts what `load` reads. Runs in one process of each node."""

    def load(self, signature: Signature | None = None) -> Rows:
        """Reads every row.

        Args:
            signature: That of the checkpoint when a trained model is tested or resumed: codes of
                categories and classes are then taken from it, and what it doesn't know is code 0
                (a category) or an error (a class). `None` when training starts.

        Raises:
            ValueError: The data can't be used; one line says what, where, and what to do.
            FileNotFoundError: A file isn't there.
        """
        raise NotImplementedError

    def keep_path(self) -> Path | None:
        """Where the boundaries of the partition are kept between runs: beside a source's `path`."""
        path = getattr(self, "path", None)
        return Path(f"{path}.partition.json") if path else None
