"""On a GPU: the host never waits in a step, and the numbers are those of Lightning's own loop."""

import pytest
import torch
from lightning.pytorch import Callback

from src.callbacks.faults import LOOK_EVERY_N_STEPS
from tests.test_loop import fit, text

pytestmark = pytest.mark.gpu
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
    few = "fit --config configs/digits_mlp.yaml --trainer.max_epochs 4 --model.net.dropout 0 "
    few += "--trainer.accelerator gpu --trainer.devices 1"
    plain, graphs = go(few), go(few, "--model.compile", "reduce-overhead")
    assert graphs.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], rel=0.02)
    assert graphs.metrics["test/auroc"] == pytest.approx(plain.metrics["test/auroc"], abs=1e-3)
