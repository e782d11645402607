"""From a file to a first honest result: look, write, train, compare."""

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from string import Template

import numpy as np

from src.__main__ import SUBCOMMANDS
from src.cli import CLI, merged, pairs, quiet
from src.config import Config
from src.errors import hint
from src.run_folder import opened, root_of
from src.start.look import Seen, look

# Up to so many rows: widths of an MLP, its dropout; channels of a ConvNet; rows a batch; epochs.
SIZES = (
    (1_500, [64], 0.3, [16, 32, 64], 16, 40),
    (15_000, [128], 0.2, [16, 32, 64], 64, 40),
    (10**12, [256, 128], 0.1, [32, 64, 128], 512, 20),
)
OWN = ("target", "out", "run", "epochs")
# What makes a linear model of any net; it takes a greater rate.
LINEAR = [("model.net", "MLP"), ("model.net.hidden_dims", "[]"), ("model.optimizer.lr", "1e-2")]
LINEAR += [("model.net.categorical", "onehot"), ("trainer.logger", "[MetricsCsv]")]


def start(argv: list[str]) -> None:
    """Does what the words of the command line say.

    Raises:
        ValueError: The data can't be used, or the config or the run folder is there already.
        FileNotFoundError: The data isn't there.
    """
    name, *rest = [word for word in argv if word != "--look"] or ["--"]
    if name.startswith("--"):
        raise ValueError("start needs data: python -m src start DATA [--target COLUMN]")
    flags, path = [*pairs(rest)], Path(name)
    if unknown := [key for key, _ in flags if key not in OWN and "." not in key]:
        key = unknown[0]
        raise ValueError(f"start has no option --{key}{hint(key, OWN)}, and those of fit")
    own = {key: value for key, value in flags if key in OWN}
    flags = [("trainer.devices", "1"), *(flag for flag in flags if flag[0] not in OWN)]
    flags += [("trainer.max_epochs", own["epochs"])] if "epochs" in own else []
    stem = re.sub(r"\W+", "_", path.resolve().stem)
    out = Path(own.get("out", f"configs/{stem}.yaml"))
    seen = look(path, own.get("target"))
    print("\n".join(seen[1]), flush=True)
    if out.exists():
        raise ValueError(f"{out} exists: python -m src fit --config {out}, or give --out FILE")
    config, text, looks = Config(), written(seen, out), "--look" in argv
    config.add(text, str(out))
    flags += [("trainer.logger", "false")] if looks else []
    tree = merged(config, [], flags).checked()
    root, run = root_of(tree), own.get("run")
    if run and (root / f"{run}-linear").exists():
        raise ValueError(f"run folder {root / run}-linear exists: choose another --run NAME")
    with opened(root, run, out.stem, None) as folder, quiet():
        net = CLI("fit", tree, folder, {})
        net.datamodule.setup("fit")  # what it refuses is said before anything is written
        if not len(net.datamodule.split.test) or tree["trainer"].get("limit_test_batches") == 0:
            raise ValueError("there are no test rows to compare by: see `data.partition.fracs`")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        print(f"config: {out}, for python -m src fit --config {out}", flush=True)
        if looks:
            return
        try:
            net.execute(None)
        except ValueError:
            out.unlink()  # it is no config that fits
            raise
    with opened(root, f"{folder.name}-linear", "", None) as other, quiet():
        tree = merged(Config(), [str(out)], flags + LINEAR).checked()
        linear = CLI("fit", tree, other, {})
        with redirect_stdout(io.StringIO()):
            linear.execute(None)
    compare(net, linear)
    best = f"--ckpt_path {folder / 'checkpoints' / 'best.ckpt'}"
    wider = "widths [64,128,256]" if "ConvNet" in text else "hidden_dims [256,128]"
    tell = [f"fit --config {out} --model.net.{wider}", f"compare {folder} {other}"]
    tell += [f"predict {best} --data.predict_path {shlex.quote(name)}", f"export {best}"]
    there = [f"python -m src {words}" for words in tell if words.split()[0] in SUBCOMMANDS]
    print("Next: " + "\n      ".join(there))


def written(seen: Seen, out: Path) -> str:
    """The config: the lines of the template that there are values for."""
    rows, _, values = seen
    kind, num = ("vectors", "signals", "images")[rows.x.ndim - 2], f"{len(rows):,}"
    _, dims, dropout, widths, batch, epochs = next(size for size in SIZES if len(rows) <= size[0])
    values |= {"out": out, "num": num, kind: num, "batch_size": batch, "epochs": epochs}
    values |= {"hidden_dims": dims, "dropout": dropout, "widths": widths}
    text = Path(__file__).with_name("config.yaml").read_text("utf-8")
    lines = [Template(line) for line in text.splitlines(keepends=True)]
    known = [line for line in lines if all(map(values.get, line.get_identifiers()))]
    return "".join(line.substitute(values) for line in known)


def compare(net: CLI, linear: CLI) -> None:
    """Prints how good the net is on the test rows, and what it should be better than."""
    data, name, weights = net.datamodule, "test/r2", np.ones(1)
    known, y = (data.y.numpy()[rows] for rows in (data.split.train, data.split.test))
    preds = [cli.model.results["test"][0].numpy() for cli in (net, linear)]
    if data.signature.class_names:
        name, counts = "test/acc", np.bincount(y)
        if net.model.class_weights == "balanced":
            name, weights = "balanced accuracy", len(y) / np.count_nonzero(counts) / counts[y]
        preds = [*[scores.argmax(1) for scores in preds], np.bincount(known).argmax()]
        scores = [weights * (found == y) for found in preds]  # of each row
    else:
        scores = [(1 - (p - y) ** 2 / y.var(0)).mean(1) for p in (*preds, known.mean(0))]
    print(f"{name} of {len(y):,} test rows, and what the net gains (95 % interval):")
    print(f"  this net         {scores[0].mean():.3f}")
    for label, score in zip(("a linear model", "always the same"), scores[1:], strict=True):
        gain = scores[0] - score
        low, high = gain.mean() + np.array([-1.96, 1.96]) * gain.std() / len(y) ** 0.5
        how = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
        print(f"  {label:<17}{score.mean():<8.3f}{how}: {low:+.3f} to {high:+.3f}")
