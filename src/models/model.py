"""What every model shares: raw rows in, a loss for each row out, metrics once an epoch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, ClassVar, Literal, Self

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.checkpoint import checkpoint

from src.data.batches import Batch
from src.data.module import DataModule
from src.models import transfer
from src.models.augment import Augmentation, augment, check
from src.models.schedules import PER_STEP, WarmupCosine, resume
from src.nets.net import Net
from src.nets.normalize import Normalize


class Sums:
    """Of the train rows of an epoch; no buffers, as each rank has its own."""

    def __init__(self, device: torch.device) -> None:
        self.loss, self.hits = torch.zeros(2, device=device)
        self.num_rows = 0


class Model(L.LightningModule):
    """Normalize and a net, trained by a loss.

    `results` holds, for each evaluated split, on the CPU and in the order of the rows: `(N, K)`
    probabilities of the classes, or values in their original units; `y` alike; `(N,)` int64 number
    of each row in the source.

    Args:
        net: The net; `python -m src list` names the nets. Its input and output sizes come from the
            data.
        optimizer: An optimizer of `torch.optim`.
        scheduler: A schedule of the learning rate: `WarmupCosine`, or one of
            `torch.optim.lr_scheduler`, which steps once an epoch (OneCycleLR and CyclicLR: once a
            step).
        augment: Random changes of training batches, applied in this order.
        compile: Whether `torch.compile` compiles the net; a mode of its own, too: `reduce-overhead`
            replays CUDA graphs, which spares a small net on a GPU most of its launches.
        init_from: Checkpoint whose net this one starts from, where name and shape are the same.
        freeze: What of the net is not trained, by name: `[stages.0, "*.bias"]`, say.
    """

    # What a subclass adds:
    build: Callable[[DataModule], None]  # what the loss needs of the data; ValueError: none such
    losses: Callable[[Tensor, Tensor], Tensor]  # of each row: `(B, out_dim), y -> (B,)`
    hits: Callable[[Tensor, Tensor], Tensor]  # what `running` needs of each row: `-> (B,)`
    running: Callable[[Tensor], dict[str, Tensor]]  # train metric by name, of the mean of `hits`
    scores: Callable[[Tensor], Tensor]  # probabilities or original units, `(B, out_dim)` both
    metrics: Callable[[Tensor, Tensor], dict[str, Tensor]]  # scores, y of a split -> by name; of
    # several models at once where scores are `(num_models, N, out_dim)`
    modes: ClassVar[dict[str, str]] = {"loss": "min"}  # of each metric: is the least the best?

    def __init__(
        self,
        net: Callable[[tuple[int, ...], int, tuple[int, ...]], Net],
        optimizer: Callable[[Iterable], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        augment: list[Augmentation] | None = None,
        compile: bool | Literal["reduce-overhead", "max-autotune"] = False,
        init_from: str | None = None,
        freeze: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.make_net, self.make_optimizer, self.make_scheduler = net, optimizer, scheduler
        self.augmentations, self.compiles = augment or [], compile
        self.init_from, self.frozen_names = init_from, freeze
        self.starts_from: dict[str, Any] = {}  # that checkpoint, unless the run goes on
        self.frozen: list[nn.Module] = []  # layers
        self.results: dict[str, tuple[Tensor, Tensor | None, Tensor]] = {}
        self.outputs: list[tuple[Tensor, Tensor | None, Tensor]] = []  # of a split's batches
        self.num_parts = 1  # of a batch, where memory has no room for it
        self.old_schedules: list[dict[str, Any]] = []  # states in the checkpoint

    def configure_model(self) -> None:
        """Builds the layers, whose sizes and statistics come from the data."""
        if hasattr(self, "net"):
            return
        if self.trainer.precision_plugin.convert_input(torch.ones(1)).dtype.itemsize < 4:
            raise ValueError(
                f"`trainer.precision` {self.trainer.precision} would round raw rows: use 32-true, "
                "or a mixed one without fsdp"
            )
        data: DataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        self.seed, shape = data.seed, data.signature.in_shape
        check(self.augmentations, shape, data.signature.num_categories)
        self.normalize = Normalize(shape, data.statistics.mean, data.statistics.std)
        with torch.device("cpu"):  # so that a seed gives the same weights on every device
            self.net = self.make_net(shape, data.signature.out_dim, data.signature.num_categories)
        self.build(data)
        if self.starts_from:
            transfer.take(self.net, str(self.init_from), self.starts_from, data.signature)
        self.frozen = transfer.freeze(self.net, self.frozen_names)
        self.train(self.training)
        if self.device_mesh:  # of ModelParallelStrategy
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            every = init_device_mesh(self.device_mesh.device_type, (dist.get_world_size(),))
            fully_shard(self.net, mesh=every)
            self.net.register_forward_pre_hook(share_buffers)
        if self.compiles:
            self.net.compile(mode=None if self.compiles is True else self.compiles)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for layer in self.frozen:
            layer.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Raw rows to logits, or to scaled values: `(B, *in_shape) -> (B, out_dim)`."""
        out: Tensor = self.net(self.normalize(x))
        return out

    def step(self, batch: Batch, split: str) -> Tensor | None:
        """One batch of any split; its mean loss in training."""
        x, y, row = batch
        if split != "train":
            out = self(x)
            # what a CUDA graph gives is overwritten by its next replay
            self.outputs.append((out.clone() if self.compiles else out, y, row))
            return None
        assert y is not None
        x = self.normalize(x)
        x, weights = augment(x, row, self.seed, self.current_epoch, self.augmentations)
        out = self.net(x) if self.num_parts == 1 else in_parts(self.net, x, self.num_parts)
        losses = self.losses(out, y)
        if weights is not None:
            losses = self.losses(out, y.roll(1, 0)).lerp(losses, weights)
        loss = losses.mean()
        sums = self.sums
        seen = loss.detach() if loss.is_cpu else loss.detach().nan_to_num(0, 0, 0)  # see BadSteps
        sums.loss = sums.loss.add(seen, alpha=len(y))  # anew: a step may be taken back
        sums.hits = sums.hits + self.hits(out.detach(), y).sum()
        sums.num_rows += len(y)
        return loss

    def halve(self, batch_size: int, reason: str) -> None:
        """Takes the net through each batch in twice as many parts, after memory has run out.

        Raises:
            MemoryError: That can't be done.
        """
        if any(isinstance(module, _BatchNorm) for module in self.net.modules()):
            raise MemoryError("batch norm needs a batch as a whole, so it can't be halved")
        if self.num_parts >= batch_size:
            raise MemoryError(reason)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.num_parts *= 2
        step = self.trainer.global_step + 1
        text = f"warning: out of memory in step {step}: now {self.num_parts} parts to a batch"
        print(text, file=sys.stderr, flush=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self.step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self.step(batch, "predict")

    def on_train_start(self) -> None:
        self.sums = Sums(self.device)
        loop = self.trainer.fit_loop
        amid_epoch = not loop.epoch_loop.batch_progress.is_last_batch
        num_epochs = loop.epoch_progress.current.ready - amid_epoch
        for config in self.trainer.lr_scheduler_configs:
            num_steps = self.trainer.global_step if config.interval == "step" else num_epochs
            resume(config.scheduler, num_steps, self.old_schedules)

    def on_train_epoch_end(self) -> None:
        totals = torch.tensor([self.sums.loss, self.sums.hits, self.sums.num_rows])
        totals = self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum")
        loss, hit, seen = totals.cpu()
        if seen:  # a run may be gone on with after an epoch's last batch
            self._log("train", {"loss": loss / seen, **self.running(hit / seen)})
        self.sums = Sums(self.device)

    def on_validation_epoch_end(self) -> None:
        """Puts all ranks' outputs in the order of the rows, so that every rank logs the same."""
        trainer = self.trainer
        split = "test" if trainer.testing else "predict" if trainer.predicting else "val"
        ranks: list[Any] = [self.outputs]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            dist.all_gather_object(ranks, move_data_to_device(self.outputs, torch.device("cpu")))
        self.outputs = []
        outs, ys, rows = zip(*chain(*ranks), strict=True)
        row, order = torch.cat(rows).cpu().sort()
        out = torch.cat(outs).float().cpu()[order].to(self.device)
        scores, y = self.scores(out).cpu(), None
        if split != "predict":
            y = torch.cat(ys).cpu()[order]
            loss = self.losses(out, y.to(self.device)).mean()
            self._log(split, {"loss": loss, **self.metrics(scores, y)})
        self.results[split] = scores, y, row

    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def _log(self, split: str, values: dict[str, Tensor]) -> None:
        if not torch.isfinite(values["loss"]):
            raise FloatingPointError(
                f"{split}/loss is {values['loss']:g} after epoch {self.current_epoch}: lower "
                "`model.optimizer.lr`, clip with `trainer.gradient_clip_val`, or look for infinite "
                f"values in the {split} rows"
            )
        if unknown := values.keys() - self.modes.keys():
            name, what = min(unknown), f"`modes` of {type(self).__name__}"
            raise ValueError(f"{what} lacks {name}: add it, min if less is better, or max")
        self.log_dict({f"{split}/{name}": value for name, value in values.items()})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.make_optimizer(self.parameters())
        # A fused optimizer would unscale gradients itself, and Lightning not clip them before that.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        optimizer.param_groups[0]["optimizer"] = type(optimizer).__name__
        optimizer.register_load_state_dict_pre_hook(memory_alone)
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        if isinstance(scheduler, WarmupCosine):
            scheduler.plan(self.trainer.estimated_stepping_batches)
        data: DataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        validates = self.trainer.limit_val_batches and len(data.split.val)
        how = {
            "scheduler": scheduler,
            "interval": "step" if isinstance(scheduler, PER_STEP) else "epoch",
            "monitor": "val/loss" if validates else "train/loss",  # of ReduceLROnPlateau
            "strict": False,
        }
        return {"optimizer": optimizer, "lr_scheduler": how}  # type: ignore[return-value]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps Lightning from restoring schedules: `on_train_start` does, by the config."""
        self.old_schedules = checkpoint.get("lr_schedulers", [])
        checkpoint["lr_schedulers"] = []


def share_buffers(net: nn.Module, _: Any) -> None:
    """Gives all processes the averages of batch norm that the first has, as DDP does."""
    for buffer in net.buffers():
        dist.broadcast(buffer, 0)


def in_parts(net: Net, x: Tensor, num_parts: int) -> Tensor:
    """What the net makes of a batch, with the memory of a part: each is computed again backward."""
    return torch.cat([checkpoint(net, part, use_reentrant=False) for part in x.chunk(num_parts)])


def memory_alone(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """What an optimizer takes from a checkpoint: no option, and no memory of another optimizer."""
    [group], [old] = optimizer.state_dict()["param_groups"], state["param_groups"]
    same = old.get("optimizer") == group["optimizer"]
    own = [group | {"params": old["params"]}]  # names or numbers, as in the state
    return {"state": state["state"] if same else {}, "param_groups": own}
