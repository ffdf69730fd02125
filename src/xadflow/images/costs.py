"""Which files are decoded in this process: those that say of themselves, in their first bytes, that it costs little.

What a file costs follows from what its header promises (pixels, scans, tiles) and from what Pillow does in Python over
it (chunks, segments, tags of metadata). Both are looked at here without decoding anything; a file in which anything is
out of the ordinary is costly, and goes to a child that can be ended (children.py). To look takes microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import error as StructError
from struct import unpack_from

from PIL import Image

CHEAP_PIXELS = 25_000_000
"""Decoded in this process; 1 to 5 s, and 400 MB where they are transparent."""

_MOST_PARTS = 1024  # chunks or segments of a file, beside one for each 4 kB
_MOST_TAGS = 4096
_MOST_TAG_BYTES = 1 << 20  # of numbers, as where rows of strips begin; Pillow bounds all values by the file's size
_SCANS = 10  # of a progressive JPEG cost about as much as its pixels
_WEIGHTS = {"zip": 1, "jpeg": 1, "raw": 1, "webp": 2, "libtiff": 1, "ppm": 60, "ppm_plain": 30, "bmp_rle": 30}
_IN_TIFF = {"raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "group3", "group4", "tiff_ccitt"}
_NUMBER_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # types of TIFF
_GAP = rb"(?:\s|#[^\n]*\n)+"
_NETPBM = re.compile(rb"P[1-6]" + _GAP + rb"\d{1,9}" + _GAP + rb"\d{1,9}(?:" + _GAP + rb"\d{1,9})?\s")


def opens_cheaply(content: bytes) -> bool:
    """Whether Pillow opens a file at once, also its second frame and its metadata; true of what is no image at all."""
    for begins, look in _FORMATS:
        if content.startswith(begins):
            try:
                return look(content)
            except (StructError, IndexError):  # cut off: that is said at once
                return True
    return True


def decodes_cheaply(image: Image.Image, scans: int) -> bool:
    """Whether the pixels of an image that was opened, and not loaded, cost little time and memory; `scans` of a JPEG
    go over all of them.
    """
    tiles = getattr(image, "tile", None)  # WebP has its own only once it is loaded
    codec = "webp" if image.format == "WEBP" else tiles[0].codec_name if tiles else ""
    pixels = image.width * image.height
    if image.format == "TIFF":
        if image.info.get("compression", "raw") not in _IN_TIFF:
            return False  # JPEG, WebP, LZMA, ... inside
        pixels = max(pixels, _in_tiles(image))
    return pixels * _WEIGHTS.get(codec, CHEAP_PIXELS) * max(1, scans // _SCANS) <= CHEAP_PIXELS


def _in_tiles(image: Image.Image) -> int:
    """Pixels of all tiles of a TIFF; a tile may be larger than the image, and is decoded as a whole."""
    tags = getattr(image, "tag_v2", {})
    width, height = (int(tags.get(tag) or 0) for tag in (322, 323))
    if width <= 0 or height <= 0:
        return 0
    return -(-image.width // width) * width * (-(-image.height // height)) * height


def _png(content: bytes) -> bool:
    at, left = 8, _MOST_PARTS + len(content) // 4096
    while at + 8 <= len(content) and left > 0:
        length, kind = unpack_from(">I4s", content, at)
        if kind == b"IEND":
            return True
        at, left = at + 12 + length, left - 1
    return left > 0


def _jpeg(content: bytes) -> bool:
    at = 2
    for _ in range(_MOST_PARTS):
        if at + 4 > len(content):
            return True  # cut off
        if content[at] != 0xFF:
            return False  # what is between segments is looked through byte by byte
        marker = content[at + 1]
        if marker == 0xDA:  # the pixels begin
            return True
        if marker == 0xFF:
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD9:
            at += 2
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return False


def _tiff(content: bytes) -> bool:
    order = "<" if content.startswith(b"II") else ">"
    is_big = 43 in content[2:4]
    count_of, entry_of, next_of = ("Q", "HHQQ", "Q") if is_big else ("H", "HHLL", "L")
    count_bytes, entry_bytes = (8, 20) if is_big else (2, 12)
    (at,) = unpack_from(f"{order}{next_of}", content, 8 if is_big else 4)
    for _ in range(2):  # the second says whether there are further pages
        if not 0 < at < len(content):
            return True
        (tags,) = unpack_from(f"{order}{count_of}", content, at)
        if tags > _MOST_TAGS:
            return False
        numbers = 0
        for number in range(tags):
            _, kind, count, _ = unpack_from(f"{order}{entry_of}", content, at + count_bytes + number * entry_bytes)
            numbers += count * _NUMBER_BYTES.get(kind, 0)
        if numbers > _MOST_TAG_BYTES:
            return False
        (at,) = unpack_from(f"{order}{next_of}", content, at + count_bytes + tags * entry_bytes)
    return True


def _netpbm(content: bytes) -> bool:
    return _NETPBM.match(content[:4096]) is not None  # its header is read byte by byte, comments too


_FORMATS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes], bool]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8\xff", _jpeg),
    ((b"II*\0", b"II\0*", b"II+\0", b"MM\0*", b"MM*\0", b"MM\0+"), _tiff),
    ((b"P0", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"Py"), _netpbm),
)
