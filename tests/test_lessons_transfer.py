"""The lesson on what transfers: its claims, its runs and its picture."""

import json
import re

import pytest

from tests.conftest import ROOT
from tests.test_configs import head, num_weights

CLAIM = re.compile(r"# test/acc ([\d.]+) ± ([\d.]+) over 5 seeds; \d+ s a run on one CPU core")

TASK = {"data.source.classes": [5, 6, 7, 8, 9], "trainer.max_epochs": -1}


@pytest.mark.parametrize("name", ["images", "signals", "speech"])
def test_one_net_reads_images_signals_and_speech(go, name):
    path = f"configs/lessons/{name}.yaml"
    mean, spread = map(float, CLAIM.match(head(path)[1]).groups())
    text = (ROOT / path).read_text(encoding="utf-8")
    assert re.fullmatch(r"(#.*\n)+base: convnet.yaml\ndata:\n  source: \w+\n", text)
    said = go(f"fit --config {path}")
    assert not said.err
    assert said.metrics["test/acc"] >= mean - 4 * spread - 0.01
    if promised := re.search(r"([\d,]+) weights", " ".join(head(path))):
        assert num_weights(said.folder) == int(promised[1].replace(",", ""))


def test_weights_of_another_task_help_where_rows_are_few_and_frozen_ones_end_low(go):
    """Some ten seconds, half of them the imports of two processes."""
    flags = ("--callbacks.lesson.seeds", 1, "--callbacks.lesson.fracs", "[0.03, 0.3]")
    flags += ("--callbacks.lesson.task", json.dumps({**TASK, "trainer.max_steps": 100}))
    said = go("fit --config configs/lessons/transfer.yaml --trainer.max_epochs 5", *flags)
    assert said.code == 0, said.err
    accs = dict(re.findall(r"lesson/([\w-]+) ([\d.]+)", said.out))
    kinds = ("scratch", "fine-tuned", "frozen")
    assert [*accs] == [f"{kind}_{n}" for kind in kinds for n in (50, 498)]
    scratch, _, tuned, tuned_all, frozen, frozen_all = map(float, accs.values())
    assert tuned > scratch + 0.05
    assert tuned_all > tuned
    assert tuned_all > frozen_all + 0.05
    assert frozen > 0.5
    assert f"transfer.png: 50 rows: {tuned:.2f} fine-tuned, {scratch:.2f} from scratch" in said.out
    for suffix in ("png", "svg"):
        assert (said.folder / "plots" / f"transfer.{suffix}").stat().st_size > 10_000
    config = (said.folder / "runs" / "frozen-0.3-0-0" / "config.yaml").read_text()
    assert "train_frac: 0.3" in config
    assert "last.ckpt" in config
