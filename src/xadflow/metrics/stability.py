"""Does an explanation stay what it is: under noise that nobody sees, and when its generator is trained once more.

Noise as DISSECT has it (Ghandeharioun et al., ICLR 2022): five copies of an image with Gaussian noise of variance .01
on the [-1,1] scale. Counterfactuals are uint8 [N,K,C,H,W] as stored; differences are on the [-1,1] scale, as those of
edits.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadInput
from xadflow.metrics.edits import HALF_RANGE

COPIES, VARIANCE = 5, 0.01
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class NoiseStability:
    """What noise on the image does to its counterfactuals; 0 and 0 are ideal.

    pixels         mean squared difference between the counterfactuals of the copies and those of the image
    probability    mean Jensen-Shannon divergence, in nats, between their Bernoulli anomaly probabilities; at most log 2
    """

    pixels: float
    probability: float


def noisy_copies(images: Pixels, seed: int, *, copies: int = COPIES, variance: float = VARIANCE) -> Pixels:
    """uint8 [S,N,C,H,W] of uint8 [N,C,H,W]: each with Gaussian noise, clipped and rounded to what can be stored."""
    if images.dtype != np.uint8 or images.ndim != 4 or copies < 1 or not variance >= 0:
        raise BadInput(
            "noise is added to uint8 [N,C,H,W], one copy or more, of a variance",
            seen=(str(images.dtype), images.shape, copies, variance),
            next_step="give stored images",
        )
    noise = np.random.default_rng(seed).normal(0.0, variance**0.5 * HALF_RANGE, (copies, *images.shape))
    return np.asarray(np.clip(np.round(images + noise), 0, 255).astype(np.uint8))


def noise_stability(
    made: Pixels, made_noisy: Pixels, probability: NDArray[np.float64], probability_noisy: NDArray[np.float64]
) -> NoiseStability:
    """Counterfactuals of images against those of their noisy copies.

    Args:
        made: uint8 [N,K,C,H,W].
        made_noisy: uint8 [S,N,K,C,H,W], of S copies.
        probability: [N,K] in [0,1], that `made` are anomalous, by the explained detector.
        probability_noisy: [S,N,K], of `made_noisy`.

    Raises:
        BadInput: nothing, or shapes that do not belong together.
    """
    fits = made.ndim == 5 and made.size > 0 and made_noisy.ndim == 6 and made_noisy.shape[1:] == made.shape
    _check(
        fits and probability.shape == made.shape[:2] and probability_noisy.shape == made_noisy.shape[:3],
        made,
        made_noisy,
    )
    squared = [np.square((copy.astype(np.float64) - made) / HALF_RANGE).mean() for copy in made_noisy]
    return NoiseStability(float(np.mean(squared)), float(jensen_shannon(probability, probability_noisy).mean()))


def jensen_shannon(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """H(m) - (H(p) + H(q)) / 2 in nats, m the mean of both, of Bernoulli probabilities; any shapes that go together.

    Raises BadInput for what is no probability.

    >>> float(jensen_shannon(np.array(0.0), np.array(1.0)).round(4))
    0.6931
    """
    if not all(bool(((one >= 0) & (one <= 1)).all()) for one in (first, second)):
        raise BadInput(
            "a probability is in [0,1]",
            seen=(float(np.min(first)), float(np.max(second))),
            next_step="give anomaly probabilities, not scores",
        )
    mixed = (first + second) / 2.0
    return np.asarray(np.maximum(_entropy(mixed) - (_entropy(first) + _entropy(second)) / 2.0, 0.0))


def seed_difference(first: Pixels, second: Pixels) -> float:
    """Mean |difference| between the counterfactuals of two generators, uint8 [N,K,C,H,W] of the same images.

    A concept's number means nothing: concepts are matched by the permutation with the smallest difference, one for all
    images. 0 is ideal; compare it with the size of the edits.

    Raises:
        BadInput: nothing, or counterfactuals of other images or another number of concepts.
    """
    _check(first.ndim == 5 and first.size > 0 and first.shape == second.shape, first, second)
    concepts = range(first.shape[1])
    apart = np.array(
        [
            [np.abs(first[:, i].astype(np.float64) - second[:, j]).mean() / HALF_RANGE for j in concepts]
            for i in concepts
        ]
    )
    return float(min(np.mean([apart[i, j] for i, j in enumerate(order)]) for order in permutations(concepts)))


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    def term(q: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(-q * np.log(np.where(q > 0, q, 1.0)))

    return term(np.asarray(p)) + term(1.0 - np.asarray(p))


def _check(fits: bool, first: Pixels, second: Pixels) -> None:
    if not fits or first.dtype != np.uint8 or second.dtype != np.uint8:
        raise BadInput(
            "counterfactuals are uint8 [N,K,C,H,W], of the same images and concepts on both sides",
            seen=[(str(one.dtype), one.shape) for one in (first, second)],
            next_step="explain the same images",
        )
