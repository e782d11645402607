"""What a checkpoint's config may name, and how much of it there may be."""

import pytest

from src.config import MAX_BYTES, Config
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
