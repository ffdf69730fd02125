"""From a file's bytes to pixels, upright: the one place that decodes an image, and that turns it as its tag says."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from xadflow.errors import BadImage
from xadflow.images.reading import ImageLimits, check_size

Image.MAX_IMAGE_PIXELS = None  # our own limit, checked on the header before any pixel is decoded

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # no other decoder sees a stranger's bytes: EPS starts Ghostscript
# From the stored pixels to what a person sees, by the tag Orientation. Source: Exif 2.32, 4.6.4 A.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(content: bytes, limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """Decode a file's bytes to uint8 [H,W] (grey) or [H,W,3] (RGB), turned as a person sees the image.

    A file that carries an orientation (EXIF; XMP where EXIF has none) is turned or mirrored by it; an unreadable tag is
    no tag. 16-bit grey keeps its 8 high bits (a fixed scale, so that two images of one camera stay comparable); CMYK,
    palette and alpha images become RGB (alpha is left out); only the first frame of several is read.

    Raises:
        BadImage: empty, not an image, truncated, or over the limits.
    """
    limits = limits or ImageLimits()
    check_size(len(content), limits)
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
                    reason="too-many-pixels",
                )
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            return _to_uint8(image if turn is None else image.transpose(turn))
    except BadImage:
        raise
    except UnidentifiedImageError as err:
        raise BadImage("not an image", seen=content[:8], next_step="replace the file", reason="not-an-image") from err
    except Exception as err:  # Pillow's decoders raise many kinds on hostile bytes; each means "cannot be decoded"
        raise BadImage(
            "the image cannot be decoded",
            seen=f"{type(err).__name__}: {err}"[:200],
            next_step="replace the file; it may be truncated",
        ) from err


def _orientation(image: Image.Image) -> int:
    """1 to 8, 1 where the tag is missing or damaged; 1 for TIFF too, which Pillow turns itself while it loads."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged block of metadata raises many kinds, and says nothing about the pixels
        return 1


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
