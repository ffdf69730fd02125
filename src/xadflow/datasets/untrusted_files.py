"""Files that nobody vouches for: the checks of a name, of what the file system says, of size and content.

Each fault is a :class:`Refusal` with one of the reasons that the border lists (border.py).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from xadflow.datasets.sources.base import not_a_file
from xadflow.errors import BadImage
from xadflow.images import IMAGE_SUFFIXES, ImageLimits, decode_image

_REASON_OF = {"the image has too many pixels": "too-many-pixels", "not an image": "not-an-image"}
_LONGEST_NAME_BYTES = 255


class Refusal(Exception):
    """Why a file is not admitted: a short code, a sentence for people, and its size in bytes where that is known."""

    def __init__(self, reason: str, detail: str, size: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.size = reason, detail, size


def unsafe_name(relative: str) -> tuple[str, str] | None:
    """Reason ("path" or "hidden") and detail why a relative path may not be used below images/; None when it may.

    Names that start with a dot are refused because DVC and git skip some of them without a word; `..` also inside a
    name, because servers and archive tools further on look for those two characters rather than for a step upwards.
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


def decoded(content: bytes, limits: ImageLimits) -> NDArray[np.uint8]:
    """Pixels of an image file. Raises Refusal."""
    try:
        return decode_image(content, limits)
    except BadImage as err:
        raise Refusal(_REASON_OF.get(err.wrong, "undecodable"), f"{err.wrong}: {err.seen}") from err


def read_untrusted(content: bytes | Path, target: str, root: Path | None, limits: ImageLimits) -> bytes:
    """The file's bytes, after the checks of its name and its kind; `target` is the name it will have.
    Raises Refusal.
    """
    if fault := unsafe_name(target):
        raise Refusal(*fault)
    if PurePosixPath(target).suffix.lower() not in IMAGE_SUFFIXES:
        if isinstance(content, Path) and (odd := not_a_file(content)):
            raise Refusal(*odd)
        raise Refusal("suffix", f"expected one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    if isinstance(content, Path):
        content = _read_file(content, root, limits)
    if not content:
        raise Refusal("empty", "the file has 0 bytes", 0)
    return content


def _read_file(path: Path, root: Path | None, limits: ImageLimits) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY) if root is None else _open_below(root, path.relative_to(root))
    except FileNotFoundError as err:
        raise Refusal("vanished", "the file was listed, but is not there any more") from err
    except OSError as err:
        if err.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):  # what O_NOFOLLOW answers for a link
            raise Refusal("link", "symbolic links are not followed; copy what it points to") from err
        if err.errno == errno.ENXIO:
            raise Refusal("not-a-file", "a pipe, socket or device") from err
        raise Refusal("unreadable", err.strerror or "the file cannot be opened") from err
    try:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode):
            raise Refusal("not-a-file", "a folder, pipe, socket or device")
        if seen.st_size > limits.max_bytes:
            raise Refusal("too-many-bytes", f"more than limits.max_bytes = {limits.max_bytes}", seen.st_size)
        with os.fdopen(handle, "rb", closefd=False) as stream:
            content = stream.read(limits.max_bytes + 1)
    except OSError as err:
        raise Refusal("unreadable", err.strerror or "the file cannot be read") from err
    finally:
        os.close(handle)
    if len(content) > limits.max_bytes:  # it grew after fstat
        raise Refusal("too-many-bytes", f"more than limits.max_bytes = {limits.max_bytes}", len(content))
    return content


def _open_below(root: Path, relative: Path) -> int:
    """Open a file below `root`, following no link at any step, also if one is swapped in meanwhile."""
    if ".." in relative.parts:
        raise Refusal("path", "its path holds `..`")
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
