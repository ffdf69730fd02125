"""What becomes of the work when something breaks: `python -m benchmarks.faults [--quick | --only WORD ...]`.

A small real project (96 px crops of gravel, painted defects, real DVC, Prefect server, MLflow and Delta tables) is made
once under var/faults. Then each fault starts from a copy of the same state: processes that die by SIGKILL at named
points or are asked to stop, servers and a worker that die, disks that fill up or are read-only, files that rot, a state
that moved, a registry that was lost, forged rows. After each the same command is run again, and what is then there is
compared with a run that nothing disturbed. Everything in the table is measured by this program; where mounting is not
allowed, the disk faults say so.

Seeded: pictures, training and points are the same each time; which thread is first is not. Measured once: 44
minutes beside other work (load 6 on 2 cores).
Exit status 1 when anything was lost, doubled, left wrong or not explained.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.faults_kit.bench import SEED, Bench, build
from benchmarks.faults_kit.forgers import forged_rows
from benchmarks.faults_kit.houses import moved_states
from benchmarks.faults_kit.machines import disks, mlflow_down, prefect_killed, rotten_files, worker_killed
from benchmarks.faults_kit.nights import killed_nights, shared_nights
from benchmarks.faults_kit.outcome import Fault, Outcome
from benchmarks.faults_kit.outcomes import Evidence
from benchmarks.faults_kit.stops import stopped_runs
from benchmarks.faults_kit.weeks import killed_weeks, spoiled_checkpoints
from benchmarks.results import write_results
from benchmarks.study import Study

ROOT = Path("var") / "faults"
SCENARIOS = (
    *(
        "nights",
        "shared",
        "weeks",
        "checkpoints",
        "stops",
        "mlflow",
        "prefect",
        "worker",
        "disks",
        "files",
        "houses",
        "forgers",
    ),
)


def main() -> None:
    """Run the scenarios and write benchmarks/results/faults.json, or faults-quick.json for a part of them."""
    study = Study("faults")
    part = {"nargs": "+", "choices": SCENARIOS, "default": SCENARIOS, "help": "a part of them"}
    given = study.start(__doc__, "only the kills of a night", only=part)
    chosen, started = ("nights",) if given.quick else tuple(given.only), time.perf_counter()
    root = ROOT.resolve()
    bench = build(root)
    try:
        undisturbed = bench.state("undisturbed", of="trained")
        bench.must(undisturbed, bench.night)
        reference = bench.evidence(undisturbed)
        print(f"built in {time.perf_counter() - started:.0f} s; an undisturbed night has {reference.rows}", flush=True)
        seen = _tried(_faults(bench, reference, undisturbed, chosen), started)
    finally:
        bench.prefect.stop()
    figures = {
        "undisturbed": {"rows": reference.rows, "arrivals": len(list((root / "arrivals").iterdir()))},
        "faults": [one.figures() for one in seen],
        "held": sum(one.held for one in seen),
        "not_allowed_here": sum(one.run == "not allowed here" for one in seen),
    }
    write_results(
        "faults", figures, seeds=[SEED], seconds=time.perf_counter() - started, quick=set(chosen) != set(SCENARIOS)
    )
    broken = [one.fault for one in seen if not one.held]
    print(f"{figures['held']} of {len(seen)} held; {time.perf_counter() - started:.0f} s")
    if broken:
        sys.exit(f"not held: {'; '.join(broken)}; states and logs are in {ROOT}")
    shutil.rmtree(root)


def _faults(bench: Bench, reference: Evidence, undisturbed: Path, chosen: Sequence[str]) -> list[Fault]:
    trained = bench.registered(bench.root / "states" / "trained")
    scenarios: dict[str, Callable[[], list[Fault]]] = {
        "nights": lambda: killed_nights(bench, reference),
        "shared": lambda: shared_nights(bench, reference),
        "weeks": lambda: killed_weeks(bench, trained),
        "checkpoints": lambda: spoiled_checkpoints(bench, trained),
        "stops": lambda: stopped_runs(bench, trained),
        "mlflow": lambda: mlflow_down(bench, reference),
        "prefect": lambda: prefect_killed(bench, reference),
        "worker": lambda: worker_killed(bench, reference),
        "disks": lambda: disks(bench, reference, undisturbed),
        "files": lambda: rotten_files(bench, reference, undisturbed),
        "houses": lambda: moved_states(bench, reference, undisturbed),
        "forgers": lambda: forged_rows(bench, reference),
    }
    return [fault for name in SCENARIOS if name in chosen for fault in scenarios[name]()]


def _tried(faults: Sequence[Fault], started: float) -> list[Outcome]:
    """Every fault's outcome, in order; first those that need the bench for themselves, then two at a time.

    In this order no slot of the GPU is held by a run that an earlier fault killed.
    """

    def attempt(fault: Fault) -> Outcome:
        outcome = fault.try_it()
        _show(outcome, time.perf_counter() - started)
        return outcome

    outcomes = {fault: attempt(fault) for fault in faults if fault.alone}
    with ThreadPoolExecutor(2) as pool:
        beside = {fault: pool.submit(attempt, fault) for fault in faults if not fault.alone}
        outcomes |= {fault: future.result() for fault, future in beside.items()}
    return [outcomes[fault] for fault in faults]


def _show(one: Outcome, elapsed: float) -> None:
    print(
        f"{elapsed:5.0f} s  {'held' if one.held else 'NOT HELD':<9} {one.group}: {one.fault}\n"
        f"         {one.run}{f' ({one.message})' if one.message else ''}; left: {one.left}\n"
        f"         again {one.again}{f' in {one.again_s:.0f} s' if one.again_s is not None else ''}, same {one.same}, "
        f"plain {one.plain}, twice {one.twice}, audit {one.audit!r}, anchored {one.anchored}",
        flush=True,
    )


if __name__ == "__main__":
    main()
