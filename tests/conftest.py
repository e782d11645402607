"""Runs in one process: an import of torch and Lightning costs seconds, a small run a tenth."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from src.startup import import_lightning

import_lightning()
ROOT = Path(__file__).parent.parent
os.environ.setdefault("WANDB_MODE", "disabled")
torch.set_num_threads(1)  # two threads under another job's load slow a small net many times


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def metrics(self) -> dict[str, float]:
        """The `split/name value` lines."""
        pairs = (line.split() for line in self.out.splitlines() if "/" in line)
        return {
            p[0]: float(p[1]) for p in pairs if len(p) == 2 and p[0].startswith(("test/", "val/"))
        }

    @property
    def folder(self) -> Path:
        return Path(self.out.rpartition("run folder: ")[2].strip())


def refused(call: Callable[[], object]) -> str:
    """The one line that a call raises about wrong input."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture
def go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """`go("fit --config ...", "--key", value)`, as typed in the project's folder.

    Runs go to `tmp_path/runs`, on the CPU and with metrics.csv alone, or as the words say.
    """
    from src.__main__ import main

    monkeypatch.chdir(ROOT)

    def typed(line: str, *words: object) -> Said:
        argv = [*line.split(), *map(str, words)]
        if argv[0] in ("fit", "test", "validate", "predict"):
            argv += ["--trainer.default_root_dir", str(tmp_path / "runs")]
            if "--trainer.logger" not in argv and "logger" not in line:
                argv += ["--trainer.logger", "[MetricsCsv]"]
            if not any("accelerator" in word for word in argv):
                argv += ["--trainer.accelerator", "cpu"]
        capfd.readouterr()
        code = main(argv)
        return Said(code, *capfd.readouterr())

    return typed


@pytest.fixture
def fresh(tmp_path, monkeypatch, capfd):
    """`fresh(line, at)`: the exit code of a process that runs it, killed at `at`, a place."""
    from src.__main__ import main

    if os.name == "nt":
        pytest.skip("needs fork and signals")

    def run(line, at=None, number=signal.SIGKILL):
        words = [*line.split(), "--trainer.default_root_dir", str(tmp_path / "runs")]
        if pid := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            code = 1
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if at:
                arm(*at, number)
            code = main(words)
        finally:
            os._exit(code)

    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    return run


def arm(thing, name, nth, number):
    """The `nth` call of a method sends this process a signal."""
    calls, method = [], getattr(thing, name)

    def signalled(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            os.kill(os.getpid(), number)
        return method(*args, **kwargs)

    setattr(thing, name, signalled)
