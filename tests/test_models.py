from functools import partial, partialmethod

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from sklearn.metrics import f1_score, r2_score, roc_auc_score
from torch import nn
from torch.optim import lr_scheduler

from src.data.module import DataModule
from src.data.partition import Stratified
from src.data.rows import Rows, Signature, Source
from src.models import Classifier, Regressor
from src.models.augment import Mixup, augment
from src.models.classifier import auroc
from src.models.schedules import WarmupCosine
from src.nets import MLP
from tests.conftest import refused

TRAINER = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}


class Blobs(Source):
    def __init__(self, task: str = "classes", n: int = 400) -> None:
        self.task, self.n = task, n

    def load(self, signature: Signature | None = None) -> Rows:
        rng = np.random.default_rng(0)
        y = rng.integers(0, 3, self.n)
        x = (rng.normal(size=(self.n, 4)) + y[:, None] + [0, 100, 0, 0]).astype(np.float32)
        if self.task == "classes":
            return Rows(x, y, Signature((4,), "float32", ("a", "b", "c")))
        target = (1000 + 50 * x[:, 0] + 5 * rng.normal(size=self.n)).astype(np.float32)
        return Rows(x, target, Signature((4,), "float32"))


def net(in_shape, out_dim, num_categories):
    return MLP(in_shape, out_dim, num_categories, hidden_dims=(16,))


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def fit(model, epochs=3, source=None, **kwargs):
    torch.manual_seed(0)
    data = DataModule(source or Blobs(), Stratified(), batch_size=32, **kwargs)
    trainer = Trainer(max_epochs=epochs, **TRAINER)
    trainer.fit(model, data)
    return trainer, data


def test_metrics_are_those_of_scikit_learn():
    trainer, _ = fit(model := Classifier(net=net, optimizer=adam))
    got, (scores, y, row) = trainer.callback_metrics, model.results["val"]
    preds = scores.argmax(1)
    assert torch.equal(row, row.sort().values)
    assert got["val/acc"].item() == pytest.approx((preds == y).float().mean().item(), abs=1e-7)
    assert got["val/f1"].item() == pytest.approx(f1_score(y, preds, average="macro"), abs=1e-6)
    expected = roc_auc_score(y, scores, multi_class="ovr", average="macro")
    assert got["val/auroc"].item() == pytest.approx(expected, abs=1e-6)
    loss = nn.functional.nll_loss(scores.log(), y)
    assert got["val/loss"].item() == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize("digits", [1, 2, 9])  # with few digits, most scores are tied
def test_auroc_is_exact(digits):
    rng = np.random.default_rng(digits)
    for num_rows, share in ((2, 0.5), (50, 0.1), (30_000, 0.3)):
        scores = rng.random(num_rows).astype(np.float32).round(digits)
        is_positive = np.arange(num_rows) < max(1, share * num_rows)
        expected = roc_auc_score(is_positive, scores)
        assert auroc(scores, is_positive) == pytest.approx(expected, abs=1e-14)


def test_regressor_scales_its_target_and_reports_in_original_units():
    trainer, data = fit(
        model := Regressor(net=net, optimizer=adam), epochs=20, source=Blobs("values")
    )
    scores, y, row = model.results["val"]
    train = data.rows.y[data.split.train]
    assert model.target_mean.item() == pytest.approx(train.mean(), rel=1e-6)
    assert model.target_std.item() == pytest.approx(train.std(), rel=1e-5)
    assert torch.equal(y, torch.from_numpy(data.rows.y)[row])
    got = trainer.callback_metrics
    assert got["val/rmse"].item() == pytest.approx((scores - y).square().mean().sqrt().item())
    assert got["val/mae"].item() == pytest.approx((scores - y).abs().mean().item())
    assert got["val/r2"].item() == pytest.approx(r2_score(y, scores), abs=1e-5)
    assert got["val/r2"] > 0.9
    loss = ((scores - y) / train.std()).square().mean()
    assert got["val/loss"].item() == pytest.approx(loss.item(), rel=1e-4)


def test_train_metrics_are_sums_over_the_epoch():
    class Watched(Classifier):
        def on_train_epoch_start(self):
            super().on_train_epoch_start()
            self.seen = []

        def losses(self, out, y):
            losses = super().losses(out, y)
            if self.training:
                self.seen.append((losses.detach(), (out.argmax(1) == y).float()))
            return losses

    trainer, data = fit(model := Watched(net=net, optimizer=adam), epochs=2)
    losses, hits = (torch.cat(part) for part in zip(*model.seen, strict=True))
    assert len(losses) == len(data.split.train)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(losses.mean().item())
    assert trainer.callback_metrics["train/acc"].item() == pytest.approx(hits.mean().item())


def attached(model, source=None):
    """The model with its layers built for the data, without a run."""
    data = DataModule(source or Blobs(), Stratified())
    trainer = Trainer(max_epochs=1, **TRAINER)
    data.trainer = model.trainer = trainer
    trainer._data_connector.attach_datamodule(model, datamodule=data)
    data.setup("fit")
    model.configure_model()
    model.on_train_start()
    return model, data


def test_balanced_class_weights_come_from_the_train_rows():
    model, data = attached(Classifier(net=net, optimizer=adam, class_weights="balanced"))
    counts = np.bincount(data.rows.y[data.split.train])
    assert model.weight.numpy() == pytest.approx(counts.sum() / (3 * counts))


def test_label_smoothing_is_that_of_torch():
    model, _ = attached(Classifier(net=net, optimizer=adam, label_smoothing=0.2))
    out, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    expected = nn.CrossEntropyLoss(label_smoothing=0.2)(out, y)
    assert torch.allclose(model.losses(out, y).mean(), expected)


def test_mixup_mixes_the_loss_of_both_targets():
    model, data = attached(Classifier(net=net, optimizer=adam, augment=[Mixup(1.0)]))
    loader = data.train_dataloader()
    assert loader.x.data_ptr() == data.rows.x.ctypes.data  # shared, not copied
    batch = next(iter(loader))
    loss = model.training_step(batch, 0)
    x = model.normalize(batch.x)
    mixed, weight = augment(x, batch.row, 0, 0, model.augmentations)
    out, targets = model.net(mixed), (batch.y, batch.y.roll(1, 0))
    one, two = (nn.functional.cross_entropy(out, t, reduction="none") for t in targets)
    assert torch.allclose(loss, (weight * one + (1 - weight) * two).mean())


@pytest.mark.parametrize(("model", "task"), [(Classifier, "values"), (Regressor, "classes")])
def test_a_model_of_the_other_task_is_refused(model, task):
    with pytest.raises(ValueError, match=r"set `model` to (Classifier|Regressor), or"):
        attached(model(net=net, optimizer=adam), Blobs(task))


def test_no_val_or_test_row_reaches_the_model():
    model, data = attached(Regressor(net=net, optimizer=adam), Blobs("values"))
    spoiled = Blobs("values")
    rows = spoiled.load()
    held = np.setdiff1d(np.arange(len(rows)), data.split.train)
    rows.x[held], rows.y[held] = 1e30, -1e30
    rows.ids = np.arange(len(rows), dtype=np.uint64)
    rows.published = np.zeros(len(rows), np.int8)
    rows.published[data.split.val], rows.published[data.split.test] = 1, 2
    spoiled.load = lambda signature=None: rows
    other, _ = attached(Regressor(net=net, optimizer=adam), spoiled)
    for name, value in model.named_buffers():
        assert torch.equal(value, dict(other.named_buffers())[name]), name


def test_it_can_memorise_one_batch():
    trainer, _ = fit(Classifier(net=net, optimizer=adam), epochs=300, source=Blobs(n=30))
    assert trainer.callback_metrics["train/loss"] < 0.05


def test_numbers_that_go_wrong_end_the_run():
    def wild(parameters):
        return torch.optim.SGD(parameters, lr=1e30)

    with pytest.raises(FloatingPointError, match=r"val/loss is nan after epoch 0: lower"):
        fit(Classifier(net=net, optimizer=wild))


# --- Optimizers, schedules, precision


class Steps(Callback):
    """Remembers the options of the optimizer at each step."""

    def __init__(self):
        self.options = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.options.append({k: v for k, v in optimizer.param_groups[0].items() if k != "params"})


def train(optimizer, scheduler=None, epochs=1, ckpt_path=None, callbacks=(), **options):
    """280 rows, 4 batches an epoch. Gives the trainer, and the options at each of its steps."""
    torch.manual_seed(0)
    steps = Steps()
    options = {**TRAINER, "max_epochs": epochs, **options}
    trainer = Trainer(callbacks=[steps, *callbacks], **options)
    model = Regressor(net=net, optimizer=optimizer, scheduler=scheduler)
    data = DataModule(Blobs("values"), Stratified(), batch_size=70)
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, steps.options


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.lightning_module.parameters()])


def rates(steps):
    return [options["lr"] for options in steps]


class Save(Callback):
    """Saves a checkpoint at each epoch's end: before or after its validation has ended."""

    def __init__(self, path, amid_epoch):
        self.path, self.amid_epoch = path, amid_epoch

    def on_validation_end(self, trainer, *_):
        if self.amid_epoch:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, *_):
        if not self.amid_epoch:
            trainer.save_checkpoint(self.path)


def saved(tmp_path, optimizer, scheduler=None, epochs=2, amid_epoch=True):
    train(optimizer, scheduler, epochs, callbacks=[Save(tmp_path / "x.ckpt", amid_epoch)])
    return tmp_path / "x.ckpt"


ADAM = partial(torch.optim.AdamW, lr=0.01)
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
SCHEDULES = {
    "none": None,
    "StepLR": partial(lr_scheduler.StepLR, step_size=1, gamma=0.5),
    "CosineAnnealingLR": partial(lr_scheduler.CosineAnnealingLR, T_max=4),
    "OneCycleLR": partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=100),
    "WarmupCosine": partial(WarmupCosine, warmup_frac=0.2),
}


@pytest.mark.parametrize("amid_epoch", [False, True])
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "WarmupCosine"])
def test_a_resumed_run_goes_on_as_if_unbroken(name, amid_epoch, tmp_path):
    unbroken, steps = train(SGD, SCHEDULES[name], 4)
    path = saved(tmp_path, SGD, SCHEDULES[name], amid_epoch=amid_epoch)
    resumed, rest = train(SGD, SCHEDULES[name], 4, path)
    assert rest == steps[8:]
    assert torch.equal(weights(resumed), weights(unbroken))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("before", ["none", "StepLR", "WarmupCosine"])
def test_the_schedule_of_the_config_holds_whatever_the_checkpoint_had(name, before, tmp_path):
    path = saved(tmp_path, SGD, SCHEDULES[before])
    optimizer = partial(torch.optim.SGD, lr=0.02, momentum=0.8, nesterov=True)
    _, steps = train(optimizer, SCHEDULES[name], 4)
    _, rest = train(optimizer, SCHEDULES[name], 4, path)
    assert [o | {"initial_lr": 0} for o in rest] == [o | {"initial_lr": 0} for o in steps[8:]]


def test_another_optimizer_starts_without_the_memory_of_the_first(tmp_path):
    path = saved(tmp_path, ADAM)
    resumed, rest = train(SGD, None, 3, path)
    assert {(o["lr"], o["momentum"]) for o in rest} == {(0.01, 0.9)}
    state = next(iter(resumed.optimizers[0].state.values()))
    assert state.keys() == {"momentum_buffer"}
    kept, _ = train(partial(torch.optim.AdamW, lr=0.0), None, 3, path)
    assert next(iter(kept.optimizers[0].state.values()))["step"] == 12


PLATEAU = partial(lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, threshold=1e9)
PLATEAU = partial(PLATEAU, threshold_mode="abs")  # nothing is better than the first


@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}])
def test_a_plateau_of_val_loss_or_without_val_rows_of_train_loss_lowers_the_rate(options):
    _, steps = train(SGD, PLATEAU, 3, **options)
    assert rates(steps) == [0.01] * 8 + [0.005] * 4  # the first loss is the best so far


def test_a_resumed_plateau_keeps_its_reductions_and_takes_another_rate(tmp_path):
    path = saved(tmp_path, SGD, PLATEAU, epochs=3)
    _, rest = train(partial(SGD, lr=0.1), PLATEAU, 5, path)
    assert rates(rest) == [0.05] * 4 + [0.025] * 4
    again = Save(tmp_path / "again.ckpt", amid_epoch=True)
    train(SGD, PLATEAU, 4, path, [again])
    _, rest = train(partial(SGD, lr=0.1), PLATEAU, 5, again.path)
    assert rates(rest) == [0.05] * 4


def test_a_checkpoint_of_weights_alone_can_be_tested(tmp_path):
    trainer, data = fit(model := Classifier(net=net, optimizer=adam), epochs=1)
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    found = trainer.test(model, data, tmp_path / "x.ckpt", verbose=False, weights_only=True)
    assert found[0]["test/acc"] > 0.5


def test_a_metric_needs_a_direction(monkeypatch):
    monkeypatch.setattr(Regressor, "modes", {"loss": "min", "rmse": "min", "max": "min"})
    said = refused(lambda: fit(Regressor(net=net, optimizer=adam), source=Blobs("targets")))
    assert said == "`modes` of Regressor lacks mae: add it, min if less is better, or max"


def test_lbfgs_gets_its_closure():
    trainer, _ = train(partial(torch.optim.LBFGS, line_search_fn="strong_wolfe"))
    assert trainer.callback_metrics["val/r2"] > 0.9


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_of_a_fused_optimizer_too(precision, algorithm):
    optimizer = partial(torch.optim.SGD, lr=1.0, fused=True)
    before, _ = train(optimizer, limit_train_batches=1, max_steps=0)
    options = {"gradient_clip_algorithm": algorithm, "precision": precision}
    after, _ = train(optimizer, max_steps=1, gradient_clip_val=1e-3, **options)
    change = (weights(after) - weights(before)).abs()
    size = change.norm() if algorithm == "norm" else change.max()
    assert size.item() == pytest.approx(1e-3, rel=1e-3)


def test_accumulated_gradients_are_those_of_the_large_batch():
    optimizer = partial(torch.optim.SGD, lr=0.1)
    small, steps = train(optimizer, accumulate_grad_batches=4)
    torch.manual_seed(0)
    large = Trainer(max_epochs=1, **TRAINER)
    model = Regressor(net=net, optimizer=optimizer)
    large.fit(model, DataModule(Blobs("values"), Stratified(), batch_size=280))
    assert len(steps) == 1
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_come_to_the_same_metrics(precision):
    options = {"label_smoothing": 0.1, "class_weights": "balanced"}
    found = []
    for choice in ("32-true", precision):
        torch.manual_seed(0)
        trainer = Trainer(max_epochs=5, **TRAINER, precision=choice)
        model = Classifier(net=net, optimizer=ADAM, **options)
        trainer.fit(model, DataModule(Blobs(), Stratified(), batch_size=32))
        found.append(trainer.callback_metrics["val/auroc"].item())
    assert found[0] == pytest.approx(found[1], abs=0.05)


def test_a_compiled_net_gives_the_same_numbers(monkeypatch):
    eager = partialmethod(nn.Module.compile, backend="eager", fullgraph=True)  # no C++ compiler
    monkeypatch.setattr(nn.Module, "compile", eager)
    plain, _ = fit(Classifier(net=net, optimizer=adam), epochs=1)
    compiled, _ = fit(model := Classifier(net=net, optimizer=adam, compile=True), epochs=1)
    assert model.net._compiled_call_impl is not None
    assert compiled.callback_metrics == plain.callback_metrics
    assert model.state_dict().keys() == plain.lightning_module.state_dict().keys()
