"""New rows for a trained model, read by its signature alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.data.rows import Signature
from src.data.sources.arrays import read_arrays
from src.data.sources.images import SUFFIXES, read_images
from src.data.sources.table import read_table


def read_rows(path: Path, signature: Signature) -> tuple[np.ndarray, Sequence[Any]]:
    """Reads new rows, `(N, *in_shape)`, and a name for each: a file's, or the row number.

    Raises:
        ValueError: It does not hold such rows.
        FileNotFoundError: It isn't there.
    """
    if not path.exists():
        raise FileNotFoundError(f"`data.predict_path` {path} does not exist")
    suffix = path.suffix.lower()
    is_arrays = suffix in (".npz", ".npy") or (path / "x.npy").exists()
    if not is_arrays and (suffix in SUFFIXES or (path.is_dir() and not signature.feature_names)):
        return read_images(path, signature)
    x = read_arrays(path, signature) if is_arrays else read_table(path, signature)
    return x, range(len(x))
