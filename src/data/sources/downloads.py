"""Public image data sets, downloaded on first use, and read without any pickle."""

import gzip
import hashlib
import shutil
import tarfile
from http.client import HTTPException
from pathlib import Path
from typing import ClassVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from tqdm import tqdm

from src.data.rows import FREE, SPLITS, Rows, Signature, Source


class Download(Source):
    """Published images whose last rows are a published test split.

    Args:
        path: Folder for downloads: the files go into a folder of it named as the data set.
    """

    home: ClassVar[str]
    md5s: ClassVar[dict[str, str]]  # of each file
    in_shape: ClassVar[tuple[int, int, int]]
    class_names: ClassVar[tuple[str, ...]]
    num_test = 10_000

    def __init__(self, path: str = "data") -> None:
        self.folder = Path(path).expanduser() / type(self).__name__.lower()

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, md5 in self.md5s.items():
            fetch(f"{self.home}/{name}", self.folder / name, md5)

    def _rows(self, x: np.ndarray, y: np.ndarray) -> Rows:
        """Pixels and class codes, uint8, of train and then of test, as rows."""
        published = np.full(len(y), FREE, np.int8)
        published[-self.num_test :] = SPLITS.index("test")
        x, y = x.reshape(-1, *self.in_shape), y.astype(np.int64)
        return Rows(x, y, Signature(self.in_shape, "uint8", self.class_names), published=published)


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

    def load(self, signature: Signature | None = None) -> Rows:
        contents = [gzip.decompress((self.folder / name).read_bytes()) for name in self.md5s]
        # IDX: 0, 0, 8 for bytes, the number of axes, the length of each in 4 bytes, the values
        values = [np.frombuffer(c, np.uint8, offset=4 + 4 * c[3]) for c in contents]
        return self._rows(np.concatenate(values[::2]), np.concatenate(values[1::2]))


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

    def load(self, signature: Signature | None = None) -> Rows:
        parts = {}
        with tarfile.open(self.folder / "cifar-10-binary.tar.gz", "r|gz") as archive:
            for member in archive:  # read, never extracted: no name in it is used as a path
                if member.name.endswith(".bin") and (file := archive.extractfile(member)):
                    parts[member.name] = file.read()
        content = b"".join(parts[name] for name in sorted(parts))  # data_batch_*, test_batch
        rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)  # a byte of class, then pixels
        return self._rows(rows[:, 1:].copy(), rows[:, 0])


def fetch(url: str, path: Path, md5: str) -> None:
    """Downloads a file unless it is there whole; goes on from where the last try was cut."""
    cure = f"run again, or put the file at {path} by hand"
    content = path.read_bytes() if path.exists() else b""
    if _md5(content) == md5:
        return
    request = Request(url, headers={"Range": f"bytes={len(content)}-"})
    try:
        with (
            urlopen(request, timeout=30) as answer,  # seconds without a byte
            path.open("ab" if answer.status == 206 else "wb") as out,  # 200: it sends the whole
            tqdm.wrapattr(
                answer, "read", total=answer.length, desc=path.name, leave=False, disable=None
            ) as body,
        ):
            shutil.copyfileobj(body, out)
            if answer.length:  # bytes that it announced and didn't send
                raise ConnectionError(f"cut {answer.length} bytes before the end")
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        if getattr(error, "code", None) != 416:  # no byte is left to send, so the file is wrong
            raise ValueError(f"{url} can't be downloaded ({error}): {cure}") from error
    if (got := _md5(path.read_bytes())) != md5:
        path.unlink()
        raise ValueError(f"{path} from {url} had the MD5 {got}, not {md5}, and is removed: {cure}")


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
