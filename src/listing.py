"""`python -m src list`: what there is, read from the files without importing them."""

import ast
from collections.abc import Iterator
from pathlib import Path

from src.config import ROOMS


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
    for key, (_, package, *_) in ROOMS.items():
        if not package.startswith("src."):
            continue
        path = Path(__file__).parent.parent / package.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        about = dict(summaries(path.parent))
        print(key.removesuffix(".*"))
        for name in exported(path):
            print(f"  {name:<22}{about.get(name, '')}")
    print("configs")
    for path in sorted(Path("configs").rglob("*.yaml")):
        lines = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
        print(f"  {path!s:<38}{lines[1] if len(lines) > 1 else ''}")
