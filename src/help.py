"""`python -m src fit --help`: every option with its type, default and meaning, from docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap

from docstring_parser import parse
from lightning.pytorch import Trainer

from src.config import GIVEN, ROOMS, classes, options, readable
from src.data.module import DataModule

LEAVES = {
    "config FILE": "A YAML file; several are merged in their order, and flags win over files.",
    "run NAME": "Name of the run folder below runs/; without it the config's name and the time.",
    "seed_everything 0": "Seed of the weights, of the order of batches and of augmentations.",
    "ckpt_path FILE": "A checkpoint to go on with; its config holds where no file or flag says "
    "otherwise. `best` and `last` are those of --run.",
    "callbacks.MINE CLASS": "A callback by a name of one's own; null takes it away.",
    "print_config": "Prints the complete config and ends.",
    "debug": "Shows the traceback of an error.",
}


def explain(command: str, about: str) -> None:
    """Prints the help of a subcommand."""
    print(f"usage: python -m src {command} [--config FILE ...] [--KEY VALUE ...]\n\n{about}\n")
    for name, text in LEAVES.items():
        _entry(f"--{name}", text)
    _class("data", DataModule)
    for key, room in ROOMS.items():
        found = classes(room)
        own = {name: cls for name, cls in found.items() if cls.__module__.startswith("src.")}
        names = ", ".join([*own, *sorted(found.keys() - own.keys())])
        print("\n" + textwrap.fill(f"{key}: {names}", 100, subsequent_indent="  "))
        for cls in own.values():
            _class(key, cls)
    _class("trainer", Trainer)


def _class(key: str, cls: type) -> None:
    """One class with its options; those of Lightning's own in a sentence each."""
    texts = [cls.__init__.__doc__ if cls is Trainer else c.__doc__ for c in cls.__mro__]
    docs = [parse(inspect.cleandoc(text or "")) for text in reversed(texts)]
    meanings = {p.arg_name: p.description or "" for doc in docs for p in doc.params}
    about = f"{cls.__name__} ({key}): {docs[-1].short_description or ''}"
    print("\n" + textwrap.fill(about, 100, subsequent_indent="  "))
    for name, option in options(cls).items():
        if name in GIVEN.get(key, ()):
            continue
        default = "" if option.default is option.empty else f" [{option.default}]"
        meaning = meanings.get(name, "")
        if cls is Trainer:
            meaning = re.split(r"\.\s", meaning)[0]
        kind = "a class" if f"{key}.{name}" in ROOMS else readable(option.annotation)
        _entry(f"--{key}.{name}", f"{kind}{default}. {meaning}")


def _entry(left: str, text: str) -> None:
    text = " ".join(text.split())
    print(textwrap.fill(text, 100, initial_indent=f"  {left:<26}  ", subsequent_indent=" " * 30))
