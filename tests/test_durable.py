"""Checkpoint files under damage, power loss, a full disk and a folder that takes nothing."""

import errno
import os
import shutil
from itertools import combinations
from pathlib import Path

import pytest
import torch
from lightning.pytorch import strategies

from src import durable
from src.durable import DurableIO, load, previous, seal, write
from tests.conftest import refused

FIT = "fit --config configs/digits_mlp.yaml --data.batch_size 256 --trainer.max_epochs 3"


def save(files, path, number):
    files.save_checkpoint({"number": number, "weights": torch.full((5000,), number)}, path)
    files.wait()


@pytest.fixture
def last(tmp_path):
    """A checkpoint of two generations, 1 and 2."""
    files = DurableIO()
    for number in (1, 2):
        save(files, tmp_path / "last.ckpt", number)
    assert load(tmp_path / "last.ckpt")["number"] == 2
    return tmp_path / "last.ckpt"


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_any_damage_is_found_and_the_one_before_is_taken(last, capsys):
    whole = last.read_bytes()
    size = len(whole)
    harms = [lambda bit=bit: flip(last, bit) for bit in range(0, 8 * size, 8 * size // 150)]
    harms += [lambda n=n: last.write_bytes(whole[:n]) for n in range(0, size, size // 40)]
    harms += [lambda n=n: last.write_bytes(whole[:-n]) for n in (1, 64, 72, 73)]
    harms += [lambda: last.write_bytes(whole + b"more"), last.unlink]
    for harm in harms:
        shutil.copy(last, last.with_name("copy"))
        harm()
        assert load(last)["number"] == 1
        what = "damaged" if last.exists() else "gone"
        line = f"WARNING: {last} is {what}: last.ckpt.prev is taken instead\n"
        assert capsys.readouterr().err == line
        last.with_name("copy").replace(last)
    assert load(last)["number"] == 2
    assert capsys.readouterr().err == ""


def test_a_save_over_a_damaged_file_keeps_the_whole_one_before(last):
    flip(last, 999)
    save(DurableIO(), last, 3)
    assert load(last)["number"] == 3
    flip(last, 999)
    assert load(last)["number"] == 1


def test_both_damaged_is_an_error(last):
    for path in (last, previous(last)):
        flip(path, 999)
    with pytest.raises(ValueError, match=r"last.ckpt is damaged, or no checkpoint$"):
        load(last)


class Disk:
    """What a save does to the names and the data on a disk, and all that a power loss can leave."""

    def __init__(self, monkeypatch):
        self.steps, real = [], {n: getattr(Path, n) for n in ("replace", "unlink", "hardlink_to")}

        def replace(path, target):
            self.steps.append([("set", target.name, path.name), ("drop", path.name)])
            return real["replace"](path, target)

        def unlink(path, missing_ok=False):
            self.steps.append([("drop", path.name)])
            return real["unlink"](path, missing_ok)

        def hardlink_to(path, target):
            self.steps.append([("set", path.name, target.name)])
            return real["hardlink_to"](path, target)

        def wrote(path, *parts):
            self.steps.append([("torn", path.name)])
            write(path, *parts)
            self.steps.append([("new", path.name, path.read_bytes())])

        for method in (replace, unlink, hardlink_to):
            monkeypatch.setattr(Path, method.__name__, method)
        monkeypatch.setattr(durable, "write", wrote)
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: [fsync(fd), self.sync(fd)])

    def sync(self, fd):
        if Path(f"/proc/self/fd/{fd}").is_dir():
            self.steps.append("sync")

    def losses(self, names):
        """The files after a loss at each moment, with each subset of names that got to the disk."""
        for end in range(len(self.steps) + 1):
            done = self.steps[:end]
            synced = max((i for i, step in enumerate(done) if step == "sync"), default=-1)
            certain = [change for step in done[: synced + 1] if step != "sync" for change in step]
            open_ = [change for step in done[synced + 1 :] for change in step]
            for count in range(len(open_) + 1):
                for kept in combinations(range(len(open_)), count):
                    yield self.apply(names, certain, open_, kept)

    def apply(self, names, certain, open_, kept):
        disk, memory = dict(names), dict(names)
        for number, change in enumerate([*certain, *open_]):
            kind, name, *rest = change
            value = rest[0] if rest else None
            if kind in ("set", "torn"):
                value = memory[value] if kind == "set" else b"torn"
            for view in (memory, disk):
                if view is memory or number < len(certain) or number - len(certain) in kept:
                    view[name] = value
        return {name: data for name, data in disk.items() if data is not None}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_a_power_loss_leaves_one_generation_or_the_other(last, monkeypatch, tmp_path):
    names = {path.name: path.read_bytes() for path in last.parent.iterdir()}
    disk, files = Disk(monkeypatch), DurableIO()
    best = last.with_name("best.ckpt")
    save(files, best, 3)
    files.copy(best, last)
    files.wait()
    monkeypatch.undo()
    assert load(last)["number"] == 3
    there, outcomes, count = tmp_path / "there", set(), 0
    there.mkdir()
    for left in disk.losses(names):
        key = tuple(sorted((name, hash(data)) for name, data in left.items()))
        count += 1
        if key in outcomes:
            continue
        outcomes.add(key)
        for path in there.iterdir():
            path.unlink()
        for name, data in left.items():
            (there / name).write_bytes(data)
        assert load(there / "last.ckpt")["number"] in (2, 3)
        if (there / "best.ckpt").exists():
            assert load(there / "best.ckpt")["number"] == 3
    assert count > 200
    assert len(outcomes) > 20


@pytest.fixture
def full(monkeypatch):
    """`full(n)`: the `n`th write and all after it find the disk full, half way."""

    def from_now(nth):
        def fails(path, *parts):
            calls.append(path)
            if len(calls) < nth:
                return write(path, *parts)
            path.write_bytes(bytes(parts[0][: len(parts[0]) // 2]))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        calls = []
        monkeypatch.setattr(durable, "write", fails)

    return from_now


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_full_disk_costs_checkpoints_and_not_the_run(nth, go, full, tmp_path):
    full(nth)
    said = go(f"{FIT} --run a")
    folder = tmp_path / "runs" / "a" / "checkpoints"
    assert said.code == 2
    lines = said.err.splitlines()
    text = "was not saved (No space left on device): the one before it stays"
    assert lines[:-1] == [f"WARNING: {folder / 'best.ckpt'} {text}"] * (4 - nth)
    last = folder / "last.ckpt"
    assert lines[-1] == ("error: the newest checkpoint was not saved (No space left on device)")
    assert said.out.count("epoch ") == 3, "training goes on"
    if nth > 1:
        assert load(last)["epoch"] == nth - 1
    else:
        assert not last.exists()


def test_a_full_disk_for_a_while_is_forgiven(go, monkeypatch, tmp_path):
    def fails_once(path, *parts):
        monkeypatch.setattr(durable, "write", write)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "write", fails_once)
    said = go(f"{FIT} --run a")
    assert (said.code, said.err.count("\n")) == (0, 1)
    assert load(tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt")["epoch"] == 3


def test_what_saves_cut_short_left_is_swept(go, tmp_path):
    folder = tmp_path / "runs" / "a" / "checkpoints"
    folder.mkdir(parents=True)
    for name in (".last.ckpt.part", ".best.ckpt.kept"):
        (folder / name).touch()
    (folder / "mine.ckpt").touch()
    assert go(f"{FIT} --run a --trainer.max_epochs 1").code == 0
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "last.ckpt", "mine.ckpt"}


def test_a_disk_without_second_names_gets_copies(last, monkeypatch):
    def none(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", none)
    files = DurableIO()
    save(files, last, 3)
    assert load(last)["number"] == 3
    flip(last, 999)
    assert load(last)["number"] == 2


def test_test_and_predict_take_the_one_before_as_well(go, tmp_path):
    said = go(f"{FIT} --run a")
    best = said.folder / "checkpoints" / "best.ckpt"
    flip(best, 5000)
    for command in ("test", "predict"):
        again = go(f"{command} --ckpt_path {best}")
        assert again.code == 0
        assert again.err.startswith(f"WARNING: {best} is damaged: best.ckpt.prev is taken instead")


def test_a_strategy_that_saves_several_files_is_refused():
    several = [
        strategies.ModelParallelStrategy(),
        strategies.FSDPStrategy(state_dict_type="sharded"),
        object.__new__(strategies.DeepSpeedStrategy),  # whose package need not be there
    ]
    for strategy in several:
        said = refused(lambda strategy=strategy: DurableIO().put_into(strategy))
        what = f"`trainer.strategy` {type(strategy).__name__} saves a file a process, not one"
        assert said == f"{what}: take it as configs/trainer/fsdp.yaml does, or ddp"


def test_a_strategy_that_reads_files_itself_is_given_a_whole_one(last, monkeypatch, capsys):
    cls, reads = strategies.FSDPStrategy, []
    monkeypatch.setattr(cls, "load_checkpoint", lambda _, path: reads.append(path))
    files, strategy = DurableIO(), cls()
    files.put_into(strategy)
    strategy.load_checkpoint(last)
    flip(last, 999)
    files.held = [{"already": "read, and told of"}]
    for count in (0, 1):
        strategy.load_checkpoint(str(last))
        assert capsys.readouterr().err.count("last.ckpt is damaged") == count
        assert not files.held
    assert reads == [last, previous(last), previous(last)]


def test_pickled_code_is_not_run(last, monkeypatch, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"evil": Evil()}, last)
    data = last.read_bytes()
    last.write_bytes(data + seal(data))
    with pytest.raises(ValueError, match="holds more than numbers and texts"):
        load(last)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ValueError, match="unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        load(last)
    assert not (tmp_path / "ran").exists()


def rewrite(path, config):
    """The checkpoint with another config, as whole as it was."""
    torch.save(load(path) | {"config": config}, path)
    data = path.read_bytes()
    path.write_bytes(data + seal(data))


HOSTILE = {
    "a net": ("class_path: src.nets.MLP", "class_path: evil.Net"),
    "a callback": ("callbacks:\n", "callbacks:\n  x: {class_path: evil.Callback}\n"),
    "a callback by its name": ("callbacks:\n", "callbacks:\n  x: evil.Callback\n"),
    "a logger": ("logger:\n", "logger:\n  - class_path: evil.Logger\n"),
    "a profiler": ("profiler: null", "profiler: {class_path: evil.Profiler}"),
    "a profiler by its name": ("profiler: null", "profiler: evil.Profiler"),
    "a plugin": ("plugins: null", "plugins: [{class_path: evil.Plugin}]"),
    "a plugin by its name": ("plugins: null", "plugins: [evil.Plugin]"),
    "a strategy": ("strategy: auto", "strategy: {class_path: evil.Strategy, init_args: {}}"),
    "a strategy by its name": ("strategy: auto", "strategy: evil.Strategy"),
    "a function": ("scheduler: null", "scheduler: {LambdaLR: {lr_lambda: evil.f}}"),
    "a list of functions": ("scheduler: null", "scheduler: {LambdaLR: {lr_lambda: [evil.f]}}"),
    "a tag": ("seed_everything: 0", "seed_everything: !!python/object/apply:evil.f [0]"),
}


def test_a_checkpoint_names_nothing_foreign(go, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})")
    monkeypatch.syspath_prepend(tmp_path)
    said = go(f"{FIT} --run a --trainer.max_epochs 1")
    last = said.folder / "checkpoints" / "last.ckpt"
    config = load(last)["config"]
    for name, (old, new) in HOSTILE.items():
        assert old in config, name
        rewrite(last, config.replace(old, new, 1))
        for command in ("fit --trainer.max_epochs 2", "test"):
            said = go(f"{command} --ckpt_path {last}")
            assert said.code == 2, name
            assert "evil" in said.err
            assert said.err.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_a_project_may_trust_packages_of_its_own(go, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text("from src.nets import MLP\n\n\nclass Net(MLP):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    said = go(f"{FIT} --run a --trainer.max_epochs 1 --model.net own.Net")
    last = said.folder / "checkpoints" / "last.ckpt"
    line = "own.Net is of no package in TRUSTED of src/trust.py: add it if it is yours"
    assert line in go(f"test --ckpt_path {last}").err
    monkeypatch.setattr("src.trust.TRUSTED", ("src", "torch", "lightning", "own"))
    assert go(f"test --ckpt_path {last}").metrics == said.metrics


def test_a_config_that_is_too_large(go, tmp_path):
    (tmp_path / "c.yaml").write_text("a: " + "[" * 2_000_000)
    said = go(f"fit --config {tmp_path}/c.yaml")
    line = f"error: config {tmp_path}/c.yaml has more than 1,000,000 bytes: that is none\n"
    assert (said.code, said.err) == (2, line)


def test_a_file_that_someone_removed_is_saved_again(last):
    files = DurableIO()
    for number in (3, 4):
        save(files, last, number)
        last.unlink()
    save(files, last, 5)
    assert files.failure is None
    assert load(last)["number"] == 5


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_rows_that_a_checkpoint_counts_are_on_the_disk_before_it(last, monkeypatch):
    names, fsync = [], os.fsync

    def synced(number):
        names.append(Path(f"/proc/self/fd/{number}").readlink().name)
        fsync(number)

    monkeypatch.setattr(os, "fsync", synced)
    files = DurableIO()
    files.log = last.with_name("metrics.csv")
    save(files, last, 3)
    files.log.write_text("epoch,step\n")
    save(files, last, 4)
    each = [".last.ckpt.part", last.parent.name]
    assert names == [*each, "metrics.csv", *each]


def test_a_damaged_checkpoint_is_told_of_once_and_read_once(go, monkeypatch, tmp_path):
    fit = "fit --config configs/digits_mlp.yaml --trainer.max_epochs 2 --run r"
    assert go(fit).code == 0
    last, reads, load = tmp_path / "runs" / "r" / "checkpoints" / "last.ckpt", [], torch.load
    last.write_bytes(last.read_bytes()[:-100])
    monkeypatch.setattr(torch, "load", lambda file, **k: [reads.append(file), load(file, **k)][1])
    said = go(f"test --ckpt_path {last}")
    assert said.code == 0
    assert said.err.count("is damaged") == 1
    assert [file.name for file in reads] == ["last.ckpt.prev"]


def test_torch_told_to_run_code_is_refused_before_training(go, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    said = go("fit --config configs/digits_mlp.yaml --trainer.max_epochs 2")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
