"""The arm that the speed of ours is compared with does the same work: its confetti has the same distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data as bundled

from benchmarks.plain_loader import PlainImages, plain_confetti, plain_count
from xadflow.defects.confetti import COLOUR_RATE, DARK_RATE, blob_counts, confetti
from xadflow.detectors.one_class.settings import DenseSettings

COUNT = 500


def crops(count: int, side: int) -> torch.Tensor:
    wall = torch.from_numpy(bundled.brick().copy())
    places = torch.randint(wall.shape[0] - side, (count, 2), generator=torch.Generator().manual_seed(1)).tolist()
    return torch.stack([wall[top : top + side, left : left + side] for top, left in places])[:, None]


def agree(mine: np.ndarray, theirs: np.ndarray) -> None:
    """Equal means within 4 standard errors of their difference: 1 in 16,000 by chance, seeds fixed."""
    error = np.sqrt(mine.var() / len(mine) + theirs.var() / len(theirs))
    assert abs(mine.mean() - theirs.mean()) < 4 * error, (mine.mean(), theirs.mean(), error)


@pytest.mark.parametrize(("rate", "expected"), [(COLOUR_RATE, 1.61), (DARK_RATE, 1.38)])
def test_mean_counts_of_blobs_agree(rate: float, expected: float):
    random = np.random.default_rng(0)
    plain = np.array([plain_count(rate, random) for _ in range(20_000)])
    agree(plain, blob_counts(20_000, rate, torch.Generator().manual_seed(0)).numpy())
    assert plain.mean() == pytest.approx(expected, abs=0.03)  # docs/explanation/methods.md, "FCDD"


@pytest.mark.parametrize("side", [28, 96])
def test_what_is_changed_agrees(side: int):
    """Share of the area, size of the change inside it, and how often it darkens."""
    images = crops(COUNT, side)
    random = np.random.default_rng(0)
    plain = [plain_confetti(image.numpy(), random) for image in images]
    changed, masks = np.stack([pixels for pixels, _ in plain]), np.stack([mask for _, mask in plain])
    ours, our_masks = (tensor.numpy() for tensor in confetti(images, torch.Generator().manual_seed(0)))
    agree(masks.mean(axis=(1, 2)), our_masks.mean(axis=(1, 2)))
    before = images.numpy().astype(float)
    agree(np.abs(changed - before).mean(axis=(1, 2, 3)), np.abs(ours - before).mean(axis=(1, 2, 3)))
    agree((changed - before).mean(axis=(1, 2, 3)), (ours - before).mean(axis=(1, 2, 3)))
    assert (np.abs(changed - before) >= 1).any(axis=1).astype(bool).tolist() == masks.tolist()
    assert masks.any(axis=(1, 2)).mean() > 0.95


def test_black_images_are_brightened_and_the_input_is_left_alone():
    black = np.zeros((1, 28, 28), np.uint8)
    random = np.random.default_rng(3)
    brightened = [plain_confetti(black, random)[0].max() for _ in range(20)]
    assert np.mean(np.array(brightened) > 0) > 0.9
    assert not black.any()


@pytest.mark.parametrize("synthesiser", ["confetti", "defects"])
def test_items_are_images_of_which_half_are_anomalies(synthesiser: str):
    settings = DenseSettings(anomalies=("synthetic",), synthesiser=synthesiser, noise=0.02)
    dataset = PlainImages(crops(8, 28), settings, 300, seed=0)
    items = [dataset[number] for number in range(len(dataset))]
    assert {(tuple(image.shape), image.dtype) for image, _ in items} == {((1, 28, 28), torch.float32)}
    assert abs(np.mean([is_anomaly for _, is_anomaly in items]) - 0.5) < 4 * np.sqrt(0.25 / 300)
    assert all(0.0 <= image.min() and image.max() <= 1.0 for image, _ in items)
