"""One row of the table of faults: what was seen of the run, and of the same command run again after it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults_kit.bench import Bench
from benchmarks.faults_kit.children import Ended
from benchmarks.faults_kit.outcomes import Evidence
from benchmarks.small_project import CHECKOUT

NOT_ALLOWED = "not allowed here"
_LONGEST = 280


@dataclass(frozen=True)
class Outcome:
    """What one fault did. Every field is measured; None means that the question does not arise.

    Args:
        run: how the disturbed run ended; `message` its error line, `traceback` whether a user would see one.
        left: what lay there before anything was repaired.
        again: how the same command ended afterwards, `again_s` in how many seconds.
        same: rows (keys, scores, digests), or registered versions, equal those of an undisturbed run.
        plain: a plain Parquet reader counts exactly these rows; `twice`: keys that it finds more than once.
        audit: "" when `audit verify` passes, else its first problem; `anchored`: MLflow holds the ledger's last line.
    """

    group: str
    fault: str
    run: str
    message: str = ""
    traceback: bool = False
    left: str = ""
    again: str | None = None
    again_s: float | None = None
    same: bool | None = None
    plain: bool | None = None
    twice: int | None = None
    audit: str | None = None
    anchored: bool | None = None

    @property
    def answered(self) -> bool:
        """A run that failed or was stopped without being killed said what to do next, in one line."""
        told = "Next:" in self.message or self.message.startswith("stopped; run the same command again")
        return self.run in ("killed", "status 0", NOT_ALLOWED) or (told and not self.traceback)

    @property
    def held(self) -> bool:
        """Nothing was lost, doubled or left wrong, and the user was told."""
        if self.run == NOT_ALLOWED:
            return True
        made_up = self.again in (None, "status 0") and self.same in (None, True)
        whole = self.plain in (None, True) and not self.twice and not self.audit and self.anchored in (None, True)
        return self.answered and made_up and whole

    def figures(self) -> dict[str, object]:
        """For the results file."""
        return {**vars(self), "answered": self.answered, "held": self.held}


@dataclass(frozen=True)
class Fault:
    """One fault that can be tried: `alone` when nothing else may run beside it."""

    try_it: Callable[[], Outcome]
    alone: bool = False


def ending(ended: Ended) -> str:
    """How a child ended, in a word."""
    return "killed" if ended.killed else f"status {ended.status}"


def error_line(said: str, bench: Bench) -> str:
    """The line that the command ends with when it fails; no folder of this machine, no run id, no time in it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("xadflow: ")]
    text = (ours or lines or [""])[-1].removeprefix("xadflow: ")
    text = text.replace(str(bench.root), "var/faults").replace(f"{CHECKOUT}/", "")
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    text = re.sub(r"\b[0-9a-f]{32}\b|\b[0-9a-f-]{36}\b", "ID", text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def after_night(
    bench: Bench,
    reference: Evidence,
    group: str,
    fault: str,
    state: Path,
    ended: Ended,
    left: str = "",
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run the nightly command again after a disturbed one and compare with an undisturbed night."""
    again = bench.run(state, bench.night, **dict(environment or {}))
    found = bench.evidence(state)
    return Outcome(
        group,
        fault,
        ending(ended),
        "" if ended.killed or ended.status == 0 else error_line(ended.said, bench),
        "Traceback" in ended.said,
        left,
        ending(again),
        again.seconds,
        found.content == reference.content,
        found.plain == reference.rows,
        found.twice,
        found.audit,
        found.anchored,
    )
