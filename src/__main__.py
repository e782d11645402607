"""`python -m src SUBCOMMAND`. What needs no torch doesn't import it: it answers at once."""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path

from src.errors import INTERRUPTED, SIGNALS, report

SUBCOMMANDS = {
    "start": "look at a file, write a config that fits, train it for a first result",
    "fit": "train, then test the best checkpoint",
    "validate": "measure a checkpoint on the validation rows",
    "test": "measure a checkpoint on the test rows",
    "predict": "write a CSV of predictions for new rows",
    "search": "find the best of given hyperparameters",
    "compare": "a leaderboard of runs and searches",
    "check": "say whether a change is better than a baseline, over seeds",
    "export": "write the model as one ONNX file that takes raw rows, proven equal",
    "serve": "answer HTTP requests with an exported model, without torch",
    "list": "show the sources, nets, models, callbacks and configs that there are",
}
# Subcommands that are a room's own: it takes their words, and may be deleted.
OWN: dict[str, str] = {
    "start": "start",
    "search": "search",
    "compare": "search",
    "check": "search",
    "export": "deploy",
    "serve": "deploy",
}
for name, room in OWN.items():
    if not (Path(__file__).parent / room / "__init__.py").is_file():
        del SUBCOMMANDS[name]
# A scheduler's; while it trains, a run listens to them by itself. Python hears Ctrl-C.
EARLY = [number for number in SIGNALS if number != signal.SIGINT]
USAGE = """usage: python -m src SUBCOMMAND [--config FILE ...] [--KEY VALUE ...]

{}

Start with:       python -m src fit --config configs/digits_mlp.yaml
Change a thing:   the same, and --model.net.hidden_dims [256,128] --model.net.activation gelu
Come back to it:  python -m src test --ckpt_path runs/RUN/checkpoints/best.ckpt
All options:      python -m src fit --help
--debug shows the traceback of an error."""


def main(argv: list[str]) -> int:
    """Runs one subcommand; gives the exit code."""
    debug = "--debug" in argv
    command, *rest = [word for word in argv if word != "--debug"] or ["--help"]
    try:
        if command in ("-h", "--help", "help"):
            print(USAGE.format("\n".join(f"  {k:<10}{v}" for k, v in SUBCOMMANDS.items())))
        elif command == "list" and not rest:
            from src.help import show

            show()
        elif command in SUBCOMMANDS.keys() & OWN.keys():
            import_module(f"src.{OWN[command]}").main(command, rest)
        elif command in SUBCOMMANDS and {"-h", "--help"} & {*rest}:
            from src.startup import import_lightning

            import_lightning()
            from src.help import explain

            explain(command, SUBCOMMANDS[command])
        elif command in SUBCOMMANDS:
            from src.startup import import_lightning

            import_lightning()
            from src.cli import run

            run(command, rest)
        else:
            raise ValueError(f"no subcommand {command!r}; there are: {', '.join(SUBCOMMANDS)}")
    except BrokenPipeError:  # who reads has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    except SystemExit as end:  # of the parser, after --print_config
        return int(end.code or 0)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, debug)
    return 0


def leave(*_: object) -> None:
    """Ends this process at a signal; another one, while it is ending, changes nothing."""
    for number in EARLY:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        for number in EARLY:
            signal.signal(number, leave)
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)
