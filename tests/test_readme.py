"""Every command that the README shows runs, in its order, in one folder."""

import re
import shlex

import numpy as np
import pytest

from src.__main__ import main
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
COMMANDS = [line.partition("   #")[0].strip() for block in BLOCKS for line in block.splitlines()]
OURS = [c.removeprefix("python -m src ") for c in COMMANDS if c.startswith("python -m src ")]
ELSEWHERE = ("make ", "pip install", "python -m pytest", "python -m scripts.", "wandb ", "curl ")
ELSEWHERE += ("copier ", "cookiecutter ", "python template/")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("project")
    (here / "configs").symlink_to(ROOT / "configs")
    (here / "data").mkdir()
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 2))
    text = "".join(f"{a},{'old' if b > 0 else 'new'},{3 * a + b}\n" for a, b in rows)
    (here / "data" / "houses.csv").write_text("size,state,price\n" + text)
    return here


@pytest.mark.parametrize("command", OURS, ids=range(len(OURS)))
def test_a_command_runs(command, folder, monkeypatch, capfd):
    if "--trainer.devices 2" in command or command.startswith("serve "):
        pytest.skip("test_distributed, test_server run it in processes of its own")
    monkeypatch.chdir(folder)
    words = shlex.split(command)
    if words[0] == "search":
        words += ["--trials", "3"]
    if words[0] in ("fit", "search") and "--trainer.max_epochs" not in words:
        words += ["--trainer.max_epochs", "2"]
    assert main(words) == 0, capfd.readouterr().err


def test_nothing_else_is_shown_as_a_command():
    unknown = [c for c in COMMANDS if c and not c.startswith(("python -m src ", *ELSEWHERE))]
    assert not unknown


def test_paths_and_configs_that_it_names_exist():
    names = re.findall(r"`((?:configs|scripts|src)/[\w./-]+)`", README)
    assert len(names) >= 5
    assert not [name for name in names if not (ROOT / name).exists()]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_it_claims_of_a_config_what_the_config_claims(path):
    claim = path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ")
    own = (
        f"`configs/{path.name}`" if path.stem.startswith("own_") else f"| `{path.stem}` | {claim} |"
    )
    assert own in README


def test_it_shows_a_config_as_it_is():
    assert (ROOT / "configs" / "digits_mlp.yaml").read_text(encoding="utf-8").strip() in README
