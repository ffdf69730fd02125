"""A night gives explainers the donors of the version in service; a replay gives them again, or says what is gone."""

from __future__ import annotations

import json
from datetime import date
from types import SimpleNamespace

import pytest

from xadflow.errors import NoDonors
from xadflow.evidence.replay import IDENTICAL, IMPOSSIBLE, replay
from xadflow.evidence.replay.lineages import Notes
from xadflow.evidence.replay.sources import Sources
from xadflow.evidence.store import EvidenceStore
from xadflow.explainers import build_explainer
from xadflow.models.donors import given_donors, open_bank
from xadflow.work.night.plan import NightOrder, plan_night, read_plan
from xadflow.work.night.work import explain_shard


def rows_of(built, explainer: str = "patch") -> dict:
    return {
        row["image_id"]: row for row in built.store.read("explanations").to_pylist() if row["explainer"] == explainer
    }


def outcome_of(made, home=None):
    told = replay(home or made.home, made.settings, made.registry, made.store, made.flagged[0])
    return {one.explainer or one.table: one for one in told}["patch"]


def erase(home, *image_ids: str) -> None:
    from xadflow.datasets.manifest import read_manifest

    manifest = read_manifest(home.dataset("plates"))
    for row in manifest.rows():
        if row.image_id in image_ids:
            (home.dataset("plates") / row.path).unlink()


def test_each_row_tells_in_its_lineage_which_donors_there_were(built) -> None:
    rows = rows_of(built)
    assert sorted(rows) == built.flagged
    bank = open_bank(built.home, built.settings, built.folder, "plates")
    for row in rows.values():
        lineage = json.loads(row["lineage"])
        assert (lineage["donors"], lineage["donors_missing"]) == (bank.digest, 0)
        assert {one["name"]: one["value"] for one in row["metrics"]}["donors"] == 12
        assert [one["donor_id"] for one in row["counterfactuals"]] == list(bank.ids[:2])
        assert [one["name"] for one in row["images"]] == ["transplant.0.region", "transplant.1.region"]
    assert "donors" not in json.loads(rows_of(built, "heatmap")[built.flagged[0]]["lineage"])


def test_a_night_without_donors_leaves_the_explainer_out_with_the_reason_and_does_the_others(copied, tmp_path) -> None:
    erase(copied.home, *open_bank(copied.home, copied.settings, copied.folder, "plates").ids)
    night = {"dataset": "plates", "run_date": date(2026, 11, 28), "run_id": "run-2", "detector": "hsc"}
    store = EvidenceStore(tmp_path / "tables", tmp_path / "ledger")
    store.prepare()
    project = SimpleNamespace(**{**vars(copied), "store": store})
    plan = read_plan(plan_night(project, NightOrder(**night)))
    assert set(plan.explainers) == {"heatmap"}
    assert plan.left_out["patch"].startswith("All of its 12 donors are gone from plates")
    with pytest.raises(NoDonors, match="patch has no donors for xad.plates.hsc version 1"):
        plan_night(project, NightOrder(**night, explainers=["patch"]))
    explain_shard(project, plan, 0)
    told = store.read("explanations", ["image_id", "explainer"]).to_pylist()
    assert sorted((one["image_id"], one["explainer"]) for one in told) == [(one, "heatmap") for one in copied.flagged]


def test_donors_that_go_between_plan_and_work_stop_that_shard_in_words(copied) -> None:
    erase(copied.home, *open_bank(copied.home, copied.settings, copied.folder, "plates").ids)
    with pytest.raises(NoDonors, match="has no donors.*xadflow retrain"):
        given_donors(build_explainer("patch"), copied.home, copied.settings, copied.folder, "plates")
    assert given_donors(build_explainer("heatmap"), copied.home, copied.settings, copied.folder, "plates")[1] == {}


def test_a_row_with_donors_is_formed_again_to_the_bit(built) -> None:
    told = outcome_of(built)
    assert told.outcome == IDENTICAL
    assert not told.conditions


def test_donors_erased_since_are_a_condition_and_the_row_comes_out_where_others_were_used(built, copied) -> None:
    bank = open_bank(built.home, built.settings, built.folder, "plates")
    erase(copied.home, *bank.ids[9:])
    told = outcome_of(built, copied.home)
    assert told.conditions == {"donors": "3 of 12 donors are gone"}
    assert (
        told.outcome == IDENTICAL
    )  # how many there were, the two figures of the row that must differ, is the condition


def test_a_row_whose_very_donor_is_gone_cannot_be_replayed_and_names_it(built, copied) -> None:
    bank = open_bank(built.home, built.settings, built.folder, "plates")
    erase(copied.home, bank.ids[1])
    told = outcome_of(built, copied.home)
    assert told.outcome == IMPOSSIBLE
    assert f"the image that it took pixels from, {bank.ids[1][:12]}, is gone from plates" in told.missing
    erase(copied.home, *bank.ids[2:], bank.ids[0])
    assert "All of its 12 donors are gone" in outcome_of(built, copied.home).missing


def test_another_bank_than_then_is_said(built) -> None:
    row = rows_of(built)[built.flagged[0]]
    lineage, notes = json.loads(row["lineage"]), Notes()
    sources = Sources(built.home, built.settings, built.registry, built.store)
    sources.explainer(row, {**lineage, "donors": "0" * 64}, "cpu", notes)
    assert notes.conditions == {"donors": "other donors than then"}
    notes = Notes()
    changed = {**lineage, "donors": "0" * 64, "donors_missing": 2}
    sources.explainer(row, changed, "cpu", notes)
    assert notes.conditions == {"donors": "0 of 12 donors are gone, 2 were then"}
