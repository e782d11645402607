"""The study that all workers share: which trial comes next, whether it goes on, what came of it.

A journal file has no transactions. What is sure is the order of its lines, and that a trial is
finished once. So each trial stands for a *point*; of several trials of a point the first counts,
the others are `gone`: lost with their worker, paused, or surplus. Whatever is killed in between,
the next worker finds a point that no trial stands for.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.errors import short
from src.search.compare import brief
from src.search.space import Space

LEASE_S = 60.0  # after so long without a sign of life a worker on another machine counts as dead
POLL_S = 0.5
HOST = socket.gethostname()
LABELS = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned"}  # in this order
LABELS |= {TrialState.RUNNING: "unfinished", TrialState.FAIL: "failed"}
optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """A study of Optuna.

    Args:
        space: The search.
        name: Its name in the storage.
        storage: A file, or the URL of a database.

    Raises:
        ValueError: The storage can't be used, or holds another search of that name.
    """

    def __init__(self, space: Space, name: str, storage: str) -> None:
        self.space, self.seen, sweep = space, dict[int, tuple[Any, float]](), space.sweep
        self.points = [*space.grid()] if sweep.method == "grid" else []
        self.cap = min(filter(None, (sweep.run_cap, len(self.points))), default=None)
        self.pruner: BasePruner = NopPruner()
        if (halving := space.halving) is not None:
            self.pruner = SuccessiveHalvingPruner(halving.min_iter, halving.eta)
        how: Any = {"direction": "minimize" if space.minimizes else "maximize"}
        for again in (True, True, False):
            try:
                how["storage"] = storage if "://" in storage else journal(Path(storage))
                self.study = optuna.create_study(study_name=name, load_if_exists=True, **how)
                break
            except Exception as error:  # of the database, too
                if again and "already exists" in str(error):  # others make its tables now
                    time.sleep(1)
                    continue
                what = f"storage {storage} does not work: {short(error)}"
                raise ValueError(hidden(what)) from None
        self.storage: BaseStorage = self.study._storage
        trainer = space.tree["trainer"] | {"default_root_dir": ""}  # each machine may have its own
        same = sweep.method, sweep.metric, sweep.parameters, sweep.seeds
        known = self.study.user_attrs
        for what, of in {"parameters": same, "options": space.tree | {"trainer": trainer}}.items():
            digest = hashlib.sha256(repr(of).encode()).hexdigest()
            if what not in known:
                self.study.set_user_attr(what, digest)
            elif known[what] != digest:
                begun = f"the search {name} was begun with other {what}"
                raise ValueError(f"{space.path}: {begun}: name a new one with --run NAME")

    def trials(self) -> list[FrozenTrial]:
        """All that count, in the order of their points; the first of each point."""
        found: dict[int, FrozenTrial] = {}
        for trial in self._all():
            if trial.state != TrialState.FAIL or "gone" not in trial.user_attrs:
                found.setdefault(trial.user_attrs["point"], trial)
        return [found[key] for key in sorted(found)]

    def _all(self) -> list[FrozenTrial]:
        """All of ours: `optuna-dashboard` may have added some."""
        there = self.study.get_trials(deepcopy=False)
        return [trial for trial in there if "point" in trial.user_attrs]

    def several(self, stop: Callable[[list[FrozenTrial]], str], most: int) -> list[optuna.Trial]:
        """The next trials for this worker, none at the end; waits where only others have some.

        Args:
            stop: Why no other trial is begun, of those that there are; empty if one is.
            most: How many, 1 or more.
        """
        while True:
            self._bury()
            trials = self.trials()
            if stop(trials):
                return []
            there = {trial.user_attrs["point"] for trial in trials}
            if free := {*range(self.cap or len(there) + most)} - there:
                begun = [self._begin(point) for point in sorted(free)[:most]]
                first = [trial.number for trial in self.trials()]
                for trial in begun:
                    if trial.number not in first:
                        self.give_up(trial.number, "surplus")
                if ours := [trial for trial in begun if trial.number in first]:
                    return ours
            elif all(trial.state.is_finished() for trial in trials):
                return []
            else:
                time.sleep(POLL_S)

    def _begin(self, point: int) -> optuna.Trial:
        """A trial, which goes on where those that were lost or paused had come to.

        What it draws depends on its point and the trials before, not on who asks.
        """
        system: dict[str, Any] = {"fixed_params": self.points[point]} if self.points else {}
        attrs: dict[str, Any] = {"point": point, "owner": f"{HOST}:{os.getpid()}", "deaths": 0}
        epochs: dict[int, float] = {}
        for old in self._all():
            known, how = old.user_attrs, old.user_attrs.get("gone")
            if known["point"] == point and how in ("lost", "paused"):
                is_stuck = how == "lost" and len(old.intermediate_values) == len(epochs)
                attrs["deaths"] = attrs["deaths"] + 1 if is_stuck else 0
                attrs |= {"values": known["values"]} if "values" in known else {}
                epochs |= old.intermediate_values
                system |= old.system_attrs  # which rungs it has passed
                if "chosen" in known:  # all params
                    system["fixed_params"] = old.params
        words: Any = {"system_attrs": system, "user_attrs": attrs}
        new = create_trial(state=TrialState.RUNNING, intermediate_values=epochs, **words)
        trial_id = self.storage.create_new_trial(self.study._study_id, new)
        kind: Any = TPESampler if self.space.sweep.method == "bayes" else RandomSampler
        seed = self.space.tree["seed_everything"] * 1_000_003 + point
        how_: Any = {"study_name": self.study.study_name, "storage": self.storage}
        study = optuna.load_study(**how_, sampler=kind(seed=seed % 2**32))
        return optuna.Trial(study, trial_id)

    def _bury(self) -> None:
        """Gives up the trials whose workers are dead."""
        for trial in self._all():
            if trial.state != TrialState.RUNNING:
                continue
            host, _, pid = trial.user_attrs["owner"].rpartition(":")
            beat = trial.user_attrs.get("beat"), len(trial.intermediate_values)
            last, since = self.seen.get(trial.number, (None, 0.0))
            if beat != last:
                self.seen[trial.number] = beat, time.monotonic()
            is_silent = beat == last and time.monotonic() - since > LEASE_S
            if is_silent or (host == HOST and not is_alive(int(pid))):
                self.give_up(trial.number, "lost")

    def give_up(self, number: int, how: str) -> None:
        """Marks a trial as `lost` or `paused`, for another to go on with, or as `surplus`."""
        with suppress(RuntimeError, ValueError):  # another did so, or it has just finished
            self.set(number, "gone", how)
            self.study.tell(number, state=TrialState.FAIL)

    def set(self, number: int, name: str, value: Any) -> None:
        self.storage.set_trial_user_attr(self._id(number), name, value)

    def get(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)

    def note(self, number: int, values: dict[int, float]) -> None:
        """Notes the values of epochs, those that it doesn't know yet."""
        trial_id = self._id(number)
        for epoch in values.keys() - self.get(number).intermediate_values.keys():
            self.storage.set_trial_intermediate_value(trial_id, epoch, values[epoch])

    def is_pruned(self, number: int, epoch: int, value: float) -> bool:
        """Notes the value of an epoch; whether the trial stops there: successive halving.

        Source: L. Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020.
        """
        self.note(number, {epoch: value})
        counted: Any = copy(self.study)  # of several trials of a point, one competes
        counted.get_trials = lambda deepcopy: self.trials()
        return self.pruner.prune(counted, self.get(number))

    def best_value(self, trial: FrozenTrial) -> float | None:
        """The mean over the seeds; of a trial that did not get so far, its best epoch."""
        if trial.state == TrialState.COMPLETE:
            return trial.value
        best = min if self.space.minimizes else max
        return best(trial.intermediate_values.values(), default=None)

    def order(self, trial: FrozenTrial) -> tuple[int, float]:
        """To sort by, the best first."""
        value = self.best_value(trial)
        turned = math.inf if value is None else value if self.space.minimizes else -value
        return [*LABELS].index(trial.state), turned

    def line(self, trial: FrozenTrial) -> str:
        """What came of a trial, in one line."""
        attrs, value = trial.user_attrs, self.best_value(trial)
        shown = "" if value is None else f"  {self.space.metric} {value:.4g}"
        head = f"trial {name_of(trial)}  {LABELS[trial.state]:<6}{shown}"
        chosen = [f"{k.rpartition('.')[2]} {brief(v)}" for k, v in attrs["chosen"].items()]
        spent = f"epochs {len(trial.intermediate_values)}", f"{seconds(trial):.1f} s"
        return "  ".join([head, *spent, *chosen, attrs["note"]]).rstrip()


def name_of(trial: FrozenTrial) -> str:
    """What a trial is called, as its folder is."""
    return f"{trial.user_attrs['point']:04d}"


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0) if os.name == "posix" else None
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # but somebody else's
    return True


def journal(path: Path) -> JournalStorage:
    """A file as storage; half a line, of a full disk or a power cut, would make it unreadable."""
    lock = JournalFileOpenLock(str(path), grace_period=5)  # s; whoever holds it may be killed
    backend = JournalFileBackend(str(path), lock)
    lock.acquire()
    if (text := path.read_bytes())[-1:] not in (b"", b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1)
    lock.release()
    return JournalStorage(backend)


def hidden(text: str) -> str:
    """`text` without the password of a database's URL."""
    return re.sub(r"(://[^:/@\s]*:)\S+(?=@)|(password=)[^&\s']+", r"\1\2***", text)


def seconds(trial: FrozenTrial) -> float:
    """How long a trial took, since it was last gone on with."""
    return trial.duration.total_seconds() if trial.duration else 0.0
