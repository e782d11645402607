"""Rules that tables and arrays share: which numbers are classes, and what float32 can hold."""

import numpy as np

MAX_CLASSES = 20


def are_classes(values: np.ndarray, num_rows: int) -> bool:
    """Whether the distinct `values` of a numeric target are classes, not quantities.

    They are if they are whole numbers, seen twice on average, and either at most 20 of them or
    exactly 0 to K - 1.
    """
    if (values % 1 != 0).any() or 2 * len(values) > num_rows:
        return False
    return len(values) <= MAX_CLASSES or bool((np.sort(values) == np.arange(len(values))).all())


def fits_float32(column: np.ndarray) -> bool:
    """Whether float32 keeps every number of `(N,)` to a thousandth of their standard deviation."""
    column = column[np.isfinite(column)].astype(np.float64)
    with np.errstate(over="ignore"):
        rounding = np.abs(column - column.astype(np.float32)).max(initial=0)
        sd = column.std() if len(column) else 0.0
    return bool(rounding < np.inf and (sd == 0 or rounding <= 1e-3 * sd))


def as_targets(y: np.ndarray, where: str) -> np.ndarray:
    """Numbers `(N,)` or `(N, K)` as the float32 targets of a regression.

    Raises:
        ValueError: One is missing or infinite, or float32 can't tell them apart.
    """
    bad = np.flatnonzero(~np.isfinite(y).reshape(len(y), -1).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{where} has {len(bad)} rows that are NaN or infinite, the first at index {bad[0]}: "
            "mend or delete them"
        )
    if not all(fits_float32(column) for column in y.reshape(len(y), -1).T):
        raise ValueError(
            f"{where} varies by less than float32 can hold: subtract a constant from it"
        )
    return y.astype(np.float32)
