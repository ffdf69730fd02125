from __future__ import annotations

import math

import pytest

from xadflow.models.gate import AUROC, CHANGE_INSIDE, FIGURES, FLIP_RATE, Verdict, joined, judge
from xadflow.settings.blocks import GateSettings

RULES = GateSettings()
GOOD = {AUROC: 0.93, FLIP_RATE: 0.98, CHANGE_INSIDE: 0.8}


def test_without_a_champion_the_absolute_rules_decide():
    assert judge(RULES, GOOD, None).passed
    assert len(judge(RULES, GOOD, None).reasons) == 3


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        (AUROC, 0.74, "gate.min_auroc"),
        (FLIP_RATE, 0.89, "gate.min_flip_rate"),
        (CHANGE_INSIDE, 0.29, "gate.min_change_inside"),
    ],
)
def test_a_figure_below_its_least_fails_and_the_reason_names_value_and_key(name, value, key):
    verdict = judge(RULES, GOOD | {name: value}, None)
    assert not verdict.passed
    (reason,) = verdict.reasons
    assert f"{value:.4f}" in reason
    assert key in reason
    assert name in reason


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("odd", [math.nan, math.inf, None])
def test_a_missing_or_infinite_figure_never_promotes(name, odd):
    figures = {key: value for key, value in GOOD.items() if key != name}
    if odd is not None:
        figures[name] = odd
    verdict = judge(RULES, figures, None)
    assert not verdict.passed
    assert "was not measured" in verdict.reasons[0]


@pytest.mark.parametrize("name", [AUROC, FLIP_RATE])
def test_an_unmeasured_champion_does_not_let_the_challenger_pass(name):
    verdict = judge(RULES, GOOD, GOOD | {name: math.nan})
    assert not verdict.passed
    assert "champion" in verdict.reasons[0]


def test_a_drop_of_exactly_the_allowance_passes_and_a_little_more_does_not():
    champion = {AUROC: 0.90, FLIP_RATE: 1.0, CHANGE_INSIDE: 0.9}
    assert judge(RULES, {AUROC: 0.89, FLIP_RATE: 0.95, CHANGE_INSIDE: 0.5}, champion).passed
    worse = judge(RULES, {AUROC: 0.8899, FLIP_RATE: 0.9499, CHANGE_INSIDE: 0.5}, champion)
    assert not worse.passed
    assert [reason.split()[-1] for reason in worse.reasons] == ["(gate.max_auroc_drop).", "(gate.max_flip_rate_drop)."]


def test_relative_rules_are_silent_without_a_champion_and_an_improvement_passes_them():
    assert judge(RULES, {AUROC: 0.75, FLIP_RATE: 0.9, CHANGE_INSIDE: 0.5}, None).passed
    assert judge(RULES, GOOD, {AUROC: 0.80, FLIP_RATE: 0.9, CHANGE_INSIDE: 0.99}).passed


def test_all_broken_rules_are_told_at_once():
    assert len(judge(RULES, {AUROC: 0.1, FLIP_RATE: 0.1, CHANGE_INSIDE: 0.1}, GOOD).reasons) == 5


COUNTED = GOOD | {"normals": 12, "anomalies": 15, "explained": 9, "auroc_low": 0.81, "auroc_high": 0.99}


def test_every_reason_states_how_many_images_and_how_sure():
    verdict = judge(RULES, COUNTED, None)
    assert verdict.passed
    detection, flips, inside = verdict.reasons
    assert "0.9300 (95 %: 0.81 to 0.99, 12 normals and 15 anomalies)" in detection
    assert "(95 %: 0.70 to 1.00, 9 explained)" in flips
    assert "(9 explained)" in inside


@pytest.mark.parametrize("few", [{"normals": 1}, {"normals": 4}, {"anomalies": 0}, {"anomalies": 4, "normals": 2}])
def test_a_figure_over_too_few_images_promotes_nothing_and_is_no_fault_either(few):
    verdict = judge(RULES, {**COUNTED, **few, AUROC: 1.0}, None)
    assert not verdict.passed
    assert verdict.is_open
    assert all(f"{count} {kind}" in verdict.unmeasured[0] for kind, count in few.items())
    assert "gate.min_images" in verdict.unmeasured[0]


def test_few_explained_images_leave_the_rules_about_explanations_open_and_a_broken_rule_still_refuses():
    verdict = judge(RULES, COUNTED | {"explained": 2}, None)
    assert verdict.is_open
    assert len(verdict.unmeasured) == 2
    refused = judge(RULES, COUNTED | {"normals": 1, FLIP_RATE: 0.1}, None)
    assert not refused.passed
    assert not refused.is_open
    assert "gate.min_flip_rate" in refused.reasons[0]


def test_a_champion_that_explained_too_few_is_not_compared_by_them():
    verdict = judge(RULES, COUNTED | {FLIP_RATE: 0.91}, COUNTED | {FLIP_RATE: 1.0, "explained": 2})
    assert verdict.passed
    assert any("of the champion flip_rate was not measured: 2 explained" in one for one in verdict.notes)


def test_an_open_verdict_stays_open_beside_a_kept_rule_and_not_beside_a_broken_one():
    unsure = judge(RULES, COUNTED | {"anomalies": 0}, None)
    kept, broken = Verdict(True, ("kept",)), Verdict(False, ("broken",))
    assert joined(unsure, kept).is_open
    assert "kept" in joined(unsure, kept).notes
    assert not joined(unsure, broken).is_open
    assert joined(unsure, broken).reasons[0] == "broken"
