"""How the heat, and what transplants replace, lie on the masks of test images, as the report page says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from xadflow.metrics.intervals import Rate, wilson_rate


@dataclass(frozen=True)
class OnMasks:
    """One figure: what it is, its value (NaN for none), and of how many; `rate` gives its interval where it has one."""

    what: str
    value: float
    of: str
    rate: Rate | None = None


def of_version(figures: Mapping[str, float]) -> tuple[OnMasks, ...]:
    """Of what a version's registration measured on split `test`, by name; none where it measured nothing."""
    if "iou" not in figures:
        return ()
    images, normals, regions = (round(figures[name]) for name in ("images", "normals", "regions"))
    found = wilson_rate(round(figures["regions_found"]), regions)
    defects = f"{_counted(images, 'defect')} with a mask"
    if "aupro" in figures:
        every = f"{defects}, {_counted(normals, 'normal')}"
        ranked = [
            OnMasks("heat, all pixels ranked (AUROC)", figures["auroc"], every),
            OnMasks("heat, every region alike (AUPRO)", figures["aupro"], _counted(regions, "region")),
        ]
    else:
        tied = f"not told: {100 * figures['tied_share']:.0f} % of the pairs of pixels have equal scores"
        ranked = [OnMasks("heat, pixels ranked (AUROC, AUPRO)", math.nan, tied)]
    return (
        *ranked,
        OnMasks("heat cut at its threshold, overlap (IoU)", figures["iou"], defects),
        OnMasks("regions that the cut heat touches", found.value, _counted(regions, "region"), found),
    )


def of_rows(iou: float, inside: float, rows: int) -> tuple[OnMasks, ...]:
    """Of the regions that tonight's transplants replaced: mean overlap with the mask, mean share that lies in it."""
    if not rows or not math.isfinite(iou):
        return ()
    of = f"{_counted(rows, 'image')} of tonight"
    return (OnMasks("region replaced, overlap (IoU)", iou, of), OnMasks("share of that region in the mask", inside, of))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
