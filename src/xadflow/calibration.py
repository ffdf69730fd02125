"""From raw scores to decisions: conformal threshold and p-value from held-out normals, temperature for P(normal).

Source: split conformal prediction (Papadopoulos et al., ECML 2002; Bates et al., "Testing for outliers with conformal
p-values", Ann. Statist. 2023). The guarantee is marginal and needs exchangeable normals: it says nothing about defects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadInput, TooFewNormals

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """What turns a raw score into a decision, a p-value and a probability.

    `normal_scores` [N] are the sorted raw scores of the held-out normals; `calibration_error` is the expected
    calibration error of P(normal) on the set that fitted the temperature (in-sample: a lower bound), and
    `defects_used` says what stood against the normals: "known", "synthetic", or "none" (temperature is then the spread
    of the normals).
    """

    threshold: float
    temperature: float
    false_alarm_rate: float
    normal_scores: Floats
    calibration_error: float
    defects_used: str

    def p_value(self, scores: Floats) -> Floats:
        """Conformal p-value of each score; see :func:`conformal_p_value`."""
        return conformal_p_value(scores, self.normal_scores)


def threshold_at(normal_scores: Floats, false_alarm_rate: float) -> float:
    """Raw score above which at most `false_alarm_rate` of new normal images will fall.

    The k-th smallest of N held-out scores with k = ceil((N+1)(1-rate)); an image is anomalous when score > threshold.

    Raises:
        TooFewNormals: (N + 1) * rate < 1, so no finite threshold has the coverage.

    >>> threshold_at(np.arange(99.0), 0.1)
    89.0
    """
    if not 0.0 < false_alarm_rate < 1.0:
        raise BadInput(
            "a false-alarm rate lies strictly between 0 and 1",
            seen=false_alarm_rate,
            next_step="set calibration.false_alarm_rate in params.yaml",
        )
    scores = np.sort(_finite(normal_scores))
    rank = math.ceil(round((scores.size + 1) * (1.0 - false_alarm_rate), 9))  # round: 100 * 0.9 is 90.00000000000001
    if rank > scores.size:
        needed = math.ceil(1.0 / false_alarm_rate) - 1
        raise TooFewNormals(
            f"a false-alarm rate of {false_alarm_rate} needs at least {needed} held-out normals",
            seen=scores.size,
            next_step="add normal images to the `val` split, or raise calibration.false_alarm_rate in params.yaml",
        )
    return float(scores[rank - 1])


def conformal_p_value(scores: Floats, normal_scores: Floats) -> Floats:
    """(1 + number of held-out normals with score >= s) / (N + 1), for each s; small is anomalous, never 0.

    Raises:
        BadInput: a score that is not finite.

    >>> conformal_p_value(np.array([5.0, -1.0]), np.array([0.0, 1.0, 2.0]))
    array([0.25, 1.  ])
    """
    ordered = np.sort(_finite(normal_scores))
    below = np.searchsorted(ordered, _finite(scores), side="left")
    return np.asarray((1 + ordered.size - below) / (ordered.size + 1), dtype=np.float64)


def fit_temperature(normal_scores: Floats, defect_scores: Floats, threshold: float) -> float:
    """T > 0 minimising the balanced negative log likelihood of P(normal) = sigmoid((threshold - score) / T).

    Both classes weigh one half, whatever their counts. The threshold stays where the false-alarm rate put it, so only
    the slope is fitted (bounded scalar search on log T).
    """
    spread = _spread(np.concatenate([normal_scores, defect_scores]), threshold)

    def loss(log_t: float) -> float:
        t = math.exp(log_t)
        normal = np.logaddexp(0.0, -(threshold - normal_scores) / t).mean()
        defect = np.logaddexp(0.0, (threshold - defect_scores) / t).mean()
        return float(normal + defect)

    centre = math.log(spread)
    from scipy.optimize import minimize_scalar  # half a second of processor time; who only scores calibrates nothing

    found = minimize_scalar(loss, bounds=(centre - 7.0, centre + 3.0), method="bounded")
    return math.exp(float(found.x))


def expected_calibration_error(p_normal: Floats, is_normal: NDArray[np.bool_], bins: int = 10) -> float:
    """Balanced ECE: mean over equal-width bins of |mean p - share normal|, each class weighing one half."""
    weight = np.where(is_normal, 0.5 / max(int(is_normal.sum()), 1), 0.5 / max(int((~is_normal).sum()), 1))
    which = np.minimum((p_normal * bins).astype(np.int64), bins - 1)
    gap = np.bincount(which, weight * (p_normal - is_normal), minlength=bins)
    return float(np.abs(gap).sum() / weight.sum())


def calibrate(normal_scores: Floats, defect_scores: Floats, false_alarm_rate: float, defects_used: str) -> Calibration:
    """Threshold from the held-out normals alone; temperature and its calibration error from both.

    `defect_scores` may be empty: the temperature is then the spread of the normals around the threshold, and the
    calibration error is NaN.
    """
    normals = np.sort(_finite(normal_scores))
    threshold = threshold_at(normals, false_alarm_rate)
    if defect_scores.size == 0:
        return Calibration(threshold, _spread(normals, threshold), false_alarm_rate, normals, math.nan, "none")
    from scipy.special import expit

    defects = _finite(defect_scores)
    temperature = fit_temperature(normals, defects, threshold)
    scores = np.concatenate([normals, defects])
    error = expected_calibration_error(expit((threshold - scores) / temperature), np.arange(scores.size) < normals.size)
    return Calibration(threshold, temperature, false_alarm_rate, normals, error, defects_used)


def _spread(scores: Floats, threshold: float) -> float:
    return float(max(np.abs(scores - threshold).mean(), 1e-12 * max(abs(threshold), 1.0)))


def _finite(scores: Floats) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise BadInput(
            "scores must be finite numbers",
            seen=values[~np.isfinite(values)][:3].tolist(),
            next_step="look at the image or the weights that gave them",
        )
    return values
