import numpy as np
import pytest
from scipy.linalg import sqrtm

from xadflow.errors import BadInput
from xadflow.metrics.realism import frechet_distance, kernel_distance, normalised_frechet


def drawn(count, size, seed, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, scale, (count, size)) @ np.random.default_rng(9).normal(size=(size, size))


def test_the_frechet_distance_is_that_of_scipys_matrix_root():
    one, other = drawn(200, 12, 0), drawn(150, 12, 1, shift=0.5, scale=1.7)
    covariances = [np.cov(features, rowvar=False) for features in (one, other)]
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1]).real
    )
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-8)


def test_of_two_gaussians_in_one_dimension_it_is_the_closed_form():
    one, other = np.array([[-1.0], [1.0]]), np.array([[2.0], [8.0]])
    deviations = np.sqrt(2.0), np.sqrt(18.0)
    assert frechet_distance(one, other) == pytest.approx(25.0 + (deviations[0] - deviations[1]) ** 2)


def test_a_set_and_itself_are_no_distance_apart_also_where_it_has_fewer_vectors_than_dimensions():
    few = drawn(8, 30, 2)
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-8)
    assert frechet_distance(few, few[::-1]) == pytest.approx(0.0, abs=1e-8)


def test_the_normalised_distance_is_100_for_the_anomalies_and_0_for_the_normals():
    normals, anomalies = drawn(100, 6, 3), drawn(100, 6, 4, shift=2.0)
    assert normalised_frechet(anomalies, normals, anomalies) == pytest.approx(100.0)
    assert normalised_frechet(normals, normals, anomalies) == pytest.approx(0.0, abs=1e-8)


def test_the_kernel_distance_is_the_mean_over_pairs_by_brute_force():
    one, other = drawn(7, 4, 5), drawn(5, 4, 6, shift=1.0)

    def kernel(a, b):
        return (float(a @ b) / 4 + 1) ** 3

    within = [
        np.mean([kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j]) for a in (one, other)
    ]
    across = np.mean([kernel(a, b) for a in one for b in other])
    assert kernel_distance(one, other) == pytest.approx(sum(within) - 2 * across, rel=1e-12)


def test_the_kernel_distance_of_equal_distributions_is_0_on_average():
    found = [kernel_distance(drawn(40, 3, seed), drawn(40, 3, 1000 + seed)) for seed in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
def test_bad_features_are_refused(measure):
    good = drawn(5, 3, 7)
    for bad in (good[:1], good[0], np.full((5, 3), np.nan)):
        with pytest.raises(BadInput, match="finite vectors"):
            measure(good, bad)
    with pytest.raises(BadInput, match="one length"):
        measure(good, drawn(5, 4, 8))
    with pytest.raises(BadInput, match="same features"):
        normalised_frechet(good, good, good)
