"""A full disk or a read-only folder, said in our words: every writer of a data set works inside :func:`writing`."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from xadflow.errors import CannotWrite

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Do a block that writes `what`; any other OSError than those two passes as it is.

    Raises:
        CannotWrite: the disk is full, or the folder is read-only.
    """
    try:
        yield
    except OSError as err:
        if err.errno in _FULL:
            raise CannotWrite(
                f"{what} could not be written: no room",
                seen=err.strerror,
                next_step="free some space, then run the same command again; `xadflow doctor` shows how much there is",
            ) from err
        if err.errno in _REFUSED:
            raise CannotWrite(
                f"{what} could not be written: not allowed",
                seen=err.strerror,
                next_step="give this user the right to write there, then run the same command again",
            ) from err
        raise
