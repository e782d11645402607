"""Trains trials that differ in the options of their optimizer alone as one batched network.

A step of a small net is mostly overhead, which a stack pays once. Its layers multiply batches of
matrices, and its optimizer is that of the trials, with a group for each copy. All copies see the
same batches, and drop out the same values, as trials of one seed do.

So a copy gets the numbers of an ordinary trial, to the bit, as far as a library multiplies a batch
of matrices as it does each of them. MKL does, but for layers of one output and batches of a few
rows; of others it isn't known. So in the first epoch one copy is trained in the ordinary way, too,
and a stack whose bits differ from it gives way to ordinary trials, as does each copy whose numbers
are no longer finite.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as L
import torch
import yaml
from torch import Tensor, nn
from torch.optim import Optimizer

from src.callbacks.monitor import EVERY_N_STEPS
from src.config import Config, Tree, options
from src.data.batches import Batch
from src.durable import DurableIO
from src.models.model import Sums
from src.run_folder import STATED
from src.search.compare import Loader
from src.search.layer import ACTIVATION, Layer
from src.search.space import Space
from src.tracking import MetricsCsv

MOST_COPIES = 32
MOST_WEIGHTS = 1 << 24  # of all copies; optimizer and best checkpoints keep some five times that
# Those that change a weight by its own gradients alone.
OPTIMIZERS = ("AdamW", "Adam", "SGD", "NAdam", "RAdam", "Adagrad", "RMSprop", "Adamax", "Adadelta")
HEEDED = ("max_epochs", "limit_train_batches", "accelerator")  # options of the trainer
SET = ("augment", "compile", "freeze", "init_from")  # options of the model
MUTE = ("default_root_dir", "logger", "enable_progress_bar")  # change no number
DIFFERS = "the last digits differ from those of ordinary trials"
Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def obstacles(space: Space) -> Iterator[str]:
    """Why the trials of a search can't be stacked."""
    for key, parameter in space.parameters.items():
        is_one = not parameter.is_range and len(parameter.texts) == 1
        if not is_one and not key.startswith("model.optimizer.") and key != "seed_everything":
            yield f"`{key}` is searched"
    sweep, parameters = space.sweep, space.parameters
    tree = space.config({key: p.texts[0] for key, p in parameters.items()}).checked()
    model, trainer = tree["model"]["init_args"], tree["trainer"]
    net, optimizer = model["net"], kind(model["optimizer"])
    callbacks = {key: node for key, node in tree["callbacks"].items() if node}
    loggers = [*map(kind, trainer["logger"] or [])]
    is_plain = kind(net) == "MLP" and net["init_args"].get("norm", "none") == "none"
    plain = {name: option.default for name, option in options(L.Trainer).items()}
    plain |= Config().tree["trainer"] | {"devices": 1}
    differ = {key for key, value in trainer.items() if value not in (plain[key], None)}
    found = {
        "`method: bayes` draws each trial by those before": sweep.method == "bayes",
        "`early_terminate` compares trials amid their epochs": space.halving,
        "`epochs` or `minutes` may be spent amid a stack": sweep.epochs or sweep.minutes,
        "`model.net` is not an MLP without norm": not is_plain,
        f"{optimizer} is not one of {', '.join(OPTIMIZERS)}": optimizer not in OPTIMIZERS,
        "`model.scheduler` goes by metrics": kind(model.get("scheduler")) == "ReduceLROnPlateau",
        **{f"`model.{key}` is set": model.get(key) for key in SET},
        **{f"`trainer.{key}` is {trainer[key]}": True for key in differ - {*HEEDED, *MUTE}},
        "`trainer.logger` is not [MetricsCsv]": loggers != ["MetricsCsv"],
        "`callbacks` are not Checkpoint and Threads": {*map(kind, callbacks.values())}
        - {"Threads"} != {"Checkpoint"},
        "`callbacks.checkpoint` has more than a metric": callbacks.get("checkpoint")
        and callbacks["checkpoint"]["init_args"].keys() - {"monitor", "mode"},
    }  # fmt: skip
    yield from (why for why, is_so in found.items() if is_so)


def kind(node: Tree | None) -> str:
    """The class that a node of a checked config names."""
    return node["class_path"].rpartition(".")[2] if node else ""


def state_of_group(state: Tree, k: int, num: int) -> Tree:
    """What of a schedule's state is that of one of `num` groups."""
    return {
        name: value[k : k + 1] if isinstance(value, list) and len(value) == num else value
        for name, value in state.items()
    }


def memory_of(optimizer: Optimizer, group: Tree) -> Tree:
    """What an optimizer of this group alone would keep."""
    state = {
        i: {n: v.clone() if isinstance(v, Tensor) else v for n, v in optimizer.state[p].items()}
        for i, p in enumerate(group["params"])
    }
    own = {"optimizer": type(optimizer).__name__, "params": [*state]}
    return {"state": state, "param_groups": [group | own]}


def kernel(memory: dict, group: Tree) -> Callable[..., Any]:
    """A step of a fused Adam for one group, but for the learning rate."""
    own, params = [memory[p] for p in group["params"]], group["params"]
    names = "exp_avg", "exp_avg_sq", "max_exp_avg_sq"
    lists = [[of[name] for of in own if name in of] for name in names]
    how = {name: group[name] for name in ("amsgrad", "eps", "maximize", "weight_decay")}
    how |= dict(zip(("beta1", "beta2"), group["betas"], strict=True))
    fused: Any = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    return partial(
        fused, params, [p.grad for p in params], *lists, [of["step"] for of in own], **how
    )


@dataclass(eq=False)
class Best:
    """A copy at the end of its best epoch; `whole` is the checkpoint of a run that ends there."""

    epoch: int
    score: Tensor
    weights: dict[str, Tensor]
    memory: Tree
    schedules: list[Tree]
    whole: Tree


class Stack:
    """Copies of one net, each with options of its own for the optimizer.

    Args:
        options: Those of each copy.
        folders: The run folder of each copy.
        is_over: Whether to stop, which leaves nothing.
    """

    def __init__(
        self, options: list[Tree], folders: list[Path], is_over: Callable[[], bool]
    ) -> None:
        self.options, self.folders, self.is_over, self.num = options, folders, is_over, len(options)
        self.history: list[dict[str, Tensor]] = []  # by name, of all copies: a row an epoch
        self.model: Any = None
        self.kernels: list[Callable[..., Any]] = []  # of a fused Adam, of each copy
        self.best: dict[int, Any] = {}  # of each copy whose numbers are finite

    def run(self, trainer: Any, config: str) -> None:
        """Trains, in the place of Lightning's loop.

        Args:
            trainer: That of a trial, whose model is the copies' start.
            config: The whole config of the trial, as YAML.

        Raises:
            ValueError: It can't, or not as ordinary trials do.
        """
        loop, data = trainer.fit_loop, trainer.datamodule
        self.trainer, self.model = trainer, trainer.lightning_module
        loop.setup_data()
        self.model.on_train_start()
        self._build()
        self.best = dict.fromkeys(range(self.num))
        [train] = loop._combined_loader.flattened
        for epoch in range(trainer.max_epochs or 0):
            train.set_epoch(epoch)
            values = self._train(islice(train, int(loop.max_batches)))
            values = self._validate(data.val_dataloader()) | values
            self.history.append(values)
            self._count(epoch + 1)
            self._keep(values)
            if self.is_over():
                self.best = {}
            if not self.best:
                return
        self._write(config)

    def _build(self) -> None:
        net = self.model.net
        num, self.num_weights = self.num, sum(p.numel() for p in net.parameters())
        if any(isinstance(module, nn.Embedding) for module in net.modules()):
            raise ValueError("the net has embeddings")
        if num * self.num_weights > MOST_WEIGHTS:
            raise ValueError(f"{num} nets of {self.num_weights:,} weights are too large")
        many = [p.detach().view(-1, p.shape[-1]).repeat(num, 1, 1) for p in net.parameters()]
        pairs = iter([(weights, torch.zeros_like(weights)) for weights in many])
        self.layers = list[Layer]()
        for module in net.modules():
            if isinstance(module, nn.Linear):
                self.layers.append(Layer(*next(pairs), *next(pairs)))
            elif isinstance(module, nn.Dropout):
                self.layers[-1].dropout = module.p
            elif isinstance(module, ACTIVATION):
                self.layers[-1].activation = module
        layers, make = self.layers, type(self.trainer.optimizers[0])
        self.grads = [grad for layer in layers for grad in (layer.weight_grad, layer.bias_grad)]
        groups = []
        for k, given in enumerate(self.options):
            own = [
                nn.Parameter(weights[k].view(p.shape))
                for p, weights in zip(net.parameters(), many, strict=True)
            ]
            for p, grad in zip(own, self.grads, strict=True):
                p.grad = grad[k].view(p.shape)
            groups.append(make(own, **given).param_groups[0])  # checks the options, too
        with patch.object(self.model, "parameters", lambda: groups):
            made = self.model.configure_optimizers()
        how = made if isinstance(made, dict) else {"optimizer": made}
        schedule = how.get("lr_scheduler", {"scheduler": None, "interval": ""})
        self.optimizer: Any = how["optimizer"]
        self.schedule: Any = schedule["scheduler"]
        self.interval: str = schedule["interval"]

    def _train(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """An epoch; what is logged of it."""
        start, model, is_first = time.perf_counter(), self.model, not self.history
        loss, hits, num_rows, norms = torch.zeros(self.num), torch.zeros(self.num), 0, []
        model.train()
        for i, batch in enumerate(batches):
            if is_first:
                self._train_one(batch)
            assert batch.y is not None
            ys = torch.cat([batch.y] * self.num)
            out = self._forward(batch.x, trains=True).requires_grad_()
            losses = self._losses(out, ys)
            [grad] = torch.autograd.grad(losses.sum(), out)
            for layer in reversed(self.layers):
                grad = layer.backward(grad, layer is self.layers[0])
            if i % EVERY_N_STEPS == 0:
                norms.append(
                    torch.stack([g.flatten(1).norm(dim=1) for g in self.grads]).norm(dim=0)
                )
            loss = loss.add(losses.detach(), alpha=len(batch.y))
            hits = hits + model.hits(out.detach().flatten(0, 1), ys).view(self.num, -1).sum(1)
            num_rows += len(batch.y)
            self._step()
            lrs = [group["lr"] for group in self.optimizer.param_groups]
            if self.interval == "step":
                self.schedule.step()
        if self.interval == "epoch":
            self.schedule.step()
        pairs = zip(self.optimizer.param_groups[-1]["params"], model.net.parameters(), strict=True)
        if is_first and not all(torch.equal(*pair) for pair in pairs):
            raise ValueError(DIFFERS)
        model.sums = Sums(model.device)
        found = {"loss": loss / num_rows, **model.running(hits / num_rows)}
        speed = num_rows / (time.perf_counter() - start)
        values = {"samples_per_s": torch.full_like(loss, speed), "lr": torch.tensor(lrs)}
        values["grad_norm"] = torch.stack(norms).nanmean(0)
        return values | {f"train/{name}": value for name, value in found.items()}

    def _forward(self, x: Tensor, trains: bool) -> Tensor:
        """Raw rows to what the nets make of them: `(B, *in_shape) -> (K, B, out_dim)`."""
        x = self.model.net.inputs(self.model.normalize(x))
        x = x.expand(self.num, *x.shape)
        for layer in self.layers:
            x = layer.forward(x, trains)
        return x

    @torch.no_grad()
    def _step(self) -> None:
        """A step of all copies; for a fused Adam at once what torch comes to in twice the time."""
        groups, memory = self.optimizer.param_groups, self.optimizer.state
        if not self.kernels:
            self.optimizer.step()
            names = ("fused", "decoupled_weight_decay", "amsgrad")
            if all(group.get("fused") and {*names} <= {*group} for group in groups):
                self.kernels = [kernel(memory, group) for group in groups]
                self.steps = [of["step"] for of in memory.values()]
            return
        torch._foreach_add_(self.steps, 1)
        for run, group in zip(self.kernels, groups, strict=True):
            run(lr=group["lr"])

    def _train_one(self, batch: Batch) -> None:
        """A step of one copy in the ordinary way, which draws the same random numbers."""
        [optimizer] = self.trainer.optimizers
        with torch.random.fork_rng([]):
            self.model.step(batch, "train").backward()
        optimizer.step()
        optimizer.zero_grad()
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "step":
                config.scheduler.step()

    @torch.inference_mode()
    def _validate(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """What is logged of the validation rows."""
        model = self.model.eval()
        outs, ys, rows = [], list[Any](), []
        for x, y, row in batches:
            outs.append(self._forward(x, trains=False))
            ys.append(y)
            rows.append(row)
            if not self.history and not torch.equal(outs[-1][-1], model(x)):
                raise ValueError(DIFFERS)
        order = torch.cat(rows).argsort()
        out, y = torch.cat(outs, 1)[:, order], torch.cat(ys)[order]
        found = {"loss": self._losses(out, torch.cat([y] * self.num))}
        found |= model.metrics(model.scores(out), y)
        return {f"val/{name}": value for name, value in found.items()}

    def _losses(self, out: Tensor, ys: Tensor) -> Any:
        """The mean loss of each copy: `(K, B, out_dim)`, targets of all copies -> `(K,)`."""
        return self.model.losses(out.flatten(0, 1), ys).view(self.num, -1).mean(1)

    def _count(self, num_epochs: int) -> None:
        """Sets what Lightning counts to what it is at the end of a run of so many epochs."""
        loop = self.trainer.fit_loop.epoch_loop
        size = int(self.trainer.num_training_batches)
        num_steps, num_val = num_epochs * size, len(self.trainer.datamodule.val_dataloader())
        scheduled = {"step": (num_steps, size), "epoch": (num_epochs, 1), "": (0, 0)}[self.interval]
        optimizer = loop.automatic_optimization.optim_progress.optimizer
        for progress, total, current in (
            (self.trainer.fit_loop.epoch_progress, num_epochs, num_epochs),
            (loop.batch_progress, num_steps, size),
            (optimizer.step, num_steps, size),
            (optimizer.zero_grad, num_steps, size),
            (loop.scheduler_progress, *scheduled),
            (loop.val_loop.batch_progress, num_val, num_val),
        ):
            for part, number in ((progress.total, total), (progress.current, current)):
                vars(part).update(dict.fromkeys(vars(part), number))
        loop._batches_that_stepped = num_steps
        loop.batch_progress.is_last_batch = loop.val_loop.batch_progress.is_last_batch = True

    def _keep(self, values: dict[str, Tensor]) -> None:
        """Keeps each copy that is better than before; forgets those that are broken."""
        chooser: Any = self.trainer.checkpoint_callback
        scores, sign = values[chooser.monitor], 1 if chooser.mode == "min" else -1
        fine = (values["train/loss"] + values["val/loss"]).isfinite()
        for layer in self.layers:
            fine &= (layer.weight.isfinite() & layer.bias.mT.isfinite()).flatten(1).all(1)
        self.best = {k: best for k, best in self.best.items() if fine[k]}
        best = self.best.items()
        better = [k for k, old in best if not old or sign * scores[k] < sign * old.score]
        if not better:
            return
        whole = self.trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        schedule = self.schedule.state_dict() if self.schedule else {}
        names = [f"net.{name}" for name, _ in self.model.net.named_parameters()]
        for k in better:
            group = self.optimizer.param_groups[k]
            pairs = zip(names, group["params"], strict=True)
            weights = {name: p.detach().clone() for name, p in pairs}
            schedules = [state_of_group(schedule, k, self.num)] if schedule else []
            now = len(self.history) - 1, scores[k].clone()
            self.best[k] = Best(*now, weights, memory_of(self.optimizer, group), schedules, whole)

    def _checkpoint(self, k: int, config: str) -> Any:
        """What a copy alone would have saved at its best epoch."""
        best, chooser = self.best[k], self.trainer.checkpoint_callback
        chosen = {"monitor": chooser.monitor, "mode": chooser.mode, "best": best.score}
        metrics = {name: value[k].clone() for name, value in self.history[best.epoch].items()}
        row = {"num_rows": best.epoch, "waiting": [self._row(k, best.epoch)]}
        return best.whole | {
            "state_dict": best.whole["state_dict"] | best.weights,
            "callbacks": best.whole["callbacks"] | {"Checkpoint": chosen},
            "optimizer_states": [best.memory],
            "lr_schedulers": best.schedules,
            "config": config,
            "resume": best.whole["resume"] | {"metrics": metrics, "logs": {"MetricsCsv": row}},
        }

    def _row(self, k: int, epoch: int) -> Tree:
        """What a copy has logged of an epoch."""
        step = (epoch + 1) * int(self.trainer.num_training_batches) - 1
        values = {name: value[k].item() for name, value in self.history[epoch].items()}
        return {"epoch": epoch, "step": step, **values}

    def _write(self, config: str) -> None:
        """Writes the run folder of each copy, as a trial of its own would leave it."""
        stated = [Path(self.trainer.default_root_dir, name).read_text("utf-8") for name in STATED]
        tree, files = yaml.load(config, Loader), DurableIO()
        for k in self.best:
            tree["model"]["init_args"]["optimizer"]["init_args"] |= self.options[k]
            stated[0] = yaml.dump(tree, Dumper=Dumper, sort_keys=False)
            self.folders[k].mkdir(parents=True, exist_ok=True)
            for name, text in zip(STATED, stated, strict=True):
                (self.folders[k] / name).write_text(text, encoding="utf-8")
            log = MetricsCsv()
            log.run_dir = self.folders[k]
            log.load_state_dict({"waiting": [self._row(k, i) for i in range(len(self.history))]})
            path = self.folders[k] / "checkpoints" / "best.ckpt"
            files.save_checkpoint(self._checkpoint(k, stated[0]), path)
        files.check()
