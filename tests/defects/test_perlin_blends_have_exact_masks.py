"""Perlin blends: noise against the formula in float64, exact masks, sensible areas, seeded, any image there can be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from xadflow.defects.drawn import MIN_CONTRAST
from xadflow.defects.perlin import AREA, fractal_noise, other_content, patches, perlin, perlin_noise
from xadflow.errors import BadInput


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy_images(count: int = 12, channels: int = 1, height: int = 64, width: int = 80) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, height, width), generator=seeded(5), dtype=torch.uint8)


def gradient_noise(angles: np.ndarray, period: np.ndarray, offset: np.ndarray, height: int, width: int) -> np.ndarray:
    """Perlin's own way, pixel by pixel: four corners, dot products, two fades and an interpolation."""

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    found = np.zeros((height, width))
    for row, column in np.ndindex(height, width):
        y, x = row / period[0] + offset[0], column / period[1] + offset[1]
        top, left = math.floor(y), math.floor(x)
        dots = np.zeros((2, 2))
        for down, right in np.ndindex(2, 2):
            angle = angles[top + down, left + right]
            dots[down, right] = math.cos(angle) * (x - left - right) + math.sin(angle) * (y - top - down)
        upper, lower = dots[:, 0] + fade(x - left) * (dots[:, 1] - dots[:, 0])
        found[row, column] = upper + fade(y - top) * (lower - upper)
    return found


def test_noise_is_perlins_formula():
    """float32 against float64; the distance of a pixel from a lattice line is a difference of numbers up to 20."""
    generator = seeded()
    angles = torch.rand(3, 24, 24, generator=generator) * 2 * math.pi
    periods = torch.tensor([[2.0, 5.3], [7.9, 3.0], [17.0, 40.0]])
    offsets = torch.tensor([[0.0, 0.0], [0.3, 0.999], [0.5, 0.25]])
    noise = perlin_noise(angles, periods, offsets, 21, 34)
    for number in range(3):
        parts = (part[number].double().numpy() for part in (angles, periods, offsets))
        np.testing.assert_allclose(noise[number].numpy(), gradient_noise(*parts, 21, 34), atol=2e-5)


def test_noise_is_zero_on_the_lattice_and_smooth_between():
    noise = perlin_noise(
        torch.rand(1, 9, 9, generator=seeded()) * 6, torch.tensor([[16.0, 16.0]]), torch.zeros(1, 2), 113, 113
    )[0]
    assert noise[::16, ::16].abs().max() < 1e-6
    assert noise.abs().max() > 0.2
    assert noise.diff(dim=0).abs().max() < 0.2
    assert noise.diff(dim=1).abs().max() < 0.2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(64, 80), (8, 8), (8, 50), (45, 17)])
def test_images_differ_inside_the_mask_and_nowhere_else(channels: int, height: int, width: int):
    images = noisy_images(64, channels, height, width)
    before = images.clone()
    blended, masks = perlin(images, seeded())
    assert torch.equal(images, before)
    assert blended.dtype == torch.uint8
    assert masks.shape == (64, height, width)
    change = (blended.int() - images.int()).abs().amax(dim=1)
    assert (change[~masks] == 0).all()
    assert (change[masks] >= MIN_CONTRAST).all()
    assert masks.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("side", [8, 28, 96])
def test_the_share_of_the_area_is_the_drawn_one(side: int):
    area = patches(300, side, side, seeded()).float().mean(dim=(1, 2))
    pixel = 1 / side**2
    assert area.min() >= min(AREA[0], pixel) - pixel
    assert area.max() <= AREA[1]
    assert area.mean().item() == pytest.approx(sum(AREA) / 2, abs=4 * area.std().item() / math.sqrt(300) + pixel)


def test_patches_are_connected_pieces_and_not_grains():
    """Of white noise at an eighth of the area, one neighbour in eight would be in the mask too."""
    masks = patches(100, 96, 96, seeded()).float()
    beside = (masks[:, :, 1:] * masks[:, :, :-1]).sum() / masks[:, :, 1:].sum()
    assert beside > 0.5


@pytest.mark.parametrize("value", [0, 127, 128, 255])
def test_flat_images_get_a_visible_blend_too(value: int):
    images = torch.full((32, 1, 32, 32), value, dtype=torch.uint8)
    blended, masks = perlin(images, seeded())
    assert ((blended != images)[:, 0] == masks).all()
    assert masks.flatten(1).any(dim=1).all()
    strongest = (blended.int() - value).abs().flatten(1).amax(dim=1)
    assert strongest.min() >= MIN_CONTRAST
    assert strongest.float().median() > 4 * MIN_CONTRAST


def test_one_image_is_blended_with_its_own_content():
    blended, masks = perlin(noisy_images(1), seeded())
    assert 0 < masks.float().mean() <= AREA[1]
    assert blended.shape == (1, 1, 64, 80)


def test_content_comes_from_another_image_of_the_batch():
    """Flat images of greys so far apart that a shift of up to 64 levels brings no other one within 56 of an image's
    own.
    """
    levels = torch.tensor([0.0, 120.0, 250.0]).view(3, 1, 1, 1)
    for seed in range(20):
        content = other_content(levels.expand(3, 3, 16, 16).contiguous(), seeded(seed))
        assert ((content - levels).abs() >= 55.9).all()


def test_the_same_generator_state_gives_the_same_blends():
    images = noisy_images()
    first, second, other = (perlin(images, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])


def test_images_of_a_batch_get_patches_of_their_own():
    masks = patches(40, 48, 48, seeded()).flatten(1)
    assert len(masks.unique(dim=0)) == 40


def test_masks_do_not_depend_on_the_images():
    """Nor on the number of channels: what is drawn for the place is drawn before what is drawn for the content."""
    one, three = (perlin(noisy_images(channels=channels), seeded())[1] for channels in (1, 3))
    assert torch.equal(one, three)


def test_periods_differ_from_image_to_image():
    crossings = (fractal_noise(200, 64, 64, seeded()).sign().diff(dim=2) != 0).float().mean(dim=(1, 2))
    assert crossings.quantile(0.9) > 4 * crossings.quantile(0.1)


def test_other_types_shapes_and_tiny_images_are_refused():
    for wrong in (
        torch.zeros(1, 1, 32, 32),
        torch.zeros(1, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 1, 7, 32).byte(),
    ):
        with pytest.raises(BadInput, match="uint8 images .* of at least 8 px"):
            perlin(wrong, seeded())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_nothing_waits_for_the_host():
    images, generator = noisy_images().cuda(), torch.Generator("cuda").manual_seed(0)
    perlin(images, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        blended, masks = perlin(images, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    change = (blended.int() - images.int()).abs().amax(dim=1)
    assert ((change >= MIN_CONTRAST) == masks).all()
