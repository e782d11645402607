import json
import math
from fractions import Fraction

import numpy as np
import pytest

from src.data.statistics import Statistics, chunks, fit, merge, moments


def exact(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each feature or channel, in exact arithmetic, NaN left out."""
    means, stds = [], []
    for feature in x.swapaxes(0, 1).reshape(x.shape[1], -1):
        values = [Fraction(float(v)) for v in feature if v == v]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        means.append(float(mean))
        stds.append(math.sqrt(variance))
    return means, stds


def rows(n: int) -> np.ndarray:
    return np.arange(n)


@pytest.mark.parametrize(
    ("dtype", "mean", "std"),
    [
        ("float64", 1e6, 1e-3),
        ("float32", 1e4, 1.0),
        ("float32", 0.0, 1e-20),
        ("float64", -3e100, 1e99),
    ],
)
def test_matches_exact_arithmetic(dtype: str, mean: float, std: float) -> None:
    rng = np.random.default_rng(0)
    x = (mean + std * rng.standard_normal((9000, 2))).astype(dtype)
    x[rng.random(x.shape) < 0.1] = np.nan
    means, stds = exact(x)
    got = fit(x, rows(len(x)))
    np.testing.assert_allclose(got.mean, means, rtol=4e-16, atol=1e-14 * std)
    np.testing.assert_allclose(got.std, stds, rtol=1e-13)
    assert got.count == tuple((~np.isnan(x)).sum(0).tolist())


@pytest.mark.parametrize("kind", ["sorted", "outlier", "lognormal", "rare"])
def test_rows_unlike_the_others_cost_no_digits(kind: str) -> None:
    z = np.random.default_rng(0).standard_normal((40_000, 3))
    if kind == "outlier":
        z[16_000:16_100] = 1e7  # what is taken off is measured on these
    others = {"sorted": np.sort(z, 0), "lognormal": np.exp(4 * z.clip(-9, 9)), "rare": z > 3}
    x = 1e6 + 1e-3 * others.get(kind, z)
    values = x.astype(np.longdouble) - 1e6
    got = fit(x, rows(len(x)))
    np.testing.assert_allclose(got.mean, 1e6 + values.mean(0).astype(float), rtol=4e-16)
    np.testing.assert_allclose(got.std, values.std(0).astype(float), rtol=1e-12)


@pytest.mark.parametrize("n", [33, 4095, 4096, 10_000])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 2, 3)])
def test_matches_a_wider_float_for_any_number_of_rows(n: int, shape: tuple[int, ...]) -> None:
    x = 1e6 + 1e-3 * np.random.default_rng(n).standard_normal((n, *shape))
    x[0, 0] = x[-1, -1] = np.nan
    values = x.swapaxes(0, 1).reshape(shape[0], -1).astype(np.longdouble)
    got = fit(x, rows(n))
    np.testing.assert_allclose(got.mean, np.nanmean(values, 1).astype(float), rtol=4e-16)
    np.testing.assert_allclose(got.std, np.nanstd(values, 1).astype(float), rtol=1e-12)
    assert got.count == tuple((~np.isnan(values)).sum(1).tolist())
    twice = np.concatenate([x, x])  # the same rows as a slice, and by their numbers
    assert fit(twice, rows(2 * n)[::-2]) == fit(twice[1::2], rows(n))


@pytest.mark.parametrize("shape", [(9000, 3), (300, 3, 5, 7), (300, 2, 11)])
def test_bytes_are_exact(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    x[:, 1] = np.where(x[:, 1] > 250, 255, 254)
    means, stds = exact(x)
    got = fit(x, rows(len(x)))
    np.testing.assert_allclose(got.mean, means, rtol=5e-16)
    np.testing.assert_allclose(got.std, stds, rtol=1e-15)
    assert got.count == (x[:, 0].size,) * shape[1]


def test_the_largest_bytes_do_not_overflow() -> None:
    got = fit(np.full((2, 1, 2000, 2000), 255, np.uint8), rows(2))
    assert (got.mean, got.std) == ((255.0,), (1.0,))
    x = np.full((2, 1, 2000, 2000), 255, np.uint8)
    x[1, 0, 7, 7] = 254
    var = (1 / 8_000_000) * (1 - 1 / 8_000_000)
    assert fit(x, rows(2)).std[0] == pytest.approx(math.sqrt(var), rel=1e-12)
    for shape in ((4096, 1, 8), (8192, 511), (33_000, 1)):  # the most that are added up
        assert set(fit(np.full(shape, 255, np.uint8), rows(shape[0])).mean) == {255.0}


def test_images_are_measured_by_channel() -> None:
    x = np.random.default_rng(2).standard_normal((40, 3, 4, 5)).astype(np.float32)
    x[:, 2] = x[:, 2] * 10 + 7
    got = fit(x, rows(40))
    np.testing.assert_allclose(got.mean, x.astype(np.float64).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(got.std, x.astype(np.float64).std((0, 2, 3)), rtol=1e-12)


def test_constant_features_have_std_1() -> None:
    for dtype in (np.float32, np.float64):
        for value in (0.1, -1e30, 0.0, 1e-30, 1 / 3):
            x = np.full((10_000, 2), value, dtype)
            x[::7, 1] = np.nan
            got = fit(x, rows(len(x)))
            assert got.std == (1.0, 1.0)
            np.testing.assert_allclose(got.mean, dtype(value), rtol=3e-16)
    noisy = np.where(rows(10_000) % 2, 0.3, 0.1 + 0.2)[:, None]  # they differ by one rounding
    assert fit(noisy, rows(10_000)).std == (1.0,)
    rare = np.zeros((100_000, 1), np.float32)
    rare[5] = 1
    assert fit(rare, rows(len(rare))).std[0] == pytest.approx(math.sqrt(1e-5 * (1 - 1e-5)))


def test_categorical_features_are_left_alone() -> None:
    x = np.random.default_rng(0).integers(0, 9, (100, 3)).astype(np.float32)
    got = fit(x, rows(100), categorical=[0, 2])
    assert (got.mean[0], got.std[0], got.mean[2], got.std[2]) == (0, 1, 0, 1)
    assert got.mean[1] == x[:, 1].mean(dtype=np.float64)
    assert Statistics.identity(2) == Statistics((0.0, 0.0), (1.0, 1.0), (0, 0))


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "nan"])
def test_ranks_and_order_change_no_bit(kind: str) -> None:
    rng = np.random.default_rng(3)
    if kind == "uint8":
        x = rng.integers(0, 256, (300_000, 5), dtype=np.uint8)
    else:
        x = (1e3 * rng.standard_normal((300_000, 5)) + 1e5).astype(kind.replace("nan", "float32"))
    if kind == "nan":
        x[:90_000, 2] = np.nan  # the first chunks have no value at all
    index = rng.permutation(300_000)[:270_111]
    whole = fit(x, index)
    assert fit(x, np.sort(index)) == whole == fit(x, index[::-1])
    parts = chunks(x, index)
    assert len(parts) == 10
    for num_ranks in (1, 2, 3, 7, 8):
        done = {}
        for rank in range(num_ranks):
            for i, part in list(enumerate(parts))[rank::num_ranks]:
                done[i] = moments(x[part])
        merged = merge([done[i] for i in range(len(done))])
        reference = merge(moments(x[part]) for part in parts)
        assert all(np.array_equal(a, b) for a, b in zip(merged, reference, strict=True))


def test_rows_of_val_and_test_change_no_bit() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((20_000, 4)).astype(np.float32)
    train = rng.permutation(20_000)[:14_000]
    before = fit(x, train)
    others = np.setdiff1d(np.arange(20_000), train)
    for garbage in (np.nan, np.inf, -1e30):
        x[others] = garbage
        assert fit(x, train) == before


def test_a_memory_map_is_read_in_chunks(tmp_path) -> None:
    x = np.random.default_rng(5).standard_normal((10_000, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert (
        fit(mapped, rows(10_000)) == fit(np.asfortranarray(x), rows(10_000)) == fit(x, rows(10_000))
    )

    class Watched:
        shape, dtype, asked = x.shape, x.dtype, []

        def __getitem__(self, index):
            self.asked.append(index)
            return x[index]

    index = np.arange(0, 10_000, 2)
    fit(Watched(), index)
    asked = sorted(Watched.asked, key=lambda a: a[0])  # threads ask in any order
    assert [len(a) for a in asked] == [4864, 136]
    assert np.array_equal(np.concatenate(asked), index)
    assert len(chunks(np.zeros((1, 3, 1024, 1024), np.uint8), np.arange(5))) == 5  # wide rows


def test_json_keeps_every_bit() -> None:
    x = np.random.default_rng(6).standard_normal((1000, 50)).astype(np.float32)
    fitted = fit(x, rows(1000))
    fields = json.loads(json.dumps(vars(fitted)))
    assert Statistics(**{name: tuple(values) for name, values in fields.items()}) == fitted


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([np.nan] * 4, "no value"),
        ([1, 2, -np.inf, np.nan], "infinite or huge values"),
        ([1, np.inf, -np.inf, 3], "infinite or huge values"),
        ([1e200, 1, 2, 3], "infinite or huge values"),
        ([1.7e308, 1.7e308, 1.7e308, 1], "infinite or huge values"),
    ],
)
def test_errors_name_the_feature(column: list[float], message: str) -> None:
    x = np.stack([np.arange(4.0), np.array(column)], axis=1)
    for names, name in (["height", "age"], "'age'"), ((), "1"):
        with pytest.raises(ValueError) as caught:
            fit(x, rows(4), names=names)
        assert str(caught.value) == f"feature {name} has {message} in train: mend or drop it"
