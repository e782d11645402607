"""The rules of the house: who imports whom, how long files are, what a signature may hold."""

import ast
import graphlib
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as L
import pytest
import yaml
from lightning.pytorch import strategies

from src.__main__ import OWN
from src.config import ROOMS

ROOT = Path(__file__).parents[1]
TREES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in sorted(ROOT.glob("src/**/*.py"))
}
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))


def imports(name: str) -> set[str]:
    """Modules that a module imports, anywhere in it; names within `src` in full."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports are absolute"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & TREES.keys()) or {str(node.module)}
    return found


def functions(room: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if name.startswith(room) and isinstance(node, ast.FunctionDef):
                yield f"{name}.{node.name}", node


def begins(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def test_nets_import_torch_and_nets_alone():
    for name in filter(lambda name: begins(name, ("src.nets",)), TREES):
        others = {m for m in imports(name) if m.split(".")[0] not in sys.stdlib_module_names}
        assert not [m for m in others if not begins(m, ("torch", "src.nets"))], name


@pytest.mark.parametrize(
    ("room", "barred"),
    [
        ("src.data", ("src.models", "src.nets", "src.cli", "src.callbacks", "src.tracking")),
        ("src.models", ("src.cli", "src.callbacks", "src.tracking")),
        *(
            (f"src.deploy.{name}", ("torch", "lightning", "src.models", "src.nets", "src.data"))
            for name in ("server", "app", "served", "rows")
        ),
    ],
)
def test_rooms_do_not_know_what_comes_after_them(room, barred):
    for name in filter(lambda name: begins(name, (room,)), TREES):
        assert not [m for m in imports(name) if begins(m, barred)], name


def test_imports_go_round_in_no_circle():
    graph = {name: imports(name) & TREES.keys() - {name} for name in TREES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


def lines_of_code(text: str) -> int:
    """Without blank lines, comments and docstrings, which are what --help prints."""
    constants = (
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )
    docs = {n for node in constants for n in range(node.lineno, node.end_lineno + 1)}
    lines = enumerate(map(str.strip, text.splitlines()), 1)
    return len([n for n, line in lines if line and line[0] != "#" and n not in docs])


OPTIONAL = tuple(f"src.{room}" for room in {*OWN.values(), "lessons"})  # to be deleted at will


def test_no_file_over_400_lines_no_room_over_1600_of_code_and_the_core_under_4500():
    """The core is what a project keeps that has none of the optional rooms."""
    texts = {path: path.read_text(encoding="utf-8") for path in ROOT.glob("src/**/*.py")}
    assert not [path for path, text in texts.items() if len(text.splitlines()) > 400]
    counts = dict.fromkeys(("core", *OPTIONAL), 0)
    for path, text in texts.items():
        room = ".".join(path.relative_to(ROOT).parts[:2])
        counts[room if room in OPTIONAL else "core"] += lines_of_code(text)
    assert counts.pop("core") < 4500
    assert max(counts.values()) < 1600


def test_help_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "src", "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in run.stderr.splitlines()}
    assert "src.errors" in imported
    assert not imported & {"torch", "lightning", "numpy", "jsonargparse", "yaml"}


@pytest.mark.parametrize(
    "room", sorted({r for _, *rooms in ROOMS.values() for r in rooms if r.startswith("src.")})
)
def test_what_a_config_can_name_says_what_it_is(room):
    module = importlib.import_module(room)
    registry = {name: getattr(module, name) for name in module.__all__}
    classes = {name: cls for name, cls in registry.items() if inspect.isclass(cls)}
    assert classes
    assert not [name for name, cls in classes.items() if not vars(cls).get("__doc__")]


def test_no_default_is_made_by_a_call_or_changes():
    made = (ast.Call, ast.Lambda, ast.List, ast.Dict, ast.Set)
    for name, function in functions("src"):
        defaults = [*function.args.defaults, *function.args.kw_defaults]
        assert not [d for d in defaults if isinstance(d, made)], name


def test_a_step_is_one_line_and_waits_for_no_device():
    hot = ("step", "losses", "hits", "forward", "augment", "__call__")
    steps = [(name, f) for name, f in functions("src.models") if f.name.endswith(hot)]
    assert any(f.name == "training_step" for _, f in steps)
    for name, function in steps:
        attributes = {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)}
        assert not attributes & {"item", "cpu", "tolist", "numpy"}, name
        assert not function.name.endswith("_step") or len(function.body) == 1, name


def test_logic_reads_attributes_not_hparams():
    for name, tree in TREES.items():
        attributes = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert "hparams" not in attributes, name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_config_begins_with_its_command(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    header = "\n".join(lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")])
    name = path.relative_to(ROOT).as_posix()
    if path.parent.name == "configs":
        assert lines[0] == f"# python -m src fit --config {name}"
    else:
        assert f"--config {name}" in header or f"--config {name}" in SLURM


SLURM = (ROOT / "scripts/slurm.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "strategy", "num_devices", "precision"),
    [
        ("gpu", "SingleDeviceStrategy", 1, "bf16-mixed"),
        ("ddp", "DDPStrategy", 4, "32-true"),
        ("fsdp", "ModelParallelStrategy", 4, "32-true"),
        ("slurm", "DDPStrategy", 1, "bf16-mixed"),
    ],
)
def test_trainer_parts_on_a_machine_with_four_gpus(
    name, strategy, num_devices, precision, monkeypatch
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: (9, 0))
    part = yaml.safe_load((ROOT / f"configs/trainer/{name}.yaml").read_text(encoding="utf-8"))
    options = part["trainer"]
    if isinstance(named := options.get("strategy"), dict):
        *_, cls = named["class_path"].rpartition(".")
        options["strategy"] = getattr(strategies, cls)(**named["init_args"])
    trainer = L.Trainer(**options, logger=False, enable_checkpointing=False)
    assert type(trainer.strategy).__name__ == strategy
    assert trainer.num_devices == num_devices
    assert trainer.precision == precision
