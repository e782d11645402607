import hashlib

import numpy as np
import pytest
from sklearn import datasets

from src.data.rows import FREE, SPLITS
from src.data.sources import BreastCancer, Diabetes, Digits, Mnist1d, Wine


def test_digits_keeps_bytes():
    rows, reference = Digits().load(), datasets.load_digits()
    assert rows.x.shape == (1797, 1, 8, 8)
    assert rows.x.dtype == np.uint8
    assert np.array_equal(rows.x.reshape(1797, 64), reference.data)
    assert np.array_equal(rows.y, reference.target)
    assert rows.signature.in_shape == (1, 8, 8)
    assert rows.signature.class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("source", "load", "shape", "classes"),
    [
        (Wine, datasets.load_wine, (178, 13), ("class_0", "class_1", "class_2")),
        (BreastCancer, datasets.load_breast_cancer, (569, 30), ("malignant", "benign")),
    ],
)
def test_classifications_are_raw(source, load, shape, classes):
    rows, reference = source().load(), load()
    assert rows.x.shape == shape
    assert rows.x.dtype == np.float32
    assert rows.y.dtype == np.int64
    assert np.array_equal(rows.x, reference.data.astype(np.float32))
    assert np.array_equal(rows.y, reference.target)
    assert rows.signature.class_names == classes
    assert rows.signature.feature_names == tuple(reference.feature_names)
    assert rows.signature.out_dim == len(classes)
    assert rows.signature.num_categories == ()


def test_diabetes_is_in_original_units():
    rows = Diabetes().load()
    assert rows.x.shape == (442, 10)
    assert rows.y.dtype == np.float32
    assert rows.x[0, :4].tolist() == np.float32([59, 2, 32.1, 101]).tolist()
    assert rows.y[:3].tolist() == [151, 75, 141]
    assert rows.signature.class_names == ()
    assert rows.signature.target_names == ("disease progression",)
    assert rows.signature.out_dim == 1


def test_mnist1d_is_the_published_data():
    # Numbers of mnist1d_data.pkl of github.com/greydanus/mnist1d: first train row, last test row.
    first = [-0.332006, -0.47191, -0.778697, -1.009741, -0.882353]
    last = [-0.098646, 0.447233, 0.659876, 0.877734, 1.193152]
    rows = Mnist1d().load()
    assert rows.x.shape == (5000, 1, 40)
    assert rows.x.dtype == np.float32
    assert np.bincount(rows.y).tolist() == [500] * 10
    test = rows.published == SPLITS.index("test")
    assert np.flatnonzero(test).tolist() == list(range(4000, 5000))
    assert (rows.published[~test] == FREE).all()
    assert hashlib.sha256(rows.y.tobytes()).hexdigest()[:16] == "6feec4a017698c7f"
    assert rows.y[:10].tolist() == [2, 6, 4, 5, 6, 6, 6, 0, 3, 1]
    np.testing.assert_allclose(rows.x[0, 0, :5], first, atol=1e-6)
    np.testing.assert_allclose(rows.x[-1, 0, -5:], last, atol=1e-6)


def test_mnist1d_of_some_classes_is_those_rows():
    every, some = Mnist1d().load(), Mnist1d(classes=(7, 2)).load()
    kept = np.isin(every.y, (2, 7))
    assert np.array_equal(some.x, every.x[kept])
    assert np.array_equal(some.published, every.published[kept])
    assert some.signature.class_names == ("2", "7")
    assert [some.signature.class_names[c] for c in some.y] == every.y[kept].astype(str).tolist()
    with pytest.raises(ValueError, match="give two or more of 0 to 9"):
        Mnist1d(classes=(3, 3))
