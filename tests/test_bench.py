"""The benchmark runs, and compares what it says that it compares."""

import json
import sys

import pytest
import torch

from scripts import bare, bench
from tests.conftest import ROOT


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_part_and_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    files = "--json", str(tmp_path / "bench.json"), "--plot", str(tmp_path / "bench.png")
    monkeypatch.setattr(sys, "argv", ["bench", "step", "--short", *files])
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
