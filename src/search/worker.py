"""What trains one trial after another, in one process that stays warm."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from subprocess import PIPE, STDOUT
from typing import Any

import lightning.pytorch as L
from optuna import Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from src import run_folder
from src.callbacks import Report
from src.cli import CLI, quiet
from src.config import hint
from src.errors import explain
from src.search.results import save
from src.search.space import Space
from src.search.study import LEASE_S, MOST_DEATHS, Study, ended, name_of

MOST_FAILED = 3  # trials, if they outnumber the others; then the search stops
DATA = ("rows", "x", "y", "names", "split", "signature", "statistics")
BATCHING = ("batch_size", "eval_batch_size", "device", "predict_path")  # leaves the rows alone


@dataclass
class Plan:
    """What every worker of a search is told.

    Args:
        path: The search file.
        flags: Options over all files.
        folder: The search's folder.
        storage: Where the study is: a file, or the URL of a database.
        epochs: Epochs of all trials together after which none is begun; 0 for no such bound.
        deadline: Time (`time.time`) at which trials stop.
        started: Time at which the command began.
        argv: The command's words, for a trial in processes of its own.
        threads: CPU threads of a process.
        devices: Devices of a worker.
    """

    path: Path
    flags: list[tuple[str, str]]
    folder: Path
    storage: str
    epochs: int
    deadline: float
    started: float
    argv: list[str]
    threads: int = 1
    devices: int = 1


class Stopped(Exception):
    """The time is over, or the command has ended: another goes on with the trial."""


class Watch(L.Callback):
    """Reports each validation, and stops the run, on all ranks, if that is the answer.

    Args:
        metric: Name of the metric, `val/name`.
        report: Gets epoch, value and whether it is the last; answers why the run stops, or nothing.
    """

    def __init__(self, metric: str, report: Callable[[int, float, bool], str]) -> None:
        self.metric, self.report, self.answer = metric, report, ""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found, epoch = trainer.callback_metrics, trainer.current_epoch + 1
        if self.metric not in found:
            listed = hint(self.metric, [name for name in found if name.startswith("val/")])
            raise ValueError(f"`metric.name`: no {self.metric} is logged{listed}")
        value, answer = found[self.metric].item(), ""
        if not isfinite(value):
            raise FloatingPointError(f"{self.metric} is {value} after epoch {epoch}")
        if trainer.is_global_zero:
            answer = self.report(epoch, value, epoch == trainer.max_epochs)
        self.answer = trainer.strategy.broadcast(answer)
        trainer.should_stop = trainer.should_stop or bool(self.answer)


class TrialCLI(CLI):
    """Trains without a test and without pictures; keeps the rows for the next trial."""

    watch: Watch
    kept: tuple[str, Any] = ("", None)  # the data section, and its LightningDataModule

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        section = self.config["data"].as_dict()
        key = repr({name: value for name, value in section.items() if name not in BATCHING})
        if key == TrialCLI.kept[0] and TrialCLI.kept[1].rows is not None:
            vars(self.datamodule).update({k: getattr(TrialCLI.kept[1], k) for k in DATA})
        TrialCLI.kept = key, self.datamodule

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        callbacks = vars(trainer)["callbacks"]
        callbacks[:] = [self.watch, *(c for c in callbacks if not isinstance(c, Report))]
        return trainer

    def _test_best(self, what: dict[str, Any]) -> None:
        """Nothing: no trial sees the test rows."""


class Worker:
    """Takes trials until there are none.

    Args:
        plan: What it is told.
        is_child: Whether it ends with the process that started it.
    """

    def __init__(self, plan: Plan, is_child: bool) -> None:
        self.plan, self.space = plan, Space(plan.path, plan.flags)
        plan.folder.mkdir(parents=True, exist_ok=True)
        self.study = Study(self.space, plan.folder.name, plan.storage)
        self.parent = os.getppid() if is_child else 0
        os.environ.setdefault("WANDB_RUN_GROUP", plan.folder.name)

    def stop(self, trials: list[FrozenTrial]) -> str:
        """Why no other trial is begun; empty if one is."""
        if self.parent and os.getppid() != self.parent:
            return "the command has ended"
        if time.time() > self.plan.deadline:
            return "the time is over"
        if self.plan.epochs and sum(len(t.intermediate_values) for t in trials) >= self.plan.epochs:
            return "the epochs are spent"
        recent = [t for t in trials if ended(t) >= self.plan.started]
        notes = [t.user_attrs["note"] for t in recent if t.state == TrialState.FAIL]
        if len(notes) >= MOST_FAILED and 2 * len(notes) > len(recent):
            return f"{len(notes)} trials failed, {len(recent) - len(notes)} did not: {notes[-1]}"
        return ""

    def work(self) -> None:
        """Trains trials, and prints a line for each."""
        while trial := self.study.next(self.stop):
            done = threading.Event()
            threading.Thread(target=self._beat, args=(trial, done), daemon=True).start()
            try:
                self._try(trial)
            except Stopped:
                self.study.give_up(trial.number, "lost")
            except (KeyboardInterrupt, SystemExit):
                self.study.give_up(trial.number, "lost")
                raise KeyboardInterrupt from None
            except UpdateFinishedTrialError:
                pass  # this process was away for so long that another has taken it over
            finally:
                done.set()

    def _beat(self, trial: Trial, done: threading.Event) -> None:
        while not done.wait(LEASE_S / 4):
            with suppress(Exception):  # finished, or the storage is away for a while
                trial.set_user_attr("beat", time.time())

    def _try(self, trial: Trial) -> None:
        """Trains one trial, with each seed, and tells what came of it."""
        chosen, start = self.space.suggest(trial), time.time()
        trial.set_user_attr("chosen", chosen)
        attrs, said = trial.user_attrs, io.StringIO()
        values, state, note = [*attrs.get("values", [])], TrialState.COMPLETE, ""
        try:
            if attrs.get("deaths", 0) >= MOST_DEATHS:
                raise MemoryError(f"its worker was killed {MOST_DEATHS} times")
            for seed in range(len(values), self.space.sweep.seeds):
                with redirect_stdout(said), redirect_stderr(said):
                    values.append(self._train(trial.number, seed))
                trial.set_user_attr("values", values)
        except TrialPruned:
            state = TrialState.PRUNED
        except FloatingPointError as error:  # it diverged: a result, too
            state, note = TrialState.PRUNED, str(error)
        except (Stopped, UpdateFinishedTrialError):
            raise
        except Exception as error:
            state, note = TrialState.FAIL, explain(error)[0]
            folder = self.folder(trial.number, 0)
            folder.mkdir(parents=True, exist_ok=True)
            text = said.getvalue() + traceback.format_exc()
            (folder / "error.txt").write_text(text, encoding="utf-8")
        for seed in range(self.space.sweep.seeds):
            for old in self.folder(trial.number, seed).glob("checkpoints/last*"):
                old.unlink()
        trial.set_user_attr("note", note)
        trial.set_user_attr("seconds", attrs.get("seconds", 0) + time.time() - start)
        value = fmean(values) if state == TrialState.COMPLETE else None
        self.study.study.tell(trial, value, state)
        print(self.study.line(trial.number), flush=True)
        save(self.study, self.plan.folder)

    def folder(self, number: int, seed: int) -> Path:
        """The run folder of a trial with one of its seeds."""
        name = name_of(self.study.get(number))
        return self.plan.folder / "trials" / (f"{name}-seed{seed}" if seed else name)

    def _train(self, number: int, seed: int) -> float:
        """One run of a trial; in processes of its own if it takes several devices.

        Raises:
            TrialPruned: It was not good enough to go on.
            Stopped: Another is to go on with it.
        """
        chosen = self.study.get(number).user_attrs["chosen"]
        if self.space.config(chosen).checked()["trainer"].get("devices") in (None, 1, "1", "auto"):
            self.fit(number, seed)
        else:
            words = [sys.executable, "-m", "src", "search", *self.plan.argv, "--one"]
            words.append(f"{number}.{seed}")
            own = subprocess.Popen(words, stdout=PIPE, stderr=STDOUT, text=True)
            try:
                said, _ = own.communicate()
                if own.returncode:
                    raise RuntimeError(said.rstrip().rpartition("\n")[2].removeprefix("error: "))
            finally:
                own.terminate()
        value, answer = self.study.get(number).user_attrs["outcome"]
        if answer == "pruned":
            raise TrialPruned
        if answer:
            raise Stopped
        return float(value)

    def fit(self, number: int, seed: int) -> None:
        """Trains in this process; notes the best value, and why it stopped early, if it did."""
        tree = self.space.config(self.study.get(number).user_attrs["chosen"]).checked()
        tree["seed_everything"] += seed
        threads = {"class_path": "src.callbacks.Threads", "init_args": {"num": self.plan.threads}}
        tree["callbacks"].setdefault("threads", threads)

        def report(epoch: int, value: float, is_last: bool) -> str:
            if seed == 0 and self.study.is_pruned(number, epoch, value) and not is_last:
                return "pruned"
            is_alone = self.parent and os.getppid() != self.parent
            return "stopped" if is_alone or time.time() > self.plan.deadline else ""

        folder = self.folder(number, seed)
        path: Path | None = folder / "checkpoints" / "last.ckpt"
        try:
            checkpoint = run_folder.read_checkpoint(path)
        except (ValueError, FileNotFoundError):
            checkpoint, path = {}, None
            if run_folder.RUN_DIR not in os.environ:  # not another rank's
                shutil.rmtree(folder, ignore_errors=True)
        TrialCLI.watch = Watch(self.space.metric, report)
        with run_folder.opened(folder.parent, folder.name, "", path), quiet():
            cli = TrialCLI("fit", tree, folder, checkpoint)
            cli.execute(path)
        if cli.trainer.is_global_zero:
            best = cli.trainer.checkpoint_callback.best_model_score
            self.study.set(number, "outcome", [best.item(), cli.watch.answer])
            size = sum(p.numel() for p in cli.model.parameters())
            self.study.set(number, "num_weights", size)
