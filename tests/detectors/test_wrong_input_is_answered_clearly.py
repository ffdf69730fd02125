"""What no detector can learn from is refused by every method alike: what was wrong, the value seen, the next step."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from xadflow.calibration import Calibration
from xadflow.datasets.loading import training_data
from xadflow.datasets.manifest import SCHEMA, Manifest, Split
from xadflow.detectors import FitRun, TrainingData, as_float, build_detector
from xadflow.detectors.base import detector_names
from xadflow.detectors.saved import write_detector
from xadflow.digests import sha256_bytes
from xadflow.errors import BadInput, BadManifest, BadSettings, TooFewNormals, TrainingFailed, XadflowError
from xadflow.settings import DatasetSettings
from xadflow.training.checkpoints import CHECKPOINT
from xadflow.training.minimising import Schedule

METHODS = ("ae", "bce", "deep_sad", "dsvdd", "fcdd", "fcdd_conv", "hsc", "padim", "utad")
EXPOSED = ("bce", "deep_sad", "fcdd_conv", "hsc")  # these learn from outliers; the others have no use for them
END_TO_END = tuple(method for method in METHODS if method not in ("fcdd", "padim", "utad"))
NONE = torch.zeros(0, 1, 32, 32, dtype=torch.uint8)


def quick(method: str, **more: object) -> dict[str, object]:
    """Settings for a fit of some tenths of a second."""
    if method == "fcdd":
        return {
            "stages": (2,),
            "min_steps": 4,
            "epochs": 0.01,
            "batch_normals": 8,
            "batch_synthetic": 8,
            "synthetic_rounds": 1,
            **more,
        }
    if method == "padim":
        return {"stages": (2,), **more}
    if method == "utad":
        stage = {"width": 2, "min_steps": 4, "batch_size": 4}
        return {"impression": {**stage, "code": 4}, "expert": stage, "sheets": 0, **more}
    return {"network": "cnn28", "min_steps": 4, "epochs": 0.01, "batch_size": 8, **more}


@pytest.fixture(scope="module")
def data(small_data: TrainingData) -> TrainingData:
    """12 train normals and 10 held-out ones of 32 px, nothing else."""
    return TrainingData(
        small_data.normals[:12, :, ::2, ::2], small_data.val_normals[:10, :, ::2, ::2], NONE, None, NONE
    )


@pytest.fixture
def run(tmp_path: Path) -> FitRun:
    return FitRun(tmp_path / "run", seed=0, false_alarm_rate=0.1, device="cpu")


def refusal(method: str, data: TrainingData, run: FitRun, kind: type[XadflowError], **settings: object) -> XadflowError:
    """The error of a fit, which left nothing behind."""
    with pytest.raises(kind) as caught:
        build_detector(method, **quick(method, **settings)).fit(data, run)
    assert not run.folder.exists()
    return caught.value


def test_every_registered_method_is_looked_at_here():
    assert set(METHODS) <= set(detector_names())


@pytest.mark.parametrize("method", METHODS)
def test_a_data_set_of_one_image_is_too_small(method: str, run: FitRun, tmp_path: Path):
    error = refusal(method, training_data(data_set(tmp_path, 1), GREY), run, BadInput)
    assert error.wrong == "at least two normal images are needed to train"
    assert error.seen == 1
    assert error.next_step == "add images to train/good"


@pytest.mark.parametrize("method", METHODS)
def test_a_data_set_without_normals_is_refused(method: str, run: FitRun, tmp_path: Path):
    defects_alone = training_data(data_set(tmp_path, 3, Split.KNOWN, label=1), GREY)
    assert len(defects_alone.known) == 3
    error = refusal(method, defects_alone, run, BadInput)
    assert error.wrong == "at least two normal images are needed to train"
    assert error.seen == 0


@pytest.mark.parametrize("method", METHODS)
def test_too_few_held_out_normals_are_refused(method: str, data: TrainingData, run: FitRun):
    error = refusal(method, dataclasses.replace(data, val_normals=data.val_normals[:8]), run, TooFewNormals)
    assert error.wrong == "a false-alarm rate of 0.1 needs at least 9 held-out normals"
    assert error.seen == 8


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("levels", [[90], [0, 90, 255]], ids=["equal", "different"])
def test_normals_of_one_colour_each_are_refused(method: str, levels: list[int], data: TrainingData, run: FitRun):
    flat = torch.tensor(levels, dtype=torch.uint8).repeat(12)[:12].view(12, 1, 1, 1).expand(12, 1, 32, 32)
    error = refusal(method, dataclasses.replace(data, normals=flat), run, BadInput)
    assert error.wrong == "every normal image to train on is of one colour all over"
    assert error.seen == f"colours {[(level,) for level in levels]}"
    assert "look at train/good" in error.next_step


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["one image varies", "all equal", "two images", "flat ones held out"])
def test_the_least_that_can_be_learned_from_gives_finite_scores(
    method: str, case: str, data: TrainingData, run: FitRun
):
    """The border of the refusals: here no spread is zero that anything is divided by."""
    flat = torch.full_like(data.normals, 90)
    least = {
        "one image varies": dataclasses.replace(data, normals=torch.cat([flat[:5], data.normals[:1]])),
        "all equal": dataclasses.replace(data, normals=data.normals[:1].repeat(12, 1, 1, 1)),
        "two images": dataclasses.replace(data, normals=data.normals[:2]),
        "flat ones held out": dataclasses.replace(data, val_normals=flat),
    }[case]
    detector = build_detector(method, **quick(method))
    detector.fit(least, run)
    with torch.no_grad():
        scores = detector.score(as_float(torch.cat([data.normals[:3], flat[:1]])))
    assert scores.image.isfinite().all()
    assert scores.map is not None
    assert scores.map.isfinite().all()
    assert detector.calibration.temperature > 0


@pytest.mark.parametrize(("method", "optimiser"), [("fcdd", None), *itertools.product(END_TO_END, ["adamw", "sgd"])])
def test_a_training_that_blows_up_says_so_and_keeps_the_last_good_checkpoint(
    method: str, optimiser: str | None, data: TrainingData, run: FitRun, monkeypatch: pytest.MonkeyPatch
):
    """The first step, of finite gradients, takes the weights so far that a later one overflows."""
    monkeypatch.setattr("xadflow.detectors.one_class.detector.CHECKPOINT_EVERY", 1)
    monkeypatch.setattr("xadflow.detectors.fcdd.detector.Schedule", functools.partial(Schedule, checkpoint_every=1))
    chosen = {"optimiser": optimiser} if optimiser else {}  # fcdd's head knows adamw alone
    detector = build_detector(method, **quick(method, learning_rate=1e30, **chosen))
    with pytest.raises(TrainingFailed, match=r"stopped being a number; got .*step [1-3]\b.*lower learning_rate"):
        detector.fit(data, run)
    kept = torch.load(run.folder / CHECKPOINT, weights_only=True)
    assert 1 <= kept["step"] <= 3
    assert all(tensor.isfinite().all() for tensor in kept["module"].values())
    assert all(np.isfinite(value) for _, _, value in kept["history"])
    mended = build_detector(method, **quick(method, **chosen))
    report = mended.fit(data, run)
    assert report.resumed_from == 0  # what the other learning rate left is not continued
    assert np.isfinite(mended.calibration.threshold)


@pytest.mark.parametrize("method", METHODS)
def test_a_detector_that_ends_with_scores_that_are_no_numbers_is_refused(
    method: str, data: TrainingData, run: FitRun, monkeypatch: pytest.MonkeyPatch
):
    """Weights can be finite and too large to score with: the step after the last would have told."""
    detector = build_detector(method, **quick(method))
    monkeypatch.setattr(detector, "image_score", lambda images: torch.full((len(images),), torch.inf))
    with pytest.raises(TrainingFailed, match=r"no finite number; got '10 of 10'.*lower learning_rate"):
        detector.fit(data, run)


@pytest.mark.parametrize("method", END_TO_END)
def test_outliers_alone_that_are_not_there_are_refused_where_they_are_needed(
    method: str, data: TrainingData, run: FitRun
):
    if method not in EXPOSED:
        build_detector(method, **quick(method, anomalies=("outliers",))).fit(data, run)
        return
    error = refusal(method, data, run, BadSettings, anomalies=("outliers",))
    assert error.wrong == "there is nothing anomalous to train against"
    assert error.seen == "0 outliers"
    assert "`synthetic`" in error.next_step
    assert "outliers" in error.next_step
    error = refusal(method, data, run, BadSettings, anomaly_rate=0.0)
    assert error.seen == "anomaly_rate 0"
    assert "anomaly_rate" in error.next_step


@pytest.mark.parametrize("case", ["empty", "the same"])
def test_a_data_set_of_outliers_that_gives_none_is_named(case: str, tmp_path: Path):
    own = data_set(tmp_path / "own", 4)
    theirs = data_set(tmp_path / "theirs", 4) if case == "the same" else data_set(tmp_path / "theirs", 4, Split.TEST)
    with pytest.raises(BadManifest) as caught:
        training_data(own, GREY.model_copy(update={"outliers": "letters"}), outliers=theirs)
    assert caught.value.wrong == "the data set of outliers has no train image of its own"
    said = "4 normal train images, all of them in this data set too" if case == "the same" else "no normal train image"
    assert caught.value.seen == f"letters: {said}"
    assert "dvc repro validate@letters" in caught.value.next_step


def test_fewer_normals_than_two_cannot_be_asked_for():
    with pytest.raises(BadSettings, match="max_normals"):
        build_detector("fcdd", max_normals=1)


GREY = DatasetSettings(source="folder", size_px=32, channels=1)


def data_set(folder: Path, count: int, split: Split = Split.TRAIN, label: int = 0) -> Manifest:
    """A manifest of PNG files with noise in them, all in one split."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        path = folder / "images" / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32), np.uint8)).save(path)
        rows.append(
            {
                "image_id": sha256_bytes(path.read_bytes()),
                "path": f"images/{number}.png",
                "split": str(split),
                "label": label,
                "category": "noise",
                "defect": "all of it" if label else None,
                "mask_path": None,
                "width": 32,
                "height": 32,
                "source": "this test",
                "licence": "none",
            }
        )
    return Manifest(folder, pa.Table.from_pylist(rows, schema=SCHEMA))


@pytest.mark.parametrize("wrong", [[1.0, 2.0], np.zeros(3), 4.0, None])
def test_a_weight_that_is_no_tensor_is_named_before_anything_is_written(tmp_path, wrong):
    calibration = Calibration(1.0, 1.0, 0.05, np.array([0.0, 1.0]), float("nan"), "none")
    with pytest.raises(BadInput, match="bank is a"):
        write_detector(tmp_path / "saved", {}, {"mean": torch.zeros(2), "bank": wrong}, calibration)
    assert not (tmp_path / "saved").exists()
