"""Weights & Biases that never stands in the way of a run."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

INIT_S = 3.0  # what a dead network costs, before the run begins again offline
FINISH_S = 300.0  # what isn't uploaded by then stays on disk, for `wandb sync`
BEST = {"min": ("loss", "mae", "rmse"), "max": ("acc", "auroc", "f1", "r2")}


def harmless(method: Callable) -> Any:
    """Runs on rank 0 only; if it fails, the run goes on without W&B, and one line says so."""

    @functools.wraps(method)
    def safe(self: Wandb, *args: Any, **kwargs: Any) -> None:
        try:
            if not self.off:
                method(self, *args, **kwargs)
        except Exception as error:
            self.give_up(error)

    return rank_zero_only(safe)


class Wandb(WandbLogger):
    """Logs to Weights & Biases: online with a key and a network, else offline, for `wandb sync`.

    W&B's own variables hold: `WANDB_MODE=disabled` switches it off, `WANDB_ENTITY` names a team.

    Args:
        project: Project at W&B; null for `WANDB_PROJECT`, or the name of the working folder.
        group: Name under which runs are gathered, say those of several seeds.
        log_model: Whether the best checkpoint is kept as an artifact.
    """

    run_dir = Path("runs") / "unnamed"

    def __init__(
        self, project: str | None = None, group: str | None = None, log_model: bool = True
    ) -> None:
        self.off = False
        self._keep_best = log_model
        self._best: tuple[Path, dict[str, Any]] | None = None
        self._config: dict[str, Any] = {}
        project = project or os.environ.get("WANDB_PROJECT") or Path.cwd().name
        try:
            super().__init__(project=project, group=group)
        except ModuleNotFoundError as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Says why, once; from then on every call does nothing."""
        if not self.off:
            _say(f"warning: the run goes on without W&B: {_one_line(error)}")
        self.off = True

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run at W&B, started at the first use; `None` if W&B is off."""
        if self._experiment is None:
            self._start()
        return self._experiment

    @harmless
    def _start(self) -> None:
        # 0.31 sends its own telemetry when the process ends: 22 s for a server that doesn't answer
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode = wandb.setup(settings=wandb.Settings(silent=True)).settings.mode
        if mode == "disabled":
            self.off = True
            return
        if wandb.run is not None:  # of an earlier run in this process
            wandb.finish()
        why = f"WANDB_MODE={mode}"
        if mode not in ("offline", "dryrun"):
            try:
                why = "" if wandb.login(prompt=False, verify=False) else "no key"
                url = why or self._init(mode).url
            except wandb.Error as error:
                late = "deadline exceeded" in str(error)
                why = "no answer; WANDB_INIT_TIMEOUT=60 waits 60 s" if late else _one_line(error)
                wandb.teardown()  # its service holds the id of the run that didn't start
        if why:
            self._init("offline")
            url = f"offline ({why}); `wandb leet` shows and `wandb sync` uploads what is in "
            url += str(self.run_dir.parent / "wandb")
        _say(f"W&B: {url}")

    def _init(self, mode: Any) -> Any:
        import wandb

        id_path = self.run_dir / "wandb_run_id"  # one id for all that this folder ever logs
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if not id_path.exists():
            id_path.write_text(uuid.uuid4().hex[:8])
        settings = wandb.Settings(
            mode=mode,
            silent=True,
            disable_git=True,  # it would keep a diff of the code; `git_state` says what is needed
            save_code=False,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_S)),
            finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT", FINISH_S)),
        )
        self._wandb_init |= {
            "config": git_state() | self._config,
            "dir": str(self.run_dir.parent),
            "id": id_path.read_text().strip(),
            "name": self.run_dir.name,
            "settings": settings,
        }
        self._wandb_init.pop("anonymous", None)
        run = super().experiment
        for goal, names in BEST.items():
            for key in (f"{split}/{name}" for split in ("train", "val") for name in names):
                run.define_metric(key, "trainer/global_step", summary=f"{goal},last")
        return run

    log_metrics = harmless(WandbLogger.log_metrics)
    log_image = harmless(WandbLogger.log_image)
    log_table = harmless(WandbLogger.log_table)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: Lightning would merge those of model and data flat. See `log_config`."""

    @harmless
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Adds to the run's config, nested as it is; doesn't start the run."""
        self._config |= json.loads(json.dumps(config, default=str))
        if self._experiment is not None:
            self._experiment.config.update(self._config, allow_val_change=True)

    @harmless
    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Sets what holds for the whole run."""
        self.experiment.summary.update(dict(values))

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        score = checkpoint_callback.best_model_score
        about = {checkpoint_callback.monitor or "score": None if score is None else float(score)}
        self._best = (Path(checkpoint_callback.best_model_path), about)

    @harmless
    def finalize(self, status: str) -> None:
        """Lightning calls it after `fit` and again after `test`, so only a failure ends the run."""
        if self._experiment is not None and status == "success":
            self._log_best()
        if status == "failed":
            self.finish(exit_code=1)

    def _log_best(self) -> None:
        if self._keep_best and self._best and self._best[0].is_file():
            import wandb

            path, about = self._best
            artifact = wandb.Artifact(f"model-{self.experiment.id}", "model", metadata=about)
            # "immutable" makes no copy in the home folder, which is small on a cluster
            artifact.add_file(str(path), name="best.ckpt", policy="immutable", skip_cache=True)
            self.experiment.log_artifact(artifact, aliases=["best", "latest"])
        self._best = None

    @harmless
    def finish(self, exit_code: int = 0) -> None:
        """Ends the run at W&B; another one can start in this process."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None


def git_state() -> dict[str, dict[str, Any]]:
    """Commit of the code, and whether it was changed since; empty where there is no git."""
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain=v2", "--branch"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    commit, *lines = out.splitlines()
    dirty = any(not line.startswith("#") for line in lines)
    return {"git": {"commit": commit.removeprefix("# branch.oid "), "dirty": dirty}}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
