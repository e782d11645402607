"""Lightning's training step at a tenth of its overhead, with the same numbers to the bit.

For each batch, Lightning 2.6.6 enters 23 contexts of a profiler, walks the batch twice, inspects a
signature and asks each callback six times: some 400 microseconds beside the 1,250 of an MLP. This
loop does what these come to. Where anything is set that it doesn't know, Lightning's own step runs,
and so it does in other versions than those that this was tried with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as optim

from src.data.batches import Batches
from src.errors import NO_MEMORY

TRIED = ("2.6.6",)
HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
STEPS = ("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping")


class DirectLoop(_TrainingEpochLoop):
    """Takes the batches of an epoch."""

    @classmethod
    def put_into(cls, trainer: L.Trainer) -> None:
        """Replaces the loop of a trainer that has not started."""
        old = trainer.fit_loop.epoch_loop
        trainer.fit_loop.epoch_loop = cls(trainer, old.min_steps, old.max_steps)

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        if self.restarting:  # Lightning can't place loaders that the plan of a schedule asked for
            for loader in data_fetcher.combined_loader.flattened:
                if isinstance(loader, Batches):
                    loader.position = self.batch_progress.current.ready
        super().on_run_start(data_fetcher)
        trainer = self.trainer
        self._model = model = trainer.lightning_module
        plugin = trainer.precision_plugin
        self._direct = (
            version("lightning") in TRIED
            and type(trainer.strategy) is SingleDeviceStrategy
            and type(plugin) in (Precision, MixedPrecision)
            and getattr(plugin, "scaler", None) is None
            and type(trainer.profiler) is PassThroughProfiler
            and type(data_fetcher) is _PrefetchDataFetcher
            and data_fetcher.length is not None
            and isinstance(data_fetcher.combined_loader.iterables, Batches)
            and trainer.accumulate_grad_batches == 1
            and getattr(trainer, "val_check_interval", None) == 1.0  # or a time
            and not own(model, L.LightningModule, HOOKS + TRANSFERS + STEPS)
            and not own(trainer.datamodule, L.LightningDataModule, TRANSFERS)
        )
        self._update = unmarked(*trainer.optimizers) if self._direct else None
        self._context = nullcontext if type(plugin) is Precision else plugin.train_step_context
        self._between = [c.between_steps for c in trainer.callbacks if hasattr(c, "between_steps")]
        self._hooks = {
            name: [getattr(c, name) for c in trainer.callbacks if own(c, L.Callback, (name,))]
            for name in HOOKS
        }

    def advance(self, data_fetcher: Any) -> None:
        # Checkpoints are made here, where no step, validation or schedule is half done.
        if self._restarting or self.trainer.fit_loop._restarting:
            self.restarting = self.trainer.fit_loop._restarting = False
        if self._accumulated_batches_reached():
            for hook in self._between:
                hook(self.trainer, self._model)
        if not self._direct:
            super().advance(data_fetcher)
            return
        trainer, results, batches = self.trainer, self._results, self.batch_progress
        connector = trainer._logger_connector
        index = self.batch_idx + 1
        if self.val_loop._restarting:
            self.val_loop.restarting = False
        batch = next(data_fetcher.combined_loader._iterator.iterators[0])
        data_fetcher.fetched += 1
        batches.is_last_batch = data_fetcher.done = data_fetcher.fetched >= data_fetcher.length
        if batch.x.device != trainer.strategy.root_device:
            batch = trainer.strategy.batch_to_device(batch)
        batches.increment_ready()
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        self._call("on_train_batch_start", batch, index)
        batches.increment_started()
        given = self._step(batch, index)
        batches.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if batches.is_last_batch:
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        self._call("on_train_batch_end", given, batch, index)
        logged = any(value.meta.on_step for value in results.values())
        if logged:
            connector.on_batch_end()
        results.batch = None
        batches.increment_completed()
        if logged:
            connector.update_train_step_metrics()

    def _step(self, batch: Any, index: int) -> dict[str, Any]:
        """One step of the optimizer; what the model gave, the last time that it was asked."""
        trainer, [optimizer] = self.trainer, self.trainer.optimizers
        model, counts = self._model, self.automatic_optimization.optim_progress.optimizer
        given: dict[str, Any] = {}

        def closure() -> Tensor | None:
            sums = vars(model.sums).copy()
            try:
                return forward_and_backward()
            except RuntimeError as error:
                if not NO_MEMORY.search(str(error)):
                    raise
                reason = str(error)
            optimizer.zero_grad()  # here, where nothing of the step is held any more
            vars(model.sums).update(sums)
            model.halve(len(batch.row), reason)
            return closure()

        def forward_and_backward() -> Tensor | None:
            vars(model)["_current_fx_name"] = "training_step"  # for what it logs
            with self._context():
                output = model.training_step(batch, index)
            given.clear()
            given.update({"loss": output} if isinstance(output, Tensor) else output or {})
            counts.zero_grad.increment_ready()
            self._call("on_before_zero_grad", optimizer)
            counts.zero_grad.increment_started()
            if self._update:
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        parameter.grad = None
            else:
                optimizer.zero_grad()
            counts.zero_grad.increment_completed()
            if given:
                self._call("on_before_backward", given["loss"])
                given["loss"].backward()
                self._call("on_after_backward")
                given["loss"] = given["loss"].detach()
            self._call("on_before_optimizer_step", optimizer)
            if trainer.gradient_clip_val:
                how = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                model.clip_gradients(optimizer, *how)
            return given.get("loss")

        counts.step.increment_ready()
        (self._update or optimizer.step)(closure)
        counts.step.increment_completed()
        vars(model)["_current_fx_name"] = None
        return given

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        stops = self.trainer.should_stop or self.trainer.received_sigterm
        if not self._direct or self.batch_progress.is_last_batch or stops or self._skip_next_val:
            super().on_advance_end(data_fetcher)
        else:
            self._batches_that_stepped += 1

    def _call(self, name: str, *args: Any) -> None:
        trainer, model = self.trainer, self._model
        for hook in self._hooks[name]:
            vars(model)["_current_fx_name"] = name
            hook(trainer, model, *args)
            vars(model)["_current_fx_name"] = None


def unmarked(optimizer: Optimizer) -> Callable | None:
    """`optimizer.step` without torch's marks for a profiler, which take 75 us in a step.

    None if anything is hung on it, or torch makes these marks in another way.
    """
    kind, own_step = type(optimizer), vars(optimizer).get("step")
    hooks = [*optimizer._optimizer_step_pre_hooks, *optimizer._optimizer_step_post_hooks]
    hooks += [*optim._global_optimizer_pre_hooks, *optim._global_optimizer_post_hooks]
    is_marked = hasattr(kind.step, "hooked") and kind.zero_grad is Optimizer.zero_grad
    is_hung_on = own_step is not None and not hasattr(own_step, "_wrapped_by_lr_sched")
    if hooks or is_hung_on or not is_marked:
        return None
    vars(optimizer)["_opt_called"] = True  # which a schedule asks
    step: Any = kind.step
    return partial(step.__wrapped__, optimizer)


def own(thing: object, base: type, hooks: tuple[str, ...]) -> bool:
    """Whether one of these hooks of `base` is another one here."""
    return any(
        hook in vars(thing) or getattr(type(thing), hook) is not getattr(base, hook)
        for hook in hooks
    )
