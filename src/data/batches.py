"""Whole batches by indexing: no row is touched one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """Rows of one split.

    Args:
        x: `(B, *in_shape)` raw rows, of the dtype they are stored in.
        y: `(B,)` int64 classes or `(B, K)` float32 targets; `None` when new rows are predicted.
        row: `(B,)` int64 number of each row in the source.
    """

    x: Tensor
    y: Tensor | None
    row: Tensor


@dataclass(eq=False)
class Batches:
    """Iterates over one split; the order is a pure function of (seed, epoch, rank).

    Args:
        x: `(N, *in_shape)` all rows: a tensor, or rows on disk that are indexed like an array.
        y: `(N, ...)` labels of all rows, or `None`.
        index: `(M,)` int64 rows of this split.
        batch_size: Rows a batch and process, 1 or more.
        seed: Shuffles by it; `None` keeps the order of `index` and leaves out no row.
        rank: This process, from 0.
        world_size: Number of processes. Each gets every `world_size`-th row. Training leaves out
            up to `world_size` - 1 rows an epoch, others each time, so that all take as many steps;
            evaluation sees each row exactly once, so shares may differ by one row.
        epoch: The epoch, from 0; with `position`, the batches taken of it, the state of a run.
    """

    x: Any
    y: Tensor | None
    index: np.ndarray
    batch_size: int
    seed: int | None = None
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    position: int = 0
    batch_sampler = None  # Lightning looks at both samplers of a loader

    @property
    def num_rows(self) -> int:
        """Rows that this rank visits in an epoch."""
        if self.seed is None:
            return len(range(self.rank, len(self.index), self.world_size))
        num_rows = len(self.index) // self.world_size
        single = num_rows > 1 and num_rows % self.batch_size == 1
        return num_rows - 1 if single else num_rows  # batch norm can't train on a single row

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def order(self) -> Tensor:
        """Rows that this rank visits in this epoch: `(num_rows,)` int64."""
        index = torch.from_numpy(self.index)
        if self.seed is not None:
            sequence = np.random.SeedSequence((self.seed, self.epoch))
            key = int(sequence.generate_state(1, np.uint64)[0])
            generator = torch.Generator().manual_seed(key >> 1)
            index = index[torch.randperm(len(index), generator=generator)]
        return index[self.rank :: self.world_size][: self.num_rows]

    def __iter__(self) -> Iterator[Batch]:
        order = self.order()
        if isinstance(self.x, Tensor):
            order = order.to(self.x.device)  # once an epoch: the host waits for such a copy
        rows = torch.split(order, self.batch_size)
        starts_anew = self.seed is None or self.position >= len(rows)
        for position in range(0 if starts_anew else self.position, len(rows)):
            self.position = position + 1
            yield self._take(rows[position])
        self.position = 0

    def _take(self, row: Tensor) -> Batch:
        whole = isinstance(self.x, Tensor)
        x = self.x.index_select(0, row) if whole else torch.from_numpy(self.x[row.numpy()])
        return Batch(x, None if self.y is None else self.y.index_select(0, row), row)

    @property
    def sampler(self) -> Batches:
        """Lightning calls `set_epoch` of a loader's `sampler` before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
