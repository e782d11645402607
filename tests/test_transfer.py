"""Weights of another run, and parts of a net that are not trained: to the bit."""

from pathlib import Path

import pytest
import torch

from src.models.transfer import freeze
from src.nets import MLP, ConvNet

FIT = "fit --config configs/lessons/convnet.yaml --trainer.max_epochs 1 --data.source Mnist1d"
FEW = ("--data.partition.train_frac", 0.05)
OLD, NEW = ("--data.source.classes", "[0,1,2]"), ("--data.source.classes", "[7,8]")


def state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def old(go) -> Path:
    """The checkpoint of a run on three classes."""
    return go(FIT, "--run", "old", *FEW, *OLD).folder / "checkpoints" / "last.ckpt"


def test_what_is_taken_is_what_the_other_run_had_and_the_head_is_not(go, old):
    still = ("--model.init_from", old, "--model.optimizer.lr", 0.0, "--trainer.max_epochs", 1)
    said = go(FIT, "--run", "new", *FEW, *NEW, *still, "--model.freeze", "[stages]")
    assert said.code == 0, said.err
    taken = "18 of 20 tensors taken; not taken: head.weight, head.bias"
    assert f"{old}: {taken}\n" in said.out
    assert not said.err
    was, now = state(old.parents[1]), state(said.folder)
    stages = [name for name in was if name.startswith("net.stages.")]
    assert len(stages) == 18
    assert all(torch.equal(was[name], now[name]) for name in stages)
    assert now["net.head.weight"].shape == (2, 64)
    assert not torch.equal(was["normalize.mean"], now["normalize.mean"])
    other = ("--data.source.classes", "[3,4,5]", *still)
    assert "head.weight" in go(FIT, "--run", "other", *FEW, *other).out  # of as many, but others
    said = go(FIT, "--run", "same", *FEW, *OLD, *still)
    assert "20 of 20 tensors taken; not taken: none\n" in said.out
    assert torch.equal(state(said.folder)["net.head.weight"], was["net.head.weight"])


def test_what_is_frozen_stays_to_the_bit_and_the_rest_is_trained(go, old):
    first = ("--model.freeze", '["stages.0", "stages.1.0.0.weight"]')
    said = go(FIT, "--run", "new", *FEW, *NEW, "--model.init_from", old, *first)
    assert said.code == 0, said.err
    assert not said.err
    assert "15,906 parameters, 5,344 of them frozen\n" in said.out
    was, now = state(old.parents[1]), state(said.folder)
    same = {name for name in was if name.startswith("net.st") and torch.equal(was[name], now[name])}
    stem = {name for name in was if name.startswith("net.stages.0.")}
    assert {n.rpartition(".")[2] for n in stem} >= {"running_mean", "running_var"}
    assert same == stem | {"net.stages.1.0.0.weight"}


def test_a_run_that_goes_on_takes_nothing_anew(go, old):
    words = [*FEW, *NEW, "--model.init_from", old, "--model.freeze", "[stages.0]"]
    whole = go(
        FIT, "--run", "whole", *words, "--trainer.max_epochs", 2, "--model.scheduler", "null"
    )
    half = go(FIT, "--run", "half", *words, "--model.scheduler", "null")
    for path in (old, old.with_name("last.ckpt.prev")):
        path.unlink(missing_ok=True)
    said = go(
        "fit", "--ckpt_path", half.folder / "checkpoints/last.ckpt", "--trainer.max_epochs", 2
    )
    assert said.code == 0, said.err
    assert "taken" not in said.out
    one, other = state(whole.folder), state(half.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert go("test", "--ckpt_path", whole.folder / "checkpoints" / "best.ckpt").code == 0
    said = go(FIT, "--run", "gone", *words)
    assert (said.code, said.err) == (2, f"error: checkpoint {old} does not exist\n")


def test_a_net_that_nothing_fits_is_an_error(go, old):
    said = go(FIT, *FEW, *NEW, "--model.init_from", old, "--model.net", "MLP")
    assert said.code == 2
    assert f"`model.init_from` {old} has no weight for this `model.net`; there are: " in said.err
    assert "net.stages.0.0.0.weight" in said.err
    old.write_bytes(b"none")
    said = go(FIT, *FEW, *NEW, "--model.init_from", old)
    assert said.err == f"error: checkpoint {old} is damaged, or no checkpoint\n"


def test_patterns_name_parameters_or_what_is_above_them():
    def trained(*patterns):
        freeze(net := ConvNet((1, 20), 3, widths=(8, 8), block="plain", stem_width=4), patterns)
        return {name for name, parameter in net.named_parameters() if parameter.requires_grad}

    every = trained()
    assert trained("stages") == {"head.weight", "head.bias"}
    assert trained("stages.1") == {name for name in every if not name.startswith("stages.1.")}
    assert trained("*.bias") == {name for name in every if not name.endswith(".bias")}
    assert trained("stages.0", "stages.2.0") == trained("stages.[02]")
    with pytest.raises(ValueError, match="'stage' names nothing; there are: stages"):
        trained("stage")
    with pytest.raises(ValueError, match="nothing to train: leave the head out"):
        trained("*")


def test_dropout_of_a_frozen_layer_stays_and_its_batch_norm_does_not():
    net = MLP((4,), 2, hidden_dims=(8, 8), norm="batch", dropout=0.5)
    frozen = {type(layer).__name__ for layer in freeze(net, ["hidden.0", "hidden.1"])}
    assert frozen == {"Linear", "BatchNorm1d"}
