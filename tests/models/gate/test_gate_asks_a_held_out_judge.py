from __future__ import annotations

import math

import pytest

from xadflow.models.gate import Verdict, joined, judge_transfer


def test_a_transfer_at_the_rule_passes_and_one_below_is_refused_with_its_reason():
    kept = judge_transfer(0.5, {"transfer": 0.5, "judge_flagged": 20.0})
    assert kept.passed
    assert kept.reasons == ("transfer is 0.5000 (95 %: 0.30 to 0.70, 20 anomalies), at least 0.5 (gate.min_transfer).",)
    broken = judge_transfer(0.5, {"transfer": 0.02, "judge_flagged": 20.0})
    assert not broken.passed
    assert "below 0.5 (gate.min_transfer)" in broken.reasons[0]


@pytest.mark.parametrize("figures", [{"transfer": math.nan, "judge_flagged": 4.0}, {"judge_flagged": 4.0}])
def test_a_judge_that_flags_too_few_says_nothing_and_that_is_said(figures):
    found = judge_transfer(0.5, figures)
    assert found.passed
    assert "flags only 4 of the explained anomalies" in found.notes[0]
    assert judge_transfer(0.5, {}).passed


def test_a_judge_that_should_be_there_and_is_not_breaks_the_rule_and_one_switched_off_does_not():
    wanted = judge_transfer(0.5, {}, "No judge of plates is registered.")
    assert not wanted.passed
    assert "cannot be judged: No judge of plates is registered." in wanted.reasons[0]
    off = judge_transfer(0.5, {}, "It is switched off.", wanted=False)
    assert off.passed
    assert "is not asked: It is switched off." in off.notes[0]


def test_several_verdicts_pass_together_or_give_the_reasons_of_the_failed_ones_and_every_note():
    good, bad, quiet = Verdict(True, ("good",)), Verdict(False, ("bad",)), Verdict(True, (), ("not asked",))
    assert joined(good, quiet) == Verdict(True, ("good", "not asked"))
    assert joined(good, bad, quiet) == Verdict(False, ("bad", "not asked"))
