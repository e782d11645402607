"""What a start does without is not missing."""

import subprocess
import sys

import torch
from conftest import ROOT

HEAVY = ("torch._dynamo", "scipy", "matplotlib", "sklearn", "wandb")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


def test_a_start_and_a_step_import_nothing_heavy():
    code = f"""
import sys
from src.startup import import_lightning
import_lightning()
import gc, src.cli, torch
assert gc.isenabled()
net = torch.nn.Linear(1, 1)
for cls in (torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop):
    optimizer = cls(net.parameters(), lr=0.1)
    net(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert python(code).strip() == "[]"


def test_all_of_it_is_there_for_who_asks():
    code = """
from src.startup import import_lightning
import_lightning()
import matplotlib, scipy.signal, torch, torchmetrics
from lightning.pytorch.utilities.compile import from_compiled, to_uncompiled
from lightning.pytorch.utilities.compile import OptimizedModule
net = torch.nn.Linear(1, 1)
print(isinstance(net, OptimizedModule), isinstance(torch.compile(net), OptimizedModule))
print(torch.compile(net, backend="eager")(torch.ones(1, 1)).shape)
from torchmetrics.utilities.imports import _MATPLOTLIB_AVAILABLE, _SCIPI_AVAILABLE
print(bool(_MATPLOTLIB_AVAILABLE), bool(_SCIPI_AVAILABLE))
from lightning.pytorch.callbacks.progress import rich_progress
print(hasattr(rich_progress, "reconfigure") == bool(rich_progress._RICH_AVAILABLE))
"""
    assert python(code).split() == ["False", "True", "torch.Size([1,", "1])", *3 * ["True"]]


def test_optimizers_step_as_ever():
    """In this process they are freed; in a fresh one they are not: they agree to the bit."""
    code = """
import torch
seen = []
for name in ("Adam", "AdamW", "SGD", "Adagrad", "NAdam", "RAdam", "Rprop", "Adafactor"):
    for fused in (False, True) if name in ("Adam", "AdamW", "SGD") else (False,):
        torch.manual_seed(0)
        p = torch.rand(5, 2, requires_grad=True)
        p.grad = torch.rand(5, 2)
        options = {"fused": True} if fused else {}
        optimizer = getattr(torch.optim, name)([p], lr=0.1, **options)
        for _ in range(3):
            optimizer.step()
        seen.append((name, p.tolist(), torch.is_grad_enabled()))
"""
    here: dict = {}
    exec(code, here)
    assert str(here["seen"]) == python(f"{code}\nprint(seen)").strip()
    assert "_use_grad" not in torch.optim.Adam.step.__wrapped__.__code__.co_qualname


def test_other_versions_start_as_they_are():
    code = """
import sys
from src import startup
startup.TRIED["torch"] = "2.0.0"
startup.import_lightning()
print("lightning" in sys.modules)
import src.cli
print("torch._dynamo" in sys.modules)
"""
    assert python(code).split() == ["False", "True"]
