"""How long one file may take to decode, and how much memory all threads together may use for it.

A decoder's time and memory follow from its header for every format but one: a progressive JPEG goes over all its pixels
once a scan, and a scan may take ten bytes, so that half a megabyte kept a core busy for 199 s. Its scans are counted
before it is decoded. Memory is 4 to 16 bytes a pixel (decoded, turned, laid over black): threads wait for each other so
that their images together stay under one budget.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from xadflow.errors import BadImage
from xadflow.images.reading import ImageLimits

_USUAL_SCANS = 20  # cameras and encoders write 1 to 12; as many are allowed for an image of any size
_START_OF_SCAN = b"\xff\xda"  # in the compressed pixels themselves 0xFF is followed by 0 or a restart marker
PIXELS_AT_ONCE = 50_000_000
"""Of all images that are being decoded in this process; a larger one waits until it is alone."""

_turn = threading.Lock()  # one waits, the others behind it: or small images would go before a large one for ever
_changed = threading.Condition()
_held = [0]  # pixels, in a list so that it is changed in place


def check_scans(content: bytes, form: str | None, pixels: int, limits: ImageLimits) -> None:
    """Raise BadImage for a JPEG that goes over its pixels so often that it is more work than the largest plain image.

    The work is scans x pixels; up to `limits.max_pixels`, or 20 scans, are allowed.
    """
    if form not in ("JPEG", "MPO"):
        return
    scans = content.count(_START_OF_SCAN)
    if scans > _USUAL_SCANS and scans * pixels > limits.max_pixels:
        raise BadImage(
            "the image is too slow to decode",
            seen=f"a JPEG of {scans} scans over {pixels} pixels",
            next_step="save it again as an ordinary JPEG or PNG",
            reason="too-slow",
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
