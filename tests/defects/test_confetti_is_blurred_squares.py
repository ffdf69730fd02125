"""Confetti, drawn in windows and blurred by matrices, against every pixel of every square and a plain convolution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d

from xadflow.defects.confetti import BLUR_SIGMA, BLUR_TAPS, REFERENCE_PX, SIDES_PX, _blurred, _squares, confetti


@pytest.mark.parametrize(("height", "width"), [(28, 28), (96, 96), (20, 90), (240, 240)])
def test_windows_hold_every_pixel_of_every_square(height: int, width: int):
    """Also of squares that stick out of the image; each pixel counted once."""
    generator = torch.Generator().manual_seed(height)
    scale = min(height, width) / REFERENCE_PX
    y, x = (torch.rand(3, 40, generator=generator) * size for size in (height, width))
    side = torch.randint(SIDES_PX[0], SIDES_PX[1] + 1, (3, 40), generator=generator) * scale
    side[:, :5] = SIDES_PX[1] * scale
    angle = (torch.rand(3, 40, generator=generator) - 0.5) * math.pi / 2
    angle[:, :5] = math.pi / 4  # the longest reach
    inside, place = _squares(y, x, side, angle, height, width, reach=SIDES_PX[1] * scale / math.sqrt(2.0))
    found = torch.zeros(3, 40, height * width).scatter_add_(2, place, inside).numpy().reshape(3, 40, height, width)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    for which in np.ndindex(3, 40):
        dy, dx, turn = rows - y[which].item(), columns - x[which].item(), angle[which].item()
        along, across = dy * math.cos(turn) + dx * math.sin(turn), dx * math.cos(turn) - dy * math.sin(turn)
        distance = np.maximum(np.abs(along), np.abs(across)) - side[which].item() / 2
        certain = np.abs(distance) > 1e-4  # float32 may say either within that
        assert ((found[which] == 1) == (distance <= 0))[certain].all()
        assert set(np.unique(found[which])) <= {0.0, 1.0}


@pytest.mark.parametrize(("height", "width"), [(28, 28), (20, 90), (240, 240)])
def test_the_blur_is_a_convolution_with_zeros_outside(height: int, width: int):
    noise = torch.randint(-510, 1, (2, 3, height, width), generator=torch.Generator().manual_seed(0)).float()
    scale = min(height, width) / REFERENCE_PX
    radius = max(1, round(BLUR_TAPS // 2 * scale))
    taps = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * (BLUR_SIGMA * scale) ** 2))
    expected = noise.double().numpy()
    for axis in (2, 3):
        expected = convolve1d(expected, taps / taps.sum(), axis=axis, mode="constant")
    torch.testing.assert_close(_blurred(noise, scale).double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-3)


def test_the_same_generator_gives_the_same_confetti_and_the_input_is_left_alone():
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    before = images.clone()
    once, again, other = (confetti(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(once[0], again[0])
    assert not torch.equal(once[0], other[0])
    assert torch.equal(images, before)
    changed = (once[0].int() - images.int()).abs()
    assert (changed.amax(dim=1) >= 1).equal(once[1])
