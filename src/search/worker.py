"""What trains one trial after another, in one process that stays warm."""

from __future__ import annotations

import io
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from statistics import fmean
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import lightning.pytorch as L
import torch
from optuna import Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from src import run_folder
from src.callbacks import Report
from src.cli import CLI, pairs, quiet
from src.config import Tree, options
from src.errors import BAD_NUMBERS, INTERRUPTED, explain, hint
from src.many import num_cores
from src.search.compare import fingerprint
from src.search.results import save
from src.search.space import Space, Sweep
from src.search.stacked import MOST_COPIES, Stack, obstacles
from src.search.study import LEASE_S, Study, name_of

MOST_DEATHS = 20  # of workers with one trial, in one epoch of it; then it has failed
MOST_STACKED_DEATHS = 3  # then one that may be the cause is trained alone
MOST_FAILED = 3  # trials, if they outnumber the others; then the search stops
DATA = ("rows", "x", "y", "names", "split", "signature", "statistics")
BATCHING = ("batch_size", "eval_batch_size", "device", "predict_path")  # leaves the rows alone


class Stopped(KeyboardInterrupt):
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
        if not math.isfinite(value):
            raise FloatingPointError(f"{self.metric} is {value} after epoch {epoch}")
        if trainer.is_global_zero:
            answer = self.report(epoch, value, epoch == trainer.max_epochs)
        self.answer = trainer.strategy.broadcast(answer)
        trainer.should_stop = trainer.should_stop or bool(self.answer)


class TrialCLI(CLI):
    """Trains without a test and without pictures; keeps the rows for the next trial."""

    watch: Watch
    stack: Stack | None = None  # of several trials, in the place of one
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
        if self.stack:
            vars(trainer.fit_loop)["run"] = partial(self.stack.run, trainer, self.saved)
        return trainer

    def _test_best(self, what: dict[str, Any]) -> None:
        """Nothing: no trial sees the test rows."""


class Worker:
    """Takes trials until there are none.

    Args:
        argv: The words of the command.
        started: Time (`time.time`) at which it began.
        is_child: Whether to end with the process that started this one.
    """

    def __init__(self, argv: list[str], started: float, is_child: bool) -> None:
        own_names = ("run", "trials", *options(Sweep), *["one"] * ("--one" in argv))
        flags = [*pairs(argv, own_names)]
        own = {name: value for name, value in flags if name in ("config", "run", "one")}
        if "config" not in own:
            raise ValueError("search needs a file: give --config configs/search/NAME.yaml")
        self.space = Space(Path(own["config"]), [flag for flag in flags if flag[0] not in own])
        sweep, trainer = self.space.sweep, self.space.tree["trainer"]
        root = Path(trainer["default_root_dir"], "search")
        name = own.get("run", self.space.path.stem)
        run_folder.check_name(name, f"{root}/")
        self.argv, self.started, self.one = argv, started, own.get("one")
        self.parent = os.getppid() if is_child else 0
        self.deadline = started + 60 * (sweep.minutes or math.inf)
        threads = self.space.tree["callbacks"]["threads"]
        self.threads = threads.args.get("num", 1) if threads else 1
        self.devices = trainer["devices"] if isinstance(trainer["devices"], int) else 1
        self.num_gpus = torch.cuda.device_count() * (trainer.get("accelerator") != "cpu")
        most = (self.num_gpus or num_cores() // self.threads) // max(self.devices, 1)
        self.num_workers = sweep.workers or max(most, 1)
        self.folder = root / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.study = Study(self.space, name, sweep.storage or str(self.folder / "study.journal"))
        self.share = min(-(-(self.study.cap or 1) // self.num_workers), MOST_COPIES)
        why = "it trains on a GPU" if self.num_gpus else next(obstacles(self.space), "")
        why = why or "a worker has one trial" * (self.share == 1)
        if why and sweep.engine == "stacked":
            raise ValueError(f"{self.space.path}: `engine` can't be stacked: {why}")
        is_asked = sweep.engine == "trials"
        self.engine = "trials" if is_asked else f"trials ({why})" if why else "stacked"
        self.stacked: dict[tuple[int, int], float] = {}  # by trial and seed, of a stack

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
        most = self.share if self.engine == "stacked" else 1
        while trials := self.study.several(self.stop, most):
            done = threading.Event()
            threading.Thread(target=self._beat, args=(trials, done), daemon=True).start()
            try:
                if most > 1:
                    self._stack(trials)
                for trial in trials:
                    # else this process was away for so long that another has taken it over
                    with suppress(UpdateFinishedTrialError):
                        self._try(trial)
                save(self.study, self.folder)
            except BaseException as error:
                for trial in trials:
                    self.study.give_up(trial.number, "paused")
                if not isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                if not isinstance(error, Stopped):
                    raise KeyboardInterrupt from None
            finally:
                done.set()

    def _stack(self, trials: list[Trial]) -> None:
        """Trains as many as can be together, by their seeds; `_try` takes what is left."""
        copies: dict[int, list[tuple[Trial, int, Tree]]] = {}
        for trial in trials:
            config = self.space.config(self.space.suggest(trial))
            if trial.user_attrs["deaths"] < MOST_STACKED_DEATHS:
                for seed in range(len(trial.user_attrs.get("values", [])), self.space.sweep.seeds):
                    of = config.tree["seed_everything"] + seed
                    copies.setdefault(of, []).append((trial, seed, config.optimizer()))
        for of, same in copies.items():
            if len(same) == 1:
                continue
            # the last one, which is trained in the ordinary way for an epoch, must not diverge
            same.sort(key=lambda copy: -copy[2].get("lr", 0))
            folders = [self.trial_folder(trial.number, seed) for trial, seed, _ in same]
            stack = TrialCLI.stack = Stack([own for *_, own in same], folders, self.is_over)
            said = io.StringIO()
            try:
                with redirect_stdout(said), redirect_stderr(said):
                    tree = self.space.config(self.space.suggest(same[-1][0])).checked()
                    tree["seed_everything"] = of
                    self._run(tree, folders[-1], None, {}, lambda *_: "")
                for k in stack.best:
                    with suppress(UpdateFinishedTrialError):
                        self._note(stack, k, folders[k], *same[k][:2])
            except Exception as error:
                if self.space.sweep.engine == "stacked":
                    raise
                print(f"no stack of {len(same)} trials: {explain(error)[0]}", flush=True)
                continue
            finally:
                TrialCLI.stack = None
            if self.is_over():
                raise Stopped

    def _note(self, stack: Stack, k: int, folder: Path, trial: Trial, seed: int) -> None:
        """Notes what has come of one of a stack."""
        if seed == 0:
            values = [values[self.space.metric][k].item() for values in stack.history]
            self.study.note(trial.number, dict(enumerate(values, 1)))
        about = {"data": fingerprint(folder), "num_weights": stack.num_weights}
        self.study.set(trial.number, "about", about)
        self.stacked[trial.number, seed] = stack.best[k].score.item()

    def _beat(self, trials: list[Trial], done: threading.Event) -> None:
        while not done.wait(LEASE_S / 4):
            for trial in trials:
                with suppress(Exception):  # finished, or the storage is away for a while
                    trial.set_user_attr("beat", time.time())

    def _try(self, trial: Trial) -> None:
        """Trains one trial, with each seed, and tells what came of it."""
        said, number = io.StringIO(), trial.number
        trial.set_user_attr("chosen", self.space.suggest(trial))
        attrs, state, note = trial.user_attrs, TrialState.COMPLETE, ""
        values = attrs.get("values", [])
        try:
            if attrs["deaths"] >= MOST_DEATHS:
                raise MemoryError(f"its worker was killed {MOST_DEATHS} times")
            for seed in range(len(values), self.space.sweep.seeds):
                with redirect_stdout(said), redirect_stderr(said):
                    values.append(self._train(number, seed))
                trial.set_user_attr("values", values)
        except (TrialPruned, FloatingPointError) as error:  # one that diverges is a result, too
            state, note = TrialState.PRUNED, str(error)
        except UpdateFinishedTrialError:
            raise
        except Exception as error:
            state, note = TrialState.FAIL, explain(error)[0]
            path = self.trial_folder(number, 0) / "error.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(said.getvalue() + traceback.format_exc(), encoding="utf-8")
        trial.set_user_attr("note", note)
        mean = fmean(values) if state == TrialState.COMPLETE else None
        told = self.study.study.tell(trial, mean, state)
        for seed in range(self.space.sweep.seeds):
            for old in self.trial_folder(number, seed).glob("checkpoints/*"):
                if old.name != "best.ckpt":
                    old.unlink()
        print(self.study.line(told), flush=True)

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
        if (number, seed) in self.stacked:
            return self.stacked[number, seed]
        if self.space.config(chosen).checked()["trainer"]["devices"] == 1:
            self.fit(number, seed)
        else:
            words = [sys.executable, "-m", "src", "search", *self.argv, "--one", f"{number}.{seed}"]
            left_s = max(self.deadline - time.time(), 1)
            words += ["--minutes", str(left_s / 60)] * bool(self.space.sweep.minutes)
            with Popen(words, stdout=PIPE, stderr=STDOUT, text=True) as own:
                try:
                    said, _ = own.communicate()
                finally:
                    own.terminate()
            if own.returncode == INTERRUPTED:
                raise KeyboardInterrupt
            if own.returncode:
                print(said)
                kind = FloatingPointError if own.returncode == BAD_NUMBERS else ValueError
                raise kind(said.rstrip().rpartition("\n")[2].removeprefix("error: "))
        value, answer = self.study.get(number).user_attrs["outcome"]
        if answer:
            raise TrialPruned if answer == "pruned" else Stopped
        return float(value)

    def fit(self, number: int, seed: int) -> None:
        """Trains in this process; notes the best value, and why it stopped early, if it did."""
        tree = self.space.config(self.study.get(number).user_attrs["chosen"]).checked()
        tree["seed_everything"] += seed

        def report(epoch: int, value: float, is_last: bool) -> str:
            is_pruned = seed == 0 and self.study.is_pruned(number, epoch, value)
            return "" if is_last else "pruned" if is_pruned else "stopped" * self.is_over()

        folder = self.trial_folder(number, seed)
        last, checkpoint = folder / "checkpoints" / "last.ckpt", dict[str, Any]()
        with suppress(ValueError, FileNotFoundError):  # else it begins anew, in the same folder
            checkpoint = run_folder.read_checkpoint(last)
        path = last if checkpoint else None
        cli = self._run(tree, folder, path, checkpoint, report)
        if cli.trainer.is_global_zero:
            score = vars(cli.trainer.checkpoint_callback)["best_model_score"]
            best = None if score is None else score.item()  # pruned before it was saved
            size = sum(p.numel() for p in cli.model.parameters())
            self.study.set(number, "outcome", [best, cli.watch.answer])
            self.study.set(number, "about", {"data": fingerprint(folder), "num_weights": size})

    def _run(
        self, tree: Tree, folder: Path, path: Path | None, checkpoint: Tree, report: Callable
    ) -> TrialCLI:
        TrialCLI.watch = Watch(self.space.metric, report)
        with run_folder.opened(folder.parent, folder.name, "", path, resumes=True), quiet():
            cli = TrialCLI("fit", tree, folder, checkpoint)
            cli.execute(path)
        return cli
