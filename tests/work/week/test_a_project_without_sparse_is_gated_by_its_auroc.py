"""Without `sparse` in params.yaml no flip rate is measured, its rules are not asked, and the verdict says so."""

from types import SimpleNamespace

import numpy as np
import pytest

from xadflow.models.judges import Panel
from xadflow.models.versions import ModelRef
from xadflow.settings.blocks import DatasetSettings, GateSettings
from xadflow.work.week import evaluate, gate, gate_figures, judge_challenger

CHALLENGER = ModelRef("xad.plates.fcdd", 2, "run")


@pytest.fixture
def project(tmp_path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(gate, "find_judges", lambda *_: Panel((), "switched off", wanted=False))
    monkeypatch.setattr(gate, "dvc_hashes", lambda *_: {})
    tags: dict[str, str] = {}
    registry = SimpleNamespace(
        alias=lambda name, alias: None,
        detector_folder=lambda ref: tmp_path,
        log_metrics=lambda run_id, metrics: None,
        tag=lambda name, version, key, value: tags.update({key: value}),
    )
    settings = SimpleNamespace(
        gate=GateSettings(),
        seed=0,
        explainers={"heatmap": {}},
        explain=SimpleNamespace(explainers=("heatmap",), shard_of=lambda shape: 64),
    )
    home = SimpleNamespace(project=tmp_path, dataset=lambda name: tmp_path / name)
    settings.dataset = lambda name: DatasetSettings(source="folder")
    monkeypatch.setattr(gate, "read_manifest", lambda folder: SimpleNamespace(rows=lambda *_: []))
    return SimpleNamespace(home=home, settings=settings, registry=registry, device=None, tags=tags)


@pytest.mark.parametrize(("auroc", "passed"), [(0.8, True), (0.7, False)])
def test_auroc_alone_decides_and_the_verdict_says_so(project, monkeypatch, auroc: float, passed: bool) -> None:
    monkeypatch.setattr(gate, "_measured", lambda *_: {"auroc": auroc})
    outcome = judge_challenger(project, "plates", CHALLENGER, hold=True)
    assert outcome.passed is passed
    assert "gate.min_auroc" in outcome.reasons[0]
    assert outcome.reasons[-1] == (
        "flip_rate and change_inside were not measured, so gate.min_flip_rate, gate.min_change_inside, "
        "gate.max_flip_rate_drop are not asked: params.yaml has no `sparse` under explainers, whose counterfactuals "
        "they are about."
    )
    assert "are not asked" in project.tags["xadflow.gate_reasons"]


def test_a_project_with_sparse_is_refused_without_a_flip_rate(project, monkeypatch) -> None:
    project.settings.explainers["sparse"] = {}
    monkeypatch.setattr(gate, "_measured", lambda *_: {"auroc": 0.8})
    outcome = judge_challenger(project, "plates", CHALLENGER, hold=True)
    assert not outcome.passed
    assert "flip_rate was not measured (missing), so gate.min_flip_rate cannot be judged." in outcome.reasons


@pytest.mark.parametrize(("explainers", "asked"), [({}, []), ({"sparse": {}}, ["sparse"])])
def test_nothing_is_explained_for_the_gate_that_params_does_not_name(project, monkeypatch, explainers, asked) -> None:
    project.settings.explainers = explainers
    seen: list[str] = []
    scored = SimpleNamespace(
        summary=lambda threshold, seed: SimpleNamespace(auroc=0.9, auroc_low=0.8, auroc_high=1.0),
        images={(): None, 0: None},
        labels=np.repeat([0, 1], 5),
        can_be_ranked=True,
    )
    monkeypatch.setattr(evaluate, "read_manifest", lambda folder: None)
    monkeypatch.setattr(evaluate, "score_split", lambda *_: scored)
    monkeypatch.setattr(evaluate, "explain_some", lambda *given: (seen.append(given[3]), (0, []))[1])
    detector = SimpleNamespace(calibration=SimpleNamespace(threshold=0.5), input_shape=(1, 8, 8))
    figures = gate_figures(project, "plates", detector)
    assert seen == asked
    assert figures["auroc"] == 0.9
    assert ("flip_rate" in figures) is bool(asked)
