"""The configs whose data is downloaded, here from a server of this machine."""

import gzip
import hashlib
import io
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from src.data.sources import Cifar10, FashionMnist, Mnist
from tests.test_configs import head, num_weights

DOWNLOADED = {
    "mnist_mlp": Mnist,
    "fashion_mnist_convnet": FashionMnist,
    "cifar10_fast": Cifar10,
    "cifar10_resnet18": Cifar10,
}


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder whose files a local server gives out, and its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    (folder := tmp_path / "served").mkdir()
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def idx(values: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return gzip.compress(header + values.tobytes())


def small_files(source: type) -> dict[str, bytes]:
    """Files of the data set's own format with 120 images of 10 classes, 20 of them for testing."""
    x = np.random.default_rng(0).integers(0, 256, (120, *source.in_shape), np.uint8)
    y = np.arange(120, dtype=np.uint8) % 10
    if source is not Cifar10:
        return dict(
            zip(source.md5s, map(idx, (x[:100, 0], y[:100], x[100:, 0], y[100:])), strict=True)
        )
    rows = np.hstack([y[:, None], x.reshape(120, -1)]).reshape(6, 20, -1)
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w:gz") as archive:
        for name, part in zip(
            [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], rows, strict=True
        ):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = part.nbytes
            archive.addfile(member, io.BytesIO(part.tobytes()))
    return {"cifar-10-binary.tar.gz": file.getvalue()}


@pytest.mark.parametrize(("name", "source"), DOWNLOADED.items())
def test_a_config_with_a_download_trains(go, served, tmp_path, monkeypatch, name, source):
    folder, url = served
    files = small_files(source)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    monkeypatch.setattr(source, "md5s", {k: hashlib.md5(v).hexdigest() for k, v in files.items()})
    monkeypatch.setattr(source, "home", url)
    monkeypatch.setattr(source, "num_test", 20)
    line = f"fit --config configs/{name}.yaml --trainer.max_epochs 1 --data.batch_size 40"
    said = go(line, "--data.source.path", tmp_path / "data")
    assert not said.err
    assert 0 <= said.metrics["test/acc"] < 0.6
    if source is Cifar10:
        about = " ".join(head(f"configs/{name}.yaml"))
        assert f"{num_weights(said.folder):,} weights" in about
