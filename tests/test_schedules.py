"""WarmupCosine against the formula, and what a resumed run takes from where."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from src.models.schedules import WarmupCosine, resume


def expected(t: int, total: int, warmup_frac: float, final_frac: float) -> float:
    """Share of the peak that step t of `total` uses, from 0."""
    warmup = int(warmup_frac * total)
    if t < warmup:
        return (t + 1) / (warmup + 1)
    turn = math.pi * min(1, (t - warmup) / (total - warmup))
    return final_frac + (1 - final_frac) * (0.5 + 0.5 * math.cos(turn))


def make(total: int, peaks=(0.1,), warmup_frac=0.1, final_frac=0.05):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks]
    optimizer = SGD(groups, lr=1.0)
    schedule = WarmupCosine(optimizer, warmup_frac, final_frac)
    schedule.plan(total)
    return optimizer, schedule


def rates(optimizer: SGD, schedule: WarmupCosine, steps: int) -> list[list[float]]:
    """The rates that each of the next steps uses."""
    used = []
    for _ in range(steps):
        used.append([group["lr"] for group in optimizer.param_groups])
        assert schedule.get_last_lr() == used[-1]
        optimizer.step()
        schedule.step()
    return used


@pytest.mark.parametrize("total", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize(("warmup_frac", "final_frac"), [(0, 0), (0.1, 0.05), (0.99, 1)])
def test_every_step_uses_the_rate_of_the_formula(total, warmup_frac, final_frac):
    optimizer, schedule = make(total, (0.1, 3.0), warmup_frac, final_frac)
    used = rates(optimizer, schedule, total + 3)
    factors = [expected(t, total, warmup_frac, final_frac) for t in range(total + 3)]
    assert [low for low, _ in used] == pytest.approx([0.1 * f for f in factors], abs=1e-15)
    assert [high for _, high in used] == pytest.approx([3.0 * f for f in factors], abs=1e-15)


def test_landmarks():
    optimizer, schedule = make(100, (1.0,), 0.1, 0.2)
    used = [rate for (rate,) in rates(optimizer, schedule, 103)]
    assert used[0] == pytest.approx(1 / 11)
    assert used[9] == pytest.approx(10 / 11)
    assert used[10] == 1.0 == max(used)
    assert used[55] == pytest.approx(0.6)  # half-way down
    assert used[100:] == pytest.approx([0.2] * 3)
    assert used[10:101] == sorted(used[10:101], reverse=True)


def test_a_resumed_run_goes_on_as_if_unbroken():
    unbroken = rates(*make(50, (0.1, 0.3)), 50)
    optimizer, schedule = make(50, (0.1, 0.3))
    resume(schedule, 20, [])
    assert rates(optimizer, schedule, 30) == unbroken[20:]


def test_a_longer_run_or_another_peak_wins_over_the_checkpoint():
    _, first = make(50, (0.1,))
    optimizer, second = make(200, (0.4,), 0.2, 0.0)
    resume(second, 20, [first.state_dict()])
    assert [rate for (rate,) in rates(optimizer, second, 180)] == pytest.approx(
        [0.4 * expected(t, 200, 0.2, 0.0) for t in range(20, 200)]
    )


def test_a_rate_that_is_a_tensor_stays_that_tensor():
    rate = torch.tensor(0.1)
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = WarmupCosine(optimizer, 0.0)
    schedule.plan(10)
    for t in range(10):
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == pytest.approx(0.1 * expected(t, 10, 0, 0))
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_frac": 1.0}, "warmup_frac` is 1, not in [0, 1)"),
        ({"warmup_frac": -0.1}, "warmup_frac` is -0.1, not in [0, 1)"),
        ({"final_frac": 1.01}, "final_frac` is 1.01, not in [0, 1]"),
        ({"final_frac": math.nan}, "final_frac` is nan, not in [0, 1]"),
    ],
)
def test_an_option_out_of_range_is_one_line(options, message):
    with pytest.raises(ValueError) as error:
        make(10, **options)
    assert str(error.value) == f"`model.scheduler.{message}"


def test_a_run_without_an_end_is_refused():
    with pytest.raises(ValueError) as error:
        make(math.inf)
    assert str(error.value) == "WarmupCosine needs an end: set `trainer.max_epochs` or `max_steps`"
