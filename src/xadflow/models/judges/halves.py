"""Which train normals give donors and which the judge is fitted on: disjoint, and for each image the same for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from xadflow.datasets.manifest import ManifestRow
from xadflow.digests import sha256_bytes

FEWEST_APART = 80
"""Below so many train normals both use all of them: half of them would leave either too little."""


class Halves(NamedTuple):
    """`donors` may give pixels to transplants, `judged` fit the judge; `apart`: no image is in both."""

    donors: tuple[ManifestRow, ...]
    judged: tuple[ManifestRow, ...]
    apart: bool


def donor_half(rows: Sequence[ManifestRow]) -> Halves:
    """Split train normals by a hash of the image_id, so that no image changes sides when others come or go.

    The hash is not the one that carves val out of train. Both sides keep the order of `rows`.
    """
    if len(rows) < FEWEST_APART:
        return Halves(tuple(rows), tuple(rows), False)
    donors = tuple(row for row in rows if _gives_donors(row.image_id))
    judged = tuple(row for row in rows if not _gives_donors(row.image_id))
    return Halves(donors, judged, True)


def _gives_donors(image_id: str) -> bool:
    return int(sha256_bytes(f"donors or judge/{image_id}".encode())[:8], 16) % 2 == 0
