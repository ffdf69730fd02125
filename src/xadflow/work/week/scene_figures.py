"""Figures of scenes at registration: pixels, and open-set segmentation across two towns. Reported, never
selected on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from xadflow.datasets.loading import load_labels, load_masks
from xadflow.datasets.manifest import Manifest, ManifestRow
from xadflow.detectors.base import Cued, Cues, Detector
from xadflow.images import VOID, as_float
from xadflow.metrics.scenes import SceneFigures
from xadflow.metrics.streaming import ScoreRange
from xadflow.project import Project

Batch = tuple[Tensor, Cues, Tensor, Tensor, list[int]]  # map, cues, labels, anomaly, fold of each image


def scene_figures(
    project: Project, detector: Detector, manifest: Manifest, rows: Sequence[ManifestRow], images: Tensor, dataset: str
) -> dict[str, float]:
    """Pooled pixel figures and open-set figures of scenes [N,C,H,W] uint8, by name; none for other detectors or data
    sets.

    Pixel figures need anomalous and normal pixels; open-set ones a second fold as well. A fold is a `category` of the
    manifest: the first by name of those with anomalies, and all others. Two passes over the images: the bins' range
    comes first, so maps are never held together.
    """
    chosen = project.settings.dataset(dataset)
    if not chosen.classes or not isinstance(detector, Cued) or not any(row.label == 1 for row in rows):
        return {}
    labels = load_labels(manifest, rows, chosen)
    anomaly = load_masks(manifest, rows, chosen)
    first = min(row.category for row in rows if row.label == 1)
    folds = [int(row.category != first) for row in rows]
    where = project.device

    def batches() -> Iterator[Batch]:
        for at in torch.split(torch.arange(len(rows)), project.settings.explain.batch_size):
            with torch.no_grad():
                cues = detector.cues(as_float(images[at].to(where)))
            score = torch.stack(list(cues.maps.values())).sum(dim=0)
            yield score, cues, labels[at].to(where), anomaly[at].to(where), [folds[int(number)] for number in at]

    limits = ScoreRange()
    for score, _, ids, defect, _ in batches():
        limits.add(score, (ids == VOID) & ~defect)
    figures = SceneFigures(len(chosen.classes), limits.bins(), device=where)
    for score, cues, ids, defect, fold in batches():
        figures.add(score, cues.classes, ids, defect, fold)
    return figures.summary().as_metrics()
