"""What trains one trial after another, in one process that stays warm."""

from __future__ import annotations

import io
import math
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from statistics import fmean
from subprocess import PIPE, STDOUT

import torch
from optuna import Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from src import run_folder
from src.cli import pairs, quiet
from src.errors import explain
from src.search.compare import fingerprint
from src.search.results import save
from src.search.space import Space
from src.search.study import HOST, LEASE_S, Study, name_of
from src.search.trial import TrialCLI, Watch

MOST_DEATHS = 20  # of workers with one trial; then it has failed
MOST_FAILED = 3  # trials, if they outnumber the others; then the search stops


class Stopped(Exception):
    """The time is over, or the command has ended: another goes on with the trial."""


class Worker:
    """Takes trials until there are none.

    Args:
        argv: The words of the command.
        started: Time (`time.time`) at which it began.
        is_child: Whether to end with the process that started this one.
    """

    def __init__(self, argv: list[str], started: float, is_child: bool) -> None:
        flags = [*pairs(argv)]
        own = {name: value for name, value in flags if name in ("config", "run", "one")}
        if "config" not in own:
            raise ValueError("search needs a file: give --config configs/search/NAME.yaml")
        self.space = Space(Path(own["config"]), [flag for flag in flags if flag[0] not in own])
        sweep, trainer = self.space.sweep, self.space.tree["trainer"]
        root, name = (
            Path(trainer["default_root_dir"], "search"),
            own.get("run", self.space.path.stem),
        )
        if Path(name).name != name:
            raise ValueError(f"--run {name!r} is not the name of a folder below {root}/")
        self.argv, self.started, self.one = argv, started, own.get("one")
        self.parent = os.getppid() if is_child else 0
        self.deadline = started + 60 * (sweep.minutes or math.inf)
        self.devices = trainer.get("devices") if isinstance(trainer.get("devices"), int) else 1
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        most = (torch.cuda.device_count() or cores) // self.devices
        self.num_workers = sweep.workers or max(most, 1)
        self.threads = max(cores // (self.num_workers * self.devices), 1)
        self.folder = root / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.study = Study(self.space, name, sweep.storage or str(self.folder / "study.journal"))
        os.environ.setdefault("WANDB_RUN_GROUP", name)

    def stop(self, trials: list[FrozenTrial]) -> str:
        """Why no other trial is begun; empty if one is."""
        if self.is_over():
            return "the time is over"
        num_epochs = sum(len(trial.intermediate_values) for trial in trials)
        if num_epochs >= (self.space.sweep.epochs or math.inf):
            return "the epochs are spent"
        ended = [trial for trial in trials if trial.datetime_complete]
        recent = [t for t in ended if t.datetime_complete.timestamp() >= self.started]  # type: ignore[union-attr]
        notes = [t.user_attrs["note"] for t in recent if t.state == TrialState.FAIL]
        if len(notes) >= MOST_FAILED and 2 * len(notes) > len(recent):
            return f"{len(notes)} trials failed, {len(recent) - len(notes)} did not: {notes[-1]}"
        return ""

    def is_over(self) -> bool:
        """Whether the time is, or the command that started this process."""
        return self.parent not in (0, os.getppid()) or time.time() > self.deadline

    def work(self) -> None:
        """Trains trials, and prints a line for each."""
        while trial := self.study.next(self.stop):
            done = threading.Event()
            threading.Thread(target=self._beat, args=(trial, done), daemon=True).start()
            try:
                self._try(trial)
            except UpdateFinishedTrialError:
                pass  # this process was away for so long that another has taken it over
            except (Stopped, KeyboardInterrupt, SystemExit) as error:
                self.study.give_up(trial.number, "lost")
                if not isinstance(error, Stopped):
                    raise KeyboardInterrupt from None
            finally:
                done.set()

    def _beat(self, trial: Trial, done: threading.Event) -> None:
        while not done.wait(LEASE_S / 4):
            with suppress(Exception):  # finished, or the storage is away for a while
                trial.set_user_attr("beat", time.time())

    def _try(self, trial: Trial) -> None:
        """Trains one trial, with each seed, and tells what came of it."""
        start, said, number = time.time(), io.StringIO(), trial.number
        trial.set_user_attr("chosen", self.space.suggest(trial))
        attrs, state, note = trial.user_attrs, TrialState.COMPLETE, ""
        values = [*attrs.get("values", [])]
        try:
            if attrs["deaths"] >= MOST_DEATHS:
                raise MemoryError(f"its worker was killed {MOST_DEATHS} times")
            for seed in range(len(values), self.space.sweep.seeds):
                with redirect_stdout(said), redirect_stderr(said):
                    values.append(self._train(number, seed))
                trial.set_user_attr("values", values)
        except TrialPruned:
            state = TrialState.PRUNED
        except FloatingPointError as error:  # it diverged: a result, too
            state, note = TrialState.PRUNED, str(error)
        except (Stopped, UpdateFinishedTrialError):
            raise
        except Exception as error:
            state, note = TrialState.FAIL, explain(error)[0]
            path = self.trial_folder(number, 0) / "error.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(said.getvalue() + traceback.format_exc(), encoding="utf-8")
        for seed in range(self.space.sweep.seeds):
            for old in self.trial_folder(number, seed).glob("checkpoints/last*"):
                old.unlink()
        trial.set_user_attr("note", note)
        trial.set_user_attr("seconds", attrs.get("seconds", 0) + time.time() - start)
        self.study.study.tell(trial, fmean(values) if state == TrialState.COMPLETE else None, state)
        print(self.study.line(number), flush=True)
        save(self.study, self.folder)

    def trial_folder(self, number: int, seed: int) -> Path:
        name = name_of(self.study.get(number))
        return self.folder / "trials" / (f"{name}-seed{seed}" if seed else name)

    def _train(self, number: int, seed: int) -> float:
        """One run of a trial, in processes of its own if it takes several devices; its best value.

        Raises:
            TrialPruned: It was not good enough to go on.
            Stopped: Another is to go on with it.
        """
        chosen = self.study.get(number).user_attrs["chosen"]
        if self.space.config(chosen).checked()["trainer"].get("devices") in (None, 1, "1", "auto"):
            self.fit(number, seed)
        else:
            words = [sys.executable, "-m", "src", "search", *self.argv, "--one", f"{number}.{seed}"]
            own = subprocess.Popen(words, stdout=PIPE, stderr=STDOUT, text=True)
            try:
                said, _ = own.communicate()
            finally:
                own.terminate()
            if own.returncode:
                raise RuntimeError(said.rstrip().rpartition("\n")[2].removeprefix("error: "))
        value, answer = self.study.get(number).user_attrs["outcome"]
        if answer:
            raise {"pruned": TrialPruned, "stopped": Stopped}[answer]
        return float(value)

    def fit(self, number: int, seed: int) -> None:
        """Trains in this process; notes the best value, and why it stopped early, if it did."""
        tree = self.space.config(self.study.get(number).user_attrs["chosen"]).checked()
        tree["seed_everything"] += seed
        threads = {"class_path": "src.callbacks.Threads", "init_args": {"num": self.threads}}
        tree["callbacks"].setdefault("threads", threads)

        def report(epoch: int, value: float, is_last: bool) -> str:
            if seed == 0 and self.study.is_pruned(number, epoch, value) and not is_last:
                return "pruned"
            return "stopped" if self.is_over() else ""

        folder = self.trial_folder(number, seed)
        last, checkpoint = folder / "checkpoints" / "last.ckpt", {}
        try:
            checkpoint = run_folder.read_checkpoint(last)
        except (ValueError, FileNotFoundError):
            if run_folder.RUN_DIR not in os.environ:  # not another rank's
                shutil.rmtree(folder, ignore_errors=True)
        path = last if checkpoint else None
        TrialCLI.watch = Watch(self.space.metric, report)
        with run_folder.opened(folder.parent, folder.name, "", path), quiet():
            cli = TrialCLI("fit", tree, folder, checkpoint)
            cli.execute(path)
        if cli.trainer.is_global_zero:
            score = vars(cli.trainer.checkpoint_callback)["best_model_score"]
            best = None if score is None else score.item()  # pruned before it was saved
            self.study.set(number, "outcome", [best, cli.watch.answer])
            size = sum(p.numel() for p in cli.model.parameters())
            about = {"data": fingerprint(folder), "host": HOST, "num_weights": size}
            self.study.set(number, "about", about)
