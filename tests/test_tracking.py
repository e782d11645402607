"""Where metrics go, and what git says."""

import csv
import re
import sys

import pytest
from lightning.pytorch.utilities import rank_zero_only

from src.tracking import MetricsCsv, TensorBoard
from src.tracking.git import git_state


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def metrics_csv(tmp_path):
    logger = MetricsCsv()
    logger.run_dir = tmp_path
    return logger


def test_csv_has_a_row_a_step_on_disk_as_soon_as_it_is_logged(metrics_csv):
    path = metrics_csv.run_dir / "metrics.csv"
    metrics_csv.log_metrics({"epoch": 0, "val/loss": 0.1 + 0.2}, step=9)
    assert path.read_text() == "epoch,step,val/loss\n0,9,0.30000000000000004\n"
    metrics_csv.log_metrics({"epoch": 0, "train/loss": 2.0}, step=9)
    assert path.read_text() == "epoch,step,val/loss,train/loss\n0,9,0.30000000000000004,2.0\n"
    metrics_csv.log_metrics({"epoch": 1, "train/loss": 1.0}, step=19)
    metrics_csv.log_metrics({"epoch": 1, "val/loss": 0.5}, step=19)
    metrics_csv.log_metrics({"epoch": 2, "test/acc": 1.0}, step=20)
    assert path.read_text().splitlines() == [
        "epoch,step,val/loss,train/loss,test/acc",
        "0,9,0.30000000000000004,2.0,",
        "1,19,0.5,1.0,",
        "2,20,,,1.0",
    ]
    assert [p.name for p in metrics_csv.run_dir.iterdir()] == ["metrics.csv"]


def test_csv_keeps_both_values_of_a_metric_logged_twice_for_a_step(metrics_csv):
    for value in (1.0, 2.0):
        metrics_csv.log_metrics({"epoch": 3, "test/acc": value}, step=7)
    assert [row["test/acc"] for row in table(metrics_csv.run_dir / "metrics.csv")] == ["1.0", "2.0"]


def test_csv_of_a_run_that_goes_on_drops_what_will_be_logged_again(metrics_csv):
    metrics_csv.log_metrics({"epoch": 0, "a,b": 1.0}, step=0)
    state = metrics_csv.state_dict()
    metrics_csv.log_metrics({"epoch": 1, "a,b": 2.0}, step=1)
    metrics_csv.log_metrics({"epoch": 1, "new": 2.0}, step=1)
    path = metrics_csv.run_dir / "metrics.csv"
    again = MetricsCsv()
    again.run_dir = metrics_csv.run_dir
    again.load_state_dict(state)
    assert path.read_text().splitlines() == ['epoch,step,"a,b",new', "0,0,1.0,"]
    again.log_metrics({"epoch": 1, "a,b": 2.5}, step=1)
    again.log_metrics({"epoch": 2, "newer": 3.0}, step=2)
    assert path.read_text().splitlines() == [
        'epoch,step,"a,b",new,newer', "0,0,1.0,,", "1,1,2.5,,", "2,2,,,3.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("left", "rows"),
    [
        ("epoch,step,loss\n0,0,1.0\n1,1,2.0\n", ["0,0,1.0", "1,1,2.0", "2,2,3.0"]),
        ("epoch,step,loss\n0,0,1.0\n1,", ["0,0,1.0", "2,2,3.0"]),
        ("epoch,step,loss\n", ["2,2,3.0"]),
        ("", ["2,2,3.0"]),
        (None, ["2,2,3.0"]),
    ],
)
def test_csv_goes_on_with_what_a_power_loss_or_a_full_disk_left(left, rows, metrics_csv):
    """The newest rows, which may be in memory alone, are in the checkpoint."""
    for step in range(3):
        metrics_csv.log_metrics({"epoch": step, "loss": step + 1.0}, step=step)
    state, path = metrics_csv.state_dict(), metrics_csv.run_dir / "metrics.csv"
    metrics_csv.log_metrics({"epoch": 3, "loss": 4.0}, step=3)
    path.unlink() if left is None else path.write_text(left)
    for _ in range(2):
        again = MetricsCsv()
        again.run_dir = metrics_csv.run_dir
        again.load_state_dict(state)
        assert path.read_text().splitlines() == ["epoch,step,loss", *rows]
        state = again.state_dict()


def test_csv_is_added_to_and_not_written_anew(metrics_csv):
    path = metrics_csv.run_dir / "metrics.csv"
    for step in range(4):
        metrics_csv.log_metrics({"epoch": step, "loss": 1.0}, step=step)
        metrics_csv.log_metrics({"epoch": step, "acc": 0.5}, step=step)
        number = path.stat().st_ino if step else None
        assert number in (None, path.stat().st_ino)
    before = path.read_text()
    metrics_csv.log_metrics({"epoch": 4, "loss": 1.0}, step=4)
    assert path.stat().st_ino == number
    assert path.read_text() == before + "4,4,1.0,\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_csv_waits_in_memory_for_a_full_disk(metrics_csv, capsys):
    import resource

    metrics_csv.log_metrics({"epoch": 0, "loss": 1.0}, step=0)
    path = metrics_csv.run_dir / "metrics.csv"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 4, limits[1]))
    try:  # a write stops after 4 bytes
        for step in range(1, 4):
            metrics_csv.log_metrics({"epoch": step, "loss": 1.0 + step}, step=step)
        metrics_csv.log_metrics({"epoch": 3, "new": 9.0}, step=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = f"warning: metrics wait in memory: {path}: File too large\n"
    assert capsys.readouterr().err == line
    metrics_csv.log_metrics({"epoch": 4, "loss": 5.0}, step=4)
    assert [row["loss"] for row in table(path)] == ["1.0", "2.0", "3.0", "4.0", "5.0"]
    assert [row["new"] for row in table(path)] == ["", "", "", "9.0", ""]
    assert capsys.readouterr().err == ""


def test_a_run_goes_on_without_a_metrics_csv_that_can_be_written(go, tmp_path):
    path = tmp_path / "runs" / "a" / "metrics.csv"
    path.mkdir(parents=True)
    said = go("fit --config configs/digits_mlp.yaml --run a --trainer.max_epochs 3")
    assert said.code == 0
    assert said.metrics["test/acc"] > 0
    assert said.err.count(f"warning: metrics wait in memory: {path}: ") == said.err.count("\n") == 1
    assert (path.parent / "plots" / "confusion_val.png").is_file()
    assert not (path.parent / "plots" / "curves.png").exists()


def test_only_rank_0_writes(metrics_csv, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    metrics_csv.log_metrics({"epoch": 0, "loss": 1.0}, step=0)
    assert not any(metrics_csv.run_dir.iterdir())


def test_tensorboard_writes_into_the_run_folder(tmp_path):
    pytest.importorskip("tensorboard")
    logger = TensorBoard()
    logger.run_dir = tmp_path / "run"
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.finalize("success")
    files = [p.relative_to(tmp_path).parts[:2] for p in tmp_path.rglob("*") if p.is_file()]
    assert set(files) == {("run", "tensorboard")}


def test_git_state(tmp_path, monkeypatch):
    found = git_state()
    if found:
        assert set(found["git"]) == {"commit", "dirty"}
        assert re.fullmatch("[0-9a-f]{40}|\\(initial\\)", found["git"]["commit"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() == {}
