# ruff: noqa: E501 (a hostile input a line)
"""Inputs that are wrong, each typed as a person would, and the one line that comes back."""

import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.__main__ import SUBCOMMANDS
from src.config import ROOMS, classes, options
from src.data import sources
from src.errors import explain, short

FIT = "fit --config configs/digits_mlp.yaml --trainer.max_epochs 1"
NETS, MODELS = "there are: MLP, ConvNet", "there are: Classifier, Regressor"
ROOT = "there are: model, data, trainer, callbacks, seed_everything"
DATA = "there are: source, partition, batch_size, eval_batch_size, normalize, device, predict_path"
MLP = "there are: hidden_dims, activation, dropout, norm, categorical, init"
ADAMW = (
    "there are: lr, betas, eps, weight_decay, amsgrad, maximize, foreach, capturable, "
    "differentiable, fused"
)
OPTIMIZERS = (
    "there are: Adafactor, Adadelta, Adagrad, Adam, Adamax, AdamW, ASGD, LBFGS, Muon, NAdam, RAdam,"
    " RMSprop, Rprop, SGD, SparseAdam"
)
SCHEDULERS = (
    "there are: WarmupCosine, LambdaLR, MultiplicativeLR, StepLR, MultiStepLR, ConstantLR, "
    "LinearLR, ExponentialLR, CosineAnnealingLR, ReduceLROnPlateau, CyclicLR, "
    "CosineAnnealingWarmRestarts, ..."
)
SOURCES = f"there are: {', '.join(sources.__all__)}"
TRAINER = (
    "there are: accelerator, strategy, devices, num_nodes, precision, logger, callbacks, "
    "fast_dev_run, max_epochs, min_epochs, max_steps, min_steps, max_time, limit_train_batches, "
    "limit_val_batches, ..."
)


NAMED = "write `callbacks: {NAME: CLASS}`, as in --callbacks.stop EarlyStopping"
CODE = "does not work here: make one in code"
MORE = "is 0: give more than 0, or leave it out"


@pytest.fixture
def refused(go, tmp_path):
    """`refused(line, "fit ...")`: exit code 2, that one line, and no run folder left behind."""

    def check(line, typed, *words, code=2):
        said = go(typed, *words)
        expected = f"error: {line}\n".replace("{tmp}", str(tmp_path)).replace(
            "{most}", str(4 * os.cpu_count())
        )
        if line.endswith("..."):  # a list that torch or Lightning adds to
            expected = expected[:-4] + said.err[len(expected) - 4 :]
        assert said.err == expected
        assert said.code == code
        assert len(said.err.replace(str(tmp_path), "")) < 330
        assert "Traceback" not in said.out
        runs = tmp_path / "runs"
        assert not runs.is_dir() or not list(runs.iterdir())

    return check


@pytest.mark.parametrize(("words", "line"), {
    # keys
    "--trainer.num_nodes 2": "`trainer.num_nodes` is 2, and nothing starts the others: use scripts/slurm.sh, or torchrun on each node",
    "--trainer.max_epoch 3": "`trainer.max_epoch`: Trainer has no such option; did you mean max_epochs? " + TRAINER,
    "--data.batchsize 3": "`data.batchsize`: DataModule has no such option; did you mean batch_size? " + DATA,
    "--data.b 3": "`data.b`: DataModule has no such option; " + DATA,
    "--modle.net MLP": "`modle`: there is no such key; did you mean model? " + ROOT,
    "--model.nets MLP": "`model.nets`: Classifier has no such option; did you mean net? there are: label_smoothing, class_weights, net, optimizer, scheduler, augment, compile, init_from, freeze",
    "--model.net.hiden_dims [3]": "`model.net.hiden_dims`: MLP has no such option; did you mean hidden_dims? " + MLP,
    "--model.net.in_shape [3]": "`model.net.in_shape`: MLP has no such option; " + MLP,
    "--model.optimizer.lrr 1": "`model.optimizer.lrr`: AdamW has no such option; did you mean lr? " + ADAMW,
    "--model.scheduler WarmupCosine --model.scheduler.warmup 1": "`model.scheduler.warmup`: WarmupCosine has no such option; did you mean warmup_frac? there are: warmup_frac, final_frac",
    "--callbacks.checkpoint.moniter x": "`callbacks.checkpoint.moniter`: Checkpoint has no such option; did you mean monitor? there are: monitor, mode, every_n_epochs, every_n_steps",
    "--data.source.path x.csv": "`data.source.path`: Digits has no such option",
    "--.lr 3": "--.lr is no key: write it as --data.batch_size, say",
    # words
    "--run": "--run has no value: give --run VALUE",
    "--config=": "--config has no value: give --config VALUE",
    "--run --data.batch_size 3": "--run has no value: give --run VALUE",
    "wine": "'wine' is no flag: options are --KEY VALUE, files --config FILE",
    # classes
    "--model.net MPL": '`model.net`: "MPL" is no Net; did you mean MLP? ' + NETS,
    "--model.optimizer adamw": '`model.optimizer`: "adamw" is no Optimizer; did you mean AdamW? ' + OPTIMIZERS,
    "--model.net AdamW": '`model.net`: "AdamW" is no Net; ' + NETS,
    "--model.net torch.nn.Linear": "`model.net`: torch.nn.Linear is no subclass of src.nets.net.Net",
    "--model.net my_nets.Deep": "`model.net`: can't import my_nets.Deep: No module named 'my_nets'",
    "--model.net torch.nn.Deep": "`model.net`: can't import torch.nn.Deep: module 'torch.nn' has no attribute 'Deep'",
    "--model.net [MLP]": '`model.net`: ["MLP"] is no Net; ' + NETS,
    "--model 3": "`model`: 3 is no Model; " + MODELS,
    "--model.optimizer Adm": '`model.optimizer`: "Adm" is no Optimizer; did you mean Adam? ' + OPTIMIZERS,
    "--model.augment [Flop]": '`model.augment`: "Flop" is no Augmentation; did you mean Flip? there are: Crop, Cutout, Flip, Mixup, Noise',
    "--data.source Digit": '`data.source`: "Digit" is no Source; did you mean Digits? ' + SOURCES,
    "--data.source null": "`data.source` is not set: add it to --config FILE, or give --data.source NAME; " + SOURCES,
    "--data.source Table": "`data.source.path` is not set: add it to --config FILE, or give --data.source.path VALUE",
    "--model.scheduler.T_max 3": "`model.scheduler` is not set: add it to --config FILE, or give --model.scheduler NAME; " + SCHEDULERS,
    "--trainer.logger Wanb": '`trainer.logger`: "Wanb" is no Logger; did you mean Wandb? there are: MetricsCsv, TensorBoard, Wandb',
    "--trainer.callbacks [EarlyStopping]": f"`trainer.callbacks`: {NAMED}",
    "--trainer.use_distributed_sampler true": "`trainer.use_distributed_sampler`: batches are sharded already, without padding",
    "--callbacks.swa StochasticWeightAveraging --callbacks.swa.swa_lrs 0.01": "`callbacks.swa`: StochasticWeightAveraging does not work here: take EMA",
    "--callbacks.f LearningRateFinder": "`callbacks.f`: LearningRateFinder does not work here: compare runs by --model.optimizer.lr",
    "--callbacks.b lightning.pytorch.callbacks.TQDMProgressBar": "`callbacks.b`: lightning.pytorch.callbacks.TQDMProgressBar does not work here: there is a bar",
    "--callbacks.b ModelPruning": f"`callbacks.b`: ModelPruning {CODE}",
    "--model.scheduler SequentialLR": f"`model.scheduler`: SequentialLR {CODE}",
    # types
    "--data.batch_size 99999999999999999999": "`data.batch_size` is 1e+20, not an integer",
    "--data.eval_batch_size 9223372036854775808": "`data.eval_batch_size` is 9.223372036854776e+18, not an integer",
    "--model.net.hidden_dims [8,99999999999999999999]": "`model.net.hidden_dims` is [8, 1e+20], not a list (an integer, ...)",
    "--data 3": "`data` is 3, not `key: value` pairs",
    "--callbacks [EarlyStopping]": '`callbacks`: ' + NAMED,
    "--data.batch_size many": '`data.batch_size` is "many", not an integer',
    "--data.batch_size null": "`data.batch_size` is null, not an integer",
    "--data.batch_size 1.5": "`data.batch_size` is 1.5, not an integer",
    "--trainer.max_epochs abc": '`trainer.max_epochs` is "abc", not an integer or null',
    "--trainer.precision 8": "`trainer.precision` is 8, not one of 64, 32, 16 or one of transformer-engine, transformer-engine-float16, 16-true, 16-mixed, bf16-true, bf16-mixed, 32-true, 64-true or one of 64, 32, 16, bf16 or null",
    "--model.net.norm bach": '`model.net.norm` is "bach", not one of none, batch, layer',
    "--model.net.hidden_dims 3": "`model.net.hidden_dims` is 3, not a list (an integer, ...)",
    "--model.optimizer.betas 0.9": "`model.optimizer.betas` is 0.9, not a list (a number, a number)",
    "--model.optimizer.lr fast": '`model.optimizer.lr` is "fast", not a number',
    "--data.partition.fracs [0.9,0.1]": "`data.partition.fracs` is [0.9, 0.1], not a list (a number, a number, a number)",
    # values
    "--trainer.max_epochs 0": f"`trainer.max_epochs` {MORE}",
    "--trainer.max_steps 0": f"`trainer.max_steps` {MORE}",
    "--trainer.limit_train_batches 0": f"`trainer.limit_train_batches` {MORE}",
    "--trainer.val_check_interval 0": f"`trainer.val_check_interval` {MORE}",
    "--trainer.gradient_clip_val -1": "`trainer.gradient_clip_val` is -1, not 0 or more",
    "--callbacks.s EarlyStopping --callbacks.s.patience -1": "`callbacks.s.patience` is -1, not 0 or more",
    "--model.scheduler ReduceLROnPlateau --model.scheduler.patience -1": "`model.scheduler.patience` is -1, not 0 or more",
    "--model.scheduler StepLR --model.scheduler.step_size 0": "`model.scheduler.step_size` is 0, not 1 or more",
    "--model.augment Crop --model.augment.pad 9": "`model.augment`: Crop.pad is 9: it must be at most 8, a side",
    "--data.batch_size 0": "`data.batch_size` is 0, not 1 or more",
    "--data.partition.fracs [0.5,0.5,0.5]": "`data.partition.fracs` [0.5, 0.5, 0.5] sum to 1.5: give positive ones that sum to 1; val and test may be 0",
    "--data.partition KFold --data.partition.fold 5": "`data.partition` is fold 5 of 5: count from 0; give 3 folds or more, or 2 if val or test, not both, is published",
    "--data.partition KFold --data.partition.num_folds 2000": "class '0' has 178 of the 2000 distinct rows it needs: add rows, leave it out, or change `data.partition`",
    "--model.net.dropout 1.5": "`model.net.dropout` is 1.5, not in [0, 1)",
    "--model.net.hidden_dims [0]": "`model.net.hidden_dims` has 0: it must be a positive number",
    "--model.net.activation rleu": "`model.net.activation` has 'rleu', which is none of relu, leaky_relu, elu, selu, gelu, silu, tanh, sigmoid, identity",
    "--model.net.activation [relu]": "`model.net.activation` is a list of 1, not of 2: give one value for all layers, or one for each",
    "--model.optimizer.lr -1": "`model.optimizer`: Invalid learning rate: -1.0",
    "--model.optimizer Muon": "`model.optimizer`: Muon only supports 2D parameters whereas we found a parameter with size: torch.Size([128])",
    "--model.optimizer SparseAdam": "`model.optimizer`: SparseAdam does not support dense gradients, please consider Adam instead",
    "--model.scheduler OneCycleLR --model.scheduler.max_lr 1": "`model.scheduler`: You must define either total_steps OR (epochs AND steps_per_epoch)",
    "--model.scheduler LambdaLR --model.scheduler.lr_lambda 3": "`model.scheduler.lr_lambda`: Expected an import path or a subclass spec, but got 3",
    "--model.label_smoothing 1": "`model.label_smoothing` is 1, not in [0, 1)",
    "--model.augment Cutout --model.augment.size 0": "`model.augment`: Cutout.size is 0: it must be at least 1",
    "--model Regressor --model.net MLP --model.optimizer SGD": "Regressor needs targets, and the data has 10 classes: set `model` to Classifier, or `data.source.task` of a Table or Arrays to regression",
    "--data.source Diabetes": "Classifier needs classes, and the data has targets to regress: set `model` to Regressor, or `data.source.task` of a Table or Arrays to classification",
    "--data.source Wine --model.net ConvNet": "`model.net` ConvNet takes signals (C, L) and images (C, H, W), not rows of shape (13,): use MLP",
    "--data.source Wine --model.augment [Flip]": "`model.augment`: Flip takes no rows of shape (13,): drop it",
    "--data.batch_size 1 --model.net.norm batch": "`model.net.norm`: Expected more than 1 value per channel when training, got input size torch.Size([1, 128])",
    "--callbacks.ema EMA --callbacks.ema.decay 2": "`decay` of the callback EMA is 2, not in [0, 1)",
    "--trainer.accelerator gpus": "`trainer`: You selected an invalid accelerator name: `accelerator='gpus'`. Available names are: ...",
    "--trainer.strategy dpp": "`trainer`: You selected an invalid strategy name: `strategy='dpp'`. It must be either a string or an instance of `lightning.pytorch.strategies.Strategy`. Example choices: auto, ddp, ...",
    "--trainer.devices 0": "`trainer`: `Trainer(devices=0)` value is not a valid input using cpu accelerator.",
    "--trainer.devices -5": "`trainer`: `devices` selected with `CPUAccelerator` should be an int > 0.",
    "--trainer.accumulate_grad_batches 0": "`trainer.accumulate_grad_batches` is 0, not 1 or more",
    "--trainer.val_check_interval 500": "`val_check_interval` (500) must be less than or equal to the number of the training batches (20). ...",
    "--trainer.accelerator cpu --trainer.devices 1000 --trainer.strategy ddp": "`trainer.devices` is 1000: at most {most} CPU processes",
    "--seed_everything -1": "`seed_everything`: -1 is not in bounds, numpy accepts from 0 to 4294967295",
    "--ckpt_path last.ckpt": "checkpoint last.ckpt does not exist",
    "--ckpt_path http://a.b/c.ckpt": "checkpoint http:/a.b/c.ckpt does not exist",
    "--ckpt_path configs": "checkpoint configs is a folder: give a file",
    "--ckpt_path configs/digits_mlp.yaml": "checkpoint configs/digits_mlp.yaml is damaged, or no checkpoint",
}.items())  # fmt: skip
def test_a_wrong_flag(refused, words, line):
    refused(line, f"{FIT} {words}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(refused):
    line = "`trainer`: no GPU: --trainer.accelerator cpu"
    refused(line, f"{FIT} --trainer.accelerator gpu --trainer.devices 1")


MODEL = "model:\n  Classifier:\n    net: MLP\n    optimizer: {AdamW: {lr: 1e-3}}\n"
WHOLE = MODEL + "data: {source: Digits}\ntrainer: {max_epochs: 1}\n"
C = "{tmp}/c.yaml"


@pytest.mark.parametrize(("text", "line"), {
    "": "`model` is not set: add it to --config FILE, or give --model NAME; " + MODELS,
    "- Digits\n- MLP\n": f"config {C} holds no `key: value` lines",
    "a: [1,\nb: 2\n": f"{C}:3: not YAML: expected ',' or ']', but got '<stream end>'",
    "a: b: c\n": f"{C}:1: not YAML: mapping values are not allowed here",
    "a:\n\t- b\n": f"{C}:2: not YAML: found character '\\t' that cannot start any token",
    "a: !!python/object/apply:os.system ['true']\n": f"{C}:1: tag:yaml.org,2002:python/object/apply:os.system is not allowed",
    WHOLE + "data: {batch_size: 3}\n": f"{C}:7: `data` is given twice",
    WHOLE + "modle: {}\n": f"{C}:7: `modle`: there is no such key; did you mean model? {ROOT}",
    WHOLE.replace("max_epochs", "max_epoch"): f"{C}:6: `trainer.max_epoch`: Trainer has no such option; did you mean max_epochs? {TRAINER}",
    WHOLE.replace("source", "sorce"): f"{C}:5: `data.sorce`: DataModule has no such option; did you mean source? {DATA}",
    WHOLE.replace("lr:", "rate:"): f"{C}:4: `model.optimizer.rate`: AdamW has no such option; {ADAMW}",
    WHOLE.replace("net: MLP", "net: {MLP: {depth: 3}}"): f"{C}:3: `model.net.depth`: MLP has no such option; {MLP}",
    WHOLE.replace("net: MLP", "net: MPL"): f'{C}:3: `model.net`: "MPL" is no Net; did you mean MLP? {NETS}',
    WHOLE.replace("    net: MLP\n", ""): f"{C}:2: `model.net` is not set: add it to --config FILE, or give --model.net NAME; {NETS}",
    WHOLE.replace("1e-3", "'fast'"): f'{C}:4: `model.optimizer.lr` is "fast", not a number',
    WHOLE + "callbacks: {stop: {EarlyStopping: {patient: 3}}}\n": f"{C}:7: `callbacks.stop.patient`: EarlyStopping has no such option; did you mean patience? there are: monitor, mode, patience, min_delta",
    WHOLE + "callbacks: {stop: true}\n": f"{C}:7: `callbacks.stop`: true is no Callback; there are: Checkpoint, EarlyStopping, EMA, Monitor, Report, ...",
    WHOLE + "callbacks: EarlyStopping\n": f'{C}:7: `callbacks`: {NAMED}',
    WHOLE + "callbacks:\n  <<: {stop: EarlyStopping}\n": f"{C}:8: a key must be a word; to merge files, list them in `base`",
    WHOLE + "? [a, b]\n: c\n": f"{C}:7: a key must be a word; to merge files, list them in `base`",
    WHOLE + "callbacks: &a {c: *a}\n": f"{C}: not YAML: nested without an end",
    WHOLE + "base: other.yaml\n": "no config {tmp}/other.yaml (`base` of " + f"{C}); did you mean {C}? there are: {C}",
    WHOLE + "base: null\n": f"{C}:7: `base` is null: list files, [a.yaml, b.yaml]",
    WHOLE + "base: {a: 1}\n": f'{C}:7: `base` is {{"a": 1}}: list files, [a.yaml, b.yaml]',
    WHOLE + "base: [c.yaml]\n": f"{C}: `base` goes round in a circle",
    MODEL: "`data.source` is not set: add it to --config FILE, or give --data.source NAME; " + SOURCES,
}.items())  # fmt: skip
def test_a_wrong_config(refused, tmp_path, text, line):
    (tmp_path / "c.yaml").write_text(text)
    refused(line, "fit --config", tmp_path / "c.yaml")


ROWS = "a,b,label\n" + "".join(f"{i},{i % 7},{'xyz'[i % 3]}\n" for i in range(90))
TABLE = "data: {source: {Table: {path: '{tmp}/t.csv', target: label}}}\ntrainer: {max_epochs: 1}\n"


@pytest.mark.parametrize(("text", "flags", "line"), [
    (None, "", "{tmp}/t.csv: No such file or directory"),
    ("", "", "{tmp}/t.csv is empty"),
    ("a,b,label\n", "", "{tmp}/t.csv has no rows"),
    (ROWS, "--data.source.target lable", "{tmp}/t.csv has no column `lable` (data.source.target); did you mean label? there are: a, b, label"),
    (ROWS, "--data.source.drop [c]", "{tmp}/t.csv has no column `c` (data.source.drop); there are: a, b, label"),
    (ROWS.replace("5,5,z", "5,five,z"), "", "{tmp}/t.csv, line 7: `five` in the numeric column `b` is no finite number and no date: mend or empty the cell, or train with the column as categorical (`data.source.types`; of the target, `data.source.task`)"),
    (ROWS + "1,2\n", "", "{tmp}/t.csv, line 92: 2 cells, but the header has 3"),
    (ROWS + "1,2,w\n", "", "class 'w' has 1 of the 3 distinct rows it needs: add rows, leave it out, or change `data.partition`"),
    (ROWS.replace(",x\n", ",\n", 1), "", "{tmp}/t.csv, line 2: `label` (data.source.target) has no value, the first of 1 such rows: fill the cells or delete the rows"),
    (ROWS.replace("b,", "a,", 1), "", "{tmp}/t.csv: two columns are named `a`: rename one"),
    ("".join(f"{line},\n" for line in ROWS.replace("label", "label,c").split()), "", "{tmp}/t.csv, line 2: 4 cells, but the header has 5"),
    (ROWS.replace(",y", ",x").replace(",z", ",x"), "", "{tmp}/t.csv: the target `label` is `x` in every row: a classification needs two classes or more"),
    (b"a,label\n\xff\xfe,x\n", "", "{tmp}/t.csv is neither text in UTF-8 nor .parquet: save it as one"),
    ("a,b,label\n" + "".join(f"{i},,{'xy'[i % 2]}\n" for i in range(20)), "", "{tmp}/t.csv: column `b` is empty: leave it out, --data.source.drop [b], or keep it, --data.source.types.b categorical"),
    (ROWS, "--data.partition.group_by who", "{tmp}/t.csv has no column `who` (data.partition.group_by); there are: a, b, label"),
    (ROWS, "--data.source.types.a number", '`data.source.types` is {"a": "number"}, not `key: value` pairs (a string, one of numeric, categorical) or null'),
    (ROWS, "--data.source.types.c numeric", "{tmp}/t.csv has no column `c` (data.source.types); there are: a, b, label"),
    (ROWS, "--model.net ConvNet", "`model.net` ConvNet takes signals (C, L) and images (C, H, W), not rows of shape (2,): use MLP"),
    (ROWS, "--data.source.task regression", "{tmp}/t.csv, line 2: `x` in the numeric column `label` is no finite number and no date: mend or empty the cell, or train with the column as categorical (`data.source.types`; of the target, `data.source.task`)"),
])  # fmt: skip
def test_a_wrong_table(refused, tmp_path, text, flags, line):
    if text is not None:
        (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "c.yaml").write_text(MODEL + TABLE.replace("{tmp}", str(tmp_path)))
    refused(line, f"fit --config {tmp_path}/c.yaml {flags}")


def save_npz(path, **arrays):
    rng = np.random.default_rng(0)
    usual = {"x": rng.normal(size=(60, 4)).astype("f4"), "y": np.arange(60) % 3}
    np.savez(path, **{k: v for k, v in {**usual, **arrays}.items() if v is not None})


@pytest.mark.parametrize(("arrays", "flags", "line"), [
    ({"y": None}, "", "{tmp}/d.npz has no `y`; there are: x"),
    ({"x": None}, "", "{tmp}/d.npz has no `x`; there are: y"),
    ({"z": np.zeros(3)}, "", "{tmp}/d.npz has `z`, which is unknown; there are: x, y, x_val, y_val, x_test, y_test, groups, times"),
    ({"x": np.array([{}] * 60)}, "", "{tmp}/d.npz can't be read as numpy's arrays of numbers or text: Object arrays cannot be loaded when allow_pickle=False"),
    ({"y": np.arange(59) % 3}, "", "{tmp}/d.npz: `y` is of shape (59,) for 60 rows of x"),
    ({"x": np.zeros((0, 4))}, "", "{tmp}/d.npz: x is float64 (0, 4), not rows of numbers (N, ...)"),
    ({"x": np.zeros(())}, "", "{tmp}/d.npz: x is float64 (), not rows of numbers (N, ...)"),
    ({"x": np.array(["a"] * 60)}, "", "{tmp}/d.npz: x is <U1 (60,), not rows of numbers (N, ...)"),
    ({"times": np.arange(60)}, "--data.partition KFold", "`data.partition` divides by row or group, not time: leave it out, or take another partition"),
    ({"y": np.zeros(60, int)}, "--data.source.task classification", "{tmp}/d.npz: `y` is `0` in every row: a classification needs two classes or more"),
    ({"y": np.where(np.arange(60) < 59, 0, 1)}, "--data.source.task classification", "class '1' has 1 of the 3 distinct rows it needs: add rows, leave it out, or change `data.partition`"),
    ({"y": np.full(60, np.nan)}, "", "{tmp}/d.npz: `y` has 60 rows that are NaN or infinite, the first at index 0: mend or delete them"),
    ({"x_test": np.zeros((5, 3), "f4"), "y_test": np.zeros(5, int)}, "", "{tmp}/d.npz: x has rows of float32 (3,), not of float32 (4,)"),
    ({}, "--data.source.path {tmp}/c.yaml", "{tmp}/c.yaml can't be read as numpy's arrays of numbers or text: This file contains pickled (object) data"),
    ({}, "--data.source.path {tmp}/none.npz", "{tmp}/none.npz: No such file or directory"),
])  # fmt: skip
def test_wrong_arrays(refused, tmp_path, arrays, flags, line):
    save_npz(tmp_path / "d.npz", **arrays)
    source = f"data: {{source: {{Arrays: {{path: '{tmp_path}/d.npz'}}}}}}\n"
    (tmp_path / "c.yaml").write_text(MODEL + source + "trainer: {max_epochs: 1}\n")
    refused(line, f"fit --config {tmp_path}/c.yaml", *flags.replace("{tmp}", str(tmp_path)).split())


def test_rows_of_many_axes_have_no_pictures(go, tmp_path):
    save_npz(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(60, 2, 3, 4, 5)))
    source = f"data: {{source: {{Arrays: {{path: '{tmp_path}/d.npz'}}}}}}\n"
    (tmp_path / "c.yaml").write_text(MODEL + source + "trainer: {max_epochs: 1}\n")
    assert go(f"fit --config {tmp_path}/c.yaml")[::2] == (0, "")


def draw_images(root):
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = root / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{i}.png")


@pytest.mark.parametrize(("harm", "line"), [
    (lambda root: Image.new("L", (9, 7)).save(root / "b" / "x.png"), "b/x.png is (7, 9) (height, width), other images (8, 8): set `data.source.resize`"),
    (lambda root: (root / "b" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n"), "{tmp}/i/b/x.png can't be decoded (cannot identify image file): mend or remove it (to train without it: `data.source.skip_broken: true`)"),
    (lambda root: shutil.rmtree(root), "{tmp}/i: No such file or directory"),
    (lambda root: shutil.rmtree(root / "b"), "{tmp}/i has 1 folders, not one for each class"),
    (lambda root: (root / "c").mkdir(), "the class {tmp}/i/c has no images"),
    (lambda root: (root / "val").mkdir() or (root / "a").rename(root / "val" / "a"), "{tmp}/i has b, val: name the splits train, val, test"),
])  # fmt: skip
def test_wrong_images(refused, tmp_path, harm, line):
    draw_images(tmp_path / "i")
    harm(tmp_path / "i")
    source = f"data: {{source: {{Images: {{path: '{tmp_path}/i'}}}}}}\n"
    (tmp_path / "c.yaml").write_text(MODEL + source + "trainer: {max_epochs: 1}\n")
    refused(line, f"fit --config {tmp_path}/c.yaml")


def test_no_config(refused, tmp_path):
    there = f"there are: {short(', '.join(map(str, sorted(Path('configs').glob('*.yaml')))), 200)}"
    near = "no config configs/digit_mlp.yaml; did you mean configs/digits_mlp.yaml? "
    refused(near + there, "fit --config configs/digit_mlp.yaml")
    refused(f"no config configs; {there}", "fit --config configs")
    unset = "`model` is not set: add it to --config FILE, or give --model NAME; " + MODELS
    refused(unset, "fit")
    (tmp_path / "c.yaml").write_bytes(b"\x80\x02}q\x00")
    refused(
        f'{tmp_path}/c.yaml: not YAML: unacceptable character #xdc80: special characters are not allowed in "<unicode string>", position 0',
        "fit --config",
        tmp_path / "c.yaml",
    )
    refused("'foo' is no flag: options are --KEY VALUE, files --config FILE", "list foo")
    refused(f"no subcommand 'fti'; there are: {', '.join(SUBCOMMANDS)}", "fti")


def test_alias_bomb(refused, tmp_path):
    lines = ["a: &a [1,1,1,1,1,1,1,1,1]"]
    for here, before in zip("bcdefghij", "abcdefghi", strict=True):
        lines.append(f"{here}: &{here} [{','.join([f'*{before}'] * 9)}]")
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    start = time.perf_counter()
    line = "{tmp}/c.yaml: more than 10,000 values: too many aliases"
    refused(line, "fit --config", tmp_path / "c.yaml")
    assert time.perf_counter() - start < 1


def test_run_folders(go, refused, tmp_path):
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "config.yaml").touch()
    last = f"{tmp_path}/runs/first/checkpoints/last.ckpt"
    assert go(FIT, "--run", "first")[::2] == (
        2,
        f"error: run folder {tmp_path}/runs/first exists: choose another --run NAME, or go on with "
        f"--ckpt_path {last}\n",
    )
    shutil.rmtree(tmp_path / "runs")
    refused(f"checkpoint {last} does not exist", f"{FIT} --ckpt_path {last}")
    (tmp_path / "runs").touch()
    refused("{tmp}/runs/first: Not a directory", f"{FIT} --run first")


def test_checkpoints_and_new_rows(go, refused, tmp_path):
    for source in ("Digits", "Wine"):
        said = go(f"{FIT} --trainer.limit_train_batches 2 --run {source} --data.source {source}")
        assert said.code == 0, said.err
        shutil.move(said.folder / "checkpoints" / "best.ckpt", tmp_path / f"{source}.ckpt")
        shutil.rmtree(said.folder)
    digits, wine = f"--ckpt_path {tmp_path}/Digits.ckpt", f"--ckpt_path {tmp_path}/Wine.ckpt"
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "Digits.ckpt").read_bytes()[:5000])
    for name in ("x.txt", "x.png"):
        (tmp_path / name).touch()
    (tmp_path / "x.csv").write_text("alcohol,hue\n1,2\n")
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 2)))
    np.save(tmp_path / "inf.npy", np.full((3, 13), [[0], [np.inf], [1]]))
    unfit = "`ckpt_path` does not fit this model: "
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    for typed, line in {
        f"test {digits} --model.net.hidden_dims [5]": unfit + 'Unexpected key(s) in state_dict: "net.hidden.4.weight", "net.hidden.4.bias".',
        f"test {digits} --model.net ConvNet": unfit + 'Missing key(s) in state_dict: "net.stages.0.0.0.weight", ...',
        f"test {digits} --data.source Wine": "rows of Wine (13,) differ from those of the checkpoint (1, 8, 8) in shape, classes or features: give its `data.source`",
        f"test {digits} --data.batchsize 3": f"`data.batchsize`: DataModule has no such option; did you mean batch_size? {DATA}",
        f"test --ckpt_path {tmp_path}/other.ckpt": "checkpoint {tmp}/other.ckpt is damaged, or no checkpoint",
        f"test --ckpt_path {tmp_path}/run": "checkpoint {tmp}/run is a folder: give {tmp}/run/checkpoints/last.ckpt",
        f"predict {wine} --data.predict_path {tmp_path}/run": "{tmp}/run: Is a directory",
        f"test --ckpt_path {tmp_path}/cut.ckpt": "checkpoint {tmp}/cut.ckpt is damaged, or no checkpoint",
        "test --config configs/digits_mlp.yaml": "test needs a model: give --ckpt_path RUN/checkpoints/best.ckpt",
        f"predict {wine} --data.predict_path {tmp_path}/inf.npy": "row 1 has no finite prediction: is a value in it infinite?",
        f"predict {digits} --data.predict_path {tmp_path}/no.npz": "`data.predict_path` {tmp}/no.npz does not exist",
        f"predict {digits} --data.predict_path {tmp_path}/x.npz": "{tmp}/x.npz: x has rows of float64 (2,), not of uint8 (1, 8, 8)",
        f"predict {digits} --data.predict_path {tmp_path}/x.csv": "{tmp}/x.csv: the model takes rows of shape (1, 8, 8), not of a table: give it .npz, .npy or images",
        f"predict {digits} --data.predict_path {tmp_path}/x.png": "{tmp}/x.png can't be decoded (cannot identify image file): mend or remove it",
        f"predict {wine} --data.predict_path {tmp_path}/x.txt": "{tmp}/x.txt is empty",
        f"predict {wine} --data.predict_path {tmp_path}/x.csv": "{tmp}/x.csv has no column `malic_acid` (a feature); there are: alcohol, hue",
        f"predict {wine} --data.predict_path {tmp_path}/x.png": "the model takes float32 rows of shape (13,), not images",
    }.items():  # fmt: skip
        refused(line, typed)


def test_a_loss_that_is_no_number(go):
    said = go(f"{FIT} --trainer.limit_train_batches 2 --model.optimizer.lr 1e30")
    assert said.err == (
        "warning: step 2 is skipped: its loss or gradients are not finite\n"
        "error: val/loss is nan after epoch 0: lower `model.optimizer.lr`, clip with "
        "`trainer.gradient_clip_val`, or look for infinite values in the val rows\n"
    )
    assert said.code == 76


@pytest.mark.parametrize(("module", "data", "line"), [
    ("polars", "Table: {path: t.csv, target: b}", "t.csv needs polars: pip install polars (the extra `table`)"),
    ("PIL", "Images: {path: '{tmp}/i'}", "images need Pillow: pip install pillow (the extra `image`)"),
])  # fmt: skip
def test_a_missing_extra(refused, tmp_path, monkeypatch, module, data, line):
    draw_images(tmp_path / "i")
    (tmp_path / "t.csv").touch()
    monkeypatch.setitem(sys.modules, module, None)
    data = f"data: {{source: {{{data}}}}}\n".replace("{tmp}", str(tmp_path))
    data += "trainer: {max_epochs: 1}\n"
    (tmp_path / "c.yaml").write_text(MODEL + data)
    refused(line, f"fit --config {tmp_path}/c.yaml")


@pytest.mark.parametrize("loggers", ["TensorBoard", "[MetricsCsv,TensorBoard]"])
def test_a_missing_logger(refused, monkeypatch, loggers):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard.{name}", False)
    line = "install the extra `tensorboard`: pip install tensorboard"
    refused(line, f"{FIT} --trainer.logger {loggers}")


@pytest.mark.filterwarnings("default")
def test_what_is_asked_for_and_not_needed(go, tmp_path):
    said = go(f"{FIT} --print_config --callbacks.t Timer")
    assert said[::2] == (0, "")
    assert "      interval: step\n" in said.out
    assert not (tmp_path / "runs").exists()
    heard, handler = [], logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logging.getLogger("lightning.pytorch").addHandler(handler)
    said = go(f"{FIT} --trainer.fast_dev_run 1 --data.predict_path nope --callbacks.t Timer")
    assert said[::2] == (0, "warning: `data.predict_path` is ignored: only predict reads it\n")
    assert heard == []
    go(f"{FIT} --trainer.fast_dev_run 1 --trainer.profiler simple --callbacks.s ModelSummary")
    logging.getLogger("lightning.pytorch").removeHandler(handler)
    assert any("FIT Profiler Report" in text for text in heard)
    assert any("17.2 K    Total params" in text for text in heard)


def test_whatever_a_config_may_name_can_be_written_into_one(go):
    for key in ("callbacks.x", "model.optimizer", "model.scheduler"):
        room = ROOMS[key.replace(".x", ".*")]
        for name, cls in classes(room).items():
            if all(o.default is not o.empty for o in options(cls, key).values()):
                said = go(f"{FIT} --print_config --{key} {name}")
                assert said[::2] == (0, ""), name
                assert name in said.out


def test_processes_say_once_what_is_wrong(tmp_path):
    line = "fit --config configs/digits_mlp.yaml --data.source Diabetes --model Regressor "
    line += "--data.partition.fracs [0.996,0.002,0.002] --trainer.devices 2 --trainer.accelerator cpu --trainer.strategy ddp "
    words = f"{line} --trainer.logger false --trainer.default_root_dir {tmp_path}".split()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "src", *words], capture_output=True, env=env)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "error: val has 1 of the 2 rows it needs, one a process: add rows, or lower "
        "`trainer.devices`\n"
    )


@pytest.mark.parametrize(("words", "line"), {
    "--callbacks.s EarlyStopping --callbacks.s.monitor val/acuracy": "`monitor` of the callback EarlyStopping is val/acuracy, which the model does not log; did you mean val/auroc? there are: val/loss, val/acc, val/f1, val/auroc; for a metric of your own give its `mode`, too",
    "--callbacks.checkpoint.monitor val/accuracy": "`monitor` of the callback Checkpoint is val/accuracy, which the model does not log; did you mean val/acc? there are: val/loss, val/acc, val/f1, val/auroc; for a metric of your own give its `mode`, too",
    "--callbacks.checkpoint.monitor val/mine --callbacks.checkpoint.mode max": "`monitor` of the callback Checkpoint is val/mine, which nothing logs; there are: val/loss, val/acc, val/f1, val/auroc, samples_per_s, lr, grad_norm, train/loss, train/acc",
    "--callbacks.checkpoint.monitor val/acc --callbacks.checkpoint.mode min": "`mode` of the callback Checkpoint is min, but more val/acc is better: leave it out",
    "--callbacks.s EarlyStopping --callbacks.s.mode max": "`mode` of the callback EarlyStopping is max, but less val/loss is better: leave it out",
    "--callbacks.s EarlyStopping --callbacks.s.patience 0": "`patience` of the callback EarlyStopping is 0, not 1 or more",
}.items())  # fmt: skip
def test_a_metric_that_is_not_there(go, words, line):
    assert go(f"{FIT} {words}")[::2] == (2, f"error: {line}\n")


def test_a_fault_of_own_code_names_its_line(go, tmp_path, monkeypatch):
    text = "from torch import nn\nfrom src.nets.net import Net\n\n\nclass Bad(Net):\n"
    text += "    def __init__(self, in_shape, out_dim, num_categories=()):\n        super().__init__()\n"
    text += "        self.head = nn.Linear(3, out_dim)\n\n    def forward(self, x):\n"
    (tmp_path / "badnet.py").write_text(text + "        return self.head(x.flatten(1))\n")
    monkeypatch.syspath_prepend(tmp_path)
    said = go(f"{FIT} --model.net badnet.Bad")
    assert said.code == 1
    assert said.err.startswith("error: RuntimeError at ")
    assert "badnet.py:11 in forward: mat1 and mat2 shapes cannot be multiplied" in said.err


def test_debug_shows_the_traceback(go):
    said = go(f"{FIT} --data.batch_size 0 --debug")
    assert said.code == 2
    assert said.err.startswith("Traceback (most recent call last):\n")
    assert said.err.endswith("error: `data.batch_size` is 0, not 1 or more\n")


def test_what_is_our_fault_says_where():
    def raised(error):
        with pytest.raises(type(error)) as caught:
            raise error
        return explain(caught.value)

    line, code = raised(ZeroDivisionError("modulo\nby zero"))
    assert code == 1
    assert re.fullmatch(
        r"ZeroDivisionError at .*test_errors.py:\d+ in raised: modulo by zero \(--debug .*\)", line
    )
    assert raised(KeyboardInterrupt("fit x")) == ("interrupted; go on with: fit x", 75)
    assert raised(KeyboardInterrupt()) == ("interrupted", 75)
    assert raised(FileNotFoundError(2, "No such file", "x")) == ("x: No such file", 2)
    line, code = raised(MemoryError("9 TB"))
    assert line == ("not enough memory: lower `data.batch_size` or the sizes of `model.net` (9 TB)")
    assert code == 2
