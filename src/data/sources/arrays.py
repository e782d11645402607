"""Arrays of one's own: a `.npz`, or a folder of `.npy` that may be larger than memory."""

import zipfile
import zlib
from pathlib import Path
from typing import Literal, cast

import numpy as np

from src.data.rows import FREE, SPLITS, Rows, Signature, Source
from src.data.sources.labels import fits_float32, read_labels
from src.errors import hint

SUFFIXES = {"": FREE, "_val": SPLITS.index("val"), "_test": SPLITS.index("test")}
KEYS = (*(f"{key}{suffix}" for suffix in SUFFIXES for key in "xy"), "groups", "times")


class Arrays(Source):
    """A `.npz` file, or a folder of `.npy` files that stay on disk: larger than memory is fine.

    `x` is `(N, D)`, `(N, C, L)` or `(N, C, H, W)`; `y` is `(N,)`, or `(N, K)` for a regression.
    If there, `x_val`, `y_val`, `x_test`, `y_test` are published splits, and `groups` and `times`
    run over `x`, `x_val`, `x_test`. Bytes stay bytes. Other numbers become float32, or float64:
    in a folder if their dtype holds more than float32, else if float32 would round a feature by a
    thousandth of its standard deviation.

    Args:
        path: The file or the folder.
        task: `auto` takes text and booleans for classes, and whole numbers too if each is seen
            twice on average and they are at most 20 or exactly 0 to K - 1; else a regression.
    """

    def __init__(
        self, path: str, task: Literal["auto", "classification", "regression"] = "auto"
    ) -> None:
        self.path, self.task = Path(path).expanduser(), task

    def load(self, signature: Signature | None = None) -> Rows:
        arrays = _read(self.path)
        for key in arrays:
            if key not in KEYS:
                raise ValueError(f"{self.path} has `{key}`, which is unknown{hint(key, KEYS)}")
        parts = [s for s in SUFFIXES if not s or {f"x{s}", f"y{s}"} & set(arrays)]
        xs, ys = ([_need(arrays, f"{key}{s}", self.path) for s in parts] for key in "xy")
        x = _as_rows(xs, self.path, signature)
        lengths = {f"y{s}": len(part) for s, part in zip(parts, xs, strict=True)}
        for key, length in {**lengths, "groups": len(x), "times": len(x)}.items():
            if key in arrays and arrays[key].shape[:1] != (length,):
                what = f"`{key}` is of shape {arrays[key].shape} for {length} rows of x"
                raise ValueError(f"{self.path}: {what}")
        y = np.concatenate(ys)
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        y, classes = read_labels(y, self.task, signature, f"{self.path}: `y`")
        names = ("y",) if y.ndim == 1 else tuple(f"y{k}" for k in range(y.shape[1]))
        signature = signature or Signature(x.shape[1:], x.dtype.name, classes, names)
        published = np.repeat([SUFFIXES[s] for s in parts], [*lengths.values()]).astype(np.int8)
        return Rows(x, y, signature, arrays.get("groups"), arrays.get("times"), published)


def read_arrays(path: Path, signature: Signature) -> np.ndarray:
    """Reads new rows, `(N, *in_shape)`: a `.npy`, or `x` of a `.npz` or of a folder.

    Raises:
        ValueError: They are not of the shape or the kind of number that the model takes.
    """
    return _as_rows([_need(_read(path), "x", path)], path, signature)


def _as_rows(parts: list[np.ndarray], path: Path, signature: Signature | None) -> np.ndarray:
    """The parts as one array of uint8, float32 or float64; nothing is read from a memory map."""
    first = parts[0]
    shape = signature.in_shape if signature else first.shape[1:]
    dtype = np.dtype(signature.dtype) if signature else first.dtype
    for part in parts:
        if part.dtype.kind not in "buif" or part.ndim < 2 or not part.size:
            what = f"x is {part.dtype} {part.shape}, not rows of numbers (N, ...)"
            raise ValueError(f"{path}: {what}")
        if part.shape[1:] != shape or (part.dtype == np.uint8) != (dtype == np.uint8):
            what = f"x has rows of {part.dtype} {part.shape[1:]}, not of {dtype} {shape}"
            raise ValueError(f"{path}: {what}")
    is_last = len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] > 4 < shape[1]
    is_grey = len(shape) == 2 and first.dtype == np.uint8 and shape[0] > 4 < shape[1]
    if not signature and (is_last or is_grey):
        cure = "np.moveaxis(x, -1, 1)" if is_last else "x[:, None], and signals as float32"
        raise ValueError(f"{path}: x is {first.shape}, and images are (N, C, H, W): save {cure}")
    mapped = isinstance(first, np.memmap)
    if not signature and dtype != np.uint8:
        features = (f for part in parts for f in part.reshape(len(part), -1).T)
        narrow = np.result_type(np.float32, *parts) == np.float32
        narrow = narrow or (not mapped and all(map(fits_float32, features)))
        dtype = np.dtype(np.float32 if narrow else np.float64)
    if len(parts) == 1 and first.dtype == dtype:
        return first
    if not mapped:
        return np.concatenate(parts).astype(dtype, copy=False)
    return cast(np.ndarray, Joined(parts, dtype))


class Joined:
    """Arrays, one after the other, that are indexed as one; only the rows asked for are read.

    Args:
        parts: Arrays of one row shape.
        dtype: What rows are converted to.
    """

    def __init__(self, parts: list[np.ndarray], dtype: np.dtype) -> None:
        self.parts, self.dtype = parts, dtype
        self.starts = np.cumsum([0] + [len(part) for part in parts])
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice, or by an int array in any order."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for part, start in zip(self.parts, self.starts[:-1], strict=True):
            mine = (rows >= start) & (rows < start + len(part))
            out[mine] = part[rows[mine] - start]
        return out


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name; those of a folder, and a `.npy`, are mapped into memory."""
    try:
        if path.is_dir():
            return {file.stem: np.load(file, mmap_mode="c") for file in path.glob("*.npy")}
        if path.suffix == ".npy":
            return {"x": np.load(path, mmap_mode="c")}
        with path.open("rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        what = f"{path} can't be read as numpy's arrays of numbers or text: "
        raise ValueError(what + str(error).partition(". ")[0]) from error


def _need(arrays: dict[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    if key not in arrays:
        raise ValueError(f"{path} has no `{key}`{hint(key, arrays)}")
    return arrays[key]
