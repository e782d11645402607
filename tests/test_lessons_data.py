"""Lessons about data: what normalization does to the cost, and leaks to the measured accuracy."""

import re

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

from src.data.partition import Stratified
from src.data.rows import Rows
from src.data.sources import Arrays, Digits
from src.lessons import TwoScales
from src.lessons.leaks import LEAKS, recorded
from src.lessons.normalization import RATES, Bowl
from tests.conftest import refused
from tests.test_lessons import fits_here


def table() -> tuple[np.ndarray, np.ndarray]:
    rows = TwoScales().load()
    return rows.x.astype(float), (rows.y - rows.y.mean()) / rows.y.std()


def test_a_bowl_has_the_hessian_of_autograd_and_of_the_uniform_distribution():
    x, y = table()
    bowl = Bowl(x, y)

    def loss(weights):
        return mse_loss(torch.tensor(x) @ weights[:2] + weights[2], torch.tensor(y).double())

    at = torch.tensor([0.01, -0.3, 0.2], dtype=torch.float64)
    assert np.allclose(torch.autograd.functional.hessian(loss, at), bowl.hessian)
    assert loss(at).item() == pytest.approx(bowl.cost(at.numpy()))
    assert loss(torch.tensor(bowl.best)).item() == pytest.approx(bowl.least)
    # 2 E[x1^2] = 2 * 100^2 / 3 and 2 E[x2^2] = 2 / 3
    assert bowl.curvatures == pytest.approx([2 / 3, 2, 2e4 / 3], rel=0.06)
    assert bowl.condition == pytest.approx(100**2, rel=0.06)
    z = (x - x.mean(0)) / x.std(0)
    r = abs(np.corrcoef(z.T)[0, 1])
    assert Bowl(z, y).condition == pytest.approx((1 + r) / (1 - r))


@pytest.mark.parametrize("how", RATES)
def test_no_other_rate_gets_there_sooner(how):
    x, y = table()
    bowl = Bowl(x if how == "none" else (x - x.mean(0)) / x.std(0), y)
    values, vectors = np.linalg.eigh(bowl.hessian)

    def steps(rate):
        k = np.arange(4000)[:, None]
        off = -(bowl.best @ vectors) * (1 - rate * values / values[-1]) ** k
        return (bowl.cost(bowl.best + off @ vectors.T) > 0.2).sum()

    best = min(steps(rate) for rate in np.arange(0.05, 2, 0.1))
    assert best <= steps(RATES[how]) <= 1.01 * best
    assert steps(2.05) > 3800


@pytest.fixture
def here(monkeypatch):
    """Runs what a lesson compares in this process."""
    monkeypatch.setattr("src.lessons.again.fits", fits_here)


def found(said) -> dict[str, float]:
    assert not said.err
    lines = re.findall(r"^lesson/(\S+) (\S+)$", said.out, re.M)
    return {name: float(value) for name, value in lines}


def test_normalization_spares_steps_and_its_numbers_come_from_the_train_rows(go, here):
    line = "fit --config configs/lessons/normalization.yaml --data.source.wide 10"
    said = go(f"{line} --callbacks.lesson.seeds 1")
    got = found(said)
    assert got["none_condition"] == pytest.approx(100, rel=0.06)
    assert got["standard_condition"] < 1.3
    assert 20 <= got["none_steps"] <= 45
    assert got["standard_steps"] <= 2
    for name in ("same", "grows", "part", "few"):
        assert got[f"{name}_train"] == pytest.approx(0.1, abs=0.01)
    assert got["same_own"] == pytest.approx(0.1, abs=0.01)
    assert got["grows_own"] == pytest.approx(0.6, abs=0.03)  # what x1 has grown by
    assert got["part_own"] > 0.7
    assert got["few_own"] > 0.3
    assert got["sensor_own"] == pytest.approx(0.1, abs=0.01)
    assert got["sensor_train"] == pytest.approx(0.6, abs=0.03)
    assert (said.folder / "plots" / "normalization.svg").stat().st_size > 10_000
    path = np.load(said.folder / "runs/none-0/descent.npy")
    assert np.ptp(path[:, 1]) > 0.3
    steps = np.diff(path, axis=0)
    assert (steps[1:10, 0] * steps[:9, 0] < 0).all()  # from one wall of the valley to the other


@pytest.mark.parametrize("leak", LEAKS)
def test_recordings_leak_as_said(leak):
    rows = Digits().load()

    def of(leaks):
        return recorded(rows.x, rows.y, 200, leak, leaks, np.random.default_rng(0))

    fair, leaky = of(False), of(True)

    def seen(arrays):  # rows to measure that are among those to train, too
        return np.mean(
            [
                (row == arrays["x"]).all(tuple(range(1, row.ndim + 1))).any()
                for row in arrays["x_val"]
            ]
        )

    num = 30 if leak == "tails" else 100
    assert [len(fair[k]) for k in ("x", "y", "x_val", "y_val")] == [num] * 4
    assert len(fair["x_test"]) >= 1000
    assert seen(fair) == 0
    assert (seen(leaky) > 0.3) == (leak == "twice")
    if leak in ("tails", "scaled"):
        at_hand = np.concatenate([leaky["x"], leaky["x_val"]])
        axes = (0, *range(2, at_hand.ndim))
        assert np.abs(at_hand.mean(axes)).max() < 1e-5
        assert np.abs(at_hand.std(axes) - 1).max() < 1e-5
        assert np.array_equal(leaky["y_val"], fair["y_val"])  # the same rows, scaled
    if leak == "chosen":
        assert np.array_equal(leaky["x_val"], fair["x_val"])
    if leak == "people":
        means = [{(*y,) for y in a.reshape(-1, 5)} for a in (fair["y"], fair["y_val"])]
        assert all(len({*y}) == 1 for group in means for y in group)
        assert not all(len({*y}) == 1 for y in leaky["y"].reshape(-1, 5))


def saved(tmp_path, arrays) -> Rows:
    np.savez(tmp_path / "rows.npz", **arrays)
    return Arrays(str(tmp_path / "rows.npz")).load()


def test_copies_and_people_are_refused_across_splits_and_else_kept_together(tmp_path):
    rows = Digits().load()
    arrays = recorded(rows.x, rows.y, 200, "twice", True, np.random.default_rng(0))
    text = refused(lambda: Stratified().split(saved(tmp_path, arrays)))
    assert re.match(r"\d+ exact duplicates across splits, such as row \d+ = \d+ of val", text)

    twice = Rows(np.repeat(rows.x, 2, 0), np.repeat(rows.y, 2), rows.signature)
    split = Stratified().split(twice)
    assert all(np.array_equal(part[::2] + 1, part[1::2]) for part in split[:3])  # copies together

    arrays = recorded(rows.x, rows.y, 200, "people", True, np.random.default_rng(0))
    people = saved(tmp_path, arrays)
    people.groups = np.arange(len(people)) % 40
    text = refused(lambda: Stratified().split(people))
    assert text == "the group of row 0 is in a published split too"
    people.published = None
    split = Stratified().split(people)
    owners = [{*people.groups[part]} for part in split[:3]]
    assert sum(map(len, owners)) == 40


def test_leaks_look_better_than_they_are(go, here):
    line = "fit --config configs/lessons/leaks.yaml --trainer.max_epochs 10"
    said = go(f"{line} --callbacks.lesson.seeds 1 --callbacks.lesson.num_rows 200")
    got = found(said)
    assert list(got) == [f"{leak}_{kind}" for kind in ("fair", "leak") for leak in LEAKS]
    assert got["people_leak"] > got["people_fair"] + 8
    assert got["tails_leak"] > got["tails_fair"] + 4
    assert got["twice_leak"] > got["twice_fair"]
    assert got["chosen_leak"] >= got["chosen_fair"]
    assert abs(got["scaled_leak"] - got["scaled_fair"]) < 4
    assert (said.folder / "plots" / "leaks.png").stat().st_size > 10_000
