"""Row 15: checkpoints and configs that want more than to be read."""

from __future__ import annotations

import io
import os
import pickle
import re
import socket
import sys
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from scripts.chaos.lab import Lab, Outcome, last_line
from src import durable

LONGEST_S = 1.0  # of CPU time, after the imports
HANGS_S = 20.0
EVIL = "import os\nos.makedirs({path!r}, exist_ok=True)\ndef f(*_): return 1.0\n"
SCHEDULER = r"scheduler:\n( {6}.*\n)+"
NAMED = {  # what a checkpoint's config says instead; `evil` is a module that can be imported
    "a net": ("class_path: src.nets.MLP", "class_path: evil.Net"),
    "an optimizer": ("class_path: torch.optim.AdamW", "class_path: evil.Optimizer"),
    "a source": ("class_path: src.data.sources.bundled.Wine", "class_path: evil.Source"),
    "a callback": ("callbacks:\n", "callbacks:\n  x: {class_path: evil.Callback}\n"),
    "a callback by its name": ("callbacks:\n", "callbacks:\n  x: evil.Callback\n"),
    "a logger": ("logger:\n", "logger:\n  - class_path: evil.Logger\n"),
    "a profiler": ("profiler: null", "profiler: {class_path: evil.Profiler}"),
    "a plugin": ("plugins: null", "plugins: [evil.Plugin]"),
    "a strategy": ("strategy: auto", "strategy: {class_path: evil.Strategy, init_args: {}}"),
    "an accelerator": ("accelerator: cpu", "accelerator: {class_path: evil.Accelerator}"),
    "a function": (SCHEDULER, "scheduler: {LambdaLR: {lr_lambda: evil.f}}\n"),
    "a function through torch": (SCHEDULER, "scheduler: {LambdaLR: {lr_lambda: torch.os._exit}}\n"),
    "a tag": ("seed_everything: 0", "seed_everything: !!python/object/apply:evil.f [0]"),
    "a tag of a module": ("seed_everything: 0", "seed_everything: !!python/module:evil"),
    "an alias bomb": ("seed_everything: 0", "BOMB"),
    "two megabytes": ("seed_everything: 0", "seed_everything: 0\nx: [" + "1," * 1_000_000 + "]"),
    "depth": ("seed_everything: 0", "x: " + "[" * 100_000),
    "a base": ("seed_everything: 0", "base: /dev/zero"),
}
BOMB = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
CONFIGS = {
    "alias bomb": BOMB,
    "alias bomb of merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}}}\n" for i in range(1, 40)),
    "an alias of itself": "data: &a {source: *a}",
    "a tag": "seed_everything: !!python/object/apply:evil.f [0]",
    "a new tag": "seed_everything: !!python/object/new:evil.f [0]",
    "five megabytes": "x: [" + "1," * 2_500_000 + "]",
    "depth of lists": "x: " + "[" * 100_000,
    "depth of keys": "x: " + "{a: " * 100_000,
    "a base that never ends": "base: /dev/zero",
    "a base on the web": "base: URL",
    "a base that is itself": "base: FILE",
    "zeros": "\0" * 1000,
    "no text": "\udcff\udcfe" * 100,
    "a number of a million digits": "seed_everything: " + "9" * 900_000,
    "nothing": "",
}


class Evil:
    """Runs a command when a pickle of it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def sealed(data: bytes) -> bytes:
    """With the checksum that this project writes: anyone can."""
    return data + durable.seal(data)


def saved(thing: Any, **how: Any) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(thing, buffer, **how)
    return buffer.getvalue()


def checkpoints(whole: Path, ran: Path) -> dict[str, bytes]:
    """Files by what is wrong with them."""
    good = torch.load(whole, weights_only=True)
    evil, data = {**good, "more": Evil(ran)}, whole.read_bytes()[: -durable.TRAILER]
    files = {
        "a pickle": pickle.dumps(Evil(ran)),
        "a pickle, sealed": sealed(pickle.dumps(Evil(ran))),
        "a checkpoint with code": saved(evil),
        "a checkpoint with code, sealed": sealed(saved(evil)),
        "an old checkpoint with code": sealed(saved(evil, _use_new_zipfile_serialization=False)),
        "a module": sealed(saved({**good, "state_dict": torch.nn.Linear(2, 2)})),
        "half": data[: len(data) // 2],
        "half, sealed": sealed(data[: len(data) // 2]),
        "no directory, sealed": sealed(data[:-22]),
        "nothing": b"",
        "a seal": sealed(b""),
        "noise, sealed": sealed(Random(0).randbytes(1 << 20)),
        "a zip bomb": sealed(bomb()),
        "a list": sealed(saved([1, 2])),
        "no config": sealed(saved({k: v for k, v in good.items() if k != "config"})),
        "a config that is no text": sealed(saved({**good, "config": {"a": 1}})),
        "a model of 10^12 features": sealed(saved(with_shape(good, (10**12,)))),
        "no weights": sealed(saved({**good, "state_dict": {"x": torch.zeros(1)}})),
        "other steps": sealed(saved({**good, "global_step": "many", "loops": []})),
        "weights that share memory": sealed(saved({**good, "state_dict": overlapping(good)})),
    }
    for name, (old, new) in NAMED.items():
        assert re.search(old, good["config"]), f"{name}: {old!r} is not in the config"
        text = BOMB + good["config"] if new == "BOMB" else re.sub(old, new, good["config"], count=1)
        files[f"it names {name}"] = sealed(saved({**good, "config": text}))
    return files


def bomb() -> bytes:
    """A checkpoint of a quarter of a megabyte that holds a quarter of a gigabyte of zeros."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("archive/data.pkl", "w") as part,
    ):
        for _ in range(256):
            part.write(bytes(1 << 20))
    return buffer.getvalue()


def with_shape(good: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """A checkpoint of rows of another shape."""
    data = good["DataModule"]
    return {**good, "DataModule": {**data, "signature": {**data["signature"], "in_shape": shape}}}


def overlapping(good: dict[str, Any]) -> dict[str, Any]:
    """Each weight a view of a single number: it is as large as one likes, and costs nothing."""
    return {k: torch.zeros(1).expand(10**6, 10**6) for k in good["state_dict"]}


def hostile(lab: Lab, rng: Random, number: int) -> Outcome:
    """The whole corpus: nothing that a file brings along runs, and it is refused at once."""
    base = lab.folder / "checkpoints"
    base.mkdir(parents=True)
    ran, address = lab.root / f"{lab.name}.ran", socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{address.getsockname()[1]}/x"
    (lab.folder / "evil.py").write_text(EVIL.format(path=str(ran)))
    last = base / "last.ckpt"
    cases = []

    def tried(name: str, words: str, **environment: str) -> None:
        def fault() -> None:
            sys.path.insert(0, str(lab.folder))
            os.environ.update(environment)

        done = lab.run(words, fault, limit_s=HANGS_S)
        lost = []
        if ran.exists():
            ran.rmdir()
            lost.append("code ran")
        if done.code == 0:
            lost.append("it was taken")
        elif not last_line(done).startswith("error: "):
            lost.append(f"exit {done.code}, {last_line(done)}")
        if done.cpu_s > LONGEST_S:
            lost.append(f"{done.cpu_s:.1f} s")
        cases.append([f"{name}, {words.split()[0]}: {what}" for what in lost])

    for name, data in checkpoints(lab.whole("plain").last, ran).items():
        last.write_bytes(data)
        for words in ("test", "fit --trainer.max_epochs 4"):
            tried(name, f"{words} --ckpt_path {last}")
    last.write_bytes(sealed(saved({"more": Evil(ran)})))
    tried("forced code", f"test --ckpt_path {last}", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    last.unlink()
    os.mkfifo(last)
    for path in (last, base, Path("/dev/zero"), url):
        tried(f"{path} as a checkpoint", f"test --ckpt_path {path}")
        tried(f"{path} as a config", f"fit --config {path}")
    for name, text in CONFIGS.items():
        file = lab.folder / "config.yaml"
        text = text.replace("URL", url).replace("FILE", str(file))
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        tried(name, f"fit --config {file}")
    address.setblocking(False)
    try:
        address.accept()
        cases.append(["a web address was asked"])
    except BlockingIOError:
        cases.append([])
    address.close()
    return Outcome(cases)
