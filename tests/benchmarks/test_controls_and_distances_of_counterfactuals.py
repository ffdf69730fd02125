"""Controls of bench-counterfactuals and the layers of its perceptual distance, on digits drawn by hand."""

import numpy as np
import pytest
import torch

from benchmarks import counterfactuals
from benchmarks.counterfactuals_kit import controls, training
from benchmarks.counterfactuals_kit import images as kit
from benchmarks.counterfactuals_kit.factors import Reading
from benchmarks.counterfactuals_kit.readers import Reader, perceptual
from benchmarks.kit.judging import scores_of

MAGENTA, SEVEN = kit.RELABELLED


@pytest.fixture
def raw(monkeypatch):
    """1200 strokes, a tenth of each digit."""

    def drawn(train):
        strokes = np.random.default_rng(train).integers(0, 256, (1200, 28, 28)).astype(np.uint8)
        return strokes, (np.arange(1200) % 10).astype(np.uint8)

    monkeypatch.setattr(kit, "_raw", drawn)
    monkeypatch.setattr(training, "OUTLIERS", 100)
    monkeypatch.setattr(training, "CALIBRATING", 40)
    training.normals.cache_clear(), training.exposure.cache_clear()
    yield
    training.normals.cache_clear(), training.exposure.cache_clear()


def test_another_definition_of_normal_draws_other_normals_and_another_exposure(raw):
    found = kit.train_normals(kit.RELABELLED)
    assert found.normal_by(kit.RELABELLED).all()
    assert (found.digits == SEVEN).mean() == 0.5
    assert not found.is_normal.all()
    shown = kit.recoloured(300, kit.RELABELLED)
    assert (shown.colours != MAGENTA).all()
    assert (shown.colours == kit.CYAN).any()


def test_controls_explain_what_is_normal_by_neither_definition():
    of = kit.Coloured(np.zeros((4, 3, 2, 2), np.uint8), np.array([1, 7, 3, 3]), np.array([0, 0, kit.CYAN, 0]))
    assert controls.anomalous_by_both(of).tolist() == [3]
    of = kit.Coloured(np.zeros((2, 3, 2, 2), np.uint8), np.array([3, 4]), np.array([MAGENTA, 0]))
    assert controls.anomalous_by_both(of).tolist() == [1]


def test_shares_count_legible_images_of_either_normal_factor():
    colours = np.array([[kit.CYAN, 0], [MAGENTA, 0], [MAGENTA, kit.CYAN]])
    digits = np.array([[3, 1], [3, SEVEN], [1, 3]])
    legible = np.array([[True, True], [True, True], [True, False]])
    found = controls.shares_normal(Reading(colours, digits, legible))
    assert found == {"original": pytest.approx(3 / 6), "relabelled": pytest.approx(3 / 6)}


def test_an_untrained_detector_knows_nothing_and_has_its_threshold_from_held_out_normals(raw):
    detector = training.untrained_detector("bce", 0)
    held = scores_of(detector, training.normals()[1].images)
    assert 0.0 < (held > detector.calibration.threshold).mean() <= 0.05
    first, again = (
        list(one.response.network.parameters()) for one in (detector, training.untrained_detector("bce", 1))
    )
    assert any(not torch.equal(one, other) for one, other in zip(first, again, strict=True))
    seen = [scores_of(detector, one.images) for one in (training.normals()[0], training.exposure()[0])]
    assert abs(seen[0].mean() - seen[1].mean()) < 3 * seen[0].std()


def test_the_perceptual_distance_is_of_both_convolutions_of_the_reader():
    torch.manual_seed(0)
    reader = Reader(3, 17).eval().requires_grad_(False)
    cosine = torch.nn.functional.cosine_similarity
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (3, 3, 28, 28)).astype(np.uint8)
    made = np.stack([originals, 255 - originals], axis=1)
    found = perceptual(reader, originals, made)
    assert (found[:, 0] == 0).all()
    expected = []
    for one, other in zip(originals, 255 - originals, strict=True):
        a, b = (torch.from_numpy(image)[None] / 255.0 for image in (one, other))
        expected.append(
            np.mean([1 - float(cosine(reader.body[:end](a), reader.body[:end](b)).mean()) for end in (2, 5)])
        )
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-4)


def test_the_distance_between_seeds_is_the_mean_of_pairs_of_a_row(monkeypatch):
    cells = [counterfactuals.Cell("bce", "full", seed) for seed in range(3)] + [counterfactuals.Cell("bce", "cycle", 0)]
    level = {0: 0, 1: 51, 2: 102}
    monkeypatch.setattr(counterfactuals, "_made", lambda cell: np.full((2, 2, 1, 3, 3), level[cell.seed], np.uint8))
    found = counterfactuals._between_seeds(dict.fromkeys(cells, {}))
    assert found == {"bce full": pytest.approx((0.4 + 0.8 + 0.4) / 3)}
