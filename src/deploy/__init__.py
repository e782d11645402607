"""From a checkpoint to a file that other programs can use, and a server of it."""

from importlib import import_module

OLDEST, USUAL = 11, 18  # opsets


def main(command: str, argv: list[str]) -> None:
    """Runs `export` or `serve`."""
    import_module({"export": "src.deploy.export", "serve": "src.deploy.server"}[command]).main(argv)
