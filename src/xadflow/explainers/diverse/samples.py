"""What the generator makes of a few training images while it is trained: one sheet a quarter of the training. Display
only.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from xadflow.detectors.base import Detector
from xadflow.explainers.diverse.game import Players
from xadflow.explainers.diverse.places import place_mask
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.images import as_float, to_levels
from xadflow.pictures.counterfactual_sheet import CounterfactualRow, counterfactual_sheet

SHEETS = 4
SHOWN_ANOMALIES, SHOWN_NORMALS = 6, 2


@torch.no_grad()
def write_samples(
    detector: Detector,
    players: Players,
    banks: tuple[Tensor, Tensor],
    settings: DiverseSettings,
    usual: Tensor | None,
    path: Path,
    done: int,
) -> None:
    """Write a PNG of images spread over both banks, uint8 [N,C,H,W]: always the same, nothing is drawn."""
    rows: list[CounterfactualRow] = []
    concepts = settings.concepts
    for bank, shown, kind in ((banks[1], SHOWN_ANOMALIES, "anomaly"), (banks[0], SHOWN_NORMALS, "normal")):
        pixels = bank[torch.arange(shown, device=bank.device) * len(bank) // shown]
        x = (as_float(pixels) * 2.0 - 1.0).repeat_interleave(concepts, dim=0)
        which = torch.arange(concepts, device=x.device).repeat(len(pixels))
        mask = place_mask(settings.within, detector, usual, as_float(pixels))
        mask = None if mask is None else mask.repeat_interleave(concepts, dim=0)
        made = players.canvas.painted(players.average, x, torch.zeros(len(x), device=x.device), which, mask).float()
        stored = to_levels((made + 1.0) / 2.0)
        before = detector.score(as_float(pixels)).image.tolist()
        after = detector.score(as_float(stored)).image.tolist()
        for number, image in enumerate(pixels.cpu().numpy()):
            mine = slice(number * concepts, (number + 1) * concepts)
            labels = [f"score {value:.2f}" for value in after[mine]]
            rows.append(
                CounterfactualRow(image, list(stored[mine].cpu().numpy()), labels, f"{kind} {before[number]:.2f}")
            )
    counterfactual_sheet(rows, path, f"training images after {done} steps", changes=True)
