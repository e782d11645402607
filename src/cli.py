"""The Lightning CLI of this project: one run folder, one tree of options, the best model tested."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from src import run_folder
from src.callbacks import Monitor, Report
from src.callbacks.faults import BadSteps, Signals
from src.callbacks.report import tell
from src.callbacks.resume import Resume
from src.config import Config, Experiment, Tree, options
from src.data.module import DataModule
from src.durable import DurableIO, guard, previous
from src.errors import hint, short
from src.loop import DirectLoop
from src.models.model import Model

for name in ("lightning.pytorch", "lightning.fabric"):  # adverts, and what everyone knows
    logging.getLogger(name).setLevel(logging.WARNING)
for name in ("callbacks", "profilers"):  # what is said there was asked for
    logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
yaml.SafeDumper.add_multi_representer(str, lambda dumper, text: dumper.represent_str(text[:]))
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of calls by Lightning
OWN = ("run", "ckpt_path", "resume")  # flags that are no keys of a config
# Warnings of Lightning and torch about nothing that a person can or should change.
NOISE = (
    r"(?s).*(does not have many workers|to estimate number|logging interval|sync_dist=True|"
    r"isinstance\(treespec, LeafSpec\)|lr_scheduler\.step\(\)|Checkpoint directory|GPU available|"
    r"predict returned None|was configured so|Glyph|across ranks is zero|WeightAveraging callback|"
    r"Missing logger folder|The dirpath has changed|args parameter is intended|AccumulateGrad|"
    r"in eval mode at the start|`srun` command is available)"
)


class CLI(LightningCLI):
    """Builds trainer, model and data from a checked config.

    Args:
        command: The subcommand, or `print_config`.
        config: The whole tree of options.
        folder: The run folder.
        checkpoint: The checkpoint that is gone on with, or an empty dict.
    """

    def __init__(self, command: str, config: Tree, folder: Path, checkpoint: Tree) -> None:
        self.signals = Signals()
        self.command, self.folder, self.files = command, folder, DurableIO()
        self.trained_on = checkpoint.get("DataModule", {})
        self.num_steps = checkpoint.get("global_step")
        self.files.held = [checkpoint] if checkpoint else []
        super().__init__(
            Model,
            DataModule,
            save_config_callback=None,
            parser_kwargs={"exit_on_error": False},
            subclass_mode_model=True,
            args=config,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--callbacks", type=dict[str, L.Callback | None])

    def before_instantiate_classes(self) -> None:
        self.saved = self.parser.dump(self.config, skip_none=False, format="yaml")
        if self.command == "print_config":
            print(self.saved, end="")
            sys.exit()

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = dict(self.config_init["trainer"])
        shown = config["enable_progress_bar"] is not False
        starters = {"SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR"}
        if config["num_nodes"] > 1 and not starters & os.environ.keys():
            what = f"`trainer.num_nodes` is {config['num_nodes']}, and nothing starts the others"
            raise ValueError(f"{what}: use scripts/slurm.sh, or torchrun on each node")
        own = [run_folder.RunFolder(self.saved, self.files), Resume(), self.signals, BadSteps()]
        own += [Monitor(shown), Report()]
        config["enable_progress_bar"] = False  # Lightning's
        named = filter(None, self.config_init["callbacks"].values())
        config["callbacks"] = [*own, *named]
        config["default_root_dir"] = str(self.folder)
        if not any(isinstance(c, ModelCheckpoint) for c in config["callbacks"]):
            config["enable_checkpointing"] = False  # or Lightning adds one of its own
        if self.command != "fit":
            config["logger"] = False  # the run's own record stays that of its training
        trainer = self.trainer_class(**config)
        most = 4 * (os.cpu_count() or 1)
        if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > most:
            devices = trainer.num_devices
            raise ValueError(f"`trainer.devices` is {devices}: at most {most} CPU processes")
        DirectLoop.put_into(trainer)
        self.files.put_into(trainer.strategy)
        for logger in trainer.loggers:
            vars(logger).update(run_dir=self.folder, waits=True)
        self.datamodule.seed = self.config["seed_everything"]
        self.datamodule.trained_on = self.trained_on
        if self.model.init_from and self.command == "fit" and not self.trained_on:
            self.model.starts_from = run_folder.read_checkpoint(Path(self.model.init_from))
        return trainer

    def execute(self, ckpt_path: Path | None) -> None:
        """Runs the subcommand, and prints the metrics that it ends with.

        Raises:
            KeyboardInterrupt: A signal ended it; its text is how to go on.
        """
        strategy: Any = self.trainer.strategy
        launcher, patience = strategy.launcher, os.environ.get("FULGURITE_TIMEOUT_S")
        if patience and hasattr(strategy, "_timeout"):  # of a process that the others wait for
            strategy._timeout = timedelta(seconds=float(patience))
        try:
            with self.signals.listening():
                self._execute(ckpt_path)
        except BaseException as error:
            if launcher:  # its processes may wait for this one
                launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))
            if not isinstance(error, SystemExit | KeyboardInterrupt):
                raise
            if is_helper(self.trainer):
                sys.exit()  # any other code, and the process that started this one is killed
            last = self.folder / "checkpoints" / "last.ckpt"
            is_saved = self.command == "fit" and last.is_file()
            how = [f"python -m src fit --ckpt_path {last}"] if is_saved else []
            raise KeyboardInterrupt(*how) from None

    def _execute(self, ckpt_path: Path | None) -> None:
        what: dict[str, Any] = {"model": self.model, "datamodule": self.datamodule}
        if self.command == "fit":
            self._fit(what, ckpt_path)
        elif self.command == "predict":
            self.trainer.predict(**what, ckpt_path=ckpt_path, return_predictions=False)
            run_folder.write_predictions(self.folder, self.model, self.datamodule)
            return
        else:
            measure = self.trainer.test if self.command == "test" else self.trainer.validate
            measure(**what, ckpt_path=ckpt_path, verbose=False)
        if self.trainer.is_global_zero:
            for name, value in self.trainer.callback_metrics.items():
                if name.startswith("val/" if self.command == "validate" else "test/"):
                    print(f"{name} {value:.6g}")
            print(f"run folder: {self.folder}")
        self.files.check()

    def _fit(self, what: dict[str, Any], ckpt_path: Path | None) -> None:
        trainer = self.trainer
        trainer._checkpoint_connector._ckpt_path = ckpt_path  # asked for before it is read
        trainer.fit(**what, ckpt_path=ckpt_path)
        if trainer.is_global_zero and self.num_steps == trainer.global_step:
            print(f"{self.folder} is finished: there is nothing left to train")
        self._test_best(what)
        tell(trainer, "finish")

    def _test_best(self, what: dict[str, Any]) -> None:
        best = Path(getattr(self.trainer.checkpoint_callback, "best_model_path", None) or "none")
        there = best.is_file() or previous(best).is_file()  # no disk may have taken it
        self.trainer.test(**what, ckpt_path=best if there else None, verbose=False)


def is_helper(trainer: L.Trainer) -> bool:
    """Whether another process of this run started this one."""
    environment = trainer._accelerator_connector.cluster_environment
    return type(environment).__name__ == "LightningEnvironment" and not trainer.is_global_zero


def run(command: str, argv: list[str]) -> dict[str, float]:
    """Runs one subcommand of the CLI.

    Returns:
        The metrics it ended with, by `split/name`.

    Raises:
        ValueError: An option, a config, the data or a checkpoint is wrong.
    """
    guard()
    flags = list(pairs([word for word in argv if word != "--print_config"], OWN))
    files = [value for name, value in flags if name == "config"]
    own = {name: value for name, value in flags if name in OWN}
    flags = [flag for flag in flags if flag[0] not in ("config", *own)]
    path = run_folder.find(merged(Config(), files, flags), **own)
    if command != "fit" and not path:
        raise ValueError(f"{command} needs a model: give --ckpt_path RUN/checkpoints/best.ckpt")
    config, checkpoint = Config(), {}
    if path:
        checkpoint = run_folder.read_checkpoint(path)
        config.checkpoint = str(path)
        config.add(checkpoint["config"], config.checkpoint)
    tree = merged(config, files, flags).checked()
    if "--print_config" in argv:
        with quiet():
            CLI("print_config", tree, Path(), checkpoint)
    root, resumes = run_folder.root_of(tree), "resume" in own
    name = Path([*files, path or "run"][0]).stem
    with run_folder.opened(root, own.get("run"), name, path, resumes) as folder, quiet():
        cli = CLI(command, tree, folder, checkpoint)
        del checkpoint  # it is as large as the model
        cli.execute(path)
        return {name: value.item() for name, value in cli.trainer.callback_metrics.items()}


def merged(config: Config, files: list[str], flags: list[tuple[str, str]]) -> Config:
    """The config with files and then flags over it: classes first, then what is below them."""
    for file in files:
        config.add_file(Path(file))
    for name, value in sorted(flags, key=lambda flag: flag[0].count(".")):
        config.add_flag(name, value)
    return config


def pairs(words: list[str], own: Iterable[str] | None = None) -> Iterator[tuple[str, str]]:
    """Each flag with its value.

    Args:
        words: As typed.
        own: The flags that there are beside those of a config, if that is to be checked here.

    Raises:
        ValueError: A word is no flag, or a flag has no value.
    """
    there = None if own is None else [*own, "config", *options(Experiment)]
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--"):
            raise ValueError(f"{word!r} is no flag: options are --KEY VALUE, files --config FILE")
        if there and "." not in flag and flag[2:] not in there:
            raise ValueError(f"`{flag[2:]}`: there is no such key{hint(flag[2:], there)}")
        if (not equals and (value := next(rest, "")).startswith("--")) or not value:
            raise ValueError(f"{flag} has no value: give {flag} VALUE")
        yield flag[2:], value


@contextmanager
def quiet() -> Iterator[None]:
    """Prints each warning in one line, and those about nothing not at all."""

    def in_a_line(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {short(message)}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", NOISE)
        warnings.showwarning = in_a_line
        yield
