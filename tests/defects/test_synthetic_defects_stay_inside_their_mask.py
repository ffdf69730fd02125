"""Synthetic defects: identical outside the mask, visible inside, seeded, any shape; confetti as published."""

from __future__ import annotations

import math

import pytest
import torch

from xadflow.defects.confetti import COLOUR_RATE, DARK_RATE, blob_counts, blob_noise, confetti
from xadflow.defects.drawn import KINDS, MIN_CONTRAST, synthetic_defects
from xadflow.errors import BadInput


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy_images(count: int = 12, channels: int = 1, height: int = 64, width: int = 80) -> torch.Tensor:
    return torch.randint(60, 200, (count, channels, height, width), generator=seeded(5), dtype=torch.uint8)


@pytest.mark.parametrize("kind", [*KINDS, None])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_differ_inside_the_mask_and_nowhere_else(kind: str | None, channels: int):
    images = noisy_images(channels=channels)
    before = images.clone()
    defective, masks = synthetic_defects(images, seeded(), (kind,) if kind else None)
    assert torch.equal(images, before)
    assert defective.dtype == torch.uint8
    assert masks.shape == (12, 64, 80)
    change = (defective.int() - images.int()).abs().amax(dim=1)
    assert (change[~masks] == 0).all()
    assert (change[masks] >= MIN_CONTRAST).all()
    assert masks.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_covers_a_part_and_not_the_whole(kind: str):
    _, masks = synthetic_defects(noisy_images(64), seeded(), (kind,))
    area = masks.float().mean(dim=(1, 2))
    assert 0.0005 < area.median() < 0.35
    assert area.max() < 0.65


def test_float_images_stay_float_and_equal_outside():
    images = torch.rand(6, 1, 48, 48, generator=seeded(1))
    defective, masks = synthetic_defects(images, seeded())
    assert defective.dtype == torch.float32
    assert defective.min() >= 0
    assert defective.max() <= 1
    assert torch.equal(defective[:, 0][~masks], images[:, 0][~masks])


def test_the_same_generator_state_gives_the_same_defects():
    images = noisy_images()
    first, second, other = (synthetic_defects(images, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("value", [0, 255])
def test_flat_black_and_white_images_get_a_visible_defect_too(value: int):
    images = torch.full((8, 1, 32, 32), value, dtype=torch.uint8)
    defective, masks = synthetic_defects(images, seeded())
    assert masks.flatten(1).any(dim=1).all()
    assert ((defective != images)[:, 0] == masks).all()


def test_all_kinds_are_drawn_about_equally():
    drawn = {name: 0 for name in KINDS}

    def counted(name):
        original = KINDS[name]

        def count(pixels, generator):
            drawn[name] += len(pixels)
            return original(pixels, generator)

        return count

    with pytest.MonkeyPatch.context() as patch:
        for name in KINDS:
            patch.setitem(KINDS, name, counted(name))  # type: ignore[arg-type]
        synthetic_defects(noisy_images(400, height=16, width=16), seeded())
    expected, deviation = 400 / len(KINDS), math.sqrt(400 * (1 / len(KINDS)) * (1 - 1 / len(KINDS)))
    assert all(count > expected - 4 * deviation for count in drawn.values())


def test_wrong_shapes_and_kinds_are_refused():
    with pytest.raises(BadInput, match="16 px"):
        synthetic_defects(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), seeded())
    with pytest.raises(BadInput, match="scratch"):
        synthetic_defects(noisy_images(), seeded(), ("scratch",))
    with pytest.raises(BadInput, match="uint8"):
        confetti(torch.zeros(1, 1, 32, 32), seeded())


@pytest.mark.parametrize("rate", [COLOUR_RATE, DARK_RATE])
def test_confetti_has_the_published_number_of_blobs(rate: float):
    counts = blob_counts(4000, rate, seeded()).double()
    mean = rate * 240**2
    expected = mean / (1 - math.exp(-mean))  # Poisson, given that there is at least one: 1.61 and 1.38
    assert counts.min() == 1
    assert counts.mean().item() == pytest.approx(expected, abs=3 * counts.std().item() / math.sqrt(4000))
    assert expected == pytest.approx(1.61 if rate == COLOUR_RATE else 1.38, abs=0.01)


def test_confetti_changes_an_8_bit_image_inside_its_mask_only():
    images = noisy_images(8, channels=3, height=96, width=96)
    noisy, masks = confetti(images, seeded())
    assert noisy.dtype == torch.uint8
    assert (((noisy != images).any(dim=1)) == masks).all()
    assert masks.flatten(1).any(dim=1).all()
    assert masks.float().mean() < 0.5


def test_confetti_noise_is_zero_away_from_its_blobs():
    noise = blob_noise(torch.zeros(16, 1, 240, 240, dtype=torch.uint8), seeded())
    # about three squares of at most 54 px, rotated and blurred by 12 px on each side
    assert ((noise != 0).float().mean(dim=(1, 2, 3)) < 0.7).all()
    assert noise.max() == 0  # both layers darken


def test_a_black_image_gets_inverted_confetti():
    black = torch.zeros(4, 1, 96, 96, dtype=torch.uint8)
    noisy, _ = confetti(black, seeded())
    assert (noisy.flatten(1).amax(dim=1) > 0).all()
