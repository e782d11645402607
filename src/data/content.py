"""Hashes of rows: the same on every machine, in any chunks, in any order of the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

_BLOCK = 1 << 14  # words at once: the passes over them stay in the cache, and malloc's heap


def blocks(num: int) -> Iterator[slice]:
    """Slices of `num` words, one after the other."""
    return (slice(start, start + _BLOCK) for start in range(0, num, _BLOCK))


def mix(words: np.ndarray) -> np.ndarray:
    """Maps uint64 one to one to uint64 that look random: the finalizer of splitmix64.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
        with the constants of Stafford's variant 13.
    """
    mixed: np.ndarray = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def uniform(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Makes `(N,)` float64 in [0, 1) of the hashes: other ones for each seed."""
    key = mix(np.array([(seed + 1) % 2**64], np.uint64))
    values = np.empty(len(hashes))
    for block in blocks(len(hashes)):
        values[block] = (mix(hashes[block] + key) >> np.uint64(11)) * 2.0**-53
    return values


def hash_rows(x: np.ndarray) -> np.ndarray:
    """Hashes the bytes of each row to `(N,)` uint64; odds that two rows share one are 2^-64.

    Args:
        x: `(N, ...)` of a fixed-width dtype, an array or a memory map, which is read once through.
    """
    num_bytes = x.dtype.itemsize * int(np.prod(x.shape[1:]))
    num_words = -(-num_bytes // 8)
    step = max(1, _BLOCK // max(num_words, 1))
    # a word counts by its place too: without it, two swapped words would make an equal sum
    places = mix(np.arange(1, num_words + 1, dtype=np.uint64))
    buffer = np.zeros((min(step, len(x)), 8 * num_words), np.uint8)
    hashes = np.empty(len(x), np.uint64)
    for start in range(0, len(x), step):
        rows = np.ascontiguousarray(x[start : start + step])
        buffer[: len(rows), :num_bytes] = rows.view(np.uint8).reshape(len(rows), num_bytes)
        words = buffer[: len(rows)].view(np.uint64)
        hashes[start : start + step] = mix(words + places).sum(axis=1, dtype=np.uint64)
    return hashes


def hash_names(names: np.ndarray) -> np.ndarray:
    """Hashes `(N,)` strings or numbers by their text: 7 is one as int32, int64 and `"7"`."""
    texts, codes = np.unique(names, return_inverse=True)
    digests = (hashlib.blake2b(str(t).encode(), digest_size=8).digest() for t in texts)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)[codes]


def fingerprints(ids: np.ndarray, y: np.ndarray, num_classes: int, *masks: np.ndarray) -> list[str]:
    """16 hex digits that change with a row or its label, but not with the order of the rows.

    Args:
        ids: `(N,)` uint64 hash of each row's content.
        y: `(N, ...)` label of each row.
        num_classes: Number of classes that `y` holds codes of; 0 if it holds none.
        masks: `(N,)` bool each.

    Returns:
        Those of all rows, then of the rows of each mask.
    """
    table, totals = mix(hash_rows(np.arange(num_classes, dtype=y.dtype))), [0] * (1 + len(masks))
    for block in blocks(len(ids)):
        labels = table[y[block]] if num_classes else mix(hash_rows(y[block]))
        marks = mix(ids[block] + labels)
        totals[0] += int(marks.sum(dtype=np.uint64))
        for i, mask in enumerate(masks, 1):
            totals[i] += int((marks * mask[block]).sum(dtype=np.uint64))
    return [f"{total % 2**64:016x}" for total in totals]
