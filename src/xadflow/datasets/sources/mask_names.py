"""Which file is the mask of which image: one rule for the names that drawing tools give.

Below ground_truth/<defect>/, in the same subfolders as the image below test/<defect>/ or train/<defect>/, the mask of
`part 7.png` is the first of `part 7_mask`, `part 7`, `part 7_gt`, `part 7_label`, `part 7_labels`, `part 7_seg`,
`mask_part 7`, `gt_part 7` that is there, with the suffix of any image format. A dash or a space may stand for the
underscore, and upper case for lower case; `u` with two dots is the same letter however a file system stores it.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

_ENDINGS = ("_mask", "", "_gt", "_label", "_labels", "_seg", "_segmentation")
_BEGINNINGS = ("mask_", "gt_")
_DIVIDED = re.compile(r"[-_ ]")


def looked_for(image: str) -> tuple[str, ...]:
    """Names without suffix that a mask of `image` may have, those that go first first.

    >>> looked_for("test/scratch/007.png")[:3]
    ('007_mask', '007', '007_gt')
    """
    stem = PurePosixPath(image).stem
    return (*(f"{stem}{ending}" for ending in _ENDINGS), *(f"{start}{stem}" for start in _BEGINNINGS))


class Masks:
    """Files below ground_truth/, each given to one image at most."""

    def __init__(self, files: list[str]) -> None:
        self._files: dict[tuple[str, ...], list[str]] = {}
        for relative in files:
            self._files.setdefault(_key(relative), []).append(relative)

    def take(self, image: str) -> str | None:
        """The mask of an image, which no other image gets; None where there is none.

        Of two names that the rule takes for one (`7_mask.png`, `7-MASK.png`) the one that is spelt like the image goes
        first.
        """
        path = PurePosixPath(image)
        for name in looked_for(image):
            if there := self._files.get(_key(str(path.with_name(f"{name}.")))):
                exact = [one for one in there if PurePosixPath(one).stem == name]
                there.remove(found := (exact or there)[0])
                return found
        return None

    def left(self) -> list[str]:
        """Those that no image took, ordered."""
        return sorted(one for there in self._files.values() for one in there)


def _key(relative: str) -> tuple[str, ...]:
    """Folders below train/, test/ or ground_truth/ and the name without suffix; equal for names that the rule takes for
    one.
    """
    path = PurePosixPath(relative)
    folders = [_plain(part) for part in path.parts[1:-1]]
    return *folders, _DIVIDED.sub("_", _plain(path.stem if path.suffix else path.name.removesuffix(".")))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
