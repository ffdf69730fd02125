"""Faults of the nightly flow itself: killed at named points, two at once, an explainer added later."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.faults_kit.bench import Bench
from benchmarks.faults_kit.children import Child
from benchmarks.faults_kit.outcome import Fault, Outcome, after_night, ending
from benchmarks.faults_kit.outcomes import Evidence, left
from benchmarks.faults_kit.points import EXPLAIN_POINTS, KillPoint

KILLED, SHARED = "explain, killed", "explain, more than one run"
WAIT_S = 300.0

Found = TypeVar("Found")


def killed_nights(bench: Bench, reference: Evidence, points: Sequence[KillPoint] = EXPLAIN_POINTS) -> list[Fault]:
    """The process of `xadflow explain` dies by SIGKILL at each point; or its `dvc repro` child does."""

    def kill(point: KillPoint) -> Outcome:
        state = bench.state(f"explain {point.name}", of="trained")
        ended = bench.start(state, bench.night, point).wait()
        return after_night(bench, reference, KILLED, point.name, state, ended, str(left(state)))

    def kill_dvc() -> Outcome:
        state = bench.state("dvc killed", of="trained")
        night = bench.start(state, bench.night)
        child = wait_for(lambda: _child_with(night, "dvc"), night)
        if child is not None:
            os.kill(child, signal.SIGKILL)
        return after_night(bench, reference, KILLED, "its `dvc repro` is killed", state, night.wait(), str(left(state)))

    return [*(Fault(partial(kill, point)) for point in points), Fault(kill_dvc)]


def shared_nights(bench: Bench, reference: Evidence) -> list[Fault]:
    """Two nights at once, and an explainer that is added later."""

    def together() -> Outcome:
        state = bench.state("two at once", of="trained")
        nights = [bench.start(state, bench.night) for _ in range(2)]
        worse = max((night.wait() for night in nights), key=lambda one: one.status)
        return after_night(bench, reference, SHARED, "two runs at once", state, worse)

    def added() -> Outcome:
        state = bench.state("added later", of="trained")
        alone = bench.run(state, (*bench.night, "--explainer", "heatmap"))
        before = bench.evidence(state)
        again = bench.run(state, bench.night)
        after = bench.evidence(state)
        rows = [(table, key, row) for table, found in before.content.items() for key, row in found.items()]
        kept = all(after.content[table].get(key) == row for table, key, row in rows)
        exact = all(set(after.content[table]) == set(reference.content[table]) for table in reference.content)
        return Outcome(
            SHARED,
            "an explainer is added a night later",
            ending(alone),
            left=f"{before.rows['explanations']} explanations",
            again=ending(again),
            again_s=again.seconds,
            same=kept and exact,
            plain=after.plain == reference.rows,
            twice=after.twice,
            audit=after.audit,
            anchored=after.anchored,
        )

    return [Fault(together), Fault(added)]


def wait_for(found: Callable[[], Found], child: Child, seconds: float = WAIT_S) -> Found | None:
    """What `found()` gives as soon as it gives something; None when the child ends or time runs out before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := found():
            return result
        if not child.process.is_alive():
            return None
        time.sleep(0.02)
    return None


def committed(state: Path) -> bool:
    """Whether a shard's explanations or scores are in the ledger, beyond the two lines that create the tables."""
    ledger = state / "ledger" / "ledger.jsonl"
    return ledger.exists() and ledger.read_bytes().count(b"\n") > 2


def _child_with(night: Child, word: str) -> int | None:
    """Process id of a child of the night whose command line has a word."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, ValueError):
            continue
        if parent == night.process.pid and word in words:
            return int(entry.name)
    return None
