"""Weights of another run, and parts of a net that are not trained: to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.sources import Digits
from src.models.transfer import freeze
from src.nets import MLP, ConvNet

FIT = "fit --config configs/digits_convnet.yaml --trainer.max_epochs 1 --model.net.block plain"
FEW = ("--data.partition.train_frac", 0.2)


def state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def of(tmp_path):
    """`of("012")`: the words for those digits alone."""
    rows = Digits().load()

    def words(digits):
        there = np.isin(rows.y, [*map(int, digits)])
        np.savez(tmp_path / f"{digits}.npz", x=rows.x[there], y=rows.y[there])
        return ("--data.source", "Arrays", "--data.source.path", tmp_path / f"{digits}.npz", *FEW)

    return words


@pytest.fixture
def old(go, of) -> Path:
    """The checkpoint of a run on three classes."""
    return go(FIT, "--run", "old", *of("012")).folder / "checkpoints" / "last.ckpt"


def test_what_is_taken_is_what_the_other_run_had_and_the_head_is_not(go, of, old):
    still = ("--model.init_from", old, "--model.optimizer.lr", 0.0, "--trainer.max_epochs", 1)
    said = go(FIT, "--run", "new", *of("78"), *still, "--model.freeze", "[stages]")
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
    said = go(FIT, "--run", "other", *of("345"), *still)  # of as many classes, but others
    assert "not taken: head.weight" in said.out
    said = go(FIT, "--run", "same", *of("012"), *still)
    assert "20 of 20 tensors taken; not taken: none\n" in said.out
    assert torch.equal(state(said.folder)["net.head.weight"], was["net.head.weight"])


def test_what_is_frozen_stays_to_the_bit_and_the_rest_is_trained(go, of, old):
    first = ("--model.freeze", '["stages.0", "stages.1.0.0.weight"]')
    said = go(FIT, "--run", "new", *of("78"), "--model.init_from", old, *first)
    assert said.code == 0, said.err
    assert not said.err
    assert "28,322 parameters, 9,568 of them frozen\n" in said.out
    was, now = state(old.parents[1]), state(said.folder)
    same = {name for name in was if name.startswith("net.st") and torch.equal(was[name], now[name])}
    stem = {name for name in was if name.startswith("net.stages.0.")}
    assert {n.rpartition(".")[2] for n in stem} >= {"running_mean", "running_var"}
    assert same == stem | {"net.stages.1.0.0.weight"}


def test_a_run_that_goes_on_takes_nothing_anew(go, of, old):
    words = [*of("78"), "--model.init_from", old, "--model.freeze", "[stages.0]"]
    words += ["--model.scheduler", "null"]
    whole = go(FIT, "--run", "whole", *words, "--trainer.max_epochs", 2)
    half = go(FIT, "--run", "half", *words)
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


def test_a_net_that_nothing_fits_is_an_error(go, of, old):
    line = "fit --config configs/digits_mlp.yaml --trainer.max_epochs 1"
    said = go(line, *of("78"), "--model.init_from", old)
    assert said.code == 2
    assert f"`model.init_from` {old} has no weight for this `model.net`; there are: " in said.err
    assert "net.stages.0.0.0.weight" in said.err
    old.write_bytes(b"none")
    said = go(FIT, *of("78"), "--model.init_from", old)
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
