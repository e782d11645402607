import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import f1_score, r2_score, roc_auc_score
from torch import nn

from src.data.module import DataModule
from src.data.partition import Stratified
from src.data.rows import Rows, Signature, Source
from src.models import Classifier, Regressor
from src.models.augment import Mixup, augment
from src.nets import MLP

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
    auroc = roc_auc_score(y, scores, multi_class="ovr", average="macro")
    assert got["val/auroc"].item() == pytest.approx(auroc, abs=1e-6)
    loss = nn.functional.nll_loss(scores.log(), y)
    assert got["val/loss"].item() == pytest.approx(loss.item(), abs=1e-5)


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
    batch = next(iter(data.train_dataloader()))
    loss = model.training_step(batch, 0)
    x = model.normalize(batch.x)
    mixed, (partner, weight) = augment(x, batch.row, 0, 0, model.augmentations)
    out = model.net(mixed)
    one, two = (
        nn.functional.cross_entropy(out, t, reduction="none") for t in (batch.y, batch.y[partner])
    )
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
