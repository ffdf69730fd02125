"""Runs without `make server`, each with a Prefect server of its own: stopped, killed, and killed while another
waits.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.faults_kit.bench import Bench
from benchmarks.faults_kit.children import Ended
from benchmarks.faults_kit.outcome import Fault, Outcome, ending, error_line
from benchmarks.faults_kit.outcomes import Registered

STOPS = "runs without `make server`"
SOON_S, LATE_S, ENOUGH_S = 10.0, 120.0, 900.0


class Run:
    """`xadflow retrain` as a user starts it, in a terminal that knows of no server."""

    def __init__(self, bench: Bench, state: Path, name: str) -> None:
        self.state, self.log = state, state.parent / f"{state.name}-{name}.log"
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "xadflow", *bench.week],
                cwd=bench.project,
                env=_terminal(bench, state),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace")

    def until(self, happened: Callable[[], object], seconds: float = ENOUGH_S) -> None:
        """Wait for something; RuntimeError when this run ends before, or time runs out."""
        deadline = time.monotonic() + seconds
        while not happened():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the run ended or was too slow:\n{self.said[-2000:]}")
            time.sleep(0.05)

    def wait(self) -> Ended:
        """Its end."""
        status = self.process.wait(ENOUGH_S)
        return Ended(status, self.said, time.monotonic() - self.started)

    def holds(self) -> bool:
        """Whether it has the slot `gpu`."""
        return any(
            one["limit"] == "gpu" and one["holds"] and one["pid"] == self.process.pid for one in _holders(self.state)
        )


def stopped_runs(bench: Bench, reference: Registered) -> list[Fault]:
    """SIGTERM in mid-training, SIGKILL of a run with its server, SIGKILL of a holder for whom another run waits."""

    def stop() -> Outcome:
        state = bench.state("retrain asked to stop", of="empty")
        run = Run(bench, state, "stopped")
        run.until(lambda: list(state.glob("runs/train/*/checkpoint.pt")))
        asked = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        ended = run.wait()
        seconds = time.monotonic() - asked
        left = _gone(state)
        kept = len(list(state.glob("runs/train/*/checkpoint.pt")))
        told = (
            f"ended in {seconds:.0f} s; {kept} checkpoint, {left} of its processes, {len(_holders(state))} slots held"
        )
        fine = seconds <= SOON_S and kept > 0 and not left and not _holders(state)
        return _again(bench, reference, "SIGTERM in mid-training", state, ended, told, fine)

    def orphan() -> Outcome:
        state = bench.state("retrain killed with its server", of="empty")
        run = Run(bench, state, "killed")
        run.until(run.holds)
        run.process.kill()
        ended = run.wait()
        left = _gone(state)
        told = f"{left} of its processes after {SOON_S:.0f} s"
        return _again(bench, reference, "SIGKILL: its own Prefect server ends too", state, ended, told, not left)

    def waited_for() -> Outcome:
        state = bench.state("holder killed", of="empty")
        holder = Run(bench, state, "holder")
        holder.until(holder.holds)
        holder.process.send_signal(signal.SIGSTOP)  # it would be done before the other one comes
        other = Run(bench, state, "waiting")
        words = f"held by xadflow retrain --dataset screws (process {holder.process.pid} "
        other.until(lambda: words in other.said.replace("__main__.py", "xadflow"))
        holder.process.kill()
        killed = time.monotonic()
        ended = holder.wait()
        other.until(other.holds, LATE_S)
        told = f"the run that waited said for whom, and had the slot {time.monotonic() - killed:.0f} s after the kill"
        after = other.wait()
        found = bench.registered(state)
        same = (found.versions, found.aliases) == (reference.versions, reference.aliases)
        return Outcome(
            STOPS,
            "SIGKILL of a run that holds the only slot while another waits for it",
            ending(ended),
            left=told,
            again=ending(after),
            again_s=after.seconds,
            same=same,
        )

    return [Fault(partial(one), alone=True) for one in (stop, orphan, waited_for)]


def _again(
    bench: Bench, reference: Registered, fault: str, state: Path, ended: Ended, told: str, fine: bool
) -> Outcome:
    again = Run(bench, state, "again").wait()
    found = bench.registered(state)
    same = fine and (found.versions, found.aliases) == (reference.versions, reference.aliases)
    message = "" if ended.killed else error_line(ended.said, bench)
    return Outcome(
        STOPS, fault, ending(ended), message, "Traceback" in ended.said, told, ending(again), again.seconds, same
    )


def _terminal(bench: Bench, state: Path) -> dict[str, str]:
    kept = {name: value for name, value in bench.environment.items() if not name.startswith("PREFECT_")}
    return {**kept, "XADFLOW_HOME": str(state)}


def _holders(state: Path) -> list[Mapping[str, object]]:
    found = []
    for path in (state / "prefect" / "holders").glob("*.json"):
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return found


def _gone(state: Path) -> int:
    """How many processes of a state folder there are still, after ten seconds at most."""
    deadline = time.monotonic() + SOON_S
    while (left := _processes(state)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _processes(state: Path) -> int:
    wanted = f"XADFLOW_HOME={state}".encode()
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            count += int(entry.name) != os.getpid() and wanted in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
    return count
