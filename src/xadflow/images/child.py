"""The child of children.py: decodes what it is given on standard input, within the limits that come with it.

A request is a line of JSON {kind, limits, bytes} and so many bytes; the answer a line {shape, dtype} and the pixels,
{nothing}, or {refused: ...}. Nothing of a file is run, and the answer is numbers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xadflow.errors import BadImage
from xadflow.images.decoding import decode_here
from xadflow.images.reading import ImageLimits


def serve() -> None:
    """Answer request after request until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while line := requests.readline():
        request = json.loads(line)
        content = requests.read(request["bytes"])
        if len(content) < request["bytes"]:
            return
        _answer(answers, content, ImageLimits(**request["limits"]), request["kind"])
        answers.flush()


def _answer(answers: BinaryIO, content: bytes, limits: ImageLimits, kind: str) -> None:
    _bound(limits)
    try:
        found = decode_here(content, limits, kind)
    except BadImage as err:
        _say(answers, refused=_told(err))
        return
    if found is None:
        _say(answers, nothing=True)
        return
    _say(answers, shape=found.shape, dtype=str(found.dtype))
    answers.write(np.ascontiguousarray(found).data)


def _say(answers: BinaryIO, **head: Any) -> None:
    answers.write(json.dumps(head).encode() + b"\n")


def _told(err: BadImage) -> dict[str, Any]:
    """The error's parts; what was seen as it is shown, for it may be bytes."""
    seen = err.seen if isinstance(err.seen, str | int) else repr(err.seen)
    return {
        "wrong": err.wrong,
        "seen": seen,
        "next_step": err.next_step,
        "reason": err.reason,
        "detail": err.detail,
        "size": err.size,
    }


def _bound(limits: ImageLimits) -> None:
    """Processor time from here on ends this process; memory beyond what it has now is refused to it."""
    most = math.ceil(time.process_time()) + limits.max_decode_s
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError):  # the person's own `ulimit -t` is lower, and stays
        resource.setrlimit(resource.RLIMIT_CPU, (most, hard))
    with contextlib.suppress(OSError, ValueError):  # no /proc, or a system that bounds none: the clock is left
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room = pages * os.sysconf("SC_PAGESIZE") + limits.max_decode_mb * 1_000_000
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (room, hard))
