"""What `xadflow doctor` looks at in the evidence: tables, ledger and its anchors, quickly; `xadflow audit verify` reads
all.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from xadflow.cli.doctor.checks import Finding
from xadflow.errors import AuditFailed, BadSettings, RegistryUnavailable, StoreBroken, WrongUse
from xadflow.project import Project
from xadflow.settings import Home

if TYPE_CHECKING:
    from xadflow.evidence.ledger import LedgerHead, LedgerLine
    from xadflow.evidence.store import EvidenceStore

_NAMES = ("scores", "explanations")
_VERIFY = "xadflow audit verify"
_COPIED = "the next `xadflow explain` copies it there"


def tables(home: Home) -> Iterator[Finding]:
    """Each table: its commits, whether log and ledger agree, and files that the log does not name."""
    there = [name for name in _NAMES if any((home.tables / name / "_delta_log").glob("*.json"))]
    for name in _NAMES:
        if name not in there:
            yield Finding(f"table {name}", "warn", "not there yet", "xadflow explain")
    if not there:
        return
    from xadflow.evidence.store import EvidenceStore

    try:
        store = EvidenceStore(home.tables, home.ledger)
    except WrongUse as err:
        yield Finding("tables", "fail", f"{err.wrong}: {err.seen}", err.next_step)
        return
    for name in there:
        yield _table(store, name)


def ledger(home: Home) -> Iterator[Finding]:
    """The chain of ledger lines, a commit that a killed writer left open, and the head that MLflow holds."""
    lines = yield from _lines(home)
    if lines:
        yield from _mlflow_anchor(home, lines)


def anchor_file(project: Project) -> Iterator[Finding]:
    """The head that evidence.anchor_file holds, if one is named."""
    from xadflow.evidence.anchor_file import AnchorFile
    from xadflow.evidence.ledger import Ledger
    from xadflow.evidence.signing import load_signing_key

    home, evidence = project.home, project.settings.evidence
    if evidence.anchor_file is None:
        return
    try:
        key = load_signing_key(home.project / evidence.signing_key) if evidence.signing_key else None
        head = AnchorFile(home.project / evidence.anchor_file, key).head()
        lines = Ledger(home.ledger).lines()
    except (BadSettings, StoreBroken) as err:
        yield Finding("anchor file", "fail", f"{err.wrong}: {err.seen}", err.next_step)
    else:
        yield from _compared("anchor file", "it", head, lines)


def _lines(home: Home) -> Generator[Finding, None, list[LedgerLine]]:
    from xadflow.evidence.alarms import VOUCH
    from xadflow.evidence.ledger import Ledger

    book = Ledger(home.ledger)
    if not book.path.exists():
        return []  # the tables are said to be missing already
    try:
        lines, intent = book.lines(), book.intent()
    except (StoreBroken, OSError) as err:
        yield Finding("ledger", "fail", str(getattr(err, "wrong", err)), _VERIFY)
        return []
    for alarm in book.alarms.open():
        yield Finding("ledger", "fail", f"ALARM: {alarm}", f"{_VERIFY}; if it is yours: {VOUCH}")
    if intent is not None:
        yield Finding(
            "ledger",
            "warn",
            f"a writer of {intent.table} is at work or was killed at commit {intent.version}",
            "the next `xadflow explain` completes it if its account announced it",
        )
    else:
        yield Finding("ledger", "ok", f"{len(lines)} lines, the chain is whole")
    return lines


def _table(store: EvidenceStore, name: str) -> Finding:
    from xadflow.evidence.commits import log_versions
    from xadflow.evidence.completion import check_in_step

    what = f"table {name}"
    try:
        check_in_step(name, store.folder(name), store.ledger)
        orphans = len(store.orphans(name))
    except StoreBroken as err:
        return Finding(what, "fail", f"{err.wrong}: {err.seen}", err.next_step)
    said = f"{len(log_versions(store.folder(name)))} commits, as many as in the ledger"
    if orphans:
        return Finding(
            what,
            "warn",
            f"{said}; {orphans} files that its log does not name: a writer is at work, or was killed",
            "the next `xadflow explain` removes them",
        )
    return Finding(what, "ok", said)


def _mlflow_anchor(home: Home, lines: list[LedgerLine]) -> Iterator[Finding]:
    from xadflow.evidence.ledger import LedgerHead
    from xadflow.models.registry import Registry
    from xadflow.models.tracking_store import sqlite_file, sqlite_revision

    uri = home.mlflow_uri
    try:
        if uri.startswith("sqlite:///") and sqlite_revision(sqlite_file(uri)) is None:
            found = None  # looking must not create the database
        else:
            found = Registry(uri, home.mlflow_artifacts).anchored_head()
    except RegistryUnavailable as err:
        yield Finding("anchor", "warn", f"cannot be read: {err.wrong}", err.next_step)
        return
    except AuditFailed as err:
        yield Finding("anchor", "fail", f"{err.wrong}: {err.seen}", err.next_step)
        return
    yield from _compared(
        "anchor", "MLflow", LedgerHead(int(found["seq"]), str(found["digest"])) if found else None, lines
    )


def _compared(what: str, holder: str, head: LedgerHead | None, lines: list[LedgerLine]) -> Iterator[Finding]:
    """An anchor must hold the ledger's last line; an older one is copied by the next run, another one is an alarm."""
    if head is None:
        if lines:
            yield Finding(what, "warn", f"{holder} holds no line of the ledger", _COPIED)
    elif head.seq > len(lines) or lines[head.seq - 1].head != head:
        yield Finding(what, "fail", f"the ledger does not contain line {head.seq} as {holder} holds it", _VERIFY)
    elif head.seq < len(lines):
        yield Finding(what, "warn", f"{holder} holds line {head.seq} of {len(lines)}", _COPIED)
    else:
        yield Finding(what, "ok", f"{holder} holds the ledger's last line, {head.seq}")
