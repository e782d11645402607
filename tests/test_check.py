# ruff: noqa: E501 (a wrong command a line)
"""Whether a change is better: the numbers, the verdict, and what can't be compared."""

import csv
import os
import re
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from scipy.stats import ttest_rel

from src.callbacks import Report
from src.cli import merged, run
from src.config import Config
from src.search import check
from tests.conftest import ROOT

SHORT = "--trainer.max_epochs 2 --trainer.limit_train_batches 6 --model.optimizer.lr 0.01"


@pytest.fixture
def fitted(monkeypatch):
    """The words of each run: those are trained in this process, else as ever."""
    jobs = []

    def fits(words):
        jobs.extend(words)
        with redirect_stdout(StringIO()):
            return [run("fit", ["--trainer.logger", "[MetricsCsv]", *job]) for job in words]

    monkeypatch.setattr(check, "fits", fits)
    monkeypatch.setattr(Report, "_write", lambda *_: None)
    return jobs


@pytest.fixture
def base(go, fitted, tmp_path):
    """A run folder to compare with, and `typed(words ...)`, a check of a change of it."""
    said = go(f"fit --config {ROOT}/configs/digits_mlp.yaml --run base {SHORT}")
    assert said.code == 0, said.err
    root = "--trainer.default_root_dir", tmp_path / "runs"
    return lambda words: go(f"check --baseline {tmp_path}/runs/base {words}", *root)


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_worse_better_and_no_difference(base, fitted, go, tmp_path):
    folder = tmp_path / "runs" / "check" / "base"
    said = base("--model.net.hidden_dims [2] --seeds 3")
    assert said.code == 3, said.err
    assert len(fitted) == 6
    rows = table(folder / "check.csv")
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    for row in rows:
        for side in ("baseline", "changed"):
            [own] = folder.glob(f"{side}-*-{row['seed']}")
            assert float(row[side]) == min(
                float(r["val/loss"] or 9) for r in table(own / "metrics.csv")
            )
    old, new = ([float(row[side]) for row in rows] for side in ("baseline", "changed"))
    [alone] = table(tmp_path / "runs" / "base" / "metrics.csv")[1:2]
    assert old[0] == pytest.approx(float(alone["val/loss"]), rel=1e-5)
    known = ttest_rel(new, old).confidence_interval(0.95)
    mean, low, high = map(
        float, re.search(r"= (\S+), 95% interval (\S+) to (\S+) \(paired t, 3", said.out).groups()
    )
    assert (mean, low, high) == pytest.approx((np.mean(new) - np.mean(old), *known), rel=1e-3)
    assert low > 0
    assert re.search(r"\nworse  \([\d.]+ s, ", said.out)
    assert "trained for max_epochs 2, limit_train_batches 6" in said.out
    assert "test/" not in said.out
    head, *cells = (re.split("  +", line) for line in said.out.splitlines()[1:4])
    assert [cell[1] for cell in cells] == ["baseline", "changed"]
    assert [cell[head.index("hidden_dims")] for cell in cells] == ["[128, 64]", "[2]"]
    assert int(cells[1][head.index("num_weights")]) == 64 * 2 + 2 + 2 * 10 + 10

    del fitted[:]
    said = base("--model.net.hidden_dims [2] --seeds 4 --metric test/acc")
    assert said.code == 3
    assert (
        sorted(word for job in fitted for word in job if "seed" in word)
        == ["--seed_everything=3"] * 2
    )
    assert "test/acc, more is better: changed - baseline = -0." in said.out
    [own] = folder.glob("changed-*-3")
    assert float(table(folder / "check.csv")[3]["changed"]) == float(
        table(own / "metrics.csv")[-1]["test/acc"]
    )

    [other] = folder.glob("changed-*-0")
    words = (
        f"check --baseline {other}/config.yaml --config {tmp_path}/runs/base/config.yaml --seeds 2"
    )
    said = go(words, "--demand", "better", "--trainer.default_root_dir", tmp_path / "runs")
    assert said.code == 0, said.err
    assert "\nbetter  (" in said.out

    said = base("--data.eval_batch_size 8 --seeds 2")
    assert said.code == 0, said.err
    assert "= +0, 95% interval +0 to +0 (paired t, 2 seeds)\nno difference  (" in said.out
    assert base("--data.eval_batch_size 8 --seeds 2 --demand better").code == 3


@pytest.mark.parametrize(("words", "line", "num"), [
    ("", "the change changes nothing: give --config FILE or --KEY VALUE", 0),
    ("--seed_everything 1", "the change changes nothing: ...", 0),
    ("--seeds 1 --model.compile true", "--seeds 1 is not 2 or more: one pair has no spread", 0),
    ("--demand best", "check takes --baseline RUN or CONFIG, and perhaps --demand better", 0),
    ("--demnad better", "`demnad`: there is no such key; did you mean demand? ...", 0),
    ("--data.eval_batch_size 8 --metric val/acuracy", "no val/acuracy in {runs}/...", 2),
    ("--config {configs}/wine_mlp.yaml --trainer.limit_train_batches 6", "the baseline is trained for max_epochs 2, limit_train_batches 6, the change for max_epochs 40, limit_train_batches 6: give --trainer.max_epochs N, say, which is for both", 0),
    ("--data.partition.seed 1", "no verdict: the val rows of the change are not those of the baseline, so other rows judge it: change the train rows alone", 2),
    ("--callbacks.checkpoint.mode max", "`mode` of the callback Checkpoint is max, but less val/loss is better: leave it out", 2),
])  # fmt: skip
def test_what_is_not_compared(base, fitted, tmp_path, words, line, num):
    said = base(words.replace("{configs}", f"{ROOT}/configs"))
    expected = "error: " + line.replace("{runs}", str(tmp_path / "runs"))
    assert said.err.startswith(expected.removesuffix("..."))
    assert said.err.count("\n") == 1
    assert said.code == 2
    assert len(fitted) == num, "what can't be compared is known after two runs"


def test_an_interrupted_check_says_how_to_go_on(base, monkeypatch):
    def fits(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "fits", fits)
    said = base("--model.net.norm batch")
    assert said.code == 75
    assert "go on with: python -m src check --baseline" in said.err
    assert "--model.net.norm batch" in said.err


def test_more_train_rows_are_a_change_and_other_val_rows_are_not(go, fitted, tmp_path):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(300, 5)).astype("f4"), draw.integers(0, 2, 300)
    x[:, 0] += 3 * y
    held = {"x_val": x[200:250], "y_val": y[200:250], "x_test": x[250:], "y_test": y[250:]}
    np.savez(tmp_path / "few.npz", x=x[:20], y=y[:20], **held)
    np.savez(tmp_path / "many.npz", x=x[:200], y=y[:200], **held)
    np.savez(tmp_path / "other.npz", x=x[:200], y=y[:200], **held | {"y_val": 1 - y[200:250]})
    config = tmp_path / "c.yaml"
    text = "data: {source: {Arrays: {path: %s}}}\nmodel: {Classifier: {net: MLP, optimizer: AdamW}}"
    config.write_text(text % (tmp_path / "few.npz"))
    root = f"--trainer.max_epochs 3 --trainer.default_root_dir {tmp_path}/runs --seeds 2"
    said = go(f"check --baseline {config} --data.source.path {tmp_path}/many.npz {root}")
    assert said.code == 0, said.err
    assert "data" not in said.out.splitlines()[0]
    assert "no difference" in said.out or "better" in said.out
    said = go(f"check --baseline {config} --data.source.path {tmp_path}/other.npz {root}")
    assert said.code == 2
    assert "no verdict: the val rows of the change are not those" in said.err
    assert len(fitted) == 5, "the baseline's runs serve both"

    config_ = Config()
    config_.add_file(config)
    tree = config_.checked()
    first = check.digest(tree)
    assert check.digest(tree) == first
    (tmp_path / "few.npz").touch()
    assert check.digest(tree) != first, "data that was written since"


def test_another_order_of_flags_is_the_same_and_other_files_are_another(base, fitted, tmp_path):
    one = merged(Config(), [], [("model.optimizer.lr", "0.1"), ("model.optimizer", "SGD")])
    assert one.tree["model"].args["optimizer"].args == {"lr": 0.1}
    (folder := tmp_path / "d").mkdir()
    np.save(folder / "x.npy", np.zeros(3))
    tree = {"data": {"source": {"path": str(folder)}}, "model": {}}
    before = check.digest(tree)
    np.save(folder / "x.npy", np.ones(3))
    os.utime(folder / "x.npy", ns=(1, 1))
    assert check.digest(tree) != before
    said = base("--run ../x --model.net.dropout 0.5")
    assert said.err == "error: --run '../x' is not the name of a folder below runs/check/\n"
