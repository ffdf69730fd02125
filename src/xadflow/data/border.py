"""The border: every file is checked here, once, before it becomes part of a data set.

A file's bytes are read once; the same bytes are measured, decoded, hashed and written, so nothing can change between
the check and the use. What does not pass becomes a row of quarantine with one of these reasons:

    path  hidden  path-clash  suffix              its name (unsafe, dot file, two that differ by case, no image)
    link  not-a-file  vanished  unreadable        what the file system says
    empty  too-many-bytes  too-many-pixels        its size; pixels are counted on the header
    not-an-image  undecodable                     its content
    mask-<any of these>  mask-size  mask-empty    its mask
    duplicate  duplicate-across-splits  conflicting-labels      the same bytes more than once
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from xadflow.data.manifest import ManifestRow, Split
from xadflow.data.sources.base import Candidate, Refused, not_a_file
from xadflow.digests import sha256_bytes
from xadflow.errors import BadImage
from xadflow.images import IMAGE_SUFFIXES, ImageLimits, decode_image

Progress = Callable[[int, int], None]
"""Called as progress(done, total)."""

IMAGES = "images"
_WORKERS = max(2, min(8, os.cpu_count() or 2))
_REASON_OF = {"the image has too many pixels": "too-many-pixels", "not an image": "not-an-image"}
_LONGEST_NAME_BYTES = 255
# The copy that stays when the same bytes are in several splits: test is what figures are reported on.
_PRECEDENCE = (Split.TEST, Split.GATE, Split.KNOWN, Split.VAL, Split.TRAIN, Split.INBOX)


@dataclass(frozen=True)
class Admission:
    """What passed, ordered by path, with paths below images/; and what did not, ordered by path."""

    rows: tuple[ManifestRow, ...]
    refused: tuple[Refused, ...]


class _Refusal(Exception):
    def __init__(self, reason: str, detail: str, size: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.size = reason, detail, size


def admit(
    candidates: Iterable[Candidate | Refused], into: Path, limits: ImageLimits, progress: Progress | None = None
) -> Admission:
    """Check every candidate and write those that pass to `into`/<target>, with their masks; threads do the work.

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
    passed: list[tuple[Candidate, ManifestRow]] = []
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="border")
    try:
        results = pool.map(lambda candidate: _admit_one(candidate, into, limits), offered)
        for done, (candidate, result) in enumerate(zip(offered, results, strict=True), start=1):
            if isinstance(result, Refused):
                refused.append(result)
            else:
                passed.append((candidate, result))
            if progress:
                progress(done, len(offered))
    finally:
        pool.shutdown(cancel_futures=True)  # a full disk or Ctrl-C does not wait for the files still queued
    kept, doubled = _without_duplicates(passed)
    for candidate, refusal in doubled:
        written = into / candidate.target
        refused.append(replace(refusal, bytes=written.stat().st_size))
        written.unlink()
        if candidate.mask_target:
            (into / candidate.mask_target).unlink()
    return Admission(
        tuple(sorted(kept, key=lambda row: row.path)),
        tuple(sorted((_printable(row) for row in refused), key=lambda row: (row.path, row.reason))),
    )


def unsafe_name(relative: str) -> tuple[str, str] | None:
    """Reason ("path" or "hidden") and detail why a relative path may not be used below images/; None when it may.

    Names that start with a dot are refused because DVC and git skip some of them without a word; `..` also inside a name,
    because servers and archive tools further on look for those two characters rather than for a step upwards.
    """
    parts = relative.split("/")
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        return "path", "its name holds bytes that are no text"
    faults = {
        "it is no relative path": PurePosixPath(relative).is_absolute() or any(part in ("", ".") for part in parts),
        "its name holds `..`": ".." in relative,
        "its name holds a backslash or a control character": any(
            ord(letter) < 32 or ord(letter) == 127 or letter == "\\" for letter in relative
        ),
        f"its name is longer than {_LONGEST_NAME_BYTES} bytes": longest > _LONGEST_NAME_BYTES,
    }
    if found := [what for what, is_so in faults.items() if is_so]:
        return "path", " and ".join(found)
    return ("hidden", "its name starts with a dot") if any(part.startswith(".") for part in parts) else None


def _without_clashes(offered: list[Candidate]) -> tuple[list[Candidate], list[Refused]]:
    """Two names that differ by case only are one file on some systems: the second is refused."""
    taken: set[str] = set()
    kept, refused = [], []
    for candidate in offered:
        names = {name.casefold() for name in (candidate.target, candidate.mask_target) if name}
        if names & taken:
            refused.append(Refused(candidate.origin, "path-clash", "another file has this name, but for its case"))
        else:
            kept.append(candidate)
            taken |= names
    return kept, refused


def _admit_one(candidate: Candidate, into: Path, limits: ImageLimits) -> ManifestRow | Refused:
    image_id, size = None, None
    try:
        content = _read(candidate.content, candidate.target, candidate.root, limits)
        image_id, size = sha256_bytes(content), len(content)
        pixels = _decoded(content, limits)
        mask = _mask(candidate, pixels.shape[:2], limits)
    except _Refusal as refusal:
        known_size = size if refusal.size is None else refusal.size
        return Refused(candidate.origin, refusal.reason, refusal.detail, image_id, known_size)
    _write(into / candidate.target, content)
    if mask is not None and candidate.mask_target:
        _write(into / candidate.mask_target, mask)
    return ManifestRow(
        image_id=image_id, path=f"{IMAGES}/{candidate.target}", split=str(candidate.split), label=candidate.label,
        category=candidate.category, defect=candidate.defect,
        mask_path=f"{IMAGES}/{candidate.mask_target}" if mask is not None else None,
        width=int(pixels.shape[1]), height=int(pixels.shape[0]), source=candidate.source, licence=candidate.licence,
    )  # fmt: skip


def _mask(candidate: Candidate, shape: tuple[int, ...], limits: ImageLimits) -> bytes | None:
    """Bytes of the candidate's mask, checked against its image; None when there is none."""
    if candidate.mask is None or candidate.mask_target is None:
        return None
    try:
        content = _read(candidate.mask, candidate.mask_target, candidate.root, limits)
        pixels = _decoded(content, limits)
    except _Refusal as refusal:
        raise _Refusal(f"mask-{refusal.reason}", f"its mask {candidate.mask_target}: {refusal.detail}") from refusal
    if pixels.shape[:2] != shape:
        seen, wanted = ("x".join(map(str, side[1::-1])) for side in (pixels.shape, shape))
        raise _Refusal("mask-size", f"its mask {candidate.mask_target} is {seen}, the image {wanted}")
    if not np.any(pixels):
        raise _Refusal("mask-empty", f"its mask {candidate.mask_target} marks no pixel")
    return content


def _decoded(content: bytes, limits: ImageLimits) -> NDArray[np.uint8]:
    try:
        return decode_image(content, limits)
    except BadImage as err:
        raise _Refusal(_REASON_OF.get(err.wrong, "undecodable"), f"{err.wrong}: {err.seen}") from err


def _read(content: bytes | Path, target: str, root: Path | None, limits: ImageLimits) -> bytes:
    """The file's bytes, after the checks of its name and its kind."""
    if fault := unsafe_name(target):
        raise _Refusal(*fault)
    if PurePosixPath(target).suffix.lower() not in IMAGE_SUFFIXES:
        if isinstance(content, Path) and (odd := not_a_file(content)):
            raise _Refusal(*odd)
        raise _Refusal("suffix", f"expected one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    if isinstance(content, Path):
        content = _read_file(content, root, limits)
    if not content:
        raise _Refusal("empty", "the file has 0 bytes", 0)
    return content


def _read_file(path: Path, root: Path | None, limits: ImageLimits) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY) if root is None else _open_below(root, path.relative_to(root))
    except FileNotFoundError as err:
        raise _Refusal("vanished", "the file was listed, but is not there any more") from err
    except OSError as err:
        if err.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):  # what O_NOFOLLOW answers for a link
            raise _Refusal("link", "symbolic links are not followed; copy what it points to") from err
        if err.errno == errno.ENXIO:
            raise _Refusal("not-a-file", "a pipe, socket or device") from err
        raise _Refusal("unreadable", err.strerror or "the file cannot be opened") from err
    try:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode):
            raise _Refusal("not-a-file", "a folder, pipe, socket or device")
        if seen.st_size > limits.max_bytes:
            raise _Refusal("too-many-bytes", f"more than limits.max_bytes = {limits.max_bytes}", seen.st_size)
        with os.fdopen(handle, "rb", closefd=False) as stream:
            content = stream.read(limits.max_bytes + 1)
    except OSError as err:
        raise _Refusal("unreadable", err.strerror or "the file cannot be read") from err
    finally:
        os.close(handle)
    if len(content) > limits.max_bytes:  # it grew after fstat
        raise _Refusal("too-many-bytes", f"more than limits.max_bytes = {limits.max_bytes}", len(content))
    return content


def _open_below(root: Path, relative: Path) -> int:
    """Open a file below `root`, following no link at any step, also if one is swapped in meanwhile."""
    if ".." in relative.parts:
        raise _Refusal("path", "its path holds `..`")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in relative.parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        return os.open(relative.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _without_duplicates(
    passed: list[tuple[Candidate, ManifestRow]],
) -> tuple[list[ManifestRow], list[tuple[Candidate, Refused]]]:
    """One row for each content: the copy in the split that takes precedence, there the first by path.

    Copies that contradict each other within that split (normal and anomalous) are all refused.
    """
    copies: dict[str, list[tuple[Candidate, ManifestRow]]] = defaultdict(list)
    for candidate, row in passed:
        copies[row.image_id].append((candidate, row))
    kept: list[ManifestRow] = []
    doubled: list[tuple[Candidate, Refused]] = []
    for group in copies.values():
        group.sort(key=lambda pair: (_PRECEDENCE.index(pair[0].split), pair[1].path))
        first, winner = group[0]
        peers = [candidate for candidate, _ in group if candidate.split == first.split]
        conflict = len({candidate.label for candidate in peers}) > 1
        if not conflict:
            kept.append(winner)
        for candidate, row in group if conflict else group[1:]:
            if conflict:
                reason, detail = "conflicting-labels", "the same bytes are both normal and anomalous"
            elif candidate.split == first.split:
                reason, detail = "duplicate", f"the same bytes as {first.origin}"
            else:
                reason, detail = "duplicate-across-splits", f"the same bytes as {first.origin} of split {first.split}"
            doubled.append((candidate, Refused(candidate.origin, reason, detail, row.image_id)))
    return kept, doubled


def _printable(row: Refused) -> Refused:
    """File names may hold bytes that are no text; quarantine states them escaped."""
    path, detail = (os.fsencode(text).decode("utf-8", "backslashreplace") for text in (row.path, row.detail))
    return replace(row, path=path, detail=detail)
