"""Weights & Biases that never stands in the way of a run."""

import os
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from src.tracking.git import git_state

ENVIRONMENT = {  # of W&B, where it isn't set outside
    "WANDB_SILENT": "true",
    "WANDB_DISABLE_GIT": "true",  # it would keep a diff of the code
    "WANDB_ERROR_REPORTING": "false",  # takes 22 s at the end if the server doesn't answer
    "WANDB_INIT_TIMEOUT": "3",  # s; then the run begins again offline
    "WANDB_FINISH_TIMEOUT": "300",  # s; what isn't uploaded by then is left for `wandb sync`
}
HELP_TEXTS = "pydantic._internal._fields.extract_docstrings_from_cls"


def harmless(method: Callable) -> Any:
    """Runs on rank 0 only; if it fails, the run goes on without W&B, and one line says so."""

    def safe(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            if not self.off:
                method(self, *args, **kwargs)
        except Exception as error:
            if not self.off:
                print(f"warning: the run goes on without W&B: {error!r}", file=sys.stderr)
            self.off = True
            if isinstance(error, ConnectionError):  # its process is gone: nothing waits for it
                from wandb import teardown

                with suppress(Exception):
                    teardown()

    return rank_zero_only(safe)


class Wandb(WandbLogger):
    """Logs to Weights & Biases: online with a key and a network, else offline, for `wandb sync`.

    W&B's own variables hold: `WANDB_MODE=disabled` switches it off, `WANDB_INIT_TIMEOUT=60` waits
    60 s for a slow network.

    Args:
        project: Project at W&B; null for `WANDB_PROJECT`, or the name of the working folder.
        log_model: Whether the best checkpoint is kept as an artifact.
    """

    run_dir: Path
    waits = False  # for the config: what fails before leaves no run

    def __init__(self, project: str | None = None, log_model: bool = True) -> None:
        self.off = False
        project = project or os.environ.get("WANDB_PROJECT") or Path.cwd().name
        super().__init__(project=project, log_model=log_model, config=git_state())

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run at W&B, started at the first use; `None` if it waits or is broken."""
        if self._experiment is None and not self.waits:
            self._start()
        return self._experiment

    @harmless
    def _start(self) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # 0.1 s less: it would take a help text for each setting out of its source; and 0.15 s less:
        # it looks for its process, which takes 0.05 s to begin, at once and then after 0.2 s
        with suppress(ImportError, AttributeError), patch(HELP_TEXTS, lambda *_, **__: {}):
            from wandb.sdk.lib.service import service_port_file

            vars(service_port_file)["_SLEEP"] = lambda seconds: time.sleep(seconds / 20)
        import wandb

        if wandb.run is not None:  # of an earlier run in this process
            wandb.finish()
        mode = wandb.setup().settings.mode
        if mode == "disabled":
            self._experiment = wandb.init(mode=mode)  # takes everything, does nothing
            return
        id_path = self.run_dir / "wandb_run_id"  # one id for all that this folder ever logs
        if not id_path.exists():
            id_path.write_text(uuid.uuid4().hex[:8])
        folders = {"dir": str(self.run_dir.parent), "name": self.run_dir.name}
        self._wandb_init |= {**folders, "id": id_path.read_text(), "mode": mode}
        self._wandb_init.pop("anonymous", None)  # W&B warns of it
        why = f"WANDB_MODE={mode}" if mode in ("offline", "dryrun") else ""
        # W&B would import its whole launcher, 0.2 s, for inputs of a job, which there are none of
        with patch.object(wandb.Run, "_detect_and_apply_job_inputs", create=True):
            try:
                if not (why or wandb.login(prompt=False, verify=False)):
                    why = "no key"
                where = why or super().experiment.url
            except wandb.Error as error:
                why = str(error).partition("\n")[0]
                wandb.teardown()  # its service holds the id of the run that didn't start
            if why:
                self._wandb_init["mode"] = "offline"
                _ = super().experiment
                folder = self.run_dir.parent / "wandb"
                how = f"`wandb leet` shows, `wandb sync` uploads what is in {folder}"
                where = f"offline ({why}); {how}"
        print(f"W&B: {where}", file=sys.stderr)

    log_metrics = harmless(WandbLogger.log_metrics)
    log_image = harmless(WandbLogger.log_image)
    log_table = harmless(WandbLogger.log_table)

    @harmless
    def log_config(self, config: dict[str, Any]) -> None:
        """Adds to the run's config, nested as it is."""
        self.waits = False
        self.experiment.config.update(config, allow_val_change=True)

    @harmless
    def log_summary(self, values: dict[str, Any]) -> None:
        """Sets what holds for the whole run."""
        self.experiment.summary.update(values)

    @harmless
    def finalize(self, status: str) -> None:
        """Lightning calls it after `fit` and again after `test`: only a failure ends the run."""
        if status == "failed":
            self.finish(exit_code=1)

    @harmless
    def finish(self, exit_code: int = 0) -> None:
        """Keeps the best checkpoint, and ends the run at W&B."""
        if (run := self._experiment) is None:
            return
        import wandb

        for checkpoint in self._checkpoint_callbacks.values():
            if Path(best := checkpoint.best_model_path).is_file():
                artifact = wandb.Artifact(f"model-{run.id}", "model")
                # "immutable" makes no copy in the home folder, which is small on a cluster
                artifact.add_file(best, "best.ckpt", policy="immutable", skip_cache=True)
                run.log_artifact(artifact, aliases=["best", "latest"])
        run.finish(exit_code=exit_code)
        self._experiment = None
