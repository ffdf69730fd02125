"""What a person hears of a task that failed: its own error, in one line, whatever stands between the task and them."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect.futures import PrefectFuture

from xadflow.errors import WorkFailed, XadflowError, no_room
from xadflow.settings import Home


@dataclass(frozen=True)
class Failure:
    """A piece of work that failed, and why."""

    what: str
    error: XadflowError


def first_failure(what: str, *futures: PrefectFuture[Any]) -> Failure | None:
    """The failure of the first of these tasks, each of which needs the one before; None when all ended well.

    A task after a failed one never begins: Prefect calls it pending, and asked for its result raises UnfinishedRun,
    which says nothing of the cause. Waits for all of them.
    """
    for one in futures:
        one.wait()
    for one in futures:
        if one.state.is_failed() or one.state.is_crashed() or one.state.is_cancelled():
            return Failure(what, _error(what, one))
    if all(one.state.is_completed() for one in futures):
        return None
    return Failure(
        what, ours(WorkFailed(f"{what} did not begin", seen=str(futures[-1].state), next_step=_DOCTOR), what)
    )


def ours(err: BaseException, what: str) -> XadflowError:
    """An error as a person gets it: ours as it is; no room or no right to write; else a bug of ours, in one line.

    The traceback of a bug is kept in var/log, where it can be.
    """
    if isinstance(err, XadflowError):
        return err
    if (full := no_room(err)) is not None:
        return full
    said = next((line.strip() for line in str(err).splitlines() if line.strip()), "no message")
    kept = _kept(err)
    found = WorkFailed(
        f"{what} ended in an error that xadflow does not know",
        seen=f"{type(err).__name__}: {said[:300]}",
        next_step=f"read {kept} and report it; {_DOCTOR}" if kept else _DOCTOR,
    )
    found.__cause__ = err
    return found


_DOCTOR = "`xadflow doctor` looks at everything, and the same command again does only what is missing"


def raise_first(failures: Sequence[Failure], done: Sequence[str] = ()) -> None:
    """Raise the first of several failures, if there is any, with one line for each other one and for what was done."""
    if not failures:
        return
    error = failures[0].error
    told = {str(error)}
    for one in failures[1:]:
        if str(one.error) not in told:
            told.add(str(one.error))
            error.add_note(f"{one.what}: {one.error}")
    for line in done:
        error.add_note(line)
    raise error


def _error(what: str, future: PrefectFuture[Any]) -> XadflowError:
    state = future.state
    try:
        found = state.result(raise_on_failure=False)
    except Exception as err:  # a result that another machine kept, or nobody
        found = err
    if not isinstance(found, BaseException):
        found = WorkFailed(f"{what} ended as {state.name}", seen=state.message or "no message", next_step=_DOCTOR)
    return ours(found, what)


def _kept(err: BaseException) -> str | None:
    """Write a traceback to var/log; returns the file's name, relative to the state's parent."""
    with suppress(OSError, XadflowError):
        state = Home.find().state
        path = state / "log" / f"bug-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(err)))
        return f"{state.name}/log/{path.name}"
    return None
