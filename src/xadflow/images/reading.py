"""A file's bytes, read so that nobody's file can do harm; compared, where it is known, with the hash they must have.

Each fault is a :class:`~xadflow.errors.BadImage` with one of the reasons that the border lists (datasets/border.py).
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from xadflow.digests import sha256_bytes
from xadflow.errors import BadImage

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm", ".pbm"}
)
UNREAD_SUFFIXES = frozenset(
    {".jp2", ".j2k", ".jpx", ".gif", ".heic", ".heif", ".avif", ".jxl", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw"}
    | {".exr", ".hdr", ".tga", ".psd", ".svg", ".eps", ".pdf", ".dcm", ".ico", ".pcx", ".dds", ".fits", ".npy"}
)
"""Pictures, or files that hold one, which are not read: said as that, and not as any other file."""
MOST_BITS = 16
_FLAGS = os.O_RDONLY | os.O_NONBLOCK  # without the second, opening a named pipe waits for its writer
_LONGEST_NAME_BYTES = 255
_LINK = "symbolic links are not followed; copy what it points to"
_REPLACE = "replace the file"


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be at most; checked on the header, before decoding.

    `max_bytes` is the file's size, `max_side_px` either side, `max_pixels` their product. `max_bits`, 8 to 16, is how
    many bits of a grey value of more than 8 a camera fills: a larger value is refused, the 8 high bits of these stay.

    `max_decode_s` and `max_decode_mb`: seconds of processor time (by the clock three times as many) and memory for one
    file that is not decoded in passing, see children.py.
    """

    max_bytes: int = 100_000_000
    max_side_px: int = 20_000
    max_pixels: int = 100_000_000
    max_bits: int = MOST_BITS
    max_decode_s: int = 60
    max_decode_mb: int = 3000


def refusal(reason: str, detail: str) -> BadImage:
    """A fault that only quarantine states: `detail` is its sentence."""
    return BadImage(detail, seen=reason, next_step=_REPLACE, reason=reason, detail=detail)


def check_size(size: int, limits: ImageLimits) -> None:
    """Raises BadImage for a file of `size` bytes that is empty or too large."""
    if size == 0:
        seen = "0 bytes"
        detail = f"the file has {seen}"
        raise BadImage("the file is empty", seen=seen, next_step=_REPLACE, reason="empty", detail=detail, size=size)
    if size > limits.max_bytes:
        raise BadImage(
            "the file is too large",
            seen=f"{size} bytes",
            next_step="shrink it, or raise limits.max_bytes in params.yaml",
            reason="too-many-bytes",
            detail=f"more than limits.max_bytes = {limits.max_bytes}",
            size=size,
        )


def read_file(
    path: Path, limits: ImageLimits | None = None, *, root: Path | None = None, image_id: str | None = None
) -> bytes:
    """The bytes of a plain file, at most `limits.max_bytes` of them.

    A pipe or a device is refused without waiting for it, and a file that is too large before it is read.

    Args:
        root: a folder above `path` that strangers may write to: a link at or below it is refused.
        image_id: the sha256 that the bytes must have: who was admitted under an id is not replaced under it.

    Raises:
        BadImage: it cannot be read, is no plain file, empty or too large, or has other bytes.
    """
    limits = limits or ImageLimits()
    try:
        handle = os.open(path, _FLAGS) if root is None else _open_below(root, path.relative_to(root))
        try:
            seen = os.fstat(handle)
            if not stat.S_ISREG(seen.st_mode):
                raise BadImage(
                    "not a plain file",
                    seen=path.name,
                    next_step="name an image file",
                    reason="not-a-file",
                    detail="a folder, pipe, socket or device",
                )
            check_size(seen.st_size, limits)
            with os.fdopen(handle, "rb", closefd=False) as stream:
                content = stream.read(limits.max_bytes + 1)  # one more than allowed: it may have grown since
        finally:
            os.close(handle)
    except OSError as err:
        reason, detail = _fault(err)
        raise BadImage(
            "the file cannot be read",
            seen=f"{path.name}: {err.strerror}",
            next_step="check its path and rights; a file of a data set comes back by `dvc checkout`",
            reason=reason,
            detail=detail,
        ) from err
    check_size(len(content), limits)
    if image_id is not None and (digest := sha256_bytes(content)) != image_id:
        raise BadImage(
            "the file has other bytes than its manifest says",
            seen=digest[:12],
            next_step="restore the file by `dvc checkout`, or rebuild the manifest",
            reason="changed",
        )
    return content


def _fault(err: OSError) -> tuple[str, str]:
    """Reason and detail of a file that cannot be opened or read."""
    if isinstance(err, FileNotFoundError):
        return "vanished", "the file was listed, but is not there any more"
    if err.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):  # what O_NOFOLLOW answers for a link
        return "link", _LINK
    if err.errno == errno.ENXIO:
        return "not-a-file", "a pipe, socket or device"
    return "unreadable", err.strerror or "the file cannot be opened"


def _open_below(root: Path, relative: Path) -> int:
    """Open a file below `root`, following no link at any step, also if one is swapped in meanwhile."""
    if ".." in relative.parts:
        raise refusal("path", "its path holds `..`")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in relative.parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(relative.name, _FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def read_offered(content: bytes | Path, target: str, root: Path | None, limits: ImageLimits) -> bytes:
    """The bytes of a file that a source offers, after the checks of the name that it will have, `target`.

    Raises BadImage.
    """
    if fault := unsafe_name(target):
        raise refusal(*fault)
    if unused := unread(target):
        if isinstance(content, Path) and (odd := not_a_file(content)):
            raise refusal(*odd)
        raise refusal("suffix", unused)
    if isinstance(content, Path):
        return read_file(content, limits, root=root)
    check_size(len(content), limits)
    return content


def unread(name: str) -> str | None:
    """Why a file of this name is not read as an image, by its suffix; None when it is."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return None
    if suffix in UNREAD_SUFFIXES:
        return f"pictures of this format are not read: convert {suffix} to PNG or TIFF without loss"
    return f"expected one of {', '.join(sorted(IMAGE_SUFFIXES))}"


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


def not_a_file(path: Path) -> tuple[str, str] | None:
    """Reason and detail of quarantine for what a walk lists although it is no file; None for a file, or nothing."""
    try:
        if path.is_symlink():
            return "link", _LINK
        if path.is_dir():
            return "unreadable", "a folder that cannot be listed"
    except OSError as err:
        return "unreadable", err.strerror or "it cannot be looked at"
    return None
