import gzip
import hashlib
import io
import socket
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from src.data.rows import FREE
from src.data.sources.downloads import Cifar10, FashionMnist, Mnist, fetch


class Server(ThreadingHTTPServer):
    """Serves `files`; `cut` is after how many bytes the next answer breaks off."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.cut, self.ranges = {}, [], None, True
        self.url = f"http://127.0.0.1:{self.server_port}/mirror"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers["Range"]
        self.server.requests.append((self.path.removeprefix("/mirror/"), asked))
        content = self.server.files.get(self.path.removeprefix("/mirror/"))
        if content is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=")[:-1]) if asked and self.server.ranges else 0
        if start and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut, self.server.cut = self.server.cut, None
        return self.wfile.write(content[start:][:cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def idx(values):
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return gzip.compress(header + values.tobytes())


def md5(content):
    return hashlib.md5(content).hexdigest()


def images(num, shape, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num, *shape), np.uint8), rng.integers(0, 10, num, np.uint8)


def serve_mnist(server):
    """Five train and three test images; gives the source class that takes their checksums."""
    (x, y), (x_test, y_test) = images(5, (28, 28), 0), images(3, (28, 28), 1)
    contents = dict(zip(Mnist.md5s, map(idx, (x, y, x_test, y_test)), strict=True))
    server.files |= contents
    md5s = {name: md5(server.files[name]) for name in Mnist.md5s}
    fields = {"md5s": md5s, "home": server.url, "num_test": 3}
    return type("Mnist", (Mnist,), fields), np.concatenate([x, x_test]), [*y, *y_test]


def serve_cifar(server, num=2):
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    parts, file = {}, io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../../escaped.bin"))
        for seed, name in reversed(list(enumerate(batches))):  # their order must not matter
            x, y = images(num, (3, 32, 32), seed)
            parts[name] = x, y
            content = b"".join(bytes([k]) + image.tobytes() for image, k in zip(x, y, strict=True))
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = server.files["cifar-10-binary.tar.gz"] = file.getvalue()
    fields = {"md5s": {"cifar-10-binary.tar.gz": md5(content)}, "home": server.url, "num_test": num}
    source = type("Cifar10", (Cifar10,), fields)
    x, y = (np.concatenate([parts[name][i] for name in batches]) for i in (0, 1))
    return source, x, y


def error_of(call, *args):
    with pytest.raises(ValueError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mnist_is_downloaded_once_and_keeps_its_test_split(server, tmp_path):
    source_class, x, y = serve_mnist(server)
    source = source_class(str(tmp_path))
    source.prepare()
    rows = source.load()
    assert rows.x.dtype == np.uint8
    assert rows.x.shape == (8, 1, 28, 28)
    np.testing.assert_array_equal(rows.x[:, 0], x)
    assert rows.y.dtype == np.int64
    assert rows.y.tolist() == y
    assert rows.published.tolist() == [FREE] * 5 + [2] * 3
    assert rows.signature.class_names == tuple("0123456789")
    assert sorted(f.name for f in (tmp_path / "mnist").iterdir()) == sorted(Mnist.md5s)
    assert server.requests == [(name, "bytes=0-") for name in Mnist.md5s]

    source_class(str(tmp_path)).prepare()
    assert len(server.requests) == 4


def test_cifar10_is_read_from_the_archive_and_nothing_is_extracted(server, tmp_path):
    source_class, x, y = serve_cifar(server)
    source = source_class(str(tmp_path / "data"))
    source.prepare()
    rows = source.load()
    np.testing.assert_array_equal(rows.x, x)
    np.testing.assert_array_equal(rows.y, y)
    assert rows.published.tolist() == [FREE] * 10 + [2] * 2
    assert rows.x.flags.writeable  # torch warns of an array that isn't
    assert rows.signature.class_names[3] == "cat"
    assert [f.name for f in tmp_path.rglob("*") if f.is_file()] == ["cifar-10-binary.tar.gz"]


def test_tables_are_whole():
    md5s = [*Mnist.md5s.values(), *FashionMnist.md5s.values(), *Cifar10.md5s.values()]
    assert len(set(md5s)) == 9
    assert all(len(bytes.fromhex(md5)) == 16 for md5 in md5s)
    for source in (Mnist, FashionMnist, Cifar10):
        assert len(set(source.class_names)) == 10


def test_a_cut_connection_is_gone_on_with(server, tmp_path):
    content = server.files["a.bin"] = np.random.default_rng(0).bytes(300_000)
    server.cut = 100_000
    url, target = f"{server.url}/a.bin", tmp_path / "a.bin"
    assert error_of(fetch, url, target, md5(content)) == (
        f"{url} can't be downloaded (cut 200000 bytes before the end): run again, or put the file"
        f" at {target} by hand"
    )
    fetch(url, target, md5(content))
    assert server.requests == [("a.bin", "bytes=0-"), ("a.bin", "bytes=100000-")]
    assert [f.name for f in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == content


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.files["a.bin"], server.ranges = b"0123456789", False
    (tmp_path / "a.bin").write_bytes(b"01234")
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", md5(b"0123456789"))
    assert (tmp_path / "a.bin").read_bytes() == b"0123456789"


@pytest.mark.parametrize("there", [True, False])
def test_a_wrong_checksum_removes_the_file(server, tmp_path, there):
    server.files["a.bin"] = b"wrong"
    target, url = tmp_path / "a.bin", f"{server.url}/a.bin"
    if there:
        target.write_bytes(b"wrong")
    assert error_of(fetch, url, target, md5(b"right")) == (
        f"{target} from {url} had the MD5 {md5(b'wrong')}, not {md5(b'right')}, and is removed:"
        f" run again, or put the file at {target} by hand"
    )
    assert list(tmp_path.iterdir()) == []
    assert server.requests == [("a.bin", f"bytes={5 * there}-")]


def test_without_a_network_the_error_says_where_the_file_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(Mnist, "home", url)
        message = error_of(Mnist(str(tmp_path)).prepare)
    name = "train-images-idx3-ubyte.gz"
    assert message.startswith(f"{url}/{name} can't be downloaded (<urlopen error [")
    assert message.endswith(f"): run again, or put the file at {tmp_path / 'mnist' / name} by hand")


def test_a_file_that_the_server_does_not_have(server, tmp_path):
    url = f"{server.url}/a.bin"
    assert error_of(fetch, url, tmp_path / "a.bin", "") == (
        f"{url} can't be downloaded (HTTP Error 404: Not Found): run again, or put the file at"
        f" {tmp_path / 'a.bin'} by hand"
    )
