"""The dashboard's definition, without a network: it shows what a run logs, and nothing else."""

import json
import re
import sys
from pathlib import Path

import pytest

from scripts import wandb_workspace

ROOT = Path(__file__).parents[1]
SHOWN = r"\b(?:(?:best/)?(?:train|val|test)/[a-z0-9_]+|lr|grad_norm|samples_per_s)\b"
LOGGED = {
    "src/models/classifier.py": ["acc", "f1", "auroc"],
    "src/models/regressor.py": ["rmse", "mae", "max", "r2"],
    "src/callbacks/monitor.py": ["lr", "grad_norm", "samples_per_s"],
    "src/callbacks/report.py": ["confusion", "predicted", "mistakes", "mistakes_table"],
}


def test_panels_show_what_runs_log():
    keys = [
        *(key for plot in wandb_workspace.CURVES.values() for key in plot),
        *(key for plot in wandb_workspace.TRAINING.values() for key in plot),
        *wandb_workspace.IMAGES,
        *wandb_workspace.MISTAKES,
        *wandb_workspace.TABLES,
        *wandb_workspace.COMPARED,
    ]
    assert all(re.fullmatch(SHOWN, key) for key in keys)
    named = {key.rpartition("/")[2] for key in keys} - {"loss"}
    assert named == {name for names in LOGGED.values() for name in names}
    for path, names in LOGGED.items():
        source = (ROOT / path).read_text()
        assert all(f'{name}"' in source for name in names), path


@pytest.mark.filterwarnings("ignore:Pydantic V1 style", "ignore:.*deprecated")
def test_workspace_has_each_section_and_panel():
    pytest.importorskip("wandb_workspaces")
    space = wandb_workspace.workspace("someone", "digits")
    assert (space.entity, space.project) == ("someone", "digits")
    assert {section.name: len(section.panels) for section in space.sections} == {
        "Curves": 6,
        "Rates and gradients": 3,
        "Confusion and mistakes": 8,
        "Comparison of runs": 7,
        "System": 4,
    }
    sent = json.loads(space._to_model().model_dump_json(by_alias=True))
    loss = sent["spec"]["section"]["panelBankConfig"]["sections"][0]["panels"][0]["config"]
    assert loss["metrics"] == ["train/loss", "val/loss"]
    assert loss["xAxis"] == "trainer/global_step"


def test_help_says_what_to_give(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wandb_workspace", "--help"])
    with pytest.raises(SystemExit) as done:
        wandb_workspace.main()
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("usage: wandb_workspace [-h] entity [project]\n")


def test_no_key_is_one_line(monkeypatch):
    def save(*args):
        raise ValueError("No API key configured.\nUse `wandb login`.")

    monkeypatch.setattr(sys, "argv", ["wandb_workspace", "someone"])
    monkeypatch.setattr(wandb_workspace, "workspace", save)
    with pytest.raises(SystemExit, match=r"^error: No API key configured\. Use `wandb login`\.$"):
        wandb_workspace.main()
