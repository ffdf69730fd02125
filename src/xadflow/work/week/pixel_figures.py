"""Figures of a detector's maps on the masks of split `test`, at registration. Reported, never selected on.

For scenes with a class for each pixel see scene_figures.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from xadflow.calibration import threshold_at
from xadflow.datasets.loading import load_images, load_masks
from xadflow.datasets.manifest import Manifest, ManifestRow, Split
from xadflow.detectors.base import Detector
from xadflow.errors import NotFinite
from xadflow.images import as_float
from xadflow.metrics.localised import Localisation
from xadflow.metrics.streaming import ScoreRange
from xadflow.project import Project
from xadflow.training.lanes import side_by_side

PIXELS = "test.pixels"  # before the names of these figures in a version's run
logger = logging.getLogger(__name__)
_KEPT_BYTES = 2**29  # of maps between the two passes; of more they are made twice


def pixel_figures(
    project: Project, detector: Detector, manifest: Manifest, rows: Sequence[ManifestRow], images: Tensor, dataset: str
) -> dict[str, float]:
    """Figures of the maps of images uint8 [N,C,H,W] on the masks that their rows name, by name.

    None for scenes, for a detector without maps, or where no defect has a mask. Defects without one are left out with
    their whole image, and so are those whose mask has no pixel left at input size; `without_mask` and `mask_lost` count
    them. The map is cut as :func:`cut_of` says.
    """
    try:
        return _figures(project, detector, manifest, rows, images, dataset)
    except NotFinite as err:  # scores are finite, so the detector serves; its maps are nothing to measure
        logger.warning("no figures of the maps of %s: %s", dataset, err)
        return {}


def _figures(
    project: Project, detector: Detector, manifest: Manifest, rows: Sequence[ManifestRow], images: Tensor, dataset: str
) -> dict[str, float]:
    chosen = project.settings.dataset(dataset)
    marked = [place for place, row in enumerate(rows) if row.label == 1 and row.mask_path]
    if chosen.classes or not marked or (cut := cut_of(project, detector, manifest, dataset)) is None:
        return {}
    masks = load_masks(manifest, [rows[place] for place in marked], chosen)
    seen = masks.flatten(1).any(dim=1)
    normal = [place for place, row in enumerate(rows) if row.label == 0]
    places = [*(place for place, is_seen in zip(marked, seen.tolist(), strict=True) if is_seen), *normal]
    counted = {
        "without_mask": float(sum(row.label == 1 and not row.mask_path for row in rows)),
        "mask_lost": float((~seen).sum()),
    }
    truth = torch.cat([masks[seen], masks.new_zeros(len(normal), *masks.shape[1:])])
    if not truth.any() or truth.all():
        return counted
    pixels = images[torch.tensor(places)]
    kept = list(_maps(project, detector, pixels)) if 4 * truth.numel() <= _KEPT_BYTES else None
    limits = ScoreRange()
    for maps in kept or _maps(project, detector, pixels):
        limits.add(maps)
    found = Localisation(limits.bins(), cut, project.device)
    start = 0
    for maps in kept or _maps(project, detector, pixels):
        found.add(maps, truth[start : start + len(maps)].to(maps.device))
        start += len(maps)
    return {**counted, **found.figures().as_metrics()}


def cut_of(project: Project, detector: Detector, manifest: Manifest, dataset: str) -> float | None:
    """The level of a map above which the detector's share of false alarms of val normals has any pixel.

    It is to the map what the threshold is to the score, whose scale is another one. None for a detector without maps.
    """
    rows = manifest.rows(Split.VAL, label=0)
    highest = [
        maps.flatten(1).amax(dim=1).double().cpu().numpy()
        for maps in _maps(project, detector, load_images(manifest, rows, project.settings.dataset(dataset)))
    ]
    return threshold_at(np.concatenate(highest), detector.calibration.false_alarm_rate) if highest else None


def pixel_line(figures: Mapping[str, float]) -> str | None:
    """What a version's run says of its maps on the masks of `test`, in a line for people; None where nothing."""
    its = {name.removeprefix(f"{PIXELS}."): value for name, value in figures.items() if name.startswith(f"{PIXELS}.")}
    if "iou" not in its:
        return None
    if "aupro" in its:
        ranked = f"AUROC {its['auroc']:.3f}, AUPRO {its['aupro']:.3f}"
    else:
        ranked = f"AUROC and AUPRO not told, {100 * its['tied_share']:.0f} % of the pairs have equal scores"
    left = {"without a mask": its["without_mask"], "whose mask has no pixel left at input size": its["mask_lost"]}
    out = "".join(
        f"; {count:.0f} {'defect' if count == 1 else 'defects'} {why} left out" for why, count in left.items() if count
    )
    return (
        f"pixels of {its['images']:.0f} defects with masks and {its['normals']:.0f} normals of test: {ranked}; the map "
        f"cut at its threshold has an IoU of {its['iou']:.3f} and touches {its['regions_found']:.0f} of "
        f"{its['regions']:.0f} regions{out}"
    )


def _maps(project: Project, detector: Detector, images: Tensor) -> Iterator[Tensor]:
    """Maps of uint8 [N,C,H,W], batch by batch; nothing of a detector without."""

    def mapped(batch: Tensor) -> Tensor | None:
        with torch.no_grad():  # a thread has its own
            return detector.score(as_float(batch.to(project.device))).map

    batches = torch.split(images, project.settings.explain.batch_of(images.shape[1:])) if len(images) else ()
    for maps in side_by_side(mapped, batches, project.device):
        if maps is None:
            return
        if not bool(maps.isfinite().all()):
            raise NotFinite(
                "a map holds what is no finite number",
                seen=f"{int((~maps.isfinite()).sum())} pixels",
                next_step="look at `score` of the method: a division by zero, a logarithm of one?",
            )
        yield maps
