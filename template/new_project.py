"""Makes a project of this copy of the template, and is gone: `python template/new_project.py`.

It asks what is not given as `--QUESTION ANSWER`; with `--defaults` it asks nothing. Copier and
Cookiecutter run it on their copies. What goes with which answer is in list.toml.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from mentions import without_mentions, without_section, without_unused

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE.parent
WORDS = {"true": True, "yes": True, "false": False, "no": False}
NAME = r"[^\W_][^\"\\<>{}`\n]{0,60}"
Rule = dict[str, Any]


def questions() -> dict[str, tuple[Any, str]]:
    """The default of each question, or its choices, and how it is asked."""
    asked = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    prompts = asked["__prompts__"]
    return {key: (value, prompts[key]) for key, value in asked.items() if key[0] != "_"}


def answered(given: dict[str, Any], asks: bool) -> dict[str, Any]:
    """The answer to each question: given, of the terminal, or the usual one.

    Raises:
        ValueError: There is no such question or choice, or a name has signs that files can't take.
    """
    if unknown := [key for key in given if key[0] != "_" and key not in questions()]:
        raise ValueError(f"no question {unknown[0]!r}; there are: {', '.join(questions())}")
    answers: dict[str, Any] = {}
    for key, (usual, prompt) in questions().items():
        choices = usual if isinstance(usual, list) else []
        usual = choices[0] if choices else usual
        if isinstance(usual, str):
            usual = usual.replace(
                "{{ cookiecutter.project_name }}", answers.get("project_name", "")
            )
        if key not in given and asks:
            hint = "/".join(choices) or {True: "yes", False: "no"}.get(usual, usual)
            given[key] = input(f"{prompt} [{hint}] ").strip() or usual
        answer = given.get(key, usual)
        if isinstance(usual, bool):
            answer = WORDS.get(str(answer).lower())
        if answer is None or (choices and answer not in choices):
            allowed = ", ".join(choices or ["yes", "no"])
            raise ValueError(f"{key} is {given[key]!r}: give one of {allowed}")
        if key in ("project_name", "author") and not re.fullmatch(NAME, answer):
            raise ValueError(f"{key} is {answer!r}: begin with a letter; no quotes, <, {{, `")
        answers[key] = answer
    return answers


def meant(answers: dict[str, Any], examples: dict[str, str]) -> tuple[set[str], dict[str, str]]:
    """The tags that rules ask for, and the values that texts take."""
    pair = f"{answers['kind']}-{answers['task']}"
    if pair not in examples:
        what = f"there is no example of {answers['kind']} with {answers['task']}"
        raise ValueError(f"{what}: choose arrays, which takes any rows and targets")
    tags = {pair} | {key if value is True else str(value) for key, value in answers.items()}
    tags |= {f"no {key}" for key, value in answers.items() if value == "none"}
    pythons, oldest = questions()["python"][0], answers["python"]
    pyproject = (TEMPLATE / "pyproject.toml").read_text("utf-8")
    return tags, {
        **{key: str(value) for key, value in answers.items()},
        "slug": re.sub("[^a-z0-9]+", "-", answers["project_name"].lower()).strip("-") or "project",
        "minor": oldest.partition(".")[2],
        "versions": ", ".join(f'"{v}"' for v in pythons[pythons.index(oldest) :]),
        "year": str(date.today().year),
        "example": examples[pair],
        "template_version": re.findall('^version = "(.+)"', pyproject, re.M)[0],
    }


def cuts(rule: Rule) -> Iterator[tuple[str, str, str]]:
    """File, pattern and what takes its place, of all that a rule cuts."""
    for file, patterns in rule.get("cut", {}).items():
        for cut in patterns:
            yield (file, cut, "") if isinstance(cut, str) else (file, *cut)
    for name in rule.get("packages", ()):
        yield "constraints.txt", rf"(?i)^{name}==.*\n", ""
    for name in rule.get("extras", ()):
        defined, used = rf"^{name} = \[[^\]]*\].*\n", rf"(?<=\w\[){name},?|,{name}(?=[\],])"
        yield "pyproject.toml", f"{defined}|{used}", ""


def files_of(*patterns: str) -> list[str]:
    """Files of the template, by pattern: what a person has added to a project is let alone."""
    found = (path for pattern in patterns for path in sorted(TEMPLATE.glob(pattern)))
    return [path.relative_to(TEMPLATE).as_posix() for path in found]


def check(rules: list[Rule]) -> None:
    """Every path, heading and pattern must be there, also of rules that don't apply.

    Raises:
        ValueError: One isn't.
    """

    def has(file: str, pattern: str) -> bool:
        text = (TEMPLATE / file).read_text("utf-8") if (TEMPLATE / file).is_file() else ""
        return re.search(pattern, text, re.M) is not None

    lost = [f"there is no {p}" for r in rules for p in r.get("paths", ()) if not files_of(p)]
    for rule in rules:
        patterns = [(file, pattern) for file, pattern, _ in cuts(rule)]
        for file, pattern in [*patterns, *rule.get("pieces", {}).items()]:
            lost += [f"nothing in {file} matches {pattern!r}"] * (not has(file, pattern))
        for heading in rule.get("sections", ()):
            found = any(has(f, rf"^#+ {heading}$") for f in files_of("*.md", "docs/*.md"))
            lost += [f"no README or guide has a section {heading!r}"] * (not found)
    if lost:
        raise ValueError(f"template/list.toml: {lost[0]}")


def changed(rules: list[Rule], values: dict[str, str]) -> dict[str, str]:
    """Each file that rules change, as it will be."""
    guides = files_of("*.md", "docs/*.md")
    swept = [*guides, *files_of("tests/*.py")]
    pieces = [(f, word) for rule in rules for f, word in rule.get("pieces", {}).items()]
    pieces += [(f, word) for rule in rules for word in rule.get("words", ()) for f in swept]
    all_cuts = [cut for rule in rules for cut in cuts(rule)]
    before = {
        file: (TEMPLATE / file).read_text("utf-8")
        for file in dict.fromkeys([*(f for f, *_ in all_cuts), *(f for f, _ in pieces), *swept])
    }
    after = dict(before)
    for file, pattern, new in all_cuts:
        after[file] = re.sub(pattern, new.format_map(values), after[file], flags=re.M)
    pyproject = after["pyproject.toml"]
    after["pyproject.toml"] = pyproject.replace(f'"{values["slug"]}[]", ', "")
    for file in guides:
        for heading in (heading for rule in rules for heading in rule.get("sections", ())):
            after[file] = without_section(after[file], heading)
        for name in (name for rule in rules for name in rule.get("extras", ())):
            pattern = rf"(?<=\.\[){name}(,|(?=\]))|,{name}(?=[\w,]*\]')"
            after[file] = re.sub(pattern, "", after[file])
        after[file] = re.sub(r".*'\.\[\]'.*\n", "", after[file])
    for file, word in pieces:
        after[file] = without_mentions(file, after[file], word)
    for file in filter(lambda file: file.endswith(".py"), after):
        after[file] = without_unused(after[file], before[file])
    return {file: text for file, text in after.items() if text != before[file]}


def remove(root: Path, path: str) -> None:
    """Deletes what the template has under that path; in an update a person's own files stay."""
    for file in files_of(path, f"{path}/**/*")[::-1]:
        if (root / file).is_dir():
            shutil.rmtree(root / file / "__pycache__", ignore_errors=True)
            if not any((root / file).iterdir()):
                (root / file).rmdir()
        else:
            (root / file).unlink(missing_ok=True)


def commit(root: Path, name: str) -> str:
    """Begins a git repository, where there is none, with a first commit; says what came of it."""

    def git(*words: str) -> bool:
        try:
            return not subprocess.run(["git", *words], cwd=root, capture_output=True).returncode
        except FileNotFoundError:
            return False

    if git("rev-parse", "--is-inside-work-tree"):
        return "See `git status`, and commit it."
    if git("init", "-b", "main") and git("add", "-A") and git("commit", "-m", f"Start {name}"):
        return "Its first commit is made."
    return "Nothing is committed: tell git your user.name and user.email, then commit."


def make(argv: list[str]) -> None:
    """Makes the project.

    Raises:
        ValueError: An answer or a rule is wrong; nothing has been changed.
    """
    import tomllib  # not in Python 3.10

    if {"-h", "--help"} & {*argv}:
        asked = (f"--{key}  {prompt}" for key, (_, prompt) in questions().items())
        print(__doc__, *asked, sep="\n")
        return
    words = [word for word in argv if word != "--defaults"]
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ValueError(f"{' '.join(words)}: write --QUESTION ANSWER; --defaults asks nothing")
    given: dict[str, Any] = {k[2:]: v for k, v in zip(words[::2], words[1::2], strict=True)}
    root, begins = Path(given.pop("in", TEMPLATE)), given.pop("git", "yes") == "yes"
    asks = not {"--defaults", "--answers"} & {*argv}
    if asks and not sys.stdin.isatty():
        raise ValueError("there is no terminal to ask: give --defaults, and --QUESTION ANSWER")
    if not (root / "pyproject.toml").is_file():
        raise ValueError(f"--in {root}: that is no copy of the template")
    listed = tomllib.loads((HERE / "list.toml").read_text("utf-8"))
    check(rules := listed["rules"])
    answers = answered(given | json.loads(given.pop("answers", "{}")), asks)
    tags, values = meant(answers, listed["examples"])
    state = ["git", "-C", str(root), "status", "--porcelain"]
    has_git = root == TEMPLATE and shutil.which("git")
    if has_git and subprocess.run(state, capture_output=True, check=False).stdout:
        raise ValueError("not all is committed here: commit or stash it, as files will go")
    rules = [
        r for r in rules if not tags & {*r.get("unless", ())} and tags & {*r.get("when", tags)}
    ]
    files = changed(rules, values)
    if answers["licence"] != "MIT":  # the template's own must stay with its code
        (root / "LICENSE").replace(root / "LICENSE-fulgurite")
        own = HERE / "licences" / answers["licence"]
        if own.is_file():
            files["LICENSE"] = own.read_text("utf-8").format_map(values)
    for file, text in files.items():
        (root / file).write_text(text, "utf-8", newline="\n")
    for path in (path for rule in rules for path in rule.get("paths", ())):
        remove(root, path)
    (root / "{{_copier_conf.answers_file}}.jinja").unlink(missing_ok=True)
    note = commit(root, answers["project_name"]) if begins else ""
    print(f"{answers['project_name']}: `make train` and `make test` work. {note}".rstrip())


def main(argv: list[str]) -> int:
    """Makes the project, or says in one line why not; gives the exit code."""
    try:
        make(argv)
    except ModuleNotFoundError:
        print("error: this needs Python 3.11 or newer", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
