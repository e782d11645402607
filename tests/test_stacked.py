# ruff: noqa: E501 (an obstacle a line)
"""Trials as one batched network: the numbers, files and winner are those of ordinary trials."""

import csv
import json

import pytest
import torch
import yaml

from src.search import command, stacked
from src.search.space import Space
from src.search.worker import Worker
from tests.conftest import ROOT

GRID = f"""
base: {ROOT}/configs/digits_mlp.yaml
trainer: {{max_epochs: 2, logger: [MetricsCsv], limit_train_batches: 4, accelerator: cpu}}
method: grid
metric: {{name: val/loss, goal: minimize}}
parameters:
  model.optimizer.lr: {{values: [0.003, 0.03]}}
  model.optimizer.weight_decay: {{values: [0.01, 1.0]}}
"""
TIMED = {"samples_per_s", "Monitor", "config"}


@pytest.fixture
def search(go, tmp_path, monkeypatch):
    """`search(TEXT, words ...)` as typed, with one worker in this process, without pictures."""
    monkeypatch.setattr(command, "draw", lambda *_: None)

    def typed(text, *words):
        path = tmp_path / "s.yaml"
        path.write_text(text)
        root = "--trainer.default_root_dir", tmp_path / "runs"
        return go("search --config", path, "--workers", 1, *root, *words)

    typed.folder = tmp_path / "runs" / "search"
    return typed


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def differences(one, two, key=""):
    """Where two checkpoints differ, but for what is of the time that they took."""
    if isinstance(one, dict) and isinstance(two, dict):
        for name in one.keys() | two.keys():
            if name not in TIMED:
                yield from differences(one.get(name), two.get(name), f"{key}.{name}")
    elif isinstance(one, list | tuple) and len(one) == len(two):
        for i, pair in enumerate(zip(one, two, strict=True)):
            yield from differences(*pair, f"{key}.{i}")
    elif isinstance(one, torch.Tensor):
        if one.dtype != two.dtype or not torch.equal(one, two):
            yield key
    elif one != two:
        yield key


def load(folder):
    return torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def both(search, text):
    """The folders of the same search, stacked and in ordinary trials, and what was said."""
    said = [search(text, "--run", engine, "--engine", engine) for engine in ("stacked", "trials")]
    assert [one.code for one in said] == [0, 0], [one.err for one in said]
    return [search.folder / "stacked", search.folder / "trials"], said


KINDS = {
    "dropout": GRID,
    "a schedule by step": f"""{GRID}
  model.scheduler: {{value: WarmupCosine}}
  model.net.activation: {{value: [gelu, relu]}}
""",
    "a schedule by epoch, linear": f"""{GRID.replace("weight_decay: {values: [0.01, 1.0]}", "momentum: {values: [0.5, 0.9]}")}
  model.optimizer: {{value: SGD}}
  model.scheduler: {{value: StepLR}}
  model.scheduler.step_size: {{value: 1}}
  model.label_smoothing: {{value: 0.1}}
  model.class_weights: {{value: balanced}}
  model.net.hidden_dims: {{value: []}}
""",
    "judged by accuracy": f"""{GRID.replace("val/loss, goal: minimize", "val/acc, goal: maximize")}
  model.optimizer.fused: {{value: false}}
  model.net.dropout: {{value: 0}}
""",
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_stack_gives_what_ordinary_trials_give_to_the_bit(search, go, name):
    (ours, theirs), said = both(search, KINDS[name])
    assert "engine: stacked" in said[0].out
    boards = [table(folder / "leaderboard.csv") for folder in (ours, theirs)]
    for row in [*boards[0], *boards[1]]:
        row.pop("seconds")
    assert boards[0] == boards[1]
    assert [row["state"] for row in boards[0]] == ["done"] * 4
    assert said[0].metrics == said[1].metrics
    for row in boards[0]:
        one, two = (folder / "trials" / row["trial"] for folder in (ours, theirs))
        assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
        assert config(one) == config(two)
        logs = [table(folder / "metrics.csv") for folder in (one, two)]
        assert [*logs[0][0]] == [*logs[1][0]]
        for mine, other in zip(*logs, strict=True):
            assert float(mine.pop("grad_norm")) == pytest.approx(float(other.pop("grad_norm")))
            assert mine.pop("samples_per_s")
            assert other.pop("samples_per_s")
            assert mine == other
        checkpoints = load(one), load(two)
        keys = [key for key in differences(*checkpoints) if not key.endswith("grad_norm")]
        if checkpoints[0]["epoch"] == checkpoints[1]["global_step"] // 4 == 2:
            assert not keys
        # else an ordinary one was saved amid the next epoch
        assert not [key for key in keys if not key.startswith((".loops", ".resume", ".callbacks"))]
    best = ours / "trials" / boards[0][0]["trial"] / "checkpoints" / "best.ckpt"
    assert go("test --ckpt_path", best).metrics == said[0].metrics
    value = json.loads(boards[0][0]["values"])[0]
    again = go("fit --config", ours / "best.yaml", "--run", "again")
    key, best_of = ("val/acc", max) if "accuracy" in name else ("val/loss", min)
    assert best_of(float(r[key]) for r in table(again.folder / "metrics.csv") if r[key]) == value


def test_a_copy_goes_on_as_an_ordinary_trial_does(search, go):
    folders, _ = both(search, GRID)
    last = []
    for folder in folders:
        path = folder / "trials" / "0000" / "checkpoints" / "best.ckpt"
        assert load(folder / "trials" / "0000")["epoch"] == 2
        said = go("fit --ckpt_path", path, "--trainer.max_epochs", 4)
        assert said.code == 0, said.err
        last.append((said.metrics, load(folder / "trials" / "0000")["state_dict"]))
    assert last[0][0] == last[1][0]
    assert not [*differences(last[0][1], last[1][1])]


def test_seeds_are_stacked_each_by_itself(search):
    text = GRID.replace("[0.01, 1.0]", "[0.01]") + "  seed_everything: {values: [0, 1]}\nseeds: 2\n"
    (ours, theirs), _ = both(search, text)
    values = [
        {row["trial"]: row["values"] for row in table(folder / "leaderboard.csv")}
        for folder in (ours, theirs)
    ]
    assert values[0] == values[1]
    assert {p.name for p in (ours / "trials").iterdir()} >= {"0003", "0003-seed1"}
    seeds = [config(ours / "trials" / name)["seed_everything"] for name in ("0001", "0001-seed1")]
    assert seeds == [1, 2]


def test_a_copy_that_diverges_is_left_to_an_ordinary_trial(search):
    (ours, theirs), _ = both(search, GRID.replace("[0.003, 0.03]", "[0.003, 1.0e+30]"))
    boards = [table(folder / "leaderboard.csv") for folder in (ours, theirs)]
    assert [row["state"] for row in boards[0]] == ["done", "done", "pruned", "pruned"]
    for mine, other in zip(*boards, strict=True):
        assert (mine["values"], mine["note"]) == (other["values"], other["note"])


def test_a_stack_whose_bits_differ_gives_way(search, monkeypatch):
    forward = stacked.Layer.forward
    monkeypatch.setattr(stacked.Layer, "forward", lambda *args: forward(*args).mul_(1.0 + 2.0**-23))
    said = search(GRID, "--run", "gives")
    assert said.code == 0, said.err
    differs = "the last digits differ from those of ordinary trials"
    assert f"no stack of 4 trials: {differs}\n" in said.out
    assert len(table(search.folder / "gives" / "leaderboard.csv")) == 4
    asked = search(GRID, "--engine", "stacked")
    assert (asked.code, asked.err) == (2, f"error: {differs}\n")


def test_a_stack_that_is_interrupted_or_half_told_goes_on(search, monkeypatch):
    whole = search(GRID, "--run", "whole")
    assert whole.code == 0, whole.err
    for cls, name, after in (
        (stacked.Stack, "_keep", 1),
        (Worker, "_note", 2),
        (Worker, "_try", 2),
    ):
        calls, method = [], getattr(cls, name)

        def interrupted(*args, calls=calls, method=method, after=after):
            calls.append(args)
            if len(calls) == after + 1:
                raise KeyboardInterrupt
            return method(*args)

        with monkeypatch.context() as patch:
            patch.setattr(cls, name, interrupted)
            assert search(GRID, "--run", name).code == 75
        done = 2 if name == "_try" else 0
        said = search(GRID, "--run", name)
        assert said.code == 0, said.err
        assert f"{done} of 4 trials done" in said.out
        boards = [table(search.folder / run / "leaderboard.csv") for run in (name, "whole")]
        for row in [*boards[0], *boards[1]]:
            row.pop("seconds")
        assert boards[0] == boards[1]


@pytest.mark.parametrize(("text", "why"), {
    "  data.batch_size: {values: [32, 64]}": "`data.batch_size` is searched",
    "  model.optimizer: {values: [AdamW, Adam]}": "`model.optimizer` is searched",
    "epochs: 9": "`epochs` or `minutes` may be spent amid a stack",
    "early_terminate: {type: hyperband}": "`early_terminate` compares trials amid their epochs",
    "  model.net: {value: ConvNet}": "`model.net` is not an MLP without norm",
    "  model.net.norm: {value: batch}": "`model.net` is not an MLP without norm",
    "  model.optimizer: {value: Adafactor}": "Adafactor is not one of AdamW, Adam, SGD, ",
    "  model.scheduler: {value: ReduceLROnPlateau}": "`model.scheduler` goes by metrics",
    "  model.augment: {value: [Noise]}": "`model.augment` is set",
    "  model.freeze: {value: [hidden.0]}": "`model.freeze` is set",
    "  model.compile: {value: true}": "`model.compile` is set",
    "  trainer.gradient_clip_val: {value: 1}": "`trainer.gradient_clip_val` is 1",
    "  trainer.accumulate_grad_batches: {value: 2}": "`trainer.accumulate_grad_batches` is 2",
    "  trainer.precision: {value: bf16-mixed}": "`trainer.precision` is bf16-mixed",
    "  trainer.strategy: {value: ddp}": "`trainer.strategy` is ddp",
    "  trainer.devices: {value: 2}": "`trainer.devices` is 2",
    "  trainer.logger: {value: [MetricsCsv, Wandb]}": "`trainer.logger` is not [MetricsCsv]",
    "callbacks: {ema: EMA}": "`callbacks` are not Checkpoint and Threads",
    "  callbacks.checkpoint.every_n_epochs: {value: 2}": "`callbacks.checkpoint` has more than a metric",
}.items())  # fmt: skip
def test_where_it_does_not_apply_it_says_why(tmp_path, monkeypatch, text, why):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "s.yaml"
    path.write_text(f"{GRID}{text}\n")
    assert next(stacked.obstacles(Space(path, []))).startswith(why)
    path.write_text(GRID)
    assert not [*stacked.obstacles(Space(path, []))]


def test_a_stack_that_is_asked_for_and_can_not_be_is_an_error(search, go, tmp_path):
    said = search(f"{GRID}  data.batch_size: {{values: [32, 64]}}\n", "--engine", "stacked")
    line = f"error: {tmp_path}/s.yaml: `engine` can't be stacked: `data.batch_size` is searched\n"
    assert (said.code, said.err) == (2, line)
    table = GRID.replace("digits_mlp", "diabetes_mlp")
    said = search(table, "--run", "one output")
    assert said.code == 0, said.err
    assert "no stack of 4 trials: the last digits differ" in said.out
