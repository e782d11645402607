"""Trains a config with several seeds and prints the mean and spread of each test metric.

python -m scripts.seeds --config configs/digits_mlp.yaml --seeds 5 --model.net.norm batch
"""

import contextlib
import io
import statistics
import sys
import time

from src.cli import run


def main(argv: list[str]) -> None:
    """Takes the flags of `fit`, and `--seeds N` (5 if left out)."""
    num_seeds = 5
    if "--seeds" in argv:
        at = argv.index("--seeds")
        num_seeds = int(argv[at + 1])
        del argv[at : at + 2]
    quiet = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    found: dict[str, list[float]] = {}
    start = time.perf_counter()
    for seed in range(num_seeds):
        with contextlib.redirect_stdout(io.StringIO()):
            metrics = run("fit", [*argv, *quiet, "--seed_everything", str(seed)])
        for name, value in metrics.items():
            found.setdefault(name, []).append(value)
    for name, values in found.items():
        if name.startswith("test/"):
            spread = statistics.stdev(values) if num_seeds > 1 else 0.0
            each = " ".join(f"{v:.4g}" for v in values)
            print(
                f"{name} {statistics.mean(values):.4f} ± {spread:.4f} over {num_seeds} seeds: {each}"
            )
    print(f"{(time.perf_counter() - start) / num_seeds:.1f} s a run")


if __name__ == "__main__":
    main(sys.argv[1:])
