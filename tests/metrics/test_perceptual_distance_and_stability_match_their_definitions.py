import doctest
from itertools import permutations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from xadflow.errors import BadInput
from xadflow.metrics import perceptual, stability
from xadflow.metrics.perceptual import perceptual_distances
from xadflow.metrics.stability import jensen_shannon, noise_stability, noisy_copies, seed_difference

RNG = np.random.default_rng(0)
LAYERS = [RNG.normal(size=(4, 3, 5, 6)), RNG.normal(size=(4, 7, 2, 3))]
OTHERS = [RNG.normal(size=one.shape) for one in LAYERS]
MADE = RNG.integers(0, 256, (5, 3, 2, 4, 4)).astype(np.uint8)


def test_perceptual_distance_is_the_mean_of_one_minus_the_cosine_at_each_place():
    expected = np.zeros(4)
    for row in range(4):
        for one, other in zip(LAYERS, OTHERS, strict=True):
            pairs = [(one[row, :, y, x], other[row, :, y, x]) for y in range(one.shape[2]) for x in range(one.shape[3])]
            expected[row] += np.mean([1 - f @ g / np.sqrt((f @ f) * (g @ g)) for f, g in pairs]) / 2
    np.testing.assert_allclose(perceptual_distances(LAYERS, OTHERS), expected, rtol=1e-12)


def test_perceptual_distance_is_zero_for_equal_images_symmetric_and_blind_to_brightness():
    assert (perceptual_distances(LAYERS, LAYERS) == 0).all()
    np.testing.assert_array_equal(perceptual_distances(LAYERS, OTHERS), perceptual_distances(OTHERS, LAYERS))
    np.testing.assert_allclose(perceptual_distances(LAYERS, [3 * one for one in LAYERS]), 0, atol=1e-15)
    np.testing.assert_allclose(perceptual_distances(LAYERS, [-one for one in LAYERS]), 2)


def test_a_place_where_nothing_answers_is_no_difference_and_one_sided_silence_is_a_whole_one():
    silent, heard = np.zeros((1, 2, 1, 2)), np.zeros((1, 2, 1, 2))
    heard[0, 0, 0, 0] = 4.0
    assert perceptual_distances([silent], [silent]) == [0.0]
    assert perceptual_distances([silent], [heard]) == [0.5]


def test_perceptual_distance_refuses_other_layers_and_what_is_not_finite():
    with pytest.raises(BadInput, match="same layers"):
        perceptual_distances(LAYERS, OTHERS[:1])
    with pytest.raises(BadInput, match="same layers"):
        perceptual_distances([], [])
    with pytest.raises(BadInput, match="finite"):
        perceptual_distances([np.full((1, 1, 1, 1), np.nan)], [np.ones((1, 1, 1, 1))])


def test_noise_has_its_variance_and_a_seed():
    grey = np.full((3, 1, 50, 50), 128, np.uint8)
    found = noisy_copies(grey, 1)
    assert found.shape == (5, 3, 1, 50, 50)
    assert np.var(found / 127.5) == pytest.approx(0.01, rel=0.03)  # 37,500 values: .7 % is a standard deviation
    np.testing.assert_array_equal(found, noisy_copies(grey, 1))
    assert (found != noisy_copies(grey, 2)).any()
    assert (found[0] != found[1]).any()
    white = noisy_copies(np.full((1, 1, 9, 9), 255, np.uint8), 0)
    assert white.max() == 255
    assert white.min() > 150  # clipped, not wrapped around


def test_divergence_is_that_of_scipy_and_at_most_log_two():
    p, q = RNG.random(50), RNG.random(50)
    expected = [jensenshannon([a, 1 - a], [b, 1 - b]) ** 2 for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(jensen_shannon(p, q), expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(jensen_shannon(np.array([0.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0])), [np.log(2), 0, 0])
    with pytest.raises(BadInput, match="probability"):
        jensen_shannon(p, q + 1)


def test_noise_stability_is_mean_square_and_mean_divergence():
    noisy = RNG.integers(0, 256, (2, *MADE.shape)).astype(np.uint8)
    p, q = RNG.random((5, 3)), RNG.random((2, 5, 3))
    found = noise_stability(MADE, noisy, p, q)
    squares = [
        ((copy[n, k].astype(float) - MADE[n, k]) * 2 / 255) ** 2 for copy in noisy for n in range(5) for k in range(3)
    ]
    assert found.pixels == pytest.approx(np.mean(squares))
    assert found.probability == pytest.approx(
        np.mean(
            [
                jensenshannon([p[n, k], 1 - p[n, k]], [q[s, n, k], 1 - q[s, n, k]]) ** 2
                for s in range(2)
                for n in range(5)
                for k in range(3)
            ]
        )
    )
    still = noise_stability(MADE, np.stack([MADE, MADE]), p, np.stack([p, p]))
    assert (still.pixels, still.probability) == (0.0, 0.0)
    with pytest.raises(BadInput, match="same images"):
        noise_stability(MADE, noisy[:, :4], p, q)


def test_concepts_of_two_generators_are_matched_by_the_best_permutation():
    other = RNG.integers(0, 256, MADE.shape).astype(np.uint8)
    values = [np.mean(np.abs(MADE.astype(float) - other[:, list(order)])) * 2 / 255 for order in permutations(range(3))]
    assert seed_difference(MADE, other) == pytest.approx(min(values))
    assert min(values) < np.mean(values)
    assert seed_difference(MADE, MADE[:, [2, 0, 1]]) == 0.0
    with pytest.raises(BadInput, match="same images"):
        seed_difference(MADE, other[:4])


def test_the_examples_are_true():
    for module in (perceptual, stability):
        found = doctest.testmod(module, extraglobs={"np": np})
        assert (found.failed, found.attempted) == (0, 1)
