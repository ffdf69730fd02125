"""Choice of defects, judges, intervals, sheet and page of bench-counterfactuals-elpv, on drawn images: ELPV is not
read.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import counterfactuals_elpv as bench
from benchmarks.counterfactuals_elpv_kit import making, training
from benchmarks.counterfactuals_elpv_table import counterfactuals_elpv_section, verdict
from benchmarks.kit import judging
from benchmarks.kit.baselines import nearest_normal
from benchmarks.kit.sheets import GAP, SCALE, write_changes


class ByBrightness:
    """A detector whose score is the mean grey value of an image, of 255."""

    def __init__(self, threshold, normal_scores=(0.1, 0.3)):
        self.calibration = SimpleNamespace(threshold=threshold, temperature=0.5, normal_scores=np.array(normal_scores))

    def normal_logit(self, images):
        return (self.calibration.threshold - images.mean(dim=(1, 2, 3))) / self.calibration.temperature


def grey(*levels, side=8):
    """One flat image each, uint8 [N,1,side,side]."""
    return np.stack([np.full((1, side, side), level, np.uint8) for level in levels])


def test_scores_are_those_of_the_detector_though_taken_from_its_logit():
    np.testing.assert_allclose(judging.scores_of(ByBrightness(0.4), grey(51, 204)), [0.2, 0.8], atol=1e-6)


def test_twins_differ_in_robust_alone():
    plain, robust = (training.twin_settings(kind) for kind in training.TWINS)
    assert {key for key in plain if plain[key] != robust[key]} == {"robust"}
    assert plain["robust"] is None
    assert training.inner_radius(3 * 32 * 32) == pytest.approx(training.ROBUST["radius_normals"])
    assert training.inner_radius(4 * 3 * 32 * 32) == pytest.approx(2 * training.ROBUST["radius_normals"])


def test_explained_are_the_first_defects_that_all_flag():
    labels = np.array([1, 0, 1, 1, 1, 1])
    flagged = np.array([[1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]], dtype=bool)
    assert making.first_flagged(labels, flagged, 2).tolist() == [2, 4]
    assert making.first_flagged(labels, flagged, 9).tolist() == [2, 4, 5]


def test_the_nearest_normal_is_one_that_the_detector_calls_normal():
    bank = grey(10, 60, 120, 200)
    found = nearest_normal(ByBrightness(0.4), bank, grey(140, 30))
    assert found[:, 0, 0, 0, 0].tolist() == [60, 10]  # 120 is nearer to 140, and above the threshold


def test_a_lengthened_change_keeps_its_direction_and_has_the_other_ones_length():
    rng = np.random.default_rng(0)
    originals = rng.integers(60, 190, (5, 1, 16, 16)).astype(np.uint8)
    made = (originals[:, None] + rng.integers(-4, 5, (5, 1, 1, 16, 16))).astype(np.uint8)
    other = (originals[:, None] + rng.integers(-30, 31, (5, 1, 1, 16, 16))).astype(np.uint8)
    found = making.lengthened(originals, made, other)
    change, wanted, first = (one.astype(float) - originals[:, None] for one in (found, other, made))
    np.testing.assert_allclose(making._lengths(change), making._lengths(wanted), rtol=0.03)  # rounding to 8 bit
    cosine = (change * first).sum(axis=(1, 2, 3, 4)) / (making._lengths(change) * making._lengths(first)).ravel()
    assert cosine.min() > 0.99


def test_a_lengthened_change_makes_up_for_what_the_pixel_box_cuts_off():
    originals = grey(250)
    made, other = originals[:, None].copy(), originals[:, None].copy()
    made[..., :4, :], made[..., 4:, :] = 252, 248
    other[...] = 230
    found = making.lengthened(originals, made, other).astype(float)
    assert found.max() == 255
    np.testing.assert_allclose(making._lengths(found - 250), making._lengths(other.astype(float) - 250), rtol=0.05)


def test_a_brightened_image_is_brighter_alike_and_as_far_as_the_other():
    originals = grey(100, 50)
    other = np.stack([grey(60), grey(80)])
    assert making.brightened(originals, other)[:, 0, 0].reshape(2, -1).tolist() == [[140] * 64, [80] * 64]


def test_a_judge_says_what_is_normal_by_its_own_threshold_and_drops_in_units_of_its_normals():
    made = np.stack([grey(51, 153), grey(204, 204)])  # scores .2 and .6; .8 and .8
    said = judging.by_judge(ByBrightness(0.5), grey(204, 204), made)
    np.testing.assert_allclose(said["transfer"], [0.5, 0.0])
    np.testing.assert_allclose(said["drop"], [(0.6 + 0.2) / 2 / 0.1, 0.0], atol=1e-4)


def test_a_judge_is_not_asked_of_what_it_never_flagged():
    said = judging.by_judge(ByBrightness(0.5), grey(100, 204), np.stack([grey(51), grey(51)]))
    assert np.isnan(said["transfer"]).tolist() == np.isnan(said["drop"]).tolist() == [True, False]
    assert said["transfer"][1] == 1.0


def test_an_attack_moves_scores_against_the_detector_and_no_farther_than_its_radius():
    detector, images = ByBrightness(0.5), grey(100, 150)
    up = judging.attacked_scores(detector, images, 0.4, -1.0)
    down = judging.attacked_scores(detector, images, 0.4, 1.0)
    before = judging.scores_of(detector, images)
    np.testing.assert_allclose(up - before, 0.4 / 8, atol=1e-4)  # the best l2 step is the same on all 64 pixels
    np.testing.assert_allclose(before - down, 0.4 / 8, atol=1e-4)


def test_the_interval_of_the_difference_covers_what_a_plain_paired_bootstrap_covers():
    rng = np.random.default_rng(1)
    values = rng.normal(0.3, 1.0, (1, 400))
    found = judging.gap(values)
    half = 1.96 * values.std() / 20
    assert found["value"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.02)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.02)
    assert found["each_seed"] == pytest.approx([values.mean()])


def test_seeds_that_disagree_widen_the_interval_and_the_same_picture_twice_does_not_narrow_it():
    rng = np.random.default_rng(2)
    one = rng.normal(0.0, 1.0, 300)
    same, apart = judging.gap(np.stack([one] * 3)), judging.gap(np.stack([one - 1, one, one + 1]))
    alone = judging.gap(one[None])
    assert same["high"] - same["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.1)
    assert apart["high"] - apart["low"] > 4 * (same["high"] - same["low"])
    assert apart["high_of_these_seeds"] - apart["low_of_these_seeds"] == pytest.approx(
        same["high"] - same["low"], rel=0.1
    )


def test_each_seed_counts_the_same_however_many_defects_it_explains():
    table = judging.across_seeds({0: (np.array([3, 7]), np.array([1.0, 3.0])), 1: (np.array([7]), np.array([8.0]))})
    np.testing.assert_array_equal(table, [[1.0, 3.0], [np.nan, 8.0]])
    assert judging.gap(table)["value"] == 5.0


def test_differences_are_robust_minus_plain_on_the_same_images(monkeypatch):
    monkeypatch.setattr(bench, "cells", lambda: SimpleNamespace(test=grey(250, 240, 230, 100)))
    levels = {"plain": 200, "robust": 51}
    made = {(name, kind): np.stack([grey(levels[kind])] * 2) for name in bench.EXPLAINERS for kind in levels}
    made |= {(name, "plain"): np.stack([grey(51)] * 2) for name in (bench.LENGTHENED, bench.BRIGHTENED)}
    found = bench.gaps({0: np.array([0, 2])}, {0: made}, {"judge": ByBrightness(0.5)})
    assert found["sparse"]["judge"]["transfer"]["value"] == 1.0
    assert found["sparse"]["judge"]["drop"]["value"] == pytest.approx((200 - 51) / 255 / 0.1, abs=1e-4)
    assert found["sparse"]["judge"]["more"]["value"] == 0.5
    assert (
        found[bench.LENGTHENED]["judge"]["transfer"]["value"]
        == found[bench.LENGTHENED]["judge"]["more"]["value"]
        == 0.0
    )


def test_the_sheet_shows_each_picture_untouched_with_its_change_beside_it(tmp_path):
    write_changes(grey(100, 50), [grey(110, 50), grey(0, 255)], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))[::SCALE, ::SCALE, 0]
    lines = [[int(sheet[GAP + line * (8 + GAP), GAP + column * (8 + GAP)]) for column in range(5)] for line in range(2)]
    assert lines == [[100, 110, 158, 0, 0], [50, 50, 128, 255, 255]]


def test_features_enlarge_small_images_and_keep_one_row_an_image(monkeypatch):
    seen = []

    def trunk_features(pixels):
        seen.append(pixels.shape)
        return pixels.mean(dim=1, keepdim=True)

    monkeypatch.setattr(judging, "_trunk", lambda: SimpleNamespace(trunk_features=trunk_features))
    found = judging.features_of(grey(*range(40), side=64))
    np.testing.assert_allclose(found[:, 0], torch.arange(40) / 255, atol=1e-6)
    assert [tuple(shape) for shape in seen] == [(32, 1, 96, 96), (8, 1, 96, 96)]


def a_difference(value, low, high):
    return {
        "value": value,
        "low": low,
        "high": high,
        "low_of_these_seeds": low,
        "high_of_these_seeds": high,
        "each_seed": [value],
    }


def test_the_page_says_what_holds_what_is_not_shown_and_what_is_the_other_way_round():
    more = a_difference(0.05, 0.01, 0.09)  # results are read back with sorted keys
    gaps = {
        "sparse": {
            "fcdd": {"drop": a_difference(0.1, -0.2, 0.4), "more": more, "transfer": a_difference(0.3, 0.1, 0.5)}
        },
        "diverse": {"fcdd": {"drop": a_difference(0, -1, 1), "more": more, "transfer": a_difference(-0.3, -0.5, -0.1)}},
    }
    said = verdict({"judge": "fcdd", "gaps": gaps})
    assert "sparse, transfer: holds (+0.300 [+0.100, +0.500]" in said
    assert "sparse, drop: **is not shown**" in said
    assert "diverse, transfer: **the opposite holds**" in said
    judge = {"transfer": 0.25, "drop": 1.5, "transfer_of_flipped": 0.3, "normality": 66.0}
    row = {
        "flipped": 0.9,
        "l1": 20.0,
        "l2": 1.25,
        "changed_fraction": 0.4,
        "brighter": 0.01,
        "normality": 55.0,
        "fid_n": 80.0,
        "kid_n": 70.0,
        "judges": {"fcdd": judge, "hsc": judge},
    }
    detector = {
        "auroc": 0.85,
        "auroc_of_attacked_images": 0.84,
        "auroc_attacked": 0.2,
        "flagged_defects": 0.5,
        "flagged_normals": 0.06,
    }
    page = counterfactuals_elpv_section(
        {
            "settings": training.described(),
            "images": {"0": 100},
            "distinct_images": 100,
            "known": 20,
            "judge": "fcdd",
            "radius": 0.289,
            "detectors": {"plain": {"0": detector}, "robust": {"0": detector | {"auroc_attacked": 0.7}}},
            "judges": {"fcdd": {"auroc": 0.9}, "hsc": {"auroc": 0.8}},
            "brightness_auroc": 0.788,
            "rows": {"sparse, plain": {"0": row}, "sparse, as far as robust, plain": {"0": row}},
            "gaps": gaps,
        }
    )
    assert "| sparse, as far as robust | plain | 90.0% | 25.0% | 1.50 |" in page
    assert "| robust | 0.850 | 0.850 | 50.0% | 6.0% | 0.700 | 0.700 | 0.840 |" in page
    assert "| brightness alone | 0.788 |" in page
    assert "| sparse | fcdd | +0.300 [" in page
    assert "|  | judge | transfer | each seed | drop |" in page
    assert "CC BY-NC-SA" in page
