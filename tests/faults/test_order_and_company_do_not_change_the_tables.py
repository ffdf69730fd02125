"""Shards in any order, two nights at once, an explainer added later: every row once, and the right ones."""

from __future__ import annotations

from benchmarks.faults_kit.children import barrier


def test_shards_that_finish_in_reverse_order_give_the_same_tables(plant, undisturbed):
    state = plant.fresh("backwards")
    plant.night(state, "run-1", backwards=True)
    assert plant.evidence(state).content == undisturbed.content


def test_two_nights_at_once_add_each_row_once(plant, undisturbed):
    state = plant.fresh("together")
    together = barrier(2)
    nights = [plant.start(state, f"night-{number}", together=together) for number in (1, 2)]
    ended = [night.wait() for night in nights]
    assert [one.status for one in ended] == [0, 0], "\n".join(one.said for one in ended)
    found = plant.evidence(state)
    assert found.content == undisturbed.content
    assert found.plain == undisturbed.rows
    assert (found.twice, found.audit, found.anchored) == (0, "", True)


def test_an_explainer_added_later_fills_exactly_its_missing_rows(plant, undisturbed):
    state = plant.fresh("added later")
    plant.night(state, "run-1", explainers=("heatmap",))
    before = plant.evidence(state).content
    assert before["scores"] == undisturbed.content["scores"]
    plant.night(state, "run-2")
    after = plant.evidence(state)
    assert set(after.content["explanations"]) == set(undisturbed.content["explanations"])
    added = set(after.content["explanations"]) - set(before["explanations"])
    assert {key[3] for key in added} == {"sparse"}
    assert len(added) == len(before["explanations"])
    assert all(after.content[table][key] == value for table in before for key, value in before[table].items())
    assert after.content["scores"] == before["scores"]
    assert (after.twice, after.audit, after.anchored) == (0, "", True)
