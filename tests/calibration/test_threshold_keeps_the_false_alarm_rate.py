import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brute

from xadflow.calibration import calibrate, conformal_p_value, expected_calibration_error, fit_temperature, threshold_at
from xadflow.errors import BadInput, TooFewNormals

SCORES = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=60)


@given(SCORES, SCORES)
@settings(deadline=None)
def test_p_value_is_the_rank_counted_one_by_one(scores: list[float], normals: list[float]) -> None:
    counted = [(1 + sum(normal >= score for normal in normals)) / (len(normals) + 1) for score in scores]
    assert conformal_p_value(np.array(scores), np.array(normals)).tolist() == counted


@given(SCORES, st.floats(0.02, 0.98))
@settings(deadline=None)
def test_flagged_exactly_when_p_value_is_at_most_the_rate_without_ties(normals: list[float], rate: float) -> None:
    distinct = np.unique(np.array(normals))
    try:
        threshold = threshold_at(distinct, rate)
    except TooFewNormals:
        assert (distinct.size + 1) * rate < 1
        return
    p_values = conformal_p_value(distinct, distinct)
    # score > threshold <=> at most floor((N+1) rate) - 1 normals stand above: the definition of the rank.
    above = (distinct > threshold).sum()
    assert above <= (distinct.size + 1) * rate
    assert (distinct >= threshold).sum() > (distinct.size + 1) * rate - 1 - 1e-9
    assert (p_values > 0).all()
    assert (p_values <= 1).all()


def test_the_share_of_new_normals_flagged_is_the_rate() -> None:
    rng = np.random.default_rng(0)
    rate, n, rounds = 0.1, 99, 4000
    flagged = [rng.standard_normal() > threshold_at(rng.standard_normal(n), rate) for _ in range(rounds)]
    error = 3 * np.sqrt(rate * (1 - rate) / rounds)
    assert abs(np.mean(flagged) - rate) < error


def test_p_values_of_new_normals_are_uniform() -> None:
    rng = np.random.default_rng(1)
    p_values = np.array([conformal_p_value(rng.random(1), rng.random(19))[0] for _ in range(4000)])
    for level in (0.05, 0.25, 0.5, 0.9):
        assert (p_values <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 4000)


def test_too_few_normals_says_how_many_are_needed() -> None:
    with pytest.raises(TooFewNormals, match="at least 9 held-out normals; got 5"):
        threshold_at(np.arange(5.0), 0.1)
    assert threshold_at(np.arange(9.0), 0.1) == 8.0


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(BadInput, match="finite"):
        conformal_p_value(np.array([np.nan]), np.arange(3.0))


def test_temperature_is_the_minimum_found_by_brute_force() -> None:
    rng = np.random.default_rng(2)
    normals, defects, threshold = rng.normal(0, 1, 80), rng.normal(3, 2, 30), 1.6

    def loss(log_t: np.ndarray) -> float:
        t = float(np.exp(log_t[0]))
        return float(
            np.log1p(np.exp((normals - threshold) / t)).mean() + np.log1p(np.exp((threshold - defects) / t)).mean()
        )

    best = float(np.exp(brute(loss, ((-3.0, 3.0),), Ns=4000, finish=None)))
    assert fit_temperature(normals, defects, threshold) == pytest.approx(best, rel=5e-3)


def test_scale_of_scores_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    normals, defects = rng.normal(50, 3, 60), rng.normal(60, 5, 20)
    small, large = calibrate(normals, defects, 0.1, "known"), calibrate(normals * 1e4, defects * 1e4, 0.1, "known")
    assert large.threshold == pytest.approx(small.threshold * 1e4)
    assert large.temperature == pytest.approx(small.temperature * 1e4, rel=1e-3)
    assert large.calibration_error == pytest.approx(small.calibration_error, abs=1e-3)


def test_calibration_error_of_a_perfect_and_of_a_wrong_forecast() -> None:
    is_normal = np.array([True] * 50 + [False] * 50)
    assert expected_calibration_error(is_normal.astype(float), is_normal) == 0.0
    assert expected_calibration_error(1.0 - is_normal, is_normal) == pytest.approx(1.0)


def test_without_defects_the_temperature_is_the_spread_and_says_so() -> None:
    calibration = calibrate(np.arange(20.0), np.zeros(0), 0.1, "known")
    assert calibration.defects_used == "none"
    assert calibration.temperature > 0
    assert np.isnan(calibration.calibration_error)
