"""What bench-transplant measures by itself: controls, overlap, seams, and intervals of two levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.kit.judging import across_seeds
from benchmarks.transplant import GROUPS, SEEDS, in_order
from benchmarks.transplant_kit.arms import ARMS, BY_TITLE, MAIN, Task
from benchmarks.transplant_kit.cells import chunks
from benchmarks.transplant_kit.detectors import JUDGES
from benchmarks.transplant_kit.measures import (
    changed,
    elsewhere,
    hottest,
    interval,
    iou,
    seam,
    steps_across,
    usual_steps,
)
from benchmarks.transplant_kit.sets import gives_donors
from benchmarks.transplant_table import transplant_section


def test_a_random_region_has_the_same_area_and_another_place() -> None:
    blend = np.zeros((16, 24), np.uint8)
    blend[2:6, 3:9] = 255
    blend[6, 3:9] = 100  # a soft border
    moved = [elsewhere(blend, np.random.default_rng(seed)) for seed in range(20)]
    for one in moved:
        assert (one >= 128).sum() == (blend >= 128).sum()
        assert sorted(one.ravel()) == sorted(blend.ravel())
    assert len({one.tobytes() for one in moved}) > 10


def test_overlap_is_what_two_masks_share_of_what_either_covers() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
    assert iou(mask, mask) == 1.0
    assert iou(mask, np.array([[0, 1, 1], [0, 0, 0]], bool)) == pytest.approx(1 / 4)
    assert iou(np.zeros_like(mask), np.zeros_like(mask)) == 0.0


def test_the_hottest_pixels_are_as_many_as_were_asked_for() -> None:
    heat = np.array([[0.1, 0.9], [0.9, 0.9]])
    assert hottest(heat, 2).tolist() == [[False, True], [True, False]]


def test_a_step_counts_where_a_region_ends_and_nowhere_else() -> None:
    image = np.array([[0.0, 10.0, 11.0], [0.0, 10.0, 50.0]])
    region = np.array([[True, False, False], [True, False, False]])
    assert steps_across(image, region).tolist() == [10.0, 10.0]
    corner = np.array([[True, False, False], [False, False, False]])
    assert sorted(steps_across(image, corner).tolist()) == [0.0, 10.0]


def test_a_seam_is_stated_in_steps_of_normals_at_the_same_places() -> None:
    region = np.zeros((4, 4), bool)
    region[:, :2] = True
    normal = np.tile(np.array([0, 9, 14, 30], np.uint8), (4, 1))[None]
    made = np.tile(np.array([0, 9, 24, 40], np.uint8), (4, 1))[None]
    usual = usual_steps(np.stack([normal, normal]))
    assert seam(normal, region, usual) == pytest.approx(1.0)
    assert seam(made, region, usual) == pytest.approx(3.0)
    assert np.isnan(seam(made, np.ones((4, 4), bool), usual))


def test_a_pixel_counts_as_changed_above_two_levels_in_any_channel() -> None:
    original = np.full((3, 2, 2), 100, np.uint8)
    made = original.copy()
    made[0, 0, 0], made[1, 0, 1], made[2, 1, 0] = 102, 103, 97
    assert changed(original, made) == 0.5


def test_the_interval_draws_trainings_as_well_as_images() -> None:
    images_differ = np.tile(np.repeat([0.0, 1.0], 50), (3, 1))  # the same for every training
    trainings_differ = np.repeat([[0.0], [0.5], [1.0]], 100, axis=1)  # the same for every image
    of_images, of_trainings = interval(images_differ), interval(trainings_differ)
    assert of_images["value"] == of_trainings["value"] == pytest.approx(0.5)
    assert 0.1 < of_images["high"] - of_images["low"] < 0.3  # 2 * 1.96 * .5 / sqrt(100): images alone
    assert (of_trainings["low"], of_trainings["high"]) == (0.0, 1.0)  # three equal draws are 1 in 27


def test_an_image_is_drawn_with_all_its_trainings() -> None:
    opposed = np.array([[0.0, 1.0] * 20, [1.0, 0.0] * 20])  # every image has a mean of one half, whatever is drawn
    once = [interval(np.stack([row, 1.0 - row])) for row in opposed]
    for one in once:
        assert one["value"] == pytest.approx(0.5)
    same = interval(np.stack([opposed[0], opposed[0]]))
    assert same["high"] - same["low"] > 0.2  # two equal trainings are no more images


def test_the_median_is_that_of_each_training_and_images_not_explained_count_for_nothing() -> None:
    first, second = (np.array([1, 5]), np.array([0.2, 0.4])), (np.array([5, 9, 11]), np.array([1.0, 2.0, 9.0]))
    table = across_seeds({0: first, 1: second})
    assert table.shape == (2, 4)
    assert np.isnan(table).sum() == 3
    assert interval(table, np.nanmedian)["value"] == pytest.approx((0.3 + 2.0) / 2)
    assert interval(table)["images"] == 5


def test_no_image_gives_donors_and_fits_a_judge() -> None:
    images = torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    half = gives_donors(torch.cat([images, images]))
    assert torch.equal(half[:200], half[200:])  # a copy is on the side of its image
    assert 70 < int(half[:200].sum()) < 130


def test_cells_cover_the_images_of_an_arm_once() -> None:
    task = Task("elpv", "fcdd", 0, tuple(range(130)))
    rows = [row for chunk in chunks(BY_TITLE[MAIN], task) for row in chunk.rows]
    assert rows == list(range(130))
    few = [row for chunk in chunks(BY_TITLE["sparse"], task) for row in chunk.rows]
    assert few == list(range(BY_TITLE["sparse"].most))


def test_what_is_required_is_measured_first() -> None:
    order = in_order(GROUPS, SEEDS, 200)
    first = order[0]
    assert (first[0].title, first[1], first[2].title, first[3]) == (GROUPS[0].title, 0, MAIN, 0)
    assert len(order) == len({(group.title, seed, arm.title, number) for group, seed, arm, number in order})
    assert {(group.title, arm.title) for group, _, arm, _ in order} == {
        (one.title, arm) for one in GROUPS for arm in one.arms
    }


def test_the_page_says_what_is_missed_and_what_was_not_measured() -> None:
    one = {"value": 0.5, "low": 0.4, "high": 0.6}
    shared = ("valid", "valid, the first", *(f"transfer {name}" for name in JUDGES), "region", "region, all", "changed")
    row = {"images": [50], "frechet": {"value": 58.0}, "kid": {"value": 40.0}, **dict.fromkeys(shared, one)}
    judges = {name: {"auroc": 0.9, "flagged": 0.8, "false_alarms": 0.05} for name in JUDGES}
    group = {
        "detectors": {"auroc": 0.9, "flagged": 0.8, "judges": judges},
        "rows": {MAIN: row},
        "curve": [],
        "seeds": [0],
    }
    targets = {"valid": 0.99, "transfer": 0.85, "region": 0.4, "frechet": 60.0}
    settings = {"targets": targets, "blocks": ["ELPV", "screws"], "explainer_commit": "a", "detector_commit": "b"}
    text = transplant_section({"groups": {"ELPV": group}, "images": 200, "settings": settings})
    assert "Not measured: screws." in text
    assert "valid 0.50 (at least 0.99: **missed**)" in text
    assert "frechet 58.00 (at most 60: met)" in text
    for arm in ARMS[1:]:
        assert arm.title in text.split("Not measured here: ")[1]
