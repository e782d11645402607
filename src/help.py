"""What there is: `python -m src list` in short, `python -m src fit --help` with every option."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from docstring_parser import parse

from src.config import ROOMS, SECTIONS, classes, load, options
from src.errors import readable

ABOUT = {
    "config FILE": "A YAML file; several are merged in their order, and flags win over files.",
    "run NAME": "Name of the run folder below runs/; without it the config's name and the time.",
    "seed_everything 0": "Seed of the weights, of the order of batches and of augmentations.",
    "ckpt_path FILE": "A checkpoint to go on with; its config holds where nothing else is said. "
    "`last` and `best` are those of --run NAME.",
    "resume auto": "Goes on with --run NAME if it has begun, and begins it if not.",
    "callbacks.MINE CLASS": "A callback by a name of one's own; null takes it away.",
    "print_config": "Prints the complete config and ends.",
    "debug": "Shows the traceback of an error.",
}


def show() -> None:
    """Prints every room with its classes, then the configs: read as text, nothing is imported."""
    for key, (_, package, *_) in ROOMS.items():
        path = Path(__file__).parents[1].joinpath(*package.split("."))
        files = sorted(path.glob("*.py")) or [path.with_suffix(".py")]  # `__init__.py` first
        if package.startswith("src."):
            print(key.removesuffix(".*"))
            text = "\n".join(file.read_text("utf-8") for file in files)
            [names, *_] = re.findall(r"^__all__ = \[(.*?)\]", text, re.M | re.S)
            about = dict(re.findall(r'^class (\w+).*:\n    """(.+?)(?:"""|\n)', text, re.M))
            for name in re.findall(r"\w+", names):
                print(f"  {name:<22}{about.get(name, '')}")
    print("configs")
    for file in sorted(Path("configs").rglob("*.yaml")):
        _, *lines = re.findall("^# (.*)", file.read_text("utf-8"), re.M) or [""]
        print(f"  {file!s:<38}{''.join(lines[:1])}")


def explain(command: str, about: str) -> None:
    """Prints the help of a subcommand: every option with its type, default and meaning."""
    print(f"usage: python -m src {command} [--config FILE ...] [--KEY VALUE ...]\n\n{about}\n")
    for name, text in ABOUT.items():
        _entry(f"--{name}", text)
    for key, room in ROOMS.items():
        print("\n" + textwrap.fill(f"{key}: {', '.join(classes(room))}", 100))
        for cls in classes(room).values():
            if cls.__module__.startswith("src."):
                _class(key, cls)
    for key, path in SECTIONS.items():
        _class(key, load(path))


def _class(key: str, cls: type) -> None:
    """One class with its options; those of Lightning's own in a sentence each."""
    sources = [*cls.__mro__[:-1], cls.__init__]  # type: ignore[misc]
    docs = [parse(source.__doc__) for source in sources if source.__doc__]
    meanings = {p.arg_name: p.description or "" for doc in reversed(docs) for p in doc.params}
    about = f"{cls.__name__} ({key}): {docs[0].short_description}"
    print("\n" + textwrap.fill(about, 100))
    for name, option in options(cls, key).items():
        default = "" if option.default is option.empty else f" [{option.default}]"
        kind = "a class" if f"{key}.{name}" in ROOMS else readable(option.annotation)
        meaning = meanings.get(name, "")
        if not cls.__module__.startswith("src."):
            meaning = re.split(r"\.\s", meaning)[0]
        text = " ".join(f"{kind}{default}. {meaning}".split())
        _entry(f"--{key}.{name}", text)


def _entry(left: str, text: str) -> None:
    print(textwrap.fill(f"  {left:<26}  {text}", 100, subsequent_indent=" " * 30))
