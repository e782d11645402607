"""A search file: a sweep of Weights & Biases, checked whole before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any, Literal

from src.cli import pairs
from src.config import Choice, Config, Experiment, options, room_of, shown
from src.errors import hint

MOST_CHOICES = 64  # of classes: each is tried with the options that it has


@dataclass
class Metric:
    """What a trial is judged by: its best value over the epochs."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"


@dataclass
class Halving:
    """When trials are compared, and how many of them one has to beat."""

    type: Literal["hyperband"] = "hyperband"
    min_iter: int | None = None
    max_iter: int | None = None
    s: int | None = None
    eta: int = 3


@dataclass
class Sweep:
    """The keys of a search file beside those of a config; W&B knows some of them."""

    method: Literal["grid", "random", "bayes"]
    metric: dict
    parameters: dict
    early_terminate: dict | None = None
    run_cap: int | None = None
    seeds: int = 1
    epochs: int | None = None
    minutes: float | None = None
    workers: int | None = None
    storage: str | None = None
    command: list[str] | None = None
    program: Any = None
    name: Any = None
    description: Any = None
    project: Any = None
    entity: Any = None


@dataclass
class Parameter:
    """What one key may be, as W&B says it."""

    value: Any = None
    values: list | None = None
    min: int | float | None = None
    max: int | float | None = None
    q: int | float | None = None
    distribution: Literal[
        "constant", "categorical", "uniform", "int_uniform", "q_uniform", "log_uniform_values",
        "q_log_uniform_values", None,
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        """Settles what is left out; `texts` are the values as flags, or both ends of the range.

        Raises:
            ValueError: It is neither.
        """
        kind, low, high = self.distribution or "", self.min, self.max
        self.log, self.is_range = "log" in kind, low is not None and high is not None
        values = [self.value] if self.values is None else self.values
        self.texts = [*map(str, values)]  # as W&B writes flags
        if (self.is_range == (kind in ("constant", "categorical")) and kind) or not self.texts:
            raise ValueError(" is not {value: ...}, {values: [...]} or {min: ..., max: ...}")
        if len({*self.texts}) < len(self.texts):
            raise ValueError(f" has a value twice: {shown(values)}")
        if not self.is_range:
            return
        assert low is not None
        assert high is not None
        whole = isinstance(low, int) and isinstance(high, int)
        if not kind and isinstance(low, int) != isinstance(high, int):  # as W&B has it
            raise ValueError(f" goes from {low} to {high}: write both as integers, or both as not")
        self.whole = whole and kind in ("", "int_uniform", "q_uniform", "q_log_uniform_values")
        self.step = None if "q_" not in kind else self.q or 1
        if not low < high or (self.log and low <= 0) or (self.step or 1) <= 0:
            raise ValueError(f": no range {kind} goes from {low} to {high}")
        if (kind == "int_uniform" and not whole) or (self.whole and (self.step or 1) % 1):
            raise ValueError(f" goes from {low} to {high} by {self.step or 1}: not integers")
        if self.log and self.step and not (self.whole and self.step == 1):
            raise ValueError(": q_log_uniform_values takes integers and q: 1 here")
        self.ends = (low, high) if self.whole else (float(low), float(high))
        self.texts = [*map(str, self.ends)]

    def suggest(self, trial: Any, key: str) -> str:
        """The value that a trial of Optuna gets, as a flag."""
        if not self.is_range:
            return str(trial.suggest_categorical(key, self.texts))
        step = {"step": self.step} if self.step and not self.log else {}
        suggest = trial.suggest_int if self.whole else trial.suggest_float
        return str(suggest(key, *self.ends, log=self.log, **step))


class Space(Config):
    """A config, and the parameters that change it from trial to trial.

    Args:
        path: The search file.
        flags: Options that are the same in each trial, over all files.

    Raises:
        ValueError: The file is wrong.
        FileNotFoundError: It, or a config that it names, isn't there.
    """

    def __init__(self, path: Path, flags: list[tuple[str, str]]) -> None:
        super().__init__()
        self.path = path
        self.add_file(path)
        flags = [("run_cap" if name == "trials" else name, value) for name, value in flags]
        for name, value in flags:
            if name in options(Sweep):
                self.add_flag(name, value)
        there = options(Sweep) | options(Experiment)
        for name in self.tree:
            if name not in there:
                raise self._wrong((name,), f": there is no such key{hint(name, there)}")
        own = {name: self.tree.pop(name) for name in options(Sweep) if name in self.tree}
        self.sweep = Sweep(**self._options(own, (), Sweep))
        words = self.sweep.command or ["fit"]
        if "fit" not in words:
            raise self._wrong(("command",), " is not [python, -m, src, fit, ..., '${args}']")
        for name, value in pairs([w for w in words[words.index("fit") + 1 :] if w != "${args}"]):
            self.add_file(Path(value)) if name == "config" else self.add_flag(name, value)
        metric = self._options(self.sweep.metric, ("metric",), Metric)
        self.metric, self.minimizes = metric["name"], metric.get("goal") != "maximize"
        if not self.metric.startswith("val/"):
            what = f" is {self.metric}: trials are judged by validation rows, val/loss say"
            raise self._wrong(("metric", "name"), what)
        for name, value in vars(self.sweep).items():
            if isinstance(value, int | float) and value <= 0:
                raise self._wrong((name,), f" is {value}, not a number above 0")
        self.parameters = {k: self._parameter(k, v) for k, v in self.sweep.parameters.items()}
        goal = "min" if self.minimizes else "max"
        judge = [("callbacks.checkpoint.monitor", self.metric), ("callbacks.checkpoint.mode", goal)]
        for name, value in judge + [flag for flag in flags if flag[0] not in options(Sweep)]:
            if name in self.parameters:
                raise self._wrong(("parameters", name), " is searched: give no flag for it")
            self.add_flag(name, value)
        self.halving = self._halving()
        # The parameters that choose a class, on which it depends what others there are.
        self.choices = {k: p for k, p in self.parameters.items() if room_of(tuple(k.split(".")))}
        self.check()

    def _parameter(self, name: str, given: Any) -> Parameter:
        key = ("parameters", name)
        try:
            parameter = Parameter(**self._options(given, key, Parameter))
        except ValueError as e:
            raise e if "`" in str(e) else self._wrong(key, str(e)) from None
        if self.sweep.method == "grid" and parameter.is_range:
            if not parameter.whole:
                raise self._wrong(key, " is a range of numbers: a grid wants values: [...]")
            low, high = parameter.ends
            step = int(parameter.step or 1)
            return Parameter(values=[*range(int(low), int(high) + 1, step)])
        return parameter

    def _halving(self) -> tuple[int, int] | None:
        """The first epoch after which trials are compared, and one of how many goes on."""
        if not (given := self.sweep.early_terminate):
            is_off = ("early_terminate",) in self.marks or self.sweep.method == "grid"
            return None if is_off else (1, 4)
        stop = Halving(**self._options(given, ("early_terminate",), Halving))
        if stop.max_iter and stop.s:
            stop.min_iter = ceil(stop.max_iter / stop.eta**stop.s)
        if stop.min_iter is None or stop.min_iter < 1 or stop.eta < 2:
            what = " needs min_iter, or max_iter and s, each 1 or more, and an eta of 2 or more"
            raise self._wrong(("early_terminate",), what)
        return stop.min_iter, stop.eta

    def config(self, chosen: dict[str, str]) -> Config:
        """The config of a trial, unchecked; what it chose, by key, is as W&B writes flags."""
        config = copy.copy(self)
        config.marks, config.texts = {**self.marks}, {**self.texts}
        for key in sorted(chosen, key=lambda key: key.count(".")):  # classes first
            mark = self.marks[("parameters", key)]
            try:
                config.add_flag(key, chosen[key])
            except ValueError as e:  # no such class
                raise ValueError(f"{mark}{e}") from None
            config.marks[tuple(key.split("."))] = mark
        return config

    @cache  # noqa: B019 (one space a process)
    def rest(self, classes: tuple[str, ...]) -> list[str]:
        """The other parameters that the chosen classes take."""
        config = self.config(dict(zip(self.choices, classes, strict=True)))
        return [k for k in self.parameters if k not in self.choices and takes(config, k)]

    def suggest(self, trial: Any) -> dict[str, str]:
        """What a trial of Optuna gets: the classes, then what they take."""
        chosen = {key: p.suggest(trial, key) for key, p in self.choices.items()}
        for key in self.rest(tuple(chosen.values())):
            chosen[key] = self.parameters[key].suggest(trial, key)
        return chosen

    def grid(self) -> Iterator[dict[str, str]]:
        """Every combination of classes, with every one of what they take."""
        for classes in product(*(p.texts for p in self.choices.values())):
            rest = self.rest(classes)
            for texts in product(*(self.parameters[key].texts for key in rest)):
                yield dict(zip((*self.choices, *rest), (*classes, *texts), strict=True))

    def check(self) -> None:
        """Reads the config of every value and of both ends of every range.

        Raises:
            ValueError: The first that is wrong.
        """
        if not self.parameters:
            raise self._wrong(("parameters",), " is empty: give KEY: {values: [...]}")
        combinations = [*product(*(p.texts for p in self.choices.values()))]
        if len(combinations) > MOST_CHOICES:
            what = f": {len(combinations)} combinations of classes are more than {MOST_CHOICES}"
            raise self._wrong(("parameters",), what)
        untried = {k: p.texts for k, p in self.parameters.items() if k not in self.choices}
        for texts in combinations:
            chosen = dict(zip(self.choices, texts, strict=True))
            rest = self.rest(texts)
            chosen |= {key: self.parameters[key].texts[0] for key in rest}
            self.config(chosen).checked()
            for key in rest:
                for text in untried.pop(key, [])[1:]:
                    self.config(chosen | {key: text}).checked()
        for key, values in untried.items():  # says what there is
            self.config(chosen | {key: values[0]}).checked()
            raise self._wrong(("parameters", key), f" goes with none of {', '.join(self.choices)}")


def takes(config: Config, key: str) -> bool:
    """Whether the classes that a config has chosen have this option."""
    node, parts = config.tree, tuple(key.split("."))
    for depth, part in enumerate(parts):
        if isinstance(node, Choice):
            if node.cls is None or part not in options(node.cls, ".".join(parts[:depth])):
                return False
            node = node.args
        elif room_of(parts[:depth]):
            return False  # none is chosen
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return True
