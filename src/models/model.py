"""What every model shares: raw rows in, a loss for each row out, metrics once an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.data.batches import Batch
from src.data.module import DataModule
from src.data.rows import Signature
from src.models.augment import Augmentation, augment, check
from src.models.schedules import WarmupCosine
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
            `torch.optim.lr_scheduler`, which steps once an epoch.
        augment: Random changes of training batches, applied in this order.
        compile: Whether `torch.compile` compiles the net.
    """

    net: Net
    sums: Tensor

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
        self.num_seen = 0  # train rows of this epoch

    def configure_model(self) -> None:
        """Builds the layers, whose sizes and statistics come from the data."""
        if "net" in self._modules:
            return
        data: DataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        signature, self.seed = data.signature, data.seed
        if self.trainer.precision in ("16-true", "bf16-true"):
            raise ValueError(
                f"`trainer.precision` {self.trainer.precision} would round raw rows: use "
                f"{self.trainer.precision.replace('true', 'mixed')}"
            )
        check(self.augmentations, signature.in_shape, signature.num_categories)
        self.normalize = Normalize(signature.in_shape)
        if data.rows is not None:
            self.normalize.set(data.statistics.mean, data.statistics.std)
        self.net = self.make_net(signature.in_shape, signature.out_dim, signature.num_categories)
        self.build(signature, data)
        self.register_buffer("sums", torch.zeros(2), persistent=False)
        if self.compiles:
            self.net.compile()

    def build(self, signature: Signature, data: DataModule) -> None:
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

    def scores(self, out: Tensor) -> Tensor:
        """Probabilities, or values in their original units: `(B, out_dim) -> (B, out_dim)`."""
        raise NotImplementedError

    def metrics(self, results: Results) -> dict[str, Tensor]:
        """Metrics of a whole split by name; one value each."""
        raise NotImplementedError

    def running(self, mean_hit: Tensor) -> dict[str, Tensor]:
        """The metric of the train split by name, from the mean of `hits`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Raw rows to logits, or to scaled values: `(B, *in_shape) -> (B, out_dim)`."""
        out: Tensor = self.net(self.normalize(x))
        return out

    def step(self, batch: Batch, split: str) -> Tensor | None:
        """One batch of any split; its mean loss in training."""
        if split != "train":
            self._parts.append((self(batch.x), batch.y, batch.row))
            return None
        x, y, row = batch
        assert y is not None
        x, mix = augment(self.normalize(x), row, self.seed, self.current_epoch, self.augmentations)
        out = self.net(x)
        losses = self.losses(out, y)
        if mix is not None:
            partner, weight = mix
            losses = self.losses(out, y[partner]).lerp(losses, weight)
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
        self.sums.zero_()
        self.num_seen = 0

    def on_train_epoch_end(self) -> None:
        totals = torch.cat((self.sums, self.sums.new_tensor([self.num_seen])))
        loss, hit, seen = self.trainer.strategy.reduce(totals, reduce_op="sum").cpu()
        self._log("train", {"loss": loss / seen, **self.running(hit / seen)})

    def on_validation_epoch_end(self) -> None:
        self._evaluate("val")

    def on_test_epoch_end(self) -> None:
        self._evaluate("test")

    def on_predict_epoch_end(self) -> None:
        out, y, row = self._gather()
        self.results["predict"] = Results(self.scores(out).cpu(), y, row)

    def _evaluate(self, split: str) -> None:
        out, y, row = self._gather()
        assert y is not None
        self.results[split] = Results(self.scores(out).cpu(), y, row)
        loss = self.losses(out, y.to(out.device)).mean().cpu()
        self._log(split, {"loss": loss, **self.metrics(self.results[split])})

    def _gather(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """All ranks' outputs in the order of the rows, so that every rank computes the same."""
        parts, self._parts = self._parts, []
        if self.trainer.world_size > 1:
            ranks: list[Any] = [None] * self.trainer.world_size
            dist.all_gather_object(
                ranks, [move_data_to_device(p, torch.device("cpu")) for p in parts]
            )
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

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self._optimizer(self.parameters())
        if self.make_scheduler is None:
            return optimizer
        try:
            scheduler = self.make_scheduler(optimizer)
            if isinstance(scheduler, WarmupCosine):
                scheduler.plan(self.trainer.estimated_stepping_batches)
        except (ValueError, TypeError) as e:
            raise ValueError(f"`model.scheduler`: {e}") from e
        interval = getattr(scheduler, "interval", "epoch")
        how = {"scheduler": scheduler, "interval": interval, "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": how}  # type: ignore[return-value]

    def _optimizer(self, parameters: Iterable) -> Optimizer:
        try:
            return self.make_optimizer(parameters)
        except (ValueError, TypeError, RuntimeError) as e:
            raise ValueError(f"`model.optimizer`: {e}") from e

    def _optimization(self, optimizer: Optimizer) -> dict[str, Any]:
        names = {"optimizer": type(optimizer).__name__, "scheduler": repr(self.make_scheduler)}
        return {**names, **optimizer.defaults}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.optimizers:
            checkpoint["optimization"] = self._optimization(self.trainer.optimizers[0])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a config or a flag changed of the optimizer since the checkpoint holds from now on.

        Lightning would restore the old learning rate, weight decay and so on.
        """
        old = checkpoint["optimization"]
        new = self._optimization(self._optimizer([nn.Parameter(torch.zeros(1))]))
        if old["optimizer"] != new["optimizer"]:
            checkpoint["optimizer_states"] = checkpoint["lr_schedulers"] = []
            return
        ratio = new["lr"] / old["lr"]
        for group in (g for state in checkpoint["optimizer_states"] for g in state["param_groups"]):
            rates = {k: group[k] * ratio for k in ("lr", "initial_lr") if k in group}
            changed = {k: v for k, v in new.items() if k in group and v != old.get(k)}
            group |= {**changed, **rates}
        for schedule in checkpoint["lr_schedulers"]:
            for k in {"base_lrs", "_last_lr"} & schedule.keys():
                schedule[k] = [lr * ratio for lr in schedule[k]]
