from __future__ import annotations

from pathlib import Path

import pytest

from xadflow.errors import BadSettings
from xadflow.models.judges.choice import judge_choice, trunk_of
from xadflow.settings import Settings, load_settings
from xadflow.settings.judges import why_no_judge

PARAMS = """\
catalogue: [plates]
datasets: {{plates: {{source: folder, size_px: 28, channels: 1{dataset}}}}}
detectors: {{fcdd: {{method: fcdd, settings: {{{fcdd}}}}}, hsc: {{method: hsc}}, {more}}}
explainers: {{sparse: {{}}}}
retrain: {{datasets: [plates], detectors: [{trained}]}}
explain: {{datasets: [plates], explainers: [sparse]}}
demo: {{dataset: plates}}
"""


@pytest.fixture
def settings(tmp_path: Path):
    def load(dataset: str = "", fcdd: str = "", trained: str = "fcdd, hsc", more: str = "") -> Settings:
        path = tmp_path / "params.yaml"
        path.write_text(PARAMS.format(dataset=dataset, fcdd=fcdd, trained=trained, more=more))
        return load_settings(path)

    return load


def chosen(settings: Settings) -> tuple[str, dict[str, object]]:
    found = judge_choice(settings, "plates")
    assert found is not None
    return found.method, found.settings


@pytest.mark.parametrize(
    ("fcdd", "trained", "trunk"),
    [
        ("", "fcdd, hsc", "mobilenet_v2"),
        ("trunk: lite0", "fcdd", "mobilenet_v2"),
        ("trunk: mobilenet_v2", "fcdd", "lite0"),
        ("trunk: mobilenet_v2", "hsc", "mobilenet_v2"),
        ("trunk: mobilenet_v2", "fcdd, other", "mobilenet_v2"),
    ],
)
def test_the_judge_looks_through_the_trunk_that_no_trained_detector_has(settings, fcdd, trained, trunk):
    loaded = settings(fcdd=fcdd, trained=trained, more="other: {method: fcdd}")
    assert chosen(loaded) == ("padim", {"trunk": trunk})


def test_the_trunk_of_a_detector_is_that_of_its_defaults_or_its_network(settings):
    loaded = settings(more="big: {method: hsc, settings: {network: mobilenet_v2}}")
    assert [trunk_of(loaded, name) for name in ("fcdd", "hsc", "big")] == ["lite0", None, "mobilenet_v2"]


@pytest.mark.parametrize(
    ("dataset", "wanted"),
    [
        (", judge: {settings: {pool_share: 0.2}}", ("padim", {"trunk": "mobilenet_v2", "pool_share": 0.2})),
        (", judge: {settings: {trunk: lite0}}", ("padim", {"trunk": "lite0"})),
        (", judge: {method: hsc}", ("hsc", {})),
        (", judge: true", ("padim", {"trunk": "mobilenet_v2"})),
        (", judge: true, classes: [brick, grass]", ("padim", {"trunk": "mobilenet_v2"})),
    ],
)
def test_what_is_named_goes_before_what_is_not(settings, dataset, wanted):
    assert chosen(settings(dataset)) == wanted


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        (", judge: null", "datasets.plates.judge is switched off"),
        (", judge: false", "datasets.plates.judge is switched off"),
        (", classes: [brick, grass]", "plates holds scenes"),
    ],
)
def test_no_judge_has_a_reason(settings, dataset, why):
    loaded = settings(dataset)
    assert judge_choice(loaded, "plates") is None
    assert why in (why_no_judge(loaded, "plates") or "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": ", judge: {metod: hsc}"}, r"datasets\.plates\.judge\.metod.*did you mean 'method'"),
        ({"dataset": ", judge: 3"}, r"datasets\.plates\.judge"),
        ({"more": "judge: {method: hsc}"}, "no detector may be named `judge`"),
    ],
)
def test_wrong_settings_of_a_judge_are_answered(settings, options, message):
    with pytest.raises(BadSettings, match=message):
        settings(**options)
