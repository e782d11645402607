"""Reading configs: base files, short forms, merging, and every key checked before anything runs.

Defaults, the config of a checkpoint, files and flags are merged in that order into one tree, which
the parser gets whole. So a class chosen later never inherits options of one chosen earlier, a flag
always wins, and each message can say which file and line it speaks of.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

Key = tuple[str, ...]
Tree = dict[str, Any]

# The keys whose value names a class, and where such classes live; `*` stands for any key.
ROOMS = {
    "model": ("src.models",),
    "model.net": ("src.nets",),
    "model.optimizer": ("torch.optim",),
    "model.scheduler": ("src.models.schedules", "torch.optim.lr_scheduler"),
    "model.augment": ("src.models.augment",),
    "data.source": ("src.data.sources",),
    "data.partition": ("src.data.partition",),
    "callbacks.*": ("src.callbacks", "lightning.pytorch.callbacks"),
    "trainer.logger": ("src.tracking", "lightning.pytorch.loggers"),
}
# Arguments that the program itself gives to a class, never a config.
GIVEN = {
    "model.net": {"in_shape", "out_dim", "num_categories"},
    "model.optimizer": {"params"},
    "model.scheduler": {"optimizer"},
}
SYNTAX = {"class_path", "init_args", "dict_kwargs"}
MAX_NODES = 100_000  # of a config with its aliases written out


class Loader(yaml.SafeLoader):
    """YAML whose `1e-3` is a number and whose `no` is a word, as in YAML 1.2."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag.rsplit(":")[-1] in ("null", "int", "merge")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(true|false)$", re.I), [*"tTfF"])
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?((\d+\.\d*|\.\d+)(e[-+]?\d+)?|\d+e[-+]?\d+|\.inf)$|\.nan$", re.I),
    [*"-+.0123456789"],
)


class Raw(str):
    """A value as typed on the command line, not yet parsed."""


def hint(name: str, names: Iterable[str]) -> str:
    """The end of a message about a misspelt name: what it may have meant, and what there is."""
    close = difflib.get_close_matches(name, names := sorted(names), 1)
    return (f"; did you mean {close[0]}?" if close else ";") + f" there are: {', '.join(names)}"


def room_of(key: Key) -> tuple[str, ...] | None:
    """The packages whose classes `key` may name; `None` for a key that names no class."""
    return ROOMS.get(".".join(key)) or (ROOMS.get(f"{key[0]}.*") if len(key) == 2 else None)


@cache
def classes(room: tuple[str, ...]) -> dict[str, type]:
    """The classes of a room by name; a project's own before a library's."""
    found: dict[str, type] = {}
    for package in map(import_module, reversed(room)):
        values = [getattr(package, name) for name in getattr(package, "__all__", dir(package))]
        found |= {v.__name__: v for v in values if inspect.isclass(v)}
    return found


@cache
def options(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class that a config may set, those behind `**kwargs` too."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        hints = _hints(base.__init__)  # type: ignore[misc]
        parameters = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        kinds = [p.kind for p in parameters.values()]
        for name, p in parameters.items():
            if name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                found.setdefault(name, p.replace(annotation=hints.get(name, Any)))
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except Exception:  # names that exist only for a type checker: such options go unchecked here
        return {}


def resolve(name: str, room: tuple[str, ...], key: Key, where: str) -> type:
    """The class that `key` names, shortly or by its import path.

    Raises:
        ValueError: There is none of that name; the line lists what there is.
    """
    known = classes(room)
    if "." not in name:
        if name not in known:
            raise ValueError(f"{where}: `{'.'.join(key)}` has no {name!r}{hint(name, known)}")
        return known[name]
    module, _, attribute = name.rpartition(".")
    try:
        cls = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise ValueError(f"{where}: `{'.'.join(key)}`: can't import {name}: {e}") from None
    if not inspect.isclass(cls):
        raise ValueError(f"{where}: `{'.'.join(key)}`: {name} is no class")
    return cls


def merge(old: Any, new: Any) -> Any:
    """`new` over `old`, leaf by leaf; a choice of another class replaces the earlier one whole."""
    if isinstance(old, str) and isinstance(new, dict):
        old = {"class_path": old}
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if new.get("class_path", old.get("class_path")) != old.get("class_path"):
        return new
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
        self.marks: dict[Key, str] = {}
        self.tree: Tree = {}
        self.add(defaults, "the program's defaults")

    def add(self, tree: Tree, origin: str) -> None:
        """Merges a tree that was not read from a file."""
        self.marks.setdefault((), origin)
        self.tree = merge(self.tree, self._canonical(tree, ()))

    def add_flag(self, flag: str, value: str) -> None:
        """Merges `--a.b.c value`. The type of the option decides later how the value is read."""
        key = tuple(part for part in flag.split(".") if part not in SYNTAX)
        leaf: Any = Raw(value)
        if room_of(key) or value.startswith("{"):
            leaf = self._read(value, f"--{flag}", key)
        self.marks[key] = f"--{flag}"
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
            there = [p.name for p in path.parent.glob("*.yaml")]
            raise FileNotFoundError(f"config {path} does not exist" + hint(path.name, there))
        try:
            tree = self._read(path.read_text(encoding="utf-8-sig"), str(path), ())
        except UnicodeDecodeError:
            raise ValueError(f"config {path} is not a text file") from None
        if not isinstance(tree, dict):
            raise ValueError(f"config {path} holds no `key: value` lines")
        bases = tree.pop("base", [])
        for base in [bases] if isinstance(bases, str) else bases:
            self.add_file(path.parent / base, (*via, path))
        self.tree = merge(self.tree, self._canonical(tree, ()))

    def _read(self, text: str, origin: str, key: Key) -> Any:
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return {}
            if _size(node, {}) > MAX_NODES:
                raise ValueError(f"{origin}: more than {MAX_NODES:,} values: too many aliases")
            return self._plain(node, loader, origin, key)
        except yaml.YAMLError as e:
            mark = getattr(e, "problem_mark", None)
            at = f":{mark.line + 1}" if mark else ""
            raise ValueError(
                f"{origin}{at}: not YAML: {getattr(e, 'problem', None) or e}"
            ) from None
        finally:
            loader.dispose()

    def _plain(self, node: yaml.Node, loader: Loader, origin: str, key: Key) -> Any:
        """Dicts, lists and scalars of a YAML node; remembers the line of each key."""
        if not re.match(r"tag:yaml.org,2002:\w+$", node.tag):
            raise ValueError(f"{origin}:{node.start_mark.line + 1}: {node.tag} is not allowed")
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(child, loader, origin, key) for child in node.value]
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node)
        found: Tree = {}
        loader.flatten_mapping(node)
        for key_node, child in node.value:
            line = f"{origin}:{key_node.start_mark.line + 1}" if "--" not in origin else origin
            name = str(loader.construct_object(key_node))
            if name in found:
                raise ValueError(f"{line}: `{'.'.join((*key, name))}` is given twice")
            parts = name.split(".") if not key else [name]  # `model.net: MLP` at the top
            inner = (*key, *(p for p in parts if p not in SYNTAX and not p[:1].isupper()))
            self.marks[inner] = line
            value = self._plain(child, loader, origin, inner)
            for part in reversed(parts[1:]):
                value = {part: value}
            found[parts[0]] = merge(found.get(parts[0]), value) if len(parts) > 1 else value
        return found

    def _canonical(self, value: Any, key: Key) -> Any:
        """The same tree with every chosen class written as `class_path` and `init_args`."""
        room = room_of(key)
        if room and isinstance(value, list):
            return [self._canonical(v, key) for v in value]
        if room and isinstance(value, str):
            value = {"class_path": value}
        if not isinstance(value, dict) or key[:1] == ("base",):
            return value
        if not room:
            return {k: self._canonical(v, (*key, k)) for k, v in value.items()}
        name = value.get("class_path")
        given = {k: v for k, v in value.items() if k not in SYNTAX}
        args = {**(value.get("init_args") or {}), **given}
        if name is None and len(args) == 1 and next(iter(args))[:1].isupper():
            [(name, args)] = args.items()
        if not isinstance(args := args or {}, dict):
            raise ValueError(f"{self.at(key)}: options of {name} are {args!r}, not `key: value`")
        node: Tree = {"init_args": {k: self._canonical(v, (*key, k)) for k, v in args.items()}}
        if name is not None:
            cls = resolve(str(name), room, key, self.at(key))
            node["class_path"] = f"{cls.__module__}.{cls.__qualname__}"
        return node

    def at(self, key: Key) -> str:
        """File and line, or flag, that set `key` or what is above it."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.marks:
                return self.marks[key[:end]]
        return self.marks.get((), "command line")

    def checked(self) -> Tree:
        """The whole tree, flags parsed, after every key, type and required option was checked.

        Raises:
            ValueError: The first that is wrong, with file and line and what there is instead.
        """
        known = {*self.leaves, *self.sections, *(k for k in ROOMS if "." not in k), "callbacks"}
        for name in self.tree:
            if name not in known:
                raise ValueError(f"{self.at((name,))}: there is no `{name}`{hint(name, known)}")
        return {k: self._checked(v, (k,), self.leaves.get(k, Any)) for k, v in self.tree.items()}

    def _checked(self, value: Any, key: Key, annotation: Any) -> Any:
        if room_of(key) and isinstance(value, list):
            return [self._checked(v, key, annotation) for v in value]
        if room_of(key) and isinstance(value, dict):
            return self._checked_class(value, key)
        if len(key) == 1 and key[0] in self.sections:
            return self._checked_options(value, key, self.sections[key[0]])
        if key == ("callbacks",):
            return {k: self._checked(v, (*key, k), Any) for k, v in (value or {}).items()}
        return self._checked_value(value, key, annotation)

    def _checked_class(self, value: Tree, key: Key) -> Tree:
        room, name = room_of(key), value.get("class_path")
        assert room
        if name is None:
            first = ".".join(key)
            raise ValueError(
                f"{self.at(key)}: `{first}` has options but no class: "
                f"add --{first} NAME{hint('', classes(room))}"
            )
        cls = resolve(name, room, key, self.at(key))
        return {**value, "init_args": self._checked_options(value["init_args"], key, cls)}

    def _checked_options(self, given: Any, key: Key, cls: type) -> Tree:
        dotted = ".".join(key)
        there = {k: v for k, v in options(cls).items() if k not in GIVEN.get(dotted, ())}
        if not isinstance(given, dict):
            raise ValueError(f"{self.at(key)}: `{dotted}` is {given!r}, not `key: value` lines")
        for name in given:
            if name not in there:
                at = self.at((*key, name))
                raise ValueError(
                    f"{at}: {cls.__name__} has no `{dotted}.{name}`{hint(name, there)}"
                )
        for name, option in there.items():
            if option.default is option.empty and given.get(name) is None:
                raise ValueError(
                    f"{self.at(key)}: {cls.__name__} needs `{dotted}.{name}`: add it to the config "
                    f"or give --{dotted}.{name}"
                )
        return {k: self._checked(v, (*key, k), there[k].annotation) for k, v in given.items()}

    def _checked_value(self, value: Any, key: Key, annotation: Any) -> Any:
        """A plain value of the right type, or the one error about it."""
        if not isinstance(value, Raw):
            tries = [value]
        else:
            try:
                tries = [self._read(value, self.at(key), key), str(value)]
            except ValueError:
                tries = [str(value)]
        for candidate in tries:
            if fits(candidate, annotation):
                return candidate
        raise ValueError(
            f"{self.at(key)}: `{'.'.join(key)}` is {tries[0]!r}, not {readable(annotation)}"
        )


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Values in a YAML node with its aliases written out, counted without writing them out."""
    if id(node) not in sizes:
        sizes[id(node)] = MAX_NODES  # a node inside itself
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    return sizes[id(node)]


def fits(value: Any, annotation: Any) -> bool:
    """Whether the parser takes `value` for an option of this type."""
    if annotation is Any:
        return True
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=annotation)
    except ValueError:  # a type the parser doesn't know
        return True
    try:
        parser.parse_object({"value": value})
    except ArgumentError:
        return False
    return True


def readable(annotation: Any) -> str:
    """A type in words: `int or null`, `one of a, b`, `list of int`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if args and str(origin) in ("typing.Union", "<class 'types.UnionType'>"):
        return " or ".join(readable(a) for a in args)
    if origin in (list, tuple, set) or (origin and "Sequence" in str(origin)):
        return f"a list of {readable(args[0])}" if args else "a list"
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name)
