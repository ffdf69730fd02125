"""From a file's bytes to pixels, upright: the one place that decodes image or mask and turns it as its tag says."""

from __future__ import annotations

import io
import warnings
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from xadflow.errors import BadImage
from xadflow.images.bounds import PIXELS_AT_ONCE, check_scans, room_for
from xadflow.images.children import in_a_child
from xadflow.images.costs import decodes_cheaply, opens_cheaply
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
_ANY = ImageLimits(1 << 62)  # of a file that was let in
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
    return cast("NDArray[np.uint8]", _decoded(content, limits or ImageLimits(), "image"))


def decode_mask(content: bytes, limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """Decode a mask to uint8 [H,W]: 1 where a defect is marked, 0 elsewhere; turned like an image.

    Of a format that keeps values, each that is not 0 marks a defect, in whatever depth, palette or colour (black is
    none). Of one that does not (JPEG, lossy WebP, JPEG in TIFF) what is brighter than half the brightest pixel does:
    around each edge such files hold values that nobody drew. What is transparent marks nothing.

    Raises:
        BadImage: as :func:`decode_image`.
    """
    return cast("NDArray[np.uint8]", _decoded(content, limits or ImageLimits(), "mask"))


def has_further_frames(content: bytes) -> bool:
    """Whether a file that can be decoded holds more than the frame that is: pages of a TIFF, frames of an animation."""
    try:
        return _decoded(content, _ANY, "frames") is not None
    except BadImage:  # one frame, or a second that cannot be read, which is as good as none
        return False


def deepest_value(content: bytes, limits: ImageLimits) -> int | None:
    """The largest value of a grey image of more than 8 bits; None for any other. Raises BadImage."""
    try:
        found = _decoded(content, limits, "deepest")
    except BadImage as err:
        if err.reason == "not-an-image":
            return None
        raise
    return None if found is None else int(found)


class _Costly(Exception):
    """Not for this process; `pixels` where they are known."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels


def _decoded(content: bytes, limits: ImageLimits, kind: str) -> NDArray[Any] | None:
    """What :func:`decode_here` gives, from a child where the file is costly."""
    try:
        if not opens_cheaply(content):
            raise _Costly(PIXELS_AT_ONCE)
        return decode_here(content, limits, kind, only_cheap=True)
    except _Costly as costly:
        with room_for(costly.pixels):
            return in_a_child(content, limits, kind)


def decode_here(content: bytes, limits: ImageLimits, kind: str, *, only_cheap: bool = False) -> NDArray[Any] | None:
    """Decode a file in this process, whatever it costs.

    Args:
        kind: `image` or `mask`: pixels; `deepest`: the largest value of deep grey, None of anything else; `frames`:
            something where there is a second frame, else None.
        only_cheap: stop at a file that would be costly to decode, before a pixel of it is.

    Raises:
        BadImage: empty, not an image, truncated, or over the limits.
    """
    check_size(len(content), limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata that does not touch the pixels
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            if kind == "frames":
                image.seek(1)  # not n_frames: that walks a chain as long as its writer liked
                return np.ones((), dtype=np.uint8)
            if kind == "deepest" and not image.mode.startswith("I"):
                return None
            pixels = image.width * image.height
            if max(image.size) > limits.max_side_px or pixels > limits.max_pixels:
                raise BadImage(
                    "the image has too many pixels",
                    seen=f"{image.width}x{image.height}",
                    next_step="downscale it, or raise limits.max_side_px and limits.max_pixels in params.yaml",
                    reason="too-many-pixels",
                )
            scans = check_scans(content, image.format, pixels, limits)
            if only_cheap and not decodes_cheaply(image, scans):
                raise _Costly(pixels)
            exact = _keeps_values(image, content)
            with room_for(pixels):
                image.load()
                turn = _UPRIGHT.get(_orientation(image))
                upright = image if turn is None else image.transpose(turn)
                if kind == "mask":
                    return _to_mask(upright, exact)
                return np.asarray(upright).max() if kind == "deepest" else _to_uint8(upright, limits.max_bits)
    except (BadImage, _Costly):
        raise
    except UnidentifiedImageError as err:
        raise BadImage("not an image", seen=content[:8], next_step="replace the file", reason="not-an-image") from err
    except MemoryError as err:
        raise BadImage(
            "the image needs too much memory to decode",
            seen=f"more than limits.max_decode_mb = {limits.max_decode_mb}",
            next_step="downscale it, or raise limits.max_decode_mb in params.yaml",
            reason="too-much-memory",
        ) from err
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
