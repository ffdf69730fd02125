import math

import pytest

from xadflow.models.gate import APART, CHANGE_OF_NORMALS, FRECHET, LIKENESS, SHARE_NORMAL, judge_generator
from xadflow.settings import GeneratorGateSettings

RULES = GeneratorGateSettings(
    min_share_normal=0.8, max_likeness=0.5, min_apart=0.01, max_frechet=80.0, max_change_of_normals=0.6
)
AT_THE_LIMIT = {SHARE_NORMAL: 0.8, LIKENESS: 0.5, APART: 0.01, FRECHET: 80.0, CHANGE_OF_NORMALS: 0.6}
WORSE = {SHARE_NORMAL: 0.79, LIKENESS: 0.51, APART: 0.009, FRECHET: 81.0, CHANGE_OF_NORMALS: 0.61}


def test_a_figure_at_its_limit_passes_and_every_rule_is_named() -> None:
    verdict = judge_generator(RULES, AT_THE_LIMIT, 2)
    assert verdict.passed
    assert len(verdict.reasons) == 5


@pytest.mark.parametrize("name", WORSE)
def test_each_rule_refuses_by_itself_and_says_which(name: str) -> None:
    verdict = judge_generator(RULES, {**AT_THE_LIMIT, name: WORSE[name]}, 2)
    assert not verdict.passed
    (reason,) = verdict.reasons
    assert name in reason
    assert f"gate.generator.{'min' if name in (SHARE_NORMAL, APART) else 'max'}_{name}" in reason


@pytest.mark.parametrize("name", WORSE)
@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_was_not_measured_is_never_promoted(name: str, value: float | None) -> None:
    figures = {key: one for key, one in {**AT_THE_LIMIT, name: value}.items() if one is not None}
    verdict = judge_generator(RULES, figures, 2)
    assert not verdict.passed
    assert "was not measured" in verdict.reasons[0]


def test_one_concept_need_not_differ_from_itself() -> None:
    figures = {key: one for key, one in AT_THE_LIMIT.items() if key not in (LIKENESS, APART)}
    assert judge_generator(RULES, figures, 1).passed
    assert not judge_generator(RULES, figures, 2).passed


def test_keys_of_the_reasons_stand_in_the_settings() -> None:
    known = set(GeneratorGateSettings.model_fields)
    for reason in judge_generator(RULES, WORSE, 2).reasons:
        assert reason.split("(gate.generator.")[1].split(")")[0] in known
