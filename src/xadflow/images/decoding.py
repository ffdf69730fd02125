"""From a file's bytes to pixels, upright: the one place that decodes image or mask and turns it as its tag says."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from xadflow.errors import BadImage
from xadflow.images.bounds import check_scans, room_for
from xadflow.images.reading import MOST_BITS, ImageLimits, check_size

Image.MAX_IMAGE_PIXELS = None  # our own limit, checked on the header before any pixel is decoded

_FORMATS = (
    "PNG",
    "JPEG",
    "BMP",
    "TIFF",
    "WEBP",
    "PPM",
)  # no other decoder sees a stranger's bytes: EPS starts Ghostscript
Found = TypeVar("Found")
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
    no tag. 16-bit grey keeps the 8 high bits of the `limits.max_bits` that its camera has (a fixed scale, so that two
    images of one camera stay comparable); CMYK and palettes become RGB. What is transparent, in any mode, is laid over
    black: the colour under it, which nobody sees, changes nothing. Only the first frame of several is read.

    Raises:
        BadImage: empty, not an image, truncated, over the limits, or too slow to decode.
    """
    limits = limits or ImageLimits()
    return _decoded(content, limits, lambda image, _: _to_uint8(image, limits.max_bits))


def decode_mask(content: bytes, limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """Decode a mask to uint8 [H,W]: 1 where a defect is marked, 0 elsewhere; turned like an image.

    Of a format that keeps values, each that is not 0 marks a defect, in whatever depth, palette or colour (black is
    none). Of one that does not (JPEG, lossy WebP, JPEG in TIFF) what is brighter than half the brightest pixel does:
    around each edge such files hold values that nobody drew. What is transparent marks nothing.

    Raises:
        BadImage: as :func:`decode_image`.
    """
    return _decoded(content, limits or ImageLimits(), _to_mask)


def has_further_frames(content: bytes) -> bool:
    """Whether a file that can be decoded holds more than the frame that is: pages of a TIFF, frames of an animation."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=("PNG", "TIFF", "WEBP")) as image:
                image.seek(1)  # not n_frames: that walks a chain as long as its writer liked
                return True
    except Exception:  # one frame, or a second that cannot be read, which is as good as none
        return False


def deepest_value(content: bytes, limits: ImageLimits) -> int | None:
    """The largest value of a grey image of more than 8 bits; None for any other. Raises BadImage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                deep = image.mode.startswith("I")
        except Exception:  # said with its reason where it is decoded
            return None
    return _decoded(content, limits, lambda image, _: int(np.asarray(image).max())) if deep else None


def _decoded(content: bytes, limits: ImageLimits, take: Callable[[Image.Image, bool], Found]) -> Found:
    """What `take` makes of the upright image; it is told whether its format keeps values as they were drawn."""
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
            check_scans(content, image.format, width * height, limits)
            exact = _keeps_values(image, content)
            with room_for(width * height):
                image.load()
                turn = _UPRIGHT.get(_orientation(image))
                return take(image if turn is None else image.transpose(turn), exact)
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


def _keeps_values(image: Image.Image, content: bytes) -> bool:
    if image.format == "WEBP":
        return b"VP8L" in content
    return image.format not in ("JPEG", "MPO") and image.info.get("compression") != "jpeg"


def _orientation(image: Image.Image) -> int:
    """1 to 8, 1 where the tag is missing or damaged; 1 for TIFF too, which Pillow turns itself while it loads."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged block of metadata raises many kinds, and says nothing about the pixels
        return 1


def _to_uint8(image: Image.Image, bits: int) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image, bits)
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        _narrow_key(image)
        image = image.convert("LA" if grey else "RGBA")
        seen = Image.new("L" if grey else "RGB", image.size)  # black
        seen.paste(image.convert(seen.mode), mask=image.getchannel("A"))
        return np.asarray(seen, dtype=np.uint8)
    return np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)


def _from_deep(image: Image.Image, bits: int) -> NDArray[np.uint8]:
    raw = np.asarray(image)
    if image.mode == "F" or raw.min() < 0 or raw.max() >= 1 << MOST_BITS:
        raise BadImage("pixel values outside 16 bits", seen=f"mode {image.mode}", next_step="save as 8 or 16 bit")
    if raw.max() >= 1 << bits:
        raise BadImage(
            f"pixel values beyond the {bits} bits of this data set's images",
            seen=f"up to {raw.max()}, expected at most {(1 << bits) - 1}",
            next_step="see whether another camera or setting made the file; if all may have more bits, raise bit_depth "
            "of the data set in params.yaml and run `xadflow retrain`",
            reason="too-many-bits",
        )
    if (key := image.info.get("transparency")) is not None:
        raw = np.where(raw == key, 0, raw)
    return np.asarray(raw.astype(np.uint32) >> (bits - 8), dtype=np.uint8)


def _narrow_key(image: Image.Image) -> None:
    """Pillow keeps the high byte of 16-bit colours, and the transparent colour of such a PNG as it lies: fit both."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _to_mask(image: Image.Image, exact: bool) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(np.asarray(image) != 0, dtype=np.uint8)
    pixels = _to_uint8(image, MOST_BITS)
    grey = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    least = 0 if exact else int(grey.max()) // 2
    return np.asarray(grey > least, dtype=np.uint8)
