"""SIGKILL at named points of a night; the next run's tables are those of a night that nothing disturbed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from benchmarks.faults_kit.children import Ended
from benchmarks.faults_kit.outcomes import Evidence, Left, left
from benchmarks.faults_kit.points import EXPLAIN_POINTS, KillPoint

ELSEWHERE = {"while a table is created", "head half anchored"}  # tests/evidence has the like; `make faults` has all
POINTS = [point for point in EXPLAIN_POINTS if point.name not in ELSEWHERE]
NAMES = [point.name for point in POINTS]


@dataclass(frozen=True)
class Case:
    """One kill and the run after it."""

    killed: Ended
    left: Left
    after: Evidence


@pytest.fixture(scope="module")
def cases(plant) -> dict[str, Case]:
    """All kills, two at a time; each has a state of its own."""

    def kill(point: KillPoint) -> Case:
        state = plant.fresh(point.name)
        killed = plant.start(state, "killed", point=point).wait()
        found = left(state)
        plant.night(state, "after")
        return Case(killed, found, plant.evidence(state))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(NAMES, pool.map(kill, POINTS), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_rerun_leaves_the_tables_of_an_undisturbed_night(cases, undisturbed, name):
    case = cases[name]
    assert case.killed.killed, case.killed.said
    assert case.after.content == undisturbed.content
    assert (case.after.audit, case.after.anchored) == ("", True)


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_parquet_reader_counts_every_row_once(cases, undisturbed, name):
    assert cases[name].after.plain == undisturbed.rows
    assert cases[name].after.twice == 0


def test_the_points_are_where_their_names_say(cases):
    assert len(cases) == 10
    between = cases["explanations committed, scores not"].left
    assert between.entries == {"scores": 1, "explanations": 2}, "one entry each creates the table"
    assert between.lines == between.entries
    for table in ("explanations", "scores"):
        late = cases[f"{table} committed, no ledger line"].left
        assert late.entries[table] == late.lines[table] + 1
        assert late.intent
    assert cases["in the middle of a ledger line"].left.torn
    assert cases["everything published, no report"].left.entries == {"scores": 3, "explanations": 3}
