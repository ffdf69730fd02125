"""`verify`: does the evidence still say what was written? Recomputes everything that the ledger and its anchor attest.

From the anchor inwards: the anchor holds the ledger's head, the lines chain back from it, each line names the bytes of
one log entry and its data files and the digest of its rows, and the folder holds nothing else. Each check that fails is
one Problem naming its commit or file; nothing found stops the rest. No file is decoded unless its bytes are those that
the ledger names.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from xadflow.digests import sha256_bytes
from xadflow.errors import StoreBroken
from xadflow.evidence.alarms import VOUCH
from xadflow.evidence.anchor_file import examine
from xadflow.evidence.commits import (
    CHAIN,
    LOG,
    Commit,
    all_files,
    checkpoint_name,
    entry_path,
    log_strangers,
    log_versions,
    read_commit,
)
from xadflow.evidence.ledger import LedgerHead, LedgerLine
from xadflow.evidence.rereading import Reading, reread_all
from xadflow.evidence.row_keys import KEYS
from xadflow.evidence.signing import PublicKey
from xadflow.evidence.store import EvidenceStore
from xadflow.evidence.tables import BY_NAME
from xadflow.evidence.writer_lock import LOCK

LEDGER, ANCHOR_FILE, TABLES = "ledger", "anchor file", "tables"


@dataclass(frozen=True)
class Problem:
    """One thing that does not verify: in table scores, explanations, beside the tables, the ledger or the anchor file;
    of commit `version` if of one.
    """

    table: str
    version: int | None
    what: str

    def __str__(self) -> str:
        place = self.table if self.version is None else f"{self.table} commit {self.version}"
        return f"{place}: {self.what}"


@dataclass(frozen=True)
class AuditResult:
    """What an audit found. `rows` are those recomputed from their content; `commits` those of the ledger.

    `head` is the ledger's last line. `anchors` are the heads that the anchors outside hold, None for one that holds
    none. `unanchored` counts the lines after the lowest of them: an anchor says nothing of those yet (all without any).
    A crash leaves one at most, and the next run anchors it. `signatures` counts the signed lines of the anchor file,
    and `signatures_checked` says whether a public key was there to check them.
    """

    problems: tuple[Problem, ...]
    since_anchor: bool
    rows: int
    commits: int
    bytes: int
    seconds: float
    head: LedgerHead | None
    anchors: Mapping[str, LedgerHead | None]
    unanchored: int
    signatures: int
    signatures_checked: bool

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return not self.problems


@dataclass
class _Findings:
    problems: list[Problem] = field(default_factory=list)

    def add(self, table: str, version: int | None, what: str) -> None:
        self.problems.append(Problem(_printable(table), version, _printable(what)))


def _printable(text: str) -> str:
    """A text that any terminal and any JSON reader takes: names of files and keys are whatever somebody made them."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def verify(
    store: EvidenceStore,
    anchored_head: LedgerHead | None,
    since_anchor: bool = False,
    progress: Callable[[int, int], None] | None = None,
    *,
    anchor_file: Path | None = None,
    public_key: PublicKey | None = None,
    anchor_needed: bool = False,
    workers: int | None = None,
) -> AuditResult:
    """Check the tables of a store against their ledger, and the ledger against its anchors.

    Args:
        anchored_head: the head that MLflow holds, None without one.
        since_anchor: do not read data files of commits up to the head that every anchor holds: of those only presence,
            size and log entry are checked. Chain, order and listing are checked in full either way.
        progress: called with (commits read, commits to read).
        anchor_file: each of its lines is compared with the ledger.
        public_key: each line of the anchor file must be signed by its private half.
        anchor_needed: that no anchor holds any head is a problem: a ledger written anew as a whole would then verify.
        workers: processes that read commits, see :func:`xadflow.evidence.rereading.reread_all`.

    Raises:
        StoreBroken: there is nothing to verify yet.
        StoreConflict: a writer held the lock for too long.

    Many parameters: each anchor is optional, and an auditor names those that there are.
    """
    started = time.monotonic()
    findings = _Findings()
    with store.exclusive(reading=True):  # what is listed below belongs together; files never change, so no lock later
        lines, damage = store.ledger.examine()
        present = [name for name in BY_NAME if store.folder(name).exists()]
        outside = anchored_head is not None or (anchor_file is not None and os.path.exists(anchor_file))
        if not lines and not damage and not present and not outside:
            raise StoreBroken(
                "there is no evidence to verify yet",
                seen="no tables and no ledger",
                next_step="run `xadflow explain` or `xadflow demo` first",
            )
        for what in damage:
            findings.add(LEDGER, None, what)
        _check_anchor(findings, lines, anchored_head)
        heads = [line.head for line in lines]
        anchors, filed = {"MLflow": anchored_head}, None
        if anchor_file is not None:
            filed = examine(anchor_file, heads, public_key)
            anchors[ANCHOR_FILE] = filed.head
            for what in filed.problems:
                findings.add(ANCHOR_FILE, None, what)
        if anchor_needed and lines and not any(anchors.values()):
            findings.add(
                LEDGER,
                None,
                "no anchor outside holds a head of it: it was never anchored, or the anchor was "
                "removed; the next `xadflow explain` anchors what is there",
            )
        _check_alarms(findings, store)
        _check_intent(findings, store)
        _check_beside(findings, store)
        matched = {name: _match(findings, name, store.folder(name), lines) for name in BY_NAME}
        for name in BY_NAME:
            _check_listing(findings, store, name, [line for line in lines if line.table == name])

    # An anchor that holds nothing, or what the ledger does not have, vouches for nothing. MLflow may be without one
    # where an anchor file is: an auditor's copy.
    held = [head for head in anchors.values() if head is not None]
    vouched = min((head.seq for head in held), default=0) if set(held) <= set(heads) else 0
    trusted = vouched if since_anchor else 0
    readings: list[Reading] = []
    for name in BY_NAME:
        for line, commit in matched[name]:
            if line.seq <= trusted:
                _check_sizes(findings, name, store.folder(name), line, commit)
            else:
                readings.append(Reading(store.folder(name), line, commit))
    rows = 0
    for done, (reading, found) in enumerate(zip(readings, reread_all(readings, workers), strict=True), start=1):
        rows += found.rows
        for what in found.problems:
            findings.add(reading.line.table, reading.line.version, what)
        if progress:
            progress(done, len(readings))
    if not findings.problems:  # across the tables; on damaged ones it would only repeat what is known
        _check_keys(findings, store)
    return AuditResult(
        problems=tuple(findings.problems),
        since_anchor=since_anchor,
        rows=rows,
        commits=len(lines),
        bytes=sum(file.size for reading in readings for file in reading.commit.files),
        seconds=time.monotonic() - started,
        head=heads[-1] if heads else None,
        anchors=anchors,
        unanchored=max(0, len(lines) - vouched),
        signatures=filed.signed if filed else 0,
        signatures_checked=public_key is not None and filed is not None,
    )


def _check_anchor(findings: _Findings, lines: list[LedgerLine], head: LedgerHead | None) -> None:
    if head is None:
        return
    at = [line for line in lines if line.seq == head.seq]
    if not at:
        findings.add(LEDGER, None, f"line {head.seq}, which the anchor holds, is gone; {len(lines)} lines are left")
    elif head not in [line.head for line in at]:
        findings.add(LEDGER, None, f"line {head.seq} is not the one that the anchor holds ({head.digest[:12]})")


def _check_intent(findings: _Findings, store: EvidenceStore) -> None:
    try:
        intent = store.ledger.intent()
    except StoreBroken as err:
        findings.add(LEDGER, None, str(err))
        return
    if intent is not None and intent.table not in BY_NAME:
        findings.add(LEDGER, None, f"intent.json names the unknown table {intent.table!r}")
    elif intent is not None and max(log_versions(store.folder(intent.table)), default=-1) >= intent.version:
        findings.add(
            LEDGER,
            None,
            f"a writer was killed around commit {intent.version} of {intent.table}, or somebody says so; "
            "the next `xadflow explain` completes it if its account announced it",
        )


def _check_alarms(findings: _Findings, store: EvidenceStore) -> None:
    for alarm in store.ledger.alarms.open():
        findings.add(LEDGER, None, f"ALARM: {alarm}; if it is yours, vouch for it by `{VOUCH}`")


def _check_beside(findings: _Findings, store: EvidenceStore) -> None:
    """Beside the tables there is nothing: a reader that takes every file below var/tables would read it."""
    if store.tables.is_dir():
        for name in sorted({*os.listdir(store.tables)} - {*BY_NAME, LOCK}):
            findings.add(TABLES, None, f"{name} is in the folder of the tables, and is none")


def _match(findings: _Findings, name: str, folder: Path, lines: list[LedgerLine]) -> list[tuple[LedgerLine, Commit]]:
    """Pairs of ledger line and log entry that fit each other; everything else is a problem."""
    mine = [line for line in lines if line.table == name]
    pairs: list[tuple[LedgerLine, Commit]] = []
    versions, named = set(log_versions(folder)), [line.version for line in mine]
    for line in lines:
        if line.table not in BY_NAME:
            findings.add(LEDGER, line.version, f"ledger line {line.seq} names the unknown table {line.table!r}")
    for version in sorted(versions - set(named)):
        findings.add(
            name,
            version,
            "the log holds a commit that has no ledger line: xadflow did not make it, or was killed making it",
        )
    for place, line in enumerate(mine):
        if line.version != place:
            findings.add(name, line.version, f"ledger line {line.seq} is out of order: commit {place} is due")
        if line.version not in versions:
            findings.add(name, line.version, f"the commit was removed: ledger line {line.seq} has it, the log has not")
            continue
        commit = _entry(findings, name, folder, line, mine)
        if commit is not None:
            pairs.append((line, commit))
    return pairs


def _entry(findings: _Findings, name: str, folder: Path, line: LedgerLine, mine: list[LedgerLine]) -> Commit | None:
    path = entry_path(folder, line.version)
    try:
        digest = sha256_bytes(path.read_bytes())
        if digest != line.log_entry:
            other = [str(one.version) for one in mine if one.log_entry == digest]
            findings.add(
                name,
                line.version,
                f"log entry {path.name} "
                + (f"holds commit {other[0]}: commits were swapped" if other else "is not the one that was written"),
            )
            return None
        commit = read_commit(folder, line.version)
    except (OSError, ValueError) as err:
        findings.add(name, line.version, f"log entry {path.name} cannot be read: {err}"[:300])
        return None
    named = set(line.files) - {checkpoint_name(line.version)}
    faults = {
        "names other data files than its ledger line": {file.path for file in commit.files} != named,
        f"holds actions other than an append: {commit.foreign}": bool(commit.foreign),
        "is not in the chain of commits": commit.transactions.get(CHAIN) != line.version,
        "has another rows digest than its ledger line": commit.rows_digest != line.rows_digest,
    }
    for what, wrong in faults.items():
        if wrong:
            findings.add(name, line.version, f"log entry {path.name} {what}")
    return None if any(faults.values()) else commit


def _check_listing(findings: _Findings, store: EvidenceStore, name: str, mine: list[LedgerLine]) -> None:
    """Ledger, a reader's view through the log, and the folder name the same files."""
    folder = store.folder(name)
    named = {path: line.version for line in mine for path in line.files}
    data = {path for path in named if not path.startswith(f"{LOG}/")}
    for path in sorted(all_files(folder) - data):
        findings.add(name, None, f"{path} is in the folder, but no ledger line names it")
    staged, others = log_strangers(folder)
    for path in sorted({f"{LOG}/{other}" for other in others | staged} - set(named) - {f"{LOG}/_last_checkpoint"}):
        findings.add(name, None, f"{path} is in the log's folder, but no ledger line names it")
    if not mine and not folder.exists():
        return
    pointer = folder / LOG / "_last_checkpoint"
    if pointer.exists() and not _points_into(pointer, named):
        findings.add(name, None, f"{LOG}/_last_checkpoint does not point to a checkpoint that a ledger line names")
    try:
        live = store.log_files(name)
    except StoreBroken as err:
        findings.add(name, None, f"no reader can open the table: {err.seen}")
        return
    for path in sorted(live - data):
        findings.add(name, None, f"a reader sees {path}, but no ledger line names it")
    for path in sorted(data - live):
        findings.add(name, named[path], f"a reader does not see {path}, which the ledger names")


def _points_into(pointer: Path, named: Mapping[str, int]) -> bool:
    try:
        return checkpoint_name(int(json.loads(pointer.read_bytes())["version"])) in named
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return False


def _check_sizes(findings: _Findings, name: str, folder: Path, line: LedgerLine, commit: Commit) -> None:
    for file in commit.files:
        path = folder / file.path
        if path.is_symlink() or not path.is_file():
            findings.add(name, line.version, f"{file.path} is gone")
        elif path.stat().st_size != file.size:
            findings.add(name, line.version, f"{file.path} has {path.stat().st_size} bytes, not {file.size}")


def _check_keys(findings: _Findings, store: EvidenceStore) -> None:
    """No key twice; no anomalous image without an explanation. Reads key columns only."""
    try:
        scores = store.read("scores", [*KEYS["scores"], "is_anomaly"])
        explanations = store.read("explanations", KEYS["explanations"])
        for table in (scores, explanations):
            table.validate(full=True)  # texts that are no UTF-8, in a file that was not read as a whole
    except StoreBroken as err:
        findings.add(TABLES, None, f"{err.wrong}: {err.seen}")
        return
    except pa.ArrowException as err:
        findings.add(TABLES, None, f"keys of rows cannot be read: {err}"[:300])
        return
    for name, table in (("scores", scores), ("explanations", explanations)):
        counted = table.group_by(list(KEYS[name])).aggregate([([], "count_all")])
        for row in counted.filter(pc.greater(counted["count_all"], 1)).to_pylist():
            findings.add(
                name,
                None,
                f"image {row['image_id'][:12]} of {row['model_name']} version "
                f"{row['model_version']} has {row['count_all']} rows with the same key",
            )
    keys = list(KEYS["scores"])
    explained = explanations.select(keys).group_by(keys).aggregate([])
    bare = scores.filter(scores["is_anomaly"]).join(explained, keys, join_type="left anti")
    for row in bare.to_pylist():
        findings.add(
            "scores",
            None,
            f"image {row['image_id'][:12]} is anomalous for {row['model_name']} version "
            f"{row['model_version']}, but has no explanation",
        )
