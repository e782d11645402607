"""The Lightning CLI of this project: one run folder, one tree of options, the best model tested."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from src import run_folder
from src.callbacks import Monitor, Report
from src.config import Config, Tree, room_of
from src.data.module import DataModule
from src.errors import short
from src.models.model import Model
from src.tracking import Wandb

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of calls by Lightning
DEFAULTS: Tree = {
    "seed_everything": 0,
    "data": {"partition": "Stratified"},
    "callbacks": {"checkpoint": "Checkpoint"},
    "trainer": {
        "default_root_dir": "runs",
        "logger": ["MetricsCsv", "Wandb"],
        "use_distributed_sampler": False,  # the batches are sharded already, without padding
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "enable_autolog_hparams": False,
    },
}
SECTIONS: dict[str, type] = {"data": DataModule, "trainer": L.Trainer}
LEAVES = {
    "seed_everything": int,
    "run": str | None,
    "ckpt_path": str | None,
}
# What Lightning and torch say about nothing that a person can or should change.
NOISE = re.compile(
    r"litlogger|litmodels|TPU|HPU|GPU available|LOCAL_RANK|Initializing distributed|Seed set to|"
    r"distributed_backend=|does not have many workers|to estimate number|logging interval|"
    r"sync_dist=True|isinstance\(treespec, LeafSpec\)|lr_scheduler\.step\(\)|`Trainer.fit` stopped|"
    r"WeightAveraging callback with a model|Missing logger folder|Checkpoint directory|Restor|"
    r"Loaded model weights|The dirpath has changed|predict returned None|was configured so|Glyph|"
    r"across ranks is zero"
)


class Parser(LightningArgumentParser):
    """A parser that takes no abbreviations and raises its errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "exit_on_error": False, **kwargs})


class CLI(LightningCLI):
    """Fit, validate, test and predict.

    Args:
        command: The subcommand.
        argv: What to parse: one `--config` with the whole tree.
        folder: The run folder.
        checkpoint: The checkpoint that is gone on with, or an empty dict.
    """

    def __init__(self, command: str, argv: list[str], folder: Path, checkpoint: dict) -> None:
        self.command, self.folder, self.checkpoint = command, folder, checkpoint
        super().__init__(
            Model,
            DataModule,
            save_config_callback=None,
            parser_class=Parser,
            subclass_mode_model=True,
            args=[command, *argv],
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        ours = {"model", "datamodule", "weights_only", "verbose", "return_predictions"}
        loaders = {"train_dataloaders", "val_dataloaders", "dataloaders"}
        return {self.command: ours | loaders}  # a parser for each would cost 0.1 s

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run", type=str | None)
        parser.add_argument("--callbacks", type=dict[str, L.Callback | None] | None)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Nothing: the checkpoint's config was merged below the flags already."""

    def before_instantiate_classes(self) -> None:
        text = self.parser.dump(self.config, skip_none=False, format="yaml")
        self.saved = yaml.safe_load(text)[self.subcommand]
        for key in ("ckpt_path", "run", "config"):
            self.saved.pop(key, None)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        named = self._get(self.config_init, "callbacks") or {}
        config = dict(self._get(self.config_init, "trainer"))
        shown = config["enable_progress_bar"] is not False
        own = [run_folder.RunFolder(self.saved), Monitor(shown), Report()]
        config["enable_progress_bar"] = False  # Lightning's
        config["callbacks"] = [*own, *filter(None, named.values()), *(config["callbacks"] or [])]
        config["default_root_dir"] = str(self.folder)
        if not any(isinstance(c, ModelCheckpoint) for c in config["callbacks"]):
            config["enable_checkpointing"] = False  # or Lightning adds one of its own
        if self.subcommand != "fit":
            config["logger"] = False  # the run's own record stays that of its training
        for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
            if config[name] is not None and config[name] < 1:
                raise ValueError(f"`trainer.{name}` is {config[name]}, not 1 or more")
        trainer = self.trainer_class(**config)
        for logger in trainer.loggers:
            logger.run_dir = self.folder  # type: ignore[attr-defined]
            if isinstance(logger, Wandb):
                logger.log_config(self.saved)
        self.datamodule.seed = self._get(self.config, "seed_everything")
        self.datamodule.trained_on = self.checkpoint.get("DataModule", {})
        return trainer

    def fit(self, model: Model, datamodule: DataModule, ckpt_path: str | None) -> None:
        try:
            self.trainer.fit(model, datamodule, ckpt_path=ckpt_path)
        except SystemExit:  # how Lightning ends a run at Ctrl-C
            last = self.folder / "checkpoints" / "last.ckpt"
            how = [f"python -m src fit --ckpt_path {last}"] if last.is_file() else []
            raise KeyboardInterrupt(*how) from None
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", None)
        self.trainer.test(model, datamodule, ckpt_path=best or None, verbose=False)
        for logger in self.trainer.loggers:
            if isinstance(logger, Wandb):
                logger.finish()
        self._print("test")

    def test(self, **kwargs: Any) -> None:
        self.trainer.test(verbose=False, **kwargs)
        self._print("test")

    def validate(self, **kwargs: Any) -> None:
        self.trainer.validate(verbose=False, **kwargs)
        self._print("val")

    def predict(self, **kwargs: Any) -> None:
        self.trainer.predict(return_predictions=False, **kwargs)
        run_folder.write_predictions(self.folder, self.model, self.datamodule)

    @rank_zero_only
    def _print(self, split: str) -> None:
        for name, value in self.trainer.callback_metrics.items():
            if name.startswith(f"{split}/"):
                print(f"{name} {value:.6g}")
        print(f"run folder: {self.folder}")


def run(command: str, argv: list[str]) -> dict[str, float]:
    """Runs one subcommand of the CLI.

    Returns:
        The metrics it ended with, by `split/name`.

    Raises:
        ValueError: An option, a config, the data or a checkpoint is wrong.
    """
    asks = [word for word in argv if word == "--print_config"]
    files, flags = split_argv([word for word in argv if word not in asks])
    config = Config(DEFAULTS, LEAVES, SECTIONS)
    checkpoint: dict[str, Any] = {}
    path = checkpoint_path(dict(flags))
    if command != "fit" and not path:
        raise ValueError(f"{command} needs a model: give --ckpt_path RUN/checkpoints/best.ckpt")
    if path:
        flags = [*flags, ("ckpt_path", str(path))]
        checkpoint = run_folder.read_checkpoint(path)
        config.add(json.loads(checkpoint["config"]), f"the config in {path}")
    for file in files:
        config.add_file(Path(file))
    for flag, value in sorted(flags, key=classes_first):
        config.add_flag(flag, value)
    tree = config.checked()
    name = Path([*files, path or "run"][0]).stem
    root = Path(tree["trainer"]["default_root_dir"])
    mine = run_folder.RUN_DIR not in os.environ
    try:
        folder = run_folder.choose(root, tree.get("run"), name, path)
        with quiet():
            cli = CLI(command, ["--config", yaml.safe_dump(tree), *asks], folder, checkpoint)
        return {name: value.item() for name, value in cli.trainer.callback_metrics.items()}
    except RuntimeError as e:
        if "loading state_dict" not in str(e):
            raise
        first = str(e).partition("\n")[2].partition("\n")[0].strip()
        raise ValueError(f"checkpoint {path} does not fit this model: {short(first)}") from e
    finally:
        if mine and (made := os.environ.pop(run_folder.RUN_DIR, "")):
            with suppress(OSError):  # what came of it, if anything
                if not (Path(made) / "config.yaml").exists():
                    (Path(made) / "wandb_run_id").unlink(missing_ok=True)
                Path(made).rmdir()


def checkpoint_path(flags: dict[str, str]) -> Path | None:
    """The checkpoint that `--ckpt_path` names: a file, or `best` or `last` of `--run`.

    Raises:
        ValueError: It is an address, or a short name without a run.
    """
    given = flags.get("ckpt_path", "null")
    if given in ("best", "last"):
        if "run" not in flags:
            raise ValueError(f"--ckpt_path {given} needs --run NAME to say of which run")
        root = flags.get("trainer.default_root_dir", "runs")
        return Path(root) / flags["run"] / "checkpoints" / f"{given}.ckpt"
    if "://" in given:
        raise ValueError(f"--ckpt_path {given}: checkpoints are read from disk only, download it")
    return None if given == "null" else Path(given)


def classes_first(flag: tuple[str, str]) -> tuple[bool, int]:
    """Sorts choices of a class before the options of the class, whichever was typed first."""
    key = tuple(flag[0].split("."))
    return room_of(key) is None, len(key)


def split_argv(argv: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Config files, and flags with their values.

    Raises:
        ValueError: A word is no flag, or a flag has no value.
    """
    files, flags = [], []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("-"):
            raise ValueError(f"{word!r} is no flag: options are --KEY VALUE, files --config FILE")
        if not equals and (value := next(words, "--")).startswith("--"):
            raise ValueError(f"{flag} has no value: give {flag} VALUE")
        if flag in ("-c", "--config"):
            files.append(value)
        else:
            flags.append((flag.lstrip("-"), value))
    return files, flags


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps adverts and warnings about nothing out of what a run prints."""

    def wanted(record: logging.LogRecord) -> bool:
        return not NOISE.search(record.getMessage())

    loggers = map(logging.getLogger, ("lightning", "lightning.pytorch", "lightning.fabric"))
    handlers = [handler for logger in loggers for handler in logger.handlers]
    for handler in handlers:
        handler.addFilter(wanted)

    def in_a_line(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {short(message)}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f"(?s).*({NOISE.pattern})")
        warnings.showwarning = in_a_line
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(wanted)
