"""Every command that the README and docs/ show runs, in their order, in one folder."""

import re
import shlex
import shutil

import numpy as np
import pytest

from src.__main__ import main
from tests.conftest import ROOT
from tests.test_configs import TOP

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = sorted((ROOT / "docs").glob("*.md"))  # data.md before deploy.md, which goes on with it
PAGES = [README, *(path.read_text(encoding="utf-8") for path in GUIDES)]
BLOCKS = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page, re.S)]
FILES = [
    file for page in PAGES for file in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.S)
]
COMMANDS = [line.partition("   #")[0].strip() for block in BLOCKS for line in block.splitlines()]
OURS = [c.removeprefix("python -m src ") for c in COMMANDS if c.startswith("python -m src ")]
ELSEWHERE = ("make ", "pip install", "python -m pytest", "python -m scripts.", "wandb ", "curl ")
ELSEWHERE += ("sbatch ", "torchrun ", "copier ", "cookiecutter ", "python template/")


def test_the_commands_run(tmp_path, monkeypatch, capfd):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")  # `start` writes one more
    (tmp_path / "data").mkdir()
    rows = np.random.default_rng(0).normal(size=(200, 2))
    text = "".join(f"{a},{'old' if b > 0 else 'new'},{3 * a + b}\n" for a, b in rows)
    (tmp_path / "data" / "houses.csv").write_text("size,state,price\n" + text)
    for name, text in FILES:
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    failed = {}
    for command in OURS:
        if "--trainer.devices 2" in command or command.startswith("serve "):
            continue  # test_distributed, test_server run it in processes of its own
        words = shlex.split(command)
        if words[0] == "search":
            words += ["--trials", "3"]
        if words[0] in ("fit", "search", "start", "check") and "--trainer.max_epochs" not in words:
            words += ["--trainer.max_epochs", "2"]
        if main(words):
            failed[command] = capfd.readouterr().err
    assert len(OURS) > 5
    assert failed == {}


def test_nothing_else_is_shown_as_a_command():
    unknown = [c for c in COMMANDS if c and not c.startswith(("python -m src ", *ELSEWHERE))]
    assert not unknown


def test_paths_and_configs_that_it_names_exist():
    names = re.findall(r"`((?:configs|docs|scripts|src|tests)/[\w./-]+)`", "".join(PAGES))
    assert len(names) >= 15
    assert not [name for name in names if not (ROOT / name).exists()]


@pytest.mark.parametrize("path", [ROOT / f"configs/{name}.yaml" for name in TOP], ids=TOP)
def test_it_claims_of_a_config_what_the_config_claims(path):
    claim = path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ")
    own = (
        f"`configs/{path.name}`" if path.stem.startswith("own_") else f"| `{path.stem}` | {claim} |"
    )
    assert own in "".join(PAGES)


def test_links_lead_somewhere():
    for path, page in zip([ROOT / "README.md", *GUIDES], PAGES, strict=True):
        heads = re.findall(r"^#+ (.*)", page, re.M)
        anchors = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
        for link in re.findall(r"\]\((?!http)(.+?)\)", page):
            there = link[1:] in anchors if link[0] == "#" else (path.parent / link).exists()
            assert there, f"{path.name}: {link}"


def test_examples_to_copy_are_short():
    table = README.partition("| I add |")[2]
    names = re.findall(r"`((?:src|configs)/[\w/]+\.(?:py|yaml))` \|$", table, re.M)
    assert len(names) >= 4
    assert not [n for n in names if len((ROOT / n).read_text("utf-8").splitlines()) > 120]


def test_it_shows_a_config_as_it_is():
    assert (ROOT / "configs" / "digits_mlp.yaml").read_text(encoding="utf-8").strip() in README
