"""A folder of images for each class, decoded once into an array on disk."""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Literal

import numpy as np

from src.data.rows import FREE, SPLITS, Rows, Signature, Source

log = logging.getLogger("src")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # EPS, say, would run Ghostscript
BLOCK = 256  # files decoded at a time: all that memory holds while the cache is written
HEADER = 128  # bytes that numpy's header of an array (N, C, H, W) takes, padded as it is
Channels = Literal["auto", "grey", "rgb"]
Form = tuple[tuple[int, int] | None, Channels]  # height and width if not as stored, and channels


class Images(Source):
    """A folder of images for each class, optionally below `train/`, `val/` and `test/`.

    Reads BMP, GIF, JPEG, PGM, PNG, PPM, TIFF and WebP of 8 or 16 bits: the first frame, upright by
    its EXIF data, transparency on white. Other files and hidden ones are ignored. The pixels are
    kept in `.fulgurite_cache/` beside the folder, and decoded again when a file changes.

    Args:
        path: The folder. Without `val/` or `test/`, the partition takes their rows from train.
        resize: `[height, width]`, or one number for both: images are stretched to it, in pixels.
        channels: `grey` (1) or `rgb` (3); `auto` is grey if every file is stored as grey.
        skip_broken: Leave out files that can't be decoded, instead of stopping.
    """

    def __init__(
        self,
        path: str,
        resize: int | tuple[int, int] | None = None,
        channels: Channels = "auto",
        skip_broken: bool = False,
    ) -> None:
        self.path, self.skip_broken = Path(path).expanduser().absolute(), skip_broken
        size = (resize, resize) if isinstance(resize, int) else resize
        if size is not None and min(size) < 1:
            raise ValueError(f"`data.source.resize` is {resize}: give pixels, 1 or more")
        self.form: Form = (size, channels)

    def keep_path(self) -> Path | None:
        return self.path.with_name(f"{self.path.name}.partition.json")

    def prepare(self) -> None:
        files, _ = self._list()
        _, skipped = self._cached(files, self.form)
        if skipped:
            names = ", ".join(skipped[:3]) + ", ..." * (len(skipped) > 3)
            log.warning(f"skipped {len(skipped)} of {len(files)} images, not decodable: {names}")

    def load(self, signature: Signature | None = None) -> Rows:
        files, depth = self._list()
        x, skipped = self._cached(files, self.form)
        if signature and x.shape[1:] != signature.in_shape:  # a trained net has the last word
            x, skipped = self._cached(files, _form(signature))
        found = sorted({file.split("/")[depth] for file in files})
        signature = signature or Signature(x.shape[1:], "uint8", tuple(found))

        names = np.array(files)[~np.isin(files, skipped)]
        parts = [name.split("/") for name in names]
        classes = [part[depth] for part in parts]
        for name in found:
            if name not in signature.class_names:
                raise ValueError(f"the model doesn't know the class `{name}` of {self.path}")
        lost = set(found) - set(classes)
        if lost:
            raise ValueError(f"no image of the class `{min(lost)}` of {self.path} can be decoded")
        code = {name: i for i, name in enumerate(signature.class_names)}
        y = np.array([code[name] for name in classes], np.int64)
        published = np.array([SPLITS.index(part[0]) for part in parts], np.int8) if depth else None
        if published is not None and len(np.unique(published)) < len(SPLITS):
            published[published == SPLITS.index("train")] = FREE
        return Rows(x, y, signature, published=published, names=names)

    def _list(self) -> tuple[list[str], int]:
        """Every image, relative to the folder and sorted, and how deep its class is in its path."""
        if not self.path.is_dir():
            raise FileNotFoundError(f"`data.source.path` {self.path}: there is no such folder")
        tops = {folder.name: folder for folder in _folders(self.path)}
        depth = int(any(split in tops and _folders(tops[split]) for split in SPLITS))
        if depth and not {"train"} <= set(tops) <= set(SPLITS):
            raise ValueError(f"{self.path} has {', '.join(tops)}: splits are train, val, test")
        roots = [tops[split] for split in SPLITS if split in tops] if depth else [self.path]
        known = [folder.name for folder in _folders(roots[0])]
        files = []
        for root in roots:
            if len(known) < 2 or not _folders(root):
                raise ValueError(
                    f"{root} has {len(_folders(root))} folders, not one for each class"
                )
            for folder in _folders(root):
                images = _images(folder)
                if not images:
                    raise ValueError(f"the class {folder} has no images ({' '.join(SUFFIXES)})")
                if folder.name not in known:
                    raise ValueError(f"the class {folder} is not in {roots[0]}")
                files += [image.relative_to(self.path).as_posix() for image in images]
        return sorted(files), depth

    def _cached(self, files: list[str], form: Form) -> tuple[np.ndarray, list[str]]:
        """The pixels `(N, C, H, W)`, mapped from disk, and the files that are not among them."""
        home = self.path.parent if os.access(self.path.parent, os.W_OK) else Path.home() / ".cache"
        stats = [(self.path / file).stat() for file in files]
        state = [(f, s.st_size, s.st_mtime_ns) for f, s in zip(files, stats, strict=True)]
        code = Path(__file__).read_text("utf-8")  # who changes how files are read, reads them anew
        options = _digest(str(self.path), form, self.skip_broken)
        name = f"{self.path.name}-{options}-{_digest(state, code)}.npy"
        cache = home / ".fulgurite_cache" / name
        if not cache.exists():
            cache.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=cache.parent) as temp:
                part = Path(temp, name)
                with part.open("wb") as out:
                    self._write(out, files, form)
                part.replace(cache)
            for stale in set(cache.parent.glob(f"*-{options}-*.npy")) - {cache}:
                stale.unlink(missing_ok=True)
        x = np.load(cache, mmap_mode="c")
        with cache.open("rb") as file:
            file.seek(HEADER + x.nbytes)
            return x, json.load(file)

    def _write(self, out: BinaryIO, files: list[str], form: Form) -> None:
        """Writes an `.npy` file, and behind its array the list of skipped files, as JSON."""
        first, skipped = "", []
        shape: tuple[int, ...] = ()
        out.seek(HEADER)
        images = _decoded([self.path / file for file in files], form, self.skip_broken)
        for file, image in zip(files, images, strict=True):
            if image is None:
                skipped.append(file)
                continue
            first, shape = first or file, shape if first else image.shape
            if image.shape != shape:
                raise ValueError(
                    f"{first} is {shape[1]}x{shape[2]} (height x width), {file} is"
                    f" {image.shape[1]}x{image.shape[2]}: set `data.source.resize: [height, width]`"
                )
            out.write(image.tobytes())
        if not first:
            raise ValueError(f"none of the {len(files)} images of {self.path} can be decoded")
        out.write(json.dumps(skipped).encode())
        out.seek(0)
        header = {"shape": (len(files) - len(skipped), *shape), "fortran_order": False}
        np.lib.format.write_array_header_1_0(out, header | {"descr": "|u1"})
        assert out.tell() == HEADER


def read_images(path: Path, signature: Signature) -> tuple[np.ndarray, list[str]]:
    """Pixels `(N, C, H, W)`, as a trained model takes them, of an image or a folder; the names."""
    root, files = (path.parent, [path]) if path.is_file() else (path, _images(path))
    if not files:
        raise FileNotFoundError(f"{path}: no image is there ({' '.join(SUFFIXES)})")
    images = [image for image in _decoded(files, _form(signature)) if image is not None]
    return np.stack(images), [file.relative_to(root).as_posix() for file in files]


def _form(signature: Signature) -> Form:
    """The images that a trained model takes."""
    shape = signature.in_shape
    if signature.dtype != "uint8" or len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"the model takes {signature.dtype} rows of shape {shape}, not images")
    return (shape[1], shape[2]), "grey" if shape[0] == 1 else "rgb"


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """The images below a folder that are not hidden, sorted."""
    files = (f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    return sorted(f for f in files if "/." not in f"/{f.relative_to(folder).as_posix()}")


def _decoded(paths: list[Path], form: Form, skip: bool = False) -> Iterator[np.ndarray | None]:
    """Yields each image as `(C, H, W)` bytes, or `None` for a broken one that may be skipped."""
    from rich.progress import track

    if find_spec("PIL") is None:
        raise ValueError("images need Pillow: pip install pillow  (the extra `image`)")
    size, channels = form
    if channels == "auto":
        channels = "rgb" if any(_is_colour(path) for path in paths) else "grey"
    with ThreadPoolExecutor() as pool:
        blocks = (paths[i : i + BLOCK] for i in range(0, len(paths), BLOCK))
        images = (x for b in blocks for x in pool.map(lambda p: _decode(p, size, channels), b))
        for i, x in enumerate(track(images, "images", len(paths), disable=not sys.stdout.isatty())):
            if isinstance(x, str) and not skip:
                raise ValueError(
                    f"{paths[i]} can't be decoded ({x}): mend it or take it away;"
                    " `data.source.skip_broken: true` leaves such files of a source out"
                )
            yield None if isinstance(x, str) else x


def _is_colour(path: Path) -> bool:
    from PIL import Image

    with suppress(Exception), Image.open(path, formats=FORMATS) as image:
        colours = image.getpalette() or []
        grey = colours[::3] == colours[1::3] == colours[2::3]
        return not grey if colours else Image.getmodebase(image.mode) != "L"
    return False


def _decode(path: Path, size: tuple[int, int] | None, channels: Channels) -> np.ndarray | str:
    """One image as `(C, H, W)` bytes, or the reason why not."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as file:
            image = ImageOps.exif_transpose(file)
        if image.mode[0] in "IF":
            values = np.asarray(image)
            if values.dtype.kind == "f" or values.min() < 0 or values.max() >= 2**16:
                raise ValueError("pixels of 32 bits, not 8 or 16")
            image = Image.fromarray((values >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == "grey" else "RGB")
        if size is not None:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        return f"{error}".split(" '")[0] or type(error).__name__
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)
