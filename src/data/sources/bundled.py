"""The small data sets that scikit-learn ships: nothing to download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from src.data.rows import Rows, Signature, Source


class Digits(Source):
    """Handwritten digits, 1,797 grey images of 8x8 with values 0 to 16, 10 classes.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998,
    doi 10.24432/C50P49 (CC BY 4.0), the test part, as shipped with scikit-learn.
    """

    def load(self, signature: Signature | None = None) -> Rows:
        # `load_digits` reads this file too; to import scikit-learn for it takes 0.8 s
        [folder] = find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr,misc]
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        table = np.loadtxt(path, np.uint8, delimiter=",")
        signature = Signature((1, 8, 8), "uint8", tuple("0123456789"))
        x = np.ascontiguousarray(table[:, :-1]).reshape(-1, 1, 8, 8)
        return Rows(x, table[:, -1].astype(np.int64), signature)


class Wine(Source):
    """Chemical analysis of 178 Italian wines, 13 features, 3 cultivars.

    Source: S. Aeberhard, M. Forina, Wine, UCI, 1992, doi 10.24432/C5PC7J (CC BY 4.0), as shipped
    with scikit-learn.
    """

    def load(self, signature: Signature | None = None) -> Rows:
        return _table("load_wine")


class BreastCancer(Source):
    """Breast cancer Wisconsin (diagnostic), 569 cell samples, 30 features, malignant or benign.

    Source: W. Wolberg, O. Mangasarian, N. Street, W. Street, UCI, 1995, doi 10.24432/C5DW2B
    (CC BY 4.0), as shipped with scikit-learn.
    """

    def load(self, signature: Signature | None = None) -> Rows:
        return _table("load_breast_cancer")


class Diabetes(Source):
    """Diabetes, 442 patients, 10 features; the target is the disease's progression in a year.

    Source: B. Efron, T. Hastie, I. Johnstone, R. Tibshirani, Least Angle Regression, Annals of
    Statistics 32, 2004, as shipped with scikit-learn, in its original units.
    """

    def load(self, signature: Signature | None = None) -> Rows:
        return _table("load_diabetes", "disease progression", scaled=False)


def _table(loader: str, target: str = "class", **options: bool) -> Rows:
    """Rows of a table of scikit-learn whose columns are all numeric."""
    from sklearn import datasets

    data = getattr(datasets, loader)(**options)
    features = tuple(map(str, data.feature_names))
    classes = tuple(map(str, data.get("target_names", ())))
    signature = Signature((len(features),), "float32", classes, (target,), features)
    y = data.target.astype(np.int64 if classes else np.float32)
    return Rows(data.data.astype(np.float32), y, signature)
