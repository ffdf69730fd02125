"""Decoding, resizing and encoding of single images: the one path from a file's bytes to a detector's input.

A detector's input is uint8 [C,H,W]; float32 in [0,1] is made from it by one division by 255, so that a stored 8-bit
PNG is exactly what the detector saw.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from xadflow.errors import BadImage

Image.MAX_IMAGE_PIXELS = None  # our own limit, checked on the header before any pixel is decoded

VOID = 255  # in a map of class ids: a pixel that is nobody's, in no loss and no figure
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_RAISE_BYTES = "shrink it, or raise limits.max_bytes in params.yaml"
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # no other decoder sees a stranger's bytes: EPS starts Ghostscript


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be at most; checked on the header, before decoding.

    `max_bytes` is the file's size, `max_side_px` either side, `max_pixels` their product.
    """

    max_bytes: int = 100_000_000
    max_side_px: int = 20_000
    max_pixels: int = 100_000_000


def decode_image(content: bytes, limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """Decode a file's bytes to uint8 [H,W] (grey) or [H,W,3] (RGB).

    16-bit grey keeps its 8 high bits (a fixed scale, so that two images of one camera stay comparable);
    CMYK, palette and alpha images become RGB (alpha over black); only the first frame of several is read.

    Raises:
        BadImage: empty, not an image, truncated, or over the limits.
    """
    limits = limits or ImageLimits()
    if not content:
        raise BadImage("the file is empty", seen="0 bytes", next_step="replace the file")
    if len(content) > limits.max_bytes:
        raise BadImage("the file is too large", seen=f"{len(content)} bytes", next_step=_RAISE_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata that does not touch the pixels
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            width, height = image.size
            if max(width, height) > limits.max_side_px or width * height > limits.max_pixels:
                raise BadImage(
                    "the image has too many pixels",
                    seen=f"{width}x{height}",
                    next_step="downscale it, or raise limits.max_side_px and limits.max_pixels in params.yaml",
                )
            return _to_uint8(image)
    except BadImage:
        raise
    except UnidentifiedImageError as err:
        raise BadImage("not an image", seen=content[:8], next_step="replace the file") from err
    except Exception as err:  # Pillow's decoders raise many kinds on hostile bytes; each means "cannot be decoded"
        raise BadImage(
            "the image cannot be decoded",
            seen=f"{type(err).__name__}: {err}"[:200],
            next_step="replace the file; it may be truncated",
        ) from err


def _to_uint8(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        raw = np.asarray(image)
        if image.mode == "F" or raw.min() < 0 or raw.max() > 65_535:
            raise BadImage("pixel values outside 16 bits", seen=f"mode {image.mode}", next_step="save as 8 or 16 bit")
        return np.asarray(raw.astype(np.uint32) >> 8, dtype=np.uint8)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"), dtype=np.uint8)
    if image.mode in ("LA", "La"):
        return np.asarray(image.convert("RGBA").convert("L"), dtype=np.uint8)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def to_input(pixels: NDArray[np.uint8], size_px: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """Resize decoded pixels to a detector's input uint8 [C,H,W]; antialiased bilinear, aspect not kept.

    `size_px` is (height, width); `channels` is 1 (grey, ITU-R 601 luma) or 3 (grey repeated).
    """
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    height, width = size_px
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))  # (C, H, W)


def mask_to_input(pixels: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a decoded mask to bool [H,W]: any non-zero value is defect, nearest neighbour."""
    grey = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    image = Image.fromarray(np.asarray(grey > 0, dtype=np.uint8) * 255)
    height, width = size_px
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image, dtype=np.uint8) > 0


def labels_to_input(pixels: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a map of class ids to uint8 [H,W], nearest neighbour, so that no id comes up that was not there."""
    height, width = size_px
    image = Image.fromarray(pixels)
    return np.asarray(
        image.resize((width, height), Image.Resampling.NEAREST) if image.size != (width, height) else image
    )


def read_file(path: Path, limits: ImageLimits | None = None) -> bytes:
    """The bytes of a plain file, at most `limits.max_bytes` of them.

    A pipe or a device is refused without waiting for it, and a file that is too large before it is read.

    Raises:
        BadImage: it cannot be read, is no plain file, or is too large.
    """
    limits = limits or ImageLimits()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
        try:
            seen = os.fstat(handle)
            if not stat.S_ISREG(seen.st_mode):
                raise BadImage("not a plain file", seen=path.name, next_step="name an image file")
            if seen.st_size > limits.max_bytes:
                raise BadImage("the file is too large", seen=f"{seen.st_size} bytes", next_step=_RAISE_BYTES)
            with os.fdopen(handle, "rb", closefd=False) as stream:
                return stream.read(limits.max_bytes + 1)  # one more than allowed: it may have grown since
        finally:
            os.close(handle)
    except OSError as err:
        raise BadImage(
            "the file cannot be read",
            seen=f"{path.name}: {err.strerror}",
            next_step="check its path and rights; a file of a data set comes back by `dvc checkout`",
        ) from err


def load_input(
    path: Path, size_px: tuple[int, int], channels: int, limits: ImageLimits | None = None
) -> NDArray[np.uint8]:
    """Read, decode and resize one file to uint8 [C,H,W]. Raises BadImage (also when the file cannot be read)."""
    return to_input(decode_image(read_file(path, limits), limits), size_px, channels)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG bytes of uint8 [C,H,W] with C in {1,3}, or of [H,W]; lossless, deterministic."""
    array = pixels[0] if pixels.ndim == 3 and pixels.shape[0] == 1 else pixels
    image = Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0) if array.ndim == 3 else array))
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=4)
    return stream.getvalue()


def decode_png(content: bytes) -> NDArray[np.uint8]:
    """uint8 [C,H,W] of a PNG written by :func:`encode_png`."""
    array = decode_image(content)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
