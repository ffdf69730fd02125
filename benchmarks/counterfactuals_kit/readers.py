"""Who reads colour and digit off an image, and whose features the Frechet distance is of; no training ever sees them.

One small network for each: digits from the brightest channel divided by its own maximum, colours from the three
channels, and a joint one whose 64 features are those of the distances. All learn from coloured train digits with noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.counterfactuals_kit.factors import Reading, legible
from benchmarks.counterfactuals_kit.images import COLOUR_NAMES, Coloured
from xadflow.metrics.perceptual import perceptual_distances
from xadflow.training.seeds import seeded

DIGITS, FEATURES = 10, 64
STEPS, BATCH, RATE, NOISE = 500, 128, 3e-3, 0.05
_ONE_PASS = 500


class Reader(nn.Module):
    """Two convolutions with pooling, 64 features, as many logits as asked for."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 49, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B,outputs]."""
        found: Tensor = self.head(self.body(images))
        return found

    def layers(self, images: Tensor) -> list[Tensor]:
        """What both convolutions answer, after the ReLU, each [B,C,H,W]."""
        first = self.body[:2](images)
        return [first, self.body[2:5](first)]


@dataclass(frozen=True)
class Readers:
    """The three networks, frozen."""

    digit: Reader
    colour: Reader
    joint: Reader

    def read(self, made: NDArray[np.uint8]) -> Reading:
        """Colour (first) and digit (second) of uint8 [N,K,3,28,28]."""
        flat = made.reshape(-1, *made.shape[2:])
        colours, digits = (
            _each(flat, lambda x, reader=reader, prepare=prepare: reader(prepare(x)).argmax(1)).reshape(made.shape[:2])
            for reader, prepare in ((self.colour, _same), (self.digit, strokes))
        )
        return Reading(colours, digits, legible(made))

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """[N,64] of uint8 [N,3,28,28]."""
        return np.asarray(_each(images, self.joint.body), dtype=np.float64)


def perceptual(reader: Reader, originals: NDArray[np.uint8], made: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Perceptual distance of uint8 [N,K,C,H,W] to their originals [N,C,H,W] in both convolutions of a reader, [N,K]."""
    found = []
    for of, others in zip(*(torch.from_numpy(all_).split(_ONE_PASS // 2) for all_ in (originals, made)), strict=True):
        with torch.no_grad():
            before = [layer.repeat_interleave(made.shape[1], dim=0).numpy() for layer in reader.layers(_scaled(of))]
            after = [layer.numpy() for layer in reader.layers(_scaled(others.flatten(0, 1)))]
        found.append(perceptual_distances(before, after).reshape(-1, made.shape[1]))
    return np.concatenate(found)


def strokes(images: Tensor) -> Tensor:
    """The brightest channel [B,1,H,W], divided by its maximum: no colour in it."""
    brightest = images.amax(dim=1, keepdim=True)
    return brightest / brightest.amax(dim=(2, 3), keepdim=True).clamp_min(1e-3)


def trained_reader(
    path: Path, shown: Callable[[], tuple[NDArray[np.uint8], NDArray[np.int64]]], seed: int = 7
) -> Reader:
    """A reader of ten classes, read from `path` or trained on grey images [N,1,28,28] and labels and written there."""
    reader = Reader(1, DIGITS)
    if path.is_file():
        reader.load_state_dict(torch.load(path, weights_only=True))
    else:
        images, labels = map(torch.from_numpy, shown())
        _train(reader, images, lambda x, rows: F.cross_entropy(reader(x), labels[rows]), seed)
        _written(reader.state_dict(), path)
    return reader.eval().requires_grad_(False)


def classes_and_features(reader: Reader, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Class [N] and features [N,64] of uint8 [N,C,28,28]."""
    features = _each(images, reader.body)
    with torch.no_grad():
        return reader.head(torch.from_numpy(features)).argmax(1).numpy(), np.asarray(features, dtype=np.float64)


def trained_readers(path: Path, shown: Callable[[], Coloured], seed: int = 7) -> Readers:
    """Read from `path` or trained and written there."""
    readers = Readers(Reader(1, DIGITS), Reader(3, len(COLOUR_NAMES)), Reader(3, DIGITS + len(COLOUR_NAMES)))
    modules = {"digit": readers.digit, "colour": readers.colour, "joint": readers.joint}
    if path.is_file():
        saved = torch.load(path, weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(saved[name])
    else:
        data = shown()
        digits, colours = torch.from_numpy(data.digits), torch.from_numpy(data.colours)
        losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "digit": lambda x, rows: F.cross_entropy(readers.digit(strokes(x)), digits[rows]),
            "colour": lambda x, rows: F.cross_entropy(readers.colour(x), colours[rows]),
            "joint": lambda x, rows: _both(readers.joint(x), digits[rows], colours[rows]),
        }
        for name, loss in losses.items():
            _train(modules[name], torch.from_numpy(data.images), loss, seed)
        _written({name: module.state_dict() for name, module in modules.items()}, path)
    for module in modules.values():
        module.eval().requires_grad_(False)
    return readers


def _written(state: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _both(logits: Tensor, digits: Tensor, colours: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :DIGITS], digits) + F.cross_entropy(logits[:, DIGITS:], colours)


def _train(network: nn.Module, images: Tensor, loss: Callable[[Tensor, Tensor], Tensor], seed: int) -> None:
    drawn = seeded(seed, "readers")
    with torch.no_grad():
        for parameter in network.parameters():  # independent of what was drawn before
            if parameter.ndim > 1:
                nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=drawn)
            else:
                parameter.zero_()
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    curve = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(images), (BATCH,), generator=drawn)
        x = _scaled(images[rows])
        value = loss((x + NOISE * torch.randn(x.shape, generator=drawn)).clamp(0, 1), rows)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        curve.step()


def _each(images: NDArray[np.uint8], of: Callable[[Tensor], Tensor]) -> NDArray[np.generic]:
    with torch.no_grad():
        return np.concatenate([of(_scaled(part)).numpy() for part in torch.from_numpy(images).split(_ONE_PASS)])


def _scaled(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255.0


def _same(images: Tensor) -> Tensor:
    return images
