"""On a GPU: the host never waits in a step, and what holds on a CPU holds there, too."""

import signal

import pytest
import torch
from lightning.pytorch import Callback

from src.callbacks.faults import LOOK_EVERY_N_STEPS
from src.models.model import Model
from tests.conftest import arm
from tests.test_faults import spoil
from tests.test_loop import fit, text
from tests.test_resume import assert_same

pytestmark = pytest.mark.gpu
GPU = "--trainer.accelerator gpu --trainer.devices 1"
FIT = f"fit --config configs/digits_mlp.yaml --trainer.max_epochs 4 {GPU}"
SETTINGS = {
    "plain": [],
    "16 bits": ["--trainer.precision", "bf16-mixed", "--model.net.channels_last", "true"],
    "augmented": ["--model.augment", "[Flip, Crop, Cutout, Noise, Mixup]"],
    "clipped": ["--trainer.gradient_clip_val", "1", "--model.scheduler.warmup_frac", "0.2"],
    "averaged": ["--callbacks.ema", "EMA"],
    "compiled": ["--model.compile", "true"],
    "CUDA graphs": ["--model.compile", "reduce-overhead"],
}


class NoWait(Callback):
    """From the second batch of each epoch but the first a wait is an error, but where one hears of
    bad steps."""

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        assert batch.x.is_cuda
        assert trainer.fit_loop.epoch_loop._direct
        if trainer.current_epoch and batch_idx:
            hears = batch_idx % LOOK_EVERY_N_STEPS == LOOK_EVERY_N_STEPS - 1
            torch.cuda.set_sync_debug_mode("default" if hears else "error")

    def on_train_batch_end(self, trainer, *_):
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, *_):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
def test_no_step_waits_for_the_gpu(go, setting):
    said = go(
        "fit --config configs/digits_convnet.yaml --trainer.max_epochs 5 --model.optimizer.lr 5e-3 "
        "--trainer.accelerator gpu --trainer.devices 1 --callbacks.strict tests.test_gpu.NoWait",
        *SETTINGS[setting],
    )
    assert said.code == 0, said.err
    assert said.metrics["test/loss"] < 2.25, "a guess among ten has 2.30"


def test_it_is_lightnings_own_loop_to_the_bit(tmp_path):
    options = {"accelerator": "gpu", "devices": 1, "gradient_clip_val": 0.1}
    ours, theirs = (fit(loop, tmp_path, **options) for loop in (True, False))
    assert text(ours) == text(theirs)


def test_cuda_graphs_change_no_metric(go):
    few = f"{FIT} --model.net.dropout 0"
    plain, graphs = go(few), go(few, "--model.compile", "reduce-overhead")
    assert graphs.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], rel=0.02)
    assert graphs.metrics["test/auroc"] == pytest.approx(plain.metrics["test/auroc"], abs=1e-3)


@pytest.mark.parametrize("more", ["", "--callbacks.ema EMA", "--model.compile reduce-overhead"])
def test_a_run_that_was_told_to_end_goes_on_to_the_same_bits(more, go, monkeypatch):
    line = f"{FIT} --model.net.norm batch --model.augment [Flip,Crop,Mixup] {more}"
    whole = go(f"{line} --run whole")
    with monkeypatch.context() as patch:
        patch.setattr(Model, "training_step", Model.training_step)  # which is put back
        arm(Model, "training_step", 17, signal.SIGTERM)
        assert go(f"{line} --run broken").code == 75
    again = go(f"{line} --run broken --resume auto")
    assert (whole.code, again.code) == (0, 0)
    assert_same(whole.folder, again.folder)


def test_a_bad_step_is_skipped_though_the_host_hears_of_it_later(go, monkeypatch):
    with monkeypatch.context() as patch:
        spoil(patch, float("nan"), {3}, "gradients")
        bad = go(FIT)
    assert bad.code == 0
    assert bad.err == "warning: step 3 is skipped: its loss or gradients are not finite\n"
    last = torch.load(bad.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in last["state_dict"].values())
    assert last["optimizer_states"][0]["state"][0]["step"] == last["global_step"] - 1
    spoil(monkeypatch, float("nan"), range(7, 99), "gradients")
    ended = go(FIT)
    assert ended.code == 76
    assert "error: steps 7 to 10 were skipped" in ended.err


def test_a_batch_that_memory_has_no_room_for_is_taken_in_parts(go):
    wide = f"{FIT} --data.batch_size 1024 --model.net.hidden_dims [65536] --model.net.dropout 0"
    whole = go(wide)
    memory = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(7e8 / memory)  # 268 MB a layer and batch
    try:
        parts = go(wide)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert parts.err.startswith("warning: out of memory in step 1: now 2 parts to a batch\n")
    assert parts.metrics["test/loss"] == pytest.approx(whole.metrics["test/loss"], rel=0.01)


@pytest.mark.filterwarnings("ignore")
def test_the_cpu_and_weights_shared_out_give_the_same_metrics(go):
    plain = go(f"{FIT} --model.net.dropout 0")
    cpu = go(f"{FIT} --model.net.dropout 0 --trainer.accelerator cpu")
    assert cpu.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], rel=1e-3)
    shared = go(f"{FIT} --model.net.dropout 0 --config configs/trainer/fsdp.yaml {GPU}")
    torch.distributed.destroy_process_group()
    assert shared.code == 0, shared.err
    assert shared.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], rel=1e-3)
