import numpy as np
import pytest

from benchmarks.kit.concept_accuracy import concept_accuracy
from benchmarks.kit.judging import normality
from xadflow.errors import BadInput
from xadflow.metrics.edits import edit_cosines, edit_sizes, pairwise_distances

RNG = np.random.default_rng(0)
ORIGINALS = RNG.integers(0, 256, (5, 3, 6, 6)).astype(np.uint8)
MADE = RNG.integers(0, 256, (5, 3, 3, 6, 6)).astype(np.uint8)


def on_unit_scale(pixels):
    """[-1,1] by another way than the module's."""
    return pixels.astype(np.float64) * 2.0 / 255.0 - 1.0


def test_sizes_and_distances_are_means_on_the_scale_from_minus_one_to_one():
    sizes, apart = edit_sizes(ORIGINALS, MADE), pairwise_distances(ORIGINALS, MADE)
    for row in range(5):
        x, made = on_unit_scale(ORIGINALS[row]), on_unit_scale(MADE[row])
        np.testing.assert_allclose(sizes[row], [np.abs(one - x).mean() for one in made])
        np.testing.assert_allclose(apart[row], [np.abs(made[i] - made[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))])


def test_cosines_are_those_of_the_edits():
    found = edit_cosines(ORIGINALS, MADE)
    for row in range(5):
        edits = (on_unit_scale(MADE[row]) - on_unit_scale(ORIGINALS[row])).reshape(3, -1)
        for column, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
            expected = edits[i] @ edits[j] / np.sqrt((edits[i] @ edits[i]) * (edits[j] @ edits[j]))
            assert found[row, column] == pytest.approx(expected)


def test_same_opposite_orthogonal_and_no_edits():
    x = np.full((4, 1, 1, 2), 100, np.uint8)
    made = np.array([[[110, 100], [130, 100]], [[110, 100], [90, 100]], [[110, 100], [100, 110]], [[100, 100], [1, 2]]])
    found = edit_cosines(x, made.reshape(4, 2, 1, 1, 2).astype(np.uint8))[:, 0]
    np.testing.assert_allclose(found[:3], [1.0, -1.0, 0.0], atol=1e-12)
    assert np.isnan(found[3])


def test_one_counterfactual_is_no_pair_and_floats_are_refused():
    with pytest.raises(BadInput, match="pair"):
        pairwise_distances(ORIGINALS, MADE[:, :1])
    with pytest.raises(BadInput, match="uint8"):
        edit_sizes(ORIGINALS / 255.0, MADE)
    with pytest.raises(BadInput, match="uint8"):
        edit_sizes(ORIGINALS[:4], MADE)


def test_normality_is_half_for_the_same_set_and_follows_a_shift():
    scores = RNG.normal(size=40).round(1)
    assert normality(scores, scores) == pytest.approx(50.0)
    assert normality(scores, scores + 100) == 100.0
    assert normality(scores, scores - 100) == 0.0


def test_normality_counts_pairs():
    normal, made = RNG.integers(0, 6, 30), RNG.integers(0, 6, 20) + 1
    wins = np.mean([(m > n) + 0.5 * (m == n) for m in made for n in normal])
    assert normality(normal, made) == pytest.approx(100 * wins)


def test_no_scores_have_no_normality():
    with pytest.raises(BadInput):
        normality([0.0, 1.0], [])


def grey(count):
    return RNG.integers(60, 190, (count, 1, 8, 8)).astype(np.uint8)


def test_concepts_that_do_different_things_are_told_apart_on_images_not_learnt_from():
    x = grey(120)
    made = np.stack([x + 60, x - 60], axis=1).astype(np.uint8)
    assert concept_accuracy(x, made, 0) > 0.98
    assert concept_accuracy(x, made, 0, steps=20) == concept_accuracy(x, made, 0, steps=20)


def test_concepts_that_do_the_same_are_at_chance_even_where_each_image_could_be_learnt_by_heart():
    x = grey(120)
    noise = RNG.integers(-30, 30, (120, 2, 1, 8, 8))
    found = concept_accuracy(x, (x[:, None] + noise).astype(np.uint8), 0)
    assert abs(found - 0.5) < 4 * 0.5 / np.sqrt(120)  # four standard deviations of a coin thrown 120 times


def test_too_little_to_learn_from_is_refused():
    x = grey(6)
    with pytest.raises(BadInput, match="at least 8"):
        concept_accuracy(x, np.stack([x, x], axis=1), 0)
    with pytest.raises(BadInput, match="at least 2"):
        concept_accuracy(grey(20), grey(20)[:, None], 0)
