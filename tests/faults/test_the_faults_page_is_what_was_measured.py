"""docs/reference/faults.md says what `make faults` saw, and calls nothing held that was not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.faults_kit.outcome import NOT_ALLOWED, Outcome
from benchmarks.faults_kit.page import faults_page
from benchmarks.render import FAULTS_PAGE, RESULTS, whole_page

GOOD = Outcome(
    "disks",
    "the disk is full",
    "status 1",
    "no room; got 'x'. Next: free some space",
    False,
    "",
    "status 0",
    3.0,
    same=True,
    plain=True,
    twice=0,
    audit="",
    anchored=True,
)


def test_the_page_is_what_the_results_say():
    assert FAULTS_PAGE.read_text(encoding="utf-8") == whole_page("faults", faults_page), "run `make figures`"


def test_every_fault_of_the_measured_run_was_held():
    figures = json.loads((RESULTS / "faults.json").read_text())["figures"]
    assert [one["fault"] for one in figures["faults"] if not one["held"]] == []


@pytest.mark.parametrize(
    "change",
    [
        {"message": "no room"},
        {"traceback": True},
        {"again": "status 1"},
        {"again": "killed"},
        {"same": False},
        {"plain": False},
        {"twice": 1},
        {"audit": "scores: gone"},
        {"anchored": False},
    ],
)
def test_one_thing_wrong_is_enough(change):
    assert GOOD.held
    assert not replace(GOOD, **change).held


def test_the_page_shows_what_is_wrong():
    def page(outcome: Outcome) -> str:
        undisturbed = {"rows": {"scores": 1, "explanations": 2}, "arrivals": 3}
        figures = {
            "undisturbed": undisturbed,
            "faults": [outcome.figures()],
            "held": int(outcome.held),
            "not_allowed_here": 0,
        }
        return faults_page(
            {"figures": figures, "date": "d", "commit": "c", "device": "cpu", "seeds": [0], "seconds": 1.0}
        )

    assert "1 of 1 faults held" in page(GOOD)
    assert "DIFFERENT" in page(replace(GOOD, same=False))
    assert "WRONG" in page(replace(GOOD, twice=2))
    assert "NOT EXPLAINED" in page(replace(GOOD, message="Traceback"))
    assert "NOT anchored" in page(replace(GOOD, anchored=False))
    assert "scores: gone" in page(replace(GOOD, audit="scores: gone"))
    assert NOT_ALLOWED in page(Outcome("disks", "read-only", NOT_ALLOWED))
