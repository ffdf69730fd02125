"""How sure a detection figure is: Wilson and bootstrap intervals, paired tests of two detectors on the same images.

All of them see the spread over test images only, not over training seeds, splits or products: say so where quoted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm, rankdata

from xadflow.errors import BadInput, unknown_name
from xadflow.metrics.ranks import FIGURES, Counts, Figure, Floats, Ranked, rank

CELLS_AT_ONCE = 4_000_000  # resamples are drawn in portions of about this many images: some 100 MB


@dataclass(frozen=True)
class Interval:
    """Two ends of a two-sided interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Rate:
    """A share `count` / `of` with its Wilson interval; all NaN when `of` is 0."""

    value: float
    low: float
    high: float
    count: int
    of: int


@dataclass(frozen=True)
class PairedTest:
    """Figure of a minus figure of b on the same images, its interval, and a two-sided p-value of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float


def wilson_rate(count: int, of: int, level: float = 0.95) -> Rate:
    """`count` of `of` as a share with Wilson's score interval, which stays sane at 0 and 1.

    Raises:
        BadInput: count outside 0..of.

    Source: Wilson, "Probable inference", JASA 1927.
    """
    if not 0 <= count <= of:
        raise BadInput("a count lies between 0 and its total", seen=(count, of), next_step="pass (count, of)")
    if of == 0:
        return Rate(math.nan, math.nan, math.nan, 0, 0)
    ends = binomtest(count, of).proportion_ci(_checked(level), method="wilson")
    return Rate(count / of, float(ends.low), float(ends.high), count, of)


def resampled_tables(ranked: Ranked, bootstrap: int, seed: int) -> Iterator[tuple[Counts, Counts]]:
    """Tables (anomalies, normals) [b,K] of resamples with replacement, drawn within each class; b sums to `bootstrap`.

    Two detectors on the same images and labels with the same seed get the same resampled images.
    """
    if bootstrap < 100:
        raise BadInput("an interval needs at least 100 resamples", seen=bootstrap, next_step="use 2000")
    rng = np.random.default_rng(seed)
    anomalies = ranked.level_of[ranked.is_anomaly]
    normals = ranked.level_of[~ranked.is_anomaly]
    portion = max(1, CELLS_AT_ONCE // ranked.level_of.size)
    for start in range(0, bootstrap, portion):
        rows = min(portion, bootstrap - start)
        yield _drawn(anomalies, ranked, rows, rng), _drawn(normals, ranked, rows, rng)


def _drawn(levels: Counts, ranked: Ranked, rows: int, rng: np.random.Generator) -> Counts:
    """[rows,K] counts of `levels` drawn `rows` times with replacement."""
    size = ranked.levels.size
    picks = levels[rng.integers(0, levels.size, (rows, levels.size))]
    picks += np.arange(rows)[:, None] * size  # one bincount for all rows
    return np.bincount(picks.ravel(), minlength=rows * size).reshape(rows, size)


def bootstrap_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    figure: str = "auroc",
    *,
    bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a rank figure over the test images, drawn within each class.

    `figure` is "auroc", "average_precision" or "fpr_at_95_tpr". Where the figure is the same in every resample (perfect
    separation: no spread to see), the interval is Wilson's for min(n, m) independent (anomaly, normal) pairs instead of
    a point: wider than needed, never falsely sure.

    Raises:
        BadInput: as `rank`, or fewer than 100 resamples.
        UnknownName: no such figure.
    """
    ranked = rank(scores, labels)
    return _interval_of(_figure(figure), ranked, _bootstrapped(_figure(figure), ranked, bootstrap, seed), level)


def _bootstrapped(formula: Figure, ranked: Ranked, bootstrap: int, seed: int) -> Floats:
    return np.concatenate([formula(*tables) for tables in resampled_tables(ranked, bootstrap, seed)])


def _interval_of(formula: Figure, ranked: Ranked, values: Floats, level: float) -> Interval:
    tail = (1 - _checked(level)) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    point = float(formula(*ranked.table()))
    pairs = int(min(ranked.is_anomaly.sum(), (~ranked.is_anomaly).sum()))
    if np.ptp(values) < 1e-12 and point in (0.0, 1.0):
        wilson = wilson_rate(round(point * pairs), pairs, level)
        return Interval(wilson.low, wilson.high)
    return Interval(float(low), float(high))


def paired_bootstrap(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    figure: str = "auroc",
    *,
    bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedTest:
    """Difference of a rank figure between two detectors on the same resampled images.

    The p-value is twice the smaller share of resamples on either side of 0, counted with (+1)/(+1) so that it is never
    0: its smallest value is 2 / (bootstrap + 1).

    Raises:
        BadInput: as `rank`. UnknownName: no such figure.
    """
    formula, a, b = _figure(figure), rank(scores_a, labels), rank(scores_b, labels)
    drawn = _bootstrapped(formula, a, bootstrap, seed) - _bootstrapped(formula, b, bootstrap, seed)
    tail = (1 - _checked(level)) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    side = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    point = float(formula(*a.table()) - formula(*b.table()))
    return PairedTest(point, float(low), float(high), min(1.0, 2 * (side + 1) / (bootstrap + 1)))


def delong_paired(scores_a: ArrayLike, scores_b: ArrayLike, labels: ArrayLike, level: float = 0.95) -> PairedTest:
    """DeLong's test of AUROC(a) - AUROC(b) on the same images, by midranks in O(N log N).

    Needs at least two images of each class. Two detectors with the same ranks give difference 0 and p-value 1.

    Raises:
        BadInput: as `rank`; fewer than two of a class; or a difference without any variance (both rank without a single
            disagreement inside a class), for which the normal approximation says nothing.

    Source: DeLong, DeLong & Clarke-Pearson, Biometrics 1988; midranks: Sun & Xu, IEEE Signal Processing Letters 2014.
    """
    is_anomaly = rank(scores_a, labels).is_anomaly
    rank(scores_b, labels)
    if min(int(is_anomaly.sum()), int((~is_anomaly).sum())) < 2:
        raise BadInput(
            "DeLong's test needs two images of each class", seen=int(is_anomaly.sum()), next_step="test on more images"
        )
    v10_a, v01_a = _structural_components(scores_a, is_anomaly)
    v10_b, v01_b = _structural_components(scores_b, is_anomaly)
    by_anomaly, by_normal = v10_a - v10_b, v01_a - v01_b
    difference = float(by_anomaly.mean())
    deviation = math.sqrt(by_anomaly.var(ddof=1) / by_anomaly.size + by_normal.var(ddof=1) / by_normal.size)
    if deviation < 1e-12:
        if abs(difference) < 1e-12:
            return PairedTest(0.0, 0.0, 0.0, 1.0)
        raise BadInput(
            "DeLong's test has no variance to judge this difference by",
            seen=difference,
            next_step="look at the scores: one detector ranks perfectly, the other is constant",
        )
    z = float(norm.ppf(0.5 + _checked(level) / 2))
    p_value = float(2 * norm.sf(abs(difference) / deviation))
    return PairedTest(difference, difference - z * deviation, difference + z * deviation, p_value)


def _structural_components(scores: ArrayLike, is_anomaly: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """V10 [m]: share of normals below each anomaly; V01 [n]: share of anomalies above each normal; ties one half."""
    values = np.asarray(scores, dtype=np.float64)
    anomalies, normals = values[is_anomaly], values[~is_anomaly]
    overall = np.asarray(rankdata(values), dtype=np.float64)
    v10 = (overall[is_anomaly] - rankdata(anomalies)) / normals.size
    v01 = 1.0 - (overall[~is_anomaly] - rankdata(normals)) / anomalies.size
    return np.asarray(v10, dtype=np.float64), np.asarray(v01, dtype=np.float64)


def _figure(name: str) -> Figure:
    if name not in FIGURES:
        raise unknown_name("no rank figure of that name", name, FIGURES)
    return FIGURES[name]


def _checked(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise BadInput("a confidence level lies strictly between 0 and 1", seen=level, next_step="pass e.g. 0.95")
    return level
