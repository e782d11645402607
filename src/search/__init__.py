"""Finds the best of given hyperparameters, and compares runs.

python -m src search --config configs/search/FILE.yaml [--KEY VALUE ...]
  Runs the trials of the file, or goes on with them, on all cores or GPUs of this machine. The file
  is a sweep of Weights & Biases over the options of `fit`, with `base: FILE` or `command` for the
  config they change, and other options as in any config. KEY is an option of `fit`, or:
  --run NAME       name of the folder below runs/search/; without it the file's name
  --trials N       trials in all; `run_cap` of the file
  --epochs N       epochs of all trials together, after which no trial is begun
  --minutes N      minutes, after which trials stop; the same command goes on with them
  --seeds N        seeds of each trial, which is judged by their mean; `seeds` of the file
  --workers N      processes, each training one trial at a time, on one core or GPU; a trial has
                   more cores with --callbacks.threads.num N, more GPUs with --trainer.devices N
  --engine NAME    `stacked` trains trials that differ in their optimizer's options or their seed
                   alone as one batched network, `trials` each by itself; without it whatever fits
  --storage URL    a database of Optuna or a file, for workers on several machines

python -m src compare RUN ... [--metric NAME] [--csv FILE]
  RUN is a run folder, the folder of a search, or a folder of such. Runs on other rows, of another
  partition or judged by another metric are in tables of their own; runs that differ in the seed
  alone are one line.
"""

from importlib.util import find_spec


def main(command: str, argv: list[str]) -> None:
    """Runs `search` or `compare`."""
    if {"-h", "--help"} & {*argv}:
        print(__doc__)
    elif command == "compare":
        from src.search.compare import compare

        compare(argv)
    elif not find_spec("optuna"):
        raise ValueError("search needs optuna: pip install optuna (the extra `search`)")
    else:
        from src.startup import import_lightning

        import_lightning()
        from src.search.command import search

        search(argv)
