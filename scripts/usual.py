"""What the benchmark compares with: Lightning with nothing but a step, and as most use it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from scripts.bare import BATCH_SIZE, Clock, load, mlp, scale


class Batches:
    """Whole batches of a tensor."""

    def __init__(self, x: Tensor, y: Tensor, clock: Clock) -> None:
        self.x, self.y, self.clock = x, y, clock

    def __len__(self) -> int:
        return -(-len(self.x) // BATCH_SIZE)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for row in self.clock(torch.randperm(len(self.x)).split(BATCH_SIZE)):
            yield self.x[row], self.y[row]


class Step(L.LightningModule):
    """Nothing but a step."""

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.net, self.mean, self.std = net, mean, std

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net((x.float() - self.mean) / self.std), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), fused=True)


def bare_lightning(x: Tensor, y: Tensor, net: nn.Module, clock: Clock, num_epochs: int) -> None:
    """Lightning with all of its extras off, and whole batches."""
    L.Trainer(
        accelerator="cpu",
        max_epochs=num_epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Step(net, *scale(x)), Batches(x, y, clock))


class RowByRow(Dataset):
    """One image at a time, by way of Pillow, as torchvision's MNIST, ToTensor and Normalize do.

    With `changes` it is flipped and shifted, as by RandomHorizontalFlip and RandomCrop.
    """

    def __init__(self, x: Tensor, y: Tensor, changes: bool = False) -> None:
        self.x, self.y, self.changes = x, y, changes
        self.mean, self.std = (values / 255 for values in scale(x))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.x[row].permute(1, 2, 0).squeeze(-1).numpy())
        if self.changes:
            if torch.rand(1) < 0.5:
                picture = ImageOps.mirror(picture)
            width, height = picture.size
            left, top = torch.randint(0, 9, (2,)).tolist()
            whole = ImageOps.expand(picture, 4)
            picture = whole.crop((left, top, left + width, top + height))
        pixels = torch.from_numpy(np.array(picture, copy=True)).view(*self.x.shape[2:], -1)
        image = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean, std = torch.as_tensor(self.mean), torch.as_tensor(self.std)
        return image.clone().sub_(mean).div_(std), int(self.y[row])


class Usual(L.LightningModule):
    """Objects of torchmetrics, logged in each step."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        for split in ("train", "val"):
            setattr(self, f"{split}_loss", MeanMetric())
            setattr(self, f"{split}_acc", MulticlassAccuracy(10))

    def step(self, batch: Any, split: str) -> Tensor:
        x, y = batch
        out = self.net(x)
        loss = F.cross_entropy(out, y)
        mean, accuracy = getattr(self, f"{split}_loss"), getattr(self, f"{split}_acc")
        mean(loss)
        accuracy(out, y)
        self.log(f"{split}/loss", mean, on_step=False, on_epoch=True, prog_bar=True)
        self.log(f"{split}/acc", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def training_step(self, batch: Any) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: Any) -> None:
        self.step(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


def usual_lightning(
    x: Tensor,
    y: Tensor,
    net: nn.Module,
    clock: Clock,
    num_epochs: int,
    num_val: int = 0,
    size: int = BATCH_SIZE,
    accelerator: str = "cpu",
    changes: bool = False,
) -> None:
    """A DataLoader of rows, metrics that are objects, a CSV, a checkpoint, a progress bar."""

    class Clocked(DataLoader):
        def __iter__(self) -> Any:
            return clock(super().__iter__())

    val = DataLoader(RowByRow(x[:num_val], y[:num_val]), size) if num_val else None
    with TemporaryDirectory() as folder:
        L.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=num_epochs,
            default_root_dir=folder,
            logger=CSVLogger(folder),
            callbacks=[ModelCheckpoint(Path(folder), monitor="val/loss" if val else None)],
            num_sanity_val_steps=0,
            enable_model_summary=False,
        ).fit(Usual(net), Clocked(RowByRow(x, y, changes), size, shuffle=True), val)


class Stopwatch(Callback):
    """Notes how long each test takes."""

    seconds: list[float] = []

    def on_test_start(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def on_test_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)


if __name__ == "__main__":  # python -m scripts.usual FILE EPOCHS ROWS_OF_VAL
    usual_lightning(*load(Path(sys.argv[1])), mlp(), iter, int(sys.argv[2]), int(sys.argv[3]))
