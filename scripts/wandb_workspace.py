"""Saves a ready dashboard for the runs of this project at Weights & Biases.

pip install wandb-workspaces && wandb login
python -m scripts.wandb_workspace ENTITY [PROJECT]
"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from src.errors import short

STEP = "trainer/global_step"
CURVES: dict[str, list[Any]] = {
    "loss": ["train/loss", "val/loss"],
    "accuracy": ["train/acc", "val/acc"],
    "F1 and AUROC": ["val/f1", "val/auroc"],
    "RMSE": ["train/rmse", "val/rmse"],
    "MAE": ["val/mae"],
    "Largest error": ["val/max"],
    "R2": ["val/r2"],
}
TRAINING: dict[str, list[Any]] = {
    "learning rate": ["lr"],
    "gradient norm": ["grad_norm"],
    "samples a second": ["samples_per_s"],
}
IMAGES = ["val/confusion", "test/confusion", "val/predicted", "test/predicted"]
MISTAKES = ["val/mistakes", "test/mistakes"]
TABLES = ["val/mistakes_table", "test/mistakes_table"]
COMPARED = ["best/val/loss", "best/val/acc", "best/val/rmse", "test/loss", "test/acc", "test/rmse"]
SYSTEM = {
    "GPU at work, %": r"system/gpu\.\d+\.gpu$",
    "GPU memory, %": r"system/gpu\.\d+\.memoryAllocated$",
    "CPU, %": "system/cpu$",
    "memory, %": "system/memory_percent$",
}


def workspace(entity: str, project: str) -> Any:
    """Makes the dashboard; its `save()` needs a key.

    Args:
        entity: User or team that owns the project.
        project: Project at W&B.
    """
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws

    def plots(keys_of: dict[str, list[Any]]) -> list[Any]:
        return [wr.LinePlot(title=title, x=STEP, y=keys) for title, keys in keys_of.items()]

    panels = {
        "Curves": plots(CURVES),
        "Rates and gradients": plots(TRAINING),
        "Confusion and mistakes": [
            *(wr.MediaBrowser(title=key, media_keys=[key]) for key in IMAGES + MISTAKES),
            *(wr.WeavePanelSummaryTable(table_name=key) for key in TABLES),
        ],
        "Comparison of runs": [
            *(wr.BarPlot(title=key, metrics=[key]) for key in COMPARED),
            wr.RunComparer(diff_only="split"),
        ],
        "System": [
            wr.LinePlot(title=title, x="RelativeTime(Wall)", metric_regex=regex)
            for title, regex in SYSTEM.items()
        ],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Training",
        sections=[
            ws.Section(
                name=name,
                panels=section,
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(columns=3, rows=-(-len(section) // 3)),
            )
            for name, section in panels.items()
        ],
    )


def main() -> None:
    """Saves it, and prints where it is."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("entity", help="user or team at W&B")
    parser.add_argument("project", nargs="?", default=Path.cwd().name, help="else %(default)s")
    given = parser.parse_args()
    try:
        print(workspace(given.entity, given.project).save().url)
    except ImportError:
        sys.exit("needs wandb-workspaces: pip install wandb-workspaces  (the extra `workspace`)")
    except Exception as error:  # no key, no network, no such project
        sys.exit(f"error: {short(error)}")


if __name__ == "__main__":
    main()
