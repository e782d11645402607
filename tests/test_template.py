"""Projects that are made of this one: what is in them, and what comes of them a year later.

The whole of it, each pair of answers trained and tested, is `python template/bake.py`.
"""

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "template"))
import bake
from mentions import without_mentions, without_section, without_unused

[VERSION] = re.findall("^version = .*", (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
SMALL = {"kind": "arrays", "task": "regression", "logger": "csv", "licence": "none"}
SMALL |= dict.fromkeys(("search", "server", "start", "lessons", "examples"), "no")
LARGE = {"kind": "images", "task": "classification", "logger": "tensorboard", "python": "3.13"}
LARGE |= dict.fromkeys(("search", "server", "start", "lessons", "examples"), "yes")
TABLE = {"kind": "table", "task": "classification", "logger": "wandb", "licence": "Apache-2.0"}
TABLE |= {"search": "yes", "server": "no", "start": "no", "lessons": "no", "examples": "no"}


def run(*words: object, cwd: Path, code: int = 0) -> str:
    """What a command says, as on a machine where git knows nobody but the author."""
    author = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull}
    author |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, env={**os.environ, **author}
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def python(*words: object, cwd: Path, code: int = 0) -> str:
    return run(sys.executable, *words, cwd=cwd, code=code)


def tag(folder: Path, version: str) -> None:
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", version, cwd=folder)
    run("git", "tag", version, cwd=folder)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The repository as it is here, with the tag 0.1.0."""
    folder = tmp_path_factory.mktemp("template")
    bake.copy(folder)
    edit(folder / "pyproject.toml", VERSION, 'version = "0.1.0"')
    run("git", "init", "-q", "-b", "main", cwd=folder)
    tag(folder, "0.1.0")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != ".git"
        if "__pycache__" not in path.parts and path.name != ".copier-answers.yml"
    }


def imported(path: Path) -> set[str]:
    """Modules of this project that a file imports, or names of them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("src", "tests", "scripts")}


def lost_fixtures(path: Path, shared: Path) -> list[str]:
    """Arguments of tests that neither a fixture nor a parametrization gives."""
    texts = [path.read_text(encoding="utf-8"), shared.read_text(encoding="utf-8")]
    given = {name for text in texts for name in re.findall(r"^def (\w+)", text, re.M)}
    given |= {
        "tmp_path",
        "tmp_path_factory",
        "monkeypatch",
        "capfd",
        "capsys",
        "recwarn",
        "caplog",
    }
    lost = []
    for node in ast.parse(texts[0]).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = " ".join(map(ast.unparse, node.decorator_list))
            args = [arg.arg for arg in node.args.args if arg.arg not in given]
            lost += [arg for arg in args if not re.search(rf"\b{arg}\b", marks)]
    return lost


def exists(folder: Path, name: str) -> bool:
    for module in (name, name.rpartition(".")[0]):
        path = folder.joinpath(*module.split("."))
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return True
    return False


@pytest.mark.parametrize("answers", [SMALL, LARGE, TABLE], ids=["small", "large", "table"])
def test_a_project_is_whole_and_says_nothing_of_what_was_not_chosen(answers, tmp_path):
    bake.make(tmp_path, answers)
    assert bake.mentions(tmp_path, answers) == []
    names = files(tmp_path).keys()
    for name in ("search", "deploy", "start", "lessons"):
        wanted = answers["server" if name == "deploy" else name] == "yes"
        assert any(f.startswith(f"src/{name}/") for f in names) == wanted
    assert not [f for f in names if f.startswith(("template/", "hooks/", "copier")) or "{" in f]
    for path in tmp_path.rglob("*.py"):
        assert not [name for name in imported(path) if not exists(tmp_path, name)], path
    for path in tmp_path.glob("tests/test_*.py"):
        assert lost_fixtures(path, tmp_path / "tests" / "conftest.py") == [], path
    python("-m", "ruff", "check", cwd=tmp_path)
    python("-m", "ruff", "format", "--check", cwd=tmp_path)
    assert "fit" in python("-m", "src", "--help", cwd=tmp_path)
    assert "configs/digits_mlp.yaml" in python("-m", "src", "list", cwd=tmp_path).replace("\\", "/")
    assert "def test_" in (tmp_path / "tests" / "test_errors.py").read_text("utf-8")
    example = {"arrays": "diabetes_mlp", "images": "digits_mlp", "table": "wine_mlp"}
    makefile = (tmp_path / "Makefile").read_text("utf-8")
    assert f"fit --config configs/{example[answers['kind']]}.yaml" in makefile
    if answers is SMALL:
        words = "fit --config configs/diabetes_mlp.yaml --trainer.max_epochs 1"
        assert "test/rmse" in python("-m", "src", *words.split(), cwd=tmp_path)


def test_copier_cookiecutter_and_by_hand_make_the_same(template, tmp_path):
    given = {"project_name": "Wine tasting", "search": "no", "licence": "BSD-3-Clause"}
    data = [word for key, value in given.items() for word in ("-d", f"{key}={value}")]
    python("-m", "copier", "copy", "--trust", "--defaults", *data, template, "a", cwd=tmp_path)
    words = [f"{key}={value}" for key, value in given.items()]
    cookiecutter = ("-m", "cookiecutter", "--no-input", "--config-file", os.devnull)
    python(*cookiecutter, template, *words, cwd=tmp_path)
    run("git", "clone", "-q", template, "c", cwd=tmp_path)
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    python("template/new_project.py", "--defaults", *words, cwd=tmp_path / "c")
    made = files(tmp_path / "a")
    assert made == files(tmp_path / "wine-tasting") == files(tmp_path / "c")
    assert made["README.md"].startswith(b"# Wine tasting\n")
    assert made["README.md"].endswith(b"\n\nMade from Fulgurite, version 0.1.0.\n")
    assert b'name = "wine-tasting"\nversion = "0.1.0"' in made["pyproject.toml"]
    assert b"The Wine tasting authors" in made["LICENSE"]
    assert b"The Fulgurite authors" in made["LICENSE-fulgurite"]
    for name in ("a", "wine-tasting"):
        assert run("git", "status", "--short", cwd=tmp_path / name) == ""
        assert "Start Wine tasting" in run("git", "log", "--oneline", cwd=tmp_path / name)
    assert "_commit: 0.1.0\n" in (tmp_path / "a" / ".copier-answers.yml").read_text("utf-8")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8", newline="\n")


def test_an_update_keeps_the_edits_of_both_sides(template, tmp_path):
    shutil.copytree(template, newer := tmp_path / "template")
    words = ["--trust", "--defaults", "-d", "search=no", "-d", "kind=images"]
    python("-m", "copier", "copy", *words, newer, "mine", cwd=tmp_path)
    mine = tmp_path / "mine"
    edit(mine / "pyproject.toml", 'version = "0.1.0"', 'version = "3.0.0"')
    edit(mine / "README.md", "# My project\n", "# My project\n\nIt knows cats.\n")
    edit(mine / "src/nets/mlp.py", "\n\nclass MLP(", "\n\nMINE = 1\n\n\nclass MLP(")
    own = {"tests/test_mine.py": "import polars\nTable = [1]\n", "src/search/mine.py": "OWN = 1\n"}
    for name, text in own.items():
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).write_text(text, "utf-8", newline="\n")
    run("git", "add", "-A", cwd=mine)
    run("git", "commit", "-qm", "mine", cwd=mine)
    edit(newer / "pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"')
    edit(newer / "README.md", "## Where things go\n", "## Where things go\n\nNot far.\n")
    for name in ("src/nets/mlp.py", "src/search/space.py", "tests/test_search.py"):
        path = newer / name
        path.write_text(path.read_text("utf-8") + "\n\nTHEIRS = 1\n", "utf-8", newline="\n")
    (newer / "src/nets/newer.py").write_text("NEW = 1\n", "utf-8", newline="\n")
    tag(newer, "0.2.0")
    python("-m", "copier", "update", "--trust", "--defaults", cwd=mine)
    got = {name: content.decode() for name, content in files(mine).items() if name[-4:] != ".png"}
    readme, pyproject, mlp = got["README.md"], got["pyproject.toml"], got["src/nets/mlp.py"]
    assert "It knows cats." in readme
    assert "Not far." in readme
    assert "Made from Fulgurite, version 0.2.0." in readme
    assert 'name = "my-project"\nversion = "3.0.0"' in pyproject
    assert "MINE = 1" in mlp
    assert "THEIRS = 1" in mlp
    assert got["src/nets/newer.py"] == "NEW = 1\n"
    assert {name: got[name] for name in own} == own
    assert not [name for name in got if "search" in name and name != "src/search/mine.py"]
    assert not [name for name in got if name.startswith(("template/", "hooks/", "copier"))]
    assert not [name for name, text in got.items() if "<<<<<<<" in text or name.endswith(".rej")]
    assert "_commit: 0.2.0\n" in (mine / ".copier-answers.yml").read_text("utf-8")


def test_copier_asks_what_cookiecutter_asks():
    asked = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))
    asked = {key: question for key, question in asked.items() if key[0] != "_"}
    expected = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
    prompts = expected["__prompts__"]
    expected = {key: value for key, value in expected.items() if key[0] != "_"}
    assert [*asked] == [*expected] == [*prompts]
    for key, question in asked.items():
        usual = question.get("choices", question["default"])
        assert str(usual).replace("{{ ", "{{ cookiecutter.") == str(expected[key])
        assert question["default"] == (usual[0] if isinstance(usual, list) else usual)
        assert question["help"] == prompts[key]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--kind tables", "kind is 'tables': give one of table, images, signals, arrays"),
        ("--search maybe", "search is 'maybe': give one of yes, no"),
        ("--sarch no", "no question 'sarch'; there are: project_name, author, licence, "),
        ("--search", "--search: write --QUESTION ANSWER; --defaults asks nothing"),
        ("--project_name 'x", 'project_name is "\'x": begin with a letter; no quotes, <, {, `'),
        ('--author A"b', "author is 'A\"b': begin with a letter; no quotes, <, {, `"),
        (
            "--kind images --task regression",
            "there is no example of images with regression: choose arrays, which takes any rows",
        ),
    ],
)
def test_a_wrong_answer_is_one_line_and_changes_nothing(template, tmp_path, words, line):
    script = ("template/new_project.py", "--defaults", *words.split())
    said = python(*script, cwd=template, code=2)
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1
    assert run("git", "status", "--short", cwd=template) == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "line"),
    [
        ("README.md", "\n## Watch\n", "\n## Look\n", "no README or guide has a section 'Watch'"),
        ("LICENSE", "The Fulgurite authors", "Us", "nothing in LICENSE matches '^(Copyright"),
        ("template/list.toml", '"src/search",', '"src/find",', "there is no src/find"),
    ],
)
def test_a_list_that_no_longer_fits_is_one_line_and_changes_nothing(
    template, tmp_path, file, old, new, line
):
    shutil.copytree(template, folder := tmp_path / "t")
    edit(folder / file, old, new)
    before = files(folder)
    said = python("template/new_project.py", "--defaults", cwd=folder, code=2)
    assert said.startswith(f"error: template/list.toml: {line}")
    assert said.count("\n") == 1
    assert files(folder) == before


def test_it_asks_where_it_can_and_touches_nothing_that_is_not_committed(template, tmp_path):
    shutil.copytree(template, folder := tmp_path / "t")
    (folder / "mine.txt").write_text("not yet committed")
    before = files(folder)
    for words, line in {
        "--defaults": "not all is committed here",
        "--kind images": "there is no terminal to ask",
        "--defaults --in /nope": "--in /nope: that is no copy",
        "--kind tabel --defaults": "kind is 'tabel': give one of table, images",
    }.items():
        git = folder / ".git"
        if "tabel" in words:
            (folder / "mine.txt").unlink()
            before = files(folder)
        said = python("template/new_project.py", *words.split(), cwd=folder, code=2)
        assert said.startswith(f"error: {line}"), said
        assert git.exists()
    assert files(folder) == before
    assert "--lessons  " in python("template/new_project.py", "--help", cwd=folder)


PYTHON = """import a
from b import c, d

NAMES = ["x", "bad", "y"]


def helper():
    return d


@pytest.mark.parametrize(
    "case",
    [
        1,
        "bad",  # gone
    ],
)
def test_one(case):
    for k in {"bad": 1, "good": 2}.items():
        assert c


def test_two():
    assert helper() == "bad" or a
"""
LEFT = """from b import c

NAMES = ["x", "y"]


@pytest.mark.parametrize(
    "case",
    [
        1,
    ],
)
def test_one(case):
    for k in {"good": 2}.items():
        assert c
"""
GUIDE = """# Guide

One is bad. Two is good,
in two lines. Three (bad) too.

- bad: an item. With more.
- An item. A bad sentence
  in it. The end.

| what | is |
|---|---|
| a | bad |
| b | good |

```bash
bad
# no heading
good
```

## Bad things

### All

Gone.

## Rest

Stays.
"""
GUIDED = """# Guide

Two is good,
in two lines.

- An item. The end.

| what | is |
|---|---|
| b | good |

```bash
# no heading
good
```

## Rest

Stays.
"""


def test_the_smallest_piece_that_mentions_a_word_goes():
    left = without_unused(without_mentions("a.py", PYTHON, "bad"), PYTHON)
    assert left == LEFT
    guide = without_section(without_mentions("a.md", GUIDE, "bad"), "Bad things")
    assert guide == GUIDED
    assert without_mentions("a.txt", "good\nbad\n", "bad") == "good\n"
    assert without_mentions("a.py", PYTHON, "worse") == PYTHON


def test_the_variants_that_are_baked_have_each_pair_of_answers():
    found = [{**v, "pair": f"{v['kind']}-{v['task']}"} for v in bake.variants()]
    asked = {key: {v[key] for v in found} for key in ("pair", *bake.FLAGS)}
    assert len(asked["pair"]) == 6
    assert asked["search"] == asked["server"] == asked["examples"] == {"yes", "no"}
    for a, b in itertools.combinations(asked, 2):
        pairs = {(v[a], v[b]) for v in found}
        assert pairs == {*itertools.product(asked[a], asked[b])}
    assert len(found) < 16
    for name, some in bake.IN_TURN.items():
        assert {v[name] for v in found} == {*some}
