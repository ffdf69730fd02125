"""What a night's rows of test images with masks say: how the regions that transplants replaced lie on the defect."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from xadflow.datasets.loading import load_masks
from xadflow.datasets.manifest import Split, read_manifest
from xadflow.errors import BadImage, BadManifest
from xadflow.images import decode_png
from xadflow.metrics.localised import ious
from xadflow.metrics.ranks import Floats
from xadflow.project import Project
from xadflow.report.on_masks import OnMasks, of_rows, of_version
from xadflow.work.night.plan import NightPlan

logger = logging.getLogger(__name__)
REGION = "transplant.0.region"
PIXELS = "test.pixels."
_AT_ONCE = 100  # rows with their pictures in memory
_HALF = 127  # of 255: above it a region shows more of the donor than of the image


@dataclass(frozen=True)
class Night:
    """What the page shows, and what is logged of the night beside it."""

    shown: tuple[OnMasks, ...]
    figures: Mapping[str, float]


def night_on_masks(project: Project, plan: NightPlan) -> Night:
    """Figures of the version, from its run's metrics, and of tonight's rows.

    Masks are those of split `test`, of images that were flagged tonight and have a first transplant. Masks that cannot
    be read are said in the log, and stop no night.
    """
    measured = project.registry.figures(project.registry.resolve(f"{plan.model_name}/{plan.model_version}"))
    version = {name.removeprefix(PIXELS): value for name, value in measured.items() if name.startswith(PIXELS)}
    try:
        overlap, inside = _of_tonight(project, plan)
    except (BadImage, BadManifest) as err:
        logger.warning("the masks of %s could not be read: %s", plan.dataset, err)
        overlap, inside = np.zeros(0), np.zeros(0)
    count = len(overlap)
    iou, within = (float(overlap.mean()), float(inside.mean())) if count else (np.nan, np.nan)
    figures = {"transplant.region_iou": iou, "transplant.region_inside": within, "transplant.on_masks": float(count)}
    return Night((*of_version(version), *of_rows(iou, within, count)), figures if count else {})


def _of_tonight(project: Project, plan: NightPlan) -> tuple[Floats, Floats]:
    """IoU of each region with its mask, and the share of it that lies in the mask, float64 [N] each."""
    manifest, chosen = read_manifest(project.home.dataset(plan.dataset)), project.settings.dataset(plan.dataset)
    marked = {row.image_id: row for row in manifest.rows(Split.TEST, label=1) if row.mask_path}
    tonight = [image.image_id for shard in plan.shards for image in shard if image.image_id in marked]
    found: list[tuple[Floats, Floats]] = []
    for start in range(0, len(tonight), _AT_ONCE):
        where = (pc.field("run_id") == plan.run_id) & pc.field("image_id").isin(tonight[start : start + _AT_ONCE])
        rows = project.store.read("explanations", columns=["image_id", "images"], where=where).to_pylist()
        regions = {row["image_id"]: one for row in rows for one in _regions(row)}
        kept = [(image_id, one) for image_id, one in regions.items() if one.shape == chosen.shape_px and one.any()]
        if not kept:
            continue
        masks = load_masks(manifest, [marked[image_id] for image_id, _ in kept], chosen).numpy()
        replaced = np.stack([one for _, one in kept])
        seen = masks.any((1, 2))  # a mask may lose its last pixel by resizing
        both = (replaced & masks).sum((1, 2)) / replaced.sum((1, 2))
        found.append((ious(replaced, masks)[seen], both[seen]))
    if not found:
        return np.zeros(0), np.zeros(0)
    overlap, inside = zip(*found, strict=True)
    return np.concatenate(overlap), np.concatenate(inside)


def _regions(row: Mapping[str, Any]) -> list[NDArray[np.bool_]]:
    """The region bool [H,W] of a row's first transplant, if it has one."""
    return [
        decode_png(one["image"]["bytes"])[0] > _HALF
        for one in row["images"] or ()
        if one["name"] == REGION and one["image"] and one["image"]["bytes"]
    ]
