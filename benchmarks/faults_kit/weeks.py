"""Faults of the weekly flow: killed at named points, and checkpoints that are not what was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.faults_kit.bench import MANY, Bench
from benchmarks.faults_kit.children import Ended
from benchmarks.faults_kit.outcome import Fault, Outcome, ending, error_line
from benchmarks.faults_kit.outcomes import Registered
from benchmarks.faults_kit.points import RETRAIN_POINTS, KillPoint

KILLED, CHECKPOINT = "retrain, killed", "training checkpoint"


def killed_weeks(bench: Bench, reference: Registered, points: Sequence[KillPoint] = RETRAIN_POINTS) -> list[Fault]:
    """The process of `xadflow retrain` dies by SIGKILL at each point, once while it holds the only slot of the GPU."""

    def kill(point: KillPoint, name: str) -> Outcome:
        state = bench.state(f"retrain {name}", of="empty")
        return _again(bench, reference, KILLED, name, state, bench.start(state, bench.week, point).wait())

    def kill_holder() -> Outcome:
        bench.slots(1)
        try:
            return kill(points[0], f"{points[0].name}, holding the only slot of the GPU")
        finally:
            bench.slots(MANY)

    return [Fault(kill_holder, alone=True), *(Fault(partial(kill, point, point.name)) for point in points)]


def spoiled_checkpoints(bench: Bench, reference: Registered) -> list[Fault]:
    """A retraining is killed after its second checkpoint, and the checkpoint is then damaged."""

    def damage(what: str, spoil: Callable[[Path], None]) -> Outcome:
        state = bench.state(f"checkpoint {what}", of="empty")
        ended = bench.start(state, bench.week, RETRAIN_POINTS[0]).wait()
        (checkpoint,) = state.glob("runs/train/*/checkpoint.pt")
        spoil(checkpoint)
        return _again(bench, reference, CHECKPOINT, what, state, ended)

    spoils = (("cut off in the middle", truncate), ("one bit flipped in the middle", flip))
    return [Fault(partial(damage, what, spoil)) for what, spoil in spoils]


def _again(bench: Bench, reference: Registered, group: str, fault: str, state: Path, ended: Ended) -> Outcome:
    before = bench.registered(state)
    again = bench.run(state, bench.week)
    after = bench.registered(state)
    left = f"{len(before.versions)} versions, aliases {before.aliases}, {before.unfinished} unfinished MLflow runs"
    return Outcome(
        group,
        fault,
        ending(ended),
        "" if ended.killed else error_line(ended.said, bench),
        "Traceback" in ended.said,
        left,
        ending(again),
        again.seconds,
        (after.versions, after.aliases) == (reference.versions, reference.aliases),
    )


def truncate(path: Path) -> None:
    """Keep the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    """Change one bit in the middle of a file; doing it again undoes it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
