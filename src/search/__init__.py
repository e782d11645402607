"""Finds the best of given hyperparameters, compares runs, and checks a change.

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

python -m src compare RUN ... [--metric NAME] [--sort KEY] [--where KEY=VALUE] [--csv FILE]
                              [--plot FILE.png]
  RUN is a run folder, the folder of a search, or a folder of such. Runs on other rows, of another
  partition or judged by another metric are in tables of their own; runs that differ in the seed
  alone are one line. KEY is a column or an option, by its end or as a whole; --where may be given
  several times, also as KEY!=VALUE, "KEY<N" or "KEY>N".

python -m src check [--config FILE ...] [--KEY VALUE ...] --baseline RUN [--seeds N]
  Trains what is given, and the baseline, with N seeds (5) each, for as long and on the same rows,
  and says whether the change is better, worse or no difference: the mean of the differences
  between runs of one seed, and its 95 % interval by Student's t. RUN is a run folder or a config;
  without --config, KEY changes that. What was trained is kept: more seeds add to it.
  --metric NAME    what judges: val/loss, or what callbacks.checkpoint.monitor says; test/acc, say,
                   only if it is asked for
  --demand better  exit code 3 also if there is no difference; without it, only if it is worse
  --run NAME       name of the folder below runs/check/; without it the config's name
  --trainer.max_epochs N and other limits are for both.
"""

from importlib import import_module
from importlib.util import find_spec


def main(command: str, argv: list[str]) -> None:
    """Runs `search`, `compare` or `check`."""
    if {"-h", "--help"} & {*argv}:
        print(__doc__)
    elif command == "compare":
        from src.search.compare import compare

        compare(argv)
    elif command == "search" and not find_spec("optuna"):
        raise ValueError("search needs optuna: pip install optuna (the extra `search`)")
    else:
        from src.startup import import_lightning

        import_lightning()
        where = {"search": "command", "check": "check"}[command]
        getattr(import_module(f"src.search.{where}"), command)(argv)
