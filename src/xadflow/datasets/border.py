"""The border: every file is checked here, once, before it becomes part of a data set.

A file's bytes are read once; the same bytes are measured, decoded, hashed and written, so nothing can change between
the check and the use. What does not pass becomes a row of quarantine with one of these reasons:

    path  hidden  path-clash  suffix              its name (unsafe, dot file, two that differ by case, no image)
    link  not-a-file  vanished  unreadable        what the file system says
    empty  too-many-bytes  too-many-pixels        its size; pixels are counted on the header
    not-an-image  undecodable                     its content
    mask-<any of these>  mask-size  mask-empty    its mask
    labels-<any of these>  labels-size  labels-channels  labels-ids      a scene's map of class ids
    too-slow  too-much-memory                     what decoding it takes, beyond `limits`
    too-many-bits  more-pages                     how it would be decoded; pages after the first, which is used
    duplicate  duplicate-across-splits  conflicting-labels      the same bytes, or pixels, more than once
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from xadflow.datasets.manifest import ManifestRow, Split
from xadflow.datasets.sources.base import Candidate, Refused
from xadflow.digests import sha256_bytes
from xadflow.errors import BadImage
from xadflow.images import VOID, ImageLimits, decode_image, decode_mask
from xadflow.images.decoding import has_further_frames
from xadflow.images.reading import MOST_BITS, read_offered, refusal

Progress = Callable[[int, int], None]
"""Called as progress(done, total)."""

IMAGES = "images"
_NAME_IN_THE_WAY = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ}
_WORKERS = max(2, min(8, os.cpu_count() or 2))
# The copy that stays when the same bytes are in several splits: test is what figures are reported on.
_PRECEDENCE = (Split.TEST, Split.GATE, Split.KNOWN, Split.VAL, Split.TRAIN, Split.INBOX)


@dataclass(frozen=True)
class _Passed:
    """An image that may stay. `same` is equal for images that are one: by their pixels, in an inbox by their bytes."""

    candidate: Candidate
    row: ManifestRow
    same: str
    has_more_pages: bool


@dataclass(frozen=True)
class Admission:
    """What passed, ordered by path, with paths below images/; and what did not, ordered by path.

    `known`: origin and image_id of what was told to be there already.
    """

    rows: tuple[ManifestRow, ...]
    refused: tuple[Refused, ...]
    known: tuple[tuple[str, str], ...] = ()


def admit(
    candidates: Iterable[Candidate | Refused],
    into: Path,
    limits: ImageLimits,
    progress: Progress | None = None,
    *,
    known: frozenset[str] = frozenset(),
) -> Admission:
    """Check every candidate and write those that pass to `into`/<target>, with their masks; threads do the work.

    Images with an image_id in `known` were checked before: they are neither decoded nor written.

    Duplicates are resolved afterwards and their files removed from `into`. The result does not depend on the number of
    threads or on which is first.
    """
    offered: list[Candidate] = []
    refused: list[Refused] = []
    for candidate in candidates:
        if isinstance(candidate, Refused):
            refused.append(candidate)
        else:
            offered.append(candidate)
    offered, clashing = _without_clashes(offered)
    refused += clashing
    passed: list[_Passed] = []
    there: list[tuple[str, str]] = []
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="border")
    try:
        results = pool.map(lambda candidate: _admit_one(candidate, into, limits, known), offered)
        for done, (candidate, result) in enumerate(zip(offered, results, strict=True), start=1):
            if isinstance(result, Refused):
                refused.append(result)
            elif isinstance(result, str):
                there.append((candidate.origin, result))
            else:
                passed.append(result)
                refused += [_further_pages(result)] if result.has_more_pages else []
            if progress:
                progress(done, len(offered))
    finally:
        pool.shutdown(cancel_futures=True)  # a full disk or Ctrl-C does not wait for the files still queued
    kept, doubled = _without_duplicates(passed)
    for candidate, twice in doubled:
        written = into / candidate.target
        refused.append(replace(twice, bytes=written.stat().st_size))
        written.unlink()
        for beside in filter(None, (candidate.mask_target, candidate.labels_target)):
            (into / beside).unlink()
    return Admission(
        tuple(sorted(kept, key=lambda row: row.path)),
        tuple(sorted((_printable(row) for row in refused), key=lambda row: (row.path, row.reason))),
        tuple(sorted(there)),
    )


def _without_clashes(offered: list[Candidate]) -> tuple[list[Candidate], list[Refused]]:
    """Two names that differ by case only, or by how an accent is written, are one file on some systems: the second is
    refused.
    """
    taken: set[str] = set()
    kept, refused = [], []
    for candidate in offered:
        names = {normalize("NFC", normalize("NFC", name).casefold()) for name in _targets(candidate)}
        if names & taken:
            refused.append(
                Refused(candidate.origin, "path-clash", "another file has this name, but for its case or its accents")
            )
        else:
            kept.append(candidate)
            taken |= names
    return kept, refused


def _targets(candidate: Candidate) -> list[str]:
    return [name for name in (candidate.target, candidate.mask_target, candidate.labels_target) if name]


def _admit_one(candidate: Candidate, into: Path, limits: ImageLimits, known: frozenset[str]) -> _Passed | Refused | str:
    """The image's row, what is wrong with it, or the image_id of one that is known."""
    image_id, size = None, None
    try:
        content = read_offered(candidate.content, candidate.target, candidate.root, limits)
        image_id, size = sha256_bytes(content), len(content)
        if image_id in known:
            return image_id
        pixels = decode_image(content, limits)
        mask = _mask(candidate, pixels.shape[:2], limits)
        labels = _labels(candidate, pixels.shape[:2], limits)
    except BadImage as err:
        return Refused(candidate.origin, err.reason, err.detail, image_id, size if err.size is None else err.size)
    try:
        _write(into / candidate.target, content)
        if mask is not None and candidate.mask_target:
            _write(into / candidate.mask_target, mask)
        if labels is not None and candidate.labels_target:
            _write(into / candidate.labels_target, labels)
    except OSError as err:
        if err.errno not in _NAME_IN_THE_WAY:
            raise
        return Refused(candidate.origin, "path", f"it cannot be stored: {err.strerror}", image_id, size)
    row = ManifestRow(
        image_id=image_id,
        path=f"{IMAGES}/{candidate.target}",
        split=str(candidate.split),
        label=candidate.label,
        category=candidate.category,
        defect=candidate.defect,
        mask_path=f"{IMAGES}/{candidate.mask_target}" if mask is not None else None,
        width=int(pixels.shape[1]),
        height=int(pixels.shape[0]),
        source=candidate.source,
        licence=candidate.licence,
        labels_path=f"{IMAGES}/{candidate.labels_target}" if labels is not None else None,
    )
    same = image_id if candidate.split == Split.INBOX else _digest_of(pixels)
    return _Passed(candidate, row, same, has_further_frames(content))


def _digest_of(pixels: NDArray[np.uint8]) -> str:
    """Equal for equal pictures, however they were saved: grey that is stored as RGB is grey."""
    if pixels.ndim == 3 and not any(np.any(part[..., :1] != part[..., 1:]) for part in (pixels[:1], pixels)):
        pixels = pixels[..., 0]
    return sha256_bytes(f"{pixels.shape}".encode() + pixels.tobytes())


def _further_pages(passed: _Passed) -> Refused:
    return Refused(
        f"{passed.candidate.origin} [page 2 and on]",
        "more-pages",
        "of a file of several pages or frames the first is used; save the others as files of their own",
        passed.row.image_id,
    )


def _mask(candidate: Candidate, shape: tuple[int, ...], limits: ImageLimits) -> bytes | None:
    """Bytes of the candidate's mask, checked against its image; None when there is none."""
    if candidate.mask is None or candidate.mask_target is None:
        return None
    content, pixels = _beside(
        "mask", candidate.mask, candidate.mask_target, candidate, shape, limits, decode=decode_mask
    )
    if not np.any(pixels):
        raise refusal("mask-empty", f"its mask {candidate.mask_target} marks no pixel")
    return content


def _labels(candidate: Candidate, shape: tuple[int, ...], limits: ImageLimits) -> bytes | None:
    """Bytes of a scene's map of class ids, checked against its image and the number of classes; None when there is
    none.
    """
    if candidate.labels is None or candidate.labels_target is None:
        return None
    content, pixels = _beside(
        "labels", candidate.labels, candidate.labels_target, candidate, shape, replace(limits, max_bits=MOST_BITS)
    )
    if pixels.ndim != 2:
        raise refusal("labels-channels", f"its labels {candidate.labels_target} are in colour, expected class ids")
    strange = np.unique(pixels[(pixels >= candidate.classes) & (pixels != VOID)])
    if len(strange):
        raise refusal(
            "labels-ids",
            f"its labels {candidate.labels_target} hold {', '.join(map(str, strange[:5]))}, expected "
            f"0 to {candidate.classes - 1}, or {VOID} for pixels that are nobody's",
        )
    return content


def _beside(
    kind: str,
    given: bytes | Path,
    target: str,
    candidate: Candidate,
    shape: tuple[int, ...],
    limits: ImageLimits,
    *,
    decode: Callable[[bytes, ImageLimits], NDArray[np.uint8]] = decode_image,
) -> tuple[bytes, NDArray[np.uint8]]:
    """Bytes and pixels of a picture that belongs to an image and has its size.

    Many parameters: what is beside an image, whose it is, and how it is read.
    """
    try:
        content = read_offered(given, target, candidate.root, limits)
        pixels = decode(content, limits)
    except BadImage as err:
        raise refusal(f"{kind}-{err.reason}", f"its {kind} {target}: {err.detail}") from err
    if pixels.shape[:2] != shape:
        seen, wanted = ("x".join(map(str, side[1::-1])) for side in (pixels.shape, shape))
        raise refusal(f"{kind}-size", f"its {kind} {target} is {seen}, the image {wanted}")
    return content, pixels


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _without_duplicates(passed: list[_Passed]) -> tuple[list[ManifestRow], list[tuple[Candidate, Refused]]]:
    """One row for each picture: the copy in the split that takes precedence, there the first by path.

    Copies that contradict each other within that split (normal and anomalous) are all refused.
    """
    copies: dict[str, list[_Passed]] = defaultdict(list)
    for one in passed:
        copies[one.same].append(one)
    kept: list[ManifestRow] = []
    doubled: list[tuple[Candidate, Refused]] = []
    for group in copies.values():
        group.sort(key=lambda one: (_PRECEDENCE.index(one.candidate.split), one.row.path))
        first = group[0]
        peers = [one.candidate for one in group if one.candidate.split == first.candidate.split]
        conflict = len({candidate.label for candidate in peers}) > 1
        if not conflict:
            kept.append(first.row)
        for one in group if conflict else group[1:]:
            of, split = first.candidate.origin, first.candidate.split
            what = "bytes" if all(one.row.image_id == other.row.image_id for other in group) else "pixels"
            if conflict:
                reason, detail = "conflicting-labels", f"the same {what} are both normal and anomalous"
            elif one.candidate.split == split:
                reason, detail = "duplicate", f"the same {what} as {of}"
            else:
                reason, detail = "duplicate-across-splits", f"the same {what} as {of} of split {split}"
            doubled.append((one.candidate, Refused(one.candidate.origin, reason, detail, one.row.image_id)))
    return kept, doubled


def printable_name(name: str) -> str:
    """A file name as quarantine states it: bytes that are no text are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _printable(row: Refused) -> Refused:
    return replace(row, path=printable_name(row.path), detail=printable_name(row.detail))
