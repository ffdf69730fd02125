"""What a night writes of its judges, and `xadflow audit replay` of it: to the bit, forged, and without the judge."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.evidence.replay.conftest import set_lineage
from tests.evidence.replay.test_rows_come_out_again_from_their_lineage import outcomes
from xadflow.evidence.replay import DIFFERS, IDENTICAL, IMPOSSIBLE
from xadflow.models.judges import find_judges
from xadflow.models.judges.transfer import cases_of_rows
from xadflow.work.night import finish
from xadflow.work.night.finish import finish_night
from xadflow.work.night.plan import read_plan

JUDGE = "xad.plates.judge"


@pytest.fixture(scope="module")
def rows(night) -> dict[str, list[dict]]:
    """Rows of the night by explainer."""
    found: dict[str, list[dict]] = {}
    for row in night.store.read("explanations").to_pylist():
        found.setdefault(row["explainer"], []).append(row)
    return found


def test_every_counterfactual_has_the_word_of_the_judge_and_the_lineage_names_its_version_and_weights(
    night, rows
) -> None:
    (ref,) = find_judges(night.settings, night.registry, "plates").judges
    assert ref.apart
    for row in rows["sparse"] + rows["diverse"]:
        for found in row["counterfactuals"]:
            (word,) = found["judges"]
            assert (word["name"], word["version"]) == (JUDGE, ref.version)
            assert word["is_normal"] == (word["score"] <= word["threshold"])
            assert word["score"] != found["score"]
        told = json.loads(row["lineage"])
        assert told["judges"] == [
            {
                "model_name": JUDGE,
                "model_version": ref.version,
                "weights": ref.weights,
                "apart": True,
                "shares_trunk": False,
            }
        ]
        assert told["judge_apart"] is True
        metrics = {one["name"]: one["value"] for one in row["metrics"]}
        assert metrics["judge_flags"] == float(metrics["judge_score"] > word["threshold"])
    assert len(cases_of_rows(rows["sparse"])) == len(night.flagged)


def test_a_row_without_counterfactuals_says_nothing_of_judges(rows) -> None:
    assert rows["heatmap"]
    for row in rows["heatmap"]:
        assert not row["counterfactuals"]
        assert not {"judges", "judge_apart"} & set(json.loads(row["lineage"]))
        assert "judge_score" not in {one["name"] for one in row["metrics"]}


def test_the_night_tells_mlflow_how_many_anomalies_the_judge_flags_too(night, rows) -> None:
    plan = read_plan(night.home.runs / "explain" / "run-1" / "plan.json")
    assert [one.name for one in plan.judges] == [JUDGE]
    done = finish_night(night, plan, [])
    flags = [one["value"] for row in rows["sparse"] for one in row["metrics"] if one["name"] == "judge_flags"]
    assert done.figures["sparse.judge_flagged"] == sum(flags)
    assert done.figures["sparse.judge_recall"] == pytest.approx(np.mean(flags))
    assert "sparse.transfer" not in done.figures  # of fewer than ten nothing is told
    assert "No judge was asked" not in done.report.read_text()
    alone = dataclasses.replace(plan, judges=(), no_judge="No judge of plates is registered.")
    page = finish_night(night, alone, []).report.read_text()
    assert "No judge was asked about the counterfactuals. No judge of plates is registered." in page
    assert "Please look" in page


@pytest.fixture
def reported(night, monkeypatch):
    """The report that the end of a night writes, with a plan and settings that are changed."""

    def report(plan, settings=night.settings):
        pages = []
        monkeypatch.setattr(finish, "write_nightly_report", lambda page, path: pages.append(page))
        finish_night(SimpleNamespace(**{**vars(night), "settings": settings}), plan, [])
        return pages[0]

    return report


def test_a_judge_that_was_switched_off_is_nothing_to_look_at(night, reported) -> None:
    plan = read_plan(night.home.runs / "explain" / "run-1" / "plan.json")
    plates = night.settings.dataset("plates").model_copy(update={"judge": None})
    settings = night.settings.model_copy(update={"datasets": {"plates": plates}})
    alone = dataclasses.replace(plan, judges=(), no_judge="datasets.plates.judge is switched off in params.yaml.")
    report = reported(alone, settings)
    assert report.notes == ("No judge was asked about the counterfactuals. " + alone.no_judge,)
    assert not [one for one in report.warnings if "judge" in one]


def test_images_scored_on_an_earlier_night_are_counted_apart(night, reported, monkeypatch) -> None:
    plan = read_plan(night.home.runs / "explain" / "run-1" / "plan.json")
    counts = reported(plan).counts
    assert (counts.anomalous, counts.explained, counts.anew) == (len(night.flagged), len(night.flagged), 0)
    read = finish._of_run

    def of_run(store, table, plan, columns):
        return read(store, table, plan, columns).slice(0, 0 if table == "scores" else None)

    monkeypatch.setattr(finish, "_of_run", of_run)
    counts = reported(plan).counts
    assert (counts.anomalous, counts.explained, counts.anew) == (0, 0, len(night.flagged))


def test_the_words_come_out_again_to_the_bit(night) -> None:
    told = outcomes(night, night.flagged[1])
    assert {told[name].outcome for name in ("sparse", "diverse", "heatmap")} == {IDENTICAL}


def turned_word(row) -> None:
    for found in row["counterfactuals"]:
        found["judges"][0]["is_normal"] = not found["judges"][0]["is_normal"]


def added_word(row) -> None:
    for found in row["counterfactuals"]:
        found["judges"] = [*found["judges"], {**found["judges"][0], "name": "xad.plates.friend"}]


def no_word(row) -> None:
    for found in row["counterfactuals"]:
        found["judges"] = None


@pytest.mark.parametrize("change", [turned_word, added_word, no_word])
def test_a_word_that_nobody_said_is_found(night, forged, change) -> None:
    told = outcomes(night, night.flagged[0], forged(change))["sparse"]
    assert told.outcome == DIFFERS
    assert any("judges" in one.column for one in told.differences)


def another_version(row) -> None:
    judges = json.loads(row["lineage"]).get("judges")
    set_lineage(row, judges=judges and [{**judges[0], "model_version": 9}])


def other_weights(row) -> None:
    judges = json.loads(row["lineage"]).get("judges")
    set_lineage(row, judges=judges and [{**judges[0], "weights": "0" * 64}])


def nonsense(row) -> None:
    set_lineage(row, judges="everybody")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (another_version, f"{JUDGE} version 9 is not registered"),
        (other_weights, f"the weights of the judge {JUDGE} version 1 are not those of its lineage"),
        (nonsense, "does not tell which judge was asked"),
    ],
)
def test_a_row_whose_judge_is_gone_cannot_be_replayed_and_says_so(night, forged, change, said: str) -> None:
    told = outcomes(night, night.flagged[0], forged(change))["sparse"]
    assert told.outcome == IMPOSSIBLE
    assert told.missing is not None
    assert said in told.missing
