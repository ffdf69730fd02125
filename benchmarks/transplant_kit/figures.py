"""From kept cells to the figures of the table: values of each image first, then intervals over trainings and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.transplant_kit.arms import CURVE, MAIN, Arm, Task
from benchmarks.transplant_kit.cells import judged_of, judged_originals, kept_part, made_of, scores_of_test
from benchmarks.transplant_kit.detectors import JUDGES, explained, judge, maps_of
from benchmarks.transplant_kit.measures import across_trainings, changed, hottest, interval, iou, seam, usual_steps
from benchmarks.transplant_kit.sets import tested_set
from xadflow.calibration import threshold_at
from xadflow.explainers.transplant import TransplantSettings
from xadflow.metrics.edits import edit_cosines, pairwise_distances
from xadflow.metrics.ranks import auroc
from xadflow.metrics.realism import kernel_distance, normalised_frechet
from xadflow.settings import Home

Values = dict[str, NDArray[np.float64]]
FEWEST, SET_APART = 10, 100_000  # images of a training for a figure; between the row numbers of the sets of a group
HALF = 128  # of 255: from here on the donor prevails
MEDIANS = ("region", "region, all", "changed")
OF_REGIONS = ("transplant", "not apart", "untrained", "black box", "elsewhere")


def measured(home: Home, arm: Arm, task: Task) -> Values:
    """Figures of each explained image [N] by one arm; NaN where a figure makes no sense for it."""
    tested, made, said = tested_set(task.set), made_of(home, arm, task), judged_of(home, arm, task)
    originals, images, rows = task.originals.numpy(), made["made"], np.array(task.rows, dtype=np.intp)
    regions = made["blends"] >= HALF  # (N, K, H, W)
    is_valid = said["own"] <= explained(home, task.set, task.method, task.seed).calibration.threshold
    found: Values = {"valid": is_valid.mean(axis=1), "valid, the first": is_valid[:, 0].astype(np.float64)}
    for name in JUDGES:
        its, before = judge(home, task.set, name), judged_originals(home, task.set)[f"judge {name}"][rows]
        after = said[f"judge {name}"]
        asked = before > its.threshold
        found[f"transfer {name}"] = np.where(asked, (after <= its.threshold).mean(axis=1), np.nan)
        found[f"transfer of the first {name}"] = np.where(asked, after[:, 0] <= its.threshold, np.nan)
        found[f"drop {name}"] = np.where(asked, (before[:, None] - after).mean(axis=1) / its.spread, np.nan)
    areas = regions.mean(axis=(2, 3))
    of_region = arm.of in OF_REGIONS
    found["region"] = areas[:, 0] if of_region or arm.of == "nearest" else np.full(len(areas), np.nan)
    found["region, all"] = areas.mean(axis=1) if of_region or arm.of == "nearest" else found["region"]
    found["whole image"] = (found["region"] > 0.9).astype(np.float64) if of_region else np.full(len(areas), np.nan)
    found["changed"] = np.array([np.mean([changed(one, other) for other in row])
                                 for one, row in zip(originals, images, strict=True)])  # fmt: skip
    if images.shape[1] > 1:
        found["apart"] = pairwise_distances(originals, images).mean(axis=1) / 2  # on the [0,1] scale
        cosines = edit_cosines(originals, images)  # NaN where an alternative changed nothing
        told = np.isfinite(cosines).any(axis=1)
        found["likeness"] = np.full(len(rows), np.nan)
        found["likeness"][told] = np.nanmean(cosines[told], axis=1)
    if of_region:
        usual = usual_steps(tested.normals.numpy())
        found["seam"] = _mean_of_each(images, regions, usual)
        found["seam before"] = _mean_of_each(np.repeat(originals[:, None], images.shape[1], axis=1), regions, usual)
    if of_region and tested.masks is not None:
        found |= _overlaps(home, task, regions)
    found["passes"] = made["passes"].astype(np.float64)
    return found


def distances(home: Home, arm: Arm, task: Task) -> dict[str, float]:
    """Frechet and kernel distance to the normal test images, in % of those of the very anomalies explained.

    One alternative an image, the next one for the next image, so that all arms are sets of as many images as were explained.
    """
    rows, tested = np.array(task.rows), tested_set(task.set)
    features = judged_originals(home, task.set)["features"].astype(np.float64)
    of = judged_of(home, arm, task)["features"].astype(np.float64)
    union = of[np.arange(len(rows)), np.arange(len(rows)) % of.shape[1]]
    normals, anomalies = features[tested.labels == 0], features[rows]
    return {"frechet": normalised_frechet(union, normals, anomalies),
            "kid": 100.0 * kernel_distance(union, normals) / kernel_distance(anomalies, normals)}  # fmt: skip


def row_of(home: Home, arm: Arm, tasks: Mapping[int, Sequence[Task]]) -> dict[str, Any] | None:
    """Figures of one arm over trainings: seed to the tasks of the sets that make up the data set; None without a cell.

    Images that some trainings have measured and others not are left out of neither: the bootstrap is of what there is.
    """
    each: dict[str, dict[int, tuple[NDArray[np.intp], NDArray[np.float64]]]] = {}
    far: dict[str, list[float]] = {"frechet": [], "kid": []}
    counts = []
    for seed, whole in tasks.items():
        parts = [part for task in whole if len((part := kept_part(home, arm, task)).rows) >= FEWEST]
        if len(parts) < len(whole):
            continue
        values = [measured(home, arm, task) for task in parts]
        images = np.concatenate([np.array(task.rows, dtype=np.intp) + SET_APART * number for number, task in enumerate(parts)])
        order = np.argsort(images)
        for name in values[0]:
            each.setdefault(name, {})[seed] = (images[order], np.concatenate([one[name] for one in values])[order])
        of_parts = [distances(home, arm, task) for task in parts]
        for name, list_of in far.items():
            list_of.append(float(np.mean([one[name] for one in of_parts])))
        counts.append(len(images))
    if not counts:
        return None
    found: dict[str, Any] = {"images": counts}
    for name, by_seed in each.items():
        table = across_trainings(by_seed)
        if np.isfinite(table).any():
            found[name] = interval(table, np.nanmedian if name in MEDIANS else np.nanmean)
    return found | {name: {"value": float(np.mean(one)), "each_seed": one} for name, one in far.items()}


def curve_of(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Transfer against area: the transplants by how normal they had to become, and nearest normal as the end."""
    points = [(f"target {share}", f"transplant, target {share}") for share in CURVE]
    points.append((f"target {TransplantSettings().target_share}", MAIN))
    points.append(("nearest normal", "nearest normal, whole image"))
    told = [{"point": point, "region": rows[name]["region, all"], **{key: rows[name][key] for key in rows[name]
             if key.startswith("transfer ") and "first" not in key}} for point, name in points if name in rows]  # fmt: skip
    return sorted(told, key=lambda one: float(one["region"]["value"]))


def detectors_of(home: Home, tasks: Mapping[int, Sequence[Task]]) -> dict[str, Any]:
    """How good the explained detectors and the judges are, and how many anomalies they flag."""
    aurocs, flagged = [], []
    for parts in tasks.values():
        for task in parts:
            tested, scores = tested_set(task.set), scores_of_test(home, task.set, task.method, task.seed)
            aurocs.append(auroc(scores, tested.labels))
            threshold = explained(home, task.set, task.method, task.seed).calibration.threshold
            flagged.append(float((scores[tested.labels == 1] > threshold).mean()))
    judges: dict[str, Any] = {}
    for name in JUDGES:
        own = []
        for task in next(iter(tasks.values())):
            labels, scores = tested_set(task.set).labels, judged_originals(home, task.set)[f"judge {name}"]
            over = scores > judge(home, task.set, name).threshold
            own.append((auroc(scores, labels), float(over[labels == 1].mean()), float(over[labels == 0].mean())))
        judges[name] = dict(zip(("auroc", "flagged", "false_alarms"), np.mean(own, axis=0).tolist(), strict=True))
    return {"auroc": float(np.mean(aurocs)), "auroc_each": aurocs, "flagged": float(np.mean(flagged)), "judges": judges}


def _mean_of_each(
    images: NDArray[np.uint8], regions: NDArray[np.bool_], usual: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Mean seam [N] over the alternatives that have a border; NaN without any."""
    found = np.array([[seam(one, region, usual) for one, region in zip(row, its, strict=True)]
                      for row, its in zip(images, regions, strict=True)])  # fmt: skip
    known = np.isfinite(found)
    return np.where(known.any(axis=1), np.where(known, found, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1), np.nan)


def _overlaps(home: Home, task: Task, regions: NDArray[np.bool_]) -> Values:
    """IoU with the exact mask: of the first region, of the cut map, of as many of its hottest pixels."""
    masks = tested_set(task.set).masks
    assert masks is not None
    detector, truth = explained(home, task.set, task.method, task.seed), masks[list(task.rows)]
    found = {"iou": np.array([iou(region, mask) for region, mask in zip(regions[:, 0], truth, strict=True)]),
             "best iou": np.array([max(iou(region, mask) for region in its) for its, mask in zip(regions, truth, strict=True)])}
    maps = maps_of(detector, task.originals)
    if maps is not None:
        cut, own = maps > detector.calibration.threshold, maps > own_cut(home, task)
        found["iou of the heatmap at its own cut"] = np.array([iou(one, mask) for one, mask in zip(own, truth, strict=True)])
        found["iou of the cut heatmap"] = np.array([iou(one, mask) for one, mask in zip(cut, truth, strict=True)])
        found["iou of the hottest"] = np.array([iou(hottest(one, int(region.sum())), mask) for one, region, mask
                                                in zip(maps, regions[:, 0], truth, strict=True)])  # fmt: skip
        found["area of the cut heatmap"], found["area at its own cut"] = cut.mean(axis=(1, 2)), own.mean(axis=(1, 2))
    found["area of the defect"] = truth.mean(axis=(1, 2))
    return found


def own_cut(home: Home, task: Task) -> float:
    """The level of a map above which 5 % of the held-out normals have any pixel: the threshold that a map itself would have.

    FCDD's finer heatmap is on another scale than its score, so that the score's threshold means little to it.
    """
    detector = explained(home, task.set, task.method, task.seed)
    maps = maps_of(detector, tested_set(task.set).data.val_normals)
    assert maps is not None
    return threshold_at(maps.max(axis=(1, 2)).astype(np.float64), detector.calibration.false_alarm_rate)
