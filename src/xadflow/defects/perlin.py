"""Perlin blends, the synthetic anomaly of DRAEM: other content shines through an image where smooth noise is high.

Zavrtanik et al., ICCV 2021 (arXiv 2108.07610); the noise is Perlin's gradient noise (SIGGRAPH 1985, with the fade curve
of 2002). What differs here, and why:

- the content is not taken from a bank of textures, which a training does not have: it is another image of the batch,
  rolled and mirrored, its contrast scaled or inverted and its channels shifted;
- the noise is cut at the quantile that leaves a drawn share of the area, where DRAEM cuts at a fixed height: an image
  that is to be an anomaly always is one;
- one to three octaves instead of one, drawn periods and offsets along each axis, no rotation: the noise of a whole
  batch is two small matrix products an octave.

Everything is drawn on the device of the images, without a loop over them and without waiting for the host.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from xadflow.defects.drawn import MIN_CONTRAST
from xadflow.errors import BadInput

SMALLEST_PX = 8  # shorter sides have no room for a patch
SHORTEST_PERIOD_PX = 2.0  # finer noise is white
OCTAVES = 3  # at most; each has half the period and half the height of the one before
AREA = (0.02, 0.25)  # share of the image that changes
OPACITY = (0.15, 1.0)
CONTRAST = (0.5, 1.5)
INVERTED = 0.25  # chance
SHIFT = (16.0, 64.0)  # grey levels a channel is shifted by, up or down: two flat images differ too


def perlin(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A copy of uint8 [B,C,H,W] with one blend an image, and where it differs, bool [B,H,W]; the input is not changed.

    Outside the mask image and copy are identical, inside it they differ by at least MIN_CONTRAST grey levels in a
    channel: a pixel that the blend would change by less is moved by that much. The same generator state gives the same
    blends.

    Raises:
        BadInput: another dtype or shape, or a side below 8 px.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or min(images.shape[2:]) < SMALLEST_PX:
        raise BadInput(
            f"Perlin blends need uint8 images [B,C,H,W] of at least {SMALLEST_PX} px",
            seen=(images.dtype, tuple(images.shape)),
            next_step="convert by xadflow.images.to_input",
        )
    pixels = images.float()
    masks = patches(len(images), images.shape[2], images.shape[3], generator)
    opacity = _uniform(generator, *OPACITY, len(images), 1, 1, 1)
    blended = pixels + opacity * (other_content(pixels, generator) - pixels)
    changed = blended.round().clamp(0.0, 255.0)  # 8 bits: what a stored image would hold
    weak = ((changed - pixels).abs() < MIN_CONTRAST).all(dim=1, keepdim=True)  # (B, 1, H, W)
    moved = torch.where(pixels < 128.0, pixels + MIN_CONTRAST, pixels - MIN_CONTRAST)
    changed = torch.where(weak, moved, changed)
    return torch.where(masks[:, None], changed.to(torch.uint8), images), masks


def patches(count: int, height: int, width: int, generator: Generator) -> Tensor:
    """Masks bool [count,height,width]: where fractal Perlin noise is above the quantile of a drawn area;
    never empty.
    """
    noise = fractal_noise(count, height, width, generator).flatten(1)  # (B, H * W)
    share = _uniform(generator, *AREA, count)
    kept = (share * noise.shape[1]).long().clamp(1, noise.shape[1] - 1)
    level = noise.sort(dim=1, descending=True).values.gather(1, kept[:, None])
    masks = noise > level
    # Where several pixels share the highest value none would be above it: the highest one is always taken.
    masks.scatter_(1, noise.argmax(dim=1, keepdim=True), True)
    return masks.view(count, height, width)


def fractal_noise(count: int, height: int, width: int, generator: Generator) -> Tensor:
    """Noise [count,height,width]: for each image one to three octaves, periods from 4 px (or side / 32) to the shorter
    side.
    """
    side, device = float(min(height, width)), generator.device
    shortest = max(2.0 * SHORTEST_PERIOD_PX, side / 32.0)
    exponent = torch.rand(count, 2, generator=generator, device=device)
    periods = side * (shortest / side) ** exponent  # (B, 2), log-uniform
    octaves = torch.randint(1, OCTAVES + 1, (count, 1, 1), generator=generator, device=device)
    total = torch.zeros(count, height, width, device=device)
    for octave in range(OCTAVES):
        least = max(SHORTEST_PERIOD_PX, shortest / 2**octave)
        lattice = math.ceil(max(height, width) / least) + 2
        angles = _uniform(generator, 0.0, 2.0 * math.pi, count, lattice, lattice)
        offsets = torch.rand(count, 2, generator=generator, device=device)
        noise = perlin_noise(angles, (periods / 2**octave).clamp_min(least), offsets, height, width)
        total += noise * (0.5**octave * (octave < octaves))
    return total


def perlin_noise(angles: Tensor, periods: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    """Gradient noise [B,height,width] of unit gradients at `angles` [B,K,K] on a lattice, one `periods` px [B,2] apart.

    A pixel (row, column) lies at row / period + offset of the lattice along each axis. Its value is the sum over the
    four corners around it of gradient times distance, each weighted by 1 - 6 t^5 + 15 t^4 - 10 t^3 of the distance t
    along each axis. Weights are products of one factor an axis, so the sum is two products of matrices.
    """
    (row_weight, row_moment), (column_weight, column_moment) = (
        _corners(size, angles.shape[1], periods[:, axis], offsets[:, axis]) for axis, size in enumerate((height, width))
    )
    along_rows = row_moment @ angles.sin() @ column_weight.mT
    return along_rows + row_weight @ angles.cos() @ column_moment.mT


def _corners(size: int, lattice: int, period: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Weight of each line of the lattice at each pixel, and weight times distance: both [B,size,lattice]."""
    place = torch.arange(size, device=period.device)[None, :] / period[:, None] + offset[:, None]  # (B, size)
    distance = place[:, :, None] - torch.arange(lattice, device=period.device)
    t = distance.abs().clamp_max(1.0)
    weight = 1.0 - t * t * t * (t * (6.0 * t - 15.0) + 10.0)
    return weight, weight * distance


def other_content(pixels: Tensor, generator: Generator) -> Tensor:
    """Grey levels [B,C,H,W] in [0,255] made of another image of the batch each; of the image itself where
    it is alone.
    """
    batch, channels, height, width = pixels.shape
    device = pixels.device
    step = torch.randint(1, max(2, batch), (batch,), generator=generator, device=device)
    other = pixels[(torch.arange(batch, device=device) + step) % batch]
    places = []
    for size in (height, width):
        roll = torch.randint(size, (batch, 1), generator=generator, device=device)
        place = (torch.arange(size, device=device) + roll) % size  # (B, size)
        mirrored = torch.rand(batch, 1, generator=generator, device=device) < 0.5
        places.append(torch.where(mirrored, size - 1 - place, place))
    index = (places[0][:, :, None] * width + places[1][:, None, :]).flatten(1)  # (B, H * W)
    rolled = other.flatten(2).gather(2, index[:, None].expand(-1, channels, -1)).view_as(pixels)
    contrast = _uniform(generator, *CONTRAST, batch, 1, 1, 1)
    contrast = torch.where(_uniform(generator, 0.0, 1.0, batch, 1, 1, 1) < INVERTED, -contrast, contrast)
    shift = _uniform(generator, *SHIFT, batch, channels, 1, 1)
    shift = torch.where(_uniform(generator, 0.0, 1.0, batch, channels, 1, 1) < 0.5, -shift, shift)
    mean = rolled.mean(dim=(2, 3), keepdim=True)
    recoloured = mean + contrast * (rolled - mean) + shift
    # Reflected at the ends of the range: a black image that is to get darker gets brighter.
    return (255.0 - (255.0 - recoloured.abs()).abs()).clamp(0.0, 255.0)


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)
