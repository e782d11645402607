# ruff: noqa: E501 (a wrong command a line)
"""`compare`: which rows it shows, in which order, and its picture; read from made-up folders."""

import json
import re
from statistics import stdev

import pytest
from matplotlib.figure import Figure

from src.search.compare import read_run

RUNS = {  # net, lr, seed, data, val/loss, test/acc, parameters, epochs
    "a0": ("MLP", 0.1, 0, "aa", 0.5, 0.90, 100, 3),
    "a1": ("MLP", 0.1, 1, "aa", 0.7, 0.94, 100, 3),
    "b": ("ConvNet", 0.02, 0, "aa", 0.4, 0.97, 900, 3),
    "c": ("ConvNet", 0.3, 0, "aa", 0.9, 0.91, 1200, 3),
    "d": ("MLP", 0.1, 0, "bb", 0.1, 0.99, 100, 3),
    "e": ("MLP", 0.9, 0, "aa", None, None, 100, 0),
}


@pytest.fixture
def runs(tmp_path):
    for name, (net, lr, seed, data, loss, acc, size, epochs) in RUNS.items():
        folder = tmp_path / name
        folder.mkdir()
        nodes = {"net": {"class_path": f"src.nets.{net}", "init_args": {}}}
        nodes["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": lr}}
        config = {"seed_everything": seed, "model": nodes, "data": {"partition": {"seed": 7}}}
        (folder / "config.yaml").write_text(json.dumps(config))
        (folder / "partition.json").write_text(json.dumps({"fingerprint": data, "key": "k, ("}))
        (folder / "model.json").write_text(json.dumps({"num_weights": size}))
        lines = ["epoch,train/loss,val/loss,test/acc"]
        lines += [f"{i},1.0,{loss + (epochs - 1 - i)}," for i in range(epochs)]
        lines += [f"{epochs},,,{acc}"] * bool(acc)
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def compared(go, runs):
    """`compared(words ...)`: names in each table, by the data; and the whole text."""

    def typed(*words):
        said = go("compare", runs, *words)
        assert said.code == 0, said.err
        parts = said.out.split("\n\n")
        names = {
            p[p.index("data ") + 5 :][:2]: re.findall(r"^\d?\s+(\w+)  ", p, re.M)[1:] for p in parts
        }
        return names, said.out

    return typed


def test_a_run_says_of_each_metric_whether_less_is_better(runs):
    (runs / "b/model.json").write_text(json.dumps({"num_weights": 1, "modes": {"mape": "min"}}))
    row = read_run(runs / "b", "")
    assert [row.is_less(k) for k in ("test/mape", "val/loss", "val/r2", "seconds")] == [1, 1, 0, 1]
    row.config = {"callbacks.checkpoint.monitor": "val/r2", "callbacks.checkpoint.mode": "min"}
    assert row.is_less("val/r2")


def test_a_run_shows_its_parameters_and_every_metric_its_spread(compared):
    names, out = compared()
    assert names == {"aa": ["b", "a0", "c", "e"], "bb": ["d"]}
    [line] = re.findall("^2  a0.*", out, re.M)
    assert "0.6 ± 0.14  0.92 ± 0.028  3 " in line
    assert line.split()[-3:] == ["100", "MLP", "0.1"]
    assert out.splitlines()[1].split() == [
        "run", "state", "val/loss", "test/acc", "epochs", "seconds", "num_weights", "net", "lr"
    ]  # fmt: skip


def test_epochs_are_those_of_training_whatever_judges(compared):
    head, row = compared("--metric", "test/acc")[1].splitlines()[1:3]
    assert re.split("  +", row)[re.split("  +", head).index("epochs")] == "3"


@pytest.mark.parametrize(("words", "expected"), [
    ("--sort test/acc", ["b", "a0", "c", "e"]),
    ("--sort lr", ["b", "a0", "c", "e"]),
    ("--sort num_weights", ["a0", "e", "b", "c"]),
    ("--sort model.net", ["b", "c", "a0", "e"]),
    ("--sort val/loss", ["b", "a0", "c", "e"]),
    ("--where net=MLP", ["a0", "e"]),
    ("--where model.net!=MLP", ["b", "c"]),
    ("--where lr>0.1", ["c", "e"]),
    ("--where lr<0.1", ["b"]),
    ("--where lr=1e-1", ["a0"]),
    ("--where test/acc>0.91 --where num_weights<1000", ["b", "a0"]),
    ("--where val/loss<0.65 --sort lr", ["b", "a0"]),
    ("--where test/acc!=0.91", ["b", "a0", "e"]),
    ("--metric test/acc --where net=ConvNet", ["b", "c"]),
])  # fmt: skip
def test_sorted_and_chosen(compared, words, expected):
    assert compared(*words.split())[0]["aa"] == expected


def test_seeds_are_put_together_before_any_is_left_out(compared):
    """A filter by a metric that took seeds away would make of the best seed a result."""
    assert "a0" not in compared("--where", "val/loss<0.55")[0]["aa"]


@pytest.mark.parametrize(("words", "line"), [
    ("--sort lrr", "no run here has lrr; did you mean lr? there are: run, state, ..."),
    ("--sort model.optimiser.lr", "no run here has model.optimiser.lr; did you mean model.optimizer.lr? ..."),
    ("--where sed=1", "no run here has sed; did you mean seed? ..."),
    ("--where lr", "--where 'lr' is none of KEY=VALUE, KEY!=VALUE, 'KEY<N', 'KEY>N'"),
    ("--where lr>7", "--where lr>7: true of no run here"),
    ("--where net>7", "--where net>7: true of no run here"),
    ("--plot {tmp}/x.doc", "Format 'doc' is not supported ..."),
])  # fmt: skip
def test_a_wrong_key_or_value(go, runs, words, line):
    said = go("compare", runs, *words.replace("{tmp}", str(runs)).split())
    assert said.code == 2
    assert said.err.startswith(f"error: {line}".removesuffix("..."))
    assert said.err.count("\n") == 1


def test_the_picture_has_a_panel_for_each_table_and_a_point_for_each_seed(
    compared, runs, monkeypatch
):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, path: (drawn.append(f), save(f, path)))
    _, out = compared("--plot", runs / "p.png")
    assert f"picture: {runs}/p.png" in out
    assert (runs / "p.png").read_bytes()[:4] == b"\x89PNG"
    first, second = drawn[0].axes
    assert [text.get_text() for text in first.get_yticklabels()] == [
        "b: 0.4, net ConvNet, lr 0.02", "a0: 0.6 ± 0.14, net MLP, lr 0.1", "c: 0.9, net ConvNet, lr 0.3"
    ]  # fmt: skip
    assert first.yaxis_inverted(), "the best is above"
    seeds = [line for line in first.lines if line.get_color() == "k"]
    assert [[*line.get_xdata()] for line in seeds] == [[0.4], [0.5, 0.7], [0.9]]
    bars = [c.get_segments()[0][:, 0] for c in first.collections]
    assert [(high - low) / 2 for low, high in bars] == pytest.approx([0, stdev([0.5, 0.7]), 0])
    assert first.get_title(loc="left").startswith("val/loss, data aa")
    assert second.get_title(loc="left").startswith("val/loss, data bb")
