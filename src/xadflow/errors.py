"""Everything that xadflow raises on purpose.

XadflowError                  what was wrong, the value seen, the next step
├── WrongUse                  the request itself is wrong (exit status 2)
│   ├── BadSettings           params.yaml: unknown key, wrong type, wrong value
│   └── UnknownName           no detector, explainer, data set, image or model of that name
└── WorkFailed                the request was fine, the work was not (exit status 1)
    ├── BadImage              a file that cannot be used as an image; quarantined, never fatal alone
    ├── DataUnavailable       a package or folder with the images is not there
    ├── BadManifest           a manifest that breaks its own schema
    ├── ValidationFailed      Great Expectations refused a manifest or a shard
    ├── TooFewNormals         not enough held-out normals for the false-alarm rate asked for
    ├── BadWeights            pretrained weights or a saved detector that do not fit
    ├── BadInput              a tensor of the wrong shape, type or range
    │   └── NotFinite         values that are not numbers, or infinite; also a ValueError
    ├── TrainingFailed        the loss stopped being a number, or memory does not suffice
    ├── NoDonors              a transplant without normal images to take pixels from
    ├── NoChampion            no registered model carries the alias asked for
    ├── RegistryUnavailable   MLflow cannot be reached or its store cannot be opened
    ├── StoreConflict         another writer kept winning the commit
    ├── StoreBroken           a table or ledger that cannot be read
    ├── AuditFailed           the evidence does not verify
    ├── CannotWrite           the disk is full, or a folder is not ours to write
    ├── StageFailed           a DVC stage ended with an error
    └── Stopped               a signal asked the work to stop
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from pathlib import Path

# numbers of the system, words of libraries that pass none on (SQLite through MLflow and Prefect, DVC, Delta Lake), what
# was wrong, what mends it
_NO_ROOM = (
    (
        {errno.ENOSPC, errno.EDQUOT, errno.EFBIG},
        ("no space left on device", "database or disk is full", "disk quota exceeded"),
        "the disk is full: something could not be written",
        "free some space",
    ),
    (
        {errno.EROFS},
        ("read-only file system", "attempt to write a readonly database"),
        "something could not be written: it is read-only",
        "make the folder writable",
    ),
    (
        {errno.EACCES, errno.EPERM},
        ("permission denied", "operation not permitted"),
        "a file or folder may not be used by this user",
        "give this user the right to read and write there",
    ),
)


class XadflowError(Exception):
    """Base of all errors: says what was wrong, the value seen and the next step."""

    exit_status = 1

    def __init__(self, wrong: str, *, seen: object, next_step: str, transient: bool = False) -> None:
        super().__init__(f"{wrong}; got {seen!r}. Next: {next_step}")
        self.wrong, self.seen, self.next_step = wrong, seen, next_step
        self.transient = transient  # may pass by itself: worth a retry

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only arguments survive a process border
        return _rebuild, (type(self), self.wrong, self.seen, self.next_step, self.transient), self.__dict__


def _rebuild(kind: type[XadflowError], wrong: str, seen: object, next_step: str, transient: bool) -> XadflowError:
    return kind(wrong, seen=seen, next_step=next_step, transient=transient)


class WrongUse(XadflowError):
    """The request itself is wrong."""

    exit_status = 2


class BadSettings(WrongUse):
    """params.yaml has an unknown key, a wrong type or a wrong value."""


class UnknownName(WrongUse):
    """Nothing of that name is registered."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """What was probably meant by a name that is not known; None where nothing is that like it (0 any, 1 the same)."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def unknown_name(wrong: str, name: str, known: Iterable[str], otherwise: str = "") -> UnknownName:
    """The one answer to a wrong name: the nearest known one, or else all of them and `otherwise`."""
    known = sorted(known)
    near = nearest(name, known)
    return UnknownName(wrong, seen=name, next_step=f"use {near!r}" if near else f"one of {known}{otherwise}")


class WorkFailed(XadflowError):
    """The request was fine, the work was not."""


class BadImage(WorkFailed):
    """A file that cannot be used as an image.

    `reason` is the short code that quarantine states and `detail` its sentence there; `size` is the file's, in bytes,
    where that is known.
    """

    def __init__(
        self,
        wrong: str,
        *,
        seen: object,
        next_step: str,
        transient: bool = False,
        reason: str = "undecodable",
        detail: str | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__(wrong, seen=seen, next_step=next_step, transient=transient)
        self.reason, self.detail, self.size = reason, detail or f"{wrong}: {seen}", size


class DataUnavailable(WorkFailed):
    """The package or folder that holds the images is not there."""


class BadManifest(WorkFailed):
    """A manifest that breaks its own schema."""


class ValidationFailed(WorkFailed):
    """Great Expectations refused a manifest or a shard of results."""


class TooFewNormals(WorkFailed):
    """Not enough held-out normals for the false-alarm rate asked for."""


class BadWeights(WorkFailed):
    """Pretrained weights or a saved detector that do not fit."""


class BadInput(WorkFailed):
    """A tensor of the wrong shape, type or range."""


class NotFinite(BadInput, ValueError):
    """A tensor with values that are not numbers, or infinite; a ValueError for callers who know no other."""


class TrainingFailed(WorkFailed):
    """The loss stopped being a number, or memory does not suffice."""


class NoDonors(WorkFailed):
    """A transplant has no normal images to take pixels from."""


class NoChampion(WorkFailed):
    """No registered model carries the alias asked for."""


class RegistryUnavailable(WorkFailed):
    """MLflow cannot be reached or its store cannot be opened."""


class StoreConflict(WorkFailed):
    """Another writer kept winning the commit."""


class StoreBroken(WorkFailed):
    """A table or ledger that cannot be read."""


class AuditFailed(WorkFailed):
    """The evidence does not verify."""


class CannotWrite(WorkFailed):
    """The disk is full, or a folder is not ours to write."""


class StageFailed(WorkFailed):
    """A DVC stage ended with an error."""


class Stopped(WorkFailed):
    """A signal asked the work to stop, and it did at its next step."""


def no_room(err: BaseException | str) -> CannotWrite | None:
    """Our one line for a full disk or a folder that may not be written, whoever met it; None where it was neither.

    `err` is what a library raised, looked at down to its causes, or what a child process said.
    """
    for one in [err] if isinstance(err, str) else _chain(err):
        if isinstance(one, CannotWrite):
            return one
        number = one.errno if isinstance(one, OSError) else None
        for numbers, words, wrong, first in _NO_ROOM:
            said = next((word for word in words if word in str(one).lower()), None)
            if number in numbers or said:
                return CannotWrite(
                    wrong,
                    seen=_place(one) or said,
                    next_step=f"{first}, then run the same command again: only what is missing is done",
                )
    return None


def _chain(err: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, the errors of a group included."""
    waiting, seen = [err], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [*getattr(one, "exceptions", ()), *filter(None, (one.__cause__, one.__context__))]


def _place(err: BaseException | str) -> str | None:
    """What the system called it, and the name of the file where that is known."""
    if not isinstance(err, OSError) or err.errno is None:
        return None
    return f"{err.strerror}: {Path(str(err.filename)).name}" if err.filename else str(err.strerror)
