"""Cookiecutter runs this in the new project, with the answers written in."""

import subprocess
import sys

ANSWERS = {{ cookiecutter | jsonify | jsonify }}  # noqa
SCRIPT = [sys.executable, "template/new_project.py", "--answers", ANSWERS]
sys.exit(subprocess.run(SCRIPT).returncode)
