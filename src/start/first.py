"""From a file to a first honest result: look, write, train, judge."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from string import Template

from src import run_folder
from src.cli import run
from src.config import Config, load
from src.data.module import DataModule
from src.start.judge import judge
from src.start.look import Seen, look

# Up to so many rows: widths of an MLP, its dropout; channels of a ConvNet; epochs.
SIZES = (
    (1_500, [64], 0.3, [16, 32, 64], 40),
    (15_000, [128], 0.3, [16, 32, 64], 40),
    (150_000, [256, 128], 0.2, [32, 64, 128], 20),
    (math.inf, [512, 256], 0.1, [32, 64, 128], 10),
)


def start(args: Namespace) -> None:
    """Does what `args` of the command line say.

    Raises:
        ValueError: The data can't be used, or the config or the run folder is there already.
        FileNotFoundError: The data isn't there.
    """
    name = re.sub(r"\W+", "_", args.path.resolve().stem)
    out = args.out or Path("configs", f"{name}.yaml")
    fit = f"python -m src fit --config {out}"
    if out.exists():
        raise ValueError(f"{out} exists: train it by `{fit}`, or give another --out FILE")
    seen = look(args.path, args.target)
    print("\n".join(seen.says))
    text = written(seen, out)
    config = Config()
    config.add(text, str(out))
    data = data_of(config)
    with run_folder.opened(run_folder.root_of(config.tree), args.run, out.stem, None) as folder:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        print(f"config: {out}", flush=True)
        if args.look:
            print(f"Next: {fit}")
            return
        budget = {"max_epochs": args.epochs, "max_time.seconds": round(60 * (args.minutes or 0))}
        flags = [f"--trainer.{name}={value}" for name, value in budget.items() if value]
        run("fit", ["--config", str(out), *flags])
        best = folder / "checkpoints" / "best.ckpt"
        run("predict", ["--ckpt_path", str(best)])
        judge(folder / "predictions_test.csv", data, "class_weights" in seen.values)
    wider = "hidden_dims [256,128]" if "hidden_dims" in text else "widths [64,128,256]"
    print(f"Next: {fit} --model.net.{wider}")
    print(f"      python -m src predict --ckpt_path {best} --data.predict_path {args.path}")
    print(f"      python -m src export --ckpt_path {best}")


def written(seen: Seen, out: Path) -> str:
    """The config: the lines of the template that `seen` has values for."""
    num, shape = len(seen.rows), seen.rows.signature.in_shape
    _, hidden_dims, dropout, widths, epochs = next(size for size in SIZES if num <= size[0])
    own = {"weight_decay": 0.1, "hidden_dims": hidden_dims, "dropout": dropout}
    if len(shape) > 1:
        own = {"weight_decay": 0.05, "widths": widths, "stem_width": widths[0], "kernel": 3}
        own |= {"pad": max(1, min(shape[1:]) // 16)} if len(shape) == 3 else {"kernel": 5}
    batch_size = 2 ** round(math.log2(min(1024, max(16, num / 50))))
    own |= {"batch_size": batch_size, "max_epochs": epochs, "patience": epochs // 4, "out": out}
    own |= {"num_rows": f"{num:,}", "why": f"for {num:,} rows"} | seen.values
    lines = []
    for line in Path(__file__).with_name("config.yaml").read_text("utf-8").splitlines():
        with suppress(KeyError):  # there is no such value
            lines.append(Template(line).substitute(own))
    return "\n".join(lines) + "\n"


def data_of(config: Config) -> DataModule:
    """The rows of a config, split and measured as `fit` does it."""
    tree = config.checked()["data"]
    for key in ("source", "partition"):
        tree[key] = load(tree[key]["class_path"])(**tree[key]["init_args"])
    data = DataModule(**tree)
    data.setup("fit")
    return data
