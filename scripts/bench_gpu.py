"""Measures training on a GPU against the plainest PyTorch with the same settings.

python -m scripts.bench_gpu                              # some five minutes on one GPU
python -m scripts.bench_gpu resnet --json gpu.json       # a part
python -m scripts.bench_gpu --short                      # small, on a CPU: to see that it works
"""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from scripts import bare, usual
from scripts.bench import CSV, MLP, Bench, Row, asked, compared, fit, measured, quietly

import torch  # isort: skip  # after scripts.bench, which imports Lightning quickly
from torch import nn  # isort: skip

RESNET = "{ConvNet: {widths: [64, 128, 256, 512], depths: 2, strides: [1, 2, 2, 2], stem_width: 64, channels_last: true}}"  # fmt: skip  # noqa: E501
SGD = "{SGD: {lr: 0.01, momentum: 0.9, nesterov: true, fused: true}}"
IMAGES = (3, 32, 32)


class Gpu(Bench):
    """Times whole epochs: the host waits for the GPU at both ends of each, and nowhere else."""

    @property
    def device(self) -> str:
        return "cpu" if self.short else "cuda"

    @property
    def num_epochs(self) -> int:
        return 1 if self.short else 5

    @property
    def rounds(self) -> int:
        return 1 if self.short else 2

    def flags(self, net: str, batch_size: int, *more: str) -> list[str]:
        given = [*self.config(net), *CSV, "--data.batch_size", str(batch_size), "--model.optimizer"]
        given += [SGD, "--trainer.accelerator", self.device]
        given += ["--trainer.devices", "1", "--trainer.precision", "bf16-mixed", *more]
        return [*given, "--trainer.max_epochs", str(self.num_epochs)]

    def rates(
        self, programs: dict[str, Callable[[bare.Clock], Any]], steps: int
    ) -> dict[str, float]:
        """Microseconds a step of each program, in the quickest of its epochs of `steps` steps."""
        found: dict[str, float] = {}
        for name in list(programs) * self.rounds:
            marks: list[float] = []

            def clock(batches: Iterable, marks: list[float] = marks) -> Iterator:
                for i, batch in enumerate(batches):
                    if i in (1, steps - 1):
                        if self.device == "cuda":
                            torch.cuda.synchronize()
                        marks.append(time.perf_counter())
                    yield batch

            torch.compiler.reset()
            quietly(partial(programs[name], clock))
            seconds = [end - begin for begin, end in zip(marks[::2], marks[1::2], strict=True)]
            rate = 1e6 * min(seconds) / (steps - 2)
            found[name] = min(found.get(name, math.inf), rate)
            print(f"  {name}: {rate:,.0f} µs", flush=True)
        return found

    def beside(
        self,
        loop: Callable[..., Any],
        net: Callable[[], nn.Module],
        flags: list[str],
        steps: int,
        **goals: str,
    ) -> list[Row]:
        """The bare loop and `fit`, as they are and with CUDA graphs."""
        rows = []
        for more, mode in (("", ""), (", with CUDA graphs", "reduce-overhead")):

            def bare_loop(clock: bare.Clock, mode: str = mode) -> None:
                loop(net(), clock, self.num_epochs, compiled=mode)

            ours = fit([*flags, *(["--model.compile", mode] if mode else [])])
            found = self.rates({f"bare loop{more}": bare_loop, f"fit{more}": ours}, steps)
            rows += compared(found, f"bare loop{more}", "µs", **goals)
        return rows


def resnet(bench: Gpu) -> list[Row]:
    """A step of ResNet-18, 512 images 3x32x32, flipped and shifted, bf16, channels last."""
    size, steps = (16, 3) if bench.short else (512, 40)
    x, y = bench.images(size * steps, IMAGES)
    flags = bench.flags(RESNET, size, "--model.augment", "[Flip, Crop]")
    loop = partial(bare.images, x, y, size=size, device=bench.device)
    rows = bench.beside(loop, bare.resnet, flags, steps, fit="≤ 1.11")
    [ours] = (row.value for row in rows if row.name == "fit")
    few = 3 if bench.short else 8
    most = partial(usual.usual_lightning, x[: few * size], y[: few * size], bare.resnet())
    program = partial(most, num_epochs=2, size=size, accelerator=bench.device, changes=True)
    [(name, slow)] = bench.rates({"Lightning as most use it, in float32": program}, few).items()
    return [*rows, Row(name, slow, "µs", slow / ours, "≥ 5 of fit")]


def mlp(bench: Gpu) -> list[Row]:
    """A step of 784-64-128-64-10 with batch norm, 128 rows: the host's work is all that counts."""
    steps = 10 if bench.short else 200
    x, y = bench.images(128 * steps)
    loop = partial(bare.images, x, y, size=128, device=bench.device, changes=False)
    return bench.beside(loop, bare.mlp, bench.flags(MLP, 128), steps)


def recipe(bench: Gpu) -> list[Row]:
    """A step of configs/cifar10_fast.yaml, 1,024 random images 3x32x32, bf16."""
    size, steps = (16, 3) if bench.short else (1024, 40)
    bench.images(size * steps, IMAGES)
    flags = ["--config", "configs/cifar10_fast.yaml", "--trainer.default_root_dir"]
    flags += [str(bench.folder / "runs"), "--data.source", "Arrays", "--data.source.path"]
    flags += [str(bench.folder / "data.npz"), "--data.partition.duplicates", "allow"]
    flags += [*CSV, "--data.batch_size", str(size), "--trainer.precision", "bf16-mixed"]
    flags += ["--trainer.accelerator", bench.device]
    more = [] if bench.short else ["--model.compile", "reduce-overhead"]
    found = bench.rates({"fit": fit(flags), "fit, with CUDA graphs": fit([*flags, *more])}, steps)
    return [
        *compared(found, "fit", "µs"),
        *(Row(f"{name}: images a second", 1e6 * size / us, "") for name, us in found.items()),
    ]


PARTS = (resnet, mlp, recipe)


def main() -> None:
    """Measures on a GPU."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--short", action="store_true", help="everything small, on a CPU")
    given = asked(parser, {part.__name__: part for part in PARTS})
    if not (given.short or torch.cuda.is_available()):
        parser.error("there is no GPU; --short runs it on a CPU")
    machine = "CPU" if given.short else torch.cuda.get_device_name()
    print(f"{machine}, torch {torch.__version__}")
    measured(given, Gpu, machine)


if __name__ == "__main__":
    main()
