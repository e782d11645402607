"""`scripts/slurm.sh` under bash, with programs that stand in for those of SLURM."""

import os
import re
import subprocess
import sys

import pytest

from src.durable import load
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SLURM is not for Windows")
SCRIPT = ROOT / "scripts" / "slurm.sh"
# SLURM sends the signal of `#SBATCH --signal` to the tasks, not to the script.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
words = [word for word in sys.argv[1:] if not word.startswith("--cpus-per-task=")]
assert words[0] == ".venv/bin/python", words
if code := os.environ.get("CODE"):
    sys.exit(int(code))
tasks = []
for number in range(int(os.environ["SLURM_NTASKS"])):
    rank = {{"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "SLURM_NODEID": "0"}}
    pipe = None if number else subprocess.PIPE
    command = [sys.executable, *words[1:]]
    tasks.append(subprocess.Popen(command, stdout=pipe, text=True, env=os.environ | rank))
for line in tasks[0].stdout:
    print(line, end="", flush=True)
    if line.startswith("epoch 2/") and os.environ.get("TIME_IS_UP"):
        [task.send_signal(signal.SIGUSR1) for task in tasks]
sys.exit(max(task.wait() for task in tasks))
"""
JOB = str(os.getpid())  # also gives the port
SCONTROL = '#!/bin/sh\necho "$@" >> "$ASKED"\n'


@pytest.fixture
def job(tmp_path):
    """`job(words, **environment)`: a turn of the job in the queue, and what it asked of SLURM."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    spooled = tmp_path / "slurm_script"  # what runs is a copy
    spooled.write_bytes(SCRIPT.read_bytes())
    asked = tmp_path / "asked"
    given = {
        "SLURM_JOB_ID": JOB, "SLURM_JOB_NAME": "job", "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_CPUS_PER_TASK": "1", "SLURM_NODELIST": "localhost",
        "SLURM_JOB_NODELIST": "localhost", "ASKED": str(asked),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }  # fmt: skip

    def turn(*words, **environment):
        asked.write_text("")
        done = subprocess.run(
            ["bash", spooled, *words], cwd=tmp_path, capture_output=True, text=True, timeout=240,
            env={**os.environ, **given, **environment},
        )  # fmt: skip
        return done, asked.read_text()

    return turn


@pytest.mark.parametrize("code", [0, 1, 2, 75, 76, 137])
def test_only_a_run_that_was_interrupted_goes_back_to_the_queue(code, job):
    done, asked = job("configs/digits_mlp.yaml", CODE=str(code))
    assert (done.returncode, asked) == (code, f"requeue {JOB}\n" * (code == 75)), done.stderr


def test_it_is_submitted_with_a_config(job):
    assert "give a config" in job()[0].stderr
    assert "submit this script with sbatch" in job(SLURM_SUBMIT_DIR="")[0].stderr


def test_a_job_whose_time_is_up_goes_on_in_its_next_turn(job, tmp_path):
    words = ["configs/digits_mlp.yaml", "--trainer.accelerator", "cpu", "--trainer.precision"]
    words += ["32-true", "--trainer.max_epochs", "6", "--trainer.logger", "[MetricsCsv]"]
    words += ["--trainer.default_root_dir", str(tmp_path / "runs")]
    last = tmp_path / "runs" / f"digits_mlp-{JOB}" / "checkpoints" / "last.ckpt"
    done, asked = job(*words, TIME_IS_UP="yes")
    assert (done.returncode, asked) == (75, f"requeue {JOB}\n"), done.stderr
    assert "epoch 6/6" not in done.stdout
    assert 20 <= load(last)["global_step"] < 60, "two epochs of ten steps, or some more"
    done, asked = job(*words)
    assert (done.returncode, asked) == (0, ""), done.stderr
    assert "epoch 1/6" not in done.stdout
    assert "epoch 6/6" in done.stdout
    assert load(last)["global_step"] == 60
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"digits_mlp-{JOB}"]
    assert {path.name.partition(".")[0] for path in last.parent.iterdir()} == {"best", "last"}


def test_slurm_is_told_to_warn_and_to_requeue():
    """What SLURM itself does with these lines no test here can show."""
    told = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)", SCRIPT.read_text("utf-8"), re.M))
    assert told["signal"] == "SIGUSR1@120", "to the tasks: with B: it would reach bash alone"
    assert {"requeue", "open-mode"} <= told.keys()
