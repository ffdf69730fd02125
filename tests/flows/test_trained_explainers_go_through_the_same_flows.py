"""An explainer that has to be trained, added to a project that is running: trained, gated, registered, run, refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from tests.flows.test_a_users_folder_becomes_explained_rows_with_three_commands import pixels, table

pytestmark = [pytest.mark.slow, pytest.mark.server]

MODEL = "xad.screws.fcdd.diverse"
ANYTHING = {"min_share_normal": 0.0, "max_likeness": 1.0, "min_apart": 0.0, "max_frechet": 1e9, "max_change_of_normals": 1e9}


def set_rules(project: Path, rules: dict[str, float]) -> None:
    """Write rules of gate.generator into params.yaml."""
    path = project / "params.yaml"
    text = path.read_text()
    for name, value in rules.items():
        text, count = re.subn(rf"(?m)^(    {name}:) \S+", rf"\1 {value}", text)
        assert count == 1, name
    path.write_text(text)


def versions(xadflow) -> dict[tuple[str, int], dict[str, object]]:
    """What `models list` says, by model and version."""
    rows = [json.loads(line) for line in xadflow("models", "list", "--json").stdout.splitlines()]
    return {(row["model"], row["version"]): row for row in rows}


@pytest.fixture(scope="module")
def outcomes(explained: Path, xadflow) -> list[dict[str, object]]:
    """`retrain` with a tiny generator for the champion that is there, under rules that let anything pass."""
    path = explained / "params.yaml"
    text = path.read_text().replace("diverse: {concepts: 2}", "diverse: {concepts: 2, width: 8, images: 2, steps: 3}")
    text = text.replace("{datasets: [coloured-mnist], detectors: [bce, hsc]}", "{datasets: [screws], detectors: [fcdd]}")
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


def test_the_explainer_is_trained_for_the_champion_and_the_detector_is_left_alone(outcomes, xadflow) -> None:
    detector, explainer = outcomes
    assert (detector["model"], detector["trained"]) == ("xad.screws.fcdd", False)
    assert (explainer["model"], explainer["trained"], explainer["in_service"]) == (MODEL, True, True)
    listed = versions(xadflow)
    row = listed[MODEL, 1]
    assert (row["aliases"], row["gate"], row["explains"]) == (["champion"], "passed", explainer["explains"])
    assert "champion" in listed["xad.screws.fcdd", row["explains"]]["aliases"]
    assert {"fit.seconds", "reconstruction", "diversity", "gate.share_normal", "gate.frechet"} <= set(row["figures"])


def test_its_run_shows_held_out_anomalies_and_names_the_detectors_files(outcomes, explained: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{explained / 'var' / 'mlflow.db'}")
    version = client.get_model_version(MODEL, "1")
    run = Path(client.get_run(version.run_id).info.artifact_uri.removeprefix("file://"))
    assert (run / "figures" / "counterfactuals.png").read_bytes().startswith(b"\x89PNG")
    of = client.get_model_version("xad.screws.fcdd", version.tags["xadflow.explains_version"])
    lineage = json.loads((run / "lineage.json").read_text())
    assert lineage["detector_files"] == json.loads(of.tags["xadflow.files"])
    assert version.tags["xadflow.explains_weights"] == lineage["detector_files"]["weights.safetensors"]


def test_images_scored_before_get_its_rows_and_no_other(night, explained: Path) -> None:
    assert set(night.explainer) == {"diverse"}
    explanations = table(explained, "explanations")
    lineage = json.loads(night.lineage.iloc[0])
    whose = explanations[(explanations.explainer == "sparse") & (explanations.model_version == lineage["model_version"])]
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


def test_the_audit_and_the_page_show_both(night, explained: Path, xadflow, tmp_path: Path) -> None:
    xadflow("audit", "verify")
    image_id = night.image_id.iloc[0]
    shown = xadflow("audit", "show", image_id[:12], "--images", str(tmp_path)).stdout
    assert "likeness_max" in shown
    assert len(list(tmp_path.glob("*diverse*/counterfactual-*.png"))) == 2
    page = max(explained.glob("var/reports/screws-*.html"), key=lambda path: path.stat().st_mtime)
    assert "Several ways to be normal" in page.read_text()
    assert "diverse 1: " in page.read_text()


def test_a_generator_that_breaks_a_rule_leaves_service_while_its_detector_stays(night, explained: Path, xadflow) -> None:
    before = len(table(explained, "explanations"))
    set_rules(explained, {"max_frechet": 1e-6})
    detector, explainer = json.loads(xadflow("retrain", "--dataset", "screws", "--json").stdout.splitlines()[-1])
    assert (explainer["trained"], explainer["passed"], explainer["in_service"]) == (False, False, False)
    assert "gate.generator.max_frechet" in explainer["reasons"][0]
    row = versions(xadflow)[MODEL, 1]
    assert (row["aliases"], row["gate"]) == ([], "refused")
    done = xadflow("explain", "--dataset", "screws")
    assert "diverse did not run: The gate refused its version 1" in done.stdout
    assert len(table(explained, "explanations")) == before
    refused = xadflow("explain", "--dataset", "screws", "--explainer", "diverse", status=1)
    assert "The gate refused its version 1" in refused.stderr
