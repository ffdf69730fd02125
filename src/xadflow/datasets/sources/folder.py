"""A folder of one's own in the MVTec-AD layout.

    DIR/train/good/*            normal images to learn from
    DIR/train/<defect>/*        optional: labelled defects that training may use (split `known`)
    DIR/test/good/*             normal images to test on; without them some of train/good is held out by content hash
    DIR/test/<defect>/*         optional: defective images to test on; without any the gate cannot measure detection
    DIR/ground_truth/<defect>/<stem>_mask.png      optional masks; other names that are taken: mask_names.py. Defect is
                                                   what is not zero, in JPEG what is brighter than half

Grey, RGB, 16-bit and mixed sizes may be mixed. Files elsewhere are quarantined, never skipped in silence. Layout:
Bergmann et al., "MVTec AD", CVPR 2019.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from xadflow.datasets.manifest import Split
from xadflow.datasets.sources.base import Candidate, Options, Refused, read_options
from xadflow.datasets.sources.mask_names import Masks, looked_for
from xadflow.digests import sha256_json
from xadflow.errors import DataUnavailable
from xadflow.images.reading import IMAGE_SUFFIXES, not_a_file

GOOD = "good"
LEFT_BEHIND = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", ".directory", ".localized"})
"""What Windows, macOS and KDE put into folders that somebody looks at, lower case; also names that begin with `._`."""
_EXPECTED = "train/good/<images>, optionally test/<defect>, test/good and ground_truth/<defect>"

_ORPHAN = (
    "no image of test/<defect> or train/<defect> has this mask: the mask of 007.png is looked for as "
    + ", ".join(looked_for("007.png")[:3])
    + " and so on, in ground_truth/<defect>"
)


class FolderOptions(Options):
    """`path`: the folder, absolute or relative to the working folder (the project, in a DVC stage).

    `known_per_defect`: how many images of each kind of defect leave test for training; `licence`: what to record.
    """

    path: Path
    known_per_defect: int = Field(default=0, ge=0)
    licence: str = Field(default="not stated", min_length=1)


class Folder:
    """A user's folder as a source."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._name = name
        self._options = read_options(FolderOptions, name, options)

    def raw_sets(self) -> tuple[str, ...]:
        """None."""
        return ()

    def origin(self) -> str:
        """Digest over relative path, size, modification time and rights of every file: cheap, and new when
        a file is.
        """
        return state_of(self._root())

    def candidates(self) -> Iterator[Candidate | Refused]:
        """Every file of the folder, as an image, as the mask of one, or as refused, ordered by path.

        Raises DataUnavailable for a missing folder or another layout, saying what was seen and what is expected.
        """
        root = self._root()
        check_layout(root)
        images, masks, elsewhere = _sorted_out(walk_files(root))
        known = _chosen_for_training(images, self._options.known_per_defect)
        for relative in images:
            part, kind = PurePosixPath(relative).parts[:2]
            defect = None if kind == GOOD else kind
            mask = masks.take(relative) if defect else None
            yield Candidate(
                origin=relative,
                target=relative,
                content=root / relative,
                split=_split_of(part, defect, relative in known),
                label=int(defect is not None),
                category=root.name,
                defect=defect,
                source=f"folder {root.name}",
                licence=self._options.licence,
                mask=root / mask if mask else None,
                mask_target=mask,
                root=root,
            )
        for relative in masks.left():
            yield Refused(relative, "orphan-mask", _ORPHAN)
        for relative in elsewhere:
            yield Refused(relative, *(not_a_file(root / relative) or ("outside-layout", f"expected {_EXPECTED}")))

    def _root(self) -> Path:
        root = Path(os.path.abspath(self._options.path.expanduser()))
        if not root.is_dir():
            raise DataUnavailable(
                f"the folder of data set {self._name!r} is not there",
                seen=str(self._options.path),
                next_step=f"restore it, or mend datasets.{self._name}.options.path in params.yaml",
            )
        return root


def state_of(root: Path) -> str:
    """Name, number of files and a digest over relative path, size, modification time and rights of every file.

    The rights are in it because a file that could not be read is looked at again once they are mended.
    """
    stats = []
    for relative in walk_files(root):
        try:
            seen = (root / relative).lstat()
        except FileNotFoundError:
            continue
        except OSError as err:  # a folder that lies too deep
            stats.append([relative, err.errno])
            continue
        stats.append([relative, seen.st_size, seen.st_mtime_ns, seen.st_mode])
    return f"folder {root.name}: {len(stats)} files, {sha256_json(stats)}"


def walk_files(root: Path) -> list[str]:
    """Relative paths of all files and links below a folder, with forward slashes, ordered; links are not followed.

    A folder that cannot be listed, or lies too deep for it, is named itself, so that what it holds is not left out in
    silence. Files that operating systems leave behind (LEFT_BEHIND) are nobody's images, and not listed.
    """
    found: list[str] = []
    folders = [""]  # no recursion: folders may lie a thousand deep
    while folders:
        inside = folders.pop()
        try:
            with os.scandir(os.path.join(root, inside)) as entries:
                for entry in entries:
                    relative = f"{inside}/{entry.name}" if inside else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(relative)
                    elif entry.name.lower() not in LEFT_BEHIND and not entry.name.startswith("._"):
                        found.append(relative)
        except OSError:
            found.append(inside or ".")
    return sorted(found)


def check_layout(root: Path) -> None:
    """Raise DataUnavailable unless `root` holds train/good with a file; says what it saw."""
    good = root / "train" / GOOD
    if good.is_dir() and next(good.iterdir(), None) is not None:
        return
    try:
        folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        products = [name for name in folders if (root / name / "train" / GOOD).is_dir()]
        loose = sum(1 for entry in root.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as err:
        raise DataUnavailable(
            "the folder cannot be read",
            seen=f"{root.name}: {err.strerror}",
            next_step="give this user the right to read it",
        ) from err
    if products:
        raise DataUnavailable(
            f"{root.name} holds several products; one product is one data set",
            seen=products[:10],
            next_step=f"add each by itself: xadflow data add {products[0].lower()} {root / products[0]}",
        )
    seen = f"folders {folders[:10]} and {loose} loose images in {root.name}"
    raise DataUnavailable(
        f"{root.name} is not in the MVTec-AD layout; expected {_EXPECTED}",
        seen=seen,
        next_step="move the images into these folders; defects go to test/<defect>",
    )


def _sorted_out(files: list[str]) -> tuple[list[str], Masks, list[str]]:
    """Images, masks, and what belongs to neither."""
    images, masks, elsewhere = [], [], []
    for relative in files:
        path = PurePosixPath(relative)
        if len(path.parts) < 3 or path.parts[0] not in ("train", "test", "ground_truth"):
            elsewhere.append(relative)
        elif path.parts[0] != "ground_truth":
            images.append(relative)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            masks.append(relative)
        else:
            elsewhere.append(relative)
    return images, Masks(masks), elsewhere


def _chosen_for_training(images: list[str], per_defect: int) -> frozenset[str]:
    """Defects that leave test: the first `per_defect` of each kind by hash of the path, so that few move when some
    are added."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for relative in images:
        part, kind = PurePosixPath(relative).parts[:2]
        if part == "test" and kind != GOOD and PurePosixPath(relative).suffix.lower() in IMAGE_SUFFIXES:
            kinds[kind].append(relative)
    ranked = (sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path)).digest()) for paths in kinds.values())
    return frozenset(path for paths in ranked for path in paths[:per_defect])


def _split_of(part: str, defect: str | None, is_known: bool) -> Split:
    if is_known or (part == "train" and defect is not None):
        return Split.KNOWN
    return Split.TRAIN if part == "train" else Split.TEST
