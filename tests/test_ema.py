import csv
from types import SimpleNamespace

import pytest
import torch

from src.callbacks import EMA

LINE = "fit --config configs/digits_mlp.yaml --config configs/callbacks/ema.yaml"


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.constant = torch.nn.Parameter(torch.linspace(-1, 1, 1000))
        self.statistic = torch.nn.Buffer(torch.linspace(-1, 1, 1000, dtype=torch.float64))
        self.count = torch.nn.Buffer(torch.tensor(0))


def test_weights_are_averaged_counts_copied_and_constants_kept():
    ema, model = EMA(decay=0.9), Counting()
    ema._average_model = torch.optim.swa_utils.AveragedModel(model)
    average = ema._average_model.module
    ema.on_train_start(None, model)
    model.weight.data.fill_(1)
    expected = torch.zeros(3, dtype=torch.float64)
    for step in range(100):
        model.count += 1
        model.weight.data.mul_(1.01)
        ema.on_train_batch_end(SimpleNamespace(global_step=step + 1))
        ema.on_train_batch_end(SimpleNamespace(global_step=step + 1))  # of the same step
        share = max(9 / (9 + step), 0.1)
        expected += share * (model.weight.data.double() - expected)
        torch.testing.assert_close(average.weight.double(), expected, rtol=1e-5, atol=0)
    assert average.count == model.count == ema._average_model.n_averaged == 100
    assert torch.equal(average.constant, model.constant)
    assert torch.equal(average.statistic, model.statistic)


def test_a_decay_that_is_none():
    with pytest.raises(ValueError, match=r"^`decay` of the callback EMA is 1, not in \[0, 1\)$"):
        EMA(decay=1)


def test_the_average_is_validated_kept_and_tested(go):
    said = go(f"{LINE} --trainer.max_epochs 2")
    path = said.folder / "checkpoints" / "best.ckpt"
    best = torch.load(path, weights_only=True)
    kept, trained = (best[key]["net.head.weight"] for key in ("state_dict", "current_model_state"))
    assert 0 < (kept - trained).abs().max() < 0.2
    tested = go("test --ckpt_path", path)
    assert (tested.err, tested.metrics) == ("", said.metrics)
    with (said.folder / "metrics.csv").open(newline="") as file:
        lines = [*csv.DictReader(file)]
    val = go("validate --ckpt_path", path).metrics["val/loss"]
    assert val == pytest.approx(float(lines[1]["val/loss"]), rel=1e-5)
    assert val < 0.6


def test_a_resumed_run_goes_on_with_weights_and_average(go):
    whole = go(f"{LINE} --trainer.max_epochs 4 --model.net.dropout 0")
    half = go(f"{LINE} --trainer.max_epochs 2 --model.net.dropout 0")
    rest = go("fit --trainer.max_epochs 4 --ckpt_path", half.folder / "checkpoints" / "last.ckpt")
    assert not rest.err
    assert rest.metrics == whole.metrics
