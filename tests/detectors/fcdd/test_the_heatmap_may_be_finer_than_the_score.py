"""FCDD's heatmap from finer stages than its score: the score stays what it was, the map says where."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xadflow.defects.drawn import synthetic_defects
from xadflow.detectors import FitReport, FitRun, TrainingData, as_float, load_detector
from xadflow.detectors.base import CARD
from xadflow.detectors.fcdd.detector import FCDD
from xadflow.detectors.fcdd.feature_bank import Wanted, build_banks, features_of
from xadflow.detectors.fcdd.settings import fcdd_settings
from xadflow.errors import BadSettings
from xadflow.metrics.localisation import pixel_auroc
from xadflow.networks.pretrained import Trunk
from xadflow.training.checkpoints import CHECKPOINT
from xadflow.training.seeds import seeded

SIDE = 64
COARSE: Mapping[str, object] = {
    "stages": (4,),
    "min_steps": 12,
    "epochs": 1.0,
    "batch_normals": 16,
    "batch_synthetic": 16,
}


def run_in(folder: Path) -> FitRun:
    return FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu")


@pytest.fixture(scope="module")
def unmasked(small_data: TrainingData) -> TrainingData:
    return dataclasses.replace(small_data, known_masks=None)


@pytest.fixture(scope="module")
def finer(small_data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> tuple[FCDD, FitReport, Path]:
    """With the default `map_stages`, its report and its folder."""
    detector, folder = FCDD(**COARSE), tmp_path_factory.mktemp("finer")
    return detector, detector.fit(small_data, run_in(folder)), folder


@pytest.fixture(scope="module")
def own(small_data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> FCDD:
    """Its heatmap is the score's."""
    detector = FCDD(**COARSE, map_stages=())
    detector.fit(small_data, run_in(tmp_path_factory.mktemp("own")))
    return detector


@pytest.fixture(scope="module")
def images(small_data: TrainingData) -> torch.Tensor:
    return as_float(torch.cat([small_data.val_normals[:6], small_data.known]))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (2, 3)),
        ({"trunk": "mobilenet_v2"}, (2, 3)),
        ({"stages": (2, 4)}, ()),  # its cells are as fine
        ({"level": "pixel"}, ()),  # its own map was trained by masks
        ({"head": "scalar"}, ()),  # the published form
        ({"level": "pixel", "map_stages": (1,)}, (1,)),
        ({"map_stages": ()}, ()),
    ],
)
def test_the_default_stages_of_the_map_depend_on_the_score(settings: dict[str, object], expected: tuple[int, ...]):
    assert fcdd_settings(settings, "fcdd").map_stages == expected


def test_a_stage_that_the_trunk_does_not_have_is_refused():
    with pytest.raises(BadSettings, match="stages 0 to 6"):
        FCDD(map_stages=(7,))


def test_the_score_does_not_depend_on_the_map(finer: tuple[FCDD, FitReport, Path], own: FCDD, images: torch.Tensor):
    detector = finer[0]
    with torch.no_grad():
        one, other = detector.score(images), own.score(images)
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.image, detector.image_score(images))
    assert detector.calibration.threshold == own.calibration.threshold
    assert not torch.equal(one.map, other.map)  # type: ignore[arg-type]


def test_the_map_is_that_of_its_own_stages(finer: tuple[FCDD, FitReport, Path], images: torch.Tensor):
    """Again, step by step, from the stored numbers: stages on one grid, whitening, distance, Gaussians over cells of 8
    px.
    """
    detector = finer[0]
    fitted = detector.fitted
    assert fitted.finer is not None
    stored = {name: value.double() for name, value in fitted.finer.head.state_dict().items()}
    with torch.no_grad():
        fine, coarse = Trunk("lite0", (2, 3)).stage_features(images)
        both = torch.cat(
            [fine, F.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=False)], dim=1
        ).double()
        found = detector.score(images).map
    z = torch.zeros(len(images), 64, 120, dtype=torch.float64)
    for cell in range(64):
        standard = (both[:, :, cell // 8, cell % 8] - stored["whitening.mean"]) / stored["whitening.scale"]
        z[:, cell] = (standard - stored["whitening.location_mean"][cell]) @ stored["whitening.inverse"][cell].T
    weighted = (z * stored["response.channel_weight"]).square().mean(dim=-1)
    learned = (z @ stored["response.projection"].T + stored["response.bias"]).square().mean(dim=-1)
    distance = (weighted + learned + 1e-6).sqrt()
    response = stored["response.log_gain"].exp() * F.softplus(4.0 * (distance - stored["response.offset"]))
    cells = ((response.square() + 1.0).sqrt() - 1.0).numpy().reshape(-1, 8, 8)
    pixel, centre = np.arange(SIDE)[:, None], 8 * np.arange(8)[None, :] + 3.5
    near = np.exp(-((pixel - centre) ** 2) / (2 * 6.0**2)) * (
        np.abs(pixel - centre) <= 18
    )  # sigma .75 cells, cut at three
    near /= near.sum(axis=1, keepdims=True)
    expected = np.einsum("yi,bij,xj->byx", near, cells, near)
    assert found is not None
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=2e-3, atol=1e-4)


def test_the_map_finds_held_out_defects_better_than_the_score_s_own(
    finer: tuple[FCDD, FitReport, Path], own: FCDD, unseen_crops: torch.Tensor
):
    drawn, masks = synthetic_defects(unseen_crops, torch.Generator().manual_seed(5))
    with torch.no_grad():
        here, there = (one.score(as_float(drawn)).map for one in (finer[0], own))
    assert pixel_auroc(here.numpy(), masks.numpy()) > pixel_auroc(there.numpy(), masks.numpy()) + 0.03  # type: ignore[union-attr]


def test_gradient_flows_through_the_map_to_the_images(finer: tuple[FCDD, FitReport, Path], images: torch.Tensor):
    inputs = images[:2].clone().requires_grad_()
    heat = finer[0].score(inputs).map
    assert heat is not None
    heat[0].sum().backward()
    assert inputs.grad is not None
    assert inputs.grad[0].abs().sum() > 0
    assert torch.equal(inputs.grad[1], torch.zeros_like(inputs.grad[1]))


def test_it_saves_to_equal_bytes_and_scores_equally(
    finer: tuple[FCDD, FitReport, Path], images: torch.Tensor, tmp_path: Path
):
    finer[0].save(tmp_path / "one")
    loaded = load_detector(tmp_path / "one")
    loaded.save(tmp_path / "two")
    with torch.no_grad():
        before, after = finer[0].score(images), loaded.score(images)
    assert torch.equal(before.image, after.image)
    assert torch.equal(before.map, after.map)  # type: ignore[arg-type]
    for name in ("detector.json", "weights.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_detector_saved_before_there_was_a_second_map_keeps_its_own(own: FCDD, images: torch.Tensor, tmp_path: Path):
    own.save(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    for added in ("map_stages", "map_normals"):
        del card["settings"][added]
    (tmp_path / CARD).write_text(json.dumps(card))
    loaded = FCDD.load(tmp_path)
    with torch.no_grad():
        before, after = own.score(images), loaded.score(images)
    assert loaded.settings.map_stages == ()
    assert torch.equal(before.image, after.image)
    assert torch.equal(before.map, after.map)  # type: ignore[arg-type]


def test_a_finished_fit_trains_neither_head_again(
    finer: tuple[FCDD, FitReport, Path], small_data: TrainingData, images: torch.Tensor
):
    first, report, folder = finer
    assert (report.steps, report.resumed_from) == (24, 0)
    assert {name for _, name, _ in report.history} >= {"normal", "map normal", "map known"}
    assert (folder / CHECKPOINT).is_file()
    again = FCDD(**COARSE)
    second = again.fit(small_data, run_in(folder))
    assert (second.steps, second.resumed_from, second.history) == (24, 24, report.history)
    with torch.no_grad():
        assert torch.equal(first.score(images).map, again.score(images).map)  # type: ignore[arg-type]


def test_known_defects_without_masks_teach_the_score_and_not_the_map(unmasked: TrainingData, tmp_path: Path):
    report = FCDD(**COARSE).fit(unmasked, run_in(tmp_path))
    names = {name for _, name, _ in report.history}
    assert "known" in names
    assert "map synthetic" in names
    assert "map known" not in names


def test_with_nothing_to_say_where_the_map_stays_a_mahalanobis_distance(unmasked: TrainingData, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    run = dataclasses.replace(run_in(tmp_path), progress=lambda done, total, figures: seen.append((done, total)))
    detector = FCDD(**COARSE, synthetic_rounds=0)
    assert detector.fit(unmasked, run).steps == 12
    assert detector.fitted.finer is not None
    assert torch.equal(detector.fitted.finer.head.state_dict()["response.channel_weight"], torch.ones(120))
    assert seen[-1][0] == seen[-1][1]


def test_the_trunk_runs_once_for_two_banks_and_the_map_s_is_bounded(small_data: TrainingData):
    data = dataclasses.replace(small_data, normals=small_data.normals[:7])
    trunk, kept = Trunk("lite0", (2, 4)), torch.tensor([True, False, True, True, False, False, False])
    wanted = [Wanted((4,), torch.ones(7, dtype=torch.bool)), Wanted((2,), kept)]
    batches: list[None] = []
    coarse, fine = build_banks(
        trunk,
        data,
        wanted,
        normal_copies=2,
        known_copies=1,
        synthesiser="defects",
        rounds=3,
        batch_size=4,
        device=torch.device("cpu"),
        generator=seeded(0),
        done=lambda: batches.append(None),
    )
    assert len(batches) == 4 + 6 + 2
    assert (len(coarse.normals), len(coarse.synthetic), len(coarse.known)) == (14, 21, 6)
    assert (len(fine.normals), len(fine.synthetic), len(fine.known)) == (6, 9, 6)
    alone = features_of(Trunk("lite0", (2,)), torch.cat([data.normals, data.normals.flip(-1)]), 4, torch.device("cpu"))
    torch.testing.assert_close(fine.normals, alone[kept.repeat(2)], rtol=2e-3, atol=2e-3)
    assert torch.equal(fine.synthetic_masks, coarse.synthetic_masks[kept.repeat(3)])


def test_no_more_normals_than_asked_for_teach_the_map(small_data: TrainingData, tmp_path: Path):
    report = FCDD(**{**COARSE, "min_steps": 1, "epochs": 4.0}, map_normals=16).fit(small_data, run_in(tmp_path))
    assert report.steps == 12 + 4  # 48 normals and 16 of them, in batches of 16
