# ruff: noqa: E501 (a wrong search file a line)
"""The search: its file, its trials, what it leaves, and what it survives."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from optuna.trial import TrialState

from src.many import num_cores
from src.search import command
from src.search import study as studies
from src.search.space import Parameter, Space
from src.search.study import Study
from src.search.worker import Worker
from tests.conftest import ROOT

DIGITS = f"""
base: {ROOT}/configs/digits_mlp.yaml
trainer: {{max_epochs: 2, logger: [MetricsCsv], limit_train_batches: 4}}
callbacks: {{threads: {{Threads: {{num: 1}}}}}}
metric: {{name: val/loss, goal: minimize}}
"""
GRID = f"""{DIGITS}
method: grid
parameters:
  model.net.hidden_dims: {{values: [[8], [16]]}}
  model.optimizer.lr: {{values: [0.01, 0.03]}}
"""
RANDOM = f"""{DIGITS}
method: random
run_cap: 6
parameters:
  model.net.dropout: {{min: 0.0, max: 0.5}}
  model.optimizer.lr: {{distribution: log_uniform_values, min: 1.0e-3, max: 1.0e-1}}
"""
BOTH = f"""{DIGITS}
method: bayes
run_cap: 8
early_terminate: {{type: hyperband, min_iter: 1}}
parameters:
  model.net: {{values: [MLP, ConvNet]}}
  model.net.hidden_dims: {{values: [[8], [16]]}}
  model.net.widths: {{values: [[8], [4, 4]]}}
  model.optimizer.lr: {{min: 0.001, max: 0.1}}
"""


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def search(go, tmp_path, monkeypatch):
    """`search(TEXT, words ...)` as typed, with one worker in this process, without pictures."""
    draw = command.draw
    monkeypatch.setattr(command, "draw", lambda *_: None)

    def typed(text, *words, pictures=False):
        if pictures:
            monkeypatch.setattr(command, "draw", draw)
        path = tmp_path / "s.yaml"
        path.write_text(text)
        root = "--trainer.default_root_dir", tmp_path / "runs"
        return go("search --config", path, "--workers", 1, *root, *words)

    typed.folder = tmp_path / "runs" / "search" / "s"
    return typed


@pytest.fixture
def space(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)

    def read(text, *flags):
        (tmp_path / "s.yaml").write_text(text)
        return Space(tmp_path / "s.yaml", list(flags))

    return read


# --- the file


HIDDEN = "model.net.hidden_dims: {values: [[8], [16]]}"
S = "{tmp}/s.yaml"


@pytest.mark.parametrize(("change", "line"), {
    ("method: grid", "method: gird"): S + ':7: `method` is "gird", not one of grid, random, bayes',
    ("method: grid\n", ""): "`method` is not set: add it to --config FILE, or give --method VALUE",
    ("method: grid", "methode: grid"): S + ":7: `methode`: there is no such key; did you mean method? there are: ...",
    ("val/loss", "test/loss"): S + ":5: `metric.name` is test/loss: trials are judged by validation rows, val/loss say",
    ("minimize", "min"): S + ':5: `metric.goal` is "min", not one of minimize, maximize',
    ("hidden_dims:", "hiden_dims:"): S + ":9: `model.net.hiden_dims`: MLP has no such option; did you mean hidden_dims? there are: hidden_dims, ...",
    ("[[8], [16]]", "[[8], 16]"): S + ":9: `model.net.hidden_dims` is 16, not a list (an integer, ...)",
    ("[[8], [16]]", "[[8], [8]]"): S + ":9: `parameters.model.net.hidden_dims` has no `value`, no different `values`, and no `min` and `max`",
    ("[0.01, 0.03]", "[0.01, fast]"): S + ':10: `model.optimizer.lr` is "fast", not a number',
    ("{values: [0.01, 0.03]}", "0.01"): S + ":10: `parameters.model.optimizer.lr` is 0.01, not `key: value` pairs",
    ("{values: [0.01, 0.03]}", "{min: 0.01, max: 0.03}"): S + ":10: `parameters.model.optimizer.lr` is a range of numbers: a grid wants values: [...]",
    ("{values: [0.01, 0.03]}", "{minimum: 0.01, max: 0.03}"): S + ":10: `parameters.model.optimizer.lr.minimum`: Parameter has no such option; ...",
    ("{values: [0.01, 0.03]}", "{min: 0.1, max: 0.03}"): S + ":10: `parameters.model.optimizer.lr`: no uniform range goes from 0.1 to 0.03",
    ("{values: [0.01, 0.03]}", "{min: 1, max: 3.5}"): S + ":10: `parameters.model.optimizer.lr`: no uniform range goes from 1 to 3.5",
    ("{values: [0.01, 0.03]}", "{distribution: log_uniform_values, min: 0.0, max: 3.5}"): S + ":10: `parameters.model.optimizer.lr`: no log_uniform_values range goes from 0.0 to 3.5",
    ("{values: [0.01, 0.03]}", "{distribution: normal, min: 0.0, max: 3.5}"): S + ':10: `parameters.model.optimizer.lr.distribution` is "normal", not one of constant, ...',
    ("model.optimizer.lr: {values: [0.01, 0.03]}", "data.batch_size: {distribution: int_uniform, min: 1.5, max: 8}"): S + ":10: `parameters.data.batch_size`: no int_uniform range goes from 1.5 to 8",
    ("model.optimizer.lr: {values: [0.01, 0.03]}", "model.net: {values: [MPL]}"): S + ':10: `model.net`: "MPL" is no Net; did you mean MLP? there are: MLP, ConvNet',
    ("digits_mlp.yaml", "digit_mlp.yaml"): "no config " + str(ROOT) + "/configs/digit_mlp.yaml (`base` of {tmp}/s.yaml); ...",
    ("method: grid", "method: grid\nearly_terminate: {type: hyperband, eta: 1}"): S + ":8: `early_terminate` needs a min_iter of 1 or more and an eta of 2 or more",
    ("method: grid", "method: grid\nrun_cap: 0"): S + ":8: `run_cap` is 0, not a number above 0",
    ("[0.01, 0.03]", "[0.01, -1.0]"): S + ":10: `model.optimizer`: Invalid learning rate: -1.0",
    ("[[8], [16]]", "[[0], [16]]"): S + ":9: `model.net.hidden_dims` has 0: it must be a positive number",
    (HIDDEN, "model.net.dropout: {values: [0.5, 1.5]}"): S + ":9: `model.net.dropout` is 1.5, not in [0, 1)",
    (HIDDEN, "model.net.activation: {values: [tahn, relu]}"): S + ":9: `model.net.activation` has 'tahn', which is none of relu, ...",
    (HIDDEN, "model.label_smoothing: {values: [0.0, 1.0]}"): S + ":9: `model.label_smoothing` is 1, not in [0, 1)",
    (HIDDEN, "data.partition.fracs: {values: [[0.7, 0.15, 0.15], [0.9, 0.9, 0.1]]}"): S + ":9: `data.partition.fracs` [0.9, 0.9, 0.1] sum to 1.9: ...",
    (HIDDEN, "model.net: {values: [MLP, ConvNet]}\n  model.net.kernel: {values: [3, 4]}"): S + ":10: `model.net.kernel` has 4: it must be a positive odd number",
    (HIDDEN, "model.net.hidden_dims: {values: [[8], [8, 8]]}\n  model.net.activation: {values: [[relu]]}"): S + ":9: `model.net.activation` is a list of 1, not of 2: ...",
    ("val/loss", "val/accuracy"): S + ":5: `metric.name`: no val/accuracy is logged; did you mean val/acc? there are: val/loss, val/acc, val/f1, val/auroc",
    ("val/loss", "val/acc"): S + ":5: `metric`: more val/acc is better, so write goal: maximize",
    ("method: grid", "method: random"): "{tmp}/s.yaml has no end: give --trials, --epochs or --minutes",
}.items(), ids=map(str, range(32)))  # fmt: skip
def test_a_wrong_file_is_refused_at_once(search, change, line, tmp_path):
    said = search(GRID.replace(*change))
    expected = "error: " + line.replace("{tmp}", str(tmp_path))
    got = said.err[: len(expected) - 3] if line.endswith("...") else said.err.rstrip("\n")
    assert got == expected.removesuffix("...")
    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert not (search.folder / "trials").exists()


@pytest.mark.parametrize(("words", "line"), [
    ("--workers 0", "`workers` is 0, not a number above 0"),
    ("--minutes soon", '`minutes` is "soon", not a number or null'),
    ("--epochs 2.5", "`epochs` is 2.5, not an integer or null"),
    ("--trials 0", "`run_cap` is 0, not a number above 0"),
    ("--model.optimizer.lr 0.1", "{tmp}/s.yaml:10: `parameters.model.optimizer.lr` is searched: give no flag for it"),
    ("--trails 5", "`trails`: there is no such key; did you mean trials? there are: run, trials, ..."),
    ("--minute 5", "`minute`: there is no such key; did you mean minutes? ..."),
    ("--data.batchsize 1", "`data.batchsize`: DataModule has no such option; did you mean batch_size? ..."),
])  # fmt: skip
def test_a_wrong_flag(search, words, line, tmp_path):
    said = search(GRID, *words.split())
    assert said.code == 2
    assert said.err.startswith("error: " + line.removesuffix("...").replace("{tmp}", str(tmp_path)))


def test_optuna_is_needed(go, monkeypatch):
    monkeypatch.setattr("src.search.find_spec", lambda name: None)
    said = go("search --config configs/search/digits_mlp.yaml")
    line = "error: search needs optuna: pip install optuna (the extra `search`)\n"
    assert (said.code, said.err) == (2, line)


def test_a_file_is_needed(go):
    assert "give --config" in go("search").err
    assert "no config nothing.yaml; there are: configs/" in go("search --config nothing.yaml").err
    said = go("search --config configs/search/digit_mlp.yaml")
    assert said.err == (
        "error: no config configs/search/digit_mlp.yaml; did you mean configs/search/digits_mlp.yaml? "
        "there are: configs/search/digits_mlp.yaml, configs/search/digits_stacked.yaml, configs/search/mnist1d.yaml\n"
    )


@pytest.mark.parametrize("change", [
    (HIDDEN, "model.net.hidden_dims: {values: [[8], [8, 8]]}\n  model.net.activation: {values: [relu, [relu, tanh]]}"),
    (HIDDEN, "model.net: {values: [MLP, ConvNet]}\n  model.net.strides: {values: [2, 9]}"),
    (HIDDEN, "model.scheduler: {values: [StepLR, CyclicLR, WarmupCosine]}\n  model.scheduler.step_size: {value: 2}\n  model.scheduler.base_lr: {value: 0.1}\n  model.scheduler.max_lr: {value: 1.0}"),
    (HIDDEN, "model.augment: {values: [[Flip], [Crop, Flip]]}"),
    ("name: val/loss, goal: minimize", "name: val/auroc, goal: maximize"),
])  # fmt: skip
def test_what_some_trials_may_do_is_not_refused(space, change):
    """Pairs of values that go together in part, and classes that need more than they can get."""
    assert len([*space(GRID.replace(*change)).grid()]) >= 4


def test_the_rehearsal_draws_no_random_number_and_leaves_tensors_as_they_are(space):
    before, normal = torch.get_rng_state(), torch.Tensor.normal_
    space(GRID)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.Tensor.normal_ is normal


def test_what_a_class_does_not_take_it_is_not_given(space):
    read = space(BOTH)
    assert read.rest(("MLP",)) == ["model.net.hidden_dims", "model.optimizer.lr"]
    assert read.rest(("ConvNet",)) == ["model.net.widths", "model.optimizer.lr"]
    grid = space(BOTH.replace("bayes", "grid").replace("{min: 0.001, max: 0.1}", "{values: [0.1]}"))
    assert [tuple(p.values())[:2] for p in grid.grid()] == [
        ("MLP", "[8]"), ("MLP", "[16]"), ("ConvNet", "[8]"), ("ConvNet", "[4, 4]"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"model.net.width`: ConvNet has no such option"):
        space(BOTH.replace("model.net.widths", "model.net.width"))
    with pytest.raises(ValueError, match=r"s.yaml:13: `model.net.widths` is .x., not a list"):
        space(BOTH.replace("[[8], [4, 4]]", "[[8], x]"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "search").glob("*.yaml")), ids=str)
def test_weights_and_biases_takes_the_same_file(path, space, monkeypatch):
    """Its own check of a sweep, and the command that its agent builds, read by our CLI."""
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution as filled
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    monkeypatch.chdir(ROOT)
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    parameters, ours = filled(given)["parameters"], Space(path, [])
    kinds = {None: "categorical"}
    for key, parameter in ours.parameters.items():
        if parameter.is_range:
            kind = parameters[key]["distribution"]
            assert parameter.log == ("log" in kind)
            assert parameter.whole == kind.startswith("int")
            assert all(isinstance(parameters[key][k], (int, float)) for k in ("min", "max"))
        else:
            assert kinds[parameters[key].get("distribution")] == "categorical"
    if "command" not in given:
        return
    chosen = {key: p.texts[-1] for key, p in ours.parameters.items()}
    values = {
        k: {"value": parameters[k].get("values", [parameters[k].get("max")])[-1]} for k in chosen
    }
    flags = create_sweep_command_args({"args": values})["args"]
    assert flags == [f"--{key}={text}" for key, text in chosen.items()]
    words = [
        w
        for c in create_sweep_command(given["command"])
        for w in (flags if c == "${args}" else [c])
    ]
    assert words[:4] == ["python", "-m", "src", "fit"]
    from src.cli import pairs
    from src.config import Config

    config = Config()
    for name, value in pairs(words[4:]):
        config.add_file(Path(value)) if name == "config" else config.add_flag(name, value)
    own = {"callbacks.checkpoint.monitor": ours.metric, "callbacks.threads": "Threads"}
    own |= {"callbacks.checkpoint.mode": "min" if ours.minimizes else "max", "trainer.devices": "1"}
    for name, value in own.items():
        config.add_flag(name, value)
    assert config.checked() == ours.config(chosen).checked()


def test_values_are_read_as_the_agent_of_weights_and_biases_writes_them(space):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    values = {"trainer.gradient_clip_val": None, "model.compile": True, "model.net.hidden_dims": [4, 2], "model.net.norm": "none", "model.optimizer.lr": 1e-5, "model.net": {"MLP": {"dropout": 0.1}}}  # fmt: skip
    flags = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})[
        "args"
    ]
    read = space(
        f"{DIGITS}\nmethod: grid\nparameters: {json.dumps({k: {'values': [v]} for k, v in values.items()})}"
    )
    [chosen] = read.grid()
    assert sorted(flags) == sorted(f"--{key}={text}" for key, text in chosen.items())
    tree = read.config(chosen).checked()
    assert tree["trainer"]["gradient_clip_val"] is None
    model = tree["model"]["init_args"]
    assert model["compile"] is True
    assert model["net"]["init_args"] == {
        "hidden_dims": [4, 2],
        "activation": "relu",
        "dropout": 0.1,
        "norm": "none",
    }
    assert model["optimizer"]["init_args"]["lr"] == 1e-5


@pytest.mark.parametrize(("given", "least", "most", "is_right"), [
    ({"min": 2, "max": 5}, 2, 5, lambda v: v == int(v)),
    ({"min": 0.5, "max": 0.7}, 0.5, 0.7, lambda v: True),
    ({"distribution": "uniform", "min": 0, "max": 1}, 0, 1, lambda v: v != int(v)),
    ({"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0e-1}, 1e-4, 1e-1, lambda v: True),
])  # fmt: skip
def test_a_range(given, least, most, is_right):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    texts = [Parameter(**given).suggest(study.ask(), "x") for _ in range(200)]
    values = [float(text) for text in texts]
    assert all(least <= v <= most for v in values)
    assert all(map(is_right, values))
    assert len({*values}) > 1
    middle = sorted(values)[100]
    expected = (
        math.sqrt(least * most) if "log" in given.get("distribution", "") else (least + most) / 2
    )
    assert middle == pytest.approx(expected, rel=0.4)


# --- the study


@pytest.fixture
def study(space, tmp_path):
    def made(text, storage="journal", **changes):
        path = tmp_path / storage
        where = f"sqlite:///{path}" if storage.endswith(".db") else str(path)
        return Study(space(text), "s", where)

    return made


def point(trial):
    return trial.user_attrs["point"]


def never(trials):
    return ""


def taken(study):
    """The next trial for a worker; none at the end."""
    return next(iter(study.several(never, 1)), None)


def told(study, trial, value):
    chosen = study.space.suggest(trial)
    trial.set_user_attr("chosen", chosen)
    trial.set_user_attr("values", [value])
    study.study.tell(trial, value)
    return chosen


@pytest.mark.parametrize("storage", ["journal", "s.db"])
def test_two_workers_share_a_grid(study, storage):
    one, two = study(GRID, storage), study(GRID, storage)
    seen = []
    while trial := taken(one):
        other = taken(two)
        seen += [told(two, other, 1.0), told(one, trial, 1.0)]
    assert taken(two) is None
    assert sorted(map(str, seen)) == sorted(map(str, one.points))
    assert len(one.trials()) == 4


def killed(study, trial):
    """As if the worker of a trial had been killed."""
    study.set(trial.number, "owner", f"{studies.HOST}:{2**22 + 1}")  # no such process


def test_the_trial_of_a_killed_worker_is_gone_on_with(study):
    one, two = study(RANDOM), study(RANDOM)
    trial = taken(one)
    chosen = one.space.suggest(trial)
    assert not one.is_pruned(trial.number, 1, 0.5)
    killed(one, trial)
    again = taken(two)
    assert again.number != trial.number
    assert point(two.get(again.number)) == 0
    assert two.space.suggest(again) == chosen
    assert two.get(again.number).intermediate_values == {1: 0.5}
    told(two, again, 0.5)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("values", [0.4])
    assert [t.value for t in one.trials()] == [0.5]


def test_a_lease_expires_only_without_a_sign_of_life(study, monkeypatch):
    one, two = study(RANDOM), study(RANDOM)
    trial = taken(one)
    one.set(trial.number, "owner", "elsewhere:1")
    clock = [0.0]
    monkeypatch.setattr(studies.time, "monotonic", lambda: clock[0])
    for beat in range(5):
        one.set(trial.number, "beat", beat)
        two._bury()
        clock[0] += studies.LEASE_S * 0.9
    assert len(two.study.get_trials(states=(TrialState.RUNNING,))) == 1
    clock[0] += studies.LEASE_S
    two._bury()
    assert two.study.get_trials(states=(TrialState.RUNNING,)) == []
    assert point(two.get(taken(two).number)) == 0


@pytest.mark.parametrize("text", [GRID, RANDOM])
def test_draws_do_not_depend_on_who_asks_and_who_was_killed(study, text):
    alone, others = study(text, "a"), [study(text, "b") for _ in range(3)]
    expected = []
    while trial := taken(alone):
        expected.append(told(alone, trial, 1.0))
    for i in range(40):
        worker = others[i % 3]
        trial = taken(worker)
        if trial is None:
            break
        if i % 4 == 1:
            killed(worker, trial)
        else:
            told(worker, trial, 1.0)
    assert len(others[0].study.trials) > len(expected)
    found = {point(t): t.user_attrs["chosen"] for t in others[0].trials()}
    assert [found[i] for i in range(len(expected))] == expected


def test_no_point_is_trained_twice(study, monkeypatch):
    """Two workers that see the same free point at the same moment."""
    one, two = study(RANDOM), study(RANDOM)
    stale = [two.trials()]
    monkeypatch.setattr(two, "trials", lambda: stale.pop() if stale else Study.trials(two))
    first, second = taken(one), taken(two)
    assert [point(s.get(t.number)) for s, t in ((one, first), (two, second))] == [0, 1]
    for trial in (first, second):
        told(one, trial, 1.0)
    while trial := taken(two):
        told(two, trial, 1.0)
    assert [point(t) for t in one.trials()] == [0, 1, 2, 3, 4, 5]
    assert all(t.state.is_finished() for t in one.trials())
    assert {t.user_attrs.get("gone") for t in one.study.trials} == {None, "surplus"}


@pytest.mark.parametrize(
    ("metric", "goal", "sign"), [("val/loss", "minimize", 1), ("val/acc", "maximize", -1)]
)
def test_halving_is_that_of_optuna(study, metric, goal, sign):
    text = (
        RANDOM.replace("minimize", goal).replace("val/loss", metric)
        + "early_terminate: {type: hyperband, min_iter: 2, eta: 3}\n"
    )
    text = text.replace("run_cap: 6", "run_cap: 100")
    own = study(text)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3)
    theirs = optuna.create_study(direction=goal, pruner=pruner)
    generator = torch.Generator().manual_seed(0)
    ends = []
    for _ in range(40):
        trial, twin = taken(own), theirs.ask()
        start = torch.rand(1, generator=generator).item()
        for epoch in range(1, 20):
            value = sign * (start + 1 / epoch)
            twin.report(value, epoch)
            expected = twin.should_prune()
            assert own.is_pruned(trial.number, epoch, value) == expected
            if expected:
                break
        ends.append(epoch)
        state = TrialState.PRUNED if expected else TrialState.COMPLETE
        theirs.tell(twin, None if expected else value, state)
        own.study.tell(trial.number, None if expected else value, state)
    assert {2, 6, 18, 19} == {*ends}


def test_another_search_of_that_name_is_refused(study):
    study(RANDOM)
    study(RANDOM.replace("run_cap: 6", "run_cap: 9"))  # only longer
    with pytest.raises(ValueError, match=r"begun with other parameters: .* --run NAME"):
        study(RANDOM.replace("max: 0.5", "max: 0.6"))
    with pytest.raises(ValueError, match="begun with other options"):
        study(RANDOM.replace("max_epochs: 2", "max_epochs: 3"))


def test_a_point_that_kills_each_worker_fails_and_stops_of_ours_do_not_count(study):
    one = study(RANDOM)
    for i in range(3):
        one.give_up(taken(one).number, "paused")
        assert one.get(i).user_attrs["deaths"] == 0
    for i in range(3):
        trial = taken(one)
        assert trial.user_attrs["deaths"] == i
        killed(one, trial)
    trial = taken(one)
    one.is_pruned(trial.number, 1, 0.5)  # it got on
    killed(one, trial)
    assert taken(one).user_attrs["deaths"] == 0


def test_half_a_line_in_the_journal_does_no_harm(study, tmp_path):
    one = study(RANDOM)
    told(one, taken(one), 0.5)
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    two = study(RANDOM)
    told(two, taken(two), 0.25)
    assert [trial.value for trial in study(RANDOM).trials()] == [0.5, 0.25]


def test_a_password_is_shown_nowhere(search, monkeypatch):
    url = "--storage", "postgresql://me:se:cr/et@nowhere.invalid/db"
    said = search(GRID, *url)
    assert said.code == 2
    assert said.err.startswith("error: storage postgresql://me:***@nowhere.invalid/db does not")
    assert "cr/et" not in said.err
    assert studies.hidden("x://h/d?password=a&b=c") == "x://h/d?password=***&b=c"
    assert studies.hidden("sqlite:////a/b.db --run x@y") == "sqlite:////a/b.db --run x@y"

    def interrupted(worker):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "begin", interrupted)
    monkeypatch.setattr(command, "hidden", lambda text: studies.hidden(f"{text} {url[1]}"))
    said = search(GRID)
    assert said.code == 75
    assert said.err.endswith("postgresql://me:***@nowhere.invalid/db\n")


@pytest.mark.parametrize(("words", "threads"), [("", 1), ("--callbacks.threads.num 2", 2)])
def test_threads_are_of_the_trial_not_of_the_machine(tmp_path, monkeypatch, words, threads):
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr("src.many.LIMIT", limit)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(8))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    path = tmp_path / "s.yaml"
    path.write_text(GRID.replace("callbacks: {threads: {Threads: {num: 1}}}", ""))
    argv = ["--config", str(path), "--trainer.default_root_dir", str(tmp_path), *words.split()]
    worker = Worker(argv, 0.0, is_child=False)
    assert (worker.threads, worker.num_workers) == (threads, 8 // threads)
    assert Worker([*argv, "--workers", "1"], 0.0, is_child=False).threads == threads
    [chosen, *_] = worker.space.grid()
    assert worker.space.config(chosen).checked()["trainer"]["devices"] == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert Worker(argv, 0.0, is_child=False).num_workers == 4
    on_cpu = Worker([*argv, "--run", "cpu", "--trainer.accelerator", "cpu"], 0.0, is_child=False)
    assert on_cpu.num_workers == 8 // threads
    limit.write_text("max 100000\n")
    assert num_cores() == 8
    limit.write_text("350000 100000\n")
    assert num_cores() == 3


def test_a_search_leaves_the_environment_alone(search, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    before = dict(os.environ)
    search(GRID, "--minutes", 1e-9)
    assert dict(os.environ) == before


# --- the whole


def test_a_grid_from_end_to_end(search, go):
    said = search(GRID, pictures=True)
    assert said.code == 0, said.err
    assert said.err == ""
    rows = table(search.folder / "leaderboard.csv")
    assert sorted((r["model.net.hidden_dims"], r["model.optimizer.lr"]) for r in rows) == [
        ("[16]", "0.01"), ("[16]", "0.03"), ("[8]", "0.01"), ("[8]", "0.03"),
    ]  # fmt: skip
    values = [json.loads(r["values"])[0] for r in rows]
    assert values == sorted(values)
    assert [r["state"] for r in rows] == ["done"] * 4
    for row, value in zip(rows, values, strict=True):
        folder = search.folder / "trials" / row["trial"]
        logged = [float(r["val/loss"]) for r in table(folder / "metrics.csv")]
        assert len(logged) == 2
        assert min(logged) == value
        assert "test/loss" not in table(folder / "metrics.csv")[0]
        assert not (folder / "plots").exists() or row is rows[0]
        assert not (folder / "checkpoints" / "last.ckpt").exists()
    assert {p.stem for p in (search.folder / "plots").glob("*.png")} == {
        "optimization_history", "parallel_coordinate", "param_importances", "intermediate_values",
    }  # fmt: skip

    again = go("fit --config", search.folder / "best.yaml", "--run", "again")
    assert again.code == 0, again.err
    assert (
        min(float(r["val/loss"]) for r in table(again.folder / "metrics.csv") if r["val/loss"])
        == values[0]
    )
    assert again.metrics == said.metrics
    tested = go("test --ckpt_path", search.folder / "best.ckpt")
    assert tested.metrics == said.metrics

    before = {
        p: p.stat().st_mtime_ns
        for p in search.folder.rglob("*.ckpt")
        if p.parent.name == "checkpoints"
    }
    (search.folder / "test.json").write_text(
        json.dumps({"trial": rows[0]["trial"], "test/acc": 0.125})
    )
    finished = search(GRID)
    assert "all 4 trials are done" in finished.out
    assert finished.metrics == {"test/acc": 0.125}, "tested once"
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_search_goes_on_where_it_was_interrupted(search, monkeypatch):
    whole = search(RANDOM, "--run", "whole")
    assert whole.code == 0, whole.err
    fits = []
    fit = Worker.fit

    def interrupted(self, number, seed):
        fits.append(number)
        if len(fits) == 3:
            raise KeyboardInterrupt
        fit(self, number, seed)

    monkeypatch.setattr(Worker, "fit", interrupted)
    said = search(RANDOM)
    assert said.code == 75
    assert re.match(
        r"error: interrupted; go on with: python -m src search --config .*s.yaml", said.err
    )
    assert len(table(search.folder / "leaderboard.csv")) == 2
    said = search(RANDOM)
    assert said.code == 0, said.err
    assert "2 of 6 trials done" in said.out
    ours, theirs = (
        table(f / "leaderboard.csv") for f in (search.folder, search.folder.with_name("whole"))
    )
    for row in (*ours, *theirs):
        row.pop("seconds")
    assert ours == theirs


def test_a_conditional_search_and_its_leaderboard(search, go):
    said = search(BOTH)
    assert said.code == 0, said.err
    for row in table(search.folder / "leaderboard.csv"):
        is_mlp = row["model.net"] == "MLP"
        assert bool(row["model.net.hidden_dims"]) == is_mlp
        assert bool(row["model.net.widths"]) != is_mlp
        saved = yaml.safe_load(
            (search.folder / "trials" / row["trial"] / "config.yaml").read_text()
        )
        net = saved["model"]["init_args"]["net"]
        assert net["class_path"].endswith(row["model.net"])
        key = "hidden_dims" if is_mlp else "widths"
        assert str(net["init_args"][key]) == row[f"model.net.{key}"]
    assert {"done", "pruned"} == {r["state"] for r in table(search.folder / "leaderboard.csv")}


def test_seeds_are_judged_by_their_mean(search):
    said = search(GRID.replace("[[8], [16]]", "[[8]]") + "seeds: 3\n")
    assert said.code == 0, said.err
    for row in table(search.folder / "leaderboard.csv"):
        values = json.loads(row["values"])
        folder = search.folder / "trials"
        names = [row["trial"], f"{row['trial']}-seed1", f"{row['trial']}-seed2"]
        assert [
            yaml.safe_load((folder / n / "config.yaml").read_text())["seed_everything"]
            for n in names
        ] == [0, 1, 2]
        logged = [
            min(float(r["val/loss"]) for r in table(folder / n / "metrics.csv")) for n in names
        ]
        assert values == logged
        assert len({*values}) == 3
    means = [sum(json.loads(r["values"])) / 3 for r in table(search.folder / "leaderboard.csv")]
    assert means == sorted(means)
    assert re.search(r"best: trial 000\d  val/loss [\d.]+ ± [\d.]+\n", said.out)


def test_failed_trials_are_shown_and_end_a_search_that_only_fails(search):
    said = search(RANDOM.replace("val/loss", "val/accuracy"), "--callbacks.mine", "Timer")
    assert said.code == 2
    assert said.err == (
        "error: 3 trials failed, 0 did not: `metric.name`: no val/accuracy is logged; did you mean "
        "val/acc? there are: val/loss, val/acc, val/f1, val/auroc\n"
    )
    rows = table(search.folder / "leaderboard.csv")
    assert [r["state"] for r in rows] == ["failed"] * 3
    assert "`metric.name`" in rows[0]["note"]
    assert "Traceback" in (search.folder / "trials" / "0000" / "error.txt").read_text()

    wide = GRID.replace("[0.01, 0.03]", "[0.01, 1.0e+30]")
    wide = wide.replace(HIDDEN, "data.partition.group_by: {values: [null, owner]}")
    said = search(wide, "--run", "wide")
    assert said.code == 0, said.err
    rows = table(search.folder.with_name("wide") / "leaderboard.csv")
    assert [r["state"] for r in rows] == ["done", "pruned", "failed", "failed"]
    assert "lower `model.optimizer.lr`" in rows[1]["note"]
    assert "names a column, and the source has none" in rows[2]["note"]
    assert "names a column, and the source has none" in said.out


@pytest.mark.parametrize(("code", "expected"), [(75, 75), (1, 2), (76, 0)])
def test_a_trial_in_processes_of_its_own_ends_with_them(search, monkeypatch, code, expected):
    started = []

    def ended(words, **how):
        started.append(words)
        script = f"print('told'); print('error: no room'); raise SystemExit({code})"
        return subprocess.Popen([sys.executable, "-c", script], **how)

    monkeypatch.setattr("src.search.worker.Popen", ended)
    said = search(GRID, "--trainer.devices", 2, "--trainer.accelerator", "cpu", "--minutes", 5)
    assert said.code == expected
    rows = table(search.folder / "leaderboard.csv")
    ends = {75: [], 1: [("failed", "no room")] * 3, 76: [("pruned", "no room")] * 4}
    assert [(row["state"], row["note"]) for row in rows] == ends[code]
    if code == 1:
        assert "told\n" in (search.folder / "trials" / "0000" / "error.txt").read_text()
    name, left = started[0][-2:]
    assert started[0][-4:-2] == ["--one", "0.0"]
    assert (name, 0 < float(left) < 5) == ("--minutes", True)


def test_budgets(search, monkeypatch):
    said = search(RANDOM.replace("run_cap: 6\n", ""), "--epochs", 5)
    assert said.code == 0, said.err
    assert "(the epochs are spent)" in said.out
    rows = table(search.folder / "leaderboard.csv")
    assert 5 <= sum(int(r["epochs"]) for r in rows) <= 6
    said = search(RANDOM, "--run", "quick", "--minutes", 1e-9)
    assert "(the time is over)" in said.out
    assert "no trial was trained to its end" in said.out


def test_two_folders_share_one_study(search, tmp_path):
    shared = "--storage", tmp_path / "shared.journal"
    roots = [("--trainer.default_root_dir", tmp_path / name) for name in "ab"]
    first = search(GRID, *shared, *roots[0], "--trials", 2)
    assert first.code == 0, first.err
    second = search(GRID, *shared, *roots[1])
    assert second.code == 0, second.err
    assert "2 of 4 trials done" in second.out
    rows = table(tmp_path / "b" / "search" / "s" / "leaderboard.csv")
    assert [r["state"] for r in rows] == ["done"] * 4
    assert len({r["data"] for r in rows}) == 1
    there = [
        sorted(p.name for p in (tmp_path / n / "search" / "s" / "trials").iterdir()) for n in "ab"
    ]
    assert there == [["0000", "0001"], ["0002", "0003"]]
    third = search(GRID, *shared, *roots[0])
    assert "all 4 trials are done" in third.out
    trained_elsewhere = {rows[0]["trial"] in there[1]: third, rows[0]["trial"] in there[0]: second}
    assert f"its checkpoint is on {studies.HOST}" in trained_elsewhere[True].out


def test_machines_that_begin_a_database_at_once_wait_for_its_tables(search, tmp_path, monkeypatch):
    create, calls, url = optuna.create_study, [], f"sqlite:///{tmp_path}/s.db"

    def contested(*args, **kwargs):
        calls.append(1)
        if len(calls) in fail:
            raise RuntimeError("table alembic_version already exists")
        return create(*args, **kwargs)

    monkeypatch.setattr(studies.optuna, "create_study", contested)
    fail = {1, 2}
    assert search(GRID, "--storage", url, "--trials", 1, "--workers", 1).code == 0
    fail = range(100)
    said = search(GRID, "--storage", url, "--run", "other")
    assert said.code == 2
    assert said.err == f"error: storage {url} does not work: table alembic_version already exists\n"


SLOW = GRID.replace("limit_train_batches: 4", "limit_train_batches: null").replace(
    "max_epochs: 2", "max_epochs: 6"
)


def test_killed_workers_and_a_killed_search_lose_nothing(search, tmp_path):
    assert search(SLOW, "--run", "whole").code == 0
    (tmp_path / "k.yaml").write_text(SLOW)
    words = ["search", "--config", str(tmp_path / "k.yaml"), "--workers", "2"]
    words += ["--trainer.default_root_dir", str(tmp_path / "runs")]
    typed = [sys.executable, "-m", "src", *words]
    journal = tmp_path / "runs" / "search" / "k" / "study.journal"
    how = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}

    def after(num, process):
        """Waits until so many epochs were reported."""
        while process.poll() is None:
            text = journal.read_text() if journal.exists() else ""
            if text.count('"op_code":7') >= num:
                return
            time.sleep(0.01)

    process = subprocess.Popen(typed, **how)
    after(3, process)
    owners = re.findall(r'"owner":"[^:]+:(\d+)"', journal.read_text())
    os.kill(int(owners[0]), signal.SIGKILL)
    after(8, process)
    process.kill()
    process.wait()
    process = subprocess.run(typed, **how, timeout=200, check=False)
    assert process.returncode == 0
    ours, theirs = (table(search.folder.with_name(n) / "leaderboard.csv") for n in ("k", "whole"))
    assert '"gone":"lost"' in journal.read_text()
    assert sorted(r["trial"] for r in ours) == sorted(r["trial"] for r in theirs)
    expected = {r["trial"]: r["values"] for r in theirs}
    logs = map(json.loads, journal.read_text().splitlines())
    assert any(log.get("intermediate_values") for log in logs), "one was killed amid its epochs"
    for row in ours:
        assert row["values"] == expected[row["trial"]], "to the last bit"
    assert [r["epochs"] for r in ours] == ["6"] * 4


# --- compare


def tables(out):
    """The rows of each table, as lists of cells."""
    return [
        [re.split(r"  +", line) for line in part.splitlines()[1:]] for part in out.split("\n\n")
    ]


def test_runs_are_compared_where_they_can_be(go, search, tmp_path):
    fit = f"fit --config {ROOT}/configs/digits_mlp.yaml --trainer.max_epochs 1"
    for name, words in {
        "a": "",
        "a1": "--seed_everything 1",
        "a2": "--seed_everything 2",
        "b": "--model.net.hidden_dims [8]",
        "c": "--model.net ConvNet",
        "d": "--data.partition.seed 1",
        "e": "--callbacks.checkpoint.monitor val/acc --callbacks.checkpoint.mode max",
    }.items():
        said = go(f"{fit} --run {name} {words}")
        assert said.code == 0, said.err
    runs = tmp_path / "runs"
    value = {
        name: min(float(r["val/loss"]) for r in table(runs / name / "metrics.csv") if r["val/loss"])
        for name in ("a", "a1", "a2", "b", "c", "d", "e")
    }
    out = tmp_path / "t.csv"
    said = go("compare", runs, "--csv", out)
    assert said.code == 0, said.err
    by_acc, by_loss, other = sorted(
        tables(said.out), key=lambda t: ("val/acc" not in t[0], -len(t))
    )
    assert said.out.count("val/loss, data 20ad00ba, ") == 2
    assert [len(t) for t in (by_acc, by_loss, other)] == [2, 4, 2]
    assert by_acc[1][1] == "e"
    assert other[1][1] == "d"
    head, *rows = by_loss
    assert head[-1] == "net"
    assert "hidden_dims" in head
    assert "batch_size" not in head
    cells = {row[1]: dict(zip(head[1:], row[1:], strict=False)) for row in rows}
    assert {*cells} == {"a", "b", "c"}
    values = [value[name] for name in ("a", "a1", "a2")]
    mean = sum(values) / 3
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
    assert cells["a"]["val/loss"] == f"{mean:.6g} ± {spread:.2g}"
    assert cells["b"]["val/loss"] == f"{value['b']:.6g}"
    order = sorted({"a": mean, "b": value["b"], "c": value["c"]}.items(), key=lambda item: item[1])
    assert [row[1] for row in rows] == [name for name, _ in order]
    assert {r["run"] for r in table(out)} == {str(runs / n) for n in "abcde"}
    alone = go("compare", runs / "a", runs / "a1", "--metric", "val/acc")
    [[_, row]] = tables(alone.out)
    assert row[3].startswith("0.")

    assert search(GRID).code == 0
    both = tables(go("compare", search.folder, runs / "a").out)
    assert sum(len(t) - 1 for t in both) == 5


TAKES = "compare takes runs/NAME ... [--metric NAME] [--sort KEY] [--where KEY=VALUE] [--csv FILE] [--plot FILE]"


@pytest.mark.parametrize(("words", "line"), [
    ("", TAKES),
    ("{tmp} --sorted x", TAKES),
    ("{tmp} --sort", TAKES),
    ("{tmp}", "{tmp} holds no runs: give run folders, or what `search` left in runs/"),
    ("{tmp}/none", "{tmp}/none holds no runs: give run folders, or what `search` left in runs/"),
])  # fmt: skip
def test_what_is_not_compared(go, tmp_path, words, line):
    said = go("compare", *words.replace("{tmp}", str(tmp_path)).split())
    assert (said.code, said.err) == (2, f"error: {line}\n".replace("{tmp}", str(tmp_path)))


def test_a_metric_that_no_run_has(go, tmp_path):
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 3}\n")
    (tmp_path / "metrics.csv").write_text("epoch,val/acc\n0,0.5\n")
    assert go("compare", tmp_path, "--metric", "val/acc").code == 0
    said = go("compare", tmp_path, "--metric", "val/ac")
    assert (said.code, said.err) == (2, "error: --metric val/ac: no run here has it\n")


def test_a_search_whose_trials_all_fail(search):
    said = search(GRID, "--trials", 2, "--callbacks.checkpoint.monitor", "val/acuracy")
    assert said.code == 2
    assert "error: all trials failed, the first by: " in said.err


def test_odd_folders_are_left_out_with_a_line(go, tmp_path):
    for name, files in {
        "good": {"metrics.csv": "epoch,val/loss,test/acc\n0,0.5,\n1,nan,\n,,0.9\n"},
        "text": {"metrics.csv": "epoch,val/loss\n0,many\n"},
        "list": {"config.yaml": "[: -\n"},
        "half": {"leaderboard.csv": "trial,state\n0000,done\n"},
        "none": {"config.yaml": ""},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in {"config.yaml": "trainer: {max_epochs: 3}\n", **files}.items():
            (tmp_path / name / file).write_text(text)
    said = go("compare", tmp_path)
    assert said.code == 0
    left = re.findall(r"warning: \S+/(\w+) is left out: .+\n", said.err)
    assert left == ["half", "list", "text"]
    assert said.err.count("\n") == 3
    [[_, good, none]] = tables(said.out)
    assert good[:4] == ["1", "good", "done", "0.5"]
    assert none[1:3] == ["none", "unfinished"]
    said = go("compare", tmp_path / "good", Path(os.path.relpath(tmp_path / "none")))
    assert said.code == 0, "one path is absolute, one is not"


def test_compare_and_help_import_nothing_heavy(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("trainer: {max_epochs: 3}\n")
    for words in (["compare", str(tmp_path)], ["search", "--help"], ["compare", "--help"]):
        command = [sys.executable, "-X", "importtime", "-m", "src", *words]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        imported = {line.split("|")[-1].strip() for line in run.stderr.splitlines()}
        assert "src.errors" in imported
        heavy = {"torch", "lightning", "numpy", "optuna", "jsonargparse", "matplotlib"}
        assert not imported & heavy
        assert run.stdout


def test_a_search_stays_in_a_folder_of_its_own(search):
    said = search(GRID, "--run", "..")
    assert said.code == 2
    assert said.err.startswith("error: --run '..' is not the name of a folder below ")
