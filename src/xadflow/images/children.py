"""Costly files are decoded in a child process, which can be ended: one file costs no more than its limits say.

A child serves one file after the other and ends with this process. It bounds its own processor time and memory
(child.py); what it does not end itself is ended from here, by the clock. Then this file is refused, and the next one
gets a new child. A first child takes a quarter of a second to start, a file then what its bytes and pixels take through
a pipe; ordinary files never come here (costs.py).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import BufferedReader, BufferedWriter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadImage
from xadflow.images.reading import ImageLimits

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from xadflow.images.child import serve; serve()"
_MOST_CHILDREN = max(1, min(4, os.cpu_count() or 1))
_PIPE_BYTES = 1 << 20  # a hundred million bytes of pixels come through
_CLOCK = 3  # a busy machine gives a process a third of its processor at least


def in_a_child(content: bytes, limits: ImageLimits, kind: str) -> NDArray[Any] | None:
    """What :func:`xadflow.images.decoding.decode_here` gives, from a child.

    Raises:
        BadImage: as there, or the file takes longer than `limits.max_decode_s`, needs more than `limits.max_decode_mb`,
            or ends its decoder.
    """
    try:
        with _children.one() as child:
            return child.decode(content, limits, kind)
    except _EndedByOthers:  # that says nothing about the file
        with _children.one() as child:
            return child.decode(content, limits, kind)


class _EndedByOthers(BadImage):
    """The child was killed, and not for its limits: by a person, or by a system that is short of memory."""


class _Child:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.requests = cast("BufferedWriter", self.process.stdin)
        self.answers = cast("BufferedReader", self.process.stdout)
        for pipe in (self.requests, self.answers):
            with contextlib.suppress(OSError, AttributeError):  # Linux only, and not beyond what it allows
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def decode(self, content: bytes, limits: ImageLimits, kind: str) -> NDArray[Any] | None:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.process.kill()

        watch = threading.Timer(_CLOCK * limits.max_decode_s, give_up)
        watch.daemon = True
        watch.start()
        try:
            head = {"kind": kind, "limits": asdict(limits), "bytes": len(content)}
            self.requests.write(json.dumps(head).encode() + b"\n" + content)
            self.requests.flush()
            return _reply(self.answers)
        except (OSError, EOFError) as err:
            raise _ended(self.process.wait(), late.is_set(), limits) from err
        finally:
            watch.cancel()

    def end(self) -> None:
        self.process.kill()
        for pipe in (self.requests, self.answers):
            with contextlib.suppress(OSError):  # what it did not take is not for anybody any more
                pipe.close()
        self.process.wait()


class _Children:
    """At most so many at once; one that is idle is taken before a new one is started."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(_MOST_CHILDREN)
        self._taking = threading.Lock()
        self._idle: list[_Child] = []

    @contextmanager
    def one(self) -> Iterator[_Child]:
        with self._free:
            child = self._taken() or _Child()
            try:
                yield child
            except BadImage:
                if child.process.poll() is None:
                    self._idle.append(child)  # it has said what is wrong with the file
                else:
                    child.end()
                raise
            except BaseException:
                child.end()
                raise
            self._idle.append(child)

    def _taken(self) -> _Child | None:
        """An idle child that is still there."""
        with self._taking:
            while self._idle:
                child = self._idle.pop()
                if child.process.poll() is None:
                    return child
                child.end()
        return None

    def end(self) -> None:
        while self._idle:
            self._idle.pop().end()


def _reply(stream: BufferedReader) -> NDArray[Any] | None:
    head = json.loads(stream.readline() or b"null")
    if head is None:
        raise EOFError
    if "refused" in head:
        raise BadImage(**head["refused"])
    if "nothing" in head:
        return None
    found = np.empty(tuple(head["shape"]), dtype=head["dtype"])
    if stream.readinto(found.data) != found.nbytes:
        raise EOFError
    return found


def _ended(status: int, late: bool, limits: ImageLimits) -> BadImage:
    """Why a child ended without an answer; `late`: it was killed from here, by the clock."""
    if late or status == -signal.SIGXCPU:
        return BadImage(
            "the image is too slow to decode",
            seen=f"more than limits.max_decode_s = {limits.max_decode_s}",
            next_step="save it again as an ordinary JPEG or PNG, or raise limits.max_decode_s in params.yaml",
            reason="too-slow",
        )
    if status in (-signal.SIGKILL, -signal.SIGTERM):
        return _EndedByOthers(
            "the decoder of the image was killed, twice, and not by xadflow",
            seen=signal.Signals(-status).name,
            next_step="see whether memory was short, or the limit of processor time (`ulimit -t`) is low, "
            "then run the same command again",
        )
    return BadImage("the image ends its decoder", seen=f"status {status}", next_step="replace the file")


def _start_anew() -> None:
    global _children
    _children = _Children()  # after a fork the pipes are the parent's


_children = _Children()
os.register_at_fork(after_in_child=_start_anew)
atexit.register(lambda: _children.end())
