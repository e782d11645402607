"""Runs to export, trained for an epoch or two: once for all tests."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from PIL import Image

from src.__main__ import main

TABLE = "--config configs/own_table.yaml --data.source.path {root}/{name}.csv"
RUNS = {
    "kind": f"{TABLE} --data.source.target kind --model.net.norm layer",
    "price": f"{TABLE} --data.source.target price --model Regressor --model.net.categorical onehot",
    "digits": "--config configs/digits_convnet.yaml",
    "signals": "--config configs/mnist1d_convnet.yaml --model.net.norm group",
    "diabetes": "--config configs/diabetes_mlp.yaml --model.net.activation gelu",
    "colours": "--config configs/own_images.yaml --data.source.path {root}/colours "
    "--data.source.resize 12 --config configs/callbacks/ema.yaml --model.net.channels_last true",
}
SOME = next(iter(RUNS))  # for tests of any rows


@cache
def root() -> Path:
    folder = Path(mkdtemp())
    draw_tables(folder)
    draw_images(folder)
    (folder / "runs").mkdir()
    return folder


def draw_tables(folder: Path) -> None:
    rng = np.random.default_rng(0)
    size, state = rng.normal(100, 30, 400), rng.choice(["new", "old", 'r"u,in'], 400)
    town = rng.choice([*"abcdefgh"], 400)
    price = 3 * size + 50 * (state == "new") + rng.normal(0, 10, 400)
    kind = np.where(price > 320, "dear", np.where(price > 250, "fair", "cheap"))
    for name, target in (("kind", kind), ("price", price)):
        rows = [f"size,state,rooms,town,{name}"]
        for i in range(400):
            words = [f"{size[i]:.3f}", '"' + state[i].replace('"', '""') + '"', str(i % 5), town[i]]
            gone = rng.random(4) < 0.1
            cells = ["" if g else w for g, w in zip(gone, words, strict=True)]
            rows.append(",".join([*cells, str(target[i])]))
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")


def draw_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(120):
        pixels = rng.integers(0, 120, (12 + i % 2, 10, 3), np.uint8)
        pixels[..., i % 3] += 100
        path = folder / "colours" / "rgb"[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@cache
def run(name: str) -> Path:
    """The best checkpoint of a run; a test of rows that this project hasn't is skipped."""
    if name not in RUNS:
        pytest.skip(f"there are no runs on {name}")
    flags = RUNS[name].format(root=root(), name=name).split()
    flags += ["--run", name, "--trainer.default_root_dir", f"{root()}/runs"]
    flags += ["--trainer.logger", "[MetricsCsv]", "--trainer.max_epochs", "2"]
    assert main(["fit", *flags]) == 0
    return root() / "runs" / name / "checkpoints" / "best.ckpt"


@cache
def export(name: str) -> Path:
    """The folder of an export, at an opset whose exporter is quick."""
    folder = root() / "exports" / name
    words = ["--ckpt_path", run(name), "--opset", 17, "--out", folder]
    assert main(["export", *map(str, words)]) == 0
    return folder
