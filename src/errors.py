"""What a person sees when something is wrong: one line, and an exit code that a script can use."""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

OUR_FAULT, WRONG_INPUT, WORSE, INTERRUPTED, BAD_NUMBERS = 1, 2, 3, 75, 76
# By these a run is interrupted: by a person, or a scheduler.
NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")  # Windows lacks two
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
# Options and classes of torch and Lightning that can't do their work here, and what to do instead.
UNFIT = {
    "callbacks": "write `callbacks: {NAME: CLASS}`, as in --callbacks.stop EarlyStopping",
    "trainer.callbacks": "write `callbacks: {NAME: CLASS}`, as in --callbacks.stop EarlyStopping",
    "trainer.use_distributed_sampler": "batches are sharded already, without padding",
    "BatchSizeFinder": "compare runs by --data.batch_size",
    "LearningRateFinder": "compare runs by --model.optimizer.lr",
    "OnExceptionCheckpoint": "take Checkpoint",
    "StochasticWeightAveraging": "take EMA",
    **dict.fromkeys(("ProgressBar", "RichProgressBar", "TQDMProgressBar"), "there is a bar"),
    **dict.fromkeys(("BaseFinetuning", "ModelPruning", "SpikeDetection"), "make one in code"),
    **dict.fromkeys(("BackboneFinetuning", "ChainedScheduler", "SequentialLR"), "make one in code"),
}
# The least that an option may be, whatever class it is of, and those that 0 would end at once.
LEAST = {
    "batch_size": 1, "eval_batch_size": 1, "accumulate_grad_batches": 1, "step_size": 1, "T_max": 1,
    "check_val_every_n_epoch": 1, "gradient_clip_val": 0, "patience": 0, "num_mels": 1,
    "sample_rate": 1,
}  # fmt: skip
NOT_0 = {"max_epochs", "max_steps", "limit_train_batches", "val_check_interval"}
WORDS = {
    int: "an integer", float: "a number", bool: "true or false", str: "a string",
    dict: "`key: value` pairs", list: "a list", tuple: "a list", NoneType: "null",
}  # fmt: skip
# The part of a library that an option is for: what fails there is the option's fault.
PARTS = {
    "/src/nets/.* in __init__$": "model.net",
    "^torch/nn/functional.* in _verify_batch_size$": "model.net.norm",
    "^torch/optim/lr_scheduler": "model.scheduler",
    "^torch/optim/(?!swa)": "model.optimizer",
    "^lightning/fabric/utilities/seed": "seed_everything",
    "^lightning/pytorch/callbacks/": "callbacks",
    "^lightning/pytorch/loggers/": "trainer.logger",
    "^lightning/(fabric|pytorch)/(accelerators|trainer/(connectors|setup))": "trainer",
}
NO_MEMORY = re.compile("allocate.* memory|out of memory")


def short(text: object, longest: int = 250) -> str:
    """`text` in one line, cut between two words if it is longer than that."""
    line = " ".join(str(text).split())
    return line if len(line) <= longest else f"{line[:longest].rpartition(' ')[0]} ..."


def hint(name: str, names: Iterable[str]) -> str:
    """The end of a message about a wrong name: what it may have meant, and what there is."""
    names, low = [*names], name.lower()
    begun = [n for n in names if low.startswith(n.lower()) and len(n) > 2]  # `val/accuracy`
    close = sorted(begun, key=len)[-1:] or difflib.get_close_matches(name, names, 1)
    meant = f"; did you mean {close[0]}?" if close else ";"
    return f"{meant} there are: {short(', '.join(names), 200)}" if names else ""


def shown(value: Any) -> str:
    """A value as a message shows it."""
    return short(json.dumps(value, default=str), 60)


def readable(kind: Any) -> str:
    """A type in words: `an integer or null`, `one of a, b`, `a list (a number, ...)`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, UnionType):
        plain = [arg for arg in args if arg in WORDS or get_args(arg)]  # no Tensor: YAML holds none
        return " or ".join(dict.fromkeys(map(readable, plain or args)))
    if origin in (list, tuple, dict):
        args = (*args, ...) if origin is list else args
        inner = ", ".join("..." if arg is ... else readable(arg) for arg in args)
        return f"{WORDS[origin]} ({inner})"
    return WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def explain(error: BaseException) -> tuple[str, int]:
    """One line about an error, and the exit code.

    `ValueError` and its like are wrong input: this project raises them with a full sentence, and so
    do torch and Lightning for an option that they don't take. Anything else is our fault.
    """
    places, parsed, whole = stack(error), "", str(error)
    while error.__cause__ and places[0].startswith("jsonargparse/"):  # it wraps what a class raises
        parsed = parsed or ".".join(re.findall(r'Parser key "([\w.]+)"', str(error)))
        error = error.__cause__
        places = stack(error)
    name, lines = type(error).__name__, str(error).splitlines()
    text = re.sub(" HINT: Did you call.*", "", short(error, 400)) or name
    text = text.replace("No supported gpu backend found!", "no GPU: --trainer.accelerator cpu")
    hidden = re.search(r"\n  - (?!Not a valid|Expected|Problem)(.+)", whole)  # of a list's item
    if hidden and places[0].startswith("jsonargparse/"):
        return short(hidden[1]), WRONG_INPUT
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted{'; go on with: ' * bool(lines)}{error}", INTERRUPTED
    if isinstance(error, FloatingPointError):
        return text, BAD_NUMBERS
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}", WRONG_INPUT
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        less = "lower `data.batch_size` or the sizes of `model.net`"
        return f"not enough memory: {less} ({short(text, 120)})", WRONG_INPUT
    if name.startswith("Dist") or "gloo/" in text:
        what = "another process of this run has ended or hangs: see what it said"
        return f"{what}; --resume auto goes on ({short(text, 120)})", OUR_FAULT
    if "loading state_dict" in text:
        return f"`ckpt_path` does not fit this model: {short(lines[1])}", WRONG_INPUT
    wrong = isinstance(error, (ValueError, OSError)) or name == "MisconfigurationException"
    if wrong and "/src/" in places[0]:
        return text, WRONG_INPUT
    outer = takewhile(lambda place: not re.search("/src/(?!nets/)", place), places)
    keys = (key for place in outer for part, key in PARTS.items() if re.search(part, place))
    if key := next(keys, parsed):
        unnamed = isinstance(error, (ArithmeticError, AttributeError, LookupError))
        return f"`{key}`: {f'{name}: ' * unnamed}{short(text)}", WRONG_INPUT
    if wrong:
        return text, WRONG_INPUT
    library = Path(os.__file__).parent.as_posix()  # a line of the project says more than one there
    ours = (p for p in places if Path(p).is_absolute() and not p.startswith(library))
    own = next(ours, places[0]).removeprefix(f"{Path.cwd().as_posix()}/")
    return f"{name} at {own}: {short(text)} (--debug shows the traceback)", OUR_FAULT


def stack(error: BaseException) -> list[str]:
    """File and line of each call that led to the error, the innermost first."""
    calls = reversed(traceback.extract_tb(error.__traceback__))
    places = (f"{Path(call.filename).as_posix()}:{call.lineno} in {call.name}" for call in calls)
    return [place.rpartition("site-packages/")[2] for place in places]


def report(error: BaseException, debug: bool) -> int:
    """Prints the line, with `debug` the traceback before it; gives the exit code."""
    if debug:
        traceback.print_exception(error)
    line, code = explain(error)
    parent = os.getppid()
    if any(os.environ.get(key, "0") != "0" for key in ("RANK", "SLURM_PROCID", "LOCAL_RANK")):
        if code == INTERRUPTED:  # rank 0 says the same
            return code
        time.sleep(3)  # perhaps, too, and its end kills this process, or is seen
        if os.getppid() != parent:
            return code
    print(f"error: {line}", file=sys.stderr)
    return code
