"""What git knows of the code."""

import subprocess
from pathlib import Path
from typing import Any


def git_state() -> dict[str, dict[str, Any]]:
    """Commit of the code, and whether it was changed since; empty where there is no git."""
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain=v2", "--branch"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    commit, *lines = out.splitlines()
    return {"git": {"commit": commit.split()[-1], "dirty": any(line[0] != "#" for line in lines)}}
