from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from tiny_store import DIGEST, MODEL, Store, training

from xadflow.detectors import as_float, load_detector
from xadflow.errors import BadInput, BadWeights, WrongUse
from xadflow.models import registry as registry_module


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)


def pyfunc(store: Store):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, at import
        import mlflow.pyfunc
    return mlflow.pyfunc.load_model(str(store.registry.detector_folder(store.ref).parent.parent))


def run_statuses(store: Store) -> list[str]:
    client = store.registry._client
    found = client.get_experiment_by_name("xad.tiny-set")
    return [run.info.status for run in client.search_runs([found.experiment_id])]


@pytest.mark.usefixtures("tiny_method")
def test_the_registered_folder_loads_and_scores_as_before(store: Store) -> None:
    loaded = load_detector(store.registry.detector_folder(store.ref))
    batch = as_float(torch.from_numpy(images()))
    assert torch.equal(loaded.score(batch).image, store.detector.score(batch).image)


@pytest.mark.usefixtures("tiny_method")
def test_the_pyfunc_gives_the_scores_and_decisions_of_the_detector(store: Store) -> None:
    pixels = np.concatenate([images(70), np.full((1, 1, 8, 8), 255, np.uint8)])  # more than one chunk; one bright image
    answer = pyfunc(store).predict(pixels)
    scores = store.detector.score(as_float(torch.from_numpy(pixels))).image.double().numpy()
    np.testing.assert_array_equal(answer["score"], scores)
    normals = store.detector.calibration.normal_scores
    expected = [(1 + sum(n >= s for n in normals)) / (len(normals) + 1) for s in scores]
    np.testing.assert_allclose(answer["p_value"], expected)
    assert set(answer["threshold"]) == {0.5}
    assert answer["is_anomaly"].tolist() == (scores > 0.5).tolist()
    assert list(answer.columns) == ["score", "threshold", "p_value", "is_anomaly"]


@pytest.mark.usefixtures("tiny_method")
@pytest.mark.parametrize("wrong", [images().astype(np.float32), images()[:, :, :4], images()[0], [[1.0]]])
def test_the_pyfunc_refuses_other_inputs_in_one_short_line(store: Store, wrong: object) -> None:
    model = pyfunc(store).unwrap_python_model()
    with pytest.raises(BadInput, match=r"uint8 \[B, 1, 8, 8\]") as refused:
        model.predict(None, wrong)
    assert len(str(refused.value)) < 200


@pytest.mark.usefixtures("tiny_method")
def test_mlflow_itself_refuses_another_dtype_by_the_signature(store: Store) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="does not match expected dtype uint8"):
        pyfunc(store).predict(images().astype(np.float32))


def test_no_registered_file_is_a_pickle(store: Store) -> None:
    folder = store.registry.detector_folder(store.ref).parent.parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"detector.json", "weights.safetensors", "pyfunc.py", "MLmodel"}
    assert {path.suffix for path in files} <= {"", ".json", ".safetensors", ".py", ".yaml", ".txt"}
    assert not [path.name for path in files if path.read_bytes()[:1] == b"\x80"]


def test_the_run_holds_parameters_metrics_history_data_figures_and_lineage(store: Store) -> None:
    client = store.registry._client
    run = client.get_run(store.ref.run_id)
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 150
    assert run.data.metrics["test.auroc"] == 0.91
    assert len(client.get_metric_history(store.ref.run_id, "loss")) == 600
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("tiny-set", DIGEST)
    assert [one.path for one in client.list_artifacts(store.ref.run_id, "figures")] == ["figures/roc.png"]
    (lineage,) = store.state.rglob(f"{store.ref.run_id}/**/lineage.json")
    assert json.loads(lineage.read_text()) == {"commit": "abc"}


def test_a_training_is_found_by_its_key_while_its_files_are_there(store: Store) -> None:
    assert store.registry.find_trained(MODEL, "key-1") == store.ref
    assert store.registry.find_trained(MODEL, "key-2") is None
    assert store.registry.find_trained("xad.other.tiny", "key-1") is None
    folder = store.registry.detector_folder(store.ref)
    away = folder.rename(folder.with_name("away"))
    try:
        assert store.registry.find_trained(MODEL, "key-1") is None
    finally:
        away.rename(folder)


def test_a_changed_weight_file_is_refused(store: Store) -> None:
    weights = store.registry.detector_folder(store.ref) / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(BadWeights, match="weights.safetensors"):
            store.registry.detector_folder(store.ref)
    finally:
        weights.write_bytes(content)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_broken_logging_ends_failed_and_registers_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def broken(*_: object) -> None:
        raise error("disk full")

    monkeypatch.setattr(registry_module, "log_model", lambda *_: "m-1")
    monkeypatch.setattr(registry_module, "log_files", broken)
    before, order = run_statuses(store), training(store.saved, store.saved / "none.png")
    with pytest.raises(error):
        store.registry.log_training(**{**order, "metrics": {}, "tags": {"xadflow.training_key": "key-broken"}})
    after = run_statuses(store)
    assert after.count("FAILED") == before.count("FAILED") + 1
    assert "RUNNING" not in after
    assert store.registry.find_trained(MODEL, "key-broken") is None


@pytest.mark.parametrize("name", ["model.pkl", "net.pt", "deep/net.PTH", "notes.txt"])
def test_a_folder_with_anything_but_json_and_safetensors_is_refused_before_any_run(
    store: Store, tmp_path, name: str
) -> None:
    store.detector.save(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x80\x04.")
    before = run_statuses(store)
    with pytest.raises(BadWeights, match="never pickle"):
        store.registry.log_training(**training(tmp_path, tmp_path))
    assert run_statuses(store) == before


def test_a_folder_without_a_detector_is_refused(store: Store, tmp_path) -> None:
    with pytest.raises(BadWeights, match=r"detector\.json"):
        store.registry.log_training(**training(tmp_path, tmp_path))


@pytest.mark.parametrize("name", ["xad/elpv", "xad:elpv", "", "x'y", "../up"])
def test_a_name_that_mlflow_could_not_hold_is_refused(store: Store, name: str) -> None:
    with pytest.raises(WrongUse, match="model name"):
        store.registry.log_training(**training(store.saved, store.saved, model_name=name))
