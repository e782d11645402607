"""A folder of images for each class, decoded once into an array on disk."""

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from src.data.rows import FREE, SPLITS, Rows, Signature, Source
from src.data.sources.labels import read_labels
from src.pixels import Form, decode

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
BLOCK = 64  # images decoded at a time: all that memory holds while the cache is written
VERSION = 1  # of how images are decoded: another one makes every cache anew
Files = dict[str, tuple[str, int]]  # path below the folder -> class, published split or `FREE`
log = logging.getLogger("src")


class Images(Source):
    """A folder of images for each class, optionally below `train/`, `val/` and `test/`.

    Images are turned as their EXIF data says, and put on white where they are transparent. They are
    duplicates if their files are equal to the byte. Hidden files and other files are ignored. The
    pixels are kept in `.fulgurite_cache/` beside the folder, until a file changes.

    Args:
        path: The folder. Without `val/` or `test/`, the partition takes their rows from train.
        resize: `[height, width]`, or one number for both: images are stretched to it, in pixels.
        channels: `rgb` (3) or `grey` (1), whatever the files have.
        skip_broken: Leave out files that can't be decoded, instead of stopping.
    """

    def __init__(
        self,
        path: str,
        resize: int | tuple[int, int] | None = None,
        channels: Literal["grey", "rgb"] = "rgb",
        skip_broken: bool = False,
    ) -> None:
        self.path, self.skip_broken = Path(path).expanduser().absolute(), skip_broken
        size = (resize, resize) if isinstance(resize, int) else resize
        if size is not None and min(size) < 1:
            raise ValueError(f"`data.source.resize` is {resize}: give pixels, 1 or more")
        self.form: Form = (size, channels)

    def prepare(self) -> None:
        self._cached(self.files(), self.form)

    def load(self, signature: Signature | None = None) -> Rows:
        files = self.files()
        x, ids = self._cached(files, self.form)
        if signature and x.shape[1:] != signature.in_shape:  # a trained net has the last word
            x, ids = self._cached(files, _form(signature))
        labels, splits = zip(*(files[name] for name in ids), strict=True)
        where = f"{self.path}: the folder"
        y, classes = read_labels(np.array(labels), "classification", signature, where)
        signature = signature or Signature(x.shape[1:], "uint8", classes)
        published, hashes = np.array(splits, np.int8), np.array([*ids.values()], np.uint64)
        return Rows(x, y, signature, published=published, ids=hashes, names=np.array([*ids]))

    def files(self) -> Files:
        """Finds every image of the folder, of its splits or not, and of its classes."""
        files: Files = {}
        tops = _folders(self.path)
        splits = any(t.lower().startswith(SPLITS) and _folders(self.path / t) for t in tops)
        if splits and not {"train"} <= {*tops} <= {*SPLITS}:
            raise ValueError(f"{self.path} has {', '.join(tops)}: name the splits train, val, test")
        for top in tops if splits else [""]:
            split = SPLITS.index(top) if top in ("val", "test") else FREE
            labels = _folders(self.path / top)
            if len(labels) < 2:
                what = f"{len(labels)} folders, not one for each class"
                raise ValueError(f"{self.path / top} has {what}")
            for label in labels:
                names = _images(self.path / top / label)
                files |= {Path(top, label, name).as_posix(): (label, split) for name in names}
                if not names:
                    raise ValueError(f"the class {self.path / top / label} has no images")
        return files

    def _cached(self, files: Files, form: Form) -> tuple[np.ndarray, dict[str, int]]:
        """The pixels `(N, C, H, W)`, mapped from disk, and the id of each image by its name."""
        home = self.path.parent if os.access(self.path.parent, os.W_OK) else Path.home() / ".cache"
        what = repr((VERSION, self.path, form, self.skip_broken)).encode()
        name = f"{self.path.name}-{blake2b(what, digest_size=8).hexdigest()}"
        pixels, index = (home / ".fulgurite_cache" / f"{name}.{kind}" for kind in ("bin", "json"))
        stats = {name: (self.path / name).stat() for name in files}
        state = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
        cache = json.loads(index.read_text()) if index.exists() and pixels.exists() else {}
        if cache.get("state") != state:
            pixels.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=pixels.parent) as temp:
                cache = self._write(Path(temp, "bin"), files, form) | {"state": state}
                Path(temp, "json").write_text(json.dumps(cache))
                Path(temp, "bin").replace(pixels)
                Path(temp, "json").replace(index)
        x = np.memmap(pixels, np.uint8, "c", shape=(len(cache["ids"]), *cache["shape"]))
        return np.asarray(x), cache["ids"]

    def _write(self, path: Path, files: Files, form: Form) -> dict[str, Any]:
        """Writes all pixels; gives the shape of an image, and the id of each by its name."""
        shape: tuple[int, ...] = ()
        ids: dict[str, int] = {}
        with path.open("wb") as out:
            for name, image, id in _decoded(self.path, [*files], form, self.skip_broken):
                ids[name] = id
                shape = shape or image.shape
                if image.shape != shape:
                    sizes = f"{image.shape[1:]} (height, width), other images {shape[1:]}"
                    raise ValueError(f"{name} is {sizes}: set `data.source.resize`")
                out.write(image.tobytes())
        trained = {files[name][0] for name in ids if files[name][1] == FREE}
        if lost := {label for label, _ in files.values()} - trained:
            raise ValueError(f"{self.path} has no image of the class `{min(lost)}` to train on")
        return {"shape": shape, "ids": ids}


def need_pillow() -> None:
    """Raises `ValueError` where Pillow isn't installed."""
    if find_spec("PIL") is None:
        raise ValueError("images need Pillow: pip install pillow  (the extra `image`)")


def read_images(path: Path, signature: Signature) -> tuple[np.ndarray, list[str]]:
    """Pixels `(N, C, H, W)`, as a trained model takes them, of an image or a folder; the names."""
    root, names = (path.parent, [path.name]) if path.is_file() else (path, _images(path))
    if not names:
        raise FileNotFoundError(f"{path}: no image is there ({' '.join(SUFFIXES)})")
    return np.stack([image for _, image, _ in _decoded(root, names, _form(signature))]), names


def _form(signature: Signature) -> Form:
    """The images that a trained model takes."""
    shape = signature.in_shape
    if signature.dtype != "uint8" or len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"the model takes {signature.dtype} rows of shape {shape}, not images")
    return (shape[1], shape[2]), "grey" if shape[0] == 1 else "rgb"


def _folders(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images(folder: Path) -> list[str]:
    """Every image below a folder, relative to it and sorted, without hidden ones."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    return sorted(path.as_posix() for path in paths if "/." not in f"/{path.as_posix()}")


def _decoded(
    root: Path, names: list[str], form: Form, skip: bool | None = None
) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yields the name of each image, its pixels `(C, H, W)`, and its id, a hash of the file."""
    need_pillow()
    with ThreadPoolExecutor() as pool:
        for start in tqdm(range(0, len(names), BLOCK), "images", leave=False, disable=None):
            block = names[start : start + BLOCK]
            images = pool.map(lambda name: _decode(root / name, form, skip), block)
            yield from ((name, *image) for name, image in zip(block, images, strict=True) if image)


def _decode(path: Path, form: Form, skip: bool | None) -> tuple[np.ndarray, int] | None:
    try:
        content = path.read_bytes()
        pixels = decode(content, form)
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        why = f"{path} can't be decoded ({str(error).partition(' <')[0] or type(error).__name__})"
        if not skip:
            train = " (to train without it: `data.source.skip_broken: true`)" * (skip is not None)
            raise ValueError(f"{why}: mend or remove it{train}") from error
        log.warning(f"skipped: {why}")
        return None
    digest = blake2b(content, digest_size=8).digest()
    return pixels, int.from_bytes(digest)
