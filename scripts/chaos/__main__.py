"""Repeats the table of faults: runs are killed, told to end, filled up, damaged, and go on.

python -m scripts.chaos --trials 20                 # each row, a little: two minutes
python -m scripts.chaos --trials 1000               # as before a release: an hour or two
python -m scripts.chaos --rows 1 3 7 --json chaos.json

A trial survives if the run ends with the same bits as one that nothing happened to: weights,
optimizer, schedule, random states, steps, best, callbacks, every logged row but for its speed.
The exit code is 1 if any did not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

if sys.platform != "linux":
    raise SystemExit("scripts.chaos needs Linux: it forks, and looks at processes")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # with a GPU, no process that has trained can be forked
os.environ.setdefault("OMP_NUM_THREADS", "1")

from src.startup import import_lightning

import_lightning()

from scripts.chaos import disk, hostile, killed, numbers, ranks, watched  # noqa: E402
from scripts.chaos.lab import VARIANTS, Done, Lab, Outcome, Process, last_line, prepare  # noqa: E402

Trial = Callable[[Lab, Random, int], Outcome]
MOST_SHOWN = 10  # lost trials, in full


@dataclass
class Row:
    """A row of the table.

    Args:
        fault: What happens.
        trials: How many of 20 and of 1,000; the same number where one trial has all cases.
        trial: Makes it happen once.
    """

    fault: str
    trials: tuple[int, int]
    trial: Trial

    def num_trials(self, asked: int) -> int:
        few, many = self.trials
        share = asked / 20 if asked <= 20 else 1 + (asked - 20) / 980 * (many / few - 1)
        return max(1, round(few * share))


@dataclass
class Found:
    """What came of the trials of a row, by their numbers, and how long they took together."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def cases(self) -> list[list[str]]:
        return [case for number in sorted(self.outcomes) for case in self.outcomes[number].cases]

    def line(self, fault: str) -> dict[str, Any]:
        """What the table has of it."""
        return {
            "fault": fault,
            "trials": len(self.cases),
            "survived": sum(not lost for lost in self.cases),
            "lost": dict(Counter(what for lost in self.cases for what in lost)),
            "notes": [*dict.fromkeys(o.note for o in self.outcomes.values() if o.note)],
            "seconds": round(self.wall_s, 1),
        }


ROWS = {
    1: Row("SIGKILL while training", (20, 1000), killed.in_training),
    2: Row("SIGKILL in validation or at an epoch's end", (6, 100), killed.after_an_epoch),
    3: Row("SIGKILL during a save, TMPDIR elsewhere", (30, 1000), killed.in_a_save),
    4: Row("newest checkpoint flipped, truncated, emptied, deleted", (20, 1000), disk.damaged),
    5: Row("power loss, in all states that the disk may be in", (2, 2), disk.power_lost),
    6: Row("disk full, read-only, broken", (5, 50), disk.full),
    7: Row("TERM, INT, USR1, HUP", (20, 400), killed.told_to_end),
    8: Row("NaN or infinity, once and for ever", (6, 60), numbers.not_finite),
    9: Row("out of memory", (3, 20), numbers.out_of_memory),
    10: Row("a rank killed, raising, asleep", (4, 100), ranks.rank_fails),
    11: Row("a rank killed, torchrun restarts", (2, 50), ranks.restarted),
    12: Row("a worker killed that loads rows", (2, 50), ranks.worker_killed),
    13: Row("tracker down, log disk full", (4, 20), watched.unwatched),
    14: Row("uneven shards: 1 to 64 rows on 1 to 4 ranks", (1, 1), ranks.uneven),
    15: Row("hostile checkpoints and configs", (1, 1), hostile.hostile),
}
FIRST = (15, 11, 10, 14)  # whose trials take long


def run(chosen: list[int], asked: int, seed: int, at_once: int, root: Path) -> dict[int, Found]:
    """Makes every trial of some rows, each in a process of its own, several at a time."""
    for variant in VARIANTS:
        check(Lab(root, "whole").make_whole(variant))
    if 11 in chosen:
        for strategy in ranks.STRATEGIES:
            check(ranks.make_whole(root, strategy))
    todo = [(n, trial) for n in chosen for trial in range(ROWS[n].num_trials(asked))]
    todo.sort(key=lambda job: job[0] in FIRST)  # the last is taken first
    running: dict[tuple[int, int], Process] = {}
    found = {number: Found() for number in chosen}
    try:
        while todo or running:
            while todo and len(running) < at_once:
                number, trial = todo.pop()
                running[number, trial] = start(number, trial, seed, root)
            for (number, trial), process in [*running.items()]:
                if done := process.poll():
                    del running[number, trial]
                    path = root / f"{number}-{trial}.json"
                    found[number].outcomes[trial] = read_outcome(path, done)
                    found[number].wall_s += done.wall_s
            time.sleep(0.005)
    finally:  # after Ctrl-C
        for process in running.values():
            os.killpg(process.pid, signal.SIGKILL)
    return found


def check(done: Done) -> None:
    """Without a whole run there is nothing to compare with."""
    if done.code:
        raise SystemExit(f"the run that nothing happens to fails: {last_line(done)}")


def start(number: int, trial: int, seed: int, root: Path) -> Process:
    """Begins a trial, which is the same for the same seed."""
    lab, rng = Lab(root, f"{number}-{trial}"), Random(f"{seed} {number} {trial}")

    def call() -> int:
        outcome = ROWS[number].trial(lab, rng, trial)
        (root / f"{lab.name}.json").write_text(json.dumps(outcome))
        shutil.rmtree(lab.folder, ignore_errors=True)
        return 0

    return Process(call, root / f"{lab.name}.trial", limit_s=600)


def read_outcome(path: Path, done: Done) -> Outcome:
    """What a trial has written, or why it has not."""
    if path.is_file():
        return Outcome(*json.loads(path.read_text()))
    return Outcome([[f"the trial itself failed: {last_line(done)}"]])


def table(lines: dict[int, dict[str, Any]]) -> str:
    """Markdown; what differed or was lost comes with the number of trials."""
    out = ["| # | fault | trials | survived | differed or lost | s |", "|---|---|---|---|---|---|"]
    for number, line in lines.items():
        found = [*line["notes"], *(f"{what} ({n})" for what, n in line["lost"].items())]
        shown = "; ".join(found[:MOST_SHOWN]) + "; ..." * (len(found) > MOST_SHOWN) or "nothing"
        cells = [number, line["fault"], line["trials"], line["survived"], shown, line["seconds"]]
        out.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    return "\n".join(out)


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 0 if nothing was lost."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--trials", type=int, default=20, help="of row 1; of the others in proportion"
    )
    parser.add_argument("--rows", type=int, nargs="+", choices=ROWS, default=[*ROWS], metavar="ROW")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trials at a time")
    parser.add_argument("--json", type=Path, help="file for the table, and what each trial lost")
    args = parser.parse_args(argv)
    began = time.monotonic()
    prepare()
    with TemporaryDirectory() as folder:
        found = run(args.rows, args.trials, args.seed, max(1, args.jobs), Path(folder))
    lines = {number: row.line(ROWS[number].fault) for number, row in found.items()}
    lost = {
        f"{number}-{trial}": outcome.cases
        for number, row in found.items()
        for trial, outcome in row.outcomes.items()
        if any(outcome.cases)
    }
    print(table(lines))
    for trial, cases in [*lost.items()][:MOST_SHOWN]:
        print(f"lost in trial {trial}:", *[what for case in cases for what in case][:3], sep="\n  ")
    num_lost = sum(any_lost for row in found.values() for any_lost in map(bool, row.cases))
    print(f"{num_lost} lost; seed {args.seed}, {time.monotonic() - began:.0f} s")
    if args.json:
        known = {"seed": args.seed, "trials": args.trials, "rows": lines, "lost": lost}
        args.json.write_text(json.dumps(known, indent=1))
    return int(num_lost > 0)


if __name__ == "__main__":
    sys.exit(main())
