"""What a checkpoint's config may name, and how much of it there may be."""

import pytest

from src.config import MAX_BYTES, Config
from src.durable import DurableIO
from src.run_folder import read_checkpoint
from src.trust import foreign


@pytest.mark.parametrize(
    "path", ["os.system", "torch.os._exit", "torch.serialization.shutil.rmtree"]
)
def test_what_a_trusted_package_has_imported_is_not_its_own(path):
    assert [*foreign({"lr_lambda": [path]})] == [path]


@pytest.mark.parametrize("path", ["src.nets.MLP", "torch.optim.AdamW", "torch.relu", "torch.gone"])
def test_what_is_its_own(path):
    assert [*foreign(path)] == []


def test_a_text_that_is_too_large():
    with pytest.raises(ValueError, match=r"config last.ckpt has more than 1,000,000 bytes"):
        Config().add("x: [" + "1," * (MAX_BYTES // 2) + "]", "last.ckpt")


def test_a_text_that_is_nested_without_an_end():
    with pytest.raises(ValueError, match=r"^last.ckpt: not YAML: nested without an end$"):
        Config().add("x: " + "[" * 100_000, "last.ckpt")


def test_a_config_that_is_no_text(tmp_path):
    path = tmp_path / "last.ckpt"
    files = DurableIO()
    files.save_checkpoint({"config": {"a": 1}, "DataModule": {1: 1}, "state_dict": {1: 1}}, path)
    files.wait()
    with pytest.raises(ValueError, match=r"last.ckpt was not .*: its config is no text$"):
        read_checkpoint(path)
