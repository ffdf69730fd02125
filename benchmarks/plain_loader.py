"""The input path as it is usually written: one image after the other by Pillow and numpy, in the workers of a
DataLoader.

What `benchmarks.one_class_speed` compares ours with. Same distribution as xadflow.defects.confetti, drawn blob by blob
as in the published code, though without its detours (it turns each square by an interpolating rotation, and each image
into a tensor and back several times), which would make this arm slower.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve1d
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from torchvision import transforms

from xadflow.defects.confetti import (
    BLUR_SIGMA,
    BLUR_TAPS,
    COLOUR_RATE,
    DARK_RATE,
    FLIP_BELOW,
    REFERENCE_PX,
    SEEN,
    SIDES_PX,
)
from xadflow.defects.drawn import synthetic_defects
from xadflow.detectors.one_class.settings import OneClassSettings

Pixels = NDArray[np.uint8]


class PlainImages(Dataset[tuple[Tensor, int]]):
    """`length` training images, each normal or, with the chance of the settings, with a synthetic anomaly in it.

    An item is a float32 image [1,H,W] in [0,1] and 1 for an anomaly. Defects other than confetti are drawn by our own
    function, one image at a time: nobody else's exists.
    """

    def __init__(self, normals: Tensor, settings: OneClassSettings, length: int, seed: int) -> None:
        self.normals: Pixels = normals.numpy()
        self.settings, self.length, self.seed = settings, length, seed
        side = normals.shape[-1]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(side, padding=settings.shift(side, side), padding_mode="edge"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )
        self._random: np.random.Generator | None = None
        self._generator = torch.Generator()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        random = self._of_worker()
        pixels = self.normals[random.integers(len(self.normals))]  # (1, H, W)
        is_anomaly = random.random() < self.settings.anomaly_rate
        if is_anomaly and self.settings.synthesiser == "confetti":
            pixels, _ = plain_confetti(pixels, random)
        elif is_anomaly:
            pixels = synthetic_defects(torch.from_numpy(pixels)[None], self._generator)[0][0].numpy()
        image: Tensor = self.transform(Image.fromarray(pixels[0]))
        if self.settings.noise:
            image = image + self.settings.noise * torch.randn(image.shape)
        return image.clamp(0.0, 1.0), int(is_anomaly)

    def _of_worker(self) -> np.random.Generator:
        if self._random is None:
            worker = get_worker_info()
            self._random = np.random.default_rng([self.seed, worker.id if worker else 0])
            self._generator.manual_seed(int(self._random.integers(2**31)))
        return self._random


def plain_confetti(pixels: Pixels, random: np.random.Generator) -> tuple[Pixels, NDArray[np.bool_]]:
    """A copy of uint8 [C,H,W] with confetti, and where it differs, bool [H,W]."""
    scale = min(pixels.shape[1:]) / REFERENCE_PX
    noise = np.zeros(pixels.shape, np.float32)
    low, high = SIDES_PX
    colours = random.integers(-256, 0, (high + 1, len(pixels)))
    for rate, dark in ((COLOUR_RATE, False), (DARK_RATE, True)):
        for _ in range(plain_count(rate, random)):
            side = int(random.integers(low, high + 1))
            _add_square(noise, side * scale, np.full(len(pixels), -255) if dark else colours[side], random)
    noise = np.trunc(_blurred(noise, scale))
    before = pixels.astype(np.float32)
    changed, inverse = np.clip(before + noise, 0, 255), np.clip(before - noise, 0, 255)
    change = abs(float((changed - before).mean()))
    if change < FLIP_BELOW and abs(float((inverse - before).mean())) > change:
        changed = inverse
    return changed.astype(np.uint8), (np.abs(changed - before) >= SEEN).any(axis=0)


def plain_count(rate: float, random: np.random.Generator) -> int:
    """Blobs on an image, at least one."""
    count = 0
    while count == 0:
        count = int(random.poisson(rate * REFERENCE_PX**2))
    return count


def _add_square(noise: NDArray[np.float32], side: float, value: NDArray[np.int64], random: np.random.Generator) -> None:
    """Add a value a channel to the pixels of one rotated square, in the window that it can reach."""
    height, width = noise.shape[1:]
    y, x = random.random() * height, random.random() * width
    angle = (random.random() - 0.5) * math.pi / 2
    reach = side / math.sqrt(2.0)
    top, bottom = max(0, math.ceil(y - reach)), min(height, math.floor(y + reach) + 1)
    left, right = max(0, math.ceil(x - reach)), min(width, math.floor(x + reach) + 1)
    rows, columns = np.arange(top, bottom)[:, None] - y, np.arange(left, right)[None, :] - x
    cos, sin = math.cos(angle), math.sin(angle)
    inside = np.maximum(np.abs(rows * cos + columns * sin), np.abs(columns * cos - rows * sin)) <= side / 2
    noise[:, top:bottom, left:right] += inside * value[:, None, None]


def _blurred(noise: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    radius = max(1, round(BLUR_TAPS // 2 * scale))
    offset = np.arange(-radius, radius + 1)
    taps = np.exp(-(offset**2) / (2.0 * (BLUR_SIGMA * scale) ** 2))
    taps = taps / taps.sum()
    down = convolve1d(noise, taps, axis=1, mode="constant")
    return np.asarray(convolve1d(down, taps, axis=2, mode="constant"), dtype=np.float32)
