"""Faults of moving house: a state that was moved or copied, and a registry that was lost while the rows stayed."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

from benchmarks.faults_kit import children
from benchmarks.faults_kit.bench import Bench
from benchmarks.faults_kit.outcome import Fault, Outcome, after_night, ending, error_line
from benchmarks.faults_kit.outcomes import Evidence

HOUSES = "moving house"


def moved_states(bench: Bench, reference: Evidence, undisturbed: Path) -> list[Fault]:
    """A state that was copied or moved to a name with a space and an umlaut, and one whose MLflow database was lost."""

    def copied(what: str, old_stays: bool) -> Outcome:
        old = bench.state(f"old place, {what}", of="trained")
        state = bench.root / "states" / f"neuer Ort, größer ({what})"
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(old, state)
        before = _files(old)
        if not old_stays:
            shutil.rmtree(old)
        ended = bench.run(state, bench.night)
        strays = len(_files(old) - before)
        outcome = after_night(bench, reference, HOUSES, what, state, ended, f"{strays} new files in the old place")
        return outcome if not strays else Outcome(**{**vars(outcome), "same": False})

    def lost(what: str) -> Outcome:
        state = bench.state(what, of="trained")
        children.ask(rows_of_a_lost_model, state, undisturbed, log=state.parent / "lost.log")
        before = bench.evidence(state)
        ended = bench.run(state, bench.night)
        retrained = bench.run(state, bench.week)
        again = bench.run(state, bench.night)
        found, its = bench.evidence(state), bench.registered(state)
        kept = all(before.content[name].items() <= found.content[name].items() for name in before.content)
        anew = _scores(found, 2) == _scores(reference, 1)  # every image, by the version that took a free number
        return Outcome(
            HOUSES,
            what,
            ending(ended),
            "" if ended.status == 0 else error_line(ended.said, bench),
            "Traceback" in ended.said,
            f"retrain: {ending(retrained)}, versions {[one[0] for one in its.versions]}, aliases {its.aliases}",
            ending(again),
            again.seconds,
            kept and anew and ended.status != 0,
            found.plain == found.rows,
            found.twice,
            found.audit,
            found.anchored,
        )

    return [
        Fault(partial(copied, "copied, the old place stays", True)),
        Fault(partial(copied, "moved, the old place is gone", False)),
        Fault(partial(lost, "the registry is lost, its number has rows of another model")),
    ]


def rows_of_a_lost_model(state: Path, undisturbed: Path) -> None:
    """The work of a child: score rows of the images of an undisturbed night, under version 1, by another threshold."""
    import pyarrow as pa

    os.environ["XADFLOW_HOME"] = str(state)
    from xadflow.evidence.store import EvidenceStore
    from xadflow.evidence.tables import SCORES
    from xadflow.project import Project

    rows = EvidenceStore(undisturbed / "tables", undisturbed / "ledger").read("scores").to_pylist()
    changed = [{**row, "threshold": row["threshold"] + 100.0, "is_anomaly": False} for row in rows]
    store = Project.open().store
    store.prepare()
    store.publish("scores", pa.Table.from_pylist(changed, schema=SCORES), app="scores/lost")


def _scores(evidence: Evidence, version: int) -> dict[str, float]:
    """Score of each image by one version of the model."""
    return {image: score for (_, of, image), (score, _) in evidence.content["scores"].items() if of == version}


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
