"""From pixels and maps to the 8-bit pictures that are stored, and back."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xadflow.images.decoding import decode_image
from xadflow.images.reading import ImageLimits

# The largest that params.yaml lets a detector see; what costs much is decoded in a child all the same.
_OURS = ImageLimits(1 << 30, 1 << 16, 1 << 28, max_decode_s=600, max_decode_mb=16_000)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG bytes of uint8 [C,H,W] with C in {1,3}, or of [H,W]; lossless, deterministic."""
    array = pixels[0] if pixels.ndim == 3 and pixels.shape[0] == 1 else pixels
    image = Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0) if array.ndim == 3 else array))
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=4)
    return stream.getvalue()


def decode_png(content: bytes) -> NDArray[np.uint8]:
    """uint8 [C,H,W] of a PNG written by :func:`encode_png`."""
    array = decode_image(content, _OURS)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def quantise_map(raw: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float, float]:
    """8-bit picture of a raw map with its minimum and maximum; see :func:`restore_map` for the way back.

    The rounding error is at most half a level, (max - min) / 510.
    """
    low, high = float(raw.min()), float(raw.max())
    if high <= low:
        return np.zeros(raw.shape, dtype=np.uint8), low, high
    scaled = np.rint((raw.astype(np.float64) - low) * (255.0 / (high - low)))
    return np.asarray(scaled, dtype=np.uint8), low, high


def restore_map(picture: NDArray[np.uint8], low: float, high: float) -> NDArray[np.float64]:
    """Raw values of a map stored by :func:`quantise_map`, within 1/255 of its range."""
    return low + picture.astype(np.float64) * ((high - low) / 255.0)


def to_picture(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values in [0,1], grey or parts of a colour, as the 8 bits that show them; what lies outside is cut off."""
    return np.asarray(np.rint(255 * np.clip(values, 0.0, 1.0)), dtype=np.uint8)


def stored_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of uint8 [H,W] or [H,W,3] without compression, the same bytes on every machine: compressors differ between
    builds of zlib, stored blocks do not.

    Source: PNG specification (W3C 2003), sections 5 and 11; RFC 1950 and 1951 for the stored deflate blocks.
    """
    height, width = pixels.shape[:2]
    raw = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))  # filter 0 before each row
    stream = b"\x78\x01"
    for start in range(0, len(raw), 0xFFFF):
        block = raw[start : start + 0xFFFF]
        stream += struct.pack("<BHH", start + 0xFFFF >= len(raw), len(block), len(block) ^ 0xFFFF) + block
    stream += struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(
        ">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0
    )  # colour type 0 grey, 2 RGB
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", stream) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
