# ruff: noqa: E501 (a hostile input a line)
from pathlib import Path

import numpy as np
import pytest

from src.data.partition import Stratified
from src.data.rows import FREE, Signature
from src.data.sources.arrays import Arrays, Joined, read_arrays
from src.data.sources.labels import are_classes, fits_float32
from tests.conftest import refused

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = np.arange(12) % 3


@pytest.fixture(params=["npz", "folder"])
def save(request, tmp_path):
    """Saves arrays as a `.npz` or as a folder, and returns its path."""

    def write(**arrays):
        path = tmp_path / f"own.{request.param}"
        if request.param == "npz":
            np.savez(path, **arrays)
        else:
            path.mkdir(exist_ok=True)
            for name, array in arrays.items():
                np.save(path / f"{name}.npy", array)
        return str(path)

    return write


def test_rows_come_back_as_they_were(save):
    rows = Arrays(save(x=X, y=Y)).load()
    assert np.array_equal(rows.x, X)
    assert rows.x.dtype == np.float32
    assert rows.y.dtype == np.int64
    assert np.array_equal(rows.y, Y)
    assert rows.signature == Signature((3,), "float32", ("0", "1", "2"))
    assert (rows.published == FREE).all()


def test_published_parts_groups_and_times(save):
    more = {"x_test": X[:4] + 1, "y_test": Y[:4], "groups": np.arange(16), "times": np.arange(16.0)}
    rows = Arrays(save(x=X, y=Y, **more)).load()
    expected = np.concatenate([X, X[:4] + 1])
    assert rows.x.shape == (16, 3)
    assert np.array_equal(rows.x[np.arange(16)], expected)
    assert rows.published.tolist() == [FREE] * 12 + [2] * 4
    assert np.array_equal(rows.groups, np.arange(16))
    assert np.array_equal(rows.times, np.arange(16.0))
    three = Arrays(
        save(
            x=X,
            y=Y,
            x_val=X[:2],
            y_val=Y[:2],
            **more | {"groups": np.arange(18), "times": np.arange(18)},
        )
    ).load()
    assert three.published.tolist() == [FREE] * 12 + [1] * 2 + [2] * 4
    assert np.array_equal(three.x[:], np.concatenate([X, X[:2], X[:4] + 1]))
    three.groups = three.times = None
    split = Stratified(duplicates="allow").split(three)
    assert split.train.tolist() == list(range(12))
    assert split.kept == {}  # nothing is drawn, so nothing is written beside the data


def test_folder_stays_on_disk(tmp_path, monkeypatch):
    for name in ("x", "x_test"):
        np.save(tmp_path / f"{name}.npy", X)
        np.save(tmp_path / f"{name.replace('x', 'y')}.npy", Y)
    monkeypatch.setattr(Joined, "__getitem__", lambda *_: pytest.fail("x was read"))
    rows = Arrays(str(tmp_path)).load()
    assert isinstance(rows.x, Joined)
    assert all(isinstance(part, np.memmap) for part in rows.x.parts)
    (tmp_path / "x_test.npy").unlink()
    (tmp_path / "y_test.npy").unlink()
    alone = Arrays(str(tmp_path)).load().x
    assert isinstance(alone, np.memmap)
    assert alone.flags.writeable  # torch.from_numpy warns otherwise
    alone[0] = 7  # copy on write
    assert np.array_equal(np.load(tmp_path / "x.npy"), X)


def test_joined_indexes_like_one_array():
    parts = [RNG.integers(0, 99, (n, 2, 3)).astype(np.int16) for n in (5, 1, 7)]
    joined, whole = Joined(parts, np.dtype(np.float32)), np.concatenate(parts).astype(np.float32)
    assert joined.shape == whole.shape
    assert len(joined) == 13
    for rows in (
        RNG.permutation(13),
        np.array([12, 0, 5, 5]),
        np.array([], np.int64),
        slice(None),
        slice(4, 9),
        slice(10, 99),
        slice(0, 13, 3),
    ):
        assert joined[rows].dtype == np.float32
        assert np.array_equal(joined[rows], whole[rows])


@pytest.mark.parametrize(
    ("x", "npz", "folder"),
    [
        (RNG.integers(0, 255, (12, 3)).astype(np.uint8), "uint8", "uint8"),
        (RNG.normal(size=(12, 3)), "float32", "float64"),
        (1e6 + 1e-3 * RNG.normal(size=(12, 3)), "float64", "float64"),
        (RNG.integers(0, 255, (12, 3)), "float32", "float64"),
        (RNG.integers(0, 255, (12, 3)).astype(">i2"), "float32", "float32"),
        (X > 0, "float32", "float32"),
        (X.astype(np.float16), "float32", "float32"),
    ],
)
def test_dtypes(save, x, npz, folder):
    path = save(x=x, y=Y)
    rows = Arrays(path).load()
    assert str(rows.x.dtype) == rows.signature.dtype == (npz if path.endswith("npz") else folder)
    assert np.array_equal(rows.x[np.arange(12)], x.astype(rows.signature.dtype))


@pytest.mark.parametrize(
    ("y", "options", "codes", "names"),
    [
        (np.array(list("bca" * 4)), {}, [1, 2, 0] * 4, ("a", "b", "c")),
        (np.array([b"x", b"y"] * 6), {}, [0, 1] * 6, ("x", "y")),
        (np.array([True, False] * 6), {}, [1, 0] * 6, ("False", "True")),
        (np.array([9, 10, -1] * 4), {}, [1, 2, 0] * 4, ("-1", "9", "10")),
        (np.array([[1.0], [0.0]] * 6), {"task": "classification"}, [1, 0] * 6, ("0", "1")),
    ],
)
def test_classes(save, y, options, codes, names):
    rows = Arrays(save(x=X, y=y), **options).load()
    assert rows.y.dtype == np.int64
    assert rows.y.tolist() == codes
    assert rows.signature.class_names == names


@pytest.mark.parametrize("y", [np.arange(12), Y * 0.5, X[:, :2], Y[:, None] + np.arange(2)])
def test_regressions(save, y):
    rows = Arrays(save(x=X, y=y)).load()
    assert rows.y.dtype == np.float32
    assert np.array_equal(rows.y, y.astype(np.float32))
    assert rows.signature.class_names == ()
    assert rows.signature.out_dim == (1 if y.ndim == 1 else 2)


def test_task_decides_over_the_rule(save):
    assert Arrays(save(x=X, y=Y), "regression").load().y.tolist() == Y.tolist()
    assert Arrays(save(x=X, y=Y), "regression").load().signature.class_names == ()
    assert (
        len(Arrays(save(x=X, y=np.arange(12)), "classification").load().signature.class_names) == 12
    )


def test_are_classes():
    assert are_classes(np.arange(10).repeat(2))
    assert not are_classes(np.append(np.arange(10).repeat(2), 10))
    assert are_classes(np.arange(100).repeat(2))  # 0 to K - 1
    assert not are_classes(np.arange(18, 90).repeat(99))  # ages


def test_fits_float32():
    z = RNG.normal(size=1000)
    assert fits_float32(z)
    assert fits_float32(1e6 + z * 100)
    assert not fits_float32(1e6 + z * 1e-3)
    assert fits_float32(np.full(9, 0.1))
    assert fits_float32(np.array([np.nan, 1.0, 2.0]))
    assert not fits_float32(np.array([1e300, 0, 1]))
    seconds = 1.7e9 + np.arange(1000)  # float32 keeps them to 64
    assert not fits_float32(seconds)
    assert fits_float32(1.7e9 + np.arange(1000) * 86400.0)


def test_a_trained_signature_rules(save):
    path = save(x=X, y=np.array(["v", "w"] * 6))
    trained = Signature((3,), "float64", ("u", "v", "w"))
    rows = Arrays(path).load(trained)
    assert rows.signature is trained
    assert rows.x[np.arange(12)].dtype == np.float64
    assert rows.y.tolist() == [1, 2] * 6
    message = refused(lambda: Arrays(path).load(Signature((3,), "float32", ("u", "v"))))
    assert message == f"{path}: `y` has the class `w`, new to the model; there are: u, v"
    wider = refused(lambda: Arrays(path).load(Signature((4,), "float32", ("v", "w"))))
    assert wider == f"{path}: x has rows of float32 (3,), not of float32 (4,)"


def test_new_rows(save, tmp_path):
    trained = Signature((3,), "float32", ("a", "b"))
    assert np.array_equal(read_arrays(Path(save(x=X)), trained), X)
    np.save(tmp_path / "new.npy", X.astype(np.float64))
    new = read_arrays(tmp_path / "new.npy", trained)
    assert np.array_equal(new[:], X)
    assert new.dtype == np.float32
    np.save(tmp_path / "new.npy", X.astype(np.uint8))
    assert refused(lambda: read_arrays(tmp_path / "new.npy", trained)) == (
        f"{tmp_path / 'new.npy'}: x has rows of uint8 (3,), not of float32 (3,)"
    )
    assert "No such file" in refused(lambda: read_arrays(tmp_path / "no.npz", trained))


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": X}, {}, "{} has no `y`; there are: x"),
        ({}, {}, "{} has no `x`"),
        ({"x": X, "y": Y, "x_tset": X}, {}, "{} has `x_tset`, which is unknown; did you mean x_test? there are: x, y, x_val, y_val, x_test, y_test, groups, times"),
        ({"x": X, "y": Y, "x_test": X}, {}, "{} has no `y_test`; did you mean x_test? there are: x, y, x_test"),
        ({"x": X, "y": Y[:5]}, {}, "{}: `y` is of shape (5,) for 12 rows of x"),
        ({"x": X, "y": Y, "groups": Y[:5]}, {}, "{}: `groups` is of shape (5,) for 12 rows of x"),
        ({"x": X, "y": np.array(3)}, {}, "{}: `y` is of shape () for 12 rows of x"),
        ({"x": X.astype(str), "y": Y}, {}, "{}: x is <U32 (12, 3), not rows of numbers (N, ...)"),
        ({"x": X[:, :0], "y": Y}, {}, "{}: x is float32 (12, 0), not rows of numbers (N, ...)"),
        ({"x": np.float32(1), "y": Y}, {}, "{}: x is float32 (), not rows of numbers (N, ...)"),
        ({"x": X, "y": Y, "x_val": X[:, :2], "y_val": Y}, {}, "{}: x has rows of float32 (2,), not of float32 (3,)"),
        ({"x": X, "y": Y * 0}, {}, "{}: `y` is `0` in every row: a classification needs two classes or more"),
        ({"x": X, "y": X[:, 0]}, {"task": "classification"}, "{}: `y` is float32 (12,): a classification takes text or whole numbers (N,)"),
        ({"x": X, "y": Y[:, None].astype(str).repeat(2, 1)}, {}, "{}: `y` is <U21 (12, 2): a classification takes text or whole numbers (N,)"),
        ({"x": np.zeros((12, 8, 9, 3), np.uint8), "y": Y}, {}, "{}: x is (12, 8, 9, 3), and images are (N, C, H, W): save np.moveaxis(x, -1, 1)"),
        ({"x": np.zeros((12, 9, 9, 4), "f4"), "y": Y}, {}, "{}: x is (12, 9, 9, 4), and images are (N, C, H, W): save np.moveaxis(x, -1, 1)"),
        ({"x": np.zeros((12, 9, 9), np.uint8), "y": Y}, {}, "{}: x is (12, 9, 9), and images are (N, C, H, W): save x[:, None], and signals as float32"),
        ({"x": X[:, 0], "y": Y}, {}, "{}: x is float32 (12,), not rows of numbers (N, ...)"),
        ({"x": X, "y": Y.astype(str)}, {"task": "regression"}, "{}: `y` is <U21 (12,): a regression takes numbers (N,) or (N, K)"),
        ({"x": X, "y": np.where(Y == 1, [np.nan, np.inf] * 6, X[:, 0])}, {}, "{}: `y` has 4 rows that are NaN or infinite, the first at index 1: mend or delete them"),
        ({"x": X, "y": 1e9 + X[:, 0].astype(float)}, {}, "{}: `y` varies by less than float32 can hold: subtract a constant from it"),
    ],
)  # fmt: skip
def test_hostile_arrays(save, arrays, options, message):
    path = save(**arrays)
    assert refused(lambda: Arrays(path, **options).load()) == message.format(path)


def test_objects_and_broken_files_are_refused(tmp_path):
    objects = tmp_path / "objects.npz"
    np.savez(objects, x=X, y=np.array([{}, []], object))
    assert refused(Arrays(str(objects)).load) == (
        f"{objects} can't be read as numpy's arrays of numbers or text: "
        "Object arrays cannot be loaded when allow_pickle=False"
    )
    for name, content in (("cut.npz", objects.read_bytes()[:200]), ("text.npz", b"x,y\n1,2\n"),
                          ("empty.npz", b"")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        message = refused(Arrays(str(tmp_path / name)).load)
        assert message.startswith(f"{tmp_path / name} can't be read as numpy's arrays")


def test_kept_boundaries_lie_beside_the_data(tmp_path):
    assert Arrays(str(tmp_path / "a.npz")).keep_path() == tmp_path / "a.npz.partition.json"
