"""A run without PREFECT_API_URL starts a Prefect server of its own; here that server's life is tied to the run's.

Prefect ends it when the interpreter exits, and so not after SIGKILL, the end of memory or `os._exit`: it then went on
for ever, with its port and its hand on the database.
"""

from __future__ import annotations

import subprocess
import sys
from threading import Lock
from types import ModuleType
from typing import Any

# Waits until the pipe on its standard input closes, which the kernel does when the run has ended in whatever way. The
# process with that number is ended only if it is a Prefect server still.
_GUARD = """
import os, signal, sys, time
os.read(0, 1)
pid = int(sys.argv[1])
def lives():
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as words:
            return b"prefect.server" in words.read()
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
for number in (signal.SIGTERM, signal.SIGKILL):
    if lives():
        os.kill(pid, number)
    for _ in range(50):
        if lives():
            time.sleep(0.1)
"""
_guarded: dict[int, subprocess.Popen[bytes]] = {}  # by the server's process id; kept, and with it the pipe
_turn = Lock()


def end_servers_with_us() -> None:
    """From now on every server that Prefect starts in this process, and one that it has started, ends with it."""
    from prefect.server.api import server

    with _turn:
        if not isinstance(vars(server)["subprocess"], _Subprocess):
            vars(server)["subprocess"] = _Subprocess("subprocess")
        for one in list(server.SubprocessASGIServer._instances.values()):
            if one.server_process is not None:
                _guard(one.server_process.pid)


class _Subprocess(ModuleType):
    """The module `subprocess` as Prefect's server module sees it: what it starts is guarded.

    Such a server is in a session of its own, so that a Ctrl-C in the terminal does not end it before the run, which
    then could not give its slots back.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    @staticmethod
    def Popen(*words: Any, **named: Any) -> subprocess.Popen[Any]:  # noqa: N802 the name that Prefect calls
        started = subprocess.Popen(*words, **named, start_new_session=True)
        with _turn:
            _guard(started.pid)
        return started


def _guard(server: int) -> None:
    if server in _guarded:
        return
    _guarded[server] = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, str(server)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
