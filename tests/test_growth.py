"""Data that grows between runs: no row changes its split, as a person sees it from the CLI."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.module import DataModule
from src.data.partition import KFold, Partition, Split
from src.data.rows import SPLITS
from src.data.sources import Table
from tests.conftest import Said

CONFIG = """
data:
  source: {%s: {path: '%s'%s}}
  batch_size: 32
model:
  Classifier:
    net:
      MLP: {hidden_dims: [4]}
    optimizer:
      SGD: {lr: 0.01}
trainer: {max_epochs: 1}
"""
Where = dict[str, str]  # what is in a row -> its split


class Data:
    """A file of rows that grows, and a run on it.

    Args:
        path: `.csv` or `.npz`.
        go: The fixture.
        splits: What the partition gave in each run so far.
    """

    def __init__(self, path: Path, go: Callable[..., Said], splits: list[Split]) -> None:
        self.path, self.go, self.splits = path, go, splits
        self.sidecar = Path(f"{path}.partition.json")
        self.config = path.with_suffix(".yaml")
        table = path.suffix == ".csv"
        source = ("Table", path, ", target: kind") if table else ("Arrays", path, "")
        self.config.write_text(CONFIG % source)
        self.lines: list[str] = []

    def grow(self, lines: list[str]) -> None:
        """Adds CSV lines, in between the others; the npz has their numbers."""
        self.lines += lines
        np.random.default_rng(len(self.lines)).shuffle(self.lines)
        if self.path.suffix == ".csv":
            self.path.write_text("\n".join(["a,b,color,who,day,kind", *self.lines]) + "\n")
            return
        cells = [line.split(",") for line in self.lines]
        x = np.array([[float(a), float(b)] for a, b, *_ in cells], np.float32)
        np.savez(self.path, x=x, y=np.array([kind for *_, kind in cells]))

    def run(self, *flags: object, command: str = "fit", whole: bool = False) -> Where:
        """Runs a subcommand, `fit` with one batch if not `whole`; gives the split of each row."""
        if command == "fit":
            fast = "--trainer.fast_dev_run", str(not whole).lower()
            flags = ("--config", self.config, *fast, *flags)
        self.said = self.go(command, *flags)
        assert self.said.code == 0, self.said.err
        return self.where()

    def load(self, partition: Partition) -> Where:
        """What `run` gives, without the CLI."""
        DataModule(Table(str(self.path), "kind"), partition).setup("fit")
        return self.where()

    def where(self) -> Where:
        last = self.splits[-1]
        return {self.lines[row]: name for name in SPLITS for row in getattr(last, name)}

    @property
    def checkpoint(self) -> Path:
        return self.said.folder / "checkpoints" / "best.ckpt"

    def kept(self) -> dict[str, list[float]]:
        (strata,) = json.loads(self.sidecar.read_text()).values()
        return strata


def lines(num: int, seed: int, kinds: str = "ghi", colors: tuple[str, ...] = ("red", "blue")):
    rng = np.random.default_rng(seed)
    return [
        f"{rng.normal(i % len(kinds)):.5f},{rng.normal():.5f},{colors[i % len(colors)]},"
        f"p{i % 20},2024-{i % 12 + 1:02d}-{seed + 1:02d},{kinds[i % len(kinds)]}"
        for i in range(num)
    ]


NEW = lines(20, 1, "aghi", ("azure", "red"))  # a class and a category that sort before the others


def moved(before: Where, after: Where) -> int:
    """How many of the rows that were there before are in another split, or in none, now."""
    return sum(after.get(line) != name for line, name in before.items())


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> list[Split]:
    found: list[Split] = []
    split = Partition.split

    def noted(self, rows, kept=None):
        found.append(split(self, rows, kept))
        return found[-1]

    monkeypatch.setattr(Partition, "split", noted)
    return found


@pytest.fixture
def table(tmp_path: Path, go, splits) -> Data:
    data = Data(tmp_path / "data.csv", go, splits)
    data.grow(lines(100, 0))
    return data


@pytest.fixture(params=["data.csv", "data.npz"])
def data(request, tmp_path: Path, go, splits) -> Data:
    made = Data(tmp_path / request.param, go, splits)
    made.grow(lines(100, 0))
    return made


def test_no_row_moves_when_the_data_grows(data: Data) -> None:
    before, drawn = data.run(), data.kept()
    assert drawn.keys() == {"class 'g'", "class 'h'", "class 'i'"}
    assert all(0 < a < b < 1 for a, b in drawn.values())
    data.grow(NEW)
    after = data.run(whole=True)
    assert len(after) == 120
    assert moved(before, after) == 0
    kept = data.kept()
    new = kept.pop("class 'a'")
    assert kept == drawn
    assert len(new) == 2
    report = json.loads((data.said.folder / "partition.json").read_text())
    assert report["boundaries"] == {**drawn, "class 'a'": new}
    assert report["class_counts"]["test"]["a"] == report["class_counts"]["val"]["a"] == 1
    assert sum(report["counts"].values()) == 120
    data.sidecar.unlink()
    anew = data.run()
    assert moved(before, anew) > 0
    assert report["fingerprint"] == data.splits[-1].report["fingerprint"]
    assert data.kept().keys() == report["boundaries"].keys()


def test_other_shares_and_back(table: Data) -> None:
    first = table.run()
    table.grow(NEW)
    other = table.run("--data.partition.fracs", "[0.5, 0.25, 0.25]")
    assert moved(first, other) > 0
    assert moved(first, table.run()) == 0
    assert len(json.loads(table.sidecar.read_text())) == 2


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_brings_its_boundaries(table: Data) -> None:
    before = table.run(whole=True)
    trained = table.checkpoint
    table.run("--ckpt_path", trained, command="test")
    assert table.said.err == ""
    table.grow(lines(20, 1, "ghi", ("azure", "red")))
    table.sidecar.unlink()
    after = table.run("--ckpt_path", trained, command="test")
    (line,) = table.said.err.splitlines()
    assert line == "warning: the data is not that of the checkpoint: its fingerprint differs"
    assert len(after) == 120
    assert moved(before, after) == 0
    assert not table.sidecar.exists(), "a test leaves the data's own boundaries alone"
    assert moved(before, table.run()) > 0  # as they would have without the checkpoint
    table.run("--ckpt_path", trained, "--data.partition.seed", "5", command="test")
    assert "warning: the partition is not that of the checkpoint" in table.said.err


@pytest.mark.filterwarnings("default")
def test_a_checkpoint_brings_its_statistics(table: Data, monkeypatch) -> None:
    table.run(whole=True)
    trained, folder = table.checkpoint, table.said.folder
    table.grow(lines(20, 1, "ghi", ("azure", "red")))
    monkeypatch.setattr("src.data.module.fit", None)  # train rows are not measured again
    table.run("--ckpt_path", trained, command="test")
    table.run("--ckpt_path", trained, "--trainer.max_epochs", 2, whole=True)
    data = torch.load(trained.parent / "last.ckpt")["DataModule"]
    kept = {name: [*values] for name, values in data["statistics"].items()}
    assert json.loads((folder / "statistics.json").read_text()) == kept


@pytest.mark.filterwarnings("default")
def test_a_folder_that_is_read_only_is_one_warning(table: Data, monkeypatch) -> None:
    write = Path.write_text

    def refuse(path: Path, *args, **kwargs) -> int:
        if path.parent == table.path.parent:
            raise PermissionError(13, "Permission denied", str(path))
        return write(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", refuse)
    table.run(whole=True)
    (line,) = table.said.err.splitlines()
    assert line == (
        f"warning: {table.sidecar} can't be written (Permission denied): rows may move when the "
        "data grows"
    )
    assert not table.sidecar.exists()


def test_folds_cover_each_row_once_as_test(table: Data) -> None:
    runs = [table.load(KFold(num_folds=5, fold=fold)) for fold in range(5)]
    tests = [{line for line, name in run.items() if name == "test"} for run in runs]
    assert sorted(line for test in tests for line in test) == sorted(table.lines)
    for fold in range(5):
        val = {line for line, name in runs[fold].items() if name == "val"}
        assert val == tests[(fold + 1) % 5]
        kinds = [line[-1] for line in tests[fold]]
        assert all(6 <= kinds.count(kind) <= 7 for kind in "ghi")
    through_the_cli = table.run("--data.partition", "KFold", "--data.partition.fold", 3)
    assert through_the_cli == runs[3]
    table.grow(NEW)
    assert moved(runs[4], table.load(KFold(num_folds=5, fold=4))) == 0


@pytest.mark.parametrize("option", ["group_by", "time_by"])
def test_groups_and_times_of_a_table(table: Data, option: str) -> None:
    column, place = {"group_by": ("who", 3), "time_by": ("day", 4)}[option]
    flags = f"--data.partition.{option}", column, "--data.partition.duplicates", "allow"
    before = table.run(*flags)
    table.grow(NEW)
    after = table.run(*flags)
    assert moved(before, after) == 0
    found = {
        name: {row.split(",")[place] for row in after if after[row] == name} for name in SPLITS
    }
    assert all(found.values())
    if option == "group_by":
        assert sum(map(len, found.values())) == 20
    else:
        assert max(found["train"]) < min(found["val"]) <= max(found["val"]) < min(found["test"])


def test_a_published_test_is_kept_and_its_duplicates_are_dropped(
    tmp_path: Path, go, splits
) -> None:
    data = Data(tmp_path / "data.npz", go, splits)
    rng = np.random.default_rng(0)
    x, x_test = rng.normal(size=(60, 3)).astype("f4"), rng.normal(size=(15, 3)).astype("f4")
    x[[7, 50]] = x_test[[0, 3]]
    np.savez(data.path, x=x, y=np.arange(60) % 3, x_test=x_test, y_test=np.arange(15) % 3)
    said = go("fit --config", data.config)
    assert said.code == 2
    assert said.err == (
        "error: 2 exact duplicates across splits, such as row 7 = 60 of test, row 50 = 63 "
        "of test: set `data.partition.duplicates` to drop or allow\n"
    )
    data.lines = [str(row) for row in range(75)]
    rows = data.run("--data.partition.duplicates", "drop")
    assert rows.keys() == set(data.lines) - {"7", "50"}
    assert [row for row in rows if rows[row] == "test"] == [str(row) for row in range(60, 75)]
    assert splits[-1].report["dropped"] == 2
    assert splits[-1].report["counts"]["val"] in range(9, 13)
