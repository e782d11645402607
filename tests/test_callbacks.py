"""What a run prints, logs and draws, with a model and data of a few rows."""

import csv
import io
import re
import sys
import time
from types import SimpleNamespace
from typing import NamedTuple

import lightning.pytorch as L
import matplotlib
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from sklearn.metrics import confusion_matrix

from src.callbacks import Monitor, Report, monitor, plots
from src.callbacks.report import read_history
from src.data.rows import Rows, Signature
from src.tracking import MetricsCsv

NOISE = (
    "ignore:.*does not have many workers",
    "ignore:.*number of training batches",
    "ignore:.*GPU available",
    "ignore:.*TPU",
    "ignore:.*isinstance.treespec, LeafSpec",
    "ignore:.*lr_scheduler.step",
)
pytestmark = [pytest.mark.filterwarnings(line) for line in NOISE]


class Results(NamedTuple):
    scores: torch.Tensor
    y: torch.Tensor
    row: torch.Tensor


class Batches:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


class Data(L.LightningDataModule):
    """Twelve rows: eight to train on, in batches of two; the last four are val and test."""

    def __init__(self, signature, x, y):
        super().__init__()
        self.signature, self.rows = signature, Rows(x, y, signature)
        self.names = [f"row{i}" for i in range(len(x))]
        self.split = SimpleNamespace(report={"fingerprint": "f00d"})

    def batches(self, *rows):
        x, y = torch.as_tensor(self.rows.x).float().flatten(1), torch.as_tensor(self.rows.y)
        return Batches([(x[i : i + 2], y[i : i + 2]) for i in rows])

    def train_dataloader(self):
        return self.batches(0, 2, 4, 6)

    def val_dataloader(self):
        return self.batches(8, 10)

    test_dataloader = val_dataloader


class Model(L.LightningModule):
    def __init__(self, data, scores=None, slow_val=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(int(np.prod(data.signature.in_shape)), data.signature.out_dim)
        self.given, self.slow_val, self.norms, self.results = scores, slow_val, [], {}
        self.sums = SimpleNamespace(num_rows=8)

    def training_step(self, batch, i):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, i):
        time.sleep(self.slow_val)

    def test_step(self, batch, i):
        pass

    def on_before_optimizer_step(self, optimizer):
        grads = [p.grad.flatten() for p in self.parameters()]
        self.norms.append(torch.cat(grads).double().norm().item())

    def on_train_epoch_end(self):
        self.log_dict({"train/loss": 1.0 + self.current_epoch, "train/acc": 0.25})

    def evaluate(self, split):
        epoch = self.current_epoch
        self.log_dict(
            {f"{split}/loss": abs(epoch - 1) + 0.5, f"{split}/acc": 0.5, f"{split}/f1": 1.0}
        )
        if self.given is not None:
            y = torch.as_tensor(self.trainer.datamodule.rows.y)[8:]
            self.results[split] = Results(self.given, y, torch.arange(8, 12))

    def on_validation_epoch_end(self):
        self.evaluate("val")

    def on_test_epoch_end(self):
        self.evaluate("test")

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class Watcher(MetricsCsv):
    """Also takes down what it is shown."""

    def __init__(self):
        super().__init__()
        self.config, self.summary, self.images, self.tables = {}, {}, {}, {}

    def log_config(self, config):
        self.config |= config

    def log_summary(self, values):
        self.summary |= values

    def log_image(self, key, images):
        self.images[key] = images

    def log_table(self, key, columns, data):
        self.tables[key] = [columns, *data]


def vectors(targets=()):
    signature = Signature(
        (3,), "float32", () if targets else ("no", "yes"), targets or ("y",),
        ("size", "colour", "age"), {"colour": ("blue", "red")},
    )  # fmt: skip
    x = np.arange(36, dtype=np.float32).reshape(12, 3) / 10
    x[:, 1] = np.arange(12) % 3
    y = np.arange(12) % 2 if not targets else np.arange(24, dtype=np.float32).reshape(12, 2)
    return Data(signature, x, y)


def trainer(folder, *callbacks, **options):
    logger = Watcher()
    logger.run_dir = folder
    plain = {"accelerator": "cpu", "enable_model_summary": False, "num_sanity_val_steps": 0,
             "enable_progress_bar": False}  # fmt: skip
    options = {"max_epochs": 3, "logger": logger, "enable_checkpointing": False, **plain, **options}
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **options)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_monitor_prints_one_line_an_epoch(tmp_path, capsys):
    data = vectors()
    fitting = trainer(tmp_path, Monitor(), check_val_every_n_epoch=2)
    fitting.fit(Model(data), datamodule=data)
    fitting.test(Model(data), datamodule=data, verbose=False)
    out, err = capsys.readouterr()
    rate, train = r"[\d,]+ rows/s  \d+\.\d s", "train/acc 0.25"
    assert re.fullmatch(
        rf"epoch 1/3  train/loss 1  {train}  {rate}\n"
        rf"epoch 2/3  train/loss 2  {train}  val/loss 0.5  val/acc 0.5  {rate}\n"
        rf"epoch 3/3  train/loss 3  {train}  {rate}\n",
        out,
    )
    assert "\r" not in err


def test_monitor_shows_a_bar_in_a_terminal_and_leaves_only_the_lines(tmp_path, capsys, monkeypatch):
    data = vectors()
    monkeypatch.setattr(sys, "stderr", Terminal())
    fitting = trainer(tmp_path, Monitor(), max_epochs=2)
    fitting.fit(Model(data, slow_val=0.11), datamodule=data)
    shown = sys.stderr.getvalue()
    assert "epoch 2/2:" in shown
    assert "fit" not in shown  # beside which the run would print
    assert re.search("[56]/6", shown)  # batches of train and val
    assert shown.endswith("\r")  # cleared
    assert capsys.readouterr().out.count("\n") == 2


def test_monitor_clears_its_bar_before_an_error(tmp_path, monkeypatch):
    def broken(self, batch, i):
        raise FloatingPointError("loss is nan")

    data, model = vectors(), Model(vectors())
    monkeypatch.setattr(Model, "validation_step", broken)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(FloatingPointError):
        trainer(tmp_path, Monitor()).fit(model, datamodule=data)
    assert sys.stderr.getvalue().endswith("\r")


def test_monitor_is_silent_if_asked(tmp_path, capsys):
    data = vectors()
    trainer(tmp_path, Monitor(show=False), max_epochs=1).fit(Model(data), datamodule=data)
    assert capsys.readouterr().out == ""


def history(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_monitor_logs_rate_gradient_and_speed(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "EVERY_N_STEPS", 2)
    data = vectors()
    model = Model(data, slow_val=0.1)
    fitting = trainer(tmp_path, Monitor(), gradient_clip_val=1e-3)
    fitting.fit(model, datamodule=data)
    rows = history(tmp_path)
    assert [float(row["lr"]) for row in rows] == [0.5, 0.25, 0.125]
    expected = [np.mean(model.norms[i : i + 4 : 2]) for i in (0, 4, 8)]
    assert [float(row["grad_norm"]) for row in rows] == pytest.approx(expected, rel=1e-6)
    assert min(expected) > 1e-3  # before clipping
    assert all(float(row["samples_per_s"]) > 8 / 0.2 for row in rows)  # without the slow val


def test_monitor_asks_fsdp_for_the_norm_of_all_shards(tmp_path, monkeypatch):
    data = vectors()
    model = Model(data)
    model.clip_grad_norm_ = lambda most: torch.tensor(3.0) if most == np.inf else None
    trainer(tmp_path, Monitor(), max_epochs=1).fit(model, datamodule=data)
    assert float(history(tmp_path)[0]["grad_norm"]) == 3


def test_history_of_a_resumed_run_has_what_was_logged_last(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,step,lr,val/loss,train/loss,test/acc\n"
        "0,9,0.1,3,4,\n1,19,,2,3,\n2,29,,1,,\n2,30,,,,0.8\n1,19,,2.5,3.5,\n2,29,,nan,,\n3,30,,,,0.9\n"
    )
    first, second, third = read_history(path)
    assert first == {"epoch": 0, "step": 9, "lr": 0.1, "val/loss": 3, "train/loss": 4}
    assert second == {"epoch": 1, "step": 19, "val/loss": 2.5, "train/loss": 3.5}
    assert np.isnan(third["val/loss"])
    assert third["step"] == 29


SCORES = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])


def report(tmp_path, data, scores):
    checkpoint = ModelCheckpoint(tmp_path, "best", monitor="val/loss")
    fitting = trainer(tmp_path, Report(), checkpoint, enable_checkpointing=True)
    model = Model(data, scores)
    before = dict(matplotlib.rcParams)
    fitting.fit(model, datamodule=data)
    fitting.test(model, datamodule=data, verbose=False)
    assert dict(matplotlib.rcParams) == before
    for picture in (tmp_path / "plots").glob("*.png"):
        with Image.open(picture) as image:
            assert image.convert("L").getextrema()[0] < 100  # something is drawn
    return fitting.logger, sorted(path.name for path in (tmp_path / "plots").iterdir())


def test_report_of_a_classifier_of_a_table(tmp_path, monkeypatch, capsys):
    seen = {}
    real = plots.confusion
    monkeypatch.setattr(plots, "confusion", lambda *a: (seen.update({a[3].name: a[0]}), real(*a)))
    logger, files = report(tmp_path, vectors(), SCORES)
    assert files == [
        "confusion_test.png", "confusion_val.png", "curves.png", "mistakes_test.csv",
        "mistakes_val.csv",
    ]  # fmt: skip
    expected = confusion_matrix([0, 1, 0, 1], SCORES.argmax(1))
    assert expected.tolist() == [[1, 1], [1, 1]]
    assert np.array_equal(seen["confusion_val.png"], expected)
    assert (tmp_path / "plots" / "mistakes_val.csv").read_text().splitlines() == [
        "row,true,predicted,probability,size,colour,age",
        "row10,no,yes,0.8,3.0,blue,3.2",
        "row9,yes,no,0.6,2.7,,2.9",
    ]
    assert logger.summary == {
        "best/epoch": 1, "best/step": 7, "best/train/loss": 2, "best/train/acc": 0.25,
        "best/val/loss": 0.5, "best/val/acc": 0.5, "best/val/f1": 1,
    }  # fmt: skip
    assert logger.images.keys() == {"val/confusion", "test/confusion"}
    assert logger.tables["test/confusion_table"][0] == ["true", "predicted", "rows"]
    assert logger.tables["test/confusion_table"][1] == ["no", "no", 1]
    assert logger.tables["val/mistakes_table"][1] == ["row10", "no", "yes", 0.8, 3.0, "blue", 3.2]
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (2, 20)])
def test_report_draws_mistaken_images_and_signals(shape, tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 17, (12, *shape)).astype(np.uint8)
    data = Data(Signature(shape, "uint8", ("no", "yes")), x, np.arange(12) % 2)
    logger, files = report(tmp_path, data, SCORES)
    assert {"mistakes_val.png", "mistakes_test.png"} <= {*files}
    assert (tmp_path / "plots" / "mistakes_val.csv").read_text().splitlines()[0] == (
        "row,true,predicted,probability"
    )
    assert logger.images["val/mistakes"] == [str(tmp_path / "plots" / "mistakes_val.png")]
    assert "warning" not in capsys.readouterr().err


def test_report_without_a_mistake(tmp_path, capsys):
    _, files = report(tmp_path, vectors(), SCORES[[0, 2, 1, 3]])
    assert (tmp_path / "plots" / "mistakes_val.csv").read_text().count("\n") == 1
    assert "curves.png" in files
    assert "warning" not in capsys.readouterr().err


def test_report_of_a_regressor(tmp_path, capsys):
    data = vectors(("a", "b"))
    scores = torch.as_tensor(data.rows.y)[8:] + torch.tensor([[1.0, 0], [0, -4], [0, 0], [3, 3]])
    logger, files = report(tmp_path, data, scores)
    assert {"predicted_val.png", "predicted_test.png"} <= {*files}
    rows = logger.tables["val/mistakes_table"]
    assert rows[0][:4] == ["row", "true", "predicted", "error"]
    assert [row[0] for row in rows[1:]] == ["row11", "row9", "row8"]  # row10 is no mistake
    assert rows[1][1:4] == ["22, 23", "25, 26", 3.0]
    assert "warning" not in capsys.readouterr().err


def test_report_that_can_not_draw_costs_one_line(tmp_path, capsys):
    (tmp_path / "plots").write_text("a file where the folder should be")
    data = vectors()
    trainer(tmp_path, Report(), max_epochs=1).fit(Model(data, SCORES), datamodule=data)
    err = capsys.readouterr().err
    assert re.search(r"^warning: no plots of val: FileExistsError", err, re.M)


def test_report_of_no_results_and_no_logger_is_no_report(tmp_path, capsys):
    data = vectors()
    trainer(tmp_path, Report(), max_epochs=1, logger=False).fit(Model(data), datamodule=data)
    assert list((tmp_path / "plots").iterdir()) == []
    assert "warning" not in capsys.readouterr().err


def test_confusion_of_many_classes_stays_small(tmp_path):
    for num_classes in (2, plots.MOST_LABELS + 1):
        names = [f"class {i}" for i in range(num_classes)]
        plots.confusion(np.eye(num_classes, dtype=int), names, "", tmp_path / "confusion.png")
        with Image.open(tmp_path / "confusion.png") as image:
            assert 500 < image.width < 2200


def test_confusion_has_room_for_long_names(tmp_path):
    for length in (20, 40):
        names = ["W" * length, "no"]
        plots.confusion(np.eye(2, dtype=int), names, "", tmp_path / f"{length}.png")
    with Image.open(tmp_path / "20.png") as short, Image.open(tmp_path / "40.png") as long:
        letters = 20 * 0.989 * 10 / 72 * plots.DPI  # DejaVu's W is 0.989 of the size wide
        assert long.width - short.width == pytest.approx(letters, abs=5)
        assert long.height - short.height == pytest.approx(letters, abs=5)
