"""From a few normals: whether the same place shows the same part, and which turned or mirrored copies are
normal too.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import rotate
from skimage import data

from xadflow.datasets.adding import look_at
from xadflow.datasets.poses import SIDE_PX, guess_pose
from xadflow.datasets.sources.elpv import _data_folder, read_labels
from xadflow.images import ImageLimits


def small(image) -> np.ndarray:
    pixels = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return np.asarray(pixels.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))


def texture(name: str, seed: int, count: int = 24) -> list[np.ndarray]:
    whole, rng = getattr(data, name)().astype(float), np.random.default_rng(seed)
    return [small(whole[y : y + 96, x : x + 96] * rng.uniform(0.9, 1.1)) for y, x in rng.integers(0, 416, (count, 2))]


def screw(rng, degrees: float, shift: int = 0) -> np.ndarray:
    """A part that looks the same in no other pose: a shaft with a thread and a head."""
    image = np.full((96, 96), 60.0)
    image[44:52, 18:70], image[38:58, 66:80] = 180, 210
    for x in range(20, 64, 5):
        image[42:54, x : x + 2] = 120
    image = rotate(image, degrees, reshape=False, mode="nearest", order=1) + rng.normal(0, 6, (96, 96))
    return small(np.roll(image, tuple(rng.integers(-shift, shift + 1, 2)), (0, 1)))


def in_falling_light(images) -> list[np.ndarray]:
    y, x = np.mgrid[-1 : 1 : SIDE_PX * 1j, -1 : 1 : SIDE_PX * 1j]
    return [(image * (1 - 0.35 * (x**2 + y**2))).astype(np.uint8) for image in images]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "symmetries"), [("brick", {"flips"}), ("grass", {"square"}), ("gravel", {"flips", "square"})]
)
def test_a_texture_is_not_aligned_and_has_the_symmetries_of_its_directions(
    name: str, symmetries: set, seed: int
) -> None:
    """Courses of bricks lie, grass has no direction; gravel is lit from one side, which turns it a little."""
    pose = guess_pose(texture(name, seed))
    assert pose.aligned is False
    assert pose.symmetries in symmetries


def test_a_texture_that_leans_to_one_side_has_no_symmetry() -> None:
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    rng = np.random.default_rng(0)
    lines = [np.sign(np.sin((x + y) / 3 + rng.uniform(0, 6))) for _ in range(24)]
    twill = [128 + 60 * one + rng.normal(0, 9, one.shape) for one in lines]
    pose = guess_pose([np.clip(one, 0, 255).astype(np.uint8) for one in twill])
    assert (pose.aligned, pose.symmetries) == (False, "none")


def test_light_that_falls_off_to_the_edges_aligns_nothing() -> None:
    for name in ("brick", "grass", "gravel"):
        assert guess_pose(in_falling_light(texture(name, 0))).aligned is False


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_part_in_any_pose_is_not_aligned_and_may_be_turned(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for shift in (0, 15):
        pose = guess_pose([screw(rng, rng.uniform(0, 360), shift) for _ in range(24)])
        assert (pose.aligned, pose.symmetries) == (False, "square")


def test_a_part_that_lies_alike_each_time_is_aligned_and_has_none() -> None:
    rng = np.random.default_rng(0)
    straight = guess_pose([screw(rng, rng.normal(0, 3), 2) for _ in range(24)])
    assert (straight.aligned, straight.symmetries) == (True, "none")
    assert straight.likeness > 0.5 > straight.turned + 0.2


def test_solar_cells_are_aligned_though_each_looks_the_same_upside_down() -> None:
    paths, probability, _ = read_labels(_data_folder() / "labels.csv")
    rows = [row for row, p in enumerate(probability) if p < 0.01]
    cells = [small(np.asarray(Image.open(_data_folder() / paths[row]))) for row in rows[:: len(rows) // 24][:24]]
    assert guess_pose(cells).aligned is True


def test_too_few_images_are_taken_for_aligned_and_nothing_is_measured() -> None:
    pose = guess_pose(texture("grass", 0, 7))
    assert (pose.aligned, pose.symmetries) == (True, "none")
    assert math.isnan(pose.likeness)


def test_flat_and_noisy_images_are_answered_too() -> None:
    assert guess_pose([np.full((SIDE_PX, SIDE_PX), 7, np.uint8)] * 12).symmetries == "none"
    rng = np.random.default_rng(0)
    assert guess_pose([rng.integers(0, 256, (SIDE_PX, SIDE_PX), dtype=np.uint8) for _ in range(12)]).aligned is False


def test_thirty_rgb_normals_in_a_folder_are_enough(tmp_path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "train/good").mkdir(parents=True)
    brick, rng = data.brick().astype(float), np.random.default_rng(0)
    for number, (y, x) in enumerate(rng.integers(0, 416, (30, 2))):
        crop = brick[y : y + 96, x : x + 96]
        Image.fromarray(np.stack([crop * 0.9, crop * 0.6, crop * 0.3 + 20], -1).astype(np.uint8)).save(
            tmp_path / f"train/good/{number:02d}.png"
        )
    look = look_at(tmp_path, ImageLimits())
    assert (look.channels, look.pose.aligned, look.pose.symmetries) == (3, False, "flips")
