"""Where a process is killed: a real SIGKILL before, after or inside a named call of the production code.

The code under test has no hooks for this. A point names a function and which call of it; `arm` puts a wrapper around
the function in this process only, and the wrapper sends SIGKILL to the process itself.
"""

from __future__ import annotations

import importlib
import inspect
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from xadflow.evidence.tables import BY_NAME


class When(StrEnum):
    """Where in the call the process dies."""

    BEFORE = "before"
    AFTER = "after"
    WRITING = "writing"  # as soon as a new Parquet file is in the table's folder
    TORN_LINE = "torn line"  # after half of the bytes that the call gives to os.write
    TORN_FILE = "torn file"  # after half of the bytes that the call gives to torch.save


@dataclass(frozen=True)
class KillPoint:
    """One point: `target` is module:attribute, `call` counts the calls from 1, `of` counts only those about
    this table.
    """

    name: str
    target: str
    when: When = When.BEFORE
    call: int = 1
    of: str | None = None


STORE, WORK = "xadflow.evidence.store", "xadflow.work.night.work"
EXPLAIN_POINTS = (
    KillPoint("while the inbox is admitted", "xadflow.datasets.inbox:write_manifest"),
    KillPoint("while a table is created", f"{STORE}:DeltaTable.create", When.AFTER),
    KillPoint("shard scored, nothing explained", f"{WORK}:score_images", When.AFTER),
    KillPoint("explained, not validated", "xadflow.datasets.quality:validate_shard"),
    KillPoint("while a data file is written", f"{STORE}:write_deltalake", When.WRITING),
    KillPoint("explanations committed, no ledger line", f"{STORE}:write_deltalake", When.AFTER, of="explanations"),
    KillPoint("in the middle of a ledger line", "xadflow.evidence.ledger:Ledger.append", When.TORN_LINE, 3),
    KillPoint("explanations committed, scores not", f"{STORE}:EvidenceStore.publish", of="scores"),
    KillPoint("scores committed, no ledger line", f"{STORE}:write_deltalake", When.AFTER, of="scores"),
    KillPoint("ledger line written, head not anchored", "xadflow.models.registry:Registry.anchor_head", call=3),
    KillPoint("head half anchored", "mlflow:MlflowClient.log_metric", call=3),
    KillPoint("everything published, no report", "xadflow.work.night.finish:write_nightly_report"),
)
"""Of one night that starts without tables: creating them takes the first two ledger lines, and anchors one head."""

RETRAIN_POINTS = (
    KillPoint("after the second checkpoint", "xadflow.training.loop:write_checkpoint", When.AFTER, 2),
    KillPoint("in the middle of a checkpoint", "xadflow.training.loop:write_checkpoint", When.TORN_FILE, 3),
    KillPoint("detector saved, training not ended", "xadflow.detectors.fcdd.detector:FCDD.save", When.AFTER),
    KillPoint("while the run is logged", "xadflow.models.registry:log_dataset"),
    KillPoint("run logged, version not registered", "xadflow.models.registry:Registry._ensure_model", When.AFTER),
    KillPoint("version registered, no alias", "xadflow.models.registry:Registry.set_alias"),
    KillPoint("verdict tagged, champion not moved", "xadflow.models.registry:Registry.set_alias", call=2),
    KillPoint("champion moved, question not closed", "xadflow.models.registry:Registry.set_alias", When.AFTER, 2),
)


def arm(point: KillPoint) -> None:
    """From now on this process dies at the point. Raises AttributeError when the production code has no such place."""
    owner, name = _place(point.target)
    real = getattr(owner, name)
    fatal = _FATAL[point.when]
    turn, seen = threading.Lock(), [0]

    def trapped(*given: Any, **named: Any) -> Any:
        if point.of is None or _table_of([*given, *named.values()]) == point.of:
            with turn:
                seen[0] += 1
                due = seen[0] == point.call
            if due:
                return fatal(lambda: real(*given, **named), [*given, *named.values()])
        return real(*given, **named)

    setattr(owner, name, staticmethod(trapped) if inspect.ismethod(real) else trapped)


def _place(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    return owner, name


def _table_of(arguments: Sequence[Any]) -> str | None:
    """Which evidence table a call is about: by name, by an object's `table`, or by the Delta table itself."""
    for one in arguments:
        if isinstance(one, str) and one in BY_NAME:
            return one
        if hasattr(one, "table_uri"):
            return Path(one.table_uri).name
    return None


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process outlived its own SIGKILL")


def _before(call: Callable[[], Any], arguments: Sequence[Any]) -> NoReturn:
    _die()


def _after(call: Callable[[], Any], arguments: Sequence[Any]) -> NoReturn:
    call()
    _die()


def _writing(call: Callable[[], Any], arguments: Sequence[Any]) -> NoReturn:
    """Another thread waits for the file: the call itself is not in Python while it writes."""
    (folder,) = (Path(one.table_uri.removeprefix("file://")) for one in arguments if hasattr(one, "table_uri"))
    before = set(folder.glob("run_date=*/*"))

    def watch() -> None:
        while set(folder.glob("run_date=*/*")) <= before:
            time.sleep(0)
        _die()

    threading.Thread(target=watch, daemon=True).start()
    call()
    _die()


def _torn_line(call: Callable[[], Any], arguments: Sequence[Any]) -> NoReturn:
    write = os.write

    def half(stream: int, content: Any) -> NoReturn:
        write(stream, content[: len(content) // 2])
        _die()

    os.write = half  # type: ignore[assignment]
    call()
    raise AssertionError("the call wrote nothing by os.write")


def _torn_file(call: Callable[[], Any], arguments: Sequence[Any]) -> NoReturn:
    import torch

    save = torch.save

    def half(state: object, path: Path) -> NoReturn:
        whole = io.BytesIO()
        save(state, whole)
        path.write_bytes(whole.getvalue()[: whole.tell() // 2])
        _die()

    torch.save = half
    call()
    raise AssertionError("the call wrote nothing by torch.save")


_FATAL: dict[When, Callable[[Callable[[], Any], Sequence[Any]], NoReturn]] = {
    When.BEFORE: _before,
    When.AFTER: _after,
    When.WRITING: _writing,
    When.TORN_LINE: _torn_line,
    When.TORN_FILE: _torn_file,
}
