"""Trains a config with several seeds and prints the mean ± standard deviation of each test metric.

python -m scripts.seeds --config configs/digits_mlp.yaml --seeds 5 --model.net.norm batch
"""

import sys
import time
from argparse import ArgumentParser
from contextlib import redirect_stdout
from io import StringIO
from statistics import mean, stdev

from src.cli import run
from src.errors import report


def measure(flags: list[str], num_seeds: int) -> dict[str, list[float]]:
    """Trains with the seeds 0, 1, ...

    Args:
        flags: Those of `fit`, `--config` first of all.
        num_seeds: How many runs.

    Returns:
        Each test metric of each run.
    """
    found: dict[str, list[float]] = {}
    for seed in range(num_seeds):
        with redirect_stdout(StringIO()):
            metrics = run("fit", [*flags, "--seed_everything", str(seed)])
        for name, value in metrics.items():
            found.setdefault(name, []).append(value)
    return {name: values for name, values in found.items() if name.startswith("test/")}


def main() -> int:
    """Takes the flags of `fit`, and the number of seeds."""
    parser = ArgumentParser(description=__doc__, allow_abbrev=False, add_help=False)
    parser.add_argument("--seeds", type=int, default=5)
    ours, flags = parser.parse_known_args()
    start = time.perf_counter()
    try:
        found = measure(["--trainer.logger", "[MetricsCsv]", *flags], ours.seeds)
    except Exception as error:
        return report(error, debug=False)
    for name, values in found.items():
        spread = stdev(values) if ours.seeds > 1 else 0.0
        each = " ".join(f"{value:.4g}" for value in values)
        print(f"{name} {mean(values):.4g} ± {spread:.2g} over {ours.seeds} seeds: {each}")
    print(f"{(time.perf_counter() - start) / ours.seeds:.1f} s a run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
