"""`python -m src list`: what there is, read from the files without importing them."""

import ast
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parent
ROOMS = {
    "data.source": SRC / "data" / "sources" / "__init__.py",
    "data.partition": SRC / "data" / "partition.py",
    "model": SRC / "models" / "__init__.py",
    "model.net": SRC / "nets" / "__init__.py",
    "model.augment": SRC / "models" / "augment.py",
    "model.scheduler": SRC / "models" / "schedules.py",
    "callbacks": SRC / "callbacks" / "__init__.py",
    "trainer.logger": SRC / "tracking" / "__init__.py",
}


def exported(path: Path) -> list[str]:
    """The names in a module's `__all__`."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def summaries(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and first docstring line of every class below a folder."""
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                yield node.name, (ast.get_docstring(node) or "").partition("\n")[0]


def show() -> None:
    """Prints every room with its classes, then the configs with their first comment lines."""
    for key, path in ROOMS.items():
        about = dict(summaries(path.parent))
        print(f"{key}")
        for name in exported(path):
            print(f"  {name:<22}{about.get(name, '')}")
    print("configs")
    for path in sorted(Path("configs").rglob("*.yaml")):
        lines = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
        print(f"  {path!s:<38}{lines[1] if len(lines) > 1 else ''}")
