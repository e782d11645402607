import csv

import pytest
import torch

from src.callbacks import EMA

LINE = "fit --config configs/digits_mlp.yaml --config configs/callbacks/ema.yaml"


def test_weights_are_averaged_counts_copied_and_constants_kept():
    average = EMA(decay=0.9)._kwargs["avg_fn"]
    for step, share in ((1, 0.9), (9, 0.5), (81, 0.1), (10_000, 0.1)):
        got = average(torch.zeros(3), torch.ones(3), torch.tensor(step))
        torch.testing.assert_close(got, torch.full((3,), share))
        assert average(torch.tensor(5), torch.tensor(6), torch.tensor(step)) == 6
        for constant in (torch.rand(1000), torch.rand(1000).double(), torch.arange(10_000)):
            assert torch.equal(average(constant, constant, torch.tensor(step)), constant)


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
