"""One run after another, as a person types them."""

import csv
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from tests.conftest import ROOT

FIT = "fit --config configs/digits_mlp.yaml --trainer.max_epochs 2"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def trained(go):
    said = go(FIT, "--run", "first")
    assert said.code == 0, said.err
    return said


def test_fit_trains_tests_the_best_and_leaves_a_whole_folder(trained, tmp_path):
    folder = tmp_path / "runs" / "first"
    assert trained.folder == folder
    *_, loss, acc, f1, auroc, last = trained.out.splitlines()
    assert [line.split()[0] for line in (loss, acc, f1, auroc)] == [
        "test/loss", "test/acc", "test/f1", "test/auroc",
    ]  # fmt: skip
    assert last == f"run folder: {folder}"
    lines = trained.out.splitlines()
    assert re.fullmatch(
        r"Digits: 1,258 train, \d+ val, \d+ test rows; MLP: 17,226 parameters", lines[0]
    )
    assert [line.split("  ")[0] for line in lines[1:3]] == ["epoch 1/2", "epoch 2/2"]
    assert len(lines) == 8, "nothing else is printed"
    assert trained.err == ""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert there >= {
        "config.yaml", "metrics.csv", "partition.json", "statistics.json", "checkpoints/best.ckpt",
        "checkpoints/last.ckpt", "plots/curves.png", "plots/confusion_test.png",
    }  # fmt: skip
    report = json.loads((folder / "partition.json").read_text())
    assert sum(report["counts"].values()) == 1797
    assert report["counts"]["train"] == pytest.approx(0.7 * 1797, abs=10)
    tested = [row for row in rows(folder / "metrics.csv") if row["test/acc"]]
    assert f"test/acc {float(tested[0]['test/acc']):.6g}" == acc


def test_come_back_with_the_checkpoint_alone(trained, go):
    best = trained.folder / "checkpoints" / "best.ckpt"
    before = (trained.folder / "metrics.csv").read_bytes()
    again = go("test", "--ckpt_path", best)
    assert again.code == 0, again.err
    assert again.metrics == trained.metrics
    assert again.folder == trained.folder
    val = go("validate", "--ckpt_path", best)
    logged = min(
        float(r["val/loss"]) for r in rows(trained.folder / "metrics.csv") if r["val/loss"]
    )
    assert val.metrics["val/loss"] == pytest.approx(logged, rel=1e-5)
    assert (trained.folder / "metrics.csv").read_bytes() == before


def test_a_moved_checkpoint_needs_no_other_file(trained, go, tmp_path):
    moved = tmp_path / "model.ckpt"
    (trained.folder / "checkpoints" / "best.ckpt").rename(moved)
    again = go("test", "--ckpt_path", moved)
    assert again.metrics == trained.metrics


def test_predict_writes_classes_by_name_for_test_rows_and_new_rows(trained, go, tmp_path):
    import numpy as np
    from sklearn.datasets import load_digits

    best = trained.folder / "checkpoints" / "best.ckpt"
    said = go("predict", "--ckpt_path", best)
    table = rows(trained.folder / "predictions_test.csv")
    assert f"predictions: {trained.folder / 'predictions_test.csv'}" in said.out
    digits = load_digits()
    right = [digits.target[int(r["row"])] == int(r["predicted"]) for r in table]
    assert sum(right) / len(right) == pytest.approx(trained.metrics["test/acc"], abs=1e-5)
    assert sum(float(table[0][str(c)]) for c in range(10)) == pytest.approx(1, abs=1e-5)
    some = [int(r["row"]) for r in table[:5]]
    np.savez(tmp_path / "new.npz", x=digits.images[some].astype(np.uint8)[:, None])
    said = go("predict", "--ckpt_path", best, "--data.predict_path", tmp_path / "new.npz")
    assert said.code == 0, said.err
    new = rows(trained.folder / "predictions_new.csv")
    assert [r["predicted"] for r in new] == [r["predicted"] for r in table[:5]]
    assert [r["row"] for r in new] == ["0", "1", "2", "3", "4"]


def test_a_resumed_run_goes_on_in_its_folder_and_ends_like_an_unbroken_one(go, tmp_path):
    plain = ("--model.scheduler", "null", "--model.net.dropout", 0)
    whole = go(FIT, "--run", "whole", "--trainer.max_epochs", "4", *plain)
    half = go(FIT, "--run", "half", *plain)
    last = half.folder / "checkpoints" / "last.ckpt"
    resumed = go("fit", "--ckpt_path", last, "--trainer.max_epochs", 4)
    assert resumed.code == 0, resumed.err
    assert resumed.folder == half.folder
    assert resumed.metrics == whole.metrics
    columns = ("epoch", "step", "train/loss", "val/loss", "val/acc")
    both = [
        [[r[c] for c in columns] for r in rows(f / "metrics.csv") if r["train/loss"]]
        for f in (whole.folder, half.folder)
    ]
    assert both[0] == both[1]
    assert yaml.safe_load((half.folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_the_last_checkpoint_is_the_newest_even_if_an_earlier_is_the_best(go):
    """With a rate of 0 after the first epoch nothing gets better, and `best` stays there."""
    frozen = ("--model.scheduler", "StepLR", "--model.scheduler.step_size", 1)
    frozen += ("--model.scheduler.gamma", 0, "--model.net.dropout", 0)
    said = go(FIT, "--run", "frozen", "--trainer.max_epochs", 4, *frozen)
    best, last = (said.folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    assert [torch.load(path)["epoch"] for path in (best, last)] == [1, 4]
    again = go("fit", "--ckpt_path", last)
    assert again.code == 0
    assert "epoch" not in again.out
    more = go("fit", "--ckpt_path", last, "--trainer.max_epochs", 5)
    assert more.out.count("epoch ") == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_batch_that_is_always_the_same_is_memorised(go):
    plain = ("--model.net.dropout", 0, "--trainer.overfit_batches", 1, "--trainer.max_epochs", 25)
    said = go(FIT, *plain)
    assert said.code == 0, said.err
    assert float(rows(said.folder / "metrics.csv")[-3]["train/acc"] or 0) == 1


def test_no_run_is_written_into_another(trained, go):
    other = go(FIT, "--run", "second")
    said = go("fit", "--ckpt_path", other.folder / "checkpoints" / "last.ckpt", "--run", "first")
    assert said.code == 2
    assert f"run folder {trained.folder} exists" in said.err


def test_a_folder_that_was_there_stays(go, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert go(FIT, "--run", "mine", "--print_config").code == 0
    assert (tmp_path / "runs" / "mine").is_dir()


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m src list | head -n 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_flags_win_over_the_checkpoint(trained, go, tmp_path):
    last = trained.folder / "checkpoints" / "last.ckpt"
    said = go(
        "fit", "--ckpt_path", last, "--trainer.max_epochs", 3, "--model.optimizer.lr", 1e-5,
        "--model.optimizer.weight_decay", 0.3, "--model.scheduler", "null", "--data.batch_size", 17,
    )  # fmt: skip
    assert said.code == 0, said.err
    checkpoint = torch.load(last, weights_only=True)
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(1e-5), 0.3)
    config = yaml.safe_load(checkpoint["config"])
    assert config["data"]["batch_size"] == 17
    assert config["trainer"]["max_epochs"] == 3


def test_another_optimizer_starts_afresh(trained, go):
    last = trained.folder / "checkpoints" / "last.ckpt"
    said = go(
        "fit", "--ckpt_path", last, "--trainer.max_epochs", 3, "--model.optimizer", "SGD",
        "--model.optimizer.lr", 1e-3,
    )  # fmt: skip
    assert said.code == 0, said.err
    group = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"][0]
    assert "momentum" in group
    assert group["weight_decay"] == 0, "nothing of AdamW leaks"


def test_the_saved_config_gives_the_same_numbers_to_the_last_digit(trained, go):
    again = go("fit", "--config", trained.folder / "config.yaml", "--run", "second")
    assert again.metrics == trained.metrics
    noisy = ("samples_per_s",)
    one, two = (
        [{k: v for k, v in r.items() if k not in noisy} for r in rows(f / "metrics.csv")]
        for f in (trained.folder, again.folder)
    )
    assert one == two
    configs = [
        yaml.safe_load((f / "config.yaml").read_text()) for f in (trained.folder, again.folder)
    ]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    "schedule",
    ["StepLR --model.scheduler.step_size 1", "OneCycleLR --model.scheduler.max_lr 0.01 "
     "--model.scheduler.total_steps 100", "ReduceLROnPlateau", "null"],
)  # fmt: skip
def test_any_schedule_comes_back_from_checkpoint_and_config(go, schedule):
    said = go(f"{FIT} --run s --trainer.max_epochs 1 --model.scheduler {schedule}")
    assert said.code == 0, said.err
    folder = said.folder / "checkpoints"
    assert go("test", "--ckpt_path", folder / "best.ckpt").metrics == said.metrics
    again = go("fit", "--config", said.folder / "config.yaml", "--run", "t")
    assert again.metrics == said.metrics
    more = go("fit --trainer.max_epochs 2 --ckpt_path", folder / "last.ckpt")
    assert (more.code, more.err) == (0, "")


@pytest.mark.parametrize("name", ["..", "wandb", "../up", "a/b", "/tmp/x"])
def test_a_run_is_the_name_of_one_folder(go, name):
    said = go(FIT, "--run", name)
    assert (said.code, "is not the name of a folder" in said.err) == (2, True)


def test_two_runs_at_once_have_two_folders(go):
    first, second = go(FIT, "--trainer.fast_dev_run", "true"), go(FIT, "--trainer.max_epochs", "1")
    assert first.code == second.code == 0
    third = go(FIT, "--trainer.max_epochs", "1")
    assert second.folder != third.folder
    assert second.folder.name.startswith("digits_mlp-20")


def test_print_config_and_help(go):
    said = go("fit --config configs/digits_mlp.yaml --print_config --model.optimizer.lr 0.5")
    assert yaml.safe_load(said.out)["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.5
    said = go("fit --help")
    assert said.code == 0
    words = (
        "--data.batch_size --trainer.max_epochs --model.net.hidden_dims --data.source.path --run"
    )
    assert not [word for word in words.split() if word not in said.out]
    assert len(said.out.splitlines()) < 450
    assert max(map(len, said.out.splitlines())) <= 100


def test_help_and_list_import_no_torch():
    code = (
        "import sys; from src.__main__ import main; assert main(['--help']) == main(['list']) == 0;"
        "assert not {'torch', 'lightning', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = (
        "fit predict Digits Arrays MLP ConvNet Classifier WarmupCosine KFold "
        "configs/digits_mlp.yaml"
    )
    assert not [word for word in words.split() if word not in done.stdout]


def test_ctrl_c_says_how_to_go_on(tmp_path):
    words = [*FIT.split(), "--trainer.max_epochs", "100000", "--run", "long", "--trainer.logger",
             "false", "--trainer.default_root_dir", str(tmp_path)]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "src", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            break
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 30
    _, err = process.communicate(timeout=deadline - time.monotonic())
    last = tmp_path / "long" / "checkpoints" / "last.ckpt"
    assert process.returncode == 75
    assert err.splitlines()[-1] == (
        f"error: interrupted; go on with: python -m src fit --ckpt_path {last}"
    )
    assert last.is_file()


def test_a_run_that_saved_nothing_says_only_that_it_was_interrupted(go, monkeypatch):
    @functools.wraps(Trainer.fit)
    def interrupted(*_, **__):
        raise SystemExit(1)  # as Lightning does

    monkeypatch.setattr(Trainer, "fit", interrupted)
    said = go(FIT)
    assert (said.code, said.err) == (75, "error: interrupted\n")
