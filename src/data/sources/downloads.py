"""Public image data sets, downloaded on first use, and read without any pickle."""

import gzip
import hashlib
import shutil
import sys
import tarfile
from http.client import HTTPException
from pathlib import Path
from typing import ClassVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np

from src.data.rows import FREE, SPLITS, Rows, Signature, Source

TIMEOUT_S = 30  # without a byte


class Download(Source):
    """Published images with a published test split.

    Args:
        path: Folder for downloads: the files go into a folder of it named as the data set.
    """

    home: ClassVar[str]
    md5s: ClassVar[dict[str, str]]  # of each file
    in_shape: ClassVar[tuple[int, int, int]]
    class_names: ClassVar[tuple[str, ...]]

    def __init__(self, path: str = "data") -> None:
        self.folder = Path(path).expanduser() / type(self).__name__.lower()

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, md5 in self.md5s.items():
            fetch(f"{self.home}/{name}", self.folder / name, md5)

    def load(self, signature: Signature | None = None) -> Rows:
        x, y, x_test, y_test = self.read()
        published = np.repeat(np.int8([FREE, SPLITS.index("test")]), [len(y), len(y_test)])
        x = np.concatenate([x, x_test]).reshape(-1, *self.in_shape)
        y = np.concatenate([y, y_test]).astype(np.int64)
        return Rows(x, y, Signature(self.in_shape, "uint8", self.class_names), published=published)

    def read(self) -> list[np.ndarray]:
        """Pixels and class codes of train, then of test, all uint8."""
        raise NotImplementedError


class Mnist(Download):
    """MNIST, 70,000 grey images of 28x28 of handwritten digits, 10,000 of them the test split.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database (CC BY-SA 3.0), from the mirror and
    with the checksums that torchvision uses.
    """

    home = "https://ossci-datasets.s3.amazonaws.com/mnist"
    md5s = {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }
    in_shape = (1, 28, 28)
    class_names = tuple("0123456789")

    def read(self) -> list[np.ndarray]:
        return [read_idx(self.folder / name) for name in self.md5s]


class FashionMnist(Mnist):
    """Fashion-MNIST, 70,000 grey images of 28x28 of clothes, 10,000 of them the test split.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747 (MIT licence).
    """

    home = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    md5s = {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
    class_names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )


class Cifar10(Download):
    """CIFAR-10, 60,000 colour images of 32x32 of 10 classes, 10,000 of them the test split.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, the binary
    version of https://www.cs.toronto.edu/~kriz/cifar.html (published without a licence).
    """

    home = "https://www.cs.toronto.edu/~kriz"
    md5s = {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}
    in_shape = (3, 32, 32)
    class_names = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )

    def read(self) -> list[np.ndarray]:
        parts = {}
        with tarfile.open(self.folder / "cifar-10-binary.tar.gz", "r|gz") as archive:
            for member in archive:  # read, never extracted: no name in it is used as a path
                if file := archive.extractfile(member):
                    parts[Path(member.name).stem] = file.read()
        train = b"".join(parts[f"data_batch_{i}"] for i in range(1, 6))
        both = (np.frombuffer(part, np.uint8) for part in (train, parts["test_batch"]))
        rows = [part.reshape(-1, 3073) for part in both]  # a byte of class, then three channels
        return [array for part in rows for array in (part[:, 1:], part[:, 0])]


def read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file of bytes, gzipped: 0, 0, 8, the number of axes, their lengths, values."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def fetch(url: str, target: Path, md5: str) -> None:
    """Downloads a file unless it is there, from where the last try was cut, and checks it.

    Raises:
        ValueError: It can't be downloaded, or is not the file with this MD5.
    """
    part = target.with_name(f"{target.name}.part")
    if not target.exists():
        try:
            _download(url, part)
        except (OSError, HTTPException) as error:
            raise ValueError(
                f"{url} can't be downloaded ({error}): run again to go on, or put the file at"
                f" {target} by hand"
            ) from error
    file = target if target.exists() else part
    with file.open("rb") as content:
        got = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != md5:
        file.unlink()
        raise ValueError(
            f"{file} of {url} had the MD5 {got}, not {md5}, and was removed: run again, or put the"
            f" right file at {target} by hand"
        )
    file.replace(target)


def _download(url: str, part: Path) -> None:
    """Appends the bytes that `part` lacks; starts again if the server only sends the whole."""
    from rich.progress import wrap_file

    start = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # there are no more bytes: whether they are right, the MD5 tells
            return
        raise
    with response:
        start = start if response.status == 206 else 0
        length = int(response.headers.get("Content-Length", 0))
        bar = wrap_file(response, length, description=part.stem, disable=not sys.stdout.isatty())
        with bar as body, part.open("ab" if start else "wb") as out:
            shutil.copyfileobj(body, out)
    if (received := part.stat().st_size - start) < length:
        raise ConnectionError(f"cut after {received} of {length} bytes")
