"""PNG files that are the same bytes on every machine."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def stored_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of uint8 [H,W] or [H,W,3] without compression: compressors differ between builds of zlib, stored blocks do
    not.

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
