"""How long one file may take to decode, and how much memory all threads together may use for it.

A decoder's time and memory follow from its header, with one known exception: a progressive JPEG goes over its pixels
once a scan, and a scan may take ten bytes, so that half a megabyte kept a core busy for 199 s. Its scans are counted
before it is decoded. Memory is 4 to 16 bytes a pixel (decoded, turned, laid over black): threads wait for each other so
that their images together stay under one budget.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from xadflow.errors import BadImage
from xadflow.images.reading import ImageLimits

_USUAL_SCANS = 20  # cameras and encoders write 1 to 12; as many are allowed for an image of any size
_START_OF_SCAN = 0xDA  # after 0xFF; in the compressed pixels themselves 0xFF is followed by 0 or a restart marker
_AT_ONCE = 1 << 20
PIXELS_AT_ONCE = 50_000_000
"""Of all images that are being decoded in this process; a larger one waits until it is alone."""

_turn = threading.Lock()  # one waits, the others behind it: or small images would go before a large one for ever
_changed = threading.Condition()
_held = [0]  # pixels, in a list so that it is changed in place


def check_scans(content: bytes, form: str | None, pixels: int, limits: ImageLimits) -> int:
    """How often a JPEG goes over its pixels, 1 for others; BadImage where it is more work than the largest plain image.

    The work is scans x pixels; up to `limits.max_pixels` (at least a hundred million), or 20 scans, are allowed.
    """
    if form not in ("JPEG", "MPO"):
        return 1
    scans = _scans(content)
    if scans > _USUAL_SCANS and scans * pixels > max(limits.max_pixels, ImageLimits.max_pixels):
        raise BadImage(
            "the image is too slow to decode",
            seen=f"a JPEG of {scans} scans over {pixels} pixels",
            next_step="save it again as an ordinary JPEG or PNG",
            reason="too-slow",
        )
    return scans


def _scans(content: bytes) -> int:
    bytes_of = np.frombuffer(content, dtype=np.uint8)
    here, after = bytes_of[:-1], bytes_of[1:]
    return sum(  # ten times as fast as bytes.count
        int(np.count_nonzero((here[at : at + _AT_ONCE] == 0xFF) & (after[at : at + _AT_ONCE] == _START_OF_SCAN)))
        for at in range(0, len(here), _AT_ONCE)
    )


@contextmanager
def room_for(pixels: int) -> Iterator[None]:
    """Hold the room of `pixels` in the budget of this process, waiting for it where other threads have it."""
    wanted = min(pixels, PIXELS_AT_ONCE)
    with _turn, _changed:
        _changed.wait_for(lambda: _held[0] + wanted <= PIXELS_AT_ONCE)
        _held[0] += wanted
    try:
        yield
    finally:
        with _changed:
            _held[0] -= wanted
            _changed.notify_all()
