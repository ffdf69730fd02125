"""Do counterfactuals look normal to a detector: to the one they were made for, and to others."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from xadflow.metrics.ranks import auroc


def normality(normal_scores: ArrayLike, made_scores: ArrayLike) -> float:
    """AUROC in percent of a detector between normal test images and counterfactuals; scores [N] and [M], higher worse.

    50 is ideal: the detector cannot tell them apart. Above, they are still anomalous; below, more normal than normal,
    which is what images look like that were made to please this detector. A detector they were not made for is the
    stricter judge, and still no proof of realism: blobs have been seen to please both.

    Raises BadInput: no scores of one of them, or one that is not a number.

    Source: arXiv 2402.14469, section 4.

    >>> normality([0.0, 1.0], [0.0, 1.0])
    50.0
    """
    normal, made = np.asarray(normal_scores, dtype=np.float64), np.asarray(made_scores, dtype=np.float64)
    labels = np.concatenate([np.zeros(len(normal), np.int64), np.ones(len(made), np.int64)])
    return 100.0 * auroc(np.concatenate([normal, made]), labels)
