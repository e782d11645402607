import hashlib
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from src.data.content import fingerprints, hash_names, hash_rows, mix, uniform
from src.data.partition import KFold, Partition, Split, Stratified, load_kept, save_kept
from src.data.rows import FREE, SPLITS, Rows, Signature, Source


def make(sizes: list[int], seed: int = 0, **fields) -> Rows:
    """Rows of random content, `sizes[k]` of class k, shuffled; no sizes: 60 of a regression."""
    rng = np.random.default_rng(seed)
    n = sum(sizes) or 60
    x = rng.standard_normal((n, 3)).astype(np.float32)
    if not sizes:
        signature = Signature((3,), "float32", target_names=("y",))
        return Rows(x, rng.standard_normal(n).astype(np.float32), signature, **fields)
    y = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    names = tuple("abcdefghijklmnopqrstuvwxyz"[: len(sizes)])
    return Rows(x, y, Signature((3,), "float32", names), **fields)


def take(rows: Rows, index: np.ndarray) -> Rows:
    arrays = ("groups", "times", "published", "ids")
    taken = {a: v[index] for a in arrays if (v := getattr(rows, a)) is not None}
    return Rows(rows.x[index], rows.y[index], rows.signature, **taken)


def where(split: Split, n: int) -> np.ndarray:
    """Split of each row; asserts that splits are disjoint, sorted and cover every row."""
    found = np.full(n, -1)
    for i, name in enumerate(SPLITS):
        index = getattr(split, name)
        assert index.dtype == np.int64
        assert (np.diff(index) > 0).all()
        assert (found[index] == -1).all()
        found[index] = i
    assert (found >= 0).all()
    return found


def message(partition: Partition, rows: Rows, kept=None) -> str:
    with pytest.raises(ValueError) as caught:
        partition.split(rows, kept)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# hashes


def test_mix_is_splitmix64() -> None:
    gamma = 0x9E3779B97F4A7C15  # the first outputs of the published generator for the seed 0
    state = np.array([gamma, 2 * gamma % 2**64], np.uint64)
    assert mix(state).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int64"])
@pytest.mark.parametrize(
    "shape", [(700,), (700, 1), (700, 3), (700, 13), (700, 3, 32, 32), (3, 99999)]
)
def test_a_hash_depends_on_its_row_alone(dtype: str, shape: tuple[int, ...], tmp_path) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    hashes = hash_rows(x)
    assert hashes.shape == (len(x),)
    assert np.array_equal(hashes[::-1], hash_rows(x[::-1]))
    assert np.array_equal(hashes[1:2], hash_rows(x[1:2]))
    assert np.array_equal(hashes, hash_rows(np.asfortranarray(x)))
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(hashes, hash_rows(np.load(tmp_path / "x.npy", mmap_mode="r")))


def test_any_change_of_a_row_changes_its_hash() -> None:
    row = np.zeros((1, 40), np.uint8)
    changed = np.repeat(row, 40 * 8 + 1, 0)
    for bit in range(40 * 8):
        changed[bit, bit // 8] ^= 1 << (bit % 8)
    assert len(np.unique(hash_rows(changed))) == 321
    swapped = np.array([[1, 2, 3], [2, 1, 3], [3, 2, 1], [1, 3, 2], [6, 0, 0]], np.uint64)
    assert len(np.unique(hash_rows(swapped))) == 5
    many = np.stack(np.meshgrid(*[np.arange(64, dtype=np.float32)] * 3), -1).reshape(-1, 3)
    assert len(np.unique(hash_rows(many))) == 64**3
    assert abs((hash_rows(many) >> np.uint64(63)).mean() - 0.5) < 0.005


def splitmix(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


@pytest.mark.parametrize("num_bytes", [1, 8, 13, 784])
def test_hashes_match_a_reference_in_plain_python(num_bytes: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (9, num_bytes), dtype=np.uint8)
    for row, found in zip(x, hash_rows(x).tolist(), strict=True):
        words = [row[i : i + 8].tobytes() for i in range(0, num_bytes, 8)]
        numbers = [int.from_bytes(word, "little") for word in words]
        total = sum(splitmix((w + splitmix(i)) % 2**64) for i, w in enumerate(numbers, 1))
        assert found == total % 2**64
    digest = hashlib.blake2b(b"a", digest_size=8).digest()
    assert hash_names(np.array(["b", "a"])).tolist()[1] == int.from_bytes(digest, "little")


def test_groups_are_hashed_by_their_text() -> None:
    texts = hash_names(np.array(["7", "10", "7"]))
    for dtype in (np.int8, np.int64, np.uint16):
        assert np.array_equal(hash_names(np.array([7, 10, 7], dtype)), texts)
    assert np.array_equal(hash_names(np.array(["7", "10", "7"], "<U40")), texts)


def test_the_fingerprint_is_of_the_set_of_rows() -> None:
    rows = make([40, 30])
    order = np.random.default_rng(0).permutation(70)

    def of(x, y):
        return fingerprints(hash_rows(x), y, 2)[0]

    mark = of(rows.x, rows.y)
    assert re.fullmatch("[0-9a-f]{16}", mark)
    assert (
        of(rows.x[order], rows.y[order]) == mark == Stratified().split(rows).report["fingerprint"]
    )
    x, y = rows.x.copy(), rows.y.copy()
    x[3, 1] = np.nextafter(x[3, 1], 9)
    y[5] = 1 - y[5]
    twice = [*range(70), 0, 0]
    exchanged = rows.y.copy()
    i, j = np.flatnonzero(rows.y == 0)[0], np.flatnonzero(rows.y == 1)[0]
    exchanged[[i, j]] = exchanged[[j, i]]
    others = [
        of(x, rows.y),
        of(rows.x, y),
        of(rows.x, exchanged),
        of(rows.x[1:], rows.y[1:]),
        of(rows.x[twice], rows.y[twice]),
    ]
    assert len({mark, *others}) == 6


@pytest.mark.parametrize("n", [0, 1, 100, 40_000])
def test_blocks_and_tables_change_no_hash(n: int) -> None:
    rng = np.random.default_rng(n)
    ids = rng.integers(0, 2**64, n, dtype=np.uint64)
    for y, num_classes in (
        (rng.integers(0, 10, n), 10),
        (rng.integers(0, 10, n), 0),
        (rng.integers(0, 10, n).astype(np.int32), 12),
        (rng.integers(-3, 3, n), 0),
        (rng.standard_normal((n, 2)).astype(np.float32), 0),
    ):
        total = int(mix(ids + mix(hash_rows(y))).sum(dtype=np.uint64))
        mask = np.arange(len(ids)) % 3 == 0
        whole, part = fingerprints(ids, y, num_classes, mask)
        assert whole == f"{total:016x}"
        assert [part] == fingerprints(ids[mask], y[mask], num_classes)
    key = np.uint64(splitmix(8))
    assert np.array_equal(uniform(ids, 7), (mix(ids + key) >> np.uint64(11)) * 2.0**-53)


# shares


def test_shares_of_each_class_are_within_a_row() -> None:
    sizes = [1000, 100, 10, 3, 4, 5, 6, 7]
    split = Stratified().split(make(sizes))
    counts = split.report["class_counts"]
    assert {name: [counts[s][name] for s in SPLITS] for name in "abdefg"} == {
        "a": [700, 150, 150],
        "b": [70, 15, 15],
        "d": [1, 1, 1],
        "e": [2, 1, 1],
        "f": [3, 1, 1],
        "g": [4, 1, 1],
    }
    assert [counts[s]["c"] for s in SPLITS] in ([7, 1, 2], [7, 2, 1])
    assert split.report["counts"] == {s: sum(counts[s].values()) for s in SPLITS}


@pytest.mark.parametrize("seed", range(60))
def test_random_walks_keep_every_promise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fracs = rng.dirichlet([4, 1, 1]) if seed % 3 else [(0.8, 0.2, 0.0), (1.0, 0.0, 0.0)][seed % 2]
    num_folds = int(rng.integers(3, 6))
    kind = seed % 4
    if kind == 0:
        partition = KFold(num_folds=num_folds, fold=int(rng.integers(num_folds)), seed=seed)
    else:
        partition = Stratified(fracs=tuple(fracs), seed=seed)
    classes = int(rng.integers(1, 8))
    rows = make(rng.integers(12, 200, classes).tolist(), seed)
    n = len(rows)
    if kind == 2:
        rows.groups = rng.integers(0, n // 3, n)
    first = rng.permutation(n)[: n // 2]
    for code in range(classes):  # enough of each class at the start
        first = np.union1d(first, np.flatnonzero(rows.y == code)[:6])
    kept, known = None, np.full(n, -1)
    for size in (len(first), (len(first) + n) // 2, n):
        some = rng.permutation(np.concatenate([first, np.setdiff1d(np.arange(n), first)])[:size])
        split = partition.split(take(rows, some), kept)
        kept = json.loads(json.dumps(split.kept))
        found = where(split, len(some))
        moved = (known[some] >= 0) & (known[some] != found)
        assert not moved.any()
        known[some] = found
        if kind != 2:
            for name, bounds in split.report["boundaries"].items():
                assert bounds == sorted(bounds), name
            parts = [i for i, f in enumerate(fracs) if f > 0] if kind else [0, 1, 2]
            for code in range(classes):
                assert set(parts) == set(found[rows.y[some] == code].tolist())
        else:
            for group in np.unique(rows.groups[some]):
                assert len(set(found[rows.groups[some] == group].tolist())) == 1


def test_shares_stay_near_when_a_small_class_grows() -> None:
    """A boundary anywhere between two rows divides these alike; at the upper row, shares of the
    grown class would have mean 0.723 and deviation 0.093.
    """
    shares = []
    for seed in range(200):
        rows = make([2004], seed)
        kept = Stratified(seed=seed).split(take(rows, np.arange(20))).kept
        shares.append(len(Stratified(seed=seed).split(rows, kept).train) / 2004)
    assert abs(np.mean(shares) - 0.7) < 0.01
    assert np.std(shares) < 0.08


def test_new_classes_and_shifted_codes_move_nothing() -> None:
    rows = make([50, 40])
    before = Stratified().split(rows)
    more = make([50, 40, 30], seed=1)
    x = np.concatenate([rows.x, more.x])
    y = np.concatenate([rows.y * 2, more.y])  # class b of before has code 2 now
    grown = Rows(x, y, Signature((3,), "float32", ("a", "aa", "b")))
    after = Stratified().split(grown, before.kept)
    assert np.array_equal(where(after, len(y))[:90], where(before, 90))
    (key,) = before.kept
    assert after.kept[key].keys() == {"class 'a'", "class 'aa'", "class 'b'"}
    assert {k: after.kept[key][k] for k in before.kept[key]} == before.kept[key]


def test_other_options_have_boundaries_of_their_own_and_coming_back_works() -> None:
    rows, grown = make([50, 40]), make([50, 40, 0])
    grown = Rows(np.concatenate([rows.x, rows.x + 9]), np.tile(rows.y, 2), rows.signature)
    first = Stratified().split(rows)
    kept = first.kept
    for other in (Stratified(seed=1), Stratified(fracs=(0.5, 0.25, 0.25)), KFold(), KFold(4)):
        assert not np.array_equal(where(other.split(rows, kept), 90), where(first, 90))
        kept = other.split(rows, kept).kept
    assert len(kept) == 5
    again = Stratified(duplicates="drop").split(grown, kept)
    assert np.array_equal(where(again, 180)[:90], where(first, 90))
    assert again.kept == kept


def test_content_that_is_made_otherwise_does_not_use_old_boundaries() -> None:
    rows = make([3, 3])
    kept = Stratified().split(rows).kept
    rows.x = np.concatenate([rows.x, rows.x], axis=1)
    assert Stratified().split(rows, kept).report["class_counts"]["test"] == {"a": 1, "b": 1}


def test_seeds_divide_in_another_way() -> None:
    rows = make([500])
    tests = [set(Stratified(seed=seed).split(rows).test.tolist()) for seed in (-1, 0, 1, 2**64 - 2)]
    for a, b in pairwise(tests):
        assert 0 < len(a & b) < 30  # 75 rows of 500, so 11 by chance


@pytest.mark.parametrize("num_classes", [1, 7, 1023, 1024, 1030])
@pytest.mark.parametrize("kind", ["random", "counted", "often equal"])
def test_each_class_is_cut_between_its_own_sorted_hashes(num_classes: int, kind: str) -> None:
    """One sort of all classes at once gives what a sort of each does."""
    rng = np.random.default_rng(num_classes)
    n = 40_000
    ids = {
        "random": rng.integers(0, 2**64, n, dtype=np.uint64),
        "counted": np.arange(n, dtype=np.uint64),
        "often equal": rng.integers(0, n // 2, n).astype(np.uint64),
    }[kind]
    y = np.sort(rng.integers(0, num_classes, n) ** 2 // num_classes)  # some have many rows, some 0
    y[y == num_classes // 2] = 0
    y = np.where(np.bincount(y)[y] < 9, 0, y)  # each that is there has enough
    signature = Signature((1,), "float32", tuple(map(str, range(num_classes))))
    split = Stratified(duplicates="allow").split(
        Rows(np.zeros((n, 1), np.float32), y, signature, ids=ids)
    )
    hashes, found = uniform(ids, 0), where(split, n)
    there = np.unique(y)
    assert list(split.report["boundaries"]) == [f"class '{code}'" for code in there]
    for code, bounds in zip(there, split.report["boundaries"].values(), strict=True):
        own = np.sort(hashes[y == code])
        below = [own[own < bound] for bound in bounds]
        for num, bound, share in zip(map(len, below), bounds, (0.7, 0.85), strict=True):
            assert own[num - 1] < bound <= own[num]
            runs = np.flatnonzero(own[1:] != own[:-1]) + 1
            assert abs(num - share * len(own)) == abs(runs - share * len(own)).min()
        parts = np.searchsorted(bounds, hashes[y == code], side="right")
        assert np.array_equal(found[y == code], parts)


def test_no_global_state_matters() -> None:
    rows = make([200, 100])
    expected = where(Stratified().split(rows), 300)
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(where(Stratified().split(rows), 300), expected)
    code = "import sys; import src.data.partition; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_regression_is_one_stratum() -> None:
    split = Stratified().split(make([]))
    assert split.report["counts"] == {"train": 42, "val": 9, "test": 9}
    assert list(split.report["boundaries"]) == ["the data"]
    assert not any(split.report["class_counts"].values())


def test_the_report_is_json() -> None:
    for rows in (make([30, 20]), make([], times=np.arange("2020-01", "2025-01", dtype="M8[M]"))):
        report = Stratified().split(rows).report
        assert json.loads(json.dumps(report)) == report
        split = Stratified().split(rows, {report["key"]: report["boundaries"]})
        assert split.report == report


# groups


def test_groups_have_shares_by_rows() -> None:
    rng = np.random.default_rng(0)
    rows = make([3000, 2000])
    rows.groups = np.array([f"patient {i}" for i in rng.integers(0, 400, 5000)], object)
    split = Stratified().split(rows)
    found = where(split, 5000)
    for group in np.unique(rows.groups):
        assert len(np.unique(found[rows.groups == group])) == 1
    assert np.abs(np.bincount(found) / 5000 - [0.7, 0.15, 0.15]).max() < 0.005
    rows.groups = rows.groups.astype("<U30")
    assert np.array_equal(where(Stratified().split(rows), 5000), found)
    folds = [KFold(fold=fold).split(rows, split.kept) for fold in range(5)]
    assert np.array_equal(np.sort(np.concatenate([f.test for f in folds])), np.arange(5000))
    assert all(np.array_equal(folds[i].val, folds[(i + 1) % 5].test) for i in range(5))


def test_groups_that_cannot_be() -> None:
    rows = make([10], groups=np.repeat([1, 2], 5))
    assert message(Stratified(), rows) == (
        "the data has 2 of the 3 distinct groups it needs: add groups, leave it out, or change "
        "`data.partition`"
    )
    rows.groups = np.array(["a", "b", None, *"cdefghi"], object)
    assert message(Stratified(), rows) == ("row 2 has no group: fill it in")
    rows.groups = np.array([0, np.nan, *range(8)])
    assert message(Stratified(), rows).startswith("row 1 has no group")
    rows.groups = np.repeat(np.arange(5), 2)
    rows.published = np.array([2, *[FREE] * 9], np.int8)
    assert re.fullmatch(
        r"the group of row \d is in a published split too", message(Stratified(), rows)
    )
    rows.published[1] = 2
    assert Stratified().split(rows).test.tolist() == [0, 1]


# times


TIMES = {
    "int": np.arange(100) // 4,
    "float": np.arange(100) // 4 / 7,
    "text": np.array([f"2024-{i // 4:03d}" for i in range(100)]),
    "object": np.array([f"2024-{i // 4:03d}" for i in range(100)], object),
    "date": np.datetime64("2024-01-01") + np.arange(100) // 4,
    "ns": (np.datetime64("2024-01-01") + np.arange(100) // 4).astype("M8[ns]") + 1,
    "int of ns": (np.arange(100) // 4 + 19_000) * 86_400 * 10**9 + 1,
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_are_cut_between_past_and_future(kind: str) -> None:
    times = TIMES[kind]
    order = np.random.default_rng(0).permutation(100)
    rows = take(make([60, 40], times=times), np.arange(100))
    rows.times = times[order]
    split = Stratified().split(rows)
    found = where(split, 100)
    assert found[np.argsort(order)].tolist() == sorted(found.tolist())  # ascends with time
    assert np.bincount(found).tolist() == [68, 16, 16]  # 4 rows of a time stay together
    kept = json.loads(json.dumps(split.kept))
    later = take(rows, np.r_[0:100, 50:100])
    later.times = np.concatenate([rows.times, np.full(50, np.sort(times)[-1])])
    grown = Stratified(duplicates="allow").split(later, kept)
    assert np.array_equal(where(grown, 150)[:100], found)
    assert set(where(grown, 150)[100:].tolist()) == {2}
    whole = Stratified(fracs=(1, 0, 0)).split(rows)
    assert len(whole.train) == 100


def test_a_kept_time_need_not_be_of_todays_type() -> None:
    for times, bounds, expected in [
        (np.arange(6), [2.5, 3.5], [3, 1, 2]),  # missing times made floats of them once
        (np.arange(6.0), [2, 5], [2, 3, 1]),
        (np.array([*"abcdef"]), ["bb", "d"], [2, 1, 3]),
        (
            np.arange("1970-01-01", "1970-01-07", dtype="M8[D]"),
            [1.5 * 86_400, 4 * 86_400],
            [2, 2, 2],
        ),
    ]:
        rows = make([6], times=times)
        (key,) = Stratified().split(rows).kept
        split = Stratified().split(rows, {key: {"the data": bounds}})
        assert np.bincount(where(split, 6)).tolist() == expected


def test_times_that_cannot_be() -> None:
    rows = make([10], times=np.repeat([1, 2], 5))
    assert message(Stratified(), rows) == (
        "the data has 2 of the 3 distinct times it needs: add times, leave it out, or change "
        "`data.partition`"
    )
    assert message(KFold(), rows) == (
        "`data.partition` divides by row or group, not time: leave it out, or take another "
        "partition"
    )
    rows.times = np.array(["2024-01-01"] * 4 + ["NaT"] * 6, "M8[D]")
    assert message(Stratified(), rows) == ("row 4 has no time: fill it in")
    rows.groups = np.arange(10)
    assert message(Stratified(), rows) == (
        "`data.partition` divides by row or group or time, not group and time: leave one out, or "
        "take another partition"
    )


# folds


def test_folds_cover_all_rows_and_are_stratified() -> None:
    rows, kept, tests = make([100, 53, 5]), None, []
    for fold in range(5):
        split = KFold(fold=fold).split(rows, kept)
        kept = split.kept
        where(split, 158)
        tests.append(split.test)
        counts = split.report["class_counts"]
        assert counts["test"]["a"] == counts["val"]["a"] == 20
        assert counts["test"]["b"] in (10, 11)
        assert counts["test"]["c"] == 1
        assert np.array_equal(split.val, KFold(fold=(fold + 1) % 5).split(rows, kept).test)
    assert np.array_equal(np.sort(np.concatenate(tests)), np.arange(158))
    assert len(kept) == 1


def test_folds_that_cannot_be() -> None:
    assert message(KFold(), make([50, 4])) == (
        "class 'b' has 4 of the 5 distinct rows it needs: add rows, leave it out, or change "
        "`data.partition`"
    )
    rule = "count from 0; give 3 folds or more, or 2 if val or test, not both, is published"
    for num_folds, fold in [(5, 5), (5, -1), (1, 0), (0, 0), (2, 0)]:
        assert message(KFold(num_folds, fold), make([50])) == (
            f"`data.partition` is fold {fold} of {num_folds}: {rule}"
        )


# published splits


def published(n: int, **splits: int) -> np.ndarray:
    where = np.full(n, FREE, np.int8)
    start = 0
    for name, size in splits.items():
        where[start : start + size] = SPLITS.index(name)
        start += size
    return where


def test_a_published_test_is_kept_and_the_rest_divided() -> None:
    rows = make([600, 300], published=published(900, test=50))
    split = Stratified().split(rows)
    assert split.test.tolist() == list(range(50))
    free = np.bincount(rows.y[50:])
    val = [split.report["class_counts"]["val"][c] for c in "ab"]
    assert np.abs(val - free * 0.15 / 0.85).max() <= 0.5
    assert len(where(split, 900)) == 900
    folds = [KFold(num_folds=4, fold=fold).split(rows) for fold in range(4)]
    assert all(np.array_equal(fold.test, split.test) for fold in folds)
    assert np.array_equal(np.sort(np.concatenate([f.val for f in folds])), np.arange(50, 900))
    assert len(KFold(num_folds=2).split(rows).train) in range(420, 431)


def test_other_published_splits() -> None:
    both = make([300, 100], published=published(400, val=30, test=40))
    split = Stratified().split(both)
    assert (split.val.tolist(), split.test.tolist()) == ([*range(30)], [*range(30, 70)])
    assert split.train.tolist() == list(range(70, 400))
    assert message(KFold(), both).startswith("`data.partition` is fold 0 of 5: count from 0; give")
    whole = make([300], published=published(300, train=200, val=50, test=50))
    split = Stratified().split(whole)
    assert [len(getattr(split, s)) for s in SPLITS] == [200, 50, 50]
    assert split.kept == {}
    no_val = make([300], published=published(300, train=200, test=50))
    split = Stratified().split(no_val)
    assert np.isin(np.arange(200), split.train).all()
    assert [len(getattr(split, s)) for s in SPLITS] == [241, 9, 50]
    only_test = make([30], published=published(30, test=30))
    assert message(Stratified(), only_test) == (
        "train has none of the 30 rows: change `data.partition`"
    )


# duplicates


def with_duplicates() -> Rows:
    rows = make([30, 30], published=published(60, val=10, test=10))
    rows.x[[20, 21, 0]] = rows.x[[10, 10, 11]]  # two of train and one of val are in test
    rows.x[22] = rows.x[5]  # one of train is in val
    rows.x[24] = rows.x[23]  # two of train are equal, and may be
    return rows


def test_duplicates_across_splits_are_an_error() -> None:
    rows = with_duplicates()
    assert message(Stratified(), rows) == (
        "4 exact duplicates across splits, such as row 0 = 11 of test, row 20 = 10 of "
        "test, row 21 = 10 of test: set `data.partition.duplicates` to drop or allow"
    )
    rows.names = np.array([f"{i}.png" for i in range(60)])
    assert "such as row 0.png = 11.png of test, row 20.png = 10" in message(Stratified(), rows)


def test_duplicates_are_dropped_from_train_first() -> None:
    rows = with_duplicates()
    split = Stratified(duplicates="drop").split(rows)
    assert split.report["dropped"] == 4
    assert split.test.tolist() == list(range(10, 20))
    assert split.val.tolist() == list(range(1, 10))
    assert split.train.tolist() == list(range(23, 60))
    allowed = Stratified(duplicates="allow").split(rows)
    assert allowed.report["counts"] == {"train": 40, "val": 10, "test": 10}


@pytest.mark.parametrize("partition", [Stratified, KFold])
def test_fewer_train_rows_are_among_more_and_as_many_of_each_class(partition) -> None:
    rows = make([400, 100, 30])
    full, larger = partition().split(rows), None
    counts = np.bincount(rows.y[full.train])
    for frac in (1.0, 0.5, 0.1, 0.001):
        split = partition(train_frac=frac).split(rows)
        assert np.bincount(rows.y[split.train]).tolist() == np.ceil(frac * counts).tolist()
        assert {*split.train} <= {*(full.train if larger is None else larger)}
        assert split.val.tolist() == full.val.tolist()
        assert split.test.tolist() == full.test.tolist()
        assert split.report["key"] == full.report["key"]
        assert split.report["dropped"] == len(full.train) - len(split.train)
        larger = split.train
    order = np.random.default_rng(1).permutation(len(rows))
    again = partition(train_frac=0.1).split(take(rows, order))
    assert {*order[again.train]} == {*partition(train_frac=0.1).split(rows).train}
    other = partition(train_frac=0.1, seed=1).split(rows)
    assert {*other.train} != {*order[again.train]}
    targets = make([])
    assert len(partition(train_frac=0.5).split(targets).train) == np.ceil(
        0.5 * len(partition().split(targets).train)
    )
    for frac in (0.0, 1.5):
        with pytest.raises(ValueError, match="train_frac` is"):
            partition(train_frac=frac)


def test_rows_left_out_of_train_are_in_no_statistics() -> None:
    from src.data.module import DataModule
    from src.data.sources import Mnist1d

    data = DataModule(Mnist1d(classes=(3, 8)), Stratified(train_frac=0.01))
    data.setup("fit")
    assert data.signature.class_names == ("3", "8")
    values = data.rows.x[data.split.train].astype(float)
    assert len(values) == 8  # of 3 and of 8, four each
    assert data.statistics.count == (8 * 40,)
    assert data.statistics.mean == pytest.approx((values.mean(),), rel=1e-12)


def test_equal_rows_of_a_class_share_a_split() -> None:
    rows = make([100, 100])
    rows.x = rows.x[np.random.default_rng(0).integers(0, 40, 200)]
    rows.y = (rows.x[:, 0] > 0).astype(np.int64)
    found = where(Stratified().split(rows), 200)
    assert np.abs(np.bincount(found) / 200 - [0.7, 0.15, 0.15]).max() < 0.06
    rows.y[:] = np.arange(200) % 2
    split = Stratified(duplicates="drop").split(rows)
    contents = [c for name in SPLITS for c in {*hash_rows(rows.x)[getattr(split, name)].tolist()}]
    assert len(set(contents)) == len(contents)
    assert split.report["dropped"] == 200 - sum(split.report["counts"].values()) > 0


def test_a_class_with_too_few_rows() -> None:
    assert message(Stratified(), make([50, 1])) == (
        "class 'b' has 1 of the 3 distinct rows it needs: add rows, leave it out, or change "
        "`data.partition`"
    )
    same = make([50, 4])
    same.x[same.y == 1] = 7
    assert message(Stratified(), same).startswith("class 'b' has 1 of the 3 distinct rows")
    two = make([50, 2])
    assert message(Stratified(), two).startswith("class 'b' has 2 of the 3 distinct rows")
    assert len(Stratified(fracs=(0.8, 0, 0.2)).split(two).val) == 0
    assert len(Stratified(fracs=(1, 0, 0)).split(make([50, 1])).train) == 51
    assert message(Stratified(), take(make([]), np.arange(2))) == (
        "the data has 2 of the 3 distinct rows it needs: add rows, leave it out, or change "
        "`data.partition`"
    )
    assert message(Stratified(), take(make([5]), np.arange(0))).startswith(
        "train has none of the 0"
    )


@pytest.mark.parametrize(
    ("fracs", "what"),
    [
        ((0.8, 0.2, 0.2), "[0.8, 0.2, 0.2] sum to 1.2"),
        ((0.7, 0.15, 0.1499), "[0.7, 0.15, 0.1499] sum to 0.9999"),
        ((1.2, -0.1, -0.1), "[1.2, -0.1, -0.1] sum to 1"),
        ((0, 0.5, 0.5), "[0.0, 0.5, 0.5] sum to 1"),
        ((float("nan"), 0.5, 0.5), "[nan, 0.5, 0.5] sum to nan"),
        ((0.5, 0.5, float("nan")), "[0.5, 0.5, nan] sum to nan"),
    ],
)
def test_fracs_that_cannot_be(fracs: tuple[float, float, float], what: str) -> None:
    with pytest.raises(ValueError) as caught:
        Stratified(fracs=fracs)
    assert str(caught.value) == (
        f"`data.partition.fracs` {what}: give positive ones that sum to 1; val and test may be 0"
    )
    Stratified(fracs=(0.7, 0.15, 0.1500001))


# the file


def test_boundaries_are_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    assert load_kept(path) == {}
    kept = Stratified().split(make([30, 20])).kept
    save_kept(path, kept)
    assert load_kept(path) == kept
    assert list(path.parent.iterdir()) == [path]
    assert Source().keep_path() is None

    class Own(Source):
        path = tmp_path / "a.csv"

    assert Own().keep_path() == tmp_path / "a.csv.partition.json"


DAMAGED = ["", "{", "[1]", '"x"', '{"a": 3}', '{"a": [1]}', "\x00\xff", '{"a": {"b": [1, "2"]}}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError) as caught:
        load_kept(path)
    assert str(caught.value) == f"{path} keeps no boundaries: restore it, or delete it"


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "kept.json"
    with pytest.warns(UserWarning, match="kept.json can't be written .*: rows may move when the"):
        save_kept(path, {"a": {"b": []}})
