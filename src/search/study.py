"""The study that all workers share: which trial comes next, whether it goes on, what came of it.

A journal file has no transactions. What is sure is the order of its lines, that a waiting trial is
taken by one worker alone, and that a trial is finished once. So each trial stands for a *point*; of
several trials of a point the first counts, the others are `gone`: lost with their worker, or
surplus. Whatever is killed in between, the next worker finds a point that no trial stands for.
"""

from __future__ import annotations

import hashlib
import math
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from src.search.compare import brief
from src.search.space import Space

LEASE_S = 60.0  # after so long without a sign of life a worker on another machine counts as dead
POLL_S = 0.5
MOST_DEATHS = 5  # of workers at one point, without an epoch between; then it has failed
LABELS = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
    TrialState.WAITING: "unfinished",
}
HOST = socket.gethostname()
optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """A study of Optuna.

    Args:
        space: The search.
        name: Its name in the storage.
        storage: A file, or the URL of a database.

    Raises:
        ValueError: The storage holds another search of that name.
    """

    def __init__(self, space: Space, name: str, storage: str) -> None:
        self.space, self.seen = space, dict[int, tuple[Any, float]]()
        where: Any = storage
        if "://" not in storage:
            lock = JournalFileOpenLock(storage, grace_period=5)  # s; whoever holds it may be killed
            where = JournalStorage(JournalFileBackend(storage, lock))

        self.study = optuna.create_study(
            storage=where,
            sampler=optuna.samplers.RandomSampler(),
            study_name=name,
            direction="minimize" if space.minimizes else "maximize",
            load_if_exists=True,
        )
        self.storage: BaseStorage = self.study._storage
        sweep = space.sweep
        self.points = [*space.grid()] if sweep.method == "grid" else []
        self.cap = min(filter(None, (sweep.run_cap, len(self.points))), default=None)
        what = {
            "parameters": [sweep.method, sweep.metric, sweep.parameters, sweep.seeds],
            "base": space.tree,
        }
        known = self.study.user_attrs.get("what")
        own = {k: hashlib.sha256(repr(v).encode()).hexdigest() for k, v in what.items()}
        if known is None:
            self.study.set_user_attr("what", own)
        elif differs := [k for k in own if own[k] != known[k]]:
            raise ValueError(
                f"{space.path}: the search {name} was begun with another {differs[0]} section: "
                "name a new one with --run NAME"
            )

    def trials(self) -> list[FrozenTrial]:
        """All that count, by the number of their point; the first of each point."""
        found: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            is_gone = trial.state == TrialState.FAIL and "gone" in trial.user_attrs
            if not is_gone and point(trial) >= 0:
                found.setdefault(point(trial), trial)
        return [found[key] for key in sorted(found)]

    def num_done(self) -> int:
        """How many trials are finished."""
        return sum(trial.state.is_finished() for trial in self.trials())

    def next(self, stop: Callable[[list[FrozenTrial]], str]) -> optuna.Trial | None:
        """The next trial for this worker; waits where only others have some.

        Args:
            stop: Why no other trial is begun, of those that there are; empty if one is.
        """
        while True:
            self._bury()
            trials = self.trials()
            states = [trial.state for trial in trials]
            if stop(trials):
                return None
            if TrialState.WAITING not in states:
                there = {point(trial) for trial in trials}
                free = (i for i in range(self.cap or len(there) + 1) if i not in there)
                if (number := next(free, None)) is not None:
                    self.study.add_trial(self._waiting(number))
                elif TrialState.RUNNING in states:
                    time.sleep(POLL_S)
                    continue
                else:
                    return None
            trial = self.study.ask()
            trial.set_user_attr("owner", f"{HOST}:{os.getpid()}")
            if trial.number in [mine.number for mine in self.trials()]:
                return self._drawn(trial)
            self.give_up(trial.number, "surplus")

    def _drawn(self, trial: optuna.Trial) -> optuna.Trial:
        """The same trial with draws that depend on its point and those before, not on who asks."""
        is_bayes = self.space.sweep.method == "bayes"
        kind: Any = optuna.samplers.TPESampler if is_bayes else optuna.samplers.RandomSampler
        seed = self.space.tree["seed_everything"] * 1_000_003 + trial.user_attrs["point"]
        study = optuna.load_study(
            study_name=self.study.study_name, storage=self.storage, sampler=kind(seed=seed % 2**32)
        )
        return optuna.Trial(study, self._id(trial.number))

    def _waiting(self, number: int) -> FrozenTrial:
        """A trial of a point, to wait for a worker; goes on where a lost one was."""
        everyone = self.study.get_trials(deepcopy=False)
        lost = [t for t in everyone if point(t) == number and t.user_attrs.get("gone") == "lost"]
        params: dict[str, Any] = self.points[number] if self.points else {}
        attrs, epochs = {"point": number}, {}
        if lost:
            old, epochs, params = (
                lost[-1].user_attrs,
                lost[-1].intermediate_values,
                params or lost[-1].params,
            )
            attrs |= {k: old[k] for k in ("values", "seconds") if k in old}
            stuck = old.get("epochs_before", 0) == len(epochs)
            attrs |= {"deaths": stuck * old.get("deaths", 0) + 1, "epochs_before": len(epochs)}
        return create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": params},
            user_attrs=attrs,
            intermediate_values=epochs,
        )

    def _bury(self) -> None:
        """Gives up the trials whose workers are dead."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            host, _, pid = trial.user_attrs.get("owner", f"?:{trial.number}").rpartition(":")
            beat = trial.user_attrs.get("beat"), len(trial.intermediate_values)
            last, since = self.seen.get(trial.number, (None, 0.0))
            if beat != last:
                self.seen[trial.number] = beat, time.monotonic()
            is_silent = beat == last and time.monotonic() - since > LEASE_S
            if is_silent or (host == HOST and not is_alive(int(pid))):
                self.give_up(trial.number, "lost")

    def give_up(self, number: int, how: str) -> None:
        """Marks a trial as `lost`, for another to go on with, or as `surplus`."""
        with suppress(RuntimeError, ValueError):  # another did so, or it has just finished
            self.set(number, "gone", how)
            self.study.tell(number, state=TrialState.FAIL)

    def set(self, number: int, name: str, value: Any) -> None:
        """Notes something about a trial that runs."""
        self.storage.set_trial_user_attr(self._id(number), name, value)

    def get(self, number: int) -> FrozenTrial:
        """One trial as it is now."""
        return self.storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)

    def is_pruned(self, number: int, epoch: int, value: float) -> bool:
        """Notes the value of an epoch; whether the trial stops there: successive halving.

        At the epochs `first * eta**k` it has to be among the best `1 / eta` of all that came so
        far, or the best if these are fewer than `eta`.

        Source: L. Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020.
        """
        trial = self.get(number)
        if epoch not in trial.intermediate_values:
            self.storage.set_trial_intermediate_value(self._id(number), epoch, value)
        if self.space.halving is None:
            return False
        rung, eta = self.space.halving
        while any(rung <= step < epoch for step in trial.intermediate_values):
            rung *= eta
        if epoch < rung:
            return False
        others = [t.intermediate_values for t in self.trials() if t.number != number]
        steps = [min((k for k in other if k >= rung), default=0) for other in others]
        values = [value, *(o[k] for o, k in zip(others, steps, strict=True) if k)]
        ranked = sorted(values, reverse=not self.space.minimizes)
        worst = ranked[max(len(ranked) // eta, 1) - 1]
        return value > worst if self.space.minimizes else value < worst

    def best_value(self, trial: FrozenTrial) -> float | None:
        """The mean over the seeds; of a trial that did not get so far, its best epoch."""
        if trial.state == TrialState.COMPLETE:
            return trial.value
        best = min if self.space.minimizes else max
        return best(trial.intermediate_values.values(), default=None)

    def order(self, trial: FrozenTrial) -> tuple[int, float]:
        """To sort trials by, the best first."""
        value = self.best_value(trial)
        turned = math.inf if value is None else value if self.space.minimizes else -value
        return [*LABELS].index(trial.state), turned

    def line(self, number: int) -> str:
        """What came of a trial, in one line."""
        trial, metric = self.get(number), self.space.metric
        attrs, value = trial.user_attrs, self.best_value(trial)
        words = [f"trial {name_of(trial)}", f"{LABELS[trial.state]:<6}"]
        words += [f"{metric} {value:.4g}"] if value is not None else []
        words += [f"{len(trial.intermediate_values)} epochs", f"{attrs['seconds']:.1f} s"]
        words += [f"{k.rpartition('.')[2]} {brief(v)}" for k, v in attrs["chosen"].items()]
        return "  ".join([*words, attrs["note"]]).rstrip()


def point(trial: FrozenTrial) -> int:
    """What a trial stands for: its place in the grid, or in the order of random draws."""
    return int(trial.user_attrs.get("point", -1))


def name_of(trial: FrozenTrial) -> str:
    """What a trial is called, as its folder is."""
    return f"{point(trial):04d}"


def ended(trial: FrozenTrial) -> float:
    """Time at which a trial was finished; 0 before that."""
    return trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        if os.name == "posix":
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
