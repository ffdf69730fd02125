"""An explainer that has to be trained, added to a project that is running: trained, gated, registered, run, refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from tests.flows.test_a_users_folder_becomes_explained_rows_with_three_commands import pixels, table
from xadflow.errors import BadWeights, NoChampion
from xadflow.evidence.verify import verify
from xadflow.project import Project
from xadflow.work.night.chosen import choose_explainers
from xadflow.work.week import judge_explainer, settle

pytestmark = [pytest.mark.slow, pytest.mark.server]

MODEL = "xad.screws.fcdd.diverse"
ANYTHING = {
    "min_share_normal": 0.0,
    "max_likeness": 1.0,
    "min_apart": 0.0,
    "max_frechet": 1e9,
    "max_change_of_normals": 1e9,
    "min_transfer": 0.0,
}


def set_rules(project: Path, rules: dict[str, float]) -> None:
    """Write rules of gate and gate.generator into params.yaml."""
    path = project / "params.yaml"
    text = path.read_text()
    for name, value in rules.items():
        text, count = re.subn(rf"(?m)^( {{2,4}}{name}:) \S+", rf"\1 {value}", text)
        assert count == 1, name
    path.write_text(text)


@pytest.fixture
def opened(night, explained: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The project after that night, in this process: another command costs ten seconds."""
    monkeypatch.setenv("XADFLOW_PROJECT", str(explained))
    for name in ("XADFLOW_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    project = Project.open()
    return SimpleNamespace(
        home=project.home,
        registry=project.registry,
        store=project.records,
        settings=project.settings,
        device=project.device,
        champion=project.registry.champion("xad.screws.fcdd"),
    )


@pytest.fixture(scope="module")
def outcomes(explained: Path, xadflow) -> list[dict[str, object]]:
    """`retrain` with a tiny generator for the champion that is there, under rules that let anything pass."""
    path = explained / "params.yaml"
    text = path.read_text().replace("diverse: {concepts: 2}", "diverse: {concepts: 2, width: 8, images: 2, steps: 3}")
    text = text.replace(
        "{datasets: [coloured-mnist], detectors: [bce, hsc]}", "{datasets: [screws], detectors: [fcdd]}"
    )
    path.write_text(text)
    set_rules(explained, ANYTHING)
    found = json.loads(xadflow("retrain", "--dataset", "screws", "--json").stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def night(outcomes, explained: Path, xadflow) -> pd.DataFrame:
    """Rows that the next night adds."""
    before = table(explained, "explanations"), table(explained, "scores")
    xadflow("explain", "--dataset", "screws")
    assert len(table(explained, "scores")) == len(before[1])
    after = table(explained, "explanations")
    return after[~after.row_digest.isin(before[0].row_digest)]


def test_the_explainer_is_trained_for_the_champion_and_the_detector_is_left_alone(outcomes, opened) -> None:
    detector, explainer = outcomes
    assert (detector["model"], detector["trained"]) == ("xad.screws.fcdd", False)
    assert (explainer["model"], explainer["trained"], explainer["in_service"]) == (MODEL, True, True)
    assert any("gate.min_transfer" in reason for reason in explainer["reasons"])
    assert explainer["explains"] == opened.champion.version
    listed = {model.name: model for model in opened.registry.models()}[MODEL]
    (version,) = listed.versions
    assert (listed.aliases, version.verdict, version.explains) == ({"champion": 1}, "passed", opened.champion.version)
    assert {"fit.seconds", "reconstruction", "diversity", "gate.share_normal", "gate.frechet"} <= set(version.figures)
    assert min(version.figures[f"gate.share_normal_of.{k}"] for k in (0, 1)) == version.figures["gate.share_normal"]


def test_its_run_shows_held_out_anomalies_and_names_the_detectors_files(opened) -> None:
    ref = opened.registry.champion(MODEL)
    run = Path(opened.registry._client.get_run(ref.run_id).info.artifact_uri.removeprefix("file://"))
    assert (run / "figures" / "counterfactuals.png").read_bytes().startswith(b"\x89PNG")
    assert (
        len(list((run / "figures").glob("samples-step-*.png"))) == 3
    )  # one a quarter, and this training has three steps
    assert json.loads((run / "lineage.json").read_text())["detector_files"] == opened.champion.files
    assert ref.explains == opened.champion.as_explained


def test_images_scored_before_get_its_rows_and_no_other(night, explained: Path) -> None:
    assert set(night.explainer) == {"diverse"}
    explanations = table(explained, "explanations")
    lineage = json.loads(night.lineage.iloc[0])
    whose = explanations[
        (explanations.explainer == "sparse") & (explanations.model_version == lineage["model_version"])
    ]
    assert set(night.image_id) == set(whose.image_id)
    assert night.image_id.is_unique
    assert (lineage["explainer_model_name"], lineage["explainer_model_version"]) == (MODEL, 1)
    (weights,) = explained.glob("var/runs/train/*/explainer/explainer.json")
    assert night.explainer_version.iloc[0].endswith(json.loads(weights.read_text())["weights_sha256"][:8])


def test_each_row_holds_both_concepts_with_their_own_figures(night) -> None:
    for _, row in night.iterrows():
        original = pixels(row.original["bytes"]).astype(float) / 255
        assert [one["concept"] for one in row.counterfactuals] == [0, 1]
        for one in row.counterfactuals:
            change = pixels(one["image"]["bytes"]).astype(float) / 255 - original
            assert one["l1"] == pytest.approx(abs(change).sum(), rel=1e-6)
            assert one["is_normal"] == (one["score"] <= row.threshold)


def test_the_audit_and_the_page_show_both(night, explained: Path, opened, here, tmp_path: Path) -> None:
    assert verify(opened.store, None).ok
    image_id = night.image_id.iloc[0]
    assert "likeness_max" in here("audit", "show", image_id[:12], "--images", str(tmp_path)).stdout
    assert len(list(tmp_path.glob("*diverse*/counterfactual-*.png"))) == 2
    page = max(explained.glob("var/reports/screws-*.html"), key=lambda path: path.stat().st_mtime).read_text()
    assert "Several ways to be normal" in page
    assert "diverse 1: " in page


def test_a_night_with_another_versions_explainer_does_not_start(opened) -> None:
    registry, champion = opened.registry, opened.champion
    tagged = registry.champion(MODEL)
    registry.tag(MODEL, tagged.version, "xadflow.explains_weights", "0" * 64)
    try:
        with pytest.raises(BadWeights, match=f"xadflow models promote xad.screws.fcdd {champion.version}"):
            choose_explainers(opened, "screws", "fcdd", champion)
    finally:
        registry.tag(MODEL, tagged.version, "xadflow.explains_weights", champion.as_explained.weights)
    assert choose_explainers(opened, "screws", "fcdd", champion).versions.keys() >= {"diverse"}


def test_a_generator_that_breaks_a_rule_leaves_service_while_its_detector_stays_and_comes_back(opened) -> None:
    set_rules(opened.home.project, {"max_frechet": 1e-6})
    changed, registry, champion = Project(opened.home), opened.registry, opened.champion
    outcome = judge_explainer(changed, "screws", registry.champion(MODEL), champion)
    assert not outcome.passed
    assert "gate.generator.max_frechet" in outcome.reasons[0]
    settle(registry, champion.name, champion.version, champion.version, "")
    assert registry.alias(MODEL, "champion") is None
    assert registry.champion(champion.name).version == champion.version
    chosen = choose_explainers(changed, "screws", "fcdd", champion)
    assert set(chosen.versions) == {"heatmap", "transplant", "sparse"}
    assert chosen.left_out["diverse"].startswith("The gate refused its version 1 for xad.screws.fcdd version")
    with pytest.raises(NoChampion, match="The gate refused its version 1"):
        choose_explainers(changed, "screws", "fcdd", champion, ["diverse"])
    again = judge_explainer(changed, "screws", registry.resolve(f"{MODEL}/1"), champion)
    assert (again.passed, again.judged) == (False, False)

    set_rules(opened.home.project, ANYTHING)
    assert judge_explainer(Project(opened.home), "screws", registry.resolve(f"{MODEL}/1"), champion).passed
    settle(registry, champion.name, champion.version, champion.version, "")
    assert registry.champion(MODEL).version == 1
