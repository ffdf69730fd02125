"""Which half of the train normals gives donors; the other half is the judge's. By hash, so that every machine cuts alike."""

from __future__ import annotations

from collections.abc import Sequence

FEWEST = 80  # train normals: below it half of them is too little for either


def donor_half(image_ids: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """The ids that may give donors, in their order, and whether a judge was kept apart from them.

    Those whose first byte is even; all of them, and False, where there are fewer than 80.

    >>> donor_half(["00aa", "01bb", "fe00"])
    (('00aa', '01bb', 'fe00'), False)
    """
    if len(image_ids) < FEWEST:
        return tuple(image_ids), False
    return tuple(one for one in image_ids if int(one[:2], 16) % 2 == 0), True
