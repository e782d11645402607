"""What a person sees when something is wrong: one line, and an exit code that a script can use."""

from __future__ import annotations

import re
import sys
import traceback

OUR_FAULT, WRONG_INPUT, INTERRUPTED, BAD_NUMBERS = 1, 2, 75, 76
LONGEST = 600  # characters of a message; libraries print whole tensors


def explain(error: BaseException) -> tuple[str, int]:
    """One line about an error, and the exit code.

    `ValueError` and its like are wrong input: this project raises them with a full sentence, and so
    do torch and Lightning for an option that they don't take. Anything else is our fault.
    """
    text = re.sub(r"\s+", " ", str(error)).strip()[:LONGEST]
    name = type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted{text and f'; go on with: {text}'}", INTERRUPTED
    if isinstance(error, FloatingPointError):
        return text, BAD_NUMBERS
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}", WRONG_INPUT
    if isinstance(error, (ValueError, OSError)) or name == "MisconfigurationException":
        return text, WRONG_INPUT
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{last.filename.rpartition('site-packages/')[2]}:{last.lineno}"
    return f"{name} at {place}: {text} (run again with --debug for the whole story)", OUR_FAULT


def report(error: BaseException, debug: bool) -> int:
    """Prints the line, with `debug` the traceback before it; gives the exit code."""
    if debug:
        traceback.print_exception(error)
    line, code = explain(error)
    print(f"error: {line}", file=sys.stderr)
    return code
