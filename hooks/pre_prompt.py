"""Cookiecutter runs this in its own copy of the repository: it wants the project in a folder."""

import shutil
from pathlib import Path

ignored = Path(".gitignore").read_text("utf-8").replace("/", "").split()
folder = Path("{{cookiecutter.__slug}}")
for path in [*Path().iterdir()]:
    if path.name not in (".git", *ignored) and "{{" not in path.name:
        folder.mkdir(exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, folder / path.name)
