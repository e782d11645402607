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
from collections import abc
from functools import cache
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from src.errors import hint, short

Key = tuple[str, ...]
Tree = dict[str, Any]
Room = tuple[str, ...]

# The keys whose value names a class: the class that it must be a kind of, then the packages where
# such are looked up by a short name; `*` stands for any key.
ROOMS: dict[str, Room] = {
    "model": ("src.models.model.Model", "src.models"),
    "model.net": ("src.nets.net.Net", "src.nets"),
    "model.optimizer": ("torch.optim.Optimizer", "torch.optim"),
    "model.scheduler": (
        "torch.optim.lr_scheduler.LRScheduler", "src.models.schedules", "torch.optim.lr_scheduler",
    ),
    "model.augment": ("src.models.augment.Augmentation", "src.models.augment"),
    "data.source": ("src.data.rows.Source", "src.data.sources"),
    "data.partition": ("src.data.partition.Partition", "src.data.partition"),
    "callbacks.*": ("lightning.pytorch.Callback", "src.callbacks", "lightning.pytorch.callbacks"),
    "trainer.logger": (
        "lightning.pytorch.loggers.Logger", "src.tracking", "lightning.pytorch.loggers",
    ),
}  # fmt: skip
# Arguments that the program itself gives to a class, never a config.
GIVEN = {
    "model.net": {"in_shape", "out_dim", "num_categories"},
    "model.optimizer": {"params"},
    "model.scheduler": {"optimizer"},
}
SYNTAX = {"class_path", "init_args"}
WORDS = {
    int: "an integer", float: "a number", bool: "true or false", str: "a text",
    dict: "`key: value` pairs", NoneType: "null",
}  # fmt: skip
MAX_VALUES = 10_000  # of a file with its aliases written out


class Loader(yaml.SafeLoader):
    """YAML whose `1e-3` is a number and whose `no` is a word, as in YAML 1.2."""


Loader.yaml_implicit_resolvers = {}
for tag, rule in {
    "null": "(~|null|)$",
    "bool": "(true|false)$",
    "int": r"[-+]?(0|[1-9]\d{0,17})$",
    "float": r"[-+]?((\d+\.\d*|\.\d+)(e[-+]?\d+)?|\d+e[-+]?\d+|\.inf)$|\.nan$",
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
    return found


@cache
def options(cls: type, key: str = "") -> dict[str, Parameter]:
    """The arguments of a class that `key` may set, those behind `**kwargs` too."""
    found: dict[str, Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        try:
            own = inspect.signature(base.__init__, eval_str=True)  # type: ignore[misc]
        except Exception:  # names that exist only for a type checker: such types go unchecked here
            own = inspect.signature(base.__init__)  # type: ignore[misc]
        for name, p in own.parameters.items():
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or name in ("self", *GIVEN.get(key, ())):
                continue
            kind = Any if isinstance(p.annotation, str) or p.annotation is p.empty else p.annotation
            kind = kind | None if p.default is None and kind is not Any else kind
            found.setdefault(name, p.replace(annotation=kind))
        if all(p.kind != p.VAR_KEYWORD for p in own.parameters.values()):
            break
    return found


def shown(value: Any) -> str:
    """A value as a message shows it."""
    return short(json.dumps(value, default=str), 60)


def merge(old: Any, new: Any) -> Any:
    """`new` over `old`, leaf by leaf; another class keeps no value, only the classes below it."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if new.get("class_path", old.get("class_path")) != old.get("class_path"):
        parts = {
            k: v for k, v in old["init_args"].items() if isinstance(v, dict) and "class_path" in v
        }
        return merge({"class_path": new["class_path"], "init_args": parts}, new)
    return {**old, **{k: merge(old.get(k), v) for k, v in new.items()}}


class Config:
    """A tree of options that knows where each came from.

    A class is chosen by its name (`net: MLP`), by its name with its options below
    (`net: {MLP: {norm: batch}}`), or in the parser's own form with `class_path` and `init_args`.

    Args:
        defaults: What holds where nothing else is said.
        leaves: Type of each top-level option that is a plain value.
        sections: Class of each top-level section whose keys are the arguments of that class.
    """

    def __init__(self, defaults: Tree, leaves: dict[str, Any], sections: dict[str, type]) -> None:
        self.leaves, self.sections = leaves, sections
        self.marks: dict[Key, str] = {}  # where a key was set, as a message begins with it
        self.texts: dict[Key, str] = {}  # of flags, as typed
        self.tree: Tree = {}
        self.add(defaults, "")

    def add(self, tree: Tree, origin: str) -> None:
        """Merges a tree that was not read from a file."""
        self.marks[()] = origin and f"{origin}: "
        self.tree = merge(self.tree, self._canonical(tree, ()))

    def add_flag(self, flag: str, value: str) -> None:
        """Merges `--a.b.c value`; the value is read as YAML, or as text if that fits better."""
        key = tuple(part for part in flag.split(".") if part not in SYNTAX)
        if not all(key):
            raise ValueError(f"--{flag} is no key: write it as --data.batch_size, say")
        self.texts[key] = value
        try:
            leaf = self._read(value, "", key)
        except ValueError:
            leaf = value
        self.marks = {key[:end]: "" for end in range(1, len(key))} | self.marks | {key: ""}
        for part in reversed(key):
            leaf = {part: leaf}
        self.tree = merge(self.tree, self._canonical(leaf, ()))

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
            there = sorted({*path.parent.glob("[!.]*.yaml"), *Path("configs").glob("*.yaml")})
            wanted = f" (`base` of {via[-1]})" if via else ""
            raise FileNotFoundError(f"no config {path}{wanted}{hint(str(path), map(str, there))}")
        tree = self._read(path.read_text("utf-8-sig", "surrogateescape"), str(path))
        if not isinstance(tree, dict):
            raise ValueError(f"config {path} holds no `key: value` lines")
        bases = tree.pop("base", [])
        for base in bases if isinstance(bases, list) else [bases]:
            self.add_file(path.parent / str(base), (*via, path))
        self.tree = merge(self.tree, self._canonical(tree, ()))

    def _wrong(self, key: Key, text: str) -> ValueError:
        """An error that begins with the file and line that set `key`, or what is above it."""
        above = (key[:end] for end in range(len(key), -1, -1))
        place = next(self.marks[k] for k in above if k in self.marks)
        return ValueError(f"{place}`{'.'.join(key)}`{text}")

    def _read(self, text: str, path: str, key: Key = ()) -> Any:
        """What is in a file, or in the value of the flag `key` if there is no `path`."""
        count = 0

        def at(mark: yaml.Mark | None) -> str:
            return f"{path}:{mark.line + 1}: " if mark and path else ""

        def plain(node: yaml.Node, key: Key) -> Any:
            """Dicts, lists and scalars; remembers the line of each key."""
            nonlocal count
            count += 1
            if count > MAX_VALUES:
                raise ValueError(f"{path}: more than {MAX_VALUES:,} values: too many aliases")
            if not re.match(r"tag:yaml.org,2002:\w+$", node.tag):
                raise ValueError(f"{at(node.start_mark)}{node.tag} is not allowed")
            if isinstance(node, yaml.SequenceNode):
                return [plain(child, key) for child in node.value]
            if not isinstance(node, yaml.MappingNode):
                return loader.construct_object(node)
            found: Tree = {}
            for key_node, child in node.value:
                name, place = str(plain(key_node, key)), at(key_node.start_mark)
                if name in found:
                    raise ValueError(f"{place}`{'.'.join((*key, name))}` is given twice")
                inner = key if name in SYNTAX or name[:1].isupper() else (*key, name)
                self.marks[inner] = place
                found[name] = plain(child, inner)
            return found

        try:
            loader = Loader(text)
            node = loader.get_single_node()
            return {} if node is None else plain(node, key)
        except (yaml.YAMLError, RecursionError) as e:
            place = at(getattr(e, "problem_mark", None)) or f"{path}: "
            raise ValueError(
                f"{place}not YAML: {getattr(e, 'problem', None) or short(e)}"
            ) from None

    def _canonical(self, value: Any, key: Key) -> Any:
        """The same tree with every chosen class written as `class_path` and `init_args`."""
        room = room_of(key)
        if room and isinstance(value, list):
            return [self._canonical(v, key) for v in value]
        if room and isinstance(value, str):
            value = {"class_path": value}
        if not isinstance(value, dict):
            return value
        if not room:
            return {k: self._canonical(v, (*key, k)) for k, v in value.items()}
        if len(value) == 1:
            [(name, args)] = value.items()
            if name[:1].isupper() and isinstance(args, dict | None):  # not `T_max: 3`
                value = {"class_path": name, "init_args": args}
        args = value.get("init_args") or {}
        if isinstance(args, dict):
            args = {k: v for k, v in value.items() if k not in SYNTAX} | args
            args = {k: self._canonical(v, (*key, k)) for k, v in args.items()}
        if "class_path" not in value:
            return {"init_args": args}
        cls = self._class(value["class_path"], room, key)
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": args}

    def _class(self, name: Any, room: Room, key: Key) -> type:
        """The class that `key` names, shortly or by its import path."""
        cls = None
        try:
            if isinstance(name, str):
                cls = load(name) if "." in name else classes(room).get(name)
        except Exception as e:  # whatever a module raises while it is imported
            raise self._wrong(key, f": can't import {name}: {e}") from e
        if inspect.isclass(cls) and issubclass(cls, load(room[0])):
            return cls
        listed = hint(str(name), classes(room))
        raise self._wrong(key, f": {shown(name)} is no {room[0].split('.')[-1]}{listed}")

    def checked(self) -> Tree:
        """The whole tree, flags parsed, after every key, type and required option was checked.

        Raises:
            ValueError: The first that is wrong, with file and line and what there is instead.
        """
        model = Parameter("model", Parameter.KEYWORD_ONLY)
        root = {"model": model, **dict.fromkeys(self.sections, model.replace(default={}))}
        for name, kind in {"callbacks": dict | None, **self.leaves}.items():
            root[name] = model.replace(default=None, annotation=kind)
        return self._checked_options(self.tree, (), root)

    def _checked(self, value: Any, key: Key, annotation: Any) -> Any:
        if len(key) == 1 and key[0] in self.sections:
            return self._checked_options(value, key, options(self.sections[key[0]]))
        if key == ("callbacks",) and isinstance(value, dict):
            return {k: self._checked(v, (*key, k), NoneType) for k, v in value.items()}
        if room := room_of(key):
            return self._checked_class(value, key, room, annotation)
        for candidate in (value, self.texts.get(key, value)):
            if fits(candidate, annotation):
                return candidate
        raise self._wrong(key, f" is {shown(value)}, not {readable(annotation)}")

    def _checked_class(self, value: Any, key: Key, room: Room, annotation: Any) -> Any:
        """One class or, where `annotation` allows it, several or none."""
        if isinstance(value, list) and fits([], annotation):
            return [self._checked_class(v, key, room, load(room[0])) for v in value]
        if not isinstance(value, dict) and fits(value, annotation):
            return value
        name = value.get("class_path") if isinstance(value, dict) else value
        if name is None:
            raise self._unset(key)
        cls = self._class(name, room, key)
        given, there = value["init_args"], options(cls, ".".join(key))
        checked = self._checked_options(given, key, there, f"{cls.__name__} has")
        node = {**value, "init_args": checked}
        only_lists = fits([], annotation) and load(room[0]) not in get_args(annotation)
        return [node] if only_lists else node

    def _checked_options(
        self, given: Any, key: Key, there: dict[str, Parameter], owner: str = "there is"
    ) -> Tree:
        if not isinstance(given, dict):
            raise self._wrong(key, f" is {shown(given)}, not {WORDS[dict]}")
        for name in given:
            if name not in there:
                raise self._wrong((*key, name), f": {owner} no such option{hint(name, there)}")
        for name, option in there.items():
            if option.default is option.empty and given.get(name) is None:
                raise self._unset((*key, name))
        return {k: self._checked(v, (*key, k), there[k].annotation) for k, v in given.items()}

    def _unset(self, key: Key) -> ValueError:
        room = room_of(key)
        add = f"add it to --config FILE, or give --{'.'.join(key)} {'NAME' if room else 'VALUE'}"
        listed = hint("", classes(room)) if room else ""
        return self._wrong(key, f" is not set: {add}{listed}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether the parser takes `value` for an option of this type."""
    if annotation is Any:
        return True
    if value is None:
        return NoneType in (annotation, *get_args(annotation))
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=annotation)
        parser.parse_object({"value": value})
    except ArgumentError:
        return False
    except ValueError:  # a type the parser doesn't know
        pass
    return True


def readable(annotation: Any) -> str:
    """A type in words: `an integer or null`, `one of a, b`, `a list (each a number)`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, UnionType):  # without tensors and such, which no YAML can hold
        plain = [a for a in args if a in WORDS or get_args(a)] or args
        return " or ".join(dict.fromkeys(map(readable, plain)))
    if args and origin is not abc.Callable:
        each = "" if origin is tuple and ... not in args else "each "
        inner = ", ".join(readable(a) for a in args[origin is dict :] if a is not ...)
        return f"{WORDS.get(origin, 'a list')} ({each}{inner})"
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
