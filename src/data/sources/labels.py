"""What `y` is, and what float32 can hold: the same for tables and arrays."""

import numpy as np

from src.data.rows import Signature
from src.errors import hint

TAKES = {"regression": "numbers (N,) or (N, K)", "classification": "text or whole numbers (N,)"}


@np.errstate(invalid="ignore")  # inf % 1
def read_labels(
    y: np.ndarray, task: str, signature: Signature | None, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads `y` as int64 codes of classes `(N,)` and their names, or as float32 targets and none.

    Args:
        y: Text or numbers: `(N,)`, or `(N, K)` for a regression.
        task: `classification`, `regression`, or `auto`, which looks at `y`.
        signature: That of the checkpoint, which knows task and classes.
        where: What messages call `y`.

    Raises:
        ValueError: They are neither, or a class is new.
    """
    is_number = y.dtype.kind in "iuf"
    is_whole = is_number and y.ndim == 1 and not (y % 1 != 0).any()
    if signature:
        task = "classification" if signature.class_names else "regression"
    elif task == "auto":
        quantities = is_number and not (is_whole and are_classes(y))
        task = "regression" if quantities else "classification"
    is_named = y.dtype.kind in "bUS" and y.ndim == 1
    fits = is_number and y.ndim <= 2 if task == "regression" else is_whole or is_named
    if not fits:
        raise ValueError(f"{where} is {y.dtype} {y.shape}: a {task} takes {TAKES[task]}")
    if task == "regression":
        return _targets(y, where), ()
    values, codes = np.unique(y.astype(np.int64) if is_number else y, return_inverse=True)
    names = tuple(values.astype(str).tolist())
    known = signature.class_names if signature else names
    if len(known) < 2:
        what = f"{where} is `{known[0]}` in every row"
        raise ValueError(f"{what}: a classification needs two classes or more")
    if new := [name for name in names if name not in known]:
        raise ValueError(f"{where} has the class `{new[0]}`, new to the model{hint(new[0], known)}")
    return np.array([known.index(name) for name in names])[codes], known


def are_classes(y: np.ndarray) -> bool:
    """Whether whole numbers are seen twice on average and are at most 20 or exactly 0 to K - 1."""
    values = np.unique(y)
    is_range = bool((values == np.arange(len(values))).all())
    return 2 * len(values) <= len(y) and (len(values) <= 20 or is_range)


def _targets(y: np.ndarray, where: str) -> np.ndarray:
    columns = y.reshape(len(y), -1)
    if len(bad := np.flatnonzero(~np.isfinite(columns).all(axis=1))):
        what = f"{len(bad)} rows that are NaN or infinite, the first at index {bad[0]}"
        raise ValueError(f"{where} has {what}: mend or delete them")
    if not all(map(fits_float32, columns.T)):
        what = f"{where} varies by less than float32 can hold"
        raise ValueError(f"{what}: subtract a constant from it")
    return y.astype(np.float32)


def fits_float32(column: np.ndarray) -> bool:
    """Whether float32 keeps every number of `(N,)` to a thousandth of their standard deviation."""
    column = column[np.isfinite(column)].astype(np.float64)
    with np.errstate(over="ignore"):
        rounding = np.abs(column - column.astype(np.float32)).max(initial=0)
        sd = column.std() if len(column) else 0.0
    return bool(rounding < np.inf and (sd == 0 or rounding <= 1e-3 * sd))
