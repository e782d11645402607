"""Reading configs: base files, short forms, merging, and every key checked before anything runs.

Defaults, the config of a checkpoint, files and flags are merged in that order into one tree, which
the parser gets whole. So a class chosen later never inherits options of one chosen earlier, a flag
always wins, and each message can say which file and line it speaks of.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from src.errors import LEAST, NOT_0, UNFIT, WORDS, hint, readable, short, shown
from src.trust import foreign, imports, is_class

Key = tuple[str, ...]
Tree = dict[str, Any]
Room = tuple[str, ...]

LR = "torch.optim.lr_scheduler"
# The keys whose value names a class: the class that it must be a kind of, then the packages where
# such are looked up by a short name; `*` stands for any key.
ROOMS: dict[str, Room] = {
    "model": ("src.models.model.Model", "src.models"),
    "model.net": ("src.nets.net.Net", "src.nets"),
    "model.optimizer": ("torch.optim.Optimizer", "torch.optim"),
    "model.scheduler": (f"{LR}.LRScheduler", "src.models.schedules", LR),
    "model.augment": ("src.models.augment.Augmentation", "src.models.augment"),
    "data.source": ("src.data.rows.Source", "src.data.sources"),
    "data.partition": ("src.data.partition.Partition", "src.data.partition"),
    "callbacks.*": ("lightning.pytorch.Callback", "src.callbacks", "lightning.pytorch.callbacks"),
    "trainer.logger": ("lightning.pytorch.loggers.Logger", "src.tracking"),
}
# The keys whose value holds the arguments of a class that is always the same.
SECTIONS = {"data": "src.data.module.DataModule", "trainer": "lightning.pytorch.Trainer"}
# Arguments that the program itself gives to a class, never a config.
GIVEN = {
    "model.net": {"in_shape", "out_dim", "num_categories"},
    "model.optimizer": {"params"},
    "model.scheduler": {"optimizer"},
}
DEFAULTS = """
seed_everything: 0
data: {partition: Stratified}
callbacks: {checkpoint: Checkpoint}
trainer:
  default_root_dir: runs
  logger: [MetricsCsv, Wandb]
  use_distributed_sampler: false  # the batches are sharded already, without padding
  num_sanity_val_steps: 0
  enable_model_summary: false
  enable_autolog_hparams: false
"""
MAX_VALUES = 10_000  # of a file with its aliases written out
MAX_BYTES = 1_000_000  # of a file


class Loader(yaml.SafeLoader):
    """YAML whose `1e-3` is a number and whose `no` is a word, as in YAML 1.2."""


Loader.yaml_implicit_resolvers = {}
for tag, rule in {
    "null": "(~|null|(?-i:None)|)$",  # W&B's agent writes Python's
    "bool": "(true|false)$",
    "int": r"[-+]?(0|[1-9]\d{0,17})$",
    "float": r"[-+]?((\d+\.\d*|\.\d+)(e[-+]?\d+)?|\d+e[-+]?\d+|[1-9]\d{18,}|\.inf)$|\.nan$",
}.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rule, re.I), None)


def room_of(key: Key) -> Room | None:
    """The room whose classes `key` may name; `None` for a key that names no class."""
    return ROOMS.get(".".join(key)) or (ROOMS.get(f"{key[0]}.*") if len(key) == 2 else None)


def load(path: str) -> Any:
    """What an import path names."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@cache
def classes(room: Room) -> dict[str, type]:
    """The classes of a room by name; a project's own before a library's."""
    kind = load(room[0])
    found: dict[str, type] = {}
    for package in map(import_module, room[1:]):
        for name in getattr(package, "__all__", dir(package)):
            cls = getattr(package, name)
            if inspect.isclass(cls) and issubclass(cls, kind) and cls is not kind:
                found.setdefault(name, cls)
    return {name: cls for name, cls in found.items() if name not in UNFIT}


@cache
def options(cls: type, key: str = "") -> dict[str, Parameter]:
    """The arguments of a class that `key` may set, those behind `**kwargs` too."""
    found: dict[str, Parameter] = {}
    for base in cls.__mro__:
        init = base.__init__  # type: ignore[misc]
        try:
            own = inspect.signature(init, eval_str=True).parameters
        except Exception:  # names that exist only for a type checker: such types go unchecked here
            own = inspect.signature(init).parameters
        for name, option in own.items():
            found.setdefault(name, option)
        if all(option.kind != option.VAR_KEYWORD for option in own.values()):
            break
    hidden = {"self", *GIVEN.get(key, ())}
    stars = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return {k: v for k, v in found.items() if k not in hidden and v.kind not in stars}


@dataclass
class Choice:
    """A class that a key names, or none yet, and the options below that key."""

    cls: type | None
    args: Tree

    def __str__(self) -> str:
        return self.cls.__name__ if self.cls else str(self.args)


def merge(old: Any, new: Any) -> Any:
    """`new` over `old`, leaf by leaf; another class keeps no value, only the classes below it."""
    if isinstance(old, Choice) and isinstance(new, Choice):
        args = old.args
        if new.cls not in (None, old.cls):
            args = {k: v for k, v in args.items() if isinstance(v, Choice)}
        return Choice(new.cls or old.cls, merge(args, new.args))
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{k: merge(old.get(k), v) for k, v in new.items()}}
    return new


@dataclass
class Experiment:
    """The top-level keys of a config."""

    model: dict
    data: dict
    trainer: dict
    callbacks: dict
    seed_everything: int


class Config:
    """A tree of options that knows where each came from.

    A class is chosen by its name (`net: MLP`), by its name with its options below
    (`net: {MLP: {norm: batch}}`), or in the parser's own form with `class_path` and `init_args`.
    """

    def __init__(self) -> None:
        self.marks: dict[Key, str] = {}  # file and line of each key; empty for a flag
        self.texts: dict[Key, Any] = {}  # plain values as written, and lists of such
        self.checkpoint = ""  # the name of a text that may name only what is trusted
        self.tree = self._read(DEFAULTS, "")

    def add(self, text: str, name: str) -> None:
        """Merges a YAML text; messages call it `name`."""
        self.tree = merge(self.tree, self._parse(text, name))

    def add_flag(self, flag: str, value: str) -> None:
        """Merges `--a.b.c value`, as YAML or, if the value is none, as text."""
        if not all(parts := flag.split(".")):
            raise ValueError(f"--{flag} is no key: write it as --data.batch_size, say")
        lines = [f"{' ' * depth}{json.dumps(part)}:" for depth, part in enumerate(parts)]
        above, quoted = "\n".join(lines), json.dumps(value)
        try:
            tree = self._read(f"{above} {quoted if ' #' in value else value}", "")
        except (yaml.YAMLError, RecursionError):
            tree = self._read(f"{above} {quoted}", "")
        self.tree = merge(self.tree, tree)

    def add_file(self, path: Path, via: tuple[Path, ...] = ()) -> None:
        """Merges a YAML file after those that its `base` lists, relative to its own folder.

        Raises:
            ValueError: It is no config, or its bases go round in a circle.
            FileNotFoundError: It isn't there.
        """
        path = Path(os.path.normpath(path))
        if path in via:
            raise ValueError(f"{path}: `base` goes round in a circle")
        if not path.is_file():
            wanted = f" (`base` of {via[-1]})" if via else ""
            near = path.parent if path.parent.name and path.parent.is_dir() else Path("configs")
            listed = hint(str(path), sorted(map(str, near.glob("*.yaml"))))
            raise FileNotFoundError(f"no config {path}{wanted}{listed}")
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            text = file.read(MAX_BYTES + 1)
        tree = self._parse(text, str(path))
        if not isinstance(tree, dict):
            raise ValueError(f"config {path} holds no `key: value` lines")
        if "base" in tree:
            bases = tree["base"] if isinstance(tree["base"], list) else [tree["base"]]
            for base in bases:
                if not isinstance(base, str):
                    raise self._wrong(("base",), f" is {shown(base)}: list files, [a.yaml, b.yaml]")
                self.add_file(path.parent / base, (*via, path))
            tree = self._read(text, str(path))  # again, as messages go by what was read last
        own = {k: v for k, v in tree.items() if k != "base" and v is not None}
        self.tree = merge(self.tree, own)

    def checked(self) -> Tree:
        """The whole tree for the parser, after every key, type and required option was checked.

        Raises:
            ValueError: The first that is wrong, with file and line and what there is instead.
        """
        return self._options(self.tree, (), Experiment)

    def _parse(self, text: str, name: str) -> Any:
        try:
            return self._read(text, name)
        except yaml.MarkedYAMLError as e:
            raise ValueError(f"{place(e.problem_mark)}not YAML: {e.problem}") from None
        except (yaml.YAMLError, RecursionError) as e:
            why = "nested without an end" if isinstance(e, RecursionError) else short(e)
            raise ValueError(f"{name}: not YAML: {why}") from None

    def _read(self, text: str, name: str) -> Any:
        if len(text) > MAX_BYTES:
            raise ValueError(f"config {name} has more than {MAX_BYTES:,} bytes: that is none")
        loader = Loader(text)
        loader.name, self.size = name, 0
        node = loader.get_single_node()
        return {} if node is None else self._tree(loader, node, ())

    def _tree(self, loader: Loader, node: yaml.Node, key: Key) -> Any:
        """Dicts, lists, plain values, and a `Choice` for each key that names a class."""
        self.size += 1
        if self.size > MAX_VALUES:
            raise ValueError(f"{loader.name}: more than {MAX_VALUES:,} values: too many aliases")
        if node.tag not in loader.yaml_constructors:
            raise ValueError(f"{place(node.start_mark)}{node.tag} is not allowed")
        room = room_of(key)
        if isinstance(node, yaml.SequenceNode):
            values = [self._tree(loader, child, key) for child in node.value]
            self.texts[key] = [child.value for child in node.value]
            return values
        if isinstance(node, yaml.ScalarNode):
            self.texts[key] = node.value
            if room or key[-1:] == ("class_path",):
                self._trust(node.value, key)
            value = loader.construct_object(node)
            return Choice(self._class(value, key), {}) if room and isinstance(value, str) else value
        found: Tree = {}
        for key_node, child in node.value:
            name, line = str(key_node.value), place(key_node.start_mark)
            if key_node.id != "scalar" or name == "<<":
                raise ValueError(f"{line}a key must be a word; to merge files, list them in `base`")
            is_form = name == "init_args" or is_class(name)
            inner = key if room and is_form and child.id == "mapping" else (*key, name)
            if name in found:
                raise ValueError(f"{line}`{'.'.join((*key, name))}` is given twice")
            self.marks[inner] = line
            found[name] = self._tree(loader, child, inner)
        return self._choice(found, key) if room else found

    def _choice(self, found: Tree, key: Key) -> Choice:
        """What the dict of a key that names a class says."""
        names = [k for k, v in found.items() if is_class(k) and isinstance(v, Choice | None)]
        if len(names) == 1 and "class_path" not in found:  # a class, not `T_max: 3`
            found = {"class_path": names[0], "init_args": found.pop(names[0]), **found}
        cls = self._class(found.pop("class_path"), key) if "class_path" in found else None
        below = found.pop("init_args", None) or Choice(None, {})
        if not isinstance(below, Choice):
            raise self._wrong(key, f": init_args is {shown(below)}, not {WORDS[dict]}")
        return Choice(cls, {**found, **below.args})

    def _class(self, name: Any, key: Key) -> type:
        """The class that `key` names, shortly or by its import path."""
        room = room_of(key) or ()
        if why := UNFIT.get(str(name).rpartition(".")[2]):
            raise self._wrong(key, f": {name} does not work here: {why}")
        try:
            is_path = isinstance(name, str) and "." in name
            cls = load(name) if is_path else classes(room).get(str(name))
        except Exception as e:  # whatever a module raises while it is imported
            raise self._wrong(key, f": can't import {name}: {e}") from e
        if not (inspect.isclass(cls) and issubclass(cls, load(room[0]))):
            if inspect.isclass(cls):
                raise self._wrong(key, f": {name} is no subclass of {room[0]}")
            kind, listed = room[0].split(".")[-1], hint(str(name), classes(room))
            raise self._wrong(key, f": {shown(name)} is no {kind}{listed}")
        return cls

    def _options(self, given: Any, key: Key, cls: type) -> Tree:
        if not isinstance(given, dict):
            raise self._wrong(key, f" is {shown(given)}, not {WORDS[dict]}")
        there = options(cls, ".".join(key))
        for name in given:
            if name not in there:
                none = f"{cls.__name__} has no such option" if key else "there is no such key"
                raise self._wrong((*key, name), f": {none}{hint(name, there)}")
            why = UNFIT.get(".".join((*key, name)))
            if why and given[name] and not isinstance(given[name], dict):
                raise self._wrong((*key, name), f": {why}")
        for name, option in there.items():
            if option.default is option.empty and given.get(name) is None:
                raise self._unset((*key, name))
        return {
            name: value if value is there[name].default
            else self._value(value, (*key, name), there[name].annotation)
            for name, value in given.items()
        }  # fmt: skip

    def _value(self, value: Any, key: Key, kind: Any) -> Any:
        """A value of the type `kind`, as the parser takes it."""
        room = room_of(key)
        if section := SECTIONS.get(".".join(key)):
            return self._options(value, key, load(section))
        if key == ("callbacks",) and isinstance(value, dict):
            return {k: self._value(v, (*key, k), NoneType) for k, v in value.items()}
        if isinstance(value, Choice):
            node = self._node(value, key)
            return [node] if fits([], kind) else node
        if room and isinstance(value, list) and fits([], kind):
            return [self._node(v, key) for v in value]
        if imports(kind):
            self._trust(value, key)
        if isinstance(value, int | float) and value < LEAST.get(key[-1], value):
            raise self._wrong(key, f" is {value}, not {LEAST[key[-1]]} or more")
        if value == 0 and key[-1] in NOT_0:
            raise self._wrong(key, " is 0: give more than 0, or leave it out")
        is_number = isinstance(value, int | float | list)  # perhaps meant as a text, as `true` is
        for candidate in (value, self.texts.get(key, value) if is_number else value):
            if fits(candidate, kind):
                return candidate
        if room:
            return self._node(value, key)
        raise self._wrong(key, f" is {shown(value)}, not {readable(kind)}")

    def _node(self, value: Any, key: Key) -> Tree:
        """A chosen class in the parser's form."""
        choice = value if isinstance(value, Choice) else Choice(self._class(value, key), {})
        cls = choice.cls or classes(room_of(key) or ()).get(key[-1])  # of a callback, its name
        if cls is None:
            raise self._unset(key)
        path = f"{cls.__module__}.{cls.__qualname__}"
        return {"class_path": path, "init_args": self._options(choice.args, key, cls)}

    def _trust(self, value: Any, key: Key) -> None:
        """Refuses, before it is imported, what a checkpoint has no business to name."""
        if self.checkpoint and self.marks.get(key, "").startswith(f"{self.checkpoint}:"):
            for path in foreign(value):
                what = f"{path} is of no package in TRUSTED of src/trust.py: add it if it is yours"
                raise self._wrong(key, f": {what}")

    def _wrong(self, key: Key, text: str) -> ValueError:
        """An error that begins with the file and line that set `key`, or what is above it."""
        above = (key[:end] for end in range(len(key), 0, -1))
        mark = next((self.marks[k] for k in above if k in self.marks), "")
        return ValueError(f"{mark}`{'.'.join(key)}`{text}")

    def _unset(self, key: Key) -> ValueError:
        room = room_of(key)
        add = f"add it to --config FILE, or give --{'.'.join(key)} {'NAME' if room else 'VALUE'}"
        listed = hint("", classes(room)) if room else ""
        return self._wrong(key, f" is not set: {add}{listed}")


def place(mark: yaml.Mark | None) -> str:
    """File and line, as a message begins; nothing for a flag."""
    return f"{mark.name}:{mark.line + 1}: " if mark and mark.name else ""


def fits(value: Any, kind: Any) -> bool:
    """Whether the parser takes `value` for an option of this type."""
    if kind in (Any, Parameter.empty) or isinstance(kind, str):
        return True
    if value is None:
        return NoneType in (kind, *get_args(kind))
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=kind)
        parsed = parser.parse_object({"value": value}).value
    except ArgumentError:
        return False
    except ValueError:  # a type the parser doesn't know
        return True
    parts = parsed if isinstance(parsed, list | tuple) else [parsed]
    return not any(isinstance(part, int) and abs(part) >= 2**63 for part in parts)
