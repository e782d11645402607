"""Several fits at a time: the same numbers as one at a time, and the first error."""

import os

import pytest

from src.cli import run
from src.many import fits

WORDS = ["--config", "configs/digits_mlp.yaml", "--trainer.max_epochs", "1"]


def test_fits_are_those_of_the_command_and_not_trained_twice(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FULGURITE_RUN_DIR", "/not/there")  # of the run that asks
    root = f"--trainer.default_root_dir={tmp_path}"
    jobs = [
        [*WORDS, root, "--callbacks.threads=Threads", f"--run={n}", "--resume=auto"] for n in "ab"
    ]
    jobs[1] += ["--model.net.hidden_dims=[8]"]
    found = fits(jobs)
    assert os.environ["FULGURITE_RUN_DIR"] == "/not/there"
    monkeypatch.delenv("FULGURITE_RUN_DIR")
    assert capfd.readouterr() == ("", "")
    words = ["--trainer.logger", "[MetricsCsv]", *jobs[0][:-2], "--run=c"]
    alone = run("fit", words)
    assert found[0]["test/acc"] == alone["test/acc"] != found[1]["test/acc"]
    assert [f["test/acc"] for f in fits(jobs)] == [f["test/acc"] for f in found]
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in "ac"]
    assert len(rows[0]) == len(rows[1]) == 3  # names, an epoch, its test
    assert rows[0][2] == rows[1][2]


def test_one_that_fails_says_which(tmp_path):
    root = f"--trainer.default_root_dir={tmp_path}"
    with pytest.raises(ValueError, match=r"hiden_dims.*did you mean hidden_dims.*\(in: fit .*"):
        fits([[*WORDS, root, "--model.net.hiden_dims=[8]"]])


def test_numbers_that_go_wrong_are_told_from_wrong_words(tmp_path):
    root = f"--trainer.default_root_dir={tmp_path}"
    with pytest.raises(FloatingPointError, match=r"not finite.*\(in: fit .*"):
        fits([[*WORDS, root, "--model.optimizer=SGD", "--model.optimizer.lr=1e30"]])
