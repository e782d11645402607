"""From the bytes of an image file to pixels: the same for training and for a server."""

from io import BytesIO
from typing import Literal

import numpy as np

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # EPS, say, would run Ghostscript
Form = tuple[tuple[int, int] | None, Literal["grey", "rgb"]]  # height and width or as stored


def decode(
    content: bytes,
    form: Form,
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int | None = None,
) -> np.ndarray:
    """Pixels `(C, H, W)` of an image, turned as its EXIF data says, on white where transparent.

    Raises:
        ValueError: It has more than 8 bits a pixel, or more pixels than it may.
        Exception: It is broken; Pillow raises many kinds.
    """
    from PIL import Image, ImageOps

    size, channels = form
    stored = Image.open(BytesIO(content), formats=formats)  # the header alone
    if max_pixels and stored.width * stored.height > max_pixels:
        raise ValueError(f"{stored.width} x {stored.height} is more than {max_pixels:,} pixels")
    image = ImageOps.exif_transpose(stored)
    if image.mode[0] in "IF":
        raise ValueError("more than 8 bits a pixel: convert it, or give pixels as `Arrays`")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == "grey" else "RGB")
    pixels = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR) if size else image)
    return np.atleast_3d(pixels).transpose(2, 0, 1)
