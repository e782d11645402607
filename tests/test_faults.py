"""Numbers that are none, and memory that runs out."""

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from src.callbacks.faults import BadSteps
from src.models.model import Model
from src.nets.normalize import Normalize
from tests.test_resume import rows

FIT = (
    "fit --config configs/digits_mlp.yaml --data.batch_size 256 --trainer.max_epochs 3 "
    "--callbacks.checkpoint.every_n_steps 1"
)  # five steps an epoch


def spoil(monkeypatch, value, steps, what="loss"):
    """Makes the loss, or only the gradients, of these steps `value`; keeps the rows they had."""
    seen, real = [], Model.training_step

    def step(self, batch, index):
        seen.append(batch.row)
        loss = real(self, batch, index)
        if len(seen) in steps:
            if what == "loss":
                self.sums.loss = self.sums.loss + value
                return loss * value
            loss.register_hook(lambda grad: grad * value)
        return loss

    monkeypatch.setattr(Model, "training_step", step)
    return seen


@pytest.mark.parametrize("what", ["loss", "gradients"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD --model.optimizer.momentum 0.9"])
def test_a_bad_step_is_as_if_it_had_not_been(what, value, optimizer, go, monkeypatch, tmp_path):
    """Compared with a run in which nothing of that step reaches the optimizer."""
    flags = f"--model.optimizer {optimizer} --model.optimizer.lr 0.01 --trainer.max_epochs 2"
    with monkeypatch.context() as patch:
        spoil(patch, value, {3}, what)
        bad = go(f"{FIT} {flags} --run bad")
    assert bad.code == 0
    assert bad.err == "warning: step 3 is skipped: its loss or gradients are not finite\n"
    last = torch.load(bad.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in last["state_dict"].values())
    moments = last["optimizer_states"][0]["state"][0]
    if "step" in moments:
        assert moments["step"] == 9, "of 10 steps"
    header, *lines = rows(bad.folder)
    assert all(0 < float(line[header.index("train/loss")]) < 10 for line in lines[:2])


@pytest.mark.parametrize("clip", ["", "--trainer.gradient_clip_val 1"])
def test_the_fourth_in_a_row_ends_the_run_with_what_was_before_it(clip, go, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        seen = spoil(patch, float("nan"), range(7, 99))
        said = go(f"{FIT} {clip} --run bad")
    *lines, error = said.err.splitlines()
    assert said.code == 76
    assert lines == [
        f"warning: step {n} is skipped: its loss or gradients are not finite" for n in (7, 8, 9)
    ]
    shown = ", ".join(map(str, seen[9][:8].tolist()))
    assert error.startswith(
        "error: steps 7 to 10 were skipped: their loss or gradients are not finite; rows of the "
        f"last: {shown}, ...; parameters: net.hidden.0.weight, net.hidden.0.bias, "
    )
    last = tmp_path / "runs" / "bad" / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 9
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    with monkeypatch.context() as patch:
        spoil(patch, float("nan"), {1})
        counted = go(f"fit --ckpt_path {last} --run more")
    assert counted.code == 76, "those before the checkpoint count"
    assert "steps 7 to 10 were skipped" in counted.err
    again = go(f"fit --ckpt_path {last}")
    assert again.code == 0


def test_weights_that_are_none_are_never_saved(go, monkeypatch, tmp_path):
    calls, step = [], torch.optim.AdamW.step

    def spoiling(self, closure=None):
        loss = step(self, closure)
        calls.append(1)
        if len(calls) == 4:
            self.param_groups[0]["params"][0].data[0] = float("nan")
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", spoiling)
    said = go(f"{FIT} --run bad")
    assert said.code == 76
    assert said.err == (
        "error: after step 4 weights are not finite: net.hidden.0.weight; they are not saved, and "
        "the checkpoint before stays: lower `model.optimizer.lr`\n"
    )
    last = tmp_path / "runs" / "bad" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3


@pytest.mark.parametrize("scales", [False, True])
def test_a_row_that_is_infinite_does_not_stay_in_batch_norm(scales, go, monkeypatch, tmp_path):
    """Twice in each epoch of 10 steps; nothing of it reaches weights, averages or metrics."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype("f4")
    y = (x[:, 0] > 0).astype(int)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    words = f"--data.source Arrays --data.source.path {tmp_path}/d.npz --model.net.norm batch"
    words += " --data.batch_size 21 --data.source.task classification --trainer.max_epochs 2"
    if scales:  # as 16-mixed has it on a GPU
        words += " --trainer.precision bf16-mixed"
        make = MixedPrecision.__init__

        def init(self, *args):
            make(self, *args)
            self.scaler = torch.amp.GradScaler("cpu")

        monkeypatch.setattr(MixedPrecision, "__init__", init)
    real = Normalize.forward
    train = go(f"{FIT} {words} --run good")
    assert train.code == 0, train.err
    calls = []

    def forward(self, x):
        out = real(self, x)
        calls.append(1)
        if self.training and len(calls) in (3, 7):
            out[0] = float("inf")
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Normalize, "forward", forward)
        said = go(f"{FIT} {words} --run bad")
    assert said.code == 0
    skipped = 0 if scales else 2  # in silence
    assert said.err.count("is skipped") == said.err.count("\n") == skipped
    state = torch.load(said.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert said.metrics["test/acc"] > 0.7


class Small:
    """Memory for so many rows at once, and no more."""

    def __init__(self, monkeypatch, rows, backward=False):
        self.calls, real = [], nn.Linear.forward

        def forward(module, x):
            self.calls.append(len(x))
            if module.training and len(x) > rows:
                if not backward:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
                x.requires_grad_()
                x = x * 1
                x.register_hook(self.fail)
            return real(module, x)

        monkeypatch.setattr(nn.Linear, "forward", forward)

    def fail(self, grad):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("backward", [False, True])
def test_batches_that_memory_has_no_room_for_are_taken_in_parts(backward, go, monkeypatch):
    flags = "--model.net.dropout 0 --model.augment [Flip,Mixup] --trainer.max_epochs 2"
    whole = go(f"{FIT} {flags} --run whole")
    with monkeypatch.context() as patch:
        Small(patch, 70, backward)
        parts = go(f"{FIT} {flags} --run parts")
    assert parts.code == 0
    assert parts.err == (
        "warning: out of memory in step 1: now 2 parts to a batch\n"
        "warning: out of memory in step 1: now 4 parts to a batch\n"
    )
    one, two = (
        torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
        for run in (whole, parts)
    )
    assert one["global_step"] == two["global_step"]
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-3, atol=1e-4)
    assert two["resume"]["parts"] == 4
    _, *lines = rows(whole.folder)
    for line, other in zip(lines, rows(parts.folder)[1:], strict=True):
        pairs = zip(filter(None, line), filter(None, other), strict=True)
        assert all(float(a) == pytest.approx(float(b), abs=0.02) for a, b in pairs)


def test_batch_norm_says_that_it_needs_whole_batches(go, monkeypatch):
    Small(monkeypatch, 70)
    said = go(f"{FIT} --model.net.norm batch")
    assert said.code == 2
    assert said.err == (
        "error: not enough memory: lower `data.batch_size` or the sizes of `model.net` (batch norm "
        "needs a batch as a whole, so it can't be halved)\n"
    )


def test_an_error_that_only_names_memory_is_not_taken_for_too_little(go, monkeypatch):
    def fails(module, x):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(nn.Linear, "forward", fails)
    said = go(FIT)
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "an illegal memory access" in said.err


class Hidden(BadSteps):
    """As on a GPU with a fused optimizer: the host hears of bad steps at each 16th."""

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self._waits = False


@pytest.mark.parametrize("bad", [{3, 7, 16}, range(7, 99)])
def test_where_the_host_hears_later_nothing_of_a_bad_step_is_left(bad, go, monkeypatch, tmp_path):
    """Neither in batch norm nor in the averages, at any save."""
    monkeypatch.setattr("src.cli.BadSteps", Hidden)
    steps, step, saved = [], Model.training_step, []

    def spoiled(self, batch, index):
        loss = step(self, batch, index)
        steps.append(1)
        if len(steps) in bad:
            for name, buffer in self.net.named_buffers():
                if name.endswith("running_mean"):
                    buffer.data += float("inf")
            loss.register_hook(lambda grad: grad * float("nan"))
        return loss

    def save(self, checkpoint, path, storage_options=None):
        states = [checkpoint["state_dict"], checkpoint["current_model_state"]]
        saved.append(all(value.isfinite().all() for state in states for value in state.values()))

    monkeypatch.setattr(Model, "training_step", spoiled)
    monkeypatch.setattr("src.durable.DurableIO.save_checkpoint", save)
    monkeypatch.setattr("src.durable.DurableIO.copy", lambda *_: None)
    fused = "--model.optimizer.fused true --model.net.norm batch --callbacks.ema EMA"
    fused += " --data.batch_size 64"  # 20 steps an epoch
    said = go(f"{FIT} {fused} --trainer.max_epochs 2")
    assert all(saved), said.err
    assert len(saved) >= 9, said.err  # it hears at each save, too
    lines = said.err.splitlines()
    first = [
        f"warning: step {n} is skipped: its loss or gradients are not finite" for n in sorted(bad)
    ][:3]
    assert lines[: len(first)] == first
    if len(bad) == 3:
        assert (said.code, len(lines)) == (0, 3), said.err
    else:
        assert said.code == 76
        assert lines[3].startswith("error: steps 7 to 10 were skipped: ")
