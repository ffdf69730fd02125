"""One cell of the probe: a detector trained on planted images, and what it says of the test images with and without
mark.

Scores are raw. A detector scores each image by itself, so the scores of every copy of the test set (as planted, without
marks, marks on the other side) are put together from two passes: all images without the mark, and all with it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xadflow.detectors.base import Detector
from xadflow.errors import WorkFailed
from xadflow.explainers.heatmap import HeatmapSettings, gradient_maps
from xadflow.images import as_float
from xadflow.metrics.explanation import heat_inside
from xadflow.work.probe.planting import TestImages

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """Figures image by image, in the order of the test images.

    `raw`, `marked` [N]: scores without and with the mark. `heat` [N]: share of the marked image's heat inside the mark;
    `heat_raw` [N]: share at the same place of the image without it. `maps` [P,H,W]: heatmaps of the marked images
    shown. `seconds` is what the training took.
    """

    raw: Floats
    marked: Floats
    heat: Floats
    heat_raw: Floats
    maps: NDArray[np.float32]
    seconds: float

    def save(self, path: Path) -> None:
        """Write one .npz; a kill leaves the old file or none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name("partial.npz")
        np.savez(partial, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Cell:
        """Read what `save` wrote. Raises WorkFailed when it is broken."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                read = {field.name: stored[field.name] for field in fields(cls)}
                return cls(**{**read, "seconds": float(read["seconds"])})
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as err:
            raise WorkFailed(
                "a cell of the probe cannot be read",
                seen=f"{path.parent.name[:12]}: {err}",
                next_step=f"remove var/probe/*/cells/{path.parent.name}; it is made again",
            ) from err


def measured(
    detector: Detector, test: TestImages, shown: list[int], batch_size: int, device: torch.device, seconds: float = 0.0
) -> Cell:
    """Score all test images without and with the mark; heat shares of both, and the maps of the images `shown`."""
    raw, heat_raw, _ = _passed(detector, test.images, test.masks, [], batch_size, device)
    marked, heat, maps = _passed(detector, test.marked, test.masks, shown, batch_size, device)
    return Cell(raw, marked, heat, heat_raw, maps, seconds)


def _passed(
    detector: Detector, images: Tensor, masks: Tensor, shown: list[int], batch_size: int, device: torch.device
) -> tuple[Floats, Floats, NDArray[np.float32]]:
    scores, heat, kept = list[Floats](), list[Floats](), list[NDArray[np.float32]]()
    for rows in torch.split(torch.arange(len(images)), batch_size):
        image_scores, maps = _scored(detector, as_float(images[rows].to(device)))
        scores.append(image_scores)
        heat.append(heat_inside(maps, masks[rows].numpy()))
        kept += [maps[row - int(rows[0])] for row in shown if int(rows[0]) <= row <= int(rows[-1])]
    stacked = np.stack(kept) if kept else np.zeros((0, *images.shape[2:]), dtype=np.float32)
    return np.concatenate(scores), np.concatenate(heat), stacked


def _scored(detector: Detector, images: Tensor) -> tuple[Floats, NDArray[np.float32]]:
    with torch.no_grad():
        scores = detector.score(images)
    if scores.map is None:
        maps = gradient_maps(detector, images, HeatmapSettings().blur)
    else:
        maps = scores.map.float().cpu().numpy()
    return np.asarray(scores.image.double().cpu().numpy(), dtype=np.float64), np.asarray(maps, dtype=np.float32)
