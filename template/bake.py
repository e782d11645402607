"""Makes a project of each pair of answers, trains and tests it: `python template/bake.py`.

`--part 2/4` is the second quarter of them, `--list` only shows them, `--quick` leaves `make test`
out. It runs in the environment of the Python that runs it, and installs nothing.
"""

import itertools
import re
import subprocess
import sys
import time
import tomllib
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
FLAGS = ("search", "server", "start", "lessons", "examples")
IN_TURN = {  # what meets nothing else, or little
    "logger": ["wandb", "tensorboard", "csv", "none"],
    "licence": ["MIT", "Apache-2.0", "BSD-3-Clause", "none"],
    "python": ["3.11", "3.12", "3.13", "3.14"],
}
Answers = dict[str, str]


def variants() -> list[Answers]:
    """Answers in which every two, of two questions, meet once: the next one has the most new.

    But for logger, licence and Python, which are taken in turn.
    """
    listed = tomllib.loads((HERE / "list.toml").read_text("utf-8"))
    asked: dict[str, list[str]] = {
        "pair": [*listed["examples"]],
        **{flag: ["no", "yes"] for flag in FLAGS},
    }
    left = {
        frozenset(((a, x), (b, y)))
        for a, b in itertools.combinations(asked, 2)
        for x, y in itertools.product(asked[a], asked[b])
    }
    found: list[Answers] = []
    while left:
        chosen = dict(min(left, key=sorted))
        for name in asked:
            if name not in chosen:
                new = {
                    value: sum(frozenset(((name, value), c)) in left for c in chosen.items())
                    for value in asked[name]
                }
                chosen[name] = max(asked[name], key=lambda value: new[value])
        left -= {frozenset(two) for two in itertools.combinations(chosen.items(), 2)}
        chosen["kind"], _, chosen["task"] = chosen.pop("pair").partition("-")
        for slow, (name, some) in enumerate(IN_TURN.items(), 1):
            chosen[name] = some[len(found) // slow % len(some)]
        found.append(chosen)
    return found


def copy(folder: Path) -> None:
    """Copies this working tree, without what git ignores."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=HERE.parent, capture_output=True, check=True).stdout
    for name in names.decode().split("\0"):
        if name and (source := HERE.parent / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(source.read_bytes())
            (folder / name).chmod(source.stat().st_mode)


def make(folder: Path, answers: Answers) -> str:
    """Makes a project in a new folder; gives what the script says.

    Raises:
        subprocess.CalledProcessError: It refuses.
    """
    copy(folder)
    words = [word for key, answer in answers.items() for word in (f"--{key}", answer)]
    command = [sys.executable, "template/new_project.py", "--defaults", *words]
    return subprocess.run(command, cwd=folder, stdout=-1, text=True, check=True).stdout


def mentions(folder: Path, answers: Answers) -> list[str]:
    """What a project still says of what was not chosen, as `file:line: text`."""
    listed: dict[str, Any] = tomllib.loads((HERE / "list.toml").read_text("utf-8"))
    tags = {f"{answers['kind']}-{answers['task']}", *answers.values()}
    tags |= {key for key in FLAGS if answers.get(key) == "yes"}
    words = ["template: (only|end)"]
    for rule in listed["rules"]:
        if not tags & {*rule.get("unless", ())} and "when" not in rule:
            words += rule.get("words", ())
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".git" not in path.parts and "__pycache__" not in path.parts:
            for i, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
                if any(re.search(word, line) for word in words):
                    found.append(f"{path.relative_to(folder)}:{i}: {line.strip()[:80]}")
    return found


def tried(folder: Path, goal: str) -> str:
    """Runs `make GOAL` in a project, with this Python's environment; says how it went."""
    venv = Path(sys.prefix)
    old = [word for stamp in (".core", ".dev") for word in ("-o", str(venv / stamp))]
    start = time.perf_counter()
    command = ["make", *old, f"VENV={venv}", goal]
    done = subprocess.run(command, cwd=folder, stdout=-1, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print("\n".join(done.stdout.splitlines()[-40:]), flush=True)
    return f"{'FAILED' if done.returncode else 'ok'} {time.perf_counter() - start:.0f} s"


def main() -> int:
    """Prints a line a variant; gives 1 if any failed."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    part, num_parts = map(int, options.part.split("/"))
    failed = 0
    for answers in variants()[part - 1 :: num_parts]:
        chosen = " ".join(f"{key}={answer}" for key, answer in answers.items())
        print(chosen, end=" ", flush=True)
        if not options.list:
            with TemporaryDirectory() as temp:
                make(Path(temp), answers)
                said = mentions(Path(temp), answers)
                goals = ["lint", "train", *["test"] * (not options.quick)]
                results = {goal: tried(Path(temp), goal) for goal in goals}
            print(*said, sep="\n", end="")
            print("|", ", ".join(f"{goal} {result}" for goal, result in results.items()), end="")
            failed += bool(said) or any("FAILED" in result for result in results.values())
        print(flush=True)
    print(f"{failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
