import numpy as np
import pytest
import torch

from src.data.batches import Batches

X = torch.arange(103)[:, None].to(torch.uint8)
Y = torch.arange(103) * 2
INDEX = np.arange(0, 103, 2)  # 52 rows


def rows(batches):
    return torch.cat([b.row for b in batches]).tolist()


def test_each_row_once_and_of_the_stored_dtype():
    batches = Batches(X, Y, INDEX, 10, seed=0)
    got = list(batches)
    assert [len(b.row) for b in got] == [10, 10, 10, 10, 10, 2]
    assert len(batches) == 6
    assert sorted(rows(batches)) == INDEX.tolist()
    for b in got:
        assert b.x.dtype == torch.uint8
        assert torch.equal(b.x[:, 0].long(), b.row)
        assert torch.equal(b.y, 2 * b.row)


def test_order_is_a_function_of_seed_and_epoch_alone():
    one, two = Batches(X, Y, INDEX, 10, seed=3), Batches(X, Y, INDEX, 7, seed=3)
    torch.manual_seed(1)
    first = rows(one)
    torch.manual_seed(2)
    assert rows(two) == first  # nor of the batch size, nor of torch's own generator
    one.set_epoch(1)
    assert rows(one) != first
    one.set_epoch(0)
    assert rows(one) == first
    assert rows(Batches(X, Y, INDEX, 10, seed=4)) != first


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_evaluation_shards_count_each_row_once(world):
    shards = [Batches(X, Y, INDEX, 8, None, rank, world) for rank in range(world)]
    assert sorted(r for s in shards for r in rows(s)) == INDEX.tolist()
    assert [len(b.row) for b in shards[0]] == [8] * (len(shards[0]) - 1) + [
        shards[0].num_rows - 8 * (len(shards[0]) - 1)
    ]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_training_shards_take_as_many_steps_and_share_no_row(world):
    shards = [Batches(X, Y, INDEX, 8, 0, rank, world) for rank in range(world)]
    seen = [r for s in shards for r in rows(s)]
    assert len(set(seen)) == len(seen) > len(INDEX) - 2 * world
    assert len({len(s) for s in shards}) == 1
    assert len({len(list(s)) for s in shards}) == 1


def test_a_training_batch_is_never_a_single_row():
    batches = Batches(X, Y, INDEX[:21], 10, seed=0)
    assert [len(b.row) for b in batches] == [10, 10]
    first = set(rows(batches))
    batches.set_epoch(1)
    assert set(rows(batches)) != first, "another row is left out each epoch"
    assert [len(b.row) for b in Batches(X, Y, INDEX[:21], 10)] == [10, 10, 1], "not in evaluation"
    assert [len(b.row) for b in Batches(X, Y, INDEX[:1], 10, seed=0)] == [1]


def test_goes_on_inside_an_epoch():
    whole = Batches(X, Y, INDEX, 10, seed=0)
    whole.set_epoch(2)
    expected = [b.row.tolist() for b in whole]
    broken = Batches(X, Y, INDEX, 10, seed=0)
    broken.set_epoch(2)
    iterator = iter(broken)
    head = [next(iterator).row.tolist() for _ in range(2)]
    resumed = Batches(X, Y, INDEX, 10, seed=0)
    resumed.load_state_dict(broken.state_dict())
    resumed.set_epoch(2)
    assert head + [b.row.tolist() for b in resumed] == expected


def test_a_saved_end_of_an_epoch_starts_the_next_whole():
    batches = Batches(X, Y, INDEX, 10, seed=0)
    iterator = iter(batches)
    for _ in range(len(batches)):
        next(iterator)  # Lightning knows the length and doesn't ask once more
    resumed = Batches(X, Y, INDEX, 10, seed=0)
    resumed.load_state_dict(batches.state_dict())
    resumed.set_epoch(1)
    assert len(rows(resumed)) == len(INDEX)


def test_a_memory_map_is_read_batch_by_batch(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(200, dtype=np.float32).reshape(100, 2))
    x = np.load(tmp_path / "x.npy", mmap_mode="c")

    class Watched:
        def __getitem__(self, rows):
            assert len(rows) <= 10
            return x[rows]

    got = torch.cat([b.x for b in Batches(Watched(), None, np.arange(100), 10)])
    assert torch.equal(got, torch.from_numpy(np.asarray(x)))


def test_an_evaluation_that_was_cut_short_starts_anew():
    batches = Batches(X, Y, INDEX, 10)
    first = next(iter(batches)).row.tolist()
    assert next(iter(batches)).row.tolist() == first
