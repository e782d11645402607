# ruff: noqa: E501 (a run a line)
"""A run killed at any instant goes on, and ends with the bits of one that nothing happened to."""

import csv
import os
import signal
import subprocess
import sys
from itertools import chain

import pytest
import torch

from src import durable
from src.callbacks import Monitor
from src.models.model import Model
from tests.conftest import ROOT

if os.name == "nt":
    pytest.skip("needs fork and signals", allow_module_level=True)

FIT = (
    "fit --config configs/digits_mlp.yaml --data.batch_size 256 --trainer.max_epochs 3 "
    "--trainer.logger [MetricsCsv]"
)  # five steps an epoch
NOISE = {"samples_per_s"}  # and the seconds that Monitor keeps


def differences(one, other, place=""):
    """Where two checkpoints differ, in anything but the time it took."""
    if type(one) is not type(other):
        return [f"{place}: {one!r} {other!r}"]
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [f"{place}: {one} {other}"]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{place}: {[*one]} {[*other]}"]
        keys = [k for k in one if k not in NOISE]
        return [*chain(*(differences(one[k], other[k], f"{place}/{k}") for k in keys))]
    if place.endswith("Monitor/epoch"):
        one, other = ([norms, steps, lr] for norms, steps, _, _, lr in (one, other))
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{place}: {one} {other}"]
        pairs = enumerate(zip(one, other, strict=True))
        return [*chain(*(differences(a, b, f"{place}/{i}") for i, (a, b) in pairs))]
    return [] if one == other else [f"{place}: {one!r} {other!r}"]


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    hidden = header.index("samples_per_s")
    return [header] + [line[:hidden] + line[hidden + 1 :] for line in lines]


def assert_same(whole, broken):
    for name in ("last", "best"):
        one, other = (
            torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for folder in (whole, broken)
        )
        assert differences(one, other) == []
    assert rows(whole) == rows(broken)


OPTIONS = {
    "plain": "",
    "batch norm, a save each third step": "--model.net.norm batch --callbacks.checkpoint.every_n_steps 3",
    "augmented": "--model.augment [Flip,Crop,Mixup] --callbacks.checkpoint.every_n_steps 2",
    "EMA": "--callbacks.ema EMA --callbacks.ema.decay 0.9 --callbacks.checkpoint.every_n_steps 1",
    "plateau, rare validation": "--model.scheduler ReduceLROnPlateau --model.scheduler.patience 0 --model.optimizer.lr 0.05 --trainer.check_val_every_n_epoch 2 --trainer.max_epochs 6",
    "a step's schedule": "--model.scheduler WarmupCosine --callbacks.checkpoint.every_n_steps 2",
    "an epoch's schedule": "--model.scheduler ExponentialLR --model.scheduler.gamma 0.7",
    "validation amid an epoch": "--trainer.val_check_interval 0.4 --callbacks.checkpoint.every_n_steps 1",
    "accumulated": "--trainer.accumulate_grad_batches 2 --callbacks.checkpoint.every_n_steps 1",
    "stopped early": "--callbacks.stop EarlyStopping --callbacks.stop.patience 1 --model.optimizer.lr 0.1 --trainer.max_epochs 9",
    "steps": "--trainer.max_steps 12 --trainer.max_epochs 9 --callbacks.checkpoint.every_n_steps 5",
    "another best": "--callbacks.checkpoint.monitor val/acc --callbacks.checkpoint.mode max --model.optimizer.lr 0.03",
    "no validation": "--trainer.limit_val_batches 0",
}  # fmt: skip
PLACES = {
    "in a step": (Model, "training_step", 9),
    "in the first step after a save": (Model, "training_step", 6),
    "in validation": (Model, "validation_step", 2),
    "at an epoch's end": (Model, "on_train_epoch_end", 2),
    "before a save reaches the disk": (durable, "write", 2),
    "before a save takes its name": (durable, "put", 3),
    "between the best and the last": (durable, "share", 4),
    "at the end of all": (Monitor, "on_train_end", 4),
    "in the test": (Model, "test_step", 1),
}


EVERYWHERE = ("plain",)  # the other options are killed in a step alone: 1 s a place


@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric")
@pytest.mark.parametrize("options", OPTIONS)
def test_a_killed_run_ends_with_the_same_bits(options, fresh, tmp_path):
    line = f"{FIT} {OPTIONS[options]}"
    assert fresh(f"{line} --run whole") == 0
    places = PLACES if options in EVERYWHERE else ["in a step"]
    for number, place in enumerate(places):
        name = f"{line} --run {number} --resume auto"
        assert fresh(name, PLACES[place]) == -signal.SIGKILL, place
        assert fresh(name) == 0, place
        assert_same(tmp_path / "runs" / "whole", tmp_path / "runs" / str(number))


SIGNALS = {
    signal.SIGTERM: (Model, "training_step", 7),
    signal.SIGINT: (Model, "validation_step", 1),
    signal.SIGUSR1: (Model, "training_step", 15),  # the last
    signal.SIGHUP: (Model, "on_train_epoch_end", 1),
}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_lets_the_step_end_saves_and_says_how_to_go_on(number, fresh, tmp_path, capfd):
    runs = tmp_path / "runs"
    assert fresh(f"{FIT} --run whole") == 0
    capfd.readouterr()
    place = SIGNALS[number]
    assert fresh(f"{FIT} --run broken", place, number) == 75 * (number != signal.SIGUSR1)
    last = runs / "broken" / "checkpoints" / "last.ckpt"
    if number != signal.SIGUSR1:  # whose step was the last: the run was over
        line = f"error: interrupted; go on with: python -m src fit --ckpt_path {last}\n"
        assert capfd.readouterr().err == line
        reached = {"training_step": place[2]}.get(place[1], 5)
        assert torch.load(last, weights_only=True)["global_step"] == reached
    assert fresh(f"fit --ckpt_path {last}") == 0
    assert_same(runs / "whole", runs / "broken")


EARLY = """
import os, runpy, sys
from src import startup
number = int(sys.argv.pop(1))
startup.import_lightning = lambda: os.kill(os.getpid(), number)
runpy.run_module("src", run_name="__main__")
"""


@pytest.mark.parametrize("number", SIGNALS.keys() - {signal.SIGINT})  # which Python hears
def test_a_signal_at_the_start_ends_it_as_one_to_begin_again(number):
    words = [str(int(number)), "fit", "--config", "configs/digits_mlp.yaml"]
    done = subprocess.run(
        [sys.executable, "-c", EARLY, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (75, "error: interrupted\n")


def test_a_signal_in_the_test_ends_it_at_once(fresh, tmp_path, capfd):
    assert fresh(f"{FIT} --run a", (Model, "test_step", 1), signal.SIGTERM) == 75
    assert capfd.readouterr().err.startswith("error: interrupted; go on with: python -m src fit")
    assert fresh(f"{FIT} --run a --resume auto") == 0


RANKS = """
import os, sys
import torch
torch.set_num_threads(1)
from src.startup import import_lightning
import_lightning()
from src.__main__ import main
from src.models.model import Model
from tests.conftest import arm
if rank := os.environ.pop("KILLED", None):
    if rank == os.environ.get("LOCAL_RANK", "0"):
        arm(Model, "training_step", 16, int(os.environ["SIGNAL"]))
    else:
        os.environ["KILLED"] = rank
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_end_together_and_go_on_with_the_same_bits(tmp_path):
    """Be the weights whole in each of them or shared out; from the checkpoint before the newest."""
    script, runs = tmp_path / "ranks.py", tmp_path / "runs"
    script.write_text(RANKS)
    line = (
        f"{FIT} --model.net.norm batch --data.batch_size 160 --callbacks.checkpoint.every_n_steps 3 "
        "--trainer.accumulate_grad_batches 2 --trainer.max_epochs 5 "  # an even number of batches
        f"--trainer.default_root_dir {runs} --config configs/trainer/"
    )
    there = ".yaml --trainer.devices 2 --trainer.accelerator cpu --run "

    def run(strategy, name, more="", **environment):
        return subprocess.run(
            [sys.executable, script, *f"{line}{strategy}{there}{strategy}-{name} {more}".split()],
            cwd=ROOT, capture_output=True, text=True, timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip

    for strategy in ("ddp", "fsdp"):
        done = run(strategy, "whole")
        assert done.returncode == 0, done.stderr
    told = run("ddp", "told", KILLED="0", SIGNAL="15")
    last = runs / "ddp-told" / "checkpoints" / "last.ckpt"
    assert (told.returncode, told.stderr.splitlines()[-1]) == (
        75,
        f"error: interrupted; go on with: python -m src fit --ckpt_path {last}",
    )
    killed = run("fsdp", "killed", KILLED="1", SIGNAL="9")
    assert killed.returncode == 1
    said = "error: another process of this run has ended or hangs: see what it said"
    assert said in killed.stderr
    for strategy, name in (("ddp", "told"), ("fsdp", "killed")):
        os.truncate(runs / f"{strategy}-{name}" / "checkpoints" / "last.ckpt", 9999)
        done = run(strategy, name, "--resume auto")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("WARNING") == 1
        assert_same(runs / f"{strategy}-whole", runs / f"{strategy}-{name}")
    states = [durable.load(runs / f"{s}-whole/checkpoints/last.ckpt") for s in ("ddp", "fsdp")]
    # not the weights: of a pixel that is always 0 the gradient is rounding, of which Adam makes 1
    averages = [[s["exp_avg"] for s in c["optimizer_states"][0]["state"].values()] for c in states]
    torch.testing.assert_close(*averages, rtol=1e-4, atol=1e-6)
