"""The small data sets that scikit-learn ships: nothing to download."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from src.data.rows import Rows, Signature, Source


class Digits(Source):
    """Handwritten digits, 1,797 grey images of 8x8 with values 0 to 16, 10 classes.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998,
    doi 10.24432/C50P49 (CC BY 4.0), the test part, as shipped with scikit-learn.
    """

    def load(self, signature: Signature | None = None) -> Rows:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = digits.images.astype(np.uint8)[:, None]
        names = tuple(str(name) for name in digits.target_names)
        return Rows(x, digits.target.astype(np.int64), Signature((1, 8, 8), "uint8", names))


class Wine(Source):
    """Chemical analysis of 178 Italian wines, 13 features, 3 cultivars.

    Source: S. Aeberhard, M. Forina, Wine, UCI, 1992, doi 10.24432/C5PC7J (CC BY 4.0), as shipped
    with scikit-learn.
    """

    def load(self, signature: Signature | None = None) -> Rows:
        from sklearn.datasets import load_wine

        wine = load_wine()
        return _table(wine, wine.target_names)


class BreastCancer(Source):
    """Breast cancer Wisconsin (diagnostic), 569 cell samples, 30 features, malignant or benign.

    Source: W. Wolberg, O. Mangasarian, N. Street, W. Street, UCI, 1995, doi 10.24432/C5DW2B
    (CC BY 4.0), as shipped with scikit-learn.
    """

    def load(self, signature: Signature | None = None) -> Rows:
        from sklearn.datasets import load_breast_cancer

        cells = load_breast_cancer()
        return _table(cells, cells.target_names)


class Diabetes(Source):
    """Diabetes, 442 patients, 10 features; the target is the disease's progression in a year.

    Source: B. Efron, T. Hastie, I. Johnstone, R. Tibshirani, Least Angle Regression, Annals of
    Statistics 32, 2004, as shipped with scikit-learn, in its original units.
    """

    def load(self, signature: Signature | None = None) -> Rows:
        from sklearn.datasets import load_diabetes

        return _table(load_diabetes(scaled=False), target="disease progression")


def _table(data: Any, class_names: Iterable[str] = (), target: str = "class") -> Rows:
    """Rows of a table of scikit-learn whose columns are all numeric."""
    classes = tuple(str(name) for name in class_names)
    features = tuple(str(name) for name in data.feature_names)
    signature = Signature((len(features),), "float32", classes, (target,), features)
    y = data.target.astype(np.int64 if classes else np.float32)
    return Rows(data.data.astype(np.float32), y, signature)
