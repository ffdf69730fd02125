"""How sure the figures of scenes are: intervals and paired differences by resampling whole scenes.

Pixels of one scene are not independent, scenes are. Scenes are drawn with replacement within each fold. All of it rests
on the counts that `SceneFigures(..., keep_scenes=True)` kept, so on the bins of `streaming.py`; for resamples of the
rank figures neighbouring bins are merged further, to at most 4096 levels none of which holds more than about 1/2000 of
the anomalous pixels or of the inliers (unless one bin does). Thresholds of the open figures stay those of the whole
set: their own spread is not in the interval. The spread seen is that over test scenes, not over training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadInput
from xadflow.metrics.intervals import Interval, PairedTest, wilson_rate
from xadflow.metrics.ranks import Counts, Floats, auroc_of, average_precision_of, fpr_at_tpr_of
from xadflow.metrics.scenes import ANOMALOUS, SceneFigures, anomaly_iou, closed_iou, open_iou

LEVELS = 4096
RESAMPLES_AT_ONCE = 250  # 250 x 4096 levels: tens of MB
MOST_UNDEFINED = 0.05


@dataclass(frozen=True)
class _Scenes:
    """Counts of S scenes: anomalous and inlier pixels [S,L] by level, highest first; pixels [S,K,3] in all and accepted
    (None without open figures); labelled inliers [S,K]; fold [S].
    """

    anomalous: Floats
    inliers: Floats
    total: Counts
    accepted: Counts | None
    labelled: Counts
    fold: Counts


def scene_intervals(
    scenes: SceneFigures, *, bootstrap: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile bootstrap interval over scenes of each figure by its name in `SceneSummary.as_metrics`.

    Those are `average_precision`, `auroc`, `fpr_at_95_tpr`, and, where there is an open set, `open_miou`,
    `closed_miou`, `open_set_gap` and `anomaly_iou`. A figure that is 0 or 1 in every resample gets Wilson's interval of
    as many scenes.

    Raises:
        BadInput: scenes were not kept, fewer than 100 resamples, a level outside (0, 1), too few scenes with anomalies
            to resample, or as `SceneFigures.summary`.
    """
    counts, point = _counts(scenes), scenes.summary().as_metrics()
    tail = _tail(level)
    intervals = {}
    for name, values in _resampled(scenes, counts, bootstrap, seed).items():
        low, high = (float(end) for end in np.quantile(values, (tail, 1 - tail)))
        if np.ptp(values) < 1e-12 and point[name] in (0.0, 1.0):
            wilson = wilson_rate(round(point[name] * len(counts.fold)), len(counts.fold), level)
            low, high = wilson.low, wilson.high
        intervals[name] = Interval(low, high)
    return intervals


def paired_scene_tests(
    a: SceneFigures, b: SceneFigures, *, bootstrap: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, PairedTest]:
    """Figure of a minus figure of b on the same resampled scenes: as :func:`mean_paired_scene_tests` of one pair."""
    return mean_paired_scene_tests([(a, b)], bootstrap=bootstrap, seed=seed, level=level)


def mean_paired_scene_tests(
    pairs: Sequence[tuple[SceneFigures, SceneFigures]], *, bootstrap: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, PairedTest]:
    """Mean over pairs (a, b), one for each training seed, of a's figure minus b's, by the names of
    :func:`scene_intervals`.

    A resample draws the same scenes for all. The interval is that over scenes with the trainings as they are; bins may
    differ. The p-value is as in `intervals.paired_bootstrap`: never below 2 / (bootstrap + 1).

    Raises:
        BadInput: no pair, as :func:`scene_intervals`, or scenes that differ in folds or labels, or come in another
        order.
    """
    if not pairs:
        raise BadInput("a paired test needs a pair", seen=0, next_step="pass at least one")
    counts = [(_counts(a), _counts(b)) for a, b in pairs]
    reference = counts[0][0]
    for one in (one for both in counts for one in both):
        if not _same(reference, one):
            raise BadInput(
                "a paired test needs the same scenes in the same order",
                seen=(len(reference.fold), len(one.fold)),
                next_step="add each batch to both, with both scores",
            )
    tail = _tail(level)
    sides = [[(pair[side], both[side]) for pair, both in zip(pairs, counts, strict=True)] for side in (0, 1)]
    drawn, other = ([_resampled(scenes, of, bootstrap, seed) for scenes, of in side] for side in sides)
    point, baseline = ([pair[side].summary().as_metrics() for pair in pairs] for side in (0, 1))
    names = [name for name in drawn[0] if all(name in one for one in (*drawn, *other))]
    tests = {}
    for name in names:
        change = np.mean([one[name] - its[name] for one, its in zip(drawn, other, strict=True)], axis=0)
        low, high = (float(end) for end in np.quantile(change, (tail, 1 - tail)))
        side = min(int((change <= 0).sum()), int((change >= 0).sum()))
        apart = float(np.mean([one[name] - its[name] for one, its in zip(point, baseline, strict=True)]))
        tests[name] = PairedTest(apart, low, high, min(1.0, 2 * (side + 1) / (change.size + 1)))
    return tests


def _same(first: _Scenes, second: _Scenes) -> bool:
    pairs = (
        (first.fold, second.fold),
        (first.labelled, second.labelled),
        (first.anomalous.sum(1), second.anomalous.sum(1)),
        (first.inliers.sum(1), second.inliers.sum(1)),
    )
    return all(np.array_equal(one, other) for one, other in pairs)


def _counts(scenes: SceneFigures) -> _Scenes:
    if not scenes.scenes:
        raise BadInput(
            "intervals need the counts of each scene",
            seen="none kept",
            next_step="build SceneFigures with keep_scenes=True, then add scenes",
        )
    bins, classes, size = scenes.bins.count, scenes.num_classes, len(scenes.scenes)
    pooled = scenes.table().sum((0, 1))  # (3, bins)
    level_of = _levels(pooled[ANOMALOUS], pooled[:ANOMALOUS].sum(0))
    width = int(level_of.max()) + 1
    by_kind = np.zeros((2, size, width))
    total = np.zeros((size, classes * 3), dtype=np.int64)
    accepted = np.zeros((size, classes * 3), dtype=np.int64)
    cuts = scenes.cuts()
    for place, scene in enumerate(scenes.scenes):
        group, at = np.divmod(scene.cells, bins)  # group = class * 3 + kind
        anomalous = group % 3 == ANOMALOUS
        for number, chosen in enumerate((anomalous, ~anomalous)):
            by_kind[number, place] = np.bincount(level_of[at[chosen]], scene.pixels[chosen], width)
        total[place] = np.bincount(group, scene.pixels, classes * 3)
        if cuts is not None:
            below = at < cuts[scene.fold]
            accepted[place] = np.bincount(group[below], scene.pixels[below], classes * 3)
    shape = (size, classes, 3)
    return _Scenes(
        by_kind[0],
        by_kind[1],
        total.reshape(shape),
        None if cuts is None else accepted.reshape(shape),
        np.stack([scene.labelled for scene in scenes.scenes]),
        np.array([scene.fold for scene in scenes.scenes]),
    )


def _levels(anomalous: Counts, inliers: Counts) -> Counts:
    """Level of each bin [bins]: 0 for the highest, rising as the score falls."""
    rises = np.zeros(anomalous.size, dtype=np.int64)
    for counts in (anomalous[::-1], inliers[::-1]):
        rises += (counts.cumsum() * (LEVELS // 2 - 1)) // max(int(counts.sum()), 1)
    return np.unique(rises, return_inverse=True)[1][::-1]


def _weights(counts: _Scenes, bootstrap: int, seed: int) -> Iterator[Floats]:
    """How often each scene is drawn, [b,S]; b sums to `bootstrap`."""
    if bootstrap < 100:
        raise BadInput("an interval needs at least 100 resamples", seen=bootstrap, next_step="use 1000")
    rng = np.random.default_rng(seed)
    for start in range(0, bootstrap, RESAMPLES_AT_ONCE):
        drawn = np.zeros((min(RESAMPLES_AT_ONCE, bootstrap - start), counts.fold.size))
        for fold in np.unique(counts.fold):
            own = counts.fold == fold
            drawn[:, own] = rng.multinomial(own.sum(), np.full(own.sum(), 1 / own.sum()), len(drawn))
        yield drawn


def _resampled(scenes: SceneFigures, counts: _Scenes, bootstrap: int, seed: int) -> dict[str, Floats]:
    """Figures of the resamples that have them, by name; at most 5 % have none."""
    found: dict[str, list[Floats]] = {}
    lost = 0
    for drawn in _weights(counts, bootstrap, seed):
        kept = drawn[_defined(counts, drawn)]
        lost += len(drawn) - len(kept)
        if len(kept):
            for name, values in _figures(scenes, counts, kept).items():
                found.setdefault(name, []).append(values)
    if lost > MOST_UNDEFINED * bootstrap:
        raise BadInput(
            "too few scenes with anomalies or inliers to resample",
            seen=f"{lost} of {bootstrap} resamples without",
            next_step="report no interval, or add scenes to each fold",
        )
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _defined(counts: _Scenes, drawn: Floats) -> NDArray[np.bool_]:
    """bool [b]: resamples with anomalous and labelled pixels, in each fold where there are open figures."""
    defined = np.ones(len(drawn), dtype=np.bool_)
    whole = np.zeros_like(counts.fold)
    for fold in np.unique(group := whole if counts.accepted is None else counts.fold):
        own = group == fold
        for pixels in (counts.anomalous[own].sum(1), counts.inliers[own].sum(1)):
            defined &= drawn[:, own] @ pixels > 0
    return defined


def _figures(scenes: SceneFigures, counts: _Scenes, drawn: Floats) -> dict[str, Floats]:
    p, n = (np.rint(drawn @ part).astype(np.int64) for part in (counts.anomalous, counts.inliers))
    figures = {
        "average_precision": average_precision_of(p, n),
        "auroc": auroc_of(p, n),
        "fpr_at_95_tpr": fpr_at_tpr_of(p, n, tpr=scenes.tpr, strict=scenes.strict),
    }
    if counts.accepted is not None:
        accepted = counts.accepted

        def mean_of_folds(formula: Callable[[Counts, Counts, Counts], Floats]) -> Floats:
            total = np.zeros(len(drawn))
            for fold in (0, 1):
                own = counts.fold == fold
                parts = (
                    np.tensordot(drawn[:, own], part[own], 1) for part in (accepted, counts.total, counts.labelled)
                )
                total += own.mean() * formula(*(np.rint(part).astype(np.int64) for part in parts))
            return total

        figures["open_miou"] = mean_of_folds(lambda taken, _, labelled: np.nanmean(open_iou(taken, labelled), axis=-1))
        figures["closed_miou"] = mean_of_folds(
            lambda _, total, labelled: np.nanmean(closed_iou(total, labelled), axis=-1)
        )
        figures["open_set_gap"] = figures["closed_miou"] - figures["open_miou"]
        figures["anomaly_iou"] = mean_of_folds(lambda taken, total, _: anomaly_iou(total - taken, total))
    return figures


def _tail(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise BadInput("a confidence level lies strictly between 0 and 1", seen=level, next_step="pass e.g. 0.95")
    return (1 - level) / 2
