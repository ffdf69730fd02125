"""The whole loop as a new user runs it, on a small folder of their own, through real DVC, Prefect, MLflow and Delta."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import DeltaTable
from PIL import Image

from tests.checkout import PROJECT
from tests.hostile.hostile_files import REASONS, SOUND

pytestmark = [pytest.mark.slow, pytest.mark.server]

README = PROJECT / "README.md"


def table(project: Path, name: str) -> pd.DataFrame:
    return DeltaTable(project / "var" / "tables" / name).to_pyarrow_table().to_pandas()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def champion(project: Path, environment: dict[str, str]):
    from xadflow.detectors.base import load_detector
    from xadflow.models.registry import Registry

    registry = Registry(f"sqlite:///{project / 'var' / 'mlflow.db'}", project / "var" / "mlartifacts")
    return load_detector(registry.detector_folder(registry.champion("xad.screws.fcdd")))


def test_every_test_image_has_a_score_and_every_anomaly_all_explanations(explained: Path) -> None:
    manifest = pq.read_table(explained / "data" / "screws" / "manifest.parquet").to_pandas()
    scores, explanations = table(explained, "scores"), table(explained, "explanations")
    assert set(scores.image_id) == set(manifest[manifest.split == "test"].image_id)
    assert scores.image_id.is_unique
    anomalous = set(scores[scores.is_anomaly].image_id)
    assert len(anomalous) >= 8
    for explainer in ("heatmap", "transplant", "sparse"):
        rows = explanations[explanations.explainer == explainer]
        assert set(rows.image_id) == anomalous
        assert rows.image_id.is_unique


def test_every_anomaly_is_shown_mended_by_what_train_normals_show_there(explained: Path) -> None:
    manifest = pq.read_table(explained / "data" / "screws" / "manifest.parquet").to_pandas()
    normals = set(manifest[(manifest.split == "train") & (manifest.label == 0)].image_id)
    rows = table(explained, "explanations")
    for _, row in rows[rows.explainer == "transplant"].iterrows():
        answers = list(row.counterfactuals)
        donors = [one["donor_id"] for one in answers]
        assert 1 <= len(answers) <= 3
        assert len(set(donors)) == len(donors)
        assert set(donors) <= normals
        assert answers[0]["is_normal"]
        regions = {one["name"]: pixels(one["image"]["bytes"]) for one in row["images"]}
        for one in answers:
            outside = np.squeeze(regions[f"transplant.{one['concept']}.region"]) == 0
            before, after = (np.asarray(pixels(content)) for content in (row.original["bytes"], one["image"]["bytes"]))
            assert (before[outside] == after[outside]).all()  # nothing changes where the donor has no part
        lineage = json.loads(row.lineage)
        assert lineage["donors"]
        assert lineage["donors_missing"] == 0


@pytest.mark.parametrize(
    ("command", "work"),
    [
        ("data", "data set screws: validate"),
        ("retrain", "start Prefect"),
        ("retrain", "train fcdd on screws, seed 0"),
        ("retrain", "gate xad.screws.fcdd version 1"),
        ("explain", "start Prefect"),
        ("explain", "explain screws, shard 1 of 1"),
    ],
)
def test_a_person_who_reads_a_pipe_sees_each_piece_of_work_with_its_seconds(
    explained: Path, command: str, work: str
) -> None:
    said = (explained.parent / f"{command}.said").read_text()
    assert re.search(rf"^{re.escape(work)} \.\.\. [\d.]+ s$", said, flags=re.M), said


def test_every_bad_file_is_quarantined_under_its_own_reason(explained: Path) -> None:
    quarantine = pq.read_table(explained / "data" / "screws" / "quarantine.parquet").to_pylist()
    assert {row["path"]: row["reason"] for row in quarantine} == {**REASONS, "train/good/broken.png": "undecodable"}


def test_16_bit_and_cmyk_images_are_trained_on_and_explained(explained: Path) -> None:
    manifest = pq.read_table(explained / "data" / "screws" / "manifest.parquet").to_pandas()
    manifest["name"] = manifest.path.str.removeprefix("images/")
    odd = manifest[manifest.name.isin(SOUND)].set_index("name")
    assert set(odd.index) == set(SOUND)
    assert set(odd.loc[["train/good/deep.png", "train/good/print.jpg"]].split) <= {"train", "val"}
    explanations = table(explained, "explanations")
    shown = {name: set(explanations[explanations.image_id == row.image_id].explainer) for name, row in odd.iterrows()}
    for kind in ("test/scratch/deep", "test/scratch/print"):  # those that the content hash has not put into split gate
        tested = [name for name in odd[odd.split == "test"].index if name.startswith(kind)]
        assert tested
        assert all(shown[name] == {"heatmap", "transplant", "sparse"} for name in tested), kind


def test_scores_recomputed_from_the_stored_pictures_equal_the_stored_ones(explained: Path, environment) -> None:
    detector = champion(explained, environment)
    rows = table(explained, "explanations")
    rows = rows[rows.explainer == "sparse"]

    def score(contents: list[bytes]) -> np.ndarray:
        stack = np.stack([pixels(content).reshape(detector.input_shape[1:] + (-1,)) for content in contents])
        images = torch.from_numpy(stack.transpose(0, 3, 1, 2).copy()).float() / 255
        with torch.no_grad():
            return detector.score(images).image.double().numpy()

    again = score([one["bytes"] for one in rows.original])
    assert again == pytest.approx(rows.score.to_numpy(), rel=1e-4, abs=1e-6)
    answers = [one for each in rows.counterfactuals for one in each]
    again = score([one["image"]["bytes"] for one in answers])
    assert again == pytest.approx([one["score"] for one in answers], rel=1e-4, abs=1e-6)


def test_a_heatmaps_raw_values_are_restored_within_one_level(explained: Path, environment) -> None:
    detector = champion(explained, environment)
    rows = table(explained, "explanations")
    for _, row in rows[rows.explainer == "heatmap"].head(4).iterrows():
        original = pixels(row.original["bytes"]).reshape(detector.input_shape[1:] + (-1,)).transpose(2, 0, 1).copy()
        with torch.no_grad():
            raw = detector.score(torch.from_numpy(original)[None].float() / 255).map[0].numpy()
        width = row.heatmap_max - row.heatmap_min
        restored = row.heatmap_min + pixels(row.heatmap["bytes"]).astype(float) / 255 * width
        assert np.abs(restored - raw).max() <= width / 255


def test_figures_of_a_row_are_those_of_its_pictures(explained: Path) -> None:
    rows = table(explained, "explanations")
    for _, row in rows[rows.explainer == "sparse"].iterrows():
        original = pixels(row.original["bytes"]).astype(float) / 255
        for one in row.counterfactuals:
            change = np.abs(pixels(one["image"]["bytes"]).astype(float) / 255 - original)
            flat = change.reshape(*original.shape[:2], -1).max(-1)
            assert one["l1"] == pytest.approx(change.sum(), rel=1e-6)
            assert one["l2"] == pytest.approx(np.sqrt((change**2).sum()), rel=1e-6)
            assert one["changed_fraction"] == pytest.approx((flat > 0).mean())
            assert one["is_normal"] == (one["score"] <= row.threshold)


def test_every_counterfactual_has_the_word_of_a_judge_that_never_serves(explained: Path) -> None:
    from xadflow.models.registry import Registry

    registry = Registry(f"sqlite:///{explained / 'var' / 'mlflow.db'}", explained / "var" / "mlartifacts")
    judge = registry.alias("xad.screws.judge", "judge")
    assert registry.alias("xad.screws.judge", "champion") is None
    rows = table(explained, "explanations")
    for _, row in rows[rows.explainer == "sparse"].iterrows():
        told = json.loads(row.lineage)
        assert [one["weights"] for one in told["judges"]] == [judge.files["weights.safetensors"]]
        assert told["judge_apart"] is False  # too few normals for two halves, and the row says so
        for one in row.counterfactuals:
            assert [(word["name"], word["version"]) for word in one["judges"]] == [("xad.screws.judge", judge.version)]
            assert one["donor_id"] is None


def test_the_readmes_queries_return_the_rows(explained: Path, environment) -> None:
    for snippet in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S):
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=explained, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "score" in done.stdout or "mean" in done.stdout
        assert len(done.stdout.splitlines()) > 3


def test_a_second_night_adds_no_row_and_a_second_retrain_trains_nothing(explained: Path, here) -> None:
    before = len(table(explained, "scores")), len(table(explained, "explanations"))
    (outcome,) = json.loads(here("retrain", "--dataset", "screws", "--json").stdout.splitlines()[-1])
    assert outcome["trained"] is False
    assert outcome["version"] == 1
    here("explain", "--dataset", "screws")
    assert (len(table(explained, "scores")), len(table(explained, "explanations"))) == before


def test_new_images_in_an_inbox_are_scored_explained_and_quarantined_the_same_way(
    explained: Path, here, tmp_path: Path, screws: Path
) -> None:
    inbox = tmp_path / "today"
    inbox.mkdir()
    picture = np.asarray(Image.open(screws / "test/good/001.png").convert("L")).copy()
    picture[20:50, 20:50] = 255
    Image.fromarray(picture).save(inbox / "new.png")
    (inbox / "note.png").write_text("no image")
    before = table(explained, "scores")
    done = here("explain", "--dataset", "screws", "--inbox", str(inbox), "--date", "2026-01-02", "--json")
    (result,) = json.loads(done.stdout.splitlines()[-1])
    after = table(explained, "scores")
    new = after[~after.image_id.isin(before.image_id)]
    assert len(new) == 1
    assert str(new.run_date.iloc[0]) == "2026-01-02"
    assert bool(new.is_anomaly.iloc[0])
    explanations = table(explained, "explanations")
    mine = explanations[explanations.image_id == new.image_id.iloc[0]]
    assert sorted(mine.explainer) == ["heatmap", "sparse", "transplant"]
    lineage = json.loads(mine.lineage.iloc[0])
    assert lineage["model_version"] == 1
    assert lineage["weights"]
    assert lineage["data"]["manifest"]
    assert result["figures"]["quarantined"] == 1
    assert result["refused"] == {"not-an-image": [1, ["note.png"]]}
    assert (explained / result["refused_list"]).is_file()
    quarantine = list((explained / "var" / "inbox-runs" / "screws").rglob("quarantine.parquet"))
    assert any("note.png" in path for file in quarantine for path in pq.read_table(file)["path"].to_pylist())


def test_score_prints_the_contract_and_reports_what_it_could_not_read(explained: Path, here, screws: Path) -> None:
    good, bad = screws / "test/scratch/000.png", screws / "train/good/broken.png"
    done = here("score", str(good), str(bad), "--json", status=1)  # by the only champion there is
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert list(first) == [
        "path",
        "image_id",
        "model_name",
        "model_version",
        "score",
        "threshold",
        "p_value",
        "is_anomaly",
    ]
    stored = table(explained, "scores").set_index("image_id").score
    if first["image_id"] in stored.index:
        assert first["score"] == pytest.approx(stored[first["image_id"]], rel=1e-4)
    assert set(second) == {"path", "error"}


def test_the_audit_passes_and_shows_one_image(explained: Path, here) -> None:
    assert here("audit", "verify").returncode == 0
    image_id = table(explained, "explanations").image_id.iloc[0]
    assert image_id in here("audit", "show", image_id[:12]).stdout


def test_the_report_page_needs_nothing_from_outside(explained: Path) -> None:
    pages = list((explained / "var" / "reports").glob("screws-*.html"))
    assert pages
    for page in pages:
        text = page.read_text()
        assert not re.findall(r"""<link|<script|src\s*=\s*["'](?!data:)|url\(\s*["']?https?:""", text)
        assert str(explained) not in text  # a path of this machine
        assert "<a href" not in text  # no server is up that could show the run
        assert "`make server` shows it" in text


def test_the_nights_run_says_how_far_a_normal_counterfactual_is(explained: Path) -> None:
    from mlflow import MlflowClient

    rows = table(explained, "explanations")
    first = rows[rows.run_id == rows.sort_values("created_at").run_id.iloc[0]]
    made = [row.counterfactuals[0] for row in first[first.explainer == "sparse"].itertuples()]
    far = sorted(one["l2"] if one["is_normal"] else float("inf") for one in made)
    client = MlflowClient(f"sqlite:///{explained / 'var' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("xad.screws").experiment_id
    runs = client.search_runs([experiment], "tags.`xadflow.kind` = 'explanations'", order_by=["start_time ASC"])
    assert runs[0].data.metrics["night.sparse.median_l2"] == pytest.approx(far[(len(far) - 1) // 2])
    folder = Path(runs[0].info.artifact_uri.removeprefix("file://")) / "figures"
    (picture,) = folder.glob("validity-*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_dvc_push_and_pull_bring_the_same_bytes_back(explained: Path, environment) -> None:
    def dvc(*words: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "dvc", *words], cwd=explained, env=environment, check=True, capture_output=True
        )

    folder = explained / "data" / "screws"
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    dvc("push", "manifest@screws", "images@screws", "validate@screws")
    shutil.rmtree(explained / ".dvc" / "cache")
    shutil.rmtree(folder)
    dvc("pull", "manifest@screws", "images@screws", "validate@screws")
    after = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_models_list_names_the_champion(explained: Path, here) -> None:
    listed = here("models", "list", "--json").stdout
    assert "xad.screws.fcdd" in listed
    assert "champion" in listed


def test_a_user_mistake_gets_one_line_and_status_2(project: Path, here) -> None:
    for words in (("retrain", "--dataset", "scews"), ("explain", "--inbox", "nowhere"), ("nonsense",)):
        done = here(*words, status=2)
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()


def test_the_demo_on_what_is_done_already_adds_nothing_and_says_where_everything_is(explained: Path, here) -> None:
    params = explained / "params.yaml"
    text = params.read_text()
    assert text.count("{dataset: elpv, detector: null,") == 1  # else the demo would be of other data
    params.write_text(text.replace("{dataset: elpv, detector: null,", "{dataset: screws, detector: null,"))
    before = len(table(explained, "scores")), len(table(explained, "explanations"))
    done = here("demo")
    assert "unchanged, not trained again" in done.stdout
    for what in ("tables", "report", "MLflow", "audit"):
        assert what in done.stdout
    assert (len(table(explained, "scores")), len(table(explained, "explanations"))) == before


def test_each_seed_is_a_version_of_its_own_gated_against_the_champion(explained: Path, here) -> None:
    from mlflow import MlflowClient

    done = here("retrain", "--dataset", "screws", "--seed", "0", "--seed", "5", "--json")
    first, second = json.loads(done.stdout.splitlines()[-1])
    assert (first["version"], first["trained"]) == (1, False)
    assert (second["version"], second["trained"], second["judged"]) == (2, True, True)
    client = MlflowClient(f"sqlite:///{explained / 'var' / 'mlflow.db'}")
    runs = [client.get_model_version("xad.screws.fcdd", str(number)).run_id for number in (1, 2)]
    assert [client.get_run(run).data.params["seed"] for run in runs] == ["0", "5"]
    here("models", "promote", "xad.screws.fcdd", "1")  # which of the two is better hangs on the machine; others go on
