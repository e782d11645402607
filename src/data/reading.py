"""New rows for a trained model, read by its signature alone."""

from pathlib import Path

import numpy as np

from src.data.rows import Signature
from src.data.sources.arrays import read_arrays
from src.data.sources.images import SUFFIXES, read_images
from src.data.sources.table import read_table


def read_rows(path: Path, signature: Signature) -> tuple[np.ndarray, list[str]]:
    """Reads new rows, `(N, *in_shape)`, and a name for each: a file's, or the row number.

    Raises:
        ValueError: The file is of no kind that is known, or does not hold such rows.
        FileNotFoundError: It isn't there.
    """
    if not path.exists():
        raise FileNotFoundError(f"`data.predict_path` {path} does not exist")
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".parquet"):
        x = read_table(path, signature)
    elif suffix in (".npz", ".npy") or (path.is_dir() and (path / "x.npy").exists()):
        x = read_arrays(path, signature)
    elif suffix in SUFFIXES or path.is_dir():
        return read_images(path, signature)
    else:
        raise ValueError(
            f"`data.predict_path` {path} is none of .csv .parquet .npz .npy, an image, or a folder "
            "of images or .npy files"
        )
    return x, [str(i) for i in range(len(x))]
