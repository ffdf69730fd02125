"""Donors of a detector version are train normals of the donor half that it finds most normal, and a spread of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.models.donors.conftest import PARAMS, write_plates
from tests.models.donors.patching import patch_registered
from xadflow.calibration import Calibration
from xadflow.datasets.loading import load_images
from xadflow.datasets.manifest import Manifest, read_manifest
from xadflow.detectors import Scores
from xadflow.models.judges import donor_half
from xadflow.settings import load_settings
from xadflow.work.week import donors as choosing
from xadflow.work.week.donors import bank_size, choose_donors, k_centre


class Bright:
    """Score = mean brightness, the map is the image."""

    input_shape = (1, 28, 28)

    def __init__(self, threshold: float = 1.0, *, has_map: bool = True) -> None:
        self.calibration = Calibration(threshold, 0.1, 0.2, np.linspace(0.0, 0.6, 7), 0.01, "known")
        self.has_map = has_map

    def score(self, images: torch.Tensor) -> Scores:
        return Scores(images.mean(dim=(1, 2, 3)), images[:, 0] if self.has_map else None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "plates"
    write_plates(folder)
    params = folder / "params.yaml"
    params.write_text(PARAMS)
    settings = load_settings(params)
    manifest = read_manifest(folder)
    train = manifest.rows("train")
    means = load_images(manifest, train, settings.dataset("plates")).float().mean(dim=(1, 2, 3)) / 255
    scores = dict(zip([row.image_id for row in train], means.tolist(), strict=True))
    return SimpleNamespace(manifest=manifest, settings=settings, device=torch.device("cpu"), scores=scores)


def chosen(data, most=256, manifest=None, **detector):
    return choose_donors(data, Bright(**detector), manifest or data.manifest, "plates", most)


def test_every_donor_is_a_train_normal_of_the_donor_half_below_the_quantile(data) -> None:
    found = chosen(data)
    half = [row.image_id for row in donor_half(data.manifest.rows("train")).donors]
    cut = np.quantile([data.scores[one] for one in half], 0.8)
    assert set(found.ids) == {one for one in half if data.scores[one] <= cut}
    assert (found.chosen_from, found.apart, found.symmetries, found.aligned) == (len(found.ids), True, "flips", True)


def test_who_is_flagged_is_no_donor_and_nobody_may_be_left(data) -> None:
    threshold = float(np.quantile(list(data.scores.values()), 0.3))
    found = chosen(data, threshold=threshold)
    assert found.ids
    assert all(data.scores[one] <= threshold for one in found.ids)
    assert chosen(data, threshold=0.0).ids == ()


def test_of_too_many_a_spread_is_kept_the_same_each_time(data) -> None:
    every, few = chosen(data), chosen(data, 7)
    assert len(few.ids) == len(set(few.ids)) == 7
    assert set(few.ids) < set(every.ids)
    assert few.chosen_from == len(every.ids)
    assert chosen(data, 7).ids == few.ids
    assert chosen(data, 3).ids == few.ids[:3]


def test_few_normals_are_all_asked_and_no_judge_is_apart(data) -> None:
    few = data.manifest.rows("train")[:79]
    rows = [row.image_id for row in few]
    table = data.manifest.table.filter(
        [
            one in rows or split != "train"
            for one, split in zip(
                *(data.manifest.table[name].to_pylist() for name in ("image_id", "split")), strict=True
            )
        ]
    )
    found = chosen(data, manifest=Manifest(data.manifest.folder, table))
    assert found.apart is False
    cut = np.quantile([data.scores[one] for one in rows], 0.8)
    assert set(found.ids) == {one for one in rows if data.scores[one] <= cut}


def test_the_bank_fits_into_memory_whatever_was_asked_for(data, monkeypatch) -> None:
    monkeypatch.setattr(choosing, "MOST_BYTES", 5 * 28 * 28 + 3)
    assert len(chosen(data).ids) == 5


def test_the_mean_map_is_that_of_val_normals_and_none_without_maps(data) -> None:
    rows = data.manifest.rows("val")
    images = load_images(data.manifest, rows, data.settings.dataset("plates"))
    expected = images[:, 0].double().mean(dim=0) / 255
    torch.testing.assert_close(chosen(data).mean_map.double(), expected, rtol=0, atol=1e-6)
    assert chosen(data, has_map=False).mean_map is None


def test_k_centre_takes_the_farthest_each_time_and_stops_at_copies() -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    found = k_centre(points, 9)
    for number, place in enumerate(found[1:], start=1):
        distances = torch.cdist(points.double(), points[found[:number]].double()).min(dim=1).values
        assert distances[place] == pytest.approx(float(distances.max()))
    assert sorted(k_centre(torch.cat([points[:3]] * 4), 9)) == [0, 1, 2]
    assert k_centre(points[:0], 3) == []


def test_the_size_is_that_of_the_explainers_which_take_donors(data) -> None:
    with patch_registered():
        assert bank_size(data.settings) == 12
        larger = data.settings.model_copy(update={"explainers": {"patch": {"bank": 40}, "heatmap": {}}})
        assert bank_size(larger) == 40
        assert bank_size(data.settings.model_copy(update={"explainers": {"heatmap": {}}})) == 0
