"""From kept cells to the figures of the table: values of each image first, then intervals over trainings and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.kit.judging import across_seeds, kernel_share
from benchmarks.transplant_kit.arms import BY_TITLE, CURVE, MAIN, Arm, Task
from benchmarks.transplant_kit.cells import judged_of, judged_originals, kept_part, made_of, scores_of_test
from benchmarks.transplant_kit.detectors import JUDGES, explained, judge, maps_of
from benchmarks.transplant_kit.measures import changed, hottest, interval, iou, seam, usual_steps
from benchmarks.transplant_kit.sets import tested_set
from xadflow.calibration import threshold_at
from xadflow.explainers.transplant import TransplantSettings
from xadflow.metrics.edits import edit_cosines, pairwise_distances
from xadflow.metrics.ranks import auroc
from xadflow.metrics.realism import normalised_frechet

Values = dict[str, NDArray[np.float64]]
FEWEST, SET_APART = 10, 100_000  # images of a training for a figure; between the row numbers of the sets of a group
WHOLE_SHARE = 0.9
HALF = 128  # of 255: from here on the donor prevails
MEDIANS = ("region", "region, all", "changed")
OF_REGIONS = ("transplant", "not apart", "untrained", "black box", "elsewhere")


def measured(arm: Arm, task: Task) -> Values:
    """Figures of each explained image [N] by one arm; NaN where a figure makes no sense for it."""
    tested, made, said = tested_set(task.set), made_of(arm, task), judged_of(arm, task)
    originals, images, rows = task.originals.numpy(), made["made"], np.array(task.rows, dtype=np.intp)
    regions = made["blends"] >= HALF  # (N, K, H, W)
    is_valid = said["own"] <= explained(task.set, task.method, task.seed).calibration.threshold
    shown = shown_of(arm, images, is_valid if arm.of != "elsewhere" else _valid_of_main(task))
    found: Values = {
        "valid": mean_of(is_valid, shown),
        "valid, the first": is_valid[:, 0].astype(np.float64),
        "alternatives": shown.sum(axis=1).astype(np.float64),
    }
    for name in JUDGES:
        its, before = judge(task.set, name), judged_originals(task.set)[f"judge {name}"][rows]
        after = said[f"judge {name}"]
        asked = before > its.threshold
        found[f"transfer {name}"] = np.where(asked, mean_of(after <= its.threshold, shown), np.nan)
        found[f"transfer of the first {name}"] = np.where(asked, after[:, 0] <= its.threshold, np.nan)
        found[f"drop {name}"] = np.where(asked, mean_of(before[:, None] - after, shown) / its.spread, np.nan)
    areas, of_region = regions.mean(axis=(2, 3)), arm.of in OF_REGIONS
    if of_region or arm.of == "nearest":
        found["region"], found["region, all"] = areas[:, 0], mean_of(areas, shown)
        found["whole image"] = (areas[:, 0] > WHOLE_SHARE).astype(np.float64)
    found["changed"] = mean_of(
        np.array([[changed(one, other) for other in row] for one, row in zip(originals, images, strict=True)]), shown
    )
    if images.shape[1] > 1:
        first, second = np.triu_indices(images.shape[1], 1)
        both = shown[:, first] & shown[:, second]
        found["apart"] = mean_of(pairwise_distances(originals, images) / 2, both)  # on the [0,1] scale
        cosines = edit_cosines(originals, images)  # NaN where an alternative changed nothing
        found["likeness"] = mean_of(np.nan_to_num(cosines), both & np.isfinite(cosines))
    if of_region:
        usual = usual_steps(tested.normals.numpy())
        found["seam"] = _mean_seam(images, regions, usual, shown)
        found["seam before"] = _mean_seam(np.repeat(originals[:, None], images.shape[1], axis=1), regions, usual, shown)
    if arm.of == "untrained":  # it leaves an image alone that it does not flag itself
        touched = areas.max(axis=1) > 0
        found["touched"] = touched.astype(np.float64)
        for name in ("valid", f"transfer {JUDGES[0]}", "region"):
            found[f"{name}, of the touched"] = np.where(touched, found[name], np.nan)
    if of_region and tested.masks is not None:
        found |= _overlaps(task, regions)
    found["passes"] = made["passes"].astype(np.float64)
    return found


def distances(arm: Arm, task: Task) -> dict[str, float]:
    """Frechet and kernel distance to the normal test images, in % of those of the very anomalies explained.

    One alternative an image, the next one for the next image, so that all arms are sets of as many images as were
    explained.
    """
    rows, tested = np.array(task.rows), tested_set(task.set)
    features = judged_originals(task.set)["features"].astype(np.float64)
    said = judged_of(arm, task)
    is_valid = said["own"] <= explained(task.set, task.method, task.seed).calibration.threshold
    shown = shown_of(arm, made_of(arm, task)["made"], is_valid if arm.of != "elsewhere" else _valid_of_main(task))
    turns = np.arange(len(rows)) % shown.sum(axis=1)  # which of its alternatives stands for an image
    places = np.argsort(~shown, axis=1, kind="stable")[np.arange(len(rows)), turns]
    union = said["features"].astype(np.float64)[np.arange(len(rows)), places]
    normals, anomalies = features[tested.labels == 0], features[rows]
    return {"frechet": normalised_frechet(union, normals, anomalies), "kid": kernel_share(union, normals, anomalies)}


def row_of(arm: Arm, tasks: Mapping[int, Sequence[Task]]) -> dict[str, Any] | None:
    """Figures of one arm over trainings: seed to the tasks of the sets that make up the data set; None without a cell.

    Images that some trainings have measured and others not are left out of neither: the bootstrap is of what there is.
    """
    each: dict[str, dict[int, tuple[NDArray[np.intp], NDArray[np.float64]]]] = {}
    far: dict[str, list[float]] = {"frechet": [], "kid": []}
    counts = []
    for seed, whole in tasks.items():
        parts = [part for task in whole if len((part := kept_part(arm, task)).rows) >= FEWEST]
        if len(parts) < len(whole):
            continue
        values = [measured(arm, task) for task in parts]
        images = np.concatenate(
            [np.array(task.rows, dtype=np.intp) + SET_APART * number for number, task in enumerate(parts)]
        )
        order = np.argsort(images)
        for name in values[0]:
            each.setdefault(name, {})[seed] = (images[order], np.concatenate([one[name] for one in values])[order])
        of_parts = [distances(arm, task) for task in parts]
        for name, list_of in far.items():
            list_of.append(float(np.mean([one[name] for one in of_parts])))
        counts.append(len(images))
    if not counts:
        return None
    found: dict[str, Any] = {"images": counts}
    for name, by_seed in each.items():
        table = across_seeds(by_seed)
        if np.isfinite(table).any():
            found[name] = interval(table, np.nanmedian if name in MEDIANS else np.nanmean)
    return found | {name: {"value": float(np.mean(one)), "each_seed": one} for name, one in far.items()}


def curve_of(tasks: Mapping[int, Sequence[Task]]) -> list[dict[str, Any]]:
    """Transfer against area, all points on the same images: transplants by how normal they had to become, nearest
    normal last.

    Images are those that every point was measured on; nothing where there are none.
    """
    points = [(f"target {share}", BY_TITLE[f"transplant, target {share}"]) for share in CURVE]
    points.append((f"target {TransplantSettings().target_share}", BY_TITLE[MAIN]))
    points.append(("nearest normal", BY_TITLE["nearest normal, whole image"]))
    shared: dict[int, list[Task]] = {}
    for seed, whole in tasks.items():
        parts = [task.part(0, min(len(kept_part(arm, task).rows) for _, arm in points)) for task in whole]
        if all(len(part.rows) >= FEWEST for part in parts):
            shared[seed] = parts
    rows = [(point, row_of(arm, shared)) for point, arm in points] if shared else []
    told = [
        {
            "point": point,
            "region": row["region, all"],
            "images": row["images"],
            **{f"transfer {name}": row[f"transfer {name}"] for name in JUDGES},
        }
        for point, row in rows
        if row
    ]
    return sorted(told, key=lambda one: float(one["region"]["value"]))


def detectors_of(tasks: Mapping[int, Sequence[Task]]) -> dict[str, Any]:
    """How good the explained detectors and the judges are, and how many anomalies they flag."""
    aurocs, flagged = [], []
    for parts in tasks.values():
        for task in parts:
            tested, scores = tested_set(task.set), scores_of_test(task.set, task.method, task.seed)
            aurocs.append(auroc(scores, tested.labels))
            threshold = explained(task.set, task.method, task.seed).calibration.threshold
            flagged.append(float((scores[tested.labels == 1] > threshold).mean()))
    judges: dict[str, Any] = {}
    for name in JUDGES:
        own = []
        for task in next(iter(tasks.values())):
            labels, scores = tested_set(task.set).labels, judged_originals(task.set)[f"judge {name}"]
            over = scores > judge(task.set, name).threshold
            own.append((auroc(scores, labels), float(over[labels == 1].mean()), float(over[labels == 0].mean())))
        judges[name] = dict(zip(("auroc", "flagged", "false_alarms"), np.mean(own, axis=0).tolist(), strict=True))
    return {"auroc": float(np.mean(aurocs)), "auroc_each": aurocs, "flagged": float(np.mean(flagged)), "judges": judges}


def shown_of(arm: Arm, images: NDArray[np.uint8], is_valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which alternatives [N,K] of images [N,K,C,H,W] count: those that a row of the product shows.

    One that repeats the first stands for none. Of a transplant that has a normal alternative, those that stay anomalous
    are left out; whether one is normal is not asked of the detector of drawn weights, which is not the one that judges
    here.
    """
    repeated = np.zeros(images.shape[:2], dtype=np.bool_)
    for k in range(1, images.shape[1]):
        repeated[:, k] = (images[:, k] == images[:, 0]).all(axis=(1, 2, 3))
    if arm.of not in OF_REGIONS or arm.of == "untrained":
        return ~repeated
    shown = ~repeated & (is_valid | ~is_valid.any(axis=1, keepdims=True))
    shown[:, 0] |= ~shown.any(axis=1)
    return shown


def mean_of(values: NDArray[Any], shown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean [N] over the places of [N,K] that count; NaN where none does."""
    count = shown.sum(axis=1)
    return np.where(count > 0, np.where(shown, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _valid_of_main(task: Task) -> NDArray[np.bool_]:
    """Which alternatives of the main arm are normal, of the images that another arm was measured on."""
    threshold = explained(task.set, task.method, task.seed).calibration.threshold
    return np.asarray(judged_of(BY_TITLE[MAIN], task)["own"][: len(task.rows)] <= threshold)


def _mean_seam(
    images: NDArray[np.uint8],
    regions: NDArray[np.bool_],
    usual: tuple[NDArray[np.float64], NDArray[np.float64]],
    shown: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Mean seam [N] over the alternatives that count and have a border; NaN without any."""
    found = np.array(
        [
            [seam(one, region, usual) for one, region in zip(row, its, strict=True)]
            for row, its in zip(images, regions, strict=True)
        ]
    )
    return mean_of(np.nan_to_num(found), shown & np.isfinite(found))


def _overlaps(task: Task, regions: NDArray[np.bool_]) -> Values:
    """IoU with the exact mask: of the first region, of the cut map, of as many of its hottest pixels."""
    masks = tested_set(task.set).masks
    assert masks is not None
    detector, truth = explained(task.set, task.method, task.seed), masks[list(task.rows)]
    found = {
        "iou": np.array([iou(region, mask) for region, mask in zip(regions[:, 0], truth, strict=True)]),
        "best iou": np.array(
            [max(iou(region, mask) for region in its) for its, mask in zip(regions, truth, strict=True)]
        ),
    }
    maps = maps_of(detector, task.originals)
    if maps is not None:
        cut, own = maps > detector.calibration.threshold, maps > own_cut(task)
        found["iou of the heatmap at its own cut"] = np.array(
            [iou(one, mask) for one, mask in zip(own, truth, strict=True)]
        )
        found["iou of the cut heatmap"] = np.array([iou(one, mask) for one, mask in zip(cut, truth, strict=True)])
        found["iou of the hottest"] = np.array(
            [
                iou(hottest(one, int(region.sum())), mask)
                for one, region, mask in zip(maps, regions[:, 0], truth, strict=True)
            ]
        )
        found["area of the cut heatmap"], found["area at its own cut"] = cut.mean(axis=(1, 2)), own.mean(axis=(1, 2))
    found["area of the defect"] = truth.mean(axis=(1, 2))
    return found


def own_cut(task: Task) -> float:
    """The level of a map above which 5 % of the held-out normals have any pixel: the threshold that a map itself would
    have.

    FCDD's finer heatmap is on another scale than its score, so that the score's threshold means little to it.
    """
    detector = explained(task.set, task.method, task.seed)
    maps = maps_of(detector, tested_set(task.set).data.val_normals)
    assert maps is not None
    return threshold_at(maps.max(axis=(1, 2)).astype(np.float64), detector.calibration.false_alarm_rate)
