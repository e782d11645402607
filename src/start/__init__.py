"""Looks at data, writes a config that fits it, and trains that for a first honest result.

python -m src start DATA [--target COLUMN] [--KEY VALUE ...]
  DATA is a .csv or .parquet; or a .npz, or a folder of .npy files, with `x` and `y`; or a folder of
  images, one folder in it for each class. It says what it has seen there, writes a config that
  says why each choice was made, trains it, and a linear model beside it, and compares them on the
  test rows. KEY is an option of `fit`, for these two runs alone, or:
  --target COLUMN  of a table, the column to predict; without it the columns are shown
  --out FILE       the config to write; without it configs/DATA.yaml. It may not be there yet
  --run NAME       name of the run folder below runs/; without it the config's name and the time
  --epochs N       is --trainer.max_epochs N
  --look           looks, writes the config, and ends
"""


def main(command: str, argv: list[str]) -> None:
    """Runs `start`."""
    if {"-h", "--help"} & {*argv}:
        print(__doc__)
        return
    from src.startup import import_lightning

    import_lightning()
    from src.start.first import start

    start(argv)
