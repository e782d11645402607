"""What every model shares: raw rows in, a loss for each row out, metrics once an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.data.batches import Batch
from src.data.module import DataModule
from src.models.augment import Augmentation, augment, check
from src.models.schedules import PER_STEP, WarmupCosine, resume
from src.nets.net import Net
from src.nets.normalize import Normalize

NetCallable = Callable[[tuple[int, ...], int, tuple[int, ...]], Net]
OptimizerCallable = Callable[[Iterable], Optimizer]
SchedulerCallable = Callable[[Optimizer], LRScheduler]


class Results(NamedTuple):
    """What a model said of a whole split, on the CPU, in the order of the rows.

    Args:
        scores: `(N, K)` probabilities of the classes, or `(N, K)` values in their original units.
        y: `(N,)` int64 classes, or `(N, K)` values in their original units; `None` for new rows.
        row: `(N,)` int64 number of each row in the source.
    """

    scores: Tensor
    y: Tensor | None
    row: Tensor


class Model(L.LightningModule):
    """Normalize and a net, trained by a loss.

    Args:
        net: The net; `python -m src list` names the nets. Its input and output sizes come from the
            data.
        optimizer: An optimizer of `torch.optim`.
        scheduler: A schedule of the learning rate: `WarmupCosine`, or one of
            `torch.optim.lr_scheduler`, which steps once an epoch (OneCycleLR and CyclicLR: once a
            step).
        augment: Random changes of training batches, applied in this order.
        compile: Whether `torch.compile` compiles the net.
    """

    net: Net

    def __init__(
        self,
        net: NetCallable,
        optimizer: OptimizerCallable,
        scheduler: SchedulerCallable | None = None,
        augment: list[Augmentation] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.make_net, self.make_optimizer, self.make_scheduler = net, optimizer, scheduler
        self.augmentations, self.compiles = augment or [], compile
        self.results: dict[str, Results] = {}
        self._parts: list[tuple[Tensor, Tensor | None, Tensor]] = []
        self.sums = torch.zeros(2)  # no buffer: of these, each rank has its own
        self.num_seen = 0  # train rows of this epoch

    def configure_model(self) -> None:
        """Builds the layers, whose sizes and statistics come from the data."""
        if "net" in self._modules:
            return
        precision, strategy = self.trainer.precision, self.trainer.strategy
        if precision in ("16-true", "bf16-true") or (
            isinstance(strategy, FSDPStrategy) and "16" in precision
        ):
            raise ValueError(
                f"`trainer.precision` {precision} would round raw rows: use 32-true, or a mixed "
                "one without fsdp"
            )
        data: DataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        self.seed, shape = data.seed, data.signature.in_shape
        check(self.augmentations, shape, data.signature.num_categories)
        self.normalize = Normalize(shape, data.statistics.mean, data.statistics.std)
        self.net = self.make_net(shape, data.signature.out_dim, data.signature.num_categories)
        self.build(data)
        if self.compiles:
            self.net.compile()

    def build(self, data: DataModule) -> None:
        """Builds what the loss needs from the data.

        Raises:
            ValueError: The data is of another task.
        """

    def losses(self, out: Tensor, y: Tensor) -> Tensor:
        """Loss of each row: `(B, out_dim), y -> (B,)`."""
        raise NotImplementedError

    def hits(self, out: Tensor, y: Tensor) -> Tensor:
        """What the running metric of the train split sums: `(B, out_dim), y -> (B,)`."""
        raise NotImplementedError

    def running(self, mean_hit: Tensor) -> dict[str, Tensor]:
        """The metric of the train split by name, from the mean of `hits`."""
        raise NotImplementedError

    def scores(self, out: Tensor) -> Tensor:
        """Probabilities, or values in their original units: `(B, out_dim) -> (B, out_dim)`."""
        raise NotImplementedError

    def metrics(self, scores: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Metrics of a whole split by name; one value each."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Raw rows to logits, or to scaled values: `(B, *in_shape) -> (B, out_dim)`."""
        out: Tensor = self.net(self.normalize(x))
        return out

    def step(self, batch: Batch, split: str) -> Tensor | None:
        """One batch of any split; its mean loss in training."""
        x, y, row = batch
        if split != "train":
            self._parts.append((self(x), y, row))
            return None
        assert y is not None
        x, weights = augment(
            self.normalize(x), row, self.seed, self.current_epoch, self.augmentations
        )
        out = self.net(x)
        losses = self.losses(out, y)
        if weights is not None:
            losses = self.losses(out, y.roll(1, 0)).lerp(losses, weights)
        with torch.no_grad():
            self.sums += torch.stack((losses.sum(), self.hits(out, y).sum()))
        self.num_seen += len(y)
        return losses.mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self.step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self.step(batch, "predict")

    def on_train_epoch_start(self) -> None:
        self.sums = torch.zeros(2, device=self.device)
        self.num_seen = 0

    def on_train_epoch_end(self) -> None:
        totals = torch.tensor([*self.sums, self.num_seen], device=self.device)
        loss, hit, seen = self.trainer.strategy.reduce(totals, reduce_op="sum").cpu()
        if seen:  # a run may be gone on with after an epoch's last batch
            self._log("train", {"loss": loss / seen, **self.running(hit / seen)})

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    def on_predict_epoch_end(self) -> None:
        self._finish("predict")

    def _finish(self, split: str) -> None:
        out, y, row = self._gather()
        scores = self.scores(out).cpu()
        self.results[split] = Results(scores, y, row)
        if split != "predict":
            assert y is not None
            loss = self.losses(out, y.to(out.device)).mean().cpu()
            self._log(split, {"loss": loss, **self.metrics(scores, y)})

    def _gather(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """All ranks' outputs in the order of the rows, so that every rank computes the same."""
        parts, self._parts = self._parts, []
        if self.trainer.world_size > 1:
            ranks: list[Any] = [None] * self.trainer.world_size
            dist.all_gather_object(ranks, move_data_to_device(parts, torch.device("cpu")))
            parts = [part for rank in ranks for part in rank]
        outs, ys, rows = zip(*parts, strict=True)
        row = torch.cat(rows).cpu()
        order = row.argsort()
        y = None if ys[0] is None else torch.cat(ys).cpu()[order]
        return torch.cat(outs).float().to(self.device)[order.to(self.device)], y, row[order]

    def _log(self, split: str, values: dict[str, Tensor]) -> None:
        if not torch.isfinite(values["loss"]):
            raise FloatingPointError(
                f"{split}/loss is {values['loss']:g} after epoch {self.current_epoch}: lower "
                "`model.optimizer.lr`, or clip with `trainer.gradient_clip_val`"
            )
        self.log_dict({f"{split}/{name}": value for name, value in values.items()})

    def _optimization(self, parameters: Iterable) -> tuple[Optimizer, LRScheduler | None]:
        """What the config says of optimizer and schedule."""
        optimizer = self.make_optimizer(parameters)
        return optimizer, self.make_scheduler(optimizer) if self.make_scheduler else None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, scheduler = self._optimization(self.parameters())
        # A fused optimizer would unscale gradients itself, and Lightning not clip them before that.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        if scheduler is None:
            return optimizer
        interval = "step" if isinstance(scheduler, PER_STEP) else "epoch"
        how = {"scheduler": scheduler, "interval": interval, "strict": False}
        if isinstance(scheduler, WarmupCosine):
            scheduler.plan(self.trainer.estimated_stepping_batches)
        data: DataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        validates = self.trainer.limit_val_batches and len(data.split.val)
        how["monitor"] = "val/loss" if validates else "train/loss"  # of ReduceLROnPlateau
        return {"optimizer": optimizer, "lr_scheduler": how}  # type: ignore[return-value]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for optimizer in self.trainer.optimizers:
            checkpoint["optimizer"] = type(optimizer).__name__, optimizer.defaults["lr"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the optimizer's memory and the place in the schedule; the config says the rest.

        Lightning would restore the old learning rate, weight decay and so on.
        """
        if self.trainer.state.fn != "fit":
            return
        optimizer, scheduler = self._optimization([nn.Parameter(torch.zeros(1, 1))])
        checkpoint["lr_schedulers"] = [resume(scheduler, checkpoint)] if scheduler else []
        [options], [state] = optimizer.param_groups, checkpoint["optimizer_states"]
        state["param_groups"][0] |= {**options, "params": state["param_groups"][0]["params"]}
        if checkpoint["optimizer"][0] != type(optimizer).__name__:
            state["state"] = {}
