"""Augmentations against plain loops, and purity in (seed, epoch, row)."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest

from src.models import augment as room
from src.models.augment import (
    Augmentation,
    Crop,
    Cutout,
    Flip,
    Mixup,
    Noise,
    augment,
    check,
    scramble,
    uniforms,
)

IMAGES = [Flip(), Crop(2), Cutout(3), Noise(0.3)]
ROWS = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:64]


def images(rows: torch.Tensor, shape=(3, 8, 6)) -> torch.Tensor:
    """Every pixel says its row and its place."""
    pixels = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float64).view(1, *shape)
    return (rows.view(-1, *[1] * len(shape)) * 1000 + pixels).float()


def alone(x: torch.Tensor, rows: torch.Tensor, augmentation: Augmentation, epoch=3):
    return augment(x, rows, 7, epoch, [augmentation])[0]


def test_scramble_is_the_published_hash_and_one_to_one():
    def reference(x: int) -> int:
        x = np.uint32(x)
        with np.errstate(over="ignore"):
            x = ((x >> np.uint32(16)) ^ x) * np.uint32(0x45D9F3B)
            x = ((x >> np.uint32(16)) ^ x) * np.uint32(0x45D9F3B)
            return int((x >> np.uint32(16)) ^ x)

    values = [0, 1, 2, 12345, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
    assert [scramble(v) for v in values] == [reference(v) for v in values]
    assert len({scramble(v) for v in range(200_000)}) == 200_000


def test_uniforms_are_a_hash_of_key_row_and_column_over_64_bits():
    def reference(key: int, counter: int) -> float:
        word = lambda value: np.uint64(value % 2**64)  # noqa: E731
        with np.errstate(over="ignore"):
            bits = word(counter) * word(0x9E3779B97F4A7C15) + word(key)
            for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
                bits = (np.int64(bits) >> np.int64(32)).astype(np.uint64) ^ bits
                bits = bits * word(factor)
        return ((int(bits.astype(np.int64)) >> 41) + 2**22 + 0.5) / 2**23

    rows = [0, 1, 2, 12345, 2**31 - 1, 10**10]
    for key, n in ((0, 1), (scramble(1), 3), (2**32 - 1, 7)):
        drawn = uniforms(torch.tensor(rows), key, n).tolist()
        assert drawn == [[reference(key, row * n + i) for i in range(n)] for row in rows]


def test_uniforms_are_uniform_and_independent():
    key = scramble(5)
    draws = uniforms(torch.arange(50_000), key, 4)
    assert draws.dtype == torch.float32
    assert 0 < draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1
    columns = [*draws.T, draws[:-1, 0], uniforms(torch.arange(50_000), key + 1, 1)[:, 0]]
    for column in columns:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-4
    # Neighbouring columns, neighbouring rows, and the same row under the next key.
    pairs = [(0, 1), (1, 2), (0, 3), (0, 5)]
    correlations = [torch.corrcoef(torch.stack((columns[i], columns[j])))[0, 1] for i, j in pairs]
    correlations.append(torch.corrcoef(torch.stack((draws[:-1, 0], draws[1:, 0])))[0, 1])
    assert max(map(abs, correlations)) < 4 / 50_000**0.5


@pytest.mark.parametrize("augmentation", IMAGES, ids=lambda a: type(a).__name__)
def test_a_row_depends_on_seed_epoch_and_row_alone(augmentation):
    x, rng = images(ROWS), torch.get_rng_state()
    whole, _ = augment(x, ROWS, 7, 3, [augmentation])
    assert torch.equal(torch.get_rng_state(), rng)  # the global generator is not used
    assert torch.equal(x, images(ROWS))  # the batch it was given is not changed
    backwards, _ = augment(x.flip(0), ROWS.flip(0), 7, 3, [augmentation])
    assert torch.equal(backwards.flip(0), whole)
    shards = [augment(x[r::3], ROWS[r::3], 7, 3, [augmentation])[0] for r in range(3)]
    assert all(torch.equal(shard, whole[r::3]) for r, shard in enumerate(shards))
    assert torch.equal(augment(x[5:6], ROWS[5:6], 7, 3, [augmentation])[0], whole[5:6])
    for seed, epoch in ((8, 3), (7, 4)):
        assert not torch.equal(augment(x, ROWS, seed, epoch, [augmentation])[0], whole)


def test_two_of_a_kind_draw_apart():
    x = images(ROWS)
    twice, _ = augment(x, ROWS, 0, 0, [Flip(), Flip()])
    assert not torch.equal(twice, x)


def test_nothing_asked_for_changes_nothing():
    x = images(ROWS)
    same, weights = augment(x, ROWS, 0, 0, [])
    assert same is x
    assert weights is None


def test_flip_mirrors_half_of_the_rows():
    rows = torch.arange(2000)
    x = images(rows)
    out = alone(x, rows, Flip())
    mirrored = (out == x.flip(-1)).flatten(1).all(1)
    assert 900 < mirrored.sum() < 1100
    assert torch.equal(out[~mirrored], x[~mirrored])


@pytest.mark.parametrize("shape", [(3, 8, 6), (2, 9)])
def test_crop_is_a_window_of_the_padded_row(shape):
    pad, rows = 2, torch.arange(300)
    x = images(rows, shape)
    out = alone(x, rows, Crop(pad)).numpy()
    sides, shifts = shape[1:], []
    padded = np.pad(x.numpy(), [(0, 0), (0, 0)] + [(pad, pad)] * len(sides))
    for i in range(len(rows)):
        for shift in np.ndindex(*[2 * pad + 1] * len(sides)):
            window = tuple(slice(s, s + side) for s, side in zip(shift, sides, strict=True))
            if np.array_equal(padded[i][:, *window], out[i]):
                shifts.append(shift)
                break
    assert len(shifts) == len(rows)
    assert set(shifts) == set(np.ndindex(*[2 * pad + 1] * len(sides)))


@pytest.mark.parametrize("shape", [(3, 8, 6), (2, 9)])
@pytest.mark.parametrize("size", [2, 3])
def test_cutout_zeroes_one_square_around_a_place_in_the_image(shape, size):
    rows = torch.arange(500)
    x = images(rows, shape)
    out = alone(x, rows, Cutout(size)).numpy()
    masks = {}
    for centre in np.ndindex(*shape[1:]):
        mask = np.zeros(shape[1:], bool)
        mask[tuple(slice(max(0, c - size // 2), c - size // 2 + size) for c in centre)] = True
        masks[mask.tobytes()] = mask
    seen = set()
    for before, after in zip(x.numpy(), out, strict=True):
        cut = after[0] == 0
        assert np.array_equal(after, before * ~masks[cut.tobytes()])  # in every channel alike
        seen.add(cut.tobytes())
    assert seen == set(masks)


def test_noise_is_normal_for_any_shape_of_row():
    rows = torch.arange(2000)
    for shape in ((13,), (2, 9), (3, 4, 4)):
        x = images(rows, shape) / 1e6
        noise = (alone(x, rows, Noise(0.5)) - x).flatten()
        assert kstest(noise.numpy() / 0.5, "norm").pvalue > 1e-4
        assert noise.isfinite().all()


def test_mixup_averages_with_the_row_before_by_a_weight_of_its_own():
    rows, x = ROWS, images(ROWS)
    mixed, weight = augment(x, rows, 7, 3, [Mixup(0.4)])
    w = weight.double().view(-1, 1, 1, 1)
    before = torch.cat((x[-1:], x[:-1]))
    torch.testing.assert_close(mixed.double(), w * x + (1 - w) * before, rtol=1e-6, atol=0)
    assert torch.equal(augment(x[5:9], rows[5:9], 7, 3, [Mixup(0.4)])[1], weight[5:9])
    assert not torch.equal(augment(x, rows, 7, 4, [Mixup(0.4)])[1], weight)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_draws_its_weight_from_beta(alpha):
    _, weight = augment(torch.zeros(20_000, 1), torch.arange(20_000), 0, 0, [Mixup(alpha)])
    low = weight[weight < 0.5].numpy()  # near 1 float32 is too coarse for a test of small alphas
    assert kstest(low, lambda w: 2 * beta(alpha, alpha).cdf(w)).pvalue > 1e-4
    assert abs(len(low) / 20_000 - 0.5) < 0.015
    assert abs(weight.var() / beta(alpha, alpha).var() - 1) < 0.05


def test_mixup_of_one_row_is_that_row():
    x = torch.randn(1, 4)
    assert torch.equal(augment(x, torch.tensor([9]), 0, 0, [Mixup()])[0], x)


@pytest.mark.parametrize("augmentation", [*IMAGES, Mixup()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_stays(augmentation, dtype):
    assert alone(torch.randn(4, 3, 8, 8, dtype=dtype), ROWS[:4], augmentation).dtype == dtype


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same():
    x, chain = images(ROWS) / 1e5, [*IMAGES, Mixup()]
    cpu, weight = augment(x, ROWS, 7, 3, chain)
    gpu, weight_gpu = augment(x.cuda(), ROWS.cuda(), 7, 3, chain)
    torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-5, atol=1e-6)
    assert torch.equal(weight_gpu.cpu(), weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crop(0), "Crop.pad is 0: it must be at least 1"),
        (lambda: Cutout(-3), "Cutout.size is -3: it must be at least 1"),
        (lambda: Noise(0), "Noise.std is 0: it must be above 0"),
        (lambda: Noise(float("inf")), "Noise.std is inf: it must be above 0"),
        (lambda: Mixup(-0.2), "Mixup.alpha is -0.2: it must be above 0"),
    ],
)
def test_an_option_out_of_range_is_one_line(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == f"`model.augment`: {message}"


@pytest.mark.parametrize(
    ("chain", "in_shape", "num_categories", "message"),
    [
        ([Flip()], (13,), (), "Flip takes no rows of shape (13,): drop it"),
        ([Noise(), Flip()], (12, 40), (), "Flip takes no rows of shape (12, 40): drop it"),
        ([Cutout()], (13,), (), "Cutout takes no rows of shape (13,): drop it"),
        ([Noise()], (2,), (0, 4), "Noise would change the codes of categories: drop it"),
        ([Mixup(), Mixup()], (2,), (), "Mixup is there twice: keep one"),
    ],
)
def test_what_the_data_cannot_take_is_one_line(chain, in_shape, num_categories, message):
    with pytest.raises(ValueError) as error:
        check(chain, in_shape, num_categories)
    assert str(error.value) == f"`model.augment`: {message}"


def test_check_passes_what_fits():
    check([*IMAGES, Mixup()], (3, 8, 6), ())
    check([Crop(3), Cutout(3), Noise(), Mixup()], (12, 9), ())
    check([Noise(), Mixup()], (13,), (0,) * 13)


def test_the_registry_holds_every_augmentation():
    assert sorted(room.__all__) == sorted(a.__name__ for a in Augmentation.__subclasses__())
