"""The benchmark runs, and compares what it says that it compares."""

import json
import sys

import pytest
import torch

from scripts import bare, bench, bench_gpu
from tests.conftest import ROOT


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_part_and_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    files = "--json", str(tmp_path / "bench.json"), "--plot", str(tmp_path / "bench.png")
    monkeypatch.setattr(sys, "argv", ["bench", "step", "--short", *files])
    monkeypatch.setenv("WANDB_MODE", "disabled")  # it says otherwise, and later tests would hear
    bench.main()
    rows = {row["name"]: row for row in json.loads((tmp_path / "bench.json").read_text())["step"]}
    assert rows["bare loop"]["ratio"] == 1
    assert rows["fit"]["ratio"] == rows["fit"]["value"] / rows["bare loop"]["value"]
    assert all(row["value"] > 0 for row in rows.values())
    assert (tmp_path / "bench.png").stat().st_size > 1000


def test_the_loops_that_it_compares_are_the_same_training():
    x = torch.randint(0, 256, (300, 1, 28, 28), dtype=torch.uint8)
    y = torch.randint(0, 10, (300,))
    trained = []
    for program in (bare.loop, bare.tuned):
        torch.manual_seed(0)
        net = bare.mlp()
        program(x, y, net, iter, 2)
        trained.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*trained)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_for_a_gpu_runs_small_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["bench_gpu", "recipe", "--short", "--json", str(path)])
    bench_gpu.main()
    step, _, rate, _ = json.loads(path.read_text())["recipe"]
    assert rate["value"] == pytest.approx(16 * 1e6 / step["value"])


def test_the_nets_that_it_compares_are_of_one_size():
    assert sum(p.numel() for p in bare.resnet().parameters()) == 11_173_962  # cifar10_resnet18
