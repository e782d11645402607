"""Configs drawn from the parser's own option space: each trains a batch, or says why not."""

import json
import random
import re
import time
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import lightning.pytorch as L
import pytest
import torch
import yaml

from src.config import ROOMS, classes, options
from src.data.module import DataModule

SOURCES = {"Digits": "Classifier", "Wine": "Classifier", "BreastCancer": "Classifier",
           "Diabetes": "Regressor"}  # fmt: skip
TRAINER = (
    "max_steps", "min_epochs", "limit_train_batches", "limit_val_batches", "precision",
    "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "deterministic",
    "overfit_batches", "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps",
    "log_every_n_steps", "enable_checkpointing", "inference_mode", "benchmark", "devices",
)  # fmt: skip
NOT_DRAWN = {"compile", "keep", "devices"}  # minutes; a file of the user; processes
ABSURD = ("x", "", -1, 0, 1e300, True, None, [], [[]], {"a": 1}, ["relu", 3], float("nan"))
SIZES = (1, 1, 2, 3, 3, 5, 8, 64, 0, -1)
NUMBERS = (1e-3, 1e-3, 1e-2, 0.1, 0.1, 0.5, 0.5, 0.9, 1.0, 0.0, 2.0, -1.0, 1e30, float("inf"))
WORDS = ("relu", "gelu", "tanh", "silu", "relu", "cos", "min", "norm", "mean radius")


def draw(annotation: Any, rng: random.Random) -> Any:
    """A value of this type, or now and then of none that makes sense."""
    origin, args = get_origin(annotation), get_args(annotation)
    if rng.random() < 0.01:
        return rng.choice(ABSURD)
    if origin is Literal:
        return rng.choice(args)
    if origin in (Union, UnionType):
        return draw(rng.choice(args), rng)
    if origin is tuple and ... not in args:
        return [draw(arg, rng) for arg in args]
    if args and origin is not dict:
        return [draw(args[0], rng) for _ in range(rng.randrange(4))]
    kinds = {bool: (True, False), int: SIZES, float: NUMBERS, str: WORDS, NoneType: (None,)}
    return rng.choice(kinds.get(annotation, ABSURD))


def draw_options(cls: type, key: str, share: float, rng: random.Random) -> dict[str, Any]:
    """Values for what the class needs, and for some of what it takes."""
    found = {}
    for name, option in options(cls, key).items():
        needed = option.default is option.empty
        if (
            f"{key}.{name}" not in ROOMS
            and name not in NOT_DRAWN
            and (needed or rng.random() < share)
        ):
            usual = not needed and rng.random() < 0.3
            found[name] = option.default if usual else draw(option.annotation, rng)
    return found


def draw_class(key: str, rng: random.Random, name: str = "") -> dict[str, Any]:
    found = classes(ROOMS[key])
    name = name or rng.choice(sorted(found))
    return {name: draw_options(found[name], key, rng.choice((0, 0, 0.1, 0.3)), rng)}


def draw_config(rng: random.Random) -> dict[str, Any]:
    source = rng.choice(sorted(SOURCES))
    task = SOURCES[source] if rng.random() < 0.95 else rng.choice(("Classifier", "Regressor"))
    net = "ConvNet" if source == "Digits" and rng.random() < 0.5 else "MLP"
    model = draw_class("model", rng, task)
    model[task] |= {
        "net": draw_class("model.net", rng, net if rng.random() < 0.95 else ""),
        "optimizer": draw_class("model.optimizer", rng),
    }
    if rng.random() < 0.5:
        model[task]["scheduler"] = draw_class("model.scheduler", rng)
    if rng.random() < (0.4 if source == "Digits" else 0.05):
        count = rng.randrange(1, 3)
        model[task]["augment"] = [draw_class("model.augment", rng) for _ in range(count)]
    data = draw_options(DataModule, "data", 0.08, rng) | {"source": source}
    if rng.random() < 0.3:
        data["partition"] = draw_class("data.partition", rng)
    trainer = draw_options(L.Trainer, "trainer", 0.05, rng)
    trainer = {name: value for name, value in trainer.items() if name in TRAINER}
    return {"model": model, "data": data, "trainer": {**trainer, "fast_dev_run": 1}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(10))
def test_a_random_config_trains_a_batch_or_says_in_one_line_why_not(go, tmp_path, seed):
    rng, codes, bad = random.Random(seed), [], []
    path = tmp_path / "drawn.yaml"
    for _ in range(20):
        config = draw_config(rng)
        path.write_text(yaml.safe_dump(config))
        start = time.perf_counter()
        said = go("fit --config", path)
        torch.use_deterministic_algorithms(False)
        one_line = re.fullmatch(r"error: .{10,420}\n", said.err) and "Traceback" not in said.out
        fine = said.err == "" if said.code == 0 else said.code in (2, 76) and one_line
        if not fine or time.perf_counter() - start > 20:
            bad.append((said.code, said.err, json.dumps(config)))
        codes.append(said.code)
        print(round(time.perf_counter() - start, 2), said.code, said.err.strip())
    assert not bad
    assert codes.count(0) >= 2, codes  # the fewer sources there are, the fewer fit


@pytest.mark.parametrize(
    "flags",
    [
        "--trainer.precision 64 --model.class_weights balanced",
        "--trainer.gradient_clip_val .inf",
        "--model.optimizer LBFGS",
        "--model.scheduler ReduceLROnPlateau",
    ],
)
def test_what_once_failed_or_looks_as_if_it_would(go, flags):
    said = go("fit --config configs/digits_mlp.yaml --trainer.fast_dev_run 1", *flags.split())
    assert (said.code, said.err) == (0, "")
