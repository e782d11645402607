"""The loop of this project against Lightning's own: everything that can be seen is the same."""

import json
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch.optim import lr_scheduler

from src.data.module import DataModule
from src.data.partition import Stratified
from src.loop import HOOKS, DirectLoop, unmarked
from src.models import Classifier, Regressor
from src.models.augment import Mixup, Noise
from src.models.schedules import WarmupCosine
from src.nets import MLP
from tests.test_models import TRAINER, Blobs


class Recorder(Callback):
    """What a callback can see of a step."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []


def record(name):
    def hook(self, trainer, model, *args):
        loop = trainer.fit_loop.epoch_loop
        losses = [a.item() for a in args if isinstance(a, torch.Tensor)]
        losses += [{k: float(v) for k, v in a.items()} for a in args if isinstance(a, dict)]
        rows = [a.row.tolist() for a in args if hasattr(a, "row")]
        numbers = [a for a in args if isinstance(a, int)]
        place = (model._current_fx_name, trainer.global_step, loop._batches_that_stepped)
        grads = [None if p.grad is None else p.grad.sum().item() for p in model.parameters()]
        self.seen.append((name, *place, losses, rows, numbers, grads, loop.state_dict()))

    return hook


for hook in HOOKS:
    setattr(Recorder, hook, record(hook))


class Logging(Classifier):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("step_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss


class Skipping(Classifier):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 2 else {"loss": loss, "more": batch_idx}


class Clipping(Classifier):
    def configure_gradient_clipping(self, optimizer, *args, **kwargs):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad.clamp_(-1e-3, 1e-3)


class Stop(Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop |= trainer.global_step == 12


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def fit(loop, tmp_path, kind=Classifier, optimizer=adam, then=None, callbacks=(), **options):
    """All that came of a run; its second part goes on with a checkpoint, if there is a `then`."""
    model_options = {k: options.pop(k) for k in ("scheduler", "augment") if k in options}
    net = partial(MLP, hidden_dims=(8,), dropout=0.1, norm="batch")
    recorder, path = Recorder(), tmp_path / "last.ckpt"
    for number, more in enumerate([options] + ([then] if then else [])):
        torch.manual_seed(0)
        model = kind(net=net, optimizer=optimizer, **model_options)
        task = "values" if kind is Regressor else "classes"
        data = DataModule(Blobs(task), Stratified(), batch_size=32)
        trainer = Trainer(
            **TRAINER | {"max_epochs": 3} | more,
            callbacks=[recorder, *callbacks],
            log_every_n_steps=2,
        )
        if loop:
            DirectLoop.put_into(trainer)
        trainer.fit(model, data, ckpt_path=path if number else None)
        trainer.save_checkpoint(path)
    kept = torch.load(path, weights_only=True)
    metrics = {k: v.item() for k, v in trainer.callback_metrics.items()}
    logged = {k: v.item() for k, v in trainer.logged_metrics.items()}
    return (
        recorder.seen,
        kept["state_dict"],
        kept["optimizer_states"],
        kept["loops"],
        metrics,
        logged,
    )


def text(seen):
    return json.dumps(seen, default=torch.Tensor.tolist)


DIRECT = {
    "plain": {},
    "values": {"kind": Regressor},
    "clipped": {"gradient_clip_val": 0.1},
    "clipped by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "a step's schedule": {"scheduler": WarmupCosine},
    "an epoch's schedule": {"scheduler": partial(lr_scheduler.StepLR, step_size=1)},
    "plateau": {"scheduler": partial(lr_scheduler.ReduceLROnPlateau, patience=0)},
    "augmented": {"augment": [Noise(), Mixup()]},
    "logging in each step": {"kind": Logging},
    "a step that skips, and gives more": {"kind": Skipping},
    "16 bits": {"precision": "bf16-mixed"},
    "few batches": {"limit_train_batches": 4},
    "steps": {"max_steps": 13, "max_epochs": -1},
    "stopped": {"callbacks": [Stop()], "max_epochs": 5},
    "rare validation": {"check_val_every_n_epoch": 2},
    "LBFGS": {"optimizer": partial(torch.optim.LBFGS, max_iter=3, lr=0.1)},
    "gone on with amid an epoch": {"max_steps": 13, "max_epochs": -1, "then": {"max_epochs": 3}},
    "gone on with": {"max_epochs": 1, "then": {"max_epochs": 3}},
}
STOCK = {
    "accumulated": {"accumulate_grad_batches": 2},
    "validation amid an epoch": {"val_check_interval": 0.5},
    "a hook of the model's": {"kind": Clipping},
    "a profiler": {"profiler": "simple"},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", DIRECT | STOCK)
def test_all_that_can_be_seen_is_the_same(name, tmp_path, monkeypatch):
    options = (DIRECT | STOCK)[name]
    stock = fit(False, tmp_path, **options)
    steps, advance = [], _TrainingEpochLoop.advance
    monkeypatch.setattr(_TrainingEpochLoop, "advance", lambda *a: [steps.append(1), advance(*a)])
    direct = fit(True, tmp_path, **options)
    for one, other in zip(stock, direct, strict=True):
        assert text(one) == text(other)
    assert len(stock[0]) > 20
    assert bool(steps) == (name in STOCK)


def test_what_hangs_on_an_optimizer_is_called(tmp_path):
    called = []

    class Hanging(Callback):
        def on_train_start(self, trainer, *_):
            trainer.optimizers[0].register_step_post_hook(lambda *_: called.append(1))

    assert unmarked(adam([torch.ones(1, requires_grad=True)])) is not None
    plain = fit(True, tmp_path)
    hung = fit(True, tmp_path, callbacks=[Hanging()])
    assert text(plain[1:3]) == text(hung[1:3])
    assert len(called) == plain[0][-1][2] > 10  # steps


def test_another_lightning_takes_its_own_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("src.loop.TRIED", ("2.5.0",))
    steps, advance = [], _TrainingEpochLoop.advance
    monkeypatch.setattr(_TrainingEpochLoop, "advance", lambda *a: [steps.append(1), advance(*a)])
    fit(True, tmp_path)
    assert steps
