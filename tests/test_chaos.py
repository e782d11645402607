"""The table of faults: this project survives, and one that is broken on purpose does not."""

import json
import shutil
import sys
from random import Random

import pytest
import torch

from src import durable
from src.callbacks import faults, resume
from src.data.batches import Batches
from src.models.model import Model
from src.tracking import MetricsCsv

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

from scripts.chaos import __main__ as chaos
from scripts.chaos import hostile, ranks
from scripts.chaos.lab import Done, Lab, differences

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """A folder with a run of each kind that nothing happened to."""
    root = tmp_path_factory.mktemp("chaos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        chaos.prepare()
        for variant in chaos.VARIANTS:
            chaos.check(Lab(root, "x").make_whole(variant))
    return root


@pytest.fixture
def lost(wholes, tmp_path, monkeypatch):
    """`lost(row, *trials)`: what trials of a row have lost."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    root = tmp_path / "root"
    shutil.copytree(wholes, root, symlinks=True)

    def run(row, *trials):
        started = [(chaos.start(row, n, 0, root), root / f"{row}-{n}.json") for n in trials]
        outcomes = [chaos.read_outcome(path, process.wait()) for process, path in started]
        return [what for outcome in outcomes for case in outcome.cases for what in case]

    return run


def test_the_table(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    file = tmp_path / "chaos.json"
    words = ["--trials", "1", "--rows", "1", "3", "7", "12", "--jobs", "2", "--json", str(file)]
    assert chaos.main(words) == 0
    found = json.loads(file.read_text())
    assert {row: (r["trials"], r["survived"]) for row, r in found["rows"].items()} == {
        "1": (1, 1), "3": (2, 2), "7": (1, 1), "12": (1, 1)
    }  # fmt: skip
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "| # | fault | trials | survived | differed or lost | s |"
    assert lines[2].startswith("| 1 | SIGKILL while training | 1 | 1 | nothing | ")
    assert lines[-1].startswith("0 lost; seed 0")


def test_what_is_compared(wholes):
    whole = torch.load(wholes / "whole-everything" / "checkpoints" / "last.ckpt", weights_only=True)
    assert {"state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step"} <= {*whole}
    assert {"EMA", "EarlyStopping", "Checkpoint"} <= {
        name.partition("{")[0] for name in whole["callbacks"]
    }
    assert {"python", "numpy", "torch"} <= {*whole["resume"]["ranks"][0]["random"]}
    header = (wholes / "whole-everything" / "metrics.csv").read_text().splitlines()[0]
    assert {"train/loss", "val/loss", "test/loss", "lr"} <= {*header.split(",")}


def test_the_numbers_of_trials():
    numbers = {n: (row.num_trials(20), row.num_trials(1000)) for n, row in chaos.ROWS.items()}
    assert numbers == {n: row.trials for n, row in chaos.ROWS.items()}
    assert chaos.ROWS[1].num_trials(5) == 5
    assert chaos.ROWS[11].num_trials(1) == 1


def forgotten(*_):
    """Instead of a method that does something."""


def rename_first(part, path, keep):
    path.unlink(missing_ok=True)
    path.write_bytes(part.read_bytes())
    part.unlink()


def unconfirmed(path, data, end=bytes):
    with path.open("wb") as file:
        file.write(data)
        file.write(end())


def drop(self, path):
    self._waiting.clear()
    raise OSError(28, "No space left on device")


BROKEN = {  # row, trials: what is broken, by what; what must have been lost
    "random states": (1, range(3), resume, "restore", forgotten, "last.ckpt state_dict"),
    "a log": (2, range(6), MetricsCsv, "load_state_dict", forgotten, "metrics.csv has"),
    "a save": (3, range(8), durable, "put", rename_first, ""),
    "a checksum": (4, [0], durable, "is_whole", lambda path: path.is_file(), ""),
    "fsync": (5, [0], durable, "write", unconfirmed, "last.ckpt: checkpoint"),
    "an exit code": (6, [0], durable.DurableIO, "check", forgotten, "full: exit 0"),
    "signals": (7, [0], faults.Signals, "between_steps", forgotten, "exit 0, not 75"),
    "bad steps": (8, [0, 4], faults.BadSteps, "on_before_optimizer_step", forgotten, "exit"),
    "halves": (9, [0], Model, "halve", forgotten, ""),
    "rows that wait": (13, [0], MetricsCsv, "_write", drop, "metrics.csv has"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(name, lost, monkeypatch):
    row, trials, thing, attribute, instead, what = BROKEN[name]
    monkeypatch.setattr(thing, attribute, instead)
    found = lost(row, *trials)
    assert found
    assert any(what in one for one in found), found


def test_rows_that_are_left_out_are_found(monkeypatch):
    assert not any(ranks.in_shares(Random(0)))
    monkeypatch.setattr(Batches, "num_rows", property(lambda b: len(b.index) // b.world_size))
    assert {"7 rows on 2 ranks: metrics", "9 rows on 4 ranks: metrics"} <= {
        what for case in ranks.in_shares(Random(0)) for what in case
    }


def test_code_that_runs_is_found(lost, monkeypatch):
    few, corpus = ("it names a net", "a checkpoint with code, sealed"), hostile.checkpoints
    monkeypatch.setattr(
        hostile, "checkpoints", lambda *a: {n: d for n, d in corpus(*a).items() if n in few}
    )
    monkeypatch.setattr(hostile, "CONFIGS", {})
    assert lost(15, 0) == []
    monkeypatch.setattr("src.config.foreign", lambda value: [])
    assert "it names a net, test: code ran" in lost(15, 0)


@pytest.mark.parametrize(
    ("code", "happens", "left_s", "what"),
    [
        (0, True, 0, "exit 0"),
        (1, True, 31, "a process was left"),
        (1, False, 0, "it did not happen"),
        (1, True, 0, ""),
    ],
)
def test_a_job_that_does_not_end_is_found(code, happens, left_s, what, tmp_path, monkeypatch):
    def start(lab, words, **environment):
        if happens:
            (lab.root / "x.happened").touch()
        return Done(code, "", 0, 0), left_s

    monkeypatch.setattr(ranks, "start", start)
    [found] = ranks.rank_fails(Lab(tmp_path, "x"), Random(0), 0).cases
    assert bool(found) == bool(what)
    assert what in "".join(found)


def test_what_differs_is_named():
    one = {"loops": {"a": [1, 2.0]}, "callbacks": {"EMA": {"n": 1}}, "x": float("nan")}
    assert not [*differences(one, one, ())]
    other = {"loops": {"a": [1, 2.5]}, "callbacks": {"EMA": {}}, "x": 1}
    assert [*differences(one, other, ())] == ["loops/a", "callbacks/EMA", "x"]
