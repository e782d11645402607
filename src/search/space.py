"""A search file: a config, and the parameters that change it, as a sweep of Weights & Biases."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

from src.cli import merged, pairs
from src.config import Choice, Config, Experiment, Tree, options, room_of
from src.errors import hint
from src.search.rehearsal import refusal

ELSEWHERE = ("program", "name", "description", "project", "entity")  # W&B's alone
MOST_CHOICES = 64  # combinations of classes: each is tried
DEFAULTS = "{trainer: {devices: 1}, callbacks: {threads: Threads}}"  # one core or GPU a trial


@dataclass
class Metric:
    """What a trial is judged by: its best value over the epochs."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"


@dataclass
class Halving:
    """Trials are compared after `min_iter * eta**k` epochs; one of `eta` goes on."""

    type: Literal["hyperband"] = "hyperband"
    min_iter: int = 2
    eta: int = 3


@dataclass
class Sweep:
    """The keys of a search file beside those of a config; W&B knows most of them."""

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
    engine: Literal["auto", "stacked", "trials"] = "auto"


Kind = Literal["constant", "categorical", "uniform", "int_uniform", "log_uniform_values", None]


@dataclass
class Parameter:
    """What one key may be; `texts` are its values as flags, or both ends of its range."""

    value: Any = None
    values: list | None = None
    min: int | float | None = None
    max: int | float | None = None
    distribution: Kind = None

    def __post_init__(self) -> None:
        kind, low, high = self.distribution or "", self.min, self.max
        self.is_range, self.log = low is not None and high is not None, "log" in kind
        self.texts = [*map(str, [self.value] if self.values is None else self.values)]
        if low is None or high is None:
            differ = len({*self.texts}) == len(self.texts) > 0
            if not differ or "uniform" in kind:
                raise ValueError(" has no `value`, no different `values`, and no `min` and `max`")
            return
        kinds = {type(low), type(high)}
        self.whole = kinds == {int} and kind in ("", "int_uniform")
        fits = {"": len(kinds) == 1, "int_uniform": self.whole}.get(kind, "uniform" in kind)
        if not fits or low >= high or (self.log and low <= 0):
            raise ValueError(f": no {kind or 'uniform'} range goes from {low} to {high}")
        self.ends = (low, high) if self.whole else (float(low), float(high))
        self.texts = [*map(str, self.ends)]

    def suggest(self, trial: Any, key: str) -> str:
        if not self.is_range:
            return str(trial.suggest_categorical(key, self.texts))
        if self.whole:
            return str(trial.suggest_int(key, *self.ends))
        return str(trial.suggest_float(key, *self.ends, log=self.log))


class Space(Config):
    """The config that all trials have in common, and what each may change.

    Args:
        path: The search file.
        flags: Options over those of all files.

    Raises:
        ValueError: A key, a value or an end of a range is wrong.
        FileNotFoundError: A file isn't there.
    """

    def __init__(self, path: Path, flags: list[tuple[str, str]]) -> None:
        super().__init__()
        self.path = path
        self.add(DEFAULTS, "")
        self.add_file(path)
        flags = [("run_cap" if name == "trials" else name, value) for name, value in flags]
        for name, value in flags:
            if name in options(Sweep):
                self.add_flag(name, value)
        self.tree = {k: v for k, v in self.tree.items() if k not in ELSEWHERE}
        there = options(Sweep) | options(Experiment)
        for name in self.tree:
            if name not in there:
                raise self._wrong((name,), f": there is no such key{hint(name, there)}")
        own = {name: self.tree.pop(name) for name in options(Sweep) if name in self.tree}
        self.sweep = Sweep(**self._options(own, (), Sweep))
        for name, value in vars(self.sweep).items():
            if isinstance(value, int | float) and value <= 0:
                raise self._wrong((name,), f" is {value}, not a number above 0")
        words = self.sweep.command or ["fit"]
        if "fit" not in words:
            raise self._wrong(("command",), " is not [python, -m, src, fit, ..., '${args}']")
        told = [*pairs([w for w in words[words.index("fit") + 1 :] if w != "${args}"])]
        files = [value for name, value in told if name == "config"]
        merged(self, files, [flag for flag in told if flag[0] != "config"])
        metric = Metric(**self._options(self.sweep.metric, ("metric",), Metric))
        self.metric, self.minimizes = metric.name, metric.goal == "minimize"
        if not metric.name.startswith("val/"):
            what = f" is {metric.name}: trials are judged by validation rows, val/loss say"
            raise self._wrong(("metric", "name"), what)
        self.parameters = {k: self._parameter(k, v) for k, v in self.sweep.parameters.items()}
        mode = ("callbacks.checkpoint.mode", metric.goal[:3])
        for name in (name for name, _ in flags if name in self.parameters):
            raise self._wrong(("parameters", name), " is searched: give no flag for it")
        rest = [flag for flag in flags if flag[0] not in options(Sweep)]
        merged(self, [], [("callbacks.checkpoint.monitor", metric.name), mode, *rest])
        if self.tree["trainer"].get("devices") in (None, "auto"):
            self.tree["trainer"]["devices"] = 1
        given, key = self.sweep.early_terminate, ("early_terminate",)
        self.halving = None if key in self.marks or self.sweep.method == "grid" else Halving()
        if given is not None:
            self.halving = Halving(**self._options(given, key, Halving))
            if self.halving.min_iter < 1 or self.halving.eta < 2:
                raise self._wrong(key, " needs a min_iter of 1 or more and an eta of 2 or more")
        # The parameters that choose a class, on which it depends what others there are.
        self.choices = {k: p for k, p in self.parameters.items() if room_of(tuple(k.split(".")))}
        self._check()

    def _parameter(self, name: str, given: Any) -> Parameter:
        key = ("parameters", name)
        checked = self._options(given, key, Parameter)
        try:
            parameter = Parameter(**checked)
        except ValueError as e:
            raise self._wrong(key, str(e)) from None
        if self.sweep.method != "grid" or not parameter.is_range:
            return parameter
        if not parameter.whole:
            raise self._wrong(key, " is a range of numbers: a grid wants values: [...]")
        low, high = map(int, parameter.ends)
        return Parameter(values=[*range(low, high + 1)])

    def config(self, chosen: dict[str, str]) -> Space:
        """The config of a trial, unchecked; `chosen` is in flags, by their key."""
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

    def optimizer(self) -> Tree:
        """The checked options of the optimizer alone, for a tenth of the time of all."""
        choice, key = self.tree["model"].args["optimizer"], ("model", "optimizer")
        return self._options(choice.args, key, choice.cls)

    @cache  # noqa: B019 (one space a process)
    def rest(self, classes: tuple[str, ...]) -> list[str]:
        """The other parameters that the chosen classes take."""
        config = self.config(dict(zip(self.choices, classes, strict=True)))
        return [k for k in self.parameters if k not in self.choices and takes(config, k)]

    def suggest(self, trial: Any) -> dict[str, str]:
        """What a trial of Optuna gets: the classes, then what they take."""
        chosen = {key: p.suggest(trial, key) for key, p in self.choices.items()}
        rest = self.rest(tuple(chosen.values()))
        return chosen | {key: self.parameters[key].suggest(trial, key) for key in rest}

    def grid(self) -> Iterator[dict[str, str]]:
        """Every combination of classes, with every one of what they take."""
        for classes in product(*(p.texts for p in self.choices.values())):
            rest = self.rest(classes)
            for texts in product(*(self.parameters[key].texts for key in rest)):
                yield dict(zip((*self.choices, *rest), (*classes, *texts), strict=True))

    def _check(self) -> None:
        """Reads the config of every value and of both ends of every range, and builds its model.

        What a class refuses beside the others' first values and beside their last ones is wrong.
        """
        combinations = [*product(*(p.texts for p in self.choices.values()))]
        if not self.parameters or len(combinations) > MOST_CHOICES:
            what = f"{len(self.parameters)} keys and {len(combinations)} combinations of classes"
            raise self._wrong(("parameters",), f" has {what}: 1 to {MOST_CHOICES} are searched")
        untried = {k: p.texts for k, p in self.parameters.items() if k not in self.choices}
        logged: list[dict[str, str]] = []
        for classes in combinations:
            chosen, rest = dict(zip(self.choices, classes, strict=True)), self.rest(classes)
            last = chosen | {key: self.parameters[key].texts[-1] for key in rest}
            chosen |= {key: self.parameters[key].texts[0] for key in rest}
            first, names = refusal(self.config(chosen).checked())
            logged.append(names)
            reasons = {(key, chosen[key]): first for key in rest if key in untried}
            for key in rest:
                for text in untried.pop(key, [])[1:]:
                    tree = self.config(chosen | {key: text}).checked()
                    reasons[key, text] = refusal(tree)[0]
            refused = [at for at, reason in reasons.items() if reason]
            for key, text in refused if len(refused) < len(reasons) else ():
                if why := refusal(self.config(last | {key: text}).checked())[0]:
                    raise ValueError(f"{self.marks['parameters', key]}{why}")
        for key, texts in untried.items():
            self.config(chosen | {key: texts[0]}).checked()  # says what there is instead
            raise self._wrong(("parameters", key), f" goes with none of {', '.join(self.choices)}")
        known = {name: mode for modes in logged for name, mode in modes.items()}
        if all(logged) and self.metric not in known:
            what = f": no {self.metric} is logged{hint(self.metric, known)}"
            raise self._wrong(("metric", "name"), what)
        mine = "min" if self.minimizes else "max"
        if (mode := known.get(self.metric, mine)) != mine:
            better, goal = {"min": ("less", "minimize"), "max": ("more", "maximize")}[mode]
            what = f": {better} {self.metric} is better, so write goal: {goal}"
            raise self._wrong(("metric",), what)


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
