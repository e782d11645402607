"""From a checkpoint to a file that other programs can use, and a server of it."""

import argparse
from importlib import import_module
from typing import NoReturn

OLDEST, USUAL = 11, 18  # opsets


class Parser(argparse.ArgumentParser):
    """The options of a command that takes no config; what is wrong with them is one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{self.prog.rpartition(' ')[2]}: {message}")


def main(command: str, argv: list[str]) -> None:
    """Runs `export` or `serve`."""
    import_module({"export": "src.deploy.export", "serve": "src.deploy.server"}[command]).main(argv)
