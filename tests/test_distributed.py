"""Two gloo processes on the CPU against one."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from src.data.module import DataModule
from src.data.partition import Stratified
from src.data.sources import Digits
from tests.conftest import ROOT, refused

DDP = "--trainer.devices 2 --trainer.accelerator cpu --trainer.strategy ddp --trainer.logger false"


def typed(line, tmp_path):
    words = [*line.split(), *DDP.split(), "--trainer.default_root_dir", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, "-m", "src", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_give_what_one_gives(go, tmp_path):
    fit = "fit --config configs/digits_mlp.yaml --trainer.max_epochs 2 --data.eval_batch_size 32"
    done = typed(f"{fit} --data.batch_size 32 --run two", tmp_path)
    two = tmp_path / "runs" / "two"
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["two"], "one run folder"
    printed = dict(line.split() for line in done.stdout.splitlines() if line.startswith("test/"))
    one = go(f"{fit} --data.batch_size 64 --run one")
    for name in ("partition.json", "statistics.json"):
        assert (two / name).read_bytes() == (one.folder / name).read_bytes()
    alone = go(
        "test", "--ckpt_path", two / "checkpoints" / "best.ckpt",
        "--trainer.devices", 1, "--trainer.strategy", "auto",
    )  # fmt: skip
    assert alone.metrics == {name: float(value) for name, value in printed.items()}
    states = [
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (two, one.folder)
    ]
    assert states[0]["global_step"] == states[1]["global_step"]
    counts = json.loads((two / "partition.json").read_text())["counts"]
    assert counts["test"] % 2, "an odd number of rows, so a padded sampler would count one twice"


def test_a_split_with_fewer_rows_than_processes_is_refused():
    data = DataModule(Digits(), Stratified(fracs=(0.99, 0.01, 0)))
    data.setup("fit")
    num_val = len(data.split.val)
    for world_size in (1, num_val):
        data.trainer = SimpleNamespace(world_size=world_size, predicting=False)
        data.setup("fit")  # a split without rows is not evaluated
    data.trainer.world_size = num_val + 1
    assert refused(lambda: data.setup("fit")) == (
        f"val has {num_val} of the {num_val + 1} rows it needs, one a process: add rows, or lower "
        "`trainer.devices`"
    )


def test_train_metrics_are_those_of_all_ranks(go, tmp_path):
    still = "fit --config configs/digits_mlp.yaml --trainer.max_epochs 1 --model.net.dropout 0 "
    still += "--model.optimizer.lr 0"
    two = typed(f"{still} --data.batch_size 32 --run two", tmp_path).stdout
    one = go(f"{still} --data.batch_size 64 --run one").out
    words = [next(line for line in out.splitlines() if "epoch 1/1" in line) for out in (one, two)]
    assert words[0].split()[2:6] == words[1].split()[2:6], "train/loss and train/acc"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_gpu_trains_with_the_data_on_it(go, precision):
    said = go(
        "fit --config configs/digits_convnet.yaml --trainer.max_epochs 8 --trainer.accelerator gpu "
        "--trainer.devices 1",
        "--trainer.precision", precision,
    )  # fmt: skip
    assert said.code == 0, said.err
    assert said.metrics["test/acc"] > 0.9
