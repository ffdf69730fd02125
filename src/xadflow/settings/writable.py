"""Whether a run may begin: what it would have to write, it can."""

from __future__ import annotations

import errno
import os
import tempfile

from xadflow.errors import CannotWrite
from xadflow.settings.environment import Home

_PROBE = bytes(1 << 16)


def check_writable(home: Home) -> None:
    """See that the state folder can be written, and the embedded databases in it, before anything is started for a run.

    Raises CannotWrite: read-only, another user's, or full.
    """
    what = f"{home.state.name}/"
    try:
        home.state.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home.state) as probe:
            probe.write(_PROBE)
            probe.flush()
        for database in ("mlflow.db", "prefect/prefect.db"):
            what = f"{home.state.name}/{database}"
            if (home.state / database).exists():
                os.close(os.open(home.state / database, os.O_RDWR))
    except OSError as err:
        full = err.errno in (errno.ENOSPC, errno.EDQUOT)
        raise CannotWrite(
            f"{what} is full: there is no room on its disk" if full else f"{what} is not writable",
            seen=err.strerror,
            next_step=f"{'free some space' if full else 'make it writable for this user'}, or name another folder by "
            "XADFLOW_HOME; then run the same command again",
        ) from err
