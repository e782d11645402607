"""W&B with and without a key, a network, a terminal."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import wandb
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from pydantic._internal import _docs_extraction, _fields
from wandb.sdk.lib.service import service_port_file
from wandb.util import get_core_path

from src.models.model import Model
from src.tracking import Wandb, wandb_log
from src.tracking.wandb_log import git_state
from tests.conftest import ROOT
from tests.test_tracking import table

KEY = "a" * 40


def test_fit_test_and_resume_share_one_well_formed_table_and_one_id(clean, go, tmp_path):
    logger = "--config configs/logger/wandb.yaml"
    last = tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt"
    words = "configs/digits_mlp.yaml --run a --trainer.max_epochs 2"
    said = [
        go(f"fit --config {words} {logger}"),
        go(f"test --ckpt_path {last}"),
        go(f"fit --ckpt_path {last} --trainer.max_epochs 4 {logger}"),
    ]
    assert [run.code for run in said] == [0, 0, 0]
    path = tmp_path / "runs" / "a" / "metrics.csv"
    with path.open(newline="") as file:
        assert len({len(line) for line in csv.reader(file)}) == 1
    rows = table(path)
    kinds = ["val" if row["val/loss"] else "test" for row in rows]
    assert kinds == ["val", "val", "val", "val", "test"]
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3, 4]
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps))
    assert float(rows[-1]["test/acc"]) == pytest.approx(said[2].metrics["test/acc"], abs=1e-6)
    seen = inspect(tmp_path / "runs")
    assert len(seen) == 2
    assert {run["run_id"] for run in seen} == {(path.parent / "wandb_run_id").read_text()}
    assert {run["name"] for run in seen} == {"a"}
    assert seen[0]["config"]["trainer"]["max_epochs"] == 2
    assert seen[0]["config"]["partition"]["fingerprint"]
    assert seen[1]["summary"]["test/loss"] == float(rows[-1]["test/loss"])
    assert seen[1]["summary"]["trainer/global_step"] == int(rows[-1]["step"])


@pytest.mark.parametrize("wrong", ["--data.source.path nope.csv", "--data.source.target nope"])
def test_wrong_input_leaves_no_run(clean, go, tmp_path, wrong):
    (tmp_path / "x.csv").write_text("a,b\n" + "1,2\n3,4\n" * 50)
    source = f"--data.source.path {tmp_path}/x.csv --data.source.target b"
    logger = "--config configs/logger/wandb.yaml"
    said = go(f"fit --config configs/own_table.yaml {source} {wrong} {logger}")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert not list(tmp_path.rglob("*wandb*"))


def test_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = Wandb()
    logger.run_dir = tmp_path
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.finalize("success")
    assert not any(tmp_path.iterdir())


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """W&B as on a machine it was never used on; asking for a key is a failure."""
    from wandb.sdk.lib.wbauth import prompt

    def asked(**kwargs):
        raise AssertionError("asked for a key")

    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(prompt, "prompt_and_save_api_key", asked)
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


@pytest.fixture
def logger(tmp_path):
    made = Wandb(project="demo")
    made.run_dir = tmp_path / "runs" / "digits-1"
    made.run_dir.mkdir(parents=True)
    return made


MODES = [
    ({}, "", "offline", "no key"),
    ({"WANDB_MODE": "online"}, "", "offline", "no key"),
    ({"WANDB_API_KEY": KEY}, "", "online", None),
    ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "", "offline", "WANDB_MODE=offline"),
    ({"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "", "offline", "WANDB_MODE=dryrun"),
    ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "", "disabled", None),
    ({"WANDB_API_KEY": "abc"}, "", "offline", "WANDB_API_KEY invalid"),
    ({"WANDB_IDENTITY_TOKEN_FILE": "token"}, "", "online", None),
    ({}, "api.wandb.ai", "online", None),
    ({"WANDB_BASE_URL": "https://wandb.firm.example"}, "wandb.firm.example", "online", None),
    ({"WANDB_BASE_URL": "https://wandb.firm.example"}, "other.example", "offline", "no key"),
]


@pytest.mark.parametrize(("env", "netrc", "mode", "why"), MODES)
def test_mode(env, netrc, mode, why, clean, logger, tmp_path, capsys):
    modes = []

    def init(mode, **_):
        modes.append(mode)
        return SimpleNamespace(url="https://there")

    clean.setattr(wandb, "init", init)
    (tmp_path / "token").write_text("x.y.z")
    if netrc:
        (tmp_path / "netrc").write_text(f"machine {netrc} login user password {KEY}\n")
    for name, value in env.items():
        clean.setenv(name, value)
    assert logger.experiment.url
    assert modes == [mode]
    out, err = capsys.readouterr()
    expected = f"W&B: offline ({why}" if why else "W&B: https://there\n"
    if mode == "disabled":
        assert (out, err) == ("", "")
    else:
        assert (out, err[: len(expected)], err.count("\n")) == ("", expected, 1)


def inspect(runs):
    """What `wandb leet inspect` says of each offline run; on a busy machine at a second try."""
    flags = ["-summary", "-json", "-no-observability", "-run-file"]
    found = []
    for log in sorted(runs.glob("wandb/offline-run-*/run-*.wandb")):
        for _ in range(5):
            command = [get_core_path(), "leet", "inspect", *flags, log]
            said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            if said["run_id"]:
                break
            time.sleep(1)
        found.append(said)
    return found


def test_offline_run_is_whole_and_silent(clean, logger, tmp_path, capfd):
    best = logger.run_dir / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    best.write_bytes(b"weights")
    Image.new("L", (4, 4)).save(tmp_path / "image.png")
    logger.log_config({"model": {"net": {"dims": [1, 2]}}, "data": {"path": "x"}})
    for step, loss in enumerate([3.0, 1.0, 2.0]):
        logger.log_metrics({"epoch": step, "val/loss": loss, "val/acc": loss / 4}, step=step)
    logger.log_config({"partition": {"fingerprint": "f00d"}})
    logger.log_table("val/mistakes_table", ["row"], [[7]])
    logger.log_image("val/confusion", [str(tmp_path / "image.png")])
    logger.log_summary({"best/val/loss": 1.0})
    logger.after_save_checkpoint(SimpleNamespace(best_model_path=str(best), save_top_k=1))
    logger.finalize("success")
    logger.log_metrics({"epoch": 3, "test/acc": 0.5}, step=3)
    logger.finalize("success")
    logger.finish()
    runs = tmp_path / "runs"
    out, err = capfd.readouterr()
    assert out == ""
    assert err == (
        "W&B: offline (no key); `wandb leet` shows, `wandb sync` uploads what is in "
        f"{runs / 'wandb'}\n"
    )
    [seen], run_id = inspect(runs), (logger.run_dir / "wandb_run_id").read_text()
    assert (seen["run_id"], seen["name"], seen["project"]) == (run_id, "digits-1", "demo")
    assert (seen["state"], seen["exit_code"]) == ("finished", 0)
    assert seen["config"]["model"] == {"net": {"dims": [1, 2]}}
    assert seen["config"]["data"] == {"path": "x"}
    assert seen["config"]["partition"] == {"fingerprint": "f00d"}
    assert seen["config"].get("git", {}) == git_state().get("git", {})
    summary = seen["summary"]
    assert (summary["val/loss"], summary["best/val/loss"], summary["test/acc"]) == (2.0, 1.0, 0.5)
    assert summary["val/mistakes_table"]["nrows"] == 1
    log = Path(seen["file"]).read_bytes()
    assert log.count(f"model-{run_id}".encode()) == 1
    assert str(best).encode() in log
    assert {p.name for p in runs.iterdir()} == {"wandb", "digits-1"}
    assert not [p for p in runs.rglob("*") if p.suffix in (".py", ".patch")]


def test_runs_follow_each_other_in_one_process_and_a_resumed_one_keeps_its_id(clean, tmp_path):
    ids = []
    for name in ("a", "b", "a"):
        logger = Wandb(project="demo")
        logger.run_dir = tmp_path / "runs" / name
        logger.run_dir.mkdir(parents=True, exist_ok=True)
        logger.log_metrics({"val/loss": 1.0}, step=0)
        ids.append(logger.experiment.id)
        if name == "b":
            logger.finalize("failed")
            assert wandb.run is None
    logger.finish()
    assert ids[0] == ids[2] != ids[1]


def test_a_killed_run_is_the_same_run_when_it_goes_on(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    line = "fit --config configs/digits_mlp.yaml --trainer.max_epochs 3 --run a --resume auto"
    line += " --trainer.logger [MetricsCsv,Wandb]"
    assert fresh(line, (Model, "training_step", 30)) == -signal.SIGKILL
    time.sleep(1.1)  # the name of W&B's folder is of a second
    assert fresh(line) == 0
    kept = (tmp_path / "runs" / "a" / "wandb_run_id").read_text()
    folders = [*(tmp_path / "runs" / "wandb").glob("offline-run-*")]
    assert [folder.name.rpartition("-")[2] for folder in folders] == [kept, kept]


@pytest.mark.parametrize("answers", [False, True])
def test_dead_network_costs_less_than_5_s(answers, clean, logger, capfd):
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        if answers:  # the connection is accepted, and then nothing
            server.listen(50)
        clean.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        clean.setenv("WANDB_API_KEY", KEY)
        started = time.perf_counter()
        logger.log_metrics({"val/loss": 1.0}, step=0)
        assert time.perf_counter() - started < 5
        assert logger.experiment.offline
        logger.finish()
    assert re.match(r"W&B: offline \(.*deadline exceeded\); .*\n$", capfd.readouterr().err)


def test_refused_key_falls_back(clean, logger, capfd):
    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(401)
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        clean.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        clean.setenv("WANDB_API_KEY", KEY)
        logger.log_metrics({"val/loss": 1.0}, step=0)
        assert logger.experiment.offline
        logger.finish()
        server.shutdown()
    assert re.fullmatch(r"W&B: offline \(.*401.*\); .*\n", capfd.readouterr().err)


def use(logger):
    logger.log_config({"a": 1})
    logger.log_metrics({"val/loss": 1.0}, step=0)
    logger.log_summary({"best/val/loss": 1.0})
    logger.log_table("t", ["row"], [[7]])
    logger.log_image("i", [])
    logger.finalize("success")
    logger.finish()


def test_a_start_does_not_import_the_launcher_of_wandb(clean, logger):
    asked = []
    clean.setattr(wandb.Run, "_detect_and_apply_job_inputs", lambda run: asked.append(run))
    assert logger.experiment.id
    assert not asked
    logger.experiment._detect_and_apply_job_inputs()  # it is back
    assert len(asked) == 1
    logger.finish()


@pytest.mark.parametrize("there", [True, False])
def test_a_quick_start_changes_nothing_but_how_often_it_looks(clean, logger, there, capfd):
    if not there:
        clean.setattr(wandb_log, "HELP_TEXTS", "pydantic.elsewhere.extract")  # another version
    clean.setattr(service_port_file, "_SLEEP", time.sleep)
    assert logger.experiment.id
    assert (service_port_file._SLEEP is time.sleep) != there
    assert _fields.extract_docstrings_from_cls is _docs_extraction.extract_docstrings_from_cls
    logger.finish()
    assert capfd.readouterr().err.startswith("W&B: offline (no key)")


def test_a_wandb_that_breaks_costs_one_line(clean, logger, capsys):
    def broken(**kwargs):
        raise RuntimeError("no\nspace left")

    clean.setattr(wandb, "init", broken)
    use(logger)
    assert logger.experiment is None
    line = "warning: the run goes on without W&B: RuntimeError('no\\nspace left')\n"
    assert capsys.readouterr().err == line


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_wandb_whose_process_dies_costs_one_line(clean, logger):
    code = f"""
import os, signal, time
from pathlib import Path
from src.startup import import_lightning
import_lightning()
from src.tracking import Wandb
logger = Wandb(project="demo")
logger.run_dir = Path({str(logger.run_dir)!r})
logger.log_metrics({{"val/loss": 1.0}}, step=0)
children = Path(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children")
for pid in children.read_text().split():
    os.kill(int(pid), signal.SIGKILL)
time.sleep(0.3)
for step in range(1, 50):
    logger.log_metrics({{"val/loss": 1.0}}, step=step)
logger.finish()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, line = done.stderr.splitlines()
    assert line.startswith("warning: the run goes on without W&B: ConnectionResetError")
    assert done.stderr.count("\n") == 2
