"""Measures this project against the plainest PyTorch, as ratios within one run.

python -m scripts.bench                             # every part: some ten minutes
python -m scripts.bench step start                  # some parts
python -m scripts.bench --short --json bench.json   # every part, made small: to see that it works
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

from src.startup import import_lightning

import_lightning()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from lightning.fabric.plugins import TorchCheckpointIO  # noqa: E402
from lightning.pytorch import Callback  # noqa: E402
from torchmetrics.functional.classification import (  # noqa: E402
    multiclass_auroc,
    multiclass_f1_score,
)

from scripts import bare, usual  # noqa: E402
from src.callbacks import Report  # noqa: E402
from src.callbacks.faults import BadSteps  # noqa: E402
from src.callbacks.resume import Resume  # noqa: E402
from src.cli import run  # noqa: E402
from src.data.module import DataModule  # noqa: E402
from src.data.partition import Stratified  # noqa: E402
from src.data.rows import Rows, Signature  # noqa: E402
from src.data.statistics import fit as measure  # noqa: E402
from src.durable import DurableIO  # noqa: E402
from src.run_folder import RunFolder  # noqa: E402

MLP = "{MLP: {hidden_dims: [64, 128, 64], norm: batch}}"
CONVNET = "{ConvNet: {widths: [32, 64], strides: [1, 2], stem_width: 32}}"
CONFIG = """
data:
  source: {{Arrays: {{path: {path}}}}}
  partition: {{Stratified: {{duplicates: allow}}}}
model:
  Classifier:
    net: {net}
    optimizer: {{AdamW: {{lr: 1.0e-3, fused: true}}}}
trainer: {{default_root_dir: {root}, accelerator: cpu, max_epochs: 1}}
"""
OFF = ["--trainer.logger", "false", "--callbacks.checkpoint", "null"]
OFF += ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"]
CSV = ["--trainer.logger", "[MetricsCsv]"]
FIRST_STEP = """
import os, sys, time
from torch.optim.optimizer import register_optimizer_step_post_hook
def end(*_):
    print("first step", time.time() - float(os.environ["START"]), flush=True)
    os._exit(0)
register_optimizer_step_post_hook(end)
"""


class Row(NamedTuple):
    """One measurement, and its ratio to what it is compared with."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    goal: str = ""


@dataclass
class Bench:
    """What the parts share.

    Args:
        folder: For data and runs.
        short: Whether everything is small and done once.
    """

    folder: Path
    short: bool

    @property
    def rounds(self) -> int:
        return 1 if self.short else 5

    def data(self, x: np.ndarray, num_val: int = 0, name: str = "data") -> bare.Arrays:
        """Rows with 10 random classes; also in the file that `config` names."""
        y = np.random.default_rng(0).integers(0, 10, len(x))
        held = {f"x_{split}": x[:num_val] for split in ("val", "test") if num_val}
        held |= {f"y_{split}": y[:num_val] for split in ("val", "test") if num_val}
        np.savez(self.folder / f"{name}.npz", x=x, y=y, **held)  # type: ignore[arg-type]
        return torch.from_numpy(x), torch.from_numpy(y)

    def images(self, num_rows: int, shape: tuple[int, ...] = (1, 28, 28)) -> bare.Arrays:
        rng = np.random.default_rng(0)
        return self.data(rng.integers(0, 256, (num_rows, *shape), np.uint8), num_rows // 10)

    def config(self, net: str = MLP, name: str = "data") -> list[str]:
        """The flags of a config that trains `net` on the file of that name."""
        path = self.folder / f"{name}.yaml"
        file = self.folder / f"{name}.npz"
        path.write_text(CONFIG.format(path=file, root=self.folder / "runs", net=net))
        return ["--config", str(path)]

    def clocked(self, programs: dict[str, Callable[[bare.Clock], Any]]) -> dict[str, np.ndarray]:
        """Seconds from batch to batch of each program: the least of all rounds, `(steps - 1,)`."""
        rounds: dict[str, list[np.ndarray]] = {name: [] for name in programs}
        for number in range(self.rounds + 1):
            for name, program in programs.items():
                times: list[float] = []

                def clock(batches: Iterable, times: list[float] = times) -> Iterator:
                    for batch in batches:
                        times.append(time.perf_counter())
                        yield batch

                quietly(partial(program, clock))
                if number or self.short:  # the first warms up
                    rounds[name].append(np.diff(times))
        return {name: np.min(found, axis=0) for name, found in rounds.items()}

    def steps(self, programs: dict[str, Callable[[bare.Clock], Any]]) -> dict[str, float]:
        """Microseconds of the median step of each program."""
        found = self.clocked(programs)
        return {name: 1e6 * float(np.median(seconds)) for name, seconds in found.items()}

    def least(self, programs: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Seconds that each program takes: the least of all rounds."""
        rounds = [{n: quietly(p) for n, p in programs.items()} for _ in range(self.rounds)]
        return {name: min(found[name] for found in rounds) for name in programs}

    def pairs(self, one: Callable[[], Any], other: Callable[[], Any]) -> np.ndarray:
        """Seconds of both in each round, `(2, rounds)`: by turns first, and on a disk at rest."""
        rounds = np.zeros((1 if self.short else 15, 2))
        for number, found in enumerate(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                os.sync()
                found[which] = quietly((one, other)[which])
        return rounds.T


def quietly(program: Callable[[], Any]) -> float:
    """Runs it without a word; seconds."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        start = time.perf_counter()
        program()
        return time.perf_counter() - start


def process(*words: str, code: str = "") -> tuple[float, str]:
    """Runs a module of Python, or code; seconds, and what it printed."""
    command = [sys.executable, *(["-c", code] if code else ["-m"]), *words]
    start = time.time()
    environment = os.environ | {"START": str(start)}
    child = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if child.returncode:
        raise RuntimeError(f"{command} failed: {child.stderr}")
    return time.time() - start, child.stdout


def fit(flags: list[str]) -> Callable[[bare.Clock], Any]:
    """This project's training, its train batches through a clock."""

    def program(clock: bare.Clock) -> None:
        original = DataModule.train_dataloader

        def clocked(self: DataModule) -> Any:
            loader = original(self)
            cls = type(loader)
            loader.__class__ = type(
                "Clocked", (cls,), {"__iter__": lambda self: clock(cls.__iter__(self))}
            )
            return loader

        with patch.object(DataModule, "train_dataloader", clocked):
            run("fit", flags)

    return program


def compared(found: dict[str, float], to: str, unit: str, **goals: str) -> list[Row]:
    """Each with its ratio to one of them; the goal of `NAME` is that of the row that begins so."""
    return [
        Row(
            name,
            value,
            unit,
            value / found[to],
            next((goal for key, goal in goals.items() if name.startswith(key)), ""),
        )
        for name, value in found.items()
    ]


def step(bench: Bench) -> list[Row]:
    """A training step: 784-64-128-64-10 with batch norm, 128 of 55,000 images of 28x28."""
    x, y = bench.images(1_280 if bench.short else 55_000)
    flags, few = bench.config(), (x[:1_280], y[:1_280])
    found = bench.steps({
        "one batch, forward, backward, optimizer": lambda c: bare.floor(x, y, bare.mlp(), c, 1),
        "bare loop": lambda c: bare.loop(x, y, bare.mlp(), c, 1),
        "bare loop, optimizer not fused": lambda c: bare.loop(x, y, bare.mlp(), c, 1, False),
        "bare loop, tuned": lambda c: bare.tuned(x, y, bare.mlp(), c, 1),
        "Lightning, nothing but a step": lambda c: usual.bare_lightning(x, y, bare.mlp(), c, 1),
        "Lightning as most use it": lambda c: usual.usual_lightning(*few, bare.mlp(), c, 1),
        "fit, all switched off": fit([*flags, *OFF]),
        "fit": fit(flags),
    })  # fmt: skip
    return compared(found, "bare loop", "µs", fit="≤ 1.10")


def watching(bench: Bench) -> list[Row]:
    """What metrics, CSV, checkpoints and progress add to a step of a tiny net."""
    bench.data(np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32), 2_000)
    flags = bench.config("{MLP: {hidden_dims: [8]}}")
    off, on = bench.steps({"off": fit([*flags, *OFF]), "on": fit([*flags, *CSV])}).values()
    return [
        Row("all switched off", off, "µs", 1.0),
        Row("metrics, CSV, checkpoint, progress", on, "µs", on / off),
        Row("what these add", on - off, "µs", None, "≤ 60 µs"),
    ]


def epoch(bench: Bench) -> list[Row]:
    """An epoch of 55,000 images with validation, and a whole process of five."""
    num_val = 128 if bench.short else 5_500
    x, y = bench.images(10 * num_val)
    flags, num_steps = bench.config(), -(-len(x) // bare.BATCH_SIZE)
    two = Bench(bench.folder, short=True)  # rounds of a quarter of a minute: one is enough
    found = two.clocked({
        "fit": fit([*flags, "--trainer.max_epochs", "2"]),
        "as most": lambda c: usual.usual_lightning(x, y, bare.mlp(), c, 2, num_val),
    })  # fmt: skip
    ours, theirs = (seconds[:num_steps].sum() for seconds in found.values())
    file = str(bench.folder / "data.npz")
    num_epochs = "1" if bench.short else "5"
    whole, _ = process("src", "fit", *flags, "--trainer.max_epochs", num_epochs)
    their_whole, _ = process("scripts.usual", file, num_epochs, str(num_val))
    return [
        Row("an epoch: Lightning as most use it", theirs, "s", theirs / ours, "≥ 14"),
        Row("an epoch: fit", ours, "s", 1.0),
        Row(f"a process of {num_epochs}: Lightning as most use it", their_whole, "s",
            their_whole / whole, "≥ 8"),
        Row(f"a process of {num_epochs}: fit, with its test and pictures", whole, "s", 1.0),
    ]  # fmt: skip


def evaluation(bench: Bench) -> list[Row]:
    """Measuring 10,000 images, against a forward pass of large batches and each metric once."""
    num_test = 1_000 if bench.short else 10_000
    x, y = bench.images(10 * num_test)
    net, (mean, std) = bare.mlp().eval(), bare.scale(x)

    @torch.inference_mode()
    def plain() -> None:
        parts = torch.split(x[:num_test], 1024)
        out = torch.cat([net(part.float().sub_(mean).div_(std)) for part in parts])
        scores, label = out.softmax(1), y[:num_test]
        torch.nn.functional.cross_entropy(out, label)
        (scores.argmax(1) == label).float().mean()
        multiclass_f1_score(scores, label, 10, average="macro")
        multiclass_auroc(scores, label, 10)

    flags = [*bench.config(), *CSV, "--callbacks.clock", "scripts.usual.Stopwatch"]
    ours: list[float] = []
    theirs: list[float] = []
    with patch.object(Report, "on_test_end"):  # no pictures
        for _ in range(bench.rounds):
            quietly(partial(run, "fit", flags))
            ours.append(usual.Stopwatch.seconds[-1])
            theirs.append(quietly(plain))
    found = {"forward and metrics": 1e3 * min(theirs), "test": 1e3 * min(ours)}
    return compared(found, "forward and metrics", "ms", test="≤ 1.2")


def start(bench: Bench) -> list[Row]:
    """Seconds from the start of a process to its first optimizer step, or to its end."""
    bench.images(1_280)
    path = str(bench.folder / "data.npz")
    plain = f"{FIRST_STEP}\nfrom scripts import bare\nfrom pathlib import Path\n"
    plain += f"bare.loop(*bare.load(Path({path!r})), bare.mlp(), iter, 1)"
    ours = f"{FIRST_STEP}\nfrom src.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    flags = ["fit", *bench.config()]
    rounds: dict[str, list[float]] = {}
    for _ in range(bench.rounds):
        for name, code, words in (
            ("first step: bare loop", plain, []),
            ("first step: fit", ours, flags),
            ("first step: fit without W&B", ours, [*flags, *CSV]),
        ):
            _, out = process(*words, code=code)
            rounds.setdefault(name, []).append(float(out.rpartition("first step ")[2]))
        for words in (["--help"], ["list"], ["fit", "--help"]):
            name = f"python -m src {' '.join(words)}"
            rounds.setdefault(name, []).append(process("src", *words)[0])
    found = {name: min(seconds) for name, seconds in rounds.items()}
    steps = {name: value for name, value in found.items() if name.startswith("first")}
    rows = compared(steps, "first step: bare loop", "s", **{"first step: fit": "≤ 1.0"})
    goals = {"python -m src --help": "≤ 0.15 s", "python -m src list": "≤ 0.15 s"}
    commands = (Row(n, v, "s", None, goals.get(n, "")) for n, v in found.items() if n not in steps)
    return [*rows, *commands]


def statistics(bench: Bench) -> list[Row]:
    """Exact mean and standard deviation: bytes of images by channel, a table by column."""
    from sklearn.preprocessing import StandardScaler

    rng, shrink = np.random.default_rng(0), 100 if bench.short else 1
    images = rng.integers(0, 256, (50_000 // shrink, 3, 32, 32), np.uint8)
    table = rng.normal(1e4, 1, (10_000_000 // shrink, 32)).astype(np.float32)

    def naive() -> None:
        x = torch.from_numpy(images).float() / 255
        x.mean((0, 2, 3))
        x.std((0, 2, 3))

    def scaler() -> Any:
        found = StandardScaler()
        for i in range(0, len(table), 4096):
            found.partial_fit(table[i : i + 4096])
        return found

    rows, index = np.arange(len(images)), np.arange(len(table))
    ours = bench.least({"naive": naive, "fit": lambda: measure(images, rows)})
    tables = bench.least({"partial_fit": scaler, "fit": lambda: measure(table, index)})
    error = max(
        abs(std / np.std(table[:, i].astype(np.longdouble)) - 1)
        for i, std in enumerate(measure(table, index).std[:4])
    )
    return [
        Row("bytes: naive torch", 1e3 * ours["naive"], "ms", ours["naive"] / ours["fit"], "≥ 20"),
        Row("bytes: here, exact", 1e3 * ours["fit"], "ms", 1.0),
        Row("table: scikit-learn's partial_fit", tables["partial_fit"], "s",
            tables["partial_fit"] / tables["fit"], "≥ 5"),
        Row("table: here", tables["fit"], "s", 1.0),
        Row("table: relative error of the standard deviation", float(error), "", None, "≤ 1e-8"),
    ]  # fmt: skip


def partition(bench: Bench) -> list[Row]:
    """A stratified split of 10 million rows into train, val and test."""
    from sklearn.model_selection import train_test_split

    num_rows = 100_000 if bench.short else 10_000_000
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, num_rows)
    x = np.arange(num_rows, dtype=np.float32)[:, None]
    names = tuple("0123456789")
    ids = rng.integers(0, 2**63, num_rows).astype(np.uint64)
    rows = Rows(x, y, Signature((1,), "float32", names), ids=ids)

    def theirs() -> None:
        rest, _ = train_test_split(np.arange(num_rows), test_size=0.15, stratify=y, random_state=0)
        train_test_split(rest, test_size=0.15 / 0.85, stratify=y[rest], random_state=0)

    found = bench.least({
        "scikit-learn's train_test_split": theirs,
        "here, by a hash of each row": lambda: Stratified(duplicates="allow").split(rows),
    })  # fmt: skip
    sklearn, ours = found.values()
    names_of = list(found)
    return [
        Row(names_of[0], sklearn, "s", sklearn / ours, "≥ 15"),
        Row(names_of[1], ours, "s", 1.0),
    ]


def convnet(bench: Bench) -> list[Row]:
    """A step of a small ResNet, 128 images of 3x32x32: what a config can do for it."""
    bench.images(1_280 if bench.short else 3_840, (3, 32, 32))
    flags = [*bench.config(CONVNET), *CSV]
    last = ["--model.net.channels_last", "true"]
    half = ["--trainer.precision", "bf16-mixed"]
    found = Bench(bench.folder, short=True).steps({
        "as it is": fit(flags),
        "channels_last": fit([*flags, *last]),
        "bf16-mixed": fit([*flags, *half]),
        "bf16-mixed, channels_last": fit([*flags, *half, *last]),
    })  # fmt: skip
    found = {name: value / 1e3 for name, value in found.items()}
    return compared(found, "as it is", "ms", **{"bf16-mixed, channels_last": "≤ 0.45"})


def memory(bench: Bench) -> list[Row]:
    """What a run takes beside its imports, as a multiple of the data as it is stored."""
    code = "import sys; from src.__main__ import main; main(sys.argv[1:]);"
    code += "print(next(line for line in open('/proc/self/status') if 'VmHWM' in line))"  # kB
    peaks, sizes = [], (1_280, 20_000 if bench.short else 300_000)
    rng = np.random.default_rng(0)
    for num_rows in sizes:
        bench.data(rng.integers(0, 256, (num_rows, 1, 28, 28), np.uint8))
        words = ["fit", *bench.config(), *CSV, "--trainer.max_steps", "20"]
        peaks.append(float(process(*words, code=code)[1].split()[-2]) / 1024)
    stored = sizes[1] * 784 / 2**20
    ratio = (peaks[1] - peaks[0]) / stored
    return [
        Row("a run on nearly no data", peaks[0], "MB"),
        Row(f"a run on {stored:,.0f} MB of bytes", peaks[1], "MB", ratio, "≤ 1.3 of the data"),
    ]


def together(bench: Bench) -> list[Row]:
    """A step of each of two trainings at once, of one thread each, against one alone."""
    bench.images(2_560 if bench.short else 55_000)
    words = [*bench.config(), *CSV, "--trainer.max_epochs", "1" if bench.short else "4"]
    code = "import sys; from scripts.bench import median_step; median_step(sys.argv[1:])"
    alone = float(process(*words, code=code)[1].split()[-1])
    children = [
        subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True,
                         stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        for _ in range(2)
    ]  # fmt: skip
    both = max(float(child.communicate()[0].split()[-1]) for child in children)
    found = {"alone, all cores": alone, "two at once, one thread each": both}
    return compared(found, "alone, all cores", "µs", two="≤ 1.3")


def median_step(flags: list[str]) -> None:
    """Prints the microseconds of the median step of a training."""
    times: list[float] = []

    def clock(batches: Iterable) -> Iterator:
        for batch in batches:
            times.append(time.perf_counter())
            yield batch

    quietly(partial(fit(flags), clock))
    print(1e6 * float(np.median(np.diff(times))))


def growth(bench: Bench) -> list[Row]:
    """An epoch of a tiny net over ever more rows: the slope of its logarithm."""
    rng, sizes = np.random.default_rng(0), [10**n for n in range(3, 5 if bench.short else 8)]
    rows = []
    for size in sizes:
        bench.data(rng.normal(size=(size, 4)).astype(np.float32))
        flags = [*bench.config("{MLP: {hidden_dims: [8]}}"), *OFF]
        flags += ["--data.batch_size", "50", "--trainer.max_epochs", "1"]
        once = Bench(bench.folder, short=size >= 10**6)
        seconds = once.clocked({"": fit(flags)})[""]
        rows.append(Row(f"{size:,} rows", seconds.sum() * (len(seconds) + 1) / len(seconds), "s"))
    slope = np.polyfit(np.log10(sizes), np.log10([row.value for row in rows]), 1)[0]
    return [*rows, Row("slope", float(slope), "", None, "1.00 ± 0.03")]


def saving(bench: Bench) -> list[Row]:
    """What it costs that nothing is lost: digits_mlp with a save each epoch, and a large save."""
    flags = ["--config", "configs/digits_mlp.yaml", *CSV, "--trainer.default_root_dir"]
    flags += [str(bench.folder / "runs"), "--trainer.max_epochs", "3" if bench.short else "30"]
    watched = fit(flags)

    inexact = [patch.object(RunFolder, "setup"), patch.object(Resume, "on_save_checkpoint")]
    hook = "on_before_optimizer_step"
    unwatched = patch.object(BadSteps, hook, getattr(Callback, hook))

    def without(patches: list[Any]) -> Callable[[bare.Clock], None]:
        def program(clock: bare.Clock) -> None:
            with ExitStack() as stack:
                for each in patches:
                    stack.enter_context(each)
                watched(clock)

        return program

    clocked = bench.clocked({
        "saved as Lightning does, no random states": without(inexact),
        "as it is": watched,
        "as it is, no look at numbers": without([unwatched]),
    })  # fmt: skip
    runs = {f"digits_mlp, {name}": 1e3 * times.sum() for name, times in clocked.items()}
    state = {"weights": torch.randn(10**5 if bench.short else 50 * 10**6)}
    files, lightning, waits = DurableIO(), TorchCheckpointIO(), []

    def durable() -> None:
        start = time.perf_counter()
        files.save_checkpoint(state, bench.folder / "durable.ckpt")
        waits.append(time.perf_counter() - start)
        files.wait()

    saves = bench.pairs(
        lambda: lightning.save_checkpoint(state, bench.folder / "plain.ckpt"), durable
    )
    plain, ours = np.median(saves, axis=1).tolist()
    ratio, waited = float(np.median(saves[1] / saves[0])), float(np.median(waits))
    return [
        *compared(runs, next(iter(runs)), "ms", **{"digits_mlp, as it is": "≤ 1.02"}),
        Row("200 MB, as Lightning saves", 1e3 * plain, "ms", 1.0),
        Row("200 MB, durable", 1e3 * ours, "ms", ratio, "≤ 1.3"),
        Row("200 MB, durable, until training goes on", 1e3 * waited, "ms", waited / plain),
    ]


def searching(bench: Bench) -> list[Row]:
    """CPU time of 32 settings of digits_mlp in one stack, against warm trials one after another."""
    from src.search.command import begin
    from src.search.worker import Worker

    torch.set_num_threads(1)
    words = ["--config", "configs/search/digits_stacked.yaml", "--workers", "1"]
    words += ["--trainer.max_epochs", "2" if bench.short else "30"]
    words += ["--trainer.default_root_dir", str(bench.folder)]

    def spent(engine: str, num: int, run: str) -> float:
        own = ["--engine", engine, "--trials", str(num), "--run", run]
        worker = Worker([*words, *own], time.time(), is_child=False)
        start = time.process_time()
        quietly(partial(begin, worker))
        return time.process_time() - start

    spent("trials", 1, "warm")
    rounds = range(1 if bench.short else 3)
    trials = min(8 * spent("trials", 4, f"trials{i}") for i in rounds)
    stacked = min(spent("stacked", 32, f"stacked{i}") for i in rounds)
    return [
        Row("32 trials, as four take", trials, "CPU-s", trials / stacked, "≥ 10"),
        Row("one stack of 32", stacked, "CPU-s", 1.0),
    ]


PARTS = (
    *(step, watching, epoch, evaluation, start, statistics),
    *(partition, convnet, memory, together, saving, growth, searching),
)


def table(part: str, rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [f"| {part} | | ratio | goal |", "|---|---|---|---|"]
    for name, value, unit, ratio, goal in rows:
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        lines.append(
            f"| {name} | {shown} {unit} | {'' if ratio is None else f'{ratio:.2f}'} | {goal} |"
        )
    return "\n".join(lines)


def asked(parser: ArgumentParser, parts: dict[str, Callable]) -> Namespace:
    """What was typed, all parts if none was named."""
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    if unknown := set(given.parts) - parts.keys():
        parser.error(f"no part {min(unknown)!r}; there are: {', '.join(parts)}")
    given.parts = {name: parts[name] for name in given.parts or parts}
    return given


def measured(given: Namespace, kind: type[Bench], machine: str) -> dict[str, Any]:
    """Measures the parts that are asked for, and prints and keeps what each has found."""
    found: dict[str, Any] = {"machine": machine, "torch": torch.__version__}
    for name, part in given.parts.items():
        with TemporaryDirectory() as folder:
            rows = part(kind(Path(folder), given.short))
        print(f"\n{table((part.__doc__ or '').rstrip('.'), rows)}", flush=True)
        found[name] = [row._asdict() for row in rows]
        if given.json:
            given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def main() -> None:
    """Measures on the CPU."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--short", action="store_true", help="everything small, done once")
    parser.add_argument("--plot", type=Path, help="PNG file for the steps")
    given = asked(parser, {part.__name__: part for part in PARTS})
    os.environ.setdefault("WANDB_MODE", "offline")
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    found = measured(given, Bench, machine)
    if given.plot and "step" in found:
        plot([Row(**row) for row in found["step"]], given.plot)


def plot(rows: list[Row], path: Path) -> None:
    """Draws the steps as bars."""
    from matplotlib.figure import Figure

    figure = Figure((8, 3.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    names, values = [row.name for row in rows][::-1], [row.value for row in rows][::-1]
    colors = ["#D55E00" if name == "fit" else "#0072B2" for name in names]
    axes.bar_label(axes.barh(names, values, color=colors), fmt="{:,.0f}", padding=3)
    axes.set(xscale="log", xlabel="microseconds a training step", xlim=(100, 5 * max(values)))
    figure.savefig(path)


if __name__ == "__main__":
    main()
