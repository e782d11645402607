"""Looks at data, writes a config that fits it, and trains that for a first honest result.

What it prints is all that it has seen; the config says why each choice was made.
"""

from pathlib import Path

from src.errors import Parser


def main(command: str, argv: list[str]) -> None:
    """Runs `start`."""
    parser = Parser("python -m src start", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    text = "a .csv, .parquet or .npz, or a folder of .npy files, or of images, one folder a class"
    add("path", type=Path, metavar="DATA", help=text)
    add("--target", metavar="COLUMN", help="of a table, the column to predict")
    add("--out", type=Path, metavar="FILE", help="the config to write [configs/DATA.yaml]")
    add("--run", metavar="NAME", help="name of the run folder [DATA-STAMP]")
    add("--epochs", type=int, metavar="N", help="epochs of this first run [the config's]")
    add("--look", "--no-train", action="store_true", help="look, write the config, and end")
    args = parser.parse_args(argv)
    from src.startup import import_lightning

    import_lightning()
    from src.start.first import start

    start(args)
